//! The built-in components: what a step can do without anything being installed.
//!
//! To add one: a module with its functions, an id below that stays for ever, and an entry in [`Registry::components`]
//! and [`Registry::compile`].

mod control;
mod fields;
mod http;
mod outbound;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use flowmate_common::{
    ids::{ComponentId, ExecutionId, NodeId, StepRunId},
    model::{Access, Component, ComponentFunction, Message, MutableComponent, Node},
};
use flowmate_flow_model::{Catalogue, Moment};
use serde_json::{Value, json};

pub use http::{RetryPolicy, Settings as HttpSettings};
pub use outbound::PrivateTargets;

/// `webhook`: receives what is posted to the flow's webhook.
pub const WEBHOOK: &str = "666c6f776d61746500000001";
/// `http`: calls other systems.
pub const HTTP: &str = "666c6f776d61746500000002";
/// `transform`: maps data with JSONata.
pub const TRANSFORM: &str = "666c6f776d61746500000003";
/// `gateway`: chooses which way a message goes.
pub const GATEWAY: &str = "666c6f776d61746500000004";
/// `split`: makes many messages of one.
pub const SPLIT: &str = "666c6f776d61746500000005";
/// `log`: writes to the server's log.
pub const LOG: &str = "666c6f776d61746500000006";

/// Why a step failed, for the flow's owner to read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// What went wrong, and what to do where that is known.
    pub message: String,
    /// How often it was tried.
    pub attempts: u32,
}

impl StepError {
    /// A failure at the first try.
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            attempts: 1,
        }
    }
}

/// A message that a step emitted.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The message.
    pub message: Message,
    /// Only to this successor; to all where there is none.
    pub to: Option<NodeId>,
}

impl From<Message> for Emitted {
    fn from(message: Message) -> Self {
        Self { message, to: None }
    }
}

/// What an effectful function is called with.
pub struct Call<'a> {
    /// The message.
    pub message: &'a Message,
    /// The execution, for the idempotency key.
    pub execution: &'a ExecutionId,
    /// The run of this step, for the idempotency key.
    pub step_run: &'a StepRunId,
    /// The moment in it, for expressions.
    pub moment: Moment<'a>,
}

/// A function without effects: it may be computed again at any time.
pub trait Pure: Send + Sync {
    /// What comes out of it.
    fn run(&self, message: &Message, moment: &Moment<'_>) -> Result<Vec<Emitted>, StepError>;
}

/// A function with effects outside: its end is journalled, and it is not run again after that.
pub trait Effect: Send + Sync {
    /// What is to be done for this message. Evaluates the fields' expressions, and waits for nothing.
    fn prepare(&self, call: &Call<'_>) -> Result<Box<dyn Attempt>, StepError>;
    /// Whether there are expressions to evaluate.
    fn has_expressions(&self) -> bool;
    /// When and how often what failed for now is tried again.
    fn retry(&self) -> RetryPolicy;
}

/// Work with effects that is ready to be tried, once or several times.
#[async_trait]
pub trait Attempt: Send + Sync {
    /// Whom it asks: who fails again and again is given rest.
    fn target(&self) -> &str;
    /// Tries once. Ends by itself, within the time that the step allows for one try.
    async fn run(&self) -> Result<Vec<Emitted>, Failure>;
}

/// Why a try failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// For the flow's owner to read.
    pub message: String,
    /// Whether another try may succeed.
    pub transient: bool,
    /// How long to wait before it, where whoever was asked said so.
    pub after: Option<Duration>,
}

/// What a step runs.
#[derive(Clone)]
pub enum Action {
    /// Without effects.
    Pure(Arc<dyn Pure>),
    /// With effects.
    Effect(Arc<dyn Effect>),
}

/// A function of a component, compiled for one node.
#[derive(Clone)]
pub struct Function {
    /// The component's name.
    pub component: &'static str,
    /// Whether its runs count as executions.
    pub counted: bool,
    /// What it does.
    pub action: Action,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({})", self.component)
    }
}

/// The components there are.
#[derive(Clone)]
pub struct Registry {
    http: Arc<http::Client>,
}

impl Registry {
    /// The built-in components.
    pub fn new(settings: HttpSettings) -> Result<Self, StepError> {
        Ok(Self {
            http: Arc::new(http::Client::new(settings)?),
        })
    }

    /// What `GET /components` lists.
    pub fn components() -> Vec<Component> {
        let component =
            |id: &str, name: &str, description: &str, is_control, function: ComponentFunction| Component {
                id: ComponentId::from(id),
                body: MutableComponent {
                    name: name.to_owned(),
                    description: description.to_owned(),
                    access: Access::Public,
                    is_global: true,
                    functions: vec![function],
                    ..MutableComponent::default()
                },
                is_control,
                created_at: None,
                updated_at: None,
            };
        let function = |name: &str, kind: &str, description: &str, fields: Value| ComponentFunction {
            name: name.to_owned(),
            kind: kind.to_owned(),
            description: description.to_owned(),
            fields: fields.as_object().cloned().unwrap_or_default(),
        };
        vec![
            component(
                WEBHOOK,
                "webhook",
                "Starts a flow with whatever is sent to /webhooks/{flowId}.",
                false,
                function(
                    "receive",
                    "trigger",
                    "Emits the request: its body is the message's data.",
                    control::no_fields(),
                ),
            ),
            component(
                HTTP,
                "http",
                "Calls other systems over HTTP.",
                false,
                function(
                    "request",
                    "action",
                    "Sends a request and emits {statusCode, headers, body}.",
                    http::schema(),
                ),
            ),
            component(
                TRANSFORM,
                "transform",
                "Maps data.",
                false,
                function(
                    "jsonata",
                    "action",
                    "Evaluates JSONata on the message's data; the result is the new data.",
                    control::Transform::schema(),
                ),
            ),
            component(
                GATEWAY,
                "gateway",
                "Chooses which way a message goes. Not counted as an execution.",
                true,
                function(
                    "route",
                    "action",
                    "Sends the message to the node of the first rule that holds.",
                    control::Route::schema(),
                ),
            ),
            component(
                SPLIT,
                "split",
                "Makes many messages of one.",
                false,
                function(
                    "array",
                    "action",
                    "Emits one message for each item of an array.",
                    control::Split::schema(),
                ),
            ),
            component(
                LOG,
                "log",
                "Writes to the server's log.",
                false,
                function(
                    "write",
                    "action",
                    "Writes a line and emits the message unchanged.",
                    control::Log::schema(),
                ),
            ),
        ]
    }

    fn compile(&self, node: &Node, successors: &[&NodeId]) -> Result<Function, String> {
        let pure = |component, counted, function: Arc<dyn Pure>| Function {
            component,
            counted,
            action: Action::Pure(function),
        };
        let unknown = |component: &str, known: &str| {
            format!(
                "unknown function \"{}\" of component \"{component}\"; it has \"{known}\".",
                node.function
            )
        };
        match (node.component_id.as_str(), node.function.as_str()) {
            (WEBHOOK, "receive") => Ok(pure("webhook", true, Arc::new(control::Receive))),
            (WEBHOOK, _) => Err(unknown("webhook", "receive")),
            (HTTP, "request") => Ok(Function {
                component: "http",
                counted: true,
                action: Action::Effect(Arc::new(http::Request::compile(node, Arc::clone(&self.http))?)),
            }),
            (HTTP, _) => Err(unknown("http", "request")),
            (TRANSFORM, "jsonata") => Ok(pure(
                "transform",
                true,
                Arc::new(control::Transform::compile(node)?),
            )),
            (TRANSFORM, _) => Err(unknown("transform", "jsonata")),
            (GATEWAY, "route") => Ok(pure(
                "gateway",
                false,
                Arc::new(control::Route::compile(node, successors)?),
            )),
            (GATEWAY, _) => Err(unknown("gateway", "route")),
            (SPLIT, "array") => Ok(pure("split", true, Arc::new(control::Split::compile(node)?))),
            (SPLIT, _) => Err(unknown("split", "array")),
            (LOG, "write") => Ok(pure("log", true, Arc::new(control::Log::compile(node)?))),
            (LOG, _) => Err(unknown("log", "write")),
            (other, _) => Err(format!(
                "unknown component \"{other}\"; GET /components lists those there are."
            )),
        }
    }
}

impl Catalogue<Function> for Registry {
    fn resolve(&self, node: &Node, successors: &[&NodeId]) -> Result<Function, String> {
        self.compile(node, successors)
    }
}

/// A JSON Schema of fields.
fn object_schema(properties: &serde_json::Value, required: &[&str]) -> serde_json::Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_of_built_in_components_never_change() {
        let names: Vec<(String, String)> = Registry::components()
            .into_iter()
            .map(|component| {
                (
                    component.id.to_string(),
                    format!("{}.{}", component.body.name, component.body.functions[0].name),
                )
            })
            .collect();
        let expected = [
            "webhook.receive",
            "http.request",
            "transform.jsonata",
            "gateway.route",
            "split.array",
            "log.write",
        ];
        for (index, name) in expected.iter().enumerate() {
            assert_eq!(
                names[index],
                (format!("666c6f776d617465{:08}", index + 1), (*name).to_owned())
            );
        }
    }
}
