//! The main story with a generated Rust client.

use std::{env, error::Error, time::Duration};

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
    let session = login(&anonymous, Credentials::new(password, "admin".into())).await?;
    let admin = Configuration { bearer_access_token: Some(session.token), ..anonymous.clone() };

    let mut nodes = [
        Node::new("666c6f776d61746500000001".into(), "receive".into(), "in".into()),
        Node::new("666c6f776d61746500000003".into(), "jsonata".into(), "map".into()),
    ];
    nodes[1].fields = Some(Some(json!({"expression": "{\"sum\": total}"})));
    let graph = Graph { edges: Some(vec![Edge::new("in".into(), "map".into())]), ..Graph::new(nodes.into()) };
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

    let receipt = receive_webhook(&anonymous, &flow, json!({"total": 179.4})).await?.data;
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
