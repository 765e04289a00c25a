//! Templates as documents.

use flowmate_common::{
    Event, EventType,
    auth::Caller,
    model::{FlowTemplate, Owner, OwnerKind, TemplateChanged},
};
use flowmate_runtime::Context;
use flowmate_storage::{CollectionSpec, Document, Error, Field};
use serde::{Deserialize, Serialize};

/// A template as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TemplateRecord {
    pub(crate) template: FlowTemplate,
}

impl TemplateRecord {
    /// The owners, and the tenant that sees it without being named among them.
    pub(crate) fn shared_by(&self) -> Vec<Owner> {
        let tenant = self.template.tenant.iter().map(|id| Owner {
            id: id.clone(),
            kind: OwnerKind::Tenant,
        });
        self.template.body.owners.iter().cloned().chain(tenant).collect()
    }
}

impl Document for TemplateRecord {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "templates",
        fields: &[
            Field {
                name: "status",
                path: "$.template.status",
            },
            Field {
                name: "type",
                path: "$.template.type",
            },
            Field {
                name: "name",
                path: "$.template.name",
            },
            Field {
                name: "description",
                path: "$.template.description",
            },
            Field {
                name: "tags",
                path: "$.template.tags",
            },
            Field {
                name: "createdAt",
                path: "$.template.createdAt",
            },
            Field {
                name: "updatedAt",
                path: "$.template.updatedAt",
            },
        ],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.template.id.as_str()
    }

    /// The whole tenant sees its templates (contract 7.1, number 21).
    fn owners(&self) -> Vec<String> {
        let owners = self.template.body.owners.iter().map(|owner| owner.id.clone());
        owners.chain(self.template.tenant.clone()).collect()
    }
}

/// `templaterepo.template.*` by this caller.
pub(crate) fn changed(
    context: &Context,
    kind: EventType,
    template: &FlowTemplate,
    caller: &Caller,
) -> Result<Event, Error> {
    let body = TemplateChanged {
        template_id: template.id.clone(),
        user: caller.user.clone(),
        tenant: caller.tenant.clone(),
    };
    context.event(kind, template.id.as_str(), &body)
}
