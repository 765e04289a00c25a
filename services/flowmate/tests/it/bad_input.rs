//! Nonsense gets the contract's answer, and leaves nothing behind.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{forward, receive, server};

#[tokio::test]
async fn ids_are_checked_before_existence_and_told_in_the_contracts_words() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let entry = |message: &str, code: u16| json!({"errors": [{"message": message, "code": code}]});
    let bare = json!({"errors": "Invalid id"});
    for (method, path, malformed, unknown) in [
        (
            Method::GET,
            "/flows/{}",
            entry("Invalid id", 400),
            entry("No flow found", 404),
        ),
        (
            Method::PATCH,
            "/flows/{}",
            bare.clone(),
            entry("Flow not found", 404),
        ),
        (
            Method::DELETE,
            "/flows/{}",
            bare.clone(),
            entry("Flow not found", 404),
        ),
        (
            Method::POST,
            "/flows/{}/start",
            entry("Invalid id", 400),
            entry("No flow with this ID found", 404),
        ),
        (
            Method::POST,
            "/flows/{}/stop",
            entry("Invalid id", 400),
            entry("No flow with this ID found", 404),
        ),
        (
            Method::GET,
            "/templates/{}",
            entry("Invalid id", 400),
            entry("Template not found", 404),
        ),
        (
            Method::PATCH,
            "/templates/{}",
            bare.clone(),
            entry("Template not found", 404),
        ),
        (
            Method::DELETE,
            "/templates/{}",
            bare.clone(),
            entry("Template not found", 404),
        ),
        (
            Method::POST,
            "/templates/{}/generate",
            bare.clone(),
            entry("Template not found", 404),
        ),
    ] {
        for (id, status, body) in [
            ("xyz", 400, &malformed),
            ("%24ne", 400, &malformed),
            ("5c99ec7e5ed40d3e7512cffa", 404, &unknown),
            ("123456789012", 404, &unknown),
        ] {
            let path = path.replace("{}", id);
            // The body is malformed, too: id and existence come first.
            let request = admin
                .request(method.clone(), &path)
                .header("content-type", "application/json")
                .body("{");
            let answer = admin.send(request).await.unwrap();
            assert_eq!((answer.status, &answer.body), (status, body), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn flows_are_validated_as_a_whole() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let answer = admin
        .post("/flows", &json!({"graph": {"nodes": [{}]}}))
        .await
        .unwrap()
        .expect(400)
        .unwrap();
    let messages: Vec<&str> = answer
        .at("/errors")
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        messages,
        [
            "Flow nodes require a function.",
            "Flow nodes require a componentId.",
            "Flow nodes require an id."
        ]
    );

    let nodes: Vec<Value> = (0..10_000)
        .map(|id: u32| json!({"id": id.to_string(), "componentId": crate::WEBHOOK, "function": "receive"}))
        .collect();
    let huge = json!({"graph": {"nodes": nodes, "edges": [{"source": "0", "target": "1"}]}});
    admin.post("/flows", &huge).await.unwrap().expect(400).unwrap();
    let mut deep = json!({});
    for _ in 0..200 {
        deep = json!({"a": deep});
    }
    admin
        .post(
            "/flows",
            &json!({"graph": {"nodes": [receive()]}, "flowSettings": deep}),
        )
        .await
        .unwrap()
        .expect(400)
        .unwrap();
    for body in [
        "",
        "{",
        "[",
        "null",
        "5",
        "\"x\"",
        "{\"graph\":\"\\ud800\"}",
        "\u{0}",
    ] {
        let request = admin
            .request(Method::POST, "/flows")
            .header("content-type", "application/json")
            .body(body);
        admin.send(request).await.unwrap().expect(400).unwrap();
    }
    let long = "x".repeat(5 << 20);
    let large = admin
        .request(Method::POST, "/flows")
        .body(format!("{{\"name\":\"{long}\"}}"));
    admin.send(large).await.unwrap().expect(413).unwrap();
    assert_eq!(
        admin.get("/flows").await.unwrap().at("/meta/total"),
        &json!(0),
        "nothing was half-written"
    );

    let many = admin
        .post("/flows", &json!([forward("http://127.0.0.1:1/"), {}]))
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    assert_eq!(many.text("/data/0/status"), "inactive");
    assert_eq!(many.text("/data/1/errors/0/message"), "Flows require a graph.");
}

#[tokio::test]
async fn lists_refuse_unknown_values_and_bound_their_pages() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    for query in [
        "filter[status]=paused",
        "filter[type]=odd",
        "filter[fromTemplate]=x",
        "filter[user][$ne]=x",
        "sort=id",
        "sort=-",
        "page[size]=0",
        "page[size]=-1",
        "page[size]=ten",
        "page[number]=0",
        "page[number]=1.5",
        "filter[stat]=active",
    ] {
        let answer = admin.get(&format!("/flows?{query}")).await.unwrap();
        assert_eq!(answer.status, 400, "{query}: {}", answer.body);
        assert!(
            answer.text("/errors/0/message").starts_with("Invalid "),
            "{query}: {}",
            answer.body
        );
    }
    for query in ["filter[status]=done", "filter[from]=yesterday", "page[size]=x"] {
        admin
            .get(&format!("/executions?{query}"))
            .await
            .unwrap()
            .expect(400)
            .unwrap();
    }
    for query in [
        "start=2026-02-30",
        "start=x",
        "end=2026-1-1",
        "groupby=day",
        "start=2026-02-01&end=2026-01-01",
    ] {
        admin
            .get(&format!("/icenter/executions?{query}"))
            .await
            .unwrap()
            .expect(400)
            .unwrap();
    }
    let wide = admin
        .get("/flows?page[size]=100000000&page[number]=999999999")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(
        wide.body,
        json!({"data": [], "meta": {"page": 999_999_999, "perPage": 1000, "total": 0, "totalPages": 0}})
    );
}

#[tokio::test]
async fn lists_page_sort_search_and_filter() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    for (name, description) in [
        ("Müller", "b"),
        ("東京", "a.*c"),
        ("zebra", "MÜLLER too"),
        ("100%", ""),
    ] {
        let mut flow = forward("http://127.0.0.1:1/");
        flow["name"] = json!(name);
        flow["description"] = json!(description);
        admin.create_flow(&flow).await.unwrap();
    }
    let names = |query: &'static str| {
        let admin = admin.clone();
        async move {
            let list = admin
                .get(&format!("/flows?{query}"))
                .await
                .unwrap()
                .expect(200)
                .unwrap();
            let names = list.at("/data").as_array().unwrap().iter();
            names
                .map(|flow| flow["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(
        names("").await,
        ["Müller", "東京", "zebra", "100%"],
        "by creation"
    );
    assert_eq!(names("sort=-name").await, ["東京", "zebra", "Müller", "100%"]);
    assert_eq!(names("search=m%C3%BCller").await, ["Müller", "zebra"]);
    assert_eq!(names("search=%E4%BA%AC").await, ["東京"]);
    assert_eq!(names("search=.*").await, ["東京"]);
    assert_eq!(names("search=%25").await, ["100%"]);
    assert_eq!(names("page%5Bsize%5D=3&page%5Bnumber%5D=2").await, ["100%"]);
    assert_eq!(names("filter%5Bstatus%5D=active").await, Vec::<String>::new());
    assert_eq!(names("filter[status]=0&filter[type]=ordinary").await.len(), 4);

    for (name, tags, status) in [
        ("free", json!([]), "published"),
        ("dev", json!(["dev"]), "draft"),
        ("paid", json!(["premium", "x"]), "published"),
    ] {
        let mut template = forward("http://127.0.0.1:1/");
        template["name"] = json!(name);
        template["tags"] = tags;
        template["status"] = json!(status);
        admin
            .post("/templates", &template)
            .await
            .unwrap()
            .expect(201)
            .unwrap();
    }
    let total = |query: &'static str| {
        let admin = admin.clone();
        async move {
            admin
                .get(&format!("/templates?{query}"))
                .await
                .unwrap()
                .at("/meta/total")
                .as_u64()
                .unwrap()
        }
    };
    assert_eq!(
        (
            total("tags=dev").await,
            total("tags=premium,dev").await,
            total("tags=none").await
        ),
        (2, 3, 1)
    );
    assert_eq!(
        (total("filter[status]=1").await, total("filter[status]=0").await),
        (2, 1)
    );
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_never_the_id_or_the_status() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let one = admin.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let other = admin.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    let patched = admin
        .patch(&format!("/flows/{one}"), &json!({"id": other, "name": "new"}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(
        (patched.text("/data/id"), patched.text("/data/name")),
        (one.as_str(), "new")
    );
    assert_eq!(
        admin
            .get(&format!("/flows/{other}"))
            .await
            .unwrap()
            .text("/data/name"),
        "a chain"
    );
    let refused = admin
        .patch(&format!("/flows/{one}"), &json!({"status": "active"}))
        .await
        .unwrap()
        .expect(400)
        .unwrap();
    assert_eq!(
        refused.text("/errors/0/message"),
        "Flow status cannot be set manually. Use the flow start/stop end points instead."
    );
    admin
        .patch(&format!("/flows/{one}"), &json!({"graph": {"nodes": []}}))
        .await
        .unwrap()
        .expect(400)
        .unwrap();
    admin
        .patch(&format!("/flows/{one}"), &json!([]))
        .await
        .unwrap()
        .expect(400)
        .unwrap();

    let template = admin
        .post("/templates", &forward("http://127.0.0.1:1/"))
        .await
        .unwrap();
    let path = format!("/templates/{}", template.text("/data/id"));
    let published = admin
        .patch(&path, &json!({"status": "published"}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(published.text("/data/status"), "published");
    admin
        .patch(&path, &json!({"status": "odd"}))
        .await
        .unwrap()
        .expect(400)
        .unwrap();
    assert_eq!(
        admin.delete(&path).await.unwrap().body,
        json!({"msg": "Template was successfully deleted"})
    );
}

/// Java's client offers HTTP/2 on each connection, and would use one again that was closed without a word.
#[tokio::test]
async fn an_offered_upgrade_is_declined_and_the_closing_connection_says_so() {
    let server = server().await;
    let anonymous = server.anonymous().unwrap();
    let plain = anonymous
        .request(Method::GET, "/health/live")
        .send()
        .await
        .unwrap();
    assert!(plain.headers().get("connection").is_none());
    let offered = anonymous
        .request(Method::GET, "/health/live")
        .header("connection", "Upgrade, HTTP2-Settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA");
    let answer = offered.send().await.unwrap();
    assert_eq!(
        (answer.status(), answer.headers()["connection"].as_bytes()),
        (StatusCode::OK, b"close".as_slice())
    );
}

#[tokio::test]
async fn unknown_paths_are_404_and_every_answer_has_a_request_id() {
    let server = server().await;
    let anonymous = server.anonymous().unwrap();
    assert_eq!(
        anonymous
            .get("/nope")
            .await
            .unwrap()
            .expect(404)
            .unwrap()
            .text("/errors/0/message"),
        "Cannot GET /nope"
    );
    let echoed = anonymous
        .request(Method::GET, "/health/live")
        .header("x-request-id", "mine")
        .send()
        .await
        .unwrap();
    assert_eq!(echoed.headers()["x-request-id"], "mine");
    let made = anonymous.request(Method::GET, "/flows").send().await.unwrap();
    assert_eq!(made.headers()["x-request-id"].len(), 32);
}
