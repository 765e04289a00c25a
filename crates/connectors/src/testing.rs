//! What tests of the components share.

use flowmate_common::{
    Timestamp,
    model::{Message, Node, json},
};
use flowmate_flow_model::Moment;
use serde_json::{Value, json as value};

use crate::Emitted;

pub(crate) const MOMENT: Moment<'static> = Moment::new(Timestamp::from_millis(0), 7);

pub(crate) fn node(function: &str, fields: &Value) -> Node {
    let node = value!({"id": "n", "componentId": "c", "function": function, "fields": fields});
    serde_json::from_value(node).unwrap()
}

pub(crate) fn message(data: &Value) -> Message {
    Message::new(json(data).unwrap())
}

pub(crate) fn data(emitted: &[Emitted]) -> Vec<Value> {
    let data = emitted.iter().map(|one| one.message.data.get());
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}
