//! The specification: what the handlers say of themselves, completed by what holds for all of them.

mod complete;
mod example;
mod shared;

use std::collections::BTreeMap;

use actix_web::{App, web::Bytes};
use flowmate_web::{ServiceConfig, Styles};
use serde_json::Value;
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
    servers((url = "/", description = "The host that serves this document")),
    tags(
        (name = "Authentication", description = "Tokens of users"),
        (name = "Users", description = "Who may log in; also under /api/users and /api/v1/users"),
        (name = "Tenants", description = "Organisations whose users share templates and components"),
        (name = "Roles", description = "Named sets of permissions"),
        (name = "Tokens", description = "Tokens for programs"),
        (name = "Flows", description = "Graphs of steps and their status"),
        (name = "Templates", description = "Blueprints of flows"),
        (name = "Webhooks", description = "What starts executions; also under /hook"),
        (name = "Executions", description = "What ran, and how often"),
        (name = "Components", description = "What steps can do"),
        (name = "Dead letters", description = "Events that could not be processed"),
        (name = "Health", description = "Whether the server works")
    )
)]
struct Base;

/// A specification as a JSON document (OpenAPI 3.1).
#[derive(Clone)]
pub struct Spec {
    json: Bytes,
    /// The methods of each path.
    paths: BTreeMap<String, Vec<String>>,
}

/// The specification of these operations, whose failures are told in these styles. Needs no running service.
pub fn spec(operations: &[fn(&mut ServiceConfig<'_>)], styles: &Styles) -> Spec {
    let (_, mut spec) = App::new()
        .into_utoipa_app()
        .openapi(Base::openapi())
        .configure(|config| operations.iter().for_each(|register| register(config)))
        .split_for_parts();
    let mut bearer = Http::new(HttpAuthScheme::Bearer);
    bearer.description = Some("The token from POST /login or POST /impersonate".into());
    spec.components
        .get_or_insert_default()
        .add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let mut document = serde_json::to_value(&spec).unwrap_or_default();
    complete::complete(&mut document, styles);
    Spec {
        paths: methods(&document),
        json: serde_json::to_vec_pretty(&document).unwrap_or_default().into(),
    }
}

fn methods(document: &Value) -> BTreeMap<String, Vec<String>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let upper = |item: &Value| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(|(method, _)| method.to_uppercase()).collect()
    };
    paths.map(|(path, item)| (path.clone(), upper(item))).collect()
}

impl Spec {
    /// The document.
    pub fn json(&self) -> Bytes {
        self.json.clone()
    }

    /// First path segments of all operations.
    pub(crate) fn segments(&self) -> Vec<String> {
        let first = |path: &String| {
            path.trim_start_matches('/')
                .split('/')
                .next()
                .map(ToOwned::to_owned)
        };
        let mut segments: Vec<String> = self.paths.keys().filter_map(first).collect();
        segments.sort();
        segments.dedup();
        segments
    }

    /// The methods that `path` has, for `405 Method Not Allowed`; none where there is no such path. Of two templates
    /// that match, the one without parameters is meant.
    pub(crate) fn allowed(&self, path: &str) -> &[String] {
        let exact = self.paths.get(path);
        let found = exact.or_else(|| {
            let mut paths = self.paths.iter();
            paths
                .find(|(template, _)| matches(template, path))
                .map(|(_, methods)| methods)
        });
        found.map_or(&[], Vec::as_slice)
    }
}

fn matches(template: &str, path: &str) -> bool {
    let (mut template, mut path) = (template.split('/'), path.split('/'));
    loop {
        match (template.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(given)) if part == given || (part.starts_with('{') && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_its_template_only() {
        assert!(matches("/flows/{id}", "/flows/1"));
        assert!(!matches("/flows/{id}", "/flows/"));
        assert!(!matches("/flows/{id}", "/flows/1/start"));
        assert!(!matches("/flows/{id}/start", "/flows/1/stop"));
        assert!(matches("/flows", "/flows"));
    }
}
