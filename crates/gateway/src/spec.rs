//! The merged specification.

use actix_web::App;
use flowmate_web::ServiceConfig;
use utoipa::{
    OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_actix_web::AppExt;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "FlowMate",
        description = "Embedded integration backend: flows from templates, started by webhooks, executed, logged and counted.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/")),
    tags(
        (name = "Authentication", description = "Tokens"),
        (name = "Users", description = "Who may log in; also under /api/users and /api/v1/users"),
        (name = "Flows", description = "Graphs of steps and their status"),
        (name = "Templates", description = "Blueprints of flows"),
        (name = "Webhooks", description = "What starts executions; also under /hook"),
        (name = "Executions", description = "What ran, and how often"),
        (name = "Components", description = "What steps can do")
    )
)]
struct Base;

/// The specification of these operations. Needs no running service.
pub fn spec(operations: &[fn(&mut ServiceConfig<'_>)]) -> utoipa::openapi::OpenApi {
    let (_, mut spec) = App::new()
        .into_utoipa_app()
        .openapi(Base::openapi())
        .configure(|config| operations.iter().for_each(|register| register(config)))
        .split_for_parts();
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("The token from POST /login".into());
    spec.components
        .get_or_insert_default()
        .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    spec
}
