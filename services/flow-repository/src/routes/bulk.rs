use actix_web::{
    patch,
    web::{Data, Json},
};
use flowmate_common::{
    EventType, Failure,
    auth::{Caller, FlowsBulkUpdate},
    model::{Flow, FlowStatus, MutableFlow},
};
use flowmate_runtime::owning;
use flowmate_storage::Change;
use flowmate_web::{Allowed, ApiError, Body, Envelope, Errors, document_id};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::start_stop::at_most;
use crate::{State, domain, store::changed};

/// A flow's id and the attributes to be changed.
#[derive(Deserialize, ToSchema)]
pub(crate) struct FlowUpdate {
    /// The flow.
    #[schema(example = "62fcb5ee8ed54c19069b0ca5")]
    #[expect(dead_code, reason = "describes the body, which is merged as it is")]
    id: String,
    /// What is to be changed.
    #[serde(flatten)]
    #[expect(dead_code, reason = "describes the body, which is merged as it is")]
    changes: MutableFlow,
}

/// What became of one of many.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum FlowOrErrors {
    /// The flow as it is now.
    Flow(Box<Flow>),
    /// Why it was not written.
    Errors(Errors),
}

impl FlowOrErrors {
    /// Faults of ours end the whole call; everything else is this flow's own.
    pub(super) fn of(result: Result<Flow, Failure>) -> Result<Self, Failure> {
        match result {
            Ok(flow) => Ok(Self::Flow(Box::new(flow))),
            Err(failure) if failure.is_of_the_request() => Ok(Self::Errors(Errors::of(&failure))),
            Err(failure) => Err(failure),
        }
    }
}

/// Changes many inactive flows. One result for each entry, in their order, whatever becomes of the others.
#[utoipa::path(tag = "Flows", operation_id = "updateFlows", security(("bearer" = [])),
    request_body(content = Vec<FlowUpdate>, description = "Attributes with the flow's id, 1000 at most"), responses(
    (status = 200, description = "The results", body = Envelope<Vec<FlowOrErrors>>),
    (status = 400, description = "Expecting an array of flows", body = Errors),
    (status = 413, description = "At most 1000 flows at a time.", body = Errors)))]
#[patch("/flows/bulk")]
pub(crate) async fn update_flows(
    state: Data<State>,
    caller: Allowed<FlowsBulkUpdate>,
    body: Body,
) -> Result<Json<Envelope<Vec<FlowOrErrors>>>, ApiError> {
    let entries = match body.json()? {
        Value::Array(entries) => entries,
        Value::Object(entry) => vec![Value::Object(entry)],
        _ => return Err(Failure::invalid("Expecting an array of flows").into()),
    };
    at_most(entries.len())?;
    let mut results = Vec::with_capacity(entries.len());
    for entry in entries {
        let updated = match entry.as_object() {
            Some(entry) => update(&state, &caller, entry).await,
            None => Err(Failure::invalid("Flow has to be a JSON object.")),
        };
        results.push(FlowOrErrors::of(updated)?);
    }
    Ok(Json(Envelope::of(results)))
}

async fn update(state: &State, caller: &Caller, entry: &Map<String, Value>) -> Result<Flow, Failure> {
    let id = entry.get("id").and_then(Value::as_str);
    let id = document_id(id.unwrap_or_default())?;
    let see = owning::sees(caller);
    let present = state.store.get(&see, &id).await?;
    let stored = present.map(|record| record.flow.body.owners).unwrap_or_default();
    let vouched = owning::vouch(&*state.accounts, caller, &stored, entry.get("owners")).await?;
    let updated = state.store.change(&see, &id, |record| {
        if record.flow.status != FlowStatus::Inactive {
            let status = record.flow.status.as_str();
            let message = format!("Flow {id} is not inactive. Current status: {status}");
            return Err(Failure::conflict(message));
        }
        domain::change(record, entry, caller, &vouched, state.context.clock.now())?;
        let event = changed(&state.context, EventType::FlowModified, record, caller)?;
        Ok(Change::Write(vec![event]))
    });
    let record = updated.await?;
    Ok(record
        .ok_or_else(|| Failure::not_found(format!("Flow {id} not found")))?
        .flow)
}
