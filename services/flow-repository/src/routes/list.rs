use actix_web::{
    get,
    web::{Data, Json},
};
use flowmate_common::{
    Failure,
    auth::FlowsRead,
    ids::{canonical_id, is_document_id},
    model::Flow,
};
use flowmate_runtime::{
    listing::{FLOW_TYPES, Filters, Listing, invalid},
    owning,
};
use flowmate_storage::Filter;
use flowmate_web::{Allowed, ApiError, Errors, ListEnvelope, Params};

use crate::State;

const FILTERS: [&str; 4] = [
    "filter[status]",
    "filter[type]",
    "filter[user]",
    "filter[fromTemplate]",
];
const STATUSES: [(&str, &str); 4] = [
    ("active", "active"),
    ("1", "active"),
    ("inactive", "inactive"),
    ("0", "inactive"),
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
    (status = 400, description = "A parameter with an invalid value", body = Errors)))]
#[get("/flows")]
pub(crate) async fn list_flows(
    state: Data<State>,
    caller: Allowed<FlowsRead>,
    params: Params,
) -> Result<Json<ListEnvelope<Flow>>, ApiError> {
    let listing = Listing::of(&params, &FILTERS, &["createdAt", "updatedAt", "name"])?;
    let (see, filter) = (owning::sees(&caller), filter(&params)?);
    let page = state.store.list(&see, listing, filter, |record| record.flow);
    Ok(Json(page.await?))
}

fn filter(params: &Params) -> Result<Filter, Failure> {
    let template = params.get("filter[fromTemplate]");
    let filters = Filters::of(params)
        .choice("filter[status]", "status", &STATUSES)?
        .choice("filter[type]", "type", &FLOW_TYPES)?
        .owner("filter[user]");
    if template.is_some_and(|id| !is_document_id(id)) {
        return Err(invalid("filter[fromTemplate]"));
    }
    Ok(filters
        .and(template.map(|id| Filter::eq("fromTemplate", &*canonical_id(id))))
        .search(&["name", "description"])
        .all())
}
