//! `log`: writes to the server's log.

use flowmate_common::{
    ids::NodeId,
    mask,
    model::{Message, Node},
};
use flowmate_flow_model::{Moment, template_text::Fill};
use serde_json::{Value, json as value};

use crate::{
    Action, Emitted, Pure, StepError,
    component::{BuiltIn, BuiltInFunction, object_schema},
    fields::Fields,
    whole,
};

pub(crate) const COMPONENT: BuiltIn = BuiltIn {
    id: "666c6f776d61746500000006",
    name: "log",
    description: "Writes to the server's log.",
    is_control: false,
    functions: &[BuiltInFunction {
        name: "write",
        kind: "action",
        description: "Writes a line and emits the message unchanged.",
        schema: Log::schema,
        compile: |_, node, _| Log::compile(node).map(Action::pure),
    }],
};

/// `log`.`write`.
struct Log {
    node: NodeId,
    level: tracing::Level,
    text: Option<Fill>,
}

impl Log {
    fn schema() -> Value {
        let message = value!({"type": "string", "description": "The line; without it the message's data, secrets masked.", "examples": ["Order {{ data.id }} arrived"]});
        let level = value!({"type": "string", "enum": ["debug", "info", "warn", "error"], "default": "info"});
        object_schema(&value!({"message": message, "level": level}), &[])
    }

    fn compile(node: &Node) -> Result<Self, String> {
        let fields = Fields::of(node, &["message", "level"])?;
        let level = match fields.text("level")? {
            None | Some("info") => tracing::Level::INFO,
            Some("debug") => tracing::Level::DEBUG,
            Some("warn") => tracing::Level::WARN,
            Some("error") => tracing::Level::ERROR,
            Some(other) => {
                return Err(format!(
                    "field \"level\" is \"{other}\"; it may be debug, info, warn or error."
                ));
            }
        };
        Ok(Self {
            node: node.id.clone(),
            level,
            text: fields.fill("message")?,
        })
    }
}

impl Pure for Log {
    fn run(&self, message: &Message, moment: &Moment<'_>) -> Result<Vec<Emitted>, StepError> {
        let line = match &self.text {
            None => mask::masked(message.data.get()).unwrap_or_else(|| message.data.get().to_owned()),
            Some(fill) => match fill.fill(&whole(message)?, moment).map_err(StepError::new)? {
                Value::String(text) => mask::masked_text(&text).into_owned(),
                mut other => {
                    mask::mask(&mut other);
                    other.to_string()
                }
            },
        };
        let line: String = line.chars().take(4096).collect();
        let node = self.node.as_str();
        match self.level {
            tracing::Level::ERROR => tracing::error!(target: "flowmate::flow_log", node, "{line}"),
            tracing::Level::WARN => tracing::warn!(target: "flowmate::flow_log", node, "{line}"),
            tracing::Level::DEBUG => tracing::debug!(target: "flowmate::flow_log", node, "{line}"),
            _ => tracing::info!(target: "flowmate::flow_log", node, "{line}"),
        }
        Ok(vec![message.clone().into()])
    }
}
