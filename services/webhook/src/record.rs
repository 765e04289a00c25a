//! What this service keeps of a flow.

use flowmate_common::{ids::FlowId, model::Owner};
use flowmate_storage::{CollectionSpec, Document};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A flow as this service knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LiveFlow {
    pub(crate) id: FlowId,
    /// The start or stop that this is the state after.
    pub(crate) activation: u64,
    pub(crate) is_live: bool,
    pub(crate) owners: Vec<Owner>,
    pub(crate) settings: Option<Map<String, Value>>,
}

impl Document for LiveFlow {
    const SPEC: &'static CollectionSpec = &CollectionSpec {
        name: "webhook_flows",
        fields: &[],
        unique: &[],
    };

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn owners(&self) -> Vec<String> {
        self.owners.iter().map(|owner| owner.id.clone()).collect()
    }
}

impl LiveFlow {
    /// The same flow after this stop.
    pub(crate) fn stopped(&self, activation: u64) -> Self {
        Self {
            activation,
            is_live: false,
            ..self.clone()
        }
    }
}
