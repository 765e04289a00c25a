//! The operations.

use actix_web::{get, web::Json};
use flowmate_common::{auth::ComponentsRead, model::Component};
use flowmate_connectors::Registry;
use flowmate_web::{Allowed, ApiError, Errors, ListEnvelope, Page, Params, ServiceConfig};

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config.service(list_components);
}

/// Lists the components that steps can use, with their functions and the JSON Schema of their fields.
#[utoipa::path(tag = "Components", operation_id = "getComponents", security(("bearer" = [])), params(
    ("page[size]" = Option<u64>, Query, description = "Components on a page, all where nothing is said"),
    ("page[number]" = Option<u64>, Query, description = "Which page, from 1")), responses(
    (status = 200, description = "The components", body = ListEnvelope<Component>),
    (status = 400, description = "A parameter with an invalid value", body = Errors),
    (status = 401, description = "Not logged in", body = Errors)))]
#[get("/components")]
pub(crate) async fn list_components(
    _caller: Allowed<ComponentsRead>,
    params: Params,
) -> Result<Json<ListEnvelope<Component>>, ApiError> {
    params.expect(&["page[size]", "page[number]"])?;
    let all = Registry::components();
    let total = all.len() as u64;
    if params.filled("page[size]").is_none() && params.filled("page[number]").is_none() {
        return Ok(Json(ListEnvelope {
            data: all,
            meta: Page {
                page: 1,
                per_page: total,
                total,
                total_pages: 1,
            },
        }));
    }
    let paging = params.paging()?;
    let skip = usize::try_from(paging.skip()).unwrap_or(usize::MAX);
    let size = usize::try_from(paging.size).unwrap_or(usize::MAX);
    let data = all.into_iter().skip(skip).take(size).collect();
    Ok(Json(ListEnvelope {
        data,
        meta: paging.page(total),
    }))
}
