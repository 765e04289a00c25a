//! Templates as documents.

use flowmate_common::{
    Event, EventType, Failure,
    auth::{Caller, Visibility},
    model::{FlowTemplate, TemplateChanged},
};
use flowmate_runtime::Context;
use flowmate_storage::{Change, Collection, CollectionSpec, Document, Error, Field, Filter, Query};
use serde::{Deserialize, Serialize};

/// A template as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TemplateRecord {
    pub(crate) template: FlowTemplate,
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

/// Templates that a sweep takes at a time.
const SWEEP: u64 = 200;

pub(crate) struct Store {
    templates: Collection<TemplateRecord>,
}

impl Store {
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        Ok(Self {
            templates: Collection::open(&context.storage).await?,
        })
    }

    pub(crate) async fn visible_to(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Option<FlowTemplate>, Failure> {
        let record = self.templates.get(&caller.visibility(), id).await?;
        Ok(record.map(|record| record.template))
    }

    pub(crate) async fn page(
        &self,
        caller: &Caller,
        query: &Query,
    ) -> Result<(Vec<FlowTemplate>, u64), Failure> {
        let see = caller.visibility();
        let records = self.templates.find(&see, query).await?;
        let total = self.templates.count(&see, &query.filter).await?;
        Ok((records.into_iter().map(|record| record.template).collect(), total))
    }

    pub(crate) async fn add(
        &self,
        context: &Context,
        template: FlowTemplate,
        caller: &Caller,
    ) -> Result<FlowTemplate, Failure> {
        let event = changed(context, EventType::TemplateCreated, &template, caller)?;
        let record = TemplateRecord { template };
        self.templates.insert(&record, vec![event]).await?;
        Ok(record.template)
    }

    pub(crate) async fn change(
        &self,
        context: &Context,
        caller: &Caller,
        id: &str,
        mut change: impl FnMut(&mut FlowTemplate) -> Result<(), Failure>,
    ) -> Result<Option<FlowTemplate>, Failure> {
        let see = caller.visibility();
        let updated = self
            .templates
            .update(&see, id, |record| -> Result<Change, Failure> {
                change(&mut record.template)?;
                Ok(Change::Write(vec![changed(
                    context,
                    EventType::TemplateModified,
                    &record.template,
                    caller,
                )?]))
            });
        let record = updated.await?;
        Ok(record.map(|record| record.template))
    }

    pub(crate) async fn delete(
        &self,
        context: &Context,
        caller: &Caller,
        id: &str,
    ) -> Result<Option<()>, Failure> {
        let see = caller.visibility();
        let deleted = self
            .templates
            .delete(&see, id, |record| -> Result<Vec<Event>, Failure> {
                Ok(vec![changed(
                    context,
                    EventType::TemplateDeleted,
                    &record.template,
                    caller,
                )?])
            });
        deleted.await
    }

    /// The user or tenant is no more: it owns nothing. May be called again.
    pub(crate) async fn disown(&self, owner: &str) -> Result<(), Failure> {
        let see = Visibility::OwnedBy(vec![owner.to_owned()]);
        let query = Query::new(Filter::All, SWEEP);
        loop {
            let records = self.templates.find(&see, &query).await?;
            if records.is_empty() {
                return Ok(());
            }
            for record in records {
                let changed = self.templates.update(
                    &Visibility::All,
                    record.id(),
                    |record| -> Result<Change, Failure> {
                        let template = &mut record.template;
                        template.body.owners.retain(|one| one.id != owner);
                        template.tenant = template.tenant.take().filter(|tenant| tenant != owner);
                        Ok(Change::Write(Vec::new()))
                    },
                );
                changed.await?;
            }
        }
    }
}

fn changed(
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
