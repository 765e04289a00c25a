//! The main story with a generated Rust client.

use std::{collections::HashMap, env, error::Error, time::Duration};

use flowmate_client::{
    apis::{
        authentication_api::login,
        configuration::Configuration,
        executions_api::get_execution,
        flows_api::{delete_flow, get_flow, start_flow, stop_flow},
        templates_api::{create_template, delete_template, generate_flow},
        webhooks_api::receive_webhook,
    },
    models::{Credentials, Edge, FlowStatus, Graph, MutableFlow, MutableFlowTemplate, Node},
};
use serde_json::json;

async fn until(what: &str, mut check: impl AsyncFnMut() -> Result<bool, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    for _ in 0..200 {
        if check().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{what} did not happen").into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (url, password) = (arguments.next().ok_or("no URL")?, arguments.next().ok_or("no password")?);
    let anonymous = Configuration { base_path: url, ..Configuration::default() };
    let session = login(&anonymous, Credentials { username: "admin".into(), password }).await?;
    let admin = Configuration { bearer_access_token: Some(session.token), ..anonymous.clone() };

    let node = |id: &str, component_id: &str, function: &str, fields| Node {
        id: id.into(),
        component_id: component_id.into(),
        function: function.into(),
        fields: Some(Some(fields)),
        ..Node::default()
    };
    let expression = HashMap::from([("expression".into(), json!("{\"sum\": total}"))]);
    let nodes = vec![
        node("in", "666c6f776d61746500000001", "receive", HashMap::new()),
        node("map", "666c6f776d61746500000003", "jsonata", expression),
    ];
    let edge = Edge { source: "in".into(), target: "map".into(), ..Edge::default() };
    let graph = Graph { nodes: Some(nodes), edges: Some(vec![edge]) };
    let body = MutableFlowTemplate {
        name: Some(Some("Orders, by Rust".into())),
        r#type: Some(Some("ordinary".into())),
        graph: Some(graph.into()),
        ..MutableFlowTemplate::default()
    };
    let template = create_template(&admin, body).await?.data.id;
    let mut changes = MutableFlow::default();
    changes.name = Some(Some("Orders of Ada".into()));
    let flow = generate_flow(&admin, &template, Some(changes)).await?.data.id;
    start_flow(&admin, &flow).await?;
    until("the start", async || Ok(get_flow(&admin, &flow).await?.data.status == FlowStatus::Active)).await?;

    let order = HashMap::from([("total".into(), json!(179.4))]);
    let receipt = receive_webhook(&anonymous, &flow, order).await?.data;
    until("the execution", async || {
        let execution = get_execution(&admin, &receipt.execution_id).await;
        Ok(execution.is_ok_and(|execution| execution.data.status == "success"))
    })
    .await?;

    stop_flow(&admin, &flow).await?;
    until("the stop", async || Ok(get_flow(&admin, &flow).await?.data.status == FlowStatus::Inactive)).await?;
    delete_flow(&admin, &flow).await?;
    delete_template(&admin, &template).await?;
    println!("rust: played");
    Ok(())
}
