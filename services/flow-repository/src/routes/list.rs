use actix_web::{
    get,
    web::{Data, Json},
};
use flowmate_common::{Failure, auth::FlowsRead, ids::is_document_id, model::Flow};
use flowmate_storage::{Filter, Query, Sort};
use flowmate_web::{Allowed, ApiError, Errors, ListEnvelope, Params};

use crate::{State, store::all_of};

const KNOWN: [&str; 6] = [
    "page[size]",
    "page[number]",
    "filter[status]",
    "filter[type]",
    "filter[user]",
    "filter[fromTemplate]",
];

/// Lists the flows that the caller may see.
#[utoipa::path(tag = "Flows", operation_id = "getFlows", security(("bearer" = [])), params(
    ("page[size]" = Option<u64>, Query, description = "Flows on a page, 10 where nothing is said, 1000 at most"),
    ("page[number]" = Option<u64>, Query, description = "Which page, from 1"),
    ("filter[status]" = Option<String>, Query, pattern = "^(active|inactive|1|0)$", description = "active or 1, inactive or 0"),
    ("filter[type]" = Option<String>, Query, pattern = "^(ordinary|realtime|long_running)$", description = "ordinary, realtime or long_running"),
    ("filter[user]" = Option<String>, Query, description = "Internal id of an owner"),
    ("filter[fromTemplate]" = Option<String>, Query, pattern = "^([0-9a-fA-F]{24}|[0-9A-Za-z]{12})$", description = "The template it was generated from"),
    ("sort" = Option<String>, Query, pattern = "^(-?(createdAt|updatedAt|name))?$", description = "createdAt, updatedAt or name; with - in front descending"),
    ("search" = Option<String>, Query, description = "Text in name or description, in any case")), responses(
    (status = 200, description = "A page of flows", body = ListEnvelope<Flow>),
    (status = 400, description = "A parameter with an invalid value", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors)))]
#[get("/flows")]
pub(crate) async fn list_flows(
    state: Data<State>,
    caller: Allowed<FlowsRead>,
    params: Params,
) -> Result<Json<ListEnvelope<Flow>>, ApiError> {
    params.expect(&KNOWN)?;
    let paging = params.paging()?;
    let (field, descending) = params.sort(&["createdAt", "updatedAt", "name"], "createdAt")?;
    let filter = all_of(filters(&params)?);
    let sort = Some(Sort { field, descending });
    let query = Query {
        filter,
        sort,
        skip: paging.skip(),
        limit: paging.size,
    };
    let (data, total) = state.store.page(&caller, &query).await?;
    Ok(Json(ListEnvelope {
        data,
        meta: paging.page(total),
    }))
}

fn filters(params: &Params) -> Result<Vec<Filter>, Failure> {
    let invalid = |name: &str| Failure::invalid(format!("Invalid {name} parameter"));
    let mut filters = Vec::new();
    match params.get("filter[status]") {
        None => {}
        Some("active" | "1") => filters.push(Filter::eq("status", "active")),
        Some("inactive" | "0") => filters.push(Filter::eq("status", "inactive")),
        Some(_) => return Err(invalid("filter[status]")),
    }
    match params.get("filter[type]") {
        None => {}
        Some(kind @ ("ordinary" | "realtime" | "long_running")) => filters.push(Filter::eq("type", kind)),
        Some(_) => return Err(invalid("filter[type]")),
    }
    if let Some(user) = params.filled("filter[user]") {
        filters.push(Filter::OwnedBy(user.to_owned()));
    }
    if let Some(template) = params.get("filter[fromTemplate]") {
        if !is_document_id(template) {
            return Err(invalid("filter[fromTemplate]"));
        }
        filters.push(Filter::eq("fromTemplate", template));
    }
    if let Some(text) = params.filled("search") {
        filters.push(Filter::Search(&["name", "description"], text.to_owned()));
    }
    Ok(filters)
}
