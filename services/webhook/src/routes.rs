//! The operations. `/hook/…` is the reference's spelling of the same; the gateway maps it.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, get, head,
    http::header,
    options, post, put,
    web::{Data, Json as JsonBody, Path, Payload},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use flowmate_bus::Error;
use flowmate_common::{
    Event, EventType, Failure, Holder, Kind, Permit,
    auth::{Caller, WebhooksExecute},
    ids::{ExecutionId, FlowId, TenantId},
    model::OwnerKind,
};
use flowmate_flow_model::webhooks::Protection;
use flowmate_web::{ApiError, ErrorText, ServiceConfig, discard};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    State,
    body::{self, Coding, Reading},
    message::{Execute, Parts},
    record::LiveFlow,
};

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(receive_webhook)
        .service(receive_with_suffix)
        .service(receive_query)
        .service(receive_query_with_suffix)
        .service(receive_put)
        .service(receive_put_with_suffix)
        .service(is_live)
        .service(is_live_with_suffix)
        .service(methods)
        .service(methods_with_suffix);
}

/// That the request was taken, and will be worked on whatever happens.
#[derive(Serialize, ToSchema)]
pub(crate) struct Accepted {
    data: Receipt,
}

/// What to ask for it by.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// The caller's `x-request-id`, or the execution's id.
    #[schema(example = "019392a1b2c3d4e5f60718293a4b5c6d")]
    request_id: String,
    /// The execution, for `GET /executions/{id}`.
    execution_id: ExecutionId,
    #[schema(example = "thank you")]
    message: &'static str,
}

/// Starts an execution of the flow with the body as data: JSON, form, XML or multipart. Answered once the event is on
/// disk.
#[utoipa::path(tag = "Webhooks", operation_id = "receiveWebhook", request_body(content = Object, description = "Any JSON; other types are accepted too"), params(("flowId" = String, Path, description = "The flow")), responses(
    (status = 200, description = "Taken", body = Accepted),
    (status = 400, description = "A malformed body", body = ErrorText),
    (status = 403, description = "The flow asks for authentication", body = ErrorText),
    (status = 404, description = "The flow does not exist or is inactive", body = ErrorText),
    (status = 408, description = "The body comes too slowly", body = ErrorText),
    (status = 413, description = "The body is too large", body = ErrorText),
    (status = 415, description = "A Content-Encoding that is not known", body = ErrorText)))]
#[post("/webhooks/{flowId}")]
pub(crate) async fn receive_webhook(
    state: Data<State>,
    request: HttpRequest,
    flow: Path<String>,
    payload: Payload,
) -> Result<JsonBody<Accepted>, ApiError> {
    receive_body(&state, &request, &flow, None, payload).await
}

/// The same with a word after the flow's id, which the flow sees as `pathSuffix`.
#[utoipa::path(tag = "Webhooks", operation_id = "receiveWebhookWithSuffix", request_body(content = Object, description = "Any JSON; other types are accepted too"), params(
    ("flowId" = String, Path, description = "The flow"), ("suffix" = String, Path, pattern = "^[A-Za-z0-9_]+$", description = "Letters, digits and _")), responses(
    (status = 200, description = "Taken", body = Accepted),
    (status = 400, description = "A malformed body", body = ErrorText),
    (status = 403, description = "The flow asks for authentication", body = ErrorText),
    (status = 404, description = "The flow does not exist or is inactive", body = ErrorText),
    (status = 408, description = "The body comes too slowly", body = ErrorText),
    (status = 413, description = "The body is too large", body = ErrorText),
    (status = 415, description = "A Content-Encoding that is not known", body = ErrorText)))]
#[post("/webhooks/{flowId}/{suffix:[A-Za-z0-9_]+}")]
pub(crate) async fn receive_with_suffix(
    state: Data<State>,
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
) -> Result<JsonBody<Accepted>, ApiError> {
    receive_body(&state, &request, &path.0, Some(&path.1), payload).await
}

/// Starts an execution of the flow with the query parameters as data.
#[utoipa::path(tag = "Webhooks", operation_id = "receiveWebhookQuery", params(("flowId" = String, Path, description = "The flow")), responses(
    (status = 200, description = "Taken", body = Accepted),
    (status = 400, description = "A malformed query", body = ErrorText),
    (status = 403, description = "The flow asks for authentication", body = ErrorText),
    (status = 404, description = "The flow does not exist or is inactive", body = ErrorText)))]
#[get("/webhooks/{flowId}")]
pub(crate) async fn receive_query(
    state: Data<State>,
    request: HttpRequest,
    flow: Path<String>,
) -> Result<JsonBody<Accepted>, ApiError> {
    let live = find_live(&state, &flow).await?;
    authorize(&state, &request, &live).await?;
    accept(&state, &request, &live, None).await
}

/// The same with a word after the flow's id, which the flow sees as `pathSuffix`.
#[utoipa::path(tag = "Webhooks", operation_id = "receiveWebhookQueryWithSuffix", params(
    ("flowId" = String, Path, description = "The flow"), ("suffix" = String, Path, pattern = "^[A-Za-z0-9_]+$", description = "Letters, digits and _")), responses(
    (status = 200, description = "Taken", body = Accepted),
    (status = 400, description = "A malformed query", body = ErrorText),
    (status = 403, description = "The flow asks for authentication", body = ErrorText),
    (status = 404, description = "The flow does not exist or is inactive", body = ErrorText)))]
#[get("/webhooks/{flowId}/{suffix:[A-Za-z0-9_]+}")]
pub(crate) async fn receive_query_with_suffix(
    state: Data<State>,
    request: HttpRequest,
    path: Path<(String, String)>,
) -> Result<JsonBody<Accepted>, ApiError> {
    let live = find_live(&state, &path.0).await?;
    authorize(&state, &request, &live).await?;
    accept(&state, &request, &live, Some(&path.1)).await
}

/// The same as POST, for senders that know only this.
#[utoipa::path(tag = "Webhooks", operation_id = "receiveWebhookPut", request_body(content = Object, description = "Any JSON; other types are accepted too"), params(("flowId" = String, Path, description = "The flow")), responses(
    (status = 200, description = "Taken", body = Accepted),
    (status = 400, description = "A malformed body", body = ErrorText),
    (status = 403, description = "The flow asks for authentication", body = ErrorText),
    (status = 404, description = "The flow does not exist or is inactive", body = ErrorText),
    (status = 408, description = "The body comes too slowly", body = ErrorText),
    (status = 413, description = "The body is too large", body = ErrorText),
    (status = 415, description = "A Content-Encoding that is not known", body = ErrorText)))]
#[put("/webhooks/{flowId}")]
pub(crate) async fn receive_put(
    state: Data<State>,
    request: HttpRequest,
    flow: Path<String>,
    payload: Payload,
) -> Result<JsonBody<Accepted>, ApiError> {
    receive_body(&state, &request, &flow, None, payload).await
}

/// The same as POST, with a word after the flow's id, which the flow sees as `pathSuffix`.
#[utoipa::path(tag = "Webhooks", operation_id = "receiveWebhookPutWithSuffix", request_body(content = Object, description = "Any JSON; other types are accepted too"), params(
    ("flowId" = String, Path, description = "The flow"), ("suffix" = String, Path, pattern = "^[A-Za-z0-9_]+$", description = "Letters, digits and _")), responses(
    (status = 200, description = "Taken", body = Accepted),
    (status = 400, description = "A malformed body", body = ErrorText),
    (status = 403, description = "The flow asks for authentication", body = ErrorText),
    (status = 404, description = "The flow does not exist or is inactive", body = ErrorText),
    (status = 408, description = "The body comes too slowly", body = ErrorText),
    (status = 413, description = "The body is too large", body = ErrorText),
    (status = 415, description = "A Content-Encoding that is not known", body = ErrorText)))]
#[put("/webhooks/{flowId}/{suffix:[A-Za-z0-9_]+}")]
pub(crate) async fn receive_put_with_suffix(
    state: Data<State>,
    request: HttpRequest,
    path: Path<(String, String)>,
    payload: Payload,
) -> Result<JsonBody<Accepted>, ApiError> {
    receive_body(&state, &request, &path.0, Some(&path.1), payload).await
}

/// Whether the flow takes webhooks. Starts nothing.
#[utoipa::path(tag = "Webhooks", operation_id = "isWebhookLive", params(("flowId" = String, Path, description = "The flow")), responses(
    (status = 200, description = "It does"),
    (status = 404, description = "It does not exist or is inactive")))]
#[head("/webhooks/{flowId}")]
pub(crate) async fn is_live(state: Data<State>, flow: Path<String>) -> HttpResponse {
    if_live(&state, &flow, || HttpResponse::Ok().finish()).await
}

/// The same with a word after the flow's id.
#[utoipa::path(tag = "Webhooks", operation_id = "isWebhookWithSuffixLive", params(
    ("flowId" = String, Path, description = "The flow"), ("suffix" = String, Path, pattern = "^[A-Za-z0-9_]+$", description = "Letters, digits and _")), responses(
    (status = 200, description = "It does"),
    (status = 404, description = "It does not exist or is inactive")))]
#[head("/webhooks/{flowId}/{suffix:[A-Za-z0-9_]+}")]
pub(crate) async fn is_live_with_suffix(state: Data<State>, path: Path<(String, String)>) -> HttpResponse {
    if_live(&state, &path.0, || HttpResponse::Ok().finish()).await
}

/// Which methods there are. Starts nothing.
#[utoipa::path(tag = "Webhooks", operation_id = "getWebhookMethods", params(("flowId" = String, Path, description = "The flow")), responses(
    (status = 204, description = "They are in `Allow`"),
    (status = 404, description = "The flow does not exist or is inactive")))]
#[options("/webhooks/{flowId}")]
pub(crate) async fn methods(state: Data<State>, flow: Path<String>) -> HttpResponse {
    if_live(&state, &flow, allowed).await
}

/// The same with a word after the flow's id.
#[utoipa::path(tag = "Webhooks", operation_id = "getWebhookWithSuffixMethods", params(
    ("flowId" = String, Path, description = "The flow"), ("suffix" = String, Path, pattern = "^[A-Za-z0-9_]+$", description = "Letters, digits and _")), responses(
    (status = 204, description = "They are in `Allow`"),
    (status = 404, description = "The flow does not exist or is inactive")))]
#[options("/webhooks/{flowId}/{suffix:[A-Za-z0-9_]+}")]
pub(crate) async fn methods_with_suffix(state: Data<State>, path: Path<(String, String)>) -> HttpResponse {
    if_live(&state, &path.0, allowed).await
}

fn allowed() -> HttpResponse {
    let mut answer = HttpResponse::NoContent();
    answer
        .insert_header((header::ALLOW, "GET, HEAD, OPTIONS, POST, PUT"))
        .finish()
}

async fn if_live(state: &State, flow: &str, answer: fn() -> HttpResponse) -> HttpResponse {
    match find_live(state, flow).await {
        Ok(_) => answer(),
        Err(_) => HttpResponse::NotFound().finish(),
    }
}

async fn receive_body(
    state: &State,
    request: &HttpRequest,
    flow: &str,
    suffix: Option<&str>,
    mut payload: Payload,
) -> Result<JsonBody<Accepted>, ApiError> {
    let taken = take(state, request, (flow, suffix), &mut payload).await;
    match taken {
        Ok((_permit, event, receipt)) => Ok(publish(state, event, receipt).await?),
        Err(failure) => {
            // Many clients read the answer only when they have sent everything. Nothing of it is kept; what is too large,
            // or comes too slowly, ends with the connection.
            discard(request, &mut payload, state.config.max_body_bytes)
                .await
                .ok();
            Err(failure.into())
        }
    }
}

/// Reads the body, when it is known that somebody wants it, and makes the event of it. The bytes are held until the event
/// is stored.
async fn take(
    state: &State,
    request: &HttpRequest,
    (flow, suffix): (&str, Option<&str>),
    payload: &mut Payload,
) -> Result<(Permit, Event, Receipt), Failure> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let mut reading = Reading::of(content_type.unwrap_or_default());
    let coding = Coding::of(request.headers())?;
    let live = find_live(state, flow).await?;
    authorize(state, request, &live).await?;
    is_caught_up(state, &live)?;
    let holder = holder(&live);
    let mut permit = state.context.budget.try_take(holder.clone(), 0)?;
    let (mut bytes, limit) = (Vec::new(), state.config.max_body_bytes);
    let share = state.context.budget.of_flow();
    {
        let mut decoder = state.context.budget.try_take(holder, 0)?;
        let memory = (&mut permit, &mut decoder);
        coding
            .receive(request, payload, limit, &mut bytes, memory)
            .await?;
    }
    if reading.is_foreign(&bytes) {
        // A byte in an encoding of single ones may become three.
        reach(&mut permit, bytes.len().saturating_mul(4), share)?;
        bytes = reading.translate(&bytes)?;
        permit.shrink_to(bytes.len());
    }
    reading.look_at(&bytes);
    if reading.is_json() {
        // The event has it once more.
        permit.try_reach((2 * bytes.len()).min(share))?;
        let (event, receipt) = event(state, request, &live, suffix, Some(body::from_json(&bytes)?))?;
        drop(bytes);
        permit.shrink_to(event.data.len());
        return Ok((permit, event, receipt));
    }
    let needed = bytes.len().saturating_add(reading.weight(&bytes));
    reach(&mut permit, needed, share)?;
    let data = reading.data(request.headers(), bytes.into()).await?;
    let (event, receipt) = event(state, request, &live, suffix, Some(&data))?;
    drop(data);
    permit.try_reach(event.data.len())?;
    permit.shrink_to(event.data.len());
    Ok((permit, event, receipt))
}

/// Takes of the budget what a body needs; what can never be there is refused for good.
fn reach(permit: &mut Permit, needed: usize, share: usize) -> Result<(), Failure> {
    if needed > share {
        let message = "The body has more elements than are allowed.";
        return Err(Failure::new(Kind::TooLarge, message));
    }
    Ok(permit.try_reach(needed)?)
}

/// Whose share of the budget a body for this flow comes from.
fn holder(flow: &LiveFlow) -> Holder {
    let tenant = flow.owners.iter().find(|owner| owner.kind == OwnerKind::Tenant);
    let tenant = tenant.map(|owner| TenantId::from(owner.id.as_str()));
    Holder::flow(&flow.id, tenant.as_ref())
}

/// The flow if it is live. Otherwise 404 after a while, unless it becomes live meanwhile.
async fn find_live(state: &State, flow: &str) -> Result<Arc<LiveFlow>, Failure> {
    let id = FlowId::from(flow);
    if let Some(live) = state.view.live(&id) {
        return Ok(live);
    }
    // Who guesses with many requests at once gets the answer without the wait, and without holding anything of ours.
    if let Ok(_place) = state.waiting.try_acquire() {
        let patience = Duration::from_millis(state.config.not_found_delay_ms);
        if let Some(live) = state.view.wait_live(&id, patience).await {
            return Ok(live);
        }
    }
    Err(Failure::not_found(format!(
        "Flow {flow} either does not exist or is inactive."
    )))
}

/// Refuses for now where so much of the flow waits that others would have to wait behind it.
fn is_caught_up(state: &State, flow: &LiveFlow) -> Result<(), Failure> {
    if state.view.is_backlogged(&flow.id, state.context.clock.now()) {
        let message = "too many executions of this flow wait for their turn";
        return Err(Failure::new(Kind::Unavailable, message));
    }
    Ok(())
}

/// What `flowSettings.webhooks` asks for. GET is protected as POST is.
async fn authorize(state: &State, request: &HttpRequest, flow: &LiveFlow) -> Result<(), Failure> {
    let Protection::Callers { all_tenant_users } = Protection::of(flow.settings.as_ref()) else {
        return Ok(());
    };
    let unauthorized = || Failure::new(Kind::Forbidden, "Unauthorized");
    let header = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let (scheme, credentials) = header
        .and_then(|value| value.trim_start().split_once(' '))
        .ok_or_else(unauthorized)?;
    let caller = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => state
            .context
            .tokens
            .verify(credentials.trim())
            .map_err(|_| unauthorized())?,
        "basic" => {
            let (username, password) = basic(credentials).ok_or_else(unauthorized)?;
            let identified = state.accounts.identify(&username, password).await;
            identified.map_err(|failure| {
                if failure.is_of_the_request() {
                    unauthorized()
                } else {
                    failure
                }
            })?
        }
        _ => return Err(unauthorized()),
    };
    let allowed = caller.may::<WebhooksExecute>() && is_owner(&caller, flow, all_tenant_users);
    if allowed { Ok(()) } else { Err(unauthorized()) }
}

/// Name and password (RFC 7617).
fn basic(encoded: &str) -> Option<(String, String)> {
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

fn is_owner(caller: &Caller, flow: &LiveFlow, all_tenant_users: bool) -> bool {
    caller.is_admin()
        || flow.owners.iter().any(|owner| match owner.kind {
            OwnerKind::User => owner.id == caller.user.as_str(),
            OwnerKind::Tenant => {
                (caller.is_tenant_admin() || all_tenant_users)
                    && caller
                        .tenant
                        .as_ref()
                        .is_some_and(|tenant| tenant.as_str() == owner.id)
            }
        })
}

/// Takes a request without a body.
async fn accept(
    state: &State,
    request: &HttpRequest,
    flow: &LiveFlow,
    suffix: Option<&str>,
) -> Result<JsonBody<Accepted>, ApiError> {
    is_caught_up(state, flow)?;
    let (event, receipt) = event(state, request, flow, suffix, None)?;
    Ok(publish(state, event, receipt).await?)
}

/// The event that starts an execution, and what its caller is told.
fn event(
    state: &State,
    request: &HttpRequest,
    flow: &LiveFlow,
    suffix: Option<&str>,
    data: Option<&RawValue>,
) -> Result<(Event, Receipt), Failure> {
    let context = &state.context;
    let execution_id = ExecutionId::from(context.ids.long());
    let given = request
        .headers()
        .get("x-request-id")
        .and_then(|value| value.to_str().ok());
    // The caller's id is for the caller; it never names our execution, or a repeated one would be lost.
    let request_id = given
        .filter(|id| (1..=128).contains(&id.len()))
        .unwrap_or(execution_id.as_str())
        .to_owned();
    let parts = Parts::of(request)?;
    let body = Execute::new((&execution_id, flow, &request_id), request, &parts, suffix, data);
    let mut event = context
        .event(EventType::FlowExecute, &execution_id, &body)
        .map_err(Failure::internal)?;
    event.trace = request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .map(ToOwned::to_owned);
    let receipt = Receipt {
        request_id,
        execution_id,
        message: "thank you",
    };
    Ok((event, receipt))
}

/// Returns when the event is on disk.
async fn publish(state: &State, event: Event, receipt: Receipt) -> Result<JsonBody<Accepted>, Failure> {
    let published = state.context.bus.publish(vec![event]).await;
    published.map_err(|error| match error {
        Error::TooLarge { .. } => Failure::new(Kind::TooLarge, error.to_string()),
        Error::Unavailable(_) => Failure::new(Kind::Unavailable, error.to_string()),
    })?;
    Ok(JsonBody(Accepted { data: receipt }))
}
