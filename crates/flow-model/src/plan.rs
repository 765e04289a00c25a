//! The plan that a flow compiles into when it starts. What cannot run is refused here, with a reason for the flow's
//! owner to read.

use std::collections::HashMap;

use flowmate_common::{
    ids::{NodeId, StepRunId},
    model::{Edge, Flow, Graph, Json, Node},
};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::{Expression, ExpressionError, Moment};

/// Knows which components and functions exist; `F` is whatever the engine needs to run one.
pub trait Catalogue<F> {
    /// Looks the node's function up and compiles its fields; the error says what is wrong. `successors` are the nodes
    /// that edges lead to from here.
    fn resolve(&self, node: &Node, successors: &[&NodeId]) -> Result<F, String>;
}

/// A flow ready to run.
#[derive(Debug)]
pub struct Plan<F> {
    steps: Vec<Step<F>>,
    root: usize,
}

/// One step of a plan.
#[derive(Debug)]
pub struct Step<F> {
    /// The node.
    pub node: Node,
    /// What to run.
    pub function: F,
    /// What happens around the function.
    pub settings: Settings,
    /// Where its output goes.
    pub edges: Vec<PlanEdge>,
}

/// `nodeSettings` that the engine understands.
#[derive(Debug, Default)]
pub struct Settings {
    /// Maps the message before the function.
    pub before: Option<Expression>,
    /// Maps each emitted message.
    pub after: Option<Expression>,
    /// Whether outputs carry the outputs of the steps before.
    pub passthrough: bool,
}

/// An edge.
#[derive(Debug)]
pub struct PlanEdge {
    /// Index of the step it leads to.
    pub target: usize,
    /// Which of the edges between the same two nodes it is.
    pub parallel: usize,
    /// It is taken where this is truthy.
    pub condition: Option<Expression>,
    /// Maps the message on its way.
    pub mapper: Option<Mapper>,
}

/// An edge's mapper.
#[derive(Debug)]
pub enum Mapper {
    /// One expression on the message that makes the new message.
    Message(Expression),
    /// An object whose texts are expressions on the message; it makes the new `data`.
    Data(MapperNode),
}

/// A node of a mapper object.
#[derive(Debug)]
pub enum MapperNode {
    /// A text: an expression.
    Expression(Expression),
    /// Anything that is not a text.
    Constant(Value),
    /// An object.
    Object(Vec<(String, MapperNode)>),
    /// A list.
    List(Vec<MapperNode>),
}

impl<F> Plan<F> {
    /// Compiles `flow`.
    pub fn compile(flow: &Flow, catalogue: &impl Catalogue<F>) -> Result<Self, String> {
        let graph = &flow.body.graph;
        let index: HashMap<&NodeId, usize> = graph
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (&node.id, index))
            .collect();
        let mut steps = graph
            .nodes
            .iter()
            .map(|node| {
                compile_step(graph, node, catalogue)
                    .map_err(|reason| format!("Node \"{}\": {reason}", node.id))
            })
            .collect::<Result<Vec<_>, _>>()?;
        for edge in &graph.edges {
            let (Some(source), Some(target)) = (index.get(&edge.source), index.get(&edge.target)) else {
                return Err(format!(
                    "An edge leads from \"{}\" to \"{}\", which do not both exist.",
                    edge.source, edge.target
                ));
            };
            let mut way = compile_edge(edge, *target)
                .map_err(|error| format!("Edge from \"{}\" to \"{}\": {error}.", edge.source, edge.target))?;
            if let Some(step) = steps.get_mut(*source) {
                way.parallel = step.edges.iter().filter(|one| one.target == *target).count();
                step.edges.push(way);
            }
        }
        let root = root(&steps)?;
        refuse_cycles(&steps)?;
        Ok(Self { steps, root })
    }

    /// Index of the first step.
    pub fn root(&self) -> usize {
        self.root
    }

    /// The step at `index`.
    pub fn step(&self, index: usize) -> Option<&Step<F>> {
        self.steps.get(index)
    }

    /// All steps.
    pub fn steps(&self) -> &[Step<F>] {
        &self.steps
    }
}

fn compile_step<F>(graph: &Graph, node: &Node, catalogue: &impl Catalogue<F>) -> Result<Step<F>, String> {
    let successors: Vec<&NodeId> = graph
        .edges
        .iter()
        .filter(|edge| edge.source == node.id)
        .map(|edge| &edge.target)
        .collect();
    let function = catalogue.resolve(node, &successors)?;
    let settings = compile_settings(node.node_settings.as_ref())?;
    Ok(Step {
        node: node.clone(),
        function,
        settings,
        edges: Vec::new(),
    })
}

fn compile_settings(settings: Option<&Map<String, Value>>) -> Result<Settings, String> {
    let Some(settings) = settings else {
        return Ok(Settings::default());
    };
    let text = |key: &str| {
        settings
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let parse = |key: &str, source: Option<&str>| {
        let source =
            source.ok_or_else(|| format!("nodeSettings.applyTransform needs nodeSettings.{key}."))?;
        Expression::parse(source).map_err(|error| format!("nodeSettings.{key}: {error}."))
    };
    let (first, second) = (text("transformFunction"), text("secondTransformFunction"));
    let when = settings.get("applyTransform").cloned().unwrap_or_default();
    let (before, after) = match when {
        Value::Null | Value::Bool(false) => (None, None),
        Value::String(when) => match when.as_str() {
            "" => (None, None),
            "before" => (Some(parse("transformFunction", first)?), None),
            "after" => (None, Some(parse("transformFunction", second.or(first))?)),
            "both" => (
                Some(parse("transformFunction", first)?),
                Some(parse("transformFunction", second.or(first))?),
            ),
            other => return Err(unknown_transform(&Value::from(other))),
        },
        other => return Err(unknown_transform(&other)),
    };
    let passthrough = settings.get("passthrough") == Some(&Value::Bool(true));
    Ok(Settings {
        before,
        after,
        passthrough,
    })
}

fn unknown_transform(value: &Value) -> String {
    format!("nodeSettings.applyTransform is {value}; it may be \"before\", \"after\", \"both\" or false.")
}

fn compile_edge(edge: &Edge, target: usize) -> Result<PlanEdge, ExpressionError> {
    let config = edge.config.clone().unwrap_or_default();
    let condition = config.condition.filter(|text| !text.trim().is_empty());
    let condition = condition.map(|source| Expression::parse(&source)).transpose()?;
    let mapper = match config.mapper {
        None | Some(Value::Null) => None,
        Some(Value::String(source)) => Some(Mapper::Message(Expression::parse(&source)?)),
        Some(Value::Object(map)) if map.is_empty() => None,
        Some(other) => Some(Mapper::Data(MapperNode::parse(&other)?)),
    };
    Ok(PlanEdge {
        target,
        parallel: 0,
        condition,
        mapper,
    })
}

impl MapperNode {
    fn parse(value: &Value) -> Result<Self, ExpressionError> {
        Ok(match value {
            Value::String(source) => Self::Expression(Expression::parse(source)?),
            Value::Object(map) => {
                let parse = |(key, inner): (&String, &Value)| Ok((key.clone(), Self::parse(inner)?));
                Self::Object(map.iter().map(parse).collect::<Result<_, ExpressionError>>()?)
            }
            Value::Array(items) => Self::List(items.iter().map(Self::parse).collect::<Result<_, _>>()?),
            constant => Self::Constant(constant.clone()),
        })
    }

    /// The value on this message; `None` where an expression yields nothing, which leaves the key out.
    pub fn evaluate(
        &self,
        message: &RawValue,
        moment: &Moment<'_>,
    ) -> Result<Option<Value>, ExpressionError> {
        Ok(match self {
            Self::Expression(expression) => expression
                .evaluate(message, moment)?
                .and_then(|json: Json| serde_json::from_str(json.get()).ok()),
            Self::Constant(value) => Some(value.clone()),
            Self::Object(fields) => {
                let mut map = Map::new();
                for (key, inner) in fields {
                    if let Some(value) = inner.evaluate(message, &moment.within(key))? {
                        map.insert(key.clone(), value);
                    }
                }
                Some(Value::Object(map))
            }
            Self::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    list.push(
                        item.evaluate(message, &moment.item(index))?
                            .unwrap_or(Value::Null),
                    );
                }
                Some(Value::Array(list))
            }
        })
    }
}

/// The one step that no edge leads to.
fn root<F>(steps: &[Step<F>]) -> Result<usize, String> {
    let mut led_to = vec![false; steps.len()];
    for way in steps.iter().flat_map(|step| &step.edges) {
        if let Some(target) = led_to.get_mut(way.target) {
            *target = true;
        }
    }
    let roots: Vec<usize> = led_to
        .iter()
        .enumerate()
        .filter(|(_, led_to)| !**led_to)
        .map(|(index, _)| index)
        .collect();
    match roots.as_slice() {
        [root] => Ok(*root),
        [] => {
            Err("The graph has no first node: every node is an edge's target, so it runs in a circle.".into())
        }
        several => {
            let names: Vec<String> = several
                .iter()
                .filter_map(|index| steps.get(*index))
                .map(|step| format!("\"{}\"", step.node.id))
                .collect();
            Err(format!(
                "The graph has {} first nodes ({}); a flow has exactly one.",
                names.len(),
                names.join(", ")
            ))
        }
    }
}

/// Takes away steps that nothing leads to until none is left; what remains runs in a circle (Kahn).
fn refuse_cycles<F>(steps: &[Step<F>]) -> Result<(), String> {
    let mut incoming = vec![0_usize; steps.len()];
    for way in steps.iter().flat_map(|step| &step.edges) {
        if let Some(count) = incoming.get_mut(way.target) {
            *count += 1;
        }
    }
    let mut free: Vec<usize> = incoming
        .iter()
        .enumerate()
        .filter(|(_, count)| **count == 0)
        .map(|(index, _)| index)
        .collect();
    while let Some(index) = free.pop() {
        for way in steps.get(index).into_iter().flat_map(|step| &step.edges) {
            if let Some(count) = incoming.get_mut(way.target) {
                *count -= 1;
                if *count == 0 {
                    free.push(way.target);
                }
            }
        }
    }
    match incoming
        .iter()
        .position(|count| *count > 0)
        .and_then(|index| steps.get(index))
    {
        None => Ok(()),
        Some(step) => Err(format!(
            "The graph runs in a circle through node \"{}\".",
            step.node.id
        )),
    }
}

/// The id of a run of `node` that was caused by message number `message` of the run `parent` over edge number `parallel` of
/// those between the same two nodes: the same whenever the execution is computed again, which is what makes the journal and
/// the idempotency key work.
pub fn step_run_id(parent: Option<&StepRunId>, message: usize, node: &NodeId, parallel: usize) -> StepRunId {
    let mut hash = Sha256::new();
    hash.update(parent.map_or("", StepRunId::as_str));
    hash.update(message.to_le_bytes());
    hash.update(node.as_str());
    // The first edge adds nothing: journals from before edges were told apart stay readable.
    if parallel > 0 {
        hash.update([0]);
        hash.update(parallel.to_le_bytes());
    }
    let digest = hash.finalize();
    digest
        .iter()
        .take(16)
        .fold(String::with_capacity(32), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
            }
            text
        })
        .into()
}

#[cfg(test)]
mod tests {
    use flowmate_common::{
        Timestamp,
        model::{FlowStatus, MutableFlow},
    };
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    struct Any;
    impl Catalogue<()> for Any {
        fn resolve(&self, node: &Node, _: &[&NodeId]) -> Result<(), String> {
            if node.function == "nope" {
                Err("unknown function \"nope\".".into())
            } else {
                Ok(())
            }
        }
    }

    fn flow(nodes: &Value, edges: &Value) -> Flow {
        let body: MutableFlow =
            serde_json::from_value(json!({"graph": {"nodes": nodes, "edges": edges}})).unwrap();
        let at = Timestamp::from_millis(0);
        Flow {
            id: "f".into(),
            body,
            status: FlowStatus::Starting,
            status_reason: None,
            started_by: None,
            created_at: at,
            updated_at: at,
        }
    }

    fn node(id: &str) -> Value {
        json!({"id": id, "componentId": "c", "function": "f"})
    }

    fn refused(nodes: &Value, edges: &Value) -> String {
        Plan::compile(&flow(nodes, edges), &Any).unwrap_err()
    }

    #[test]
    fn circles_several_roots_and_unknown_functions_are_refused_with_a_reason() {
        let two = json!([node("a"), node("b")]);
        assert!(refused(&two, &json!([])).contains("2 first nodes (\"a\", \"b\")"));
        let circle = json!([{"source": "a", "target": "b"}, {"source": "b", "target": "a"}]);
        assert!(refused(&two, &circle).contains("no first node"));
        let three = json!([node("r"), node("a"), node("b")]);
        let inner = json!([{"source": "r", "target": "a"}, {"source": "a", "target": "b"}, {"source": "b", "target": "a"}]);
        assert!(refused(&three, &inner).contains("circle through node \"a\""));
        let unknown = json!([{"id": "x", "componentId": "c", "function": "nope"}]);
        assert_eq!(
            refused(&unknown, &json!([])),
            "Node \"x\": unknown function \"nope\"."
        );
    }

    #[test]
    fn expressions_that_do_not_parse_are_refused_where_they_stand() {
        let two = json!([node("a"), node("b")]);
        let bad = json!([{"source": "a", "target": "b", "config": {"condition": "data.("}}]);
        assert!(refused(&two, &bad).starts_with("Edge from \"a\" to \"b\": not a valid JSONata expression"));
        let settings = json!([{"id": "a", "componentId": "c", "function": "f", "nodeSettings": {"applyTransform": "before"}}]);
        assert!(refused(&settings, &json!([])).contains("needs nodeSettings.transformFunction"));
    }

    #[test]
    fn step_runs_have_stable_and_different_ids() {
        let root = step_run_id(None, 0, &"a".into(), 0);
        assert_eq!(
            root.as_str(),
            "d7fe8b5c4a504869334d9d78a1e3b18c",
            "pinned: journals of before have to be found"
        );
        let runs = [(0, 0), (1, 0), (0, 1), (0, 2)];
        let ids: std::collections::BTreeSet<StepRunId> = runs
            .into_iter()
            .map(|(message, parallel)| step_run_id(Some(&root), message, &"b".into(), parallel))
            .collect();
        assert_eq!(ids.len(), runs.len());
    }

    proptest! {
        /// Of all small graphs exactly those without a circle and with one root compile.
        #[test]
        fn a_plan_has_one_root_and_no_circle(edges in prop::collection::vec((0..6usize, 0..6usize), 0..12)) {
            let nodes: Vec<Value> = (0..6).map(|index| node(&index.to_string())).collect();
            let json: Vec<Value> = edges.iter()
                .map(|(from, to)| json!({"source": from.to_string(), "target": to.to_string()})).collect();
            let compiled = Plan::compile(&flow(&json!(nodes), &json!(json)), &Any);

            let mut reach = [[false; 6]; 6];
            for (from, to) in &edges { reach[*from][*to] = true; }
            for over in 0..6 { for from in 0..6 { for to in 0..6 {
                reach[from][to] |= reach[from][over] && reach[over][to];
            }}}
            let circular = (0..6).any(|index| reach[index][index]);
            let roots = (0..6).filter(|node| edges.iter().all(|(_, to)| to != node)).count();
            prop_assert_eq!(compiled.is_ok(), !circular && roots == 1);
        }
    }
}
