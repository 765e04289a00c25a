//! Attributes that a client misspelt: what is near a known one is refused, since it would be lost in silence. All other
//! unknown attributes are ignored, as clients of the reference expect.

use serde_json::{Map, Value};

/// What documents of the reference carry besides, and what must not be taken for something misspelt.
const REFERENCE: &[&str] = &[
    "_id",
    "__v",
    "id",
    "role",
    "scope",
    "img",
    "icon",
    "logo",
    "authorization",
    "command",
    "nodes",
    "edges",
    "version",
    "actions",
    "triggers",
    "active",
    "sourceTemplate",
    "createdAt",
    "updatedAt",
    "createdBy",
    "updatedBy",
    "startedBy",
    "status",
    "statusReason",
    "tenant",
    "user",
    "userId",
    "tags",
];
/// A flow's and a template's own.
const FLOW: &[&str] = &[
    "name",
    "description",
    "graph",
    "type",
    "cron",
    "owners",
    "flowSettings",
    "fromTemplate",
    "tags",
    "tenant",
    "status",
];
const NODE: &[&str] = &[
    "id",
    "componentId",
    "function",
    "credentials_id",
    "name",
    "description",
    "fields",
    "nodeSettings",
    "authorization",
    "tenant",
];
const EDGE: &[&str] = &["id", "source", "target", "config"];
/// A component's.
pub const COMPONENT: &[&str] = &[
    "name",
    "description",
    "access",
    "isGlobal",
    "distribution",
    "functions",
    "owners",
    "isControl",
];

/// Longer names are misspelt by nobody.
const MAX_NAME: usize = 40;
/// Refusals in one answer.
const MAX_REFUSALS: usize = 20;

/// What is misspelt in a flow or a template.
pub fn misspelt_in_flow(body: &Value) -> Vec<String> {
    let graph = |name: &str| {
        let list = body.get("graph").and_then(|graph| graph.get(name));
        list.and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let nodes = graph("nodes").iter().map(|node| (node, NODE));
    let edges = graph("edges").iter().map(|edge| (edge, EDGE));
    std::iter::once((body, FLOW))
        .chain(nodes)
        .chain(edges)
        .filter_map(|(value, known)| Some((value.as_object()?, known)))
        .flat_map(|(attributes, known)| misspelt(attributes, known))
        .take(MAX_REFUSALS)
        .collect()
}

/// What is misspelt among these attributes.
pub fn misspelt<'a>(
    attributes: &'a Map<String, Value>,
    known: &'a [&'static str],
) -> impl Iterator<Item = String> + 'a {
    attributes.keys().filter_map(|name| {
        let near = near(name, known)?;
        Some(format!("Unknown attribute \"{name}\". Did you mean \"{near}\"?"))
    })
}

/// The known attribute that is one letter off, or two where it is long.
fn near(name: &str, known: &[&'static str]) -> Option<&'static str> {
    if name.len() > MAX_NAME || known.contains(&name) || REFERENCE.contains(&name) {
        return None;
    }
    let distances = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known));
    let (distance, near) = distances.min()?;
    let allowed = if near.len() > 5 { 2 } else { 1 };
    (distance <= allowed && near.len() > 2).then_some(near)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_near_a_known_attribute_is_refused_with_its_name() {
        for (name, meant) in [
            ("nme", "name"),
            ("Name", "name"),
            ("desciption", "description"),
            ("onwers", "owners"),
            ("ownr", "owners"),
            ("garph", "graph"),
            ("crn", "cron"),
            ("tpye", "type"),
            ("flow_settings", "flowSettings"),
        ] {
            let refused = misspelt_in_flow(&json!({ name: 1 }));
            let message = format!("Unknown attribute \"{name}\". Did you mean \"{meant}\"?");
            assert_eq!(refused, [message]);
        }
        let graph = json!({"graph": {"nodes": [{"id": "a", "feilds": {}}], "edges": [{"sorce": "a"}]}});
        assert_eq!(misspelt_in_flow(&graph).len(), 2);
    }

    #[test]
    fn what_the_reference_carries_and_what_is_far_is_ignored() {
        let body = json!({"_id": 1, "__v": 0, "role": "x", "scope": "x", "img": "x", "icon": "x", "authorization": {},
            "createdAt": "x", "startedBy": "x", "statusReason": "x", "anything": 1, "x": 1, "ids": [],
            "graph": {"nodes": [{"id": "a", "command": "x", "position": {}, "x": 1}], "edges": [{"_id": 1}]}});
        assert_eq!(misspelt_in_flow(&body), Vec::<String>::new());
    }

    #[test]
    fn a_thousand_mistakes_are_told_by_twenty() {
        let nodes: Vec<Value> = (0..1_000).map(|_| json!({"nme": 1})).collect();
        let body = json!({"graph": {"nodes": nodes}});
        assert_eq!(misspelt_in_flow(&body).len(), MAX_REFUSALS);
    }
}
