use actix_web::{
    get,
    web::{Data, Json},
};
use flowmate_common::{Failure, auth::TemplatesRead, model::FlowTemplate};
use flowmate_runtime::{
    listing::{FLOW_TYPES, Filters, Listing},
    owning,
};
use flowmate_storage::Filter;
use flowmate_web::{Allowed, ApiError, Errors, ListEnvelope, Params};

use crate::State;

const FILTERS: [&str; 4] = ["filter[status]", "filter[type]", "filter[user]", "tags"];
const STATUSES: [(&str, &str); 4] = [
    ("1", "published"),
    ("published", "published"),
    ("0", "draft"),
    ("draft", "draft"),
];

/// Lists the templates that the caller may see.
#[utoipa::path(tag = "Templates", operation_id = "getTemplates", security(("bearer" = [])), params(
    ("page[size]" = Option<u64>, Query, description = "Templates on a page, 10 where nothing is said, 1000 at most"),
    ("page[number]" = Option<u64>, Query, description = "Which page, from 1"),
    ("filter[status]" = Option<String>, Query, pattern = "^(1|0)$", description = "1 published, 0 draft"),
    ("filter[type]" = Option<String>, Query, pattern = "^(ordinary|realtime|long_running)$", description = "ordinary, realtime or long_running"),
    ("filter[user]" = Option<String>, Query, description = "Internal id of an owner"),
    ("tags" = Option<String>, Query, description = "Comma-separated; templates with any of them, or without any"),
    ("sort" = Option<String>, Query, pattern = "^(-?(createdAt|updatedAt|name))?$", description = "createdAt, updatedAt or name; with - in front descending"),
    ("search" = Option<String>, Query, description = "Text in name or description, in any case")), responses(
    (status = 200, description = "A page of templates", body = ListEnvelope<FlowTemplate>),
    (status = 400, description = "A parameter with an invalid value", body = Errors)))]
#[get("/templates")]
pub(crate) async fn list_templates(
    state: Data<State>,
    caller: Allowed<TemplatesRead>,
    params: Params,
) -> Result<Json<ListEnvelope<FlowTemplate>>, ApiError> {
    let listing = Listing::of(&params, &FILTERS, &["createdAt", "updatedAt", "name"])?;
    let (see, filter) = (owning::sees_shared(&caller), filter(&params)?);
    let page = state.store.list(&see, listing, filter, |record| record.template);
    Ok(Json(page.await?))
}

fn filter(params: &Params) -> Result<Filter, Failure> {
    Ok(Filters::of(params)
        .choice("filter[status]", "status", &STATUSES)?
        .choice("filter[type]", "type", &FLOW_TYPES)?
        .owner("filter[user]")
        .and(params.filled("tags").map(tagged))
        .search(&["name", "description"])
        .all())
}

/// With one of these tags, or without any.
fn tagged(tags: &str) -> Filter {
    let tags = tags
        .split(',')
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
        .map(ToOwned::to_owned);
    Filter::Or(vec![
        Filter::HasAny("tags", tags.collect()),
        Filter::Empty("tags"),
    ])
}
