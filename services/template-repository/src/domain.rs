//! What may happen to a template: pure functions.

use flowmate_common::{
    Failure, Timestamp,
    auth::Caller,
    ids::{TemplateId, TenantId, is_document_id},
    model::{FlowTemplate, MutableFlowTemplate, OwnerKind},
};
use flowmate_flow_model::validate::{Subject, clean, validate};
use flowmate_runtime::{
    attributes::misspelt_in_flow,
    owning::{self, Vouched},
};
use serde_json::{Map, Value};

/// A new template from what a client sent.
pub(crate) fn create(
    id: TemplateId,
    body: Value,
    caller: &Caller,
    vouched: &Vouched,
    now: Timestamp,
) -> Result<FlowTemplate, Failure> {
    let mut body = checked(body)?;
    // The tenant sees it anyway.
    let tenants = body.owners.clone();
    body.owners = owning::create(body.owners, caller, vouched)?;
    body.owners
        .retain(|owner| owner.kind == OwnerKind::User || tenants.contains(owner));
    let tenant = caller.tenant.as_ref().map(TenantId::to_string);
    Ok(FlowTemplate {
        id,
        body,
        tenant,
        created_at: now,
        updated_at: now,
    })
}

/// The template with the client's attributes over its own, whole attributes at a time.
pub(crate) fn change(
    template: &mut FlowTemplate,
    changes: &Map<String, Value>,
    caller: &Caller,
    vouched: &Vouched,
    now: Timestamp,
) -> Result<(), Failure> {
    let mut merged = serde_json::to_value(&template.body).map_err(Failure::internal)?;
    if let Some(merged) = merged.as_object_mut() {
        merged.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let mut body = checked(merged)?;
    body.owners = if changes.contains_key("owners") {
        owning::change(&template.body.owners, body.owners, caller, vouched)?
    } else {
        template.body.owners.clone()
    };
    template.body = body;
    template.updated_at = now;
    Ok(())
}

/// The body of the flow that `template` makes with `changes` merged deeply into it, lists item by item. The
/// template's owners, status, tags and times stay behind: the flow belongs to who generates it.
pub(crate) fn generate(template: &FlowTemplate, changes: &Value) -> Result<Value, Failure> {
    let mut flow = serde_json::to_value(&template.body).map_err(Failure::internal)?;
    if let Some(flow) = flow.as_object_mut() {
        for key in ["owners", "status", "tags"] {
            flow.shift_remove(key);
        }
    }
    // What is replaced below has to be right all the same.
    if let Some(other) = changes.get("fromTemplate").filter(|other| !other.is_null())
        && !other
            .as_str()
            .is_some_and(|id| id.is_empty() || is_document_id(id))
    {
        return Err(Failure::invalid(
            "Cast to ObjectId failed at path \"fromTemplate\"",
        ));
    }
    merge(&mut flow, changes);
    if let Some(flow) = flow.as_object_mut() {
        for key in ["id", "status", "createdAt", "updatedAt"] {
            flow.shift_remove(key);
        }
        flow.insert("fromTemplate".into(), Value::from(template.id.as_str()));
    }
    Ok(flow)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => {
            for (index, value) in from.iter().enumerate() {
                match into.get_mut(index) {
                    Some(item) => merge(item, value),
                    None => into.push(value.clone()),
                }
            }
        }
        (into, from) => from.clone_into(into),
    }
}

fn checked(body: Value) -> Result<MutableFlowTemplate, Failure> {
    let mut errors = validate(Subject::Template, &body);
    errors.extend(misspelt_in_flow(&body));
    if !errors.is_empty() {
        return Err(Failure::invalid_all(errors));
    }
    let mut body: MutableFlowTemplate =
        serde_json::from_value(clean(body)).map_err(|error| Failure::invalid(error.to_string()))?;
    owning::canonical(&mut body.owners);
    body.graph.canonical();
    Ok(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generating_merges_nodes_by_index_and_leaves_the_templates_own_behind() {
        let template: FlowTemplate = serde_json::from_value(json!({
            "id": "t1", "name": "T", "status": "published", "tags": ["x"], "owners": [{"id": "o", "type": "user"}],
            "graph": {"nodes": [{"id": "a", "componentId": "c", "function": "f", "fields": {"x": 1, "y": 2}},
                                {"id": "b", "componentId": "c", "function": "f"}],
                      "edges": [{"source": "a", "target": "b"}]},
            "createdAt": "2019-07-30T12:52:45.957Z", "updatedAt": "2019-07-30T12:52:45.957Z"})).unwrap();
        let changes = json!({"name": "Mine", "id": "evil", "status": "active",
            "graph": {"nodes": [{"fields": {"y": 3}}, {"credentials_id": "507f1f77bcf86cd799439011"}]}});
        assert_eq!(
            generate(&template, &changes).unwrap(),
            json!({"name": "Mine", "fromTemplate": "t1",
                "graph": {"nodes": [{"id": "a", "componentId": "c", "function": "f", "fields": {"x": 1, "y": 3}},
                                    {"id": "b", "componentId": "c", "function": "f", "credentials_id": "507f1f77bcf86cd799439011"}],
                          "edges": [{"source": "a", "target": "b"}]}})
        );
    }
}
