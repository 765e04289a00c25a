//! The built-in components: what a step can do without anything being installed.
//!
//! To add one: a module with its functions and what it says of itself (`COMPONENT`), and its line in [`BUILT_IN`].

mod component;
mod fields;
mod gateway;
mod http;
mod log;
mod outbound;
mod split;
#[cfg(test)]
mod testing;
mod transform;
mod webhook;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use flowmate_common::{
    ids::{ExecutionId, NodeId, StepRunId},
    model::{Component, Json, Message, Node, json},
};
use flowmate_flow_model::{Catalogue, Moment};

use component::BuiltIn;
pub use http::{RetryPolicy, Settings as HttpSettings};
pub use outbound::PrivateTargets;

/// All of them, in the order in which they are listed.
const BUILT_IN: [&BuiltIn; 6] = [
    &webhook::COMPONENT,
    &http::COMPONENT,
    &transform::COMPONENT,
    &gateway::COMPONENT,
    &split::COMPONENT,
    &log::COMPONENT,
];

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

impl Action {
    fn pure(function: impl Pure + 'static) -> Self {
        Self::Pure(Arc::new(function))
    }
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
        BUILT_IN.iter().map(|component| component.described()).collect()
    }
}

impl Catalogue<Function> for Registry {
    fn resolve(&self, node: &Node, successors: &[&NodeId]) -> Result<Function, String> {
        let id = node.component_id.as_str();
        let component = BUILT_IN.iter().find(|component| component.id == id);
        let component = component
            .ok_or_else(|| format!("unknown component \"{id}\"; GET /components lists those there are."))?;
        let function = component.function(node.function.as_str())?;
        Ok(Function {
            component: component.name,
            counted: !component.is_control,
            action: (function.compile)(self, node, successors)?,
        })
    }
}

/// The whole message as JSON, for expressions on it.
fn whole(message: &Message) -> Result<Json, StepError> {
    json(message).map_err(StepError::new)
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
