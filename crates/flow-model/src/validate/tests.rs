use proptest::prelude::*;
use serde_json::json;

use super::*;

const COMPONENT: &str = "5ca5c44c187c040010a9bb8b";

fn flow(body: &Value) -> Vec<String> {
    validate(Subject::Flow, body)
}

fn node(id: &str) -> Value {
    json!({"id": id, "componentId": COMPONENT, "function": "f"})
}

#[test]
fn a_good_flow_has_no_errors() {
    let body = json!({"name": "n", "type": "ordinary", "cron": "*/2 * * * *",
        "graph": {"nodes": [node("a"), node("b")], "edges": [{"source": "a", "target": "b"}]},
        "owners": [{"id": "u", "type": "user"}], "status": "inactive"});
    assert!(flow(&body).is_empty(), "{:?}", flow(&body));
}

#[test]
fn an_empty_node_lacks_function_component_and_id_in_this_order() {
    assert_eq!(
        flow(&json!({"graph": {"nodes": [{}]}})),
        [
            "Flow nodes require a function.",
            "Flow nodes require a componentId.",
            "Flow nodes require an id."
        ]
    );
    assert_eq!(
        validate(Subject::Template, &json!({"graph": {"nodes": [{}]}}))
            .first()
            .unwrap(),
        "Flow Template nodes require a function."
    );
}

#[test]
fn all_errors_come_at_once() {
    let body = json!({"graph": {"nodes": [node("a"), node("b")], "edges": [{}]}, "owners": [{}],
        "status": "active", "cron": "x"});
    assert_eq!(
        flow(&body),
        [
            "Flow edges require a source.",
            "Flow edges require a target.",
            "Edge source with id \"undefined\" could not be found among nodes.",
            "Edge target with id \"undefined\" could not be found among nodes.",
            "Flow owners require an id.",
            "Flow owners require a type.",
            "Invalid cron expression.",
            "Flow status cannot be set manually. Use the flow start/stop end points instead.",
        ]
    );
}

#[test]
fn graphs_need_nodes_and_edges() {
    assert_eq!(flow(&json!({})), ["Flows require a graph."]);
    assert_eq!(flow(&json!({"graph": {}})), ["Flows require at least one node."]);
    assert_eq!(
        flow(&json!({"graph": {"nodes": [node("a"), node("b")]}})),
        ["Flows with more than one node require edges."]
    );
    let twice = flow(&json!({"graph": {"nodes": [node("a"), node("a")],
        "edges": [{"source": "a", "target": "c"}]}}));
    assert_eq!(
        twice,
        [
            "Flow nodes require unique ids. \"a\" is used more than once.",
            "Edge target with id \"c\" could not be found among nodes."
        ]
    );
}

#[test]
fn lengths_and_casts_are_refused_in_the_words_of_the_reference() {
    let long = "x".repeat(31);
    let body = json!({"name": 5, "graph": {"nodes": [
        {"id": long, "componentId": "nope", "function": "f", "fields": []}], "edges": []}});
    assert_eq!(
        flow(&body),
        [
            "Cast to string failed for value \"5\" (type number) at path \"name\"".to_owned(),
            "Cast to ObjectId failed for value \"nope\" (type string) at path \"graph.nodes.0.componentId\""
                .into(),
            "Cast to Object failed for value \"[]\" (type Array) at path \"graph.nodes.0.fields\"".into(),
            format!("Path `id` (`{long}`) is longer than the maximum allowed length (30)."),
        ]
    );
}

#[test]
fn huge_graphs_are_refused_at_once() {
    let nodes: Vec<Value> = (0..10_000).map(|index| node(&index.to_string())).collect();
    let edges: Vec<Value> = (1..10_000)
        .map(|index: usize| json!({"source": (index - 1).to_string(), "target": index.to_string()}))
        .collect();
    assert_eq!(
        flow(&json!({"graph": {"nodes": nodes, "edges": edges}})),
        ["Flows have at most 1000 nodes and 5000 edges."]
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "graph",
        "nodes",
        "edges",
        "id",
        "function",
        "componentId",
        "source",
        "target",
        "config",
        "condition",
        "mapper",
        "owners",
        "type",
        "status",
        "cron",
        "fields",
        "nodeSettings",
        "name",
        "tags",
        "flowSettings",
        "webhooks",
        "requireWebhookAuth",
        "credentials_id",
        "fromTemplate",
        "__proto__",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "a",
            "b",
            COMPONENT,
            "user",
            "inactive",
            "draft",
            "* * * * *"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|pairs| pairs
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    /// Whatever comes in: no panic, and what passes can be stored as the typed document.
    #[test]
    fn what_passes_has_the_typed_form(body in any_json()) {
        if flow(&body).is_empty() {
            let typed = serde_json::from_value::<flowmate_common::model::MutableFlow>(crate::validate::clean(body));
            prop_assert!(typed.is_ok(), "{typed:?}");
        }
    }

    #[test]
    fn what_passes_as_a_template_has_the_typed_form(body in any_json()) {
        if validate(Subject::Template, &body).is_empty() {
            let body = crate::validate::clean(body);
            let typed = serde_json::from_value::<flowmate_common::model::MutableFlowTemplate>(body);
            prop_assert!(typed.is_ok(), "{typed:?}");
        }
    }
}
