//! The operations.

use actix_web::{
    HttpResponse, delete, get, patch, post,
    web::{Data, Json, Path},
};
use flowmate_common::{
    Failure, Kind,
    auth::{Caller, ComponentsCreate, ComponentsDelete, ComponentsRead, ComponentsUpdate},
    model::{Access, Component, MutableComponent},
};
use flowmate_runtime::{attributes, owning};
use flowmate_web::{
    Allowed, ApiError, Body, Envelope, Errors, ListEnvelope, Params, ServiceConfig, document_id,
};
use serde_json::{Map, Value};

use crate::State;

pub(crate) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_components)
        .service(create_component)
        .service(get_component)
        .service(update_component)
        .service(delete_component);
}

/// Lists the components that the caller sees: the built-in ones, which steps can use, with their functions and the JSON
/// Schema of their fields, and then those that were described by users.
#[utoipa::path(tag = "Components", operation_id = "getComponents", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), params(
    ("page[size]" = Option<u64>, Query, minimum = 1, description = "Components on a page, 1000 at the most; 10 where nothing is said"),
    ("page[number]" = Option<u64>, Query, minimum = 1, description = "Which page, from 1"),
    ("search" = Option<String>, Query, description = "Text in name or description, in any case")), responses(
    (status = 200, description = "The components", body = ListEnvelope<Component>),
    (status = 400, description = "Invalid page[size] parameter", body = Errors)))]
#[get("/components")]
pub(crate) async fn list_components(
    state: Data<State>,
    caller: Allowed<ComponentsRead>,
    params: Params,
) -> Result<Json<ListEnvelope<Component>>, ApiError> {
    params.only(&["search"])?;
    let paging = params.paging()?;
    let page = state
        .components
        .page(&caller, params.filled("search"), paging.skip(), paging.size);
    let (data, total) = page.await?;
    Ok(Json(ListEnvelope {
        data,
        meta: paging.page(total),
    }))
}

/// Describes a component. Nothing runs it yet: flows that use it fail to start, with that as the reason.
#[utoipa::path(tag = "Components", operation_id = "createComponent", security(("bearer" = [])), request_body = MutableComponent, responses(
    (status = 201, description = "The new component", body = Envelope<Component>),
    (status = 400, description = "Components require a name.", body = Errors)))]
#[post("/components")]
pub(crate) async fn create_component(
    state: Data<State>,
    caller: Allowed<ComponentsCreate>,
    body: Body,
) -> Result<HttpResponse, ApiError> {
    let body: Value = body.object()?;
    let vouched = owning::vouch(&*state.accounts, &caller, &[], body.get("owners")).await?;
    let mut body = read(body)?;
    check_reach(&body, &MutableComponent::default(), &caller)?;
    body.owners = owning::create(body.owners, &caller, &vouched)?;
    let now = state.context.clock.now();
    let component = Component {
        id: state.context.ids.document(now).into(),
        body,
        is_control: false,
        created_at: Some(now),
        updated_at: Some(now),
    };
    let component = state.components.add(component).await?;
    Ok(HttpResponse::Created().json(Envelope::of(component)))
}

/// One component.
#[utoipa::path(tag = "Components", operation_id = "getComponent", security(("bearer" = [])), extensions(("x-any-caller" = json!(true))), params(("id" = String, Path, description = "The component")), responses(
    (status = 200, description = "The component", body = Envelope<Component>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 404, description = "Component is not found", body = Errors)))]
#[get("/components/{id}")]
pub(crate) async fn get_component(
    state: Data<State>,
    caller: Allowed<ComponentsRead>,
    id: Path<String>,
) -> Result<Json<Envelope<Component>>, ApiError> {
    let component = state.components.get(&caller, &document_id(&id)?).await?;
    Ok(Json(Envelope::of(component)))
}

/// Changes a component that the caller owns: the attributes that are sent replace those that are stored.
#[utoipa::path(tag = "Components", operation_id = "updateComponent", security(("bearer" = [])),
    request_body(content = Object, description = "Some attributes of a component", example = json!({"access": "public"})),
    params(("id" = String, Path, description = "The component")), responses(
    (status = 200, description = "The changed component", body = Envelope<Component>),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 404, description = "Component is not found", body = Errors)))]
#[patch("/components/{id}")]
pub(crate) async fn update_component(
    state: Data<State>,
    caller: Allowed<ComponentsUpdate>,
    id: Path<String>,
    body: Body,
) -> Result<Json<Envelope<Component>>, ApiError> {
    let id = document_id(&id)?;
    let present = state.components.owned(&caller, &id).await?;
    let changes: Map<String, Value> = body.json()?;
    let stored = &present.body.owners;
    let vouched = owning::vouch(&*state.accounts, &caller, stored, changes.get("owners")).await?;
    let now = state.context.clock.now();
    let changed = state.components.change(&caller, &id, |component| {
        let mut merged = serde_json::to_value(&component.body).map_err(Failure::internal)?;
        if let Some(merged) = merged.as_object_mut() {
            merged.extend(changes.clone());
        }
        let mut body = read(merged)?;
        check_reach(&body, &component.body, &caller)?;
        if changes.contains_key("owners") {
            body.owners = owning::change(&component.body.owners, body.owners, &caller, &vouched)?;
        }
        component.body = body;
        component.updated_at = Some(now);
        Ok(())
    });
    Ok(Json(Envelope::of(changed.await?)))
}

/// Deletes a component that the caller owns.
#[utoipa::path(tag = "Components", operation_id = "deleteComponent", security(("bearer" = [])), params(("id" = String, Path, description = "The component")), responses(
    (status = 204, description = "It is gone"),
    (status = 400, description = "Invalid id", body = Errors),
    (status = 404, description = "Component is not found", body = Errors)))]
#[delete("/components/{id}")]
pub(crate) async fn delete_component(
    state: Data<State>,
    caller: Allowed<ComponentsDelete>,
    id: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = document_id(&id)?;
    state.components.owned(&caller, &id).await?;
    state.components.delete(&caller, &(&*id).into()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What is shown to, or runs for, all tenants is made so by system administrators only.
fn check_reach(new: &MutableComponent, old: &MutableComponent, caller: &Caller) -> Result<(), Failure> {
    let becomes_global = new.is_global && !old.is_global;
    let becomes_public = new.access == Access::Public && old.access != Access::Public;
    if (becomes_global || becomes_public) && !caller.is_admin() {
        return Err(Failure::coded(Kind::Forbidden, "MISSING_PERMISSION"));
    }
    Ok(())
}

fn read(body: Value) -> Result<MutableComponent, Failure> {
    let attributes = body.as_object();
    let misspelt: Vec<String> = attributes
        .iter()
        .flat_map(|attributes| attributes::misspelt(attributes, attributes::COMPONENT))
        .collect();
    if !misspelt.is_empty() {
        return Err(Failure::invalid_all(misspelt));
    }
    let mut body: MutableComponent = serde_json::from_value(body)
        .map_err(|error| Failure::invalid(format!("Invalid component: {error}.")))?;
    owning::canonical(&mut body.owners);
    if body.name.trim().is_empty() || body.name.len() > 320 {
        return Err(Failure::invalid("Components require a name."));
    }
    Ok(body)
}
