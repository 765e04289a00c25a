//! Dead letters for people: listed, shown without secrets, replayed, deleted; by system administrators only.

use std::{collections::BTreeMap, sync::Arc};

use flowmate_bus::{
    Bus,
    kafka::{self, KafkaBus},
    local::{LocalBus, Options},
};
use flowmate_common::{
    Clock, Event, EventType,
    ids::IdGenerator,
    model::{DeadLetter, FlowExecute, Message, json as raw},
};
use flowmate_testkit::{Answer, Client, Receiver, Server, Shape, eventually};
use serde_json::{Value, json};

use crate::{
    accounts::tenant,
    calls::{delete, get, post},
    forward, server, shape,
};

fn event(kind: EventType, key: &str, body: &impl serde::Serialize) -> Event {
    Event::new(&IdGenerator::random(), &Clock::System, kind, key, body).unwrap()
}

/// What a consumer writes when it gives `event` up.
fn given_up(id: &str, topic: &str, event_given_up: Value) -> Event {
    let letter = DeadLetter {
        group: "a-consumer".into(),
        topic: topic.into(),
        position: 7,
        reason: "it could not".into(),
        attempts: 3,
        event: event_given_up,
    };
    let mut event = event(EventType::DeadLetter, "k", &letter);
    event.id = id.into();
    event
}

/// Publishes on the server's bus; where that is a directory, while the server is away.
async fn published(mut server: Server, events: Vec<Event>) -> Server {
    if shape() == Shape::Distributed {
        let broker = server.broker().unwrap();
        let options = kafka::Options {
            brokers: broker.brokers.clone(),
            prefix: broker.prefix.clone(),
            settings: BTreeMap::new(),
        };
        let bus = KafkaBus::connect(options).await.unwrap();
        bus.publish(events).await.unwrap();
        return server;
    }
    assert!(server.terminate().await.unwrap());
    let bus = Arc::new(LocalBus::open(&server.data().join("log"), Options::default()).unwrap());
    bus.publish(events).await.unwrap();
    bus.close().await;
    drop(bus);
    server.restart().await.unwrap()
}

/// The letters that match, as soon as there are so many.
async fn letters(admin: &Client, query: &str, count: u64) -> Answer {
    eventually("the dead letters", async || {
        let answer = admin.get(&format!("/dead-letters?{query}")).await?.expect(200)?;
        Ok((answer.at("/meta/total") == &json!(count)).then_some(answer))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_dead_letter_is_seen_and_replayed_by_administrators_and_its_work_is_done() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let receiver = Receiver::start().unwrap();
    let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
    let request = FlowExecute {
        execution_id: "0192f0c4a0b07c3d8e5f60718293a4b5".into(),
        flow_id: flow.clone().into(),
        activation: 1,
        message: Message::new(raw(&json!({"n": 1, "apiKey": "very secret"})).unwrap()),
    };
    let request = event(
        EventType::FlowExecute,
        "0192f0c4a0b07c3d8e5f60718293a4b5",
        &request,
    );
    let nonsense = event(
        EventType::FlowStarting,
        "poison",
        &json!({"it": "is something else"}),
    );
    let events = vec![
        given_up(
            "request",
            "execution-requests",
            serde_json::to_value(&request).unwrap(),
        ),
        given_up("foreign", "flows", json!("not ours")),
        given_up("lost", "flows", Value::Null),
        nonsense.clone(),
    ];
    let server = published(server, events).await;
    let admin = server.admin().await.unwrap();

    // Three by hand, and one of the engine's own.
    letters(&admin, "filter[group]=a-consumer", 3).await;
    let found = letters(&admin, "filter[group]=flow-engine", 1).await;
    let own = found.at("/data/0").clone();
    assert_eq!(
        (&own["topic"], &own["eventType"], &own["status"]),
        (&json!("flows"), &json!("flow.starting"), &json!("waiting"))
    );
    assert!(own.get("event").is_none(), "lists are without events");
    letters(
        &admin,
        "filter[topic]=execution-requests&filter[eventType]=flow.execute",
        1,
    )
    .await;
    letters(&admin, "filter[until]=2020-01-01T00:00:00Z", 0).await;
    let page = letters(
        &admin,
        "page[size]=1&page[number]=2&filter[from]=2020-01-01T00:00:00Z",
        4,
    )
    .await;
    assert_eq!(page.at("/data").as_array().unwrap().len(), 1);
    get(&admin, "/dead-letters?filter[topic]=no", 400).await;
    get(&admin, "/dead-letters?filter[gruop]=x", 400).await;
    get(&admin, "/dead-letters?filter[from]=yesterday", 400).await;

    let shown = get(&admin, "/dead-letters/request", 200).await;
    assert_eq!(shown.text("/data/reason"), "it could not");
    assert_eq!(
        shown.at("/data/event/data/message/data"),
        &json!({"n": 1, "apiKey": "***"})
    );
    get(&admin, "/dead-letters/no", 404).await;

    // Nobody else sees any of it.
    let (_, partner) = tenant(&server, &admin, "acme").await;
    let anonymous = server.anonymous().unwrap();
    for (client, status) in [(&partner, 403), (&anonymous, 401)] {
        get(client, "/dead-letters", status).await;
        get(client, "/dead-letters/request", status).await;
        post(client, "/dead-letters/request/replay", json!(null), status).await;
        post(client, "/dead-letters/replay", json!({"filter": {}}), status).await;
        delete(client, "/dead-letters/request", status).await;
        delete(client, "/dead-letters?filter[status]=waiting", status).await;
    }

    assert!(receiver.received().is_empty());
    post(&admin, "/dead-letters/request/replay", json!(null), 202).await;
    let ended = admin.ended("0192f0c4a0b07c3d8e5f60718293a4b5").await.unwrap();
    assert_eq!(ended.text("/data/status"), "success");
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(receiver.received()[0].body["apiKey"], "very secret");
    letters(&admin, "filter[status]=replayed", 1).await;
    post(&admin, "/dead-letters/request/replay", json!(null), 409).await;
    for (id, why) in [
        ("foreign", "it is no event of ours"),
        ("lost", "its event was not kept"),
    ] {
        let refused = post(&admin, &format!("/dead-letters/{id}/replay"), json!(null), 409).await;
        assert!(
            refused.text("/errors/0/message").contains(why),
            "{}",
            refused.body
        );
    }
    post(&admin, "/dead-letters/no/replay", json!(null), 404).await;

    // What still cannot be processed comes back as another letter.
    let own = own["id"].as_str().unwrap();
    post(&admin, &format!("/dead-letters/{own}/replay"), json!(null), 202).await;
    letters(&admin, "filter[group]=flow-engine", 2).await;
}

#[tokio::test]
async fn many_dead_letters_are_replayed_and_deleted_at_once() {
    let server = server().await;
    let deleted = event(EventType::FlowDeleted, "f", &json!({"flowId": "f", "user": "u"}));
    let value = serde_json::to_value(&deleted).unwrap();
    let mut events: Vec<Event> = (0..12)
        .map(|number| given_up(&format!("l{number}"), "flows", value.clone()))
        .collect();
    events.push(given_up("foreign", "flows", json!("not ours")));
    let server = published(server, events).await;
    let admin = server.admin().await.unwrap();
    letters(&admin, "filter[status]=waiting", 13).await;
    if shape() == Shape::Embedded {
        eventually("the gauge", async || {
            let metrics = admin.get("/metrics").await?;
            let text = metrics.body.as_str().unwrap_or_default().to_owned();
            Ok(text.contains("flowmate_dead_letters_waiting 13").then_some(()))
        })
        .await
        .unwrap();
    }

    for (body, status) in [
        (json!({}), 400),
        (json!([]), 400),
        (json!({"ids": [], "filter": {}}), 400),
        (json!({"filter": {"gruop": "x"}}), 400),
        (json!({"filter": {"topic": "no"}}), 400),
        (json!({"ids": vec!["x"; 1001]}), 413),
    ] {
        post(&admin, "/dead-letters/replay", body, status).await;
    }
    let body = json!({"ids": ["l0", "l1", "no", "foreign"]});
    let some = post(&admin, "/dead-letters/replay", body, 202).await;
    assert_eq!(some.at("/data"), &json!({"accepted": 2, "skipped": 2, "left": 0}));
    let nothing = json!({"filter": {"group": "another"}});
    let none = post(&admin, "/dead-letters/replay", nothing, 202).await;
    assert_eq!(none.at("/data/accepted"), 0);
    let body = json!({"filter": {"eventType": "flowrepo.flow.deleted", "from": "2020-01-01T00:00:00Z"}});
    let rest = post(&admin, "/dead-letters/replay", body, 202).await;
    assert_eq!(
        rest.at("/data"),
        &json!({"accepted": 10, "skipped": 0, "left": 0})
    );
    letters(&admin, "filter[status]=replayed", 12).await;

    delete(&admin, "/dead-letters", 400).await;
    delete(&admin, "/dead-letters/l0", 204).await;
    delete(&admin, "/dead-letters/l0", 404).await;
    get(&admin, "/dead-letters/l0", 404).await;
    let gone = delete(&admin, "/dead-letters?filter[status]=replayed", 200).await;
    assert_eq!(gone.at("/data"), &json!({"deleted": 11, "left": 0}));
    letters(&admin, "filter[group]=a-consumer", 1).await;
}
