//! `webhook`: receives what is posted to the flow's webhook.

use flowmate_common::model::Message;
use flowmate_flow_model::Moment;

use crate::{
    Action, Emitted, Pure, StepError,
    component::{BuiltIn, BuiltInFunction, no_fields},
};

pub(crate) const COMPONENT: BuiltIn = BuiltIn {
    id: "666c6f776d61746500000001",
    name: "webhook",
    description: "Starts a flow with whatever is sent to /webhooks/{flowId}.",
    is_control: false,
    functions: &[BuiltInFunction {
        name: "receive",
        kind: "trigger",
        description: "Emits the request: its body is the message's data.",
        schema: no_fields,
        compile: |_, _, _| Ok(Action::pure(Receive)),
    }],
};

/// `webhook`.`receive`.
struct Receive;

impl Pure for Receive {
    fn run(&self, message: &Message, _: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        Ok(vec![message.clone().into()])
    }
}
