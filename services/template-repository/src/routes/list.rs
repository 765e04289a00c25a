use actix_web::{
    get,
    web::{Data, Json},
};
use flowmate_common::{Failure, auth::TemplatesRead, model::FlowTemplate};
use flowmate_storage::{Filter, Query, Sort};
use flowmate_web::{Allowed, ApiError, Errors, ListEnvelope, Params};

use crate::State;

const KNOWN: [&str; 5] = [
    "page[size]",
    "page[number]",
    "filter[status]",
    "filter[type]",
    "filter[user]",
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
    (status = 400, description = "A parameter with an invalid value", body = Errors),
    (status = 401, description = "Missing authorization header.", body = Errors),
    (status = 403, description = "MISSING_PERMISSION", body = Errors)))]
#[get("/templates")]
pub(crate) async fn list_templates(
    state: Data<State>,
    caller: Allowed<TemplatesRead>,
    params: Params,
) -> Result<Json<ListEnvelope<FlowTemplate>>, ApiError> {
    params.expect(&KNOWN)?;
    let paging = params.paging()?;
    let (field, descending) = params.sort(&["createdAt", "updatedAt", "name"], "createdAt")?;
    let sort = Some(Sort { field, descending });
    let query = Query {
        filter: Filter::And(filters(&params)?),
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
        Some("1" | "published") => filters.push(Filter::eq("status", "published")),
        Some("0" | "draft") => filters.push(Filter::eq("status", "draft")),
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
    if let Some(tags) = params.filled("tags") {
        let tags = tags
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(ToOwned::to_owned);
        filters.push(Filter::Or(vec![
            Filter::HasAny("tags", tags.collect()),
            Filter::Empty("tags"),
        ]));
    }
    if let Some(text) = params.filled("search") {
        filters.push(Filter::Search(&["name", "description"], text.to_owned()));
    }
    Ok(filters)
}
