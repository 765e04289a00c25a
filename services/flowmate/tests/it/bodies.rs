//! Bodies, settings and methods of webhooks as other systems send them.

use async_compression::tokio::bufread::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder};
use flowmate_testkit::{Client, Receiver, Server};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{chain, forward, receive, request, server};

async fn packed(coding: &str, plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut reader: Box<dyn AsyncRead + Unpin + Send> = match coding {
        "gzip" => Box::new(GzipEncoder::new(plain)),
        "deflate" => Box::new(ZlibEncoder::new(plain)),
        "raw" => Box::new(DeflateEncoder::new(plain)),
        _ => Box::new(BrotliEncoder::new(plain)),
    };
    reader.read_to_end(&mut packed).await.unwrap();
    packed
}

/// A flow that passes on what it is given.
struct Sink {
    server: Server,
    receiver: Receiver,
    anonymous: Client,
    flow: String,
    taken: usize,
}

impl Sink {
    async fn start() -> Self {
        let server = server().await;
        let receiver = Receiver::start().unwrap();
        let admin = server.admin().await.unwrap();
        let flow = admin.active_flow(&forward(&receiver.url)).await.unwrap();
        let anonymous = server.anonymous().unwrap();
        Self {
            server,
            receiver,
            anonymous,
            flow,
            taken: 0,
        }
    }

    fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        self.anonymous
            .request(method, &format!("/webhooks/{}{rest}", self.flow))
    }

    /// What the flow was given.
    async fn through(&mut self, request: RequestBuilder) -> Value {
        self.anonymous.send(request).await.unwrap().expect(200).unwrap();
        self.taken += 1;
        self.receiver.wait_for(self.taken).await.unwrap()[self.taken - 1]
            .body
            .clone()
    }

    async fn refused(&self, request: RequestBuilder, status: u16) {
        let answer = self
            .anonymous
            .send(request)
            .await
            .unwrap()
            .expect(status)
            .unwrap();
        assert!(answer.at("/error").is_string(), "{}", answer.body);
    }
}

fn latin(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn bodies_of_every_sender_arrive_as_they_were_meant() {
    let form = "application/x-www-form-urlencoded";
    let parts = "--B\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\na\r\n--B\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\nb\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\nContent-Type: image/png\r\n\r\n\u{0}\r\n--B--\r\n";
    let file = json!({"filename": "a.bin", "contentType": "image/png", "size": 1, "encoding": "base64", "content": "AA=="});
    let cases: Vec<(Option<&str>, Vec<u8>, Value)> = vec![
        (None, b"".to_vec(), json!({})),
        (None, b"{\"a\":[1]}".to_vec(), json!({"a": [1]})),
        (None, b"a[b]=1".to_vec(), json!({"a": {"b": "1"}})),
        (None, b"disk full".to_vec(), json!("disk full")),
        (
            Some("application/json charset=utf-8"),
            b"[1]".to_vec(),
            json!([1]),
        ),
        (Some("applications/json"), b"[1]".to_vec(), json!([1])),
        (
            Some("application/x-ndjson"),
            b"{\"a\":1}\n{\"a\":2}\n".to_vec(),
            json!([{"a": 1}, {"a": 2}]),
        ),
        (
            Some("application/json"),
            "\u{feff}{\"n\":\"Zoë\"}".into(),
            json!({"n": "Zoë"}),
        ),
        (
            Some("application/json; charset=utf-16"),
            utf_16("\u{feff}{\"n\":\"Zoë\"}"),
            json!({"n": "Zoë"}),
        ),
        (
            Some("application/json"),
            b"{\"id\":820982911946154508}".to_vec(),
            json!({"id": 820_982_911_946_154_508_u64}),
        ),
        (
            Some(form),
            b"i[1][s]=a&i[2][s]=b".to_vec(),
            json!({"i": {"1": {"s": "a"}, "2": {"s": "b"}}}),
        ),
        (
            Some(form),
            b"a=1&a[b]=2&&t=100%".to_vec(),
            json!({"a": ["1", {"b": "2"}], "t": "100%"}),
        ),
        (
            Some(form),
            b"n=M%FCller&charset=windows-1252".to_vec(),
            json!({"n": "Müller", "charset": "windows-1252"}),
        ),
        (
            Some("application/xml"),
            latin("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a x:y=\"1\"><b> ü </b></a>"),
            json!({"a": {"_attr": {"x:y": "1"}, "b": " ü "}}),
        ),
        (
            Some("text/xml"),
            b"<!DOCTYPE cXML SYSTEM \"http://x/cXML.dtd\"><cXML/>".to_vec(),
            json!({"cXML": ""}),
        ),
        (
            Some("multipart/form-data; boundary=B"),
            parts.into(),
            json!({"to": ["a", "b"], "f": file}),
        ),
    ];
    let mut sink = Sink::start().await;
    for (content_type, body, expected) in cases {
        let case = format!("{content_type:?} {}", String::from_utf8_lossy(&body));
        // A bad query refuses no good body.
        let mut post = sink.request(Method::POST, "?a=1&a[b]=2&c=%FF").body(body);
        if let Some(content_type) = content_type {
            post = post.header("content-type", content_type);
        }
        assert_eq!(sink.through(post).await, expected, "{case}");
    }
    let get = sink.request(Method::GET, "?t=M%FCller&a=1&a=2&p=100%");
    assert_eq!(
        sink.through(get).await,
        json!({"t": "Müller", "a": ["1", "2"], "p": "100%"})
    );
}

#[tokio::test]
async fn packed_bodies_are_unpacked_within_their_limit() {
    let mut sink = Sink::start().await;
    let post = |sink: &Sink, kind: &str, coding: &str, body: Vec<u8>| {
        let post = sink.request(Method::POST, "").header("content-type", kind);
        post.header("content-encoding", coding).body(body)
    };
    for (packing, coding) in [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("raw", "deflate"),
        ("br", "br"),
    ] {
        let json = post(
            &sink,
            "application/json",
            coding,
            packed(packing, b"{\"a\":1}").await,
        );
        assert_eq!(sink.through(json).await, json!({"a": 1}), "{packing}");
        let form = post(
            &sink,
            "application/x-www-form-urlencoded",
            coding,
            packed(packing, b"a=1&b=2").await,
        );
        assert_eq!(sink.through(form).await, json!({"a": "1", "b": "2"}), "{packing}");
        let bomb = packed(packing, &vec![b' '; (10 << 20) + 1]).await;
        sink.refused(post(&sink, "application/json", coding, bomb), 413)
            .await;
        sink.refused(
            post(&sink, "application/json", coding, b"\x01nothing".to_vec()),
            400,
        )
        .await;
    }
    sink.refused(post(&sink, "application/json", "zstd", b"{}".to_vec()), 415)
        .await;
    let admin = sink.server.admin().await.unwrap();
    let total = admin.get("/executions").await.unwrap();
    assert_eq!(
        total.at("/meta/total"),
        &json!(sink.taken),
        "nothing else was executed"
    );
}

#[tokio::test]
async fn settings_that_are_not_understood_open_no_webhook() {
    let server = server().await;
    let admin = server.admin().await.unwrap();
    let flow_with = |settings: &Value| {
        let mut flow = forward("http://127.0.0.1:1/");
        flow["flowSettings"] = settings.clone();
        flow
    };
    let stored = admin.create_flow(&forward("http://127.0.0.1:1/")).await.unwrap();
    for settings in [
        json!({"webhooks": {"requireWebhookAuth": "true"}}),
        json!({"webhooks": {"requireWebhookAuth": 1}}),
        json!({"webhooks": {"requireWebhookAuth": "yes"}}),
        json!({"webhooks": {"requireWebhookAuth": true, "allTenantUsers": "false"}}),
        json!({"webhooks": {"RequireWebhookAuth": true}}),
        json!({"webhooks": [true]}),
        json!({"webhooks": "requireWebhookAuth"}),
        json!({"requireWebhookAuth": true}),
        json!([{"webhooks": {"requireWebhookAuth": true}}]),
    ] {
        let refused = admin
            .post("/flows", &flow_with(&settings))
            .await
            .unwrap()
            .expect(400)
            .unwrap();
        assert!(
            refused.body.to_string().contains("flowSettings"),
            "{}",
            refused.body
        );
        let patch = json!({"flowSettings": settings});
        let patched = admin.patch(&format!("/flows/{stored}"), &patch).await.unwrap();
        patched.expect(400).unwrap();
    }
    let settings = json!({"webhooks": {"requireWebhookAuth": true}});
    let flow = admin.active_flow(&flow_with(&settings)).await.unwrap();
    let anonymous = server.anonymous().unwrap();
    let path = format!("/webhooks/{flow}");
    anonymous
        .post(&path, &json!({}))
        .await
        .unwrap()
        .expect(403)
        .unwrap();
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let post = anonymous.request(Method::POST, &path).body("{}");
        let post = post.header("authorization", format!("{scheme} {}", admin.token()));
        anonymous.send(post).await.unwrap().expect(200).unwrap();
    }
    let post = anonymous.request(Method::POST, &path).body("{}");
    let post = post.header("authorization", "Token abc");
    anonymous.send(post).await.unwrap().expect(403).unwrap();
}

#[tokio::test]
async fn webhooks_take_put_and_say_which_methods_there_are() {
    let mut sink = Sink::start().await;
    let put = sink
        .request(Method::PUT, "/part")
        .header("content-type", "application/json");
    assert_eq!(sink.through(put.body("{\"a\":1}")).await, json!({"a": 1}));
    for rest in ["", "/part"] {
        let head = sink.request(Method::HEAD, rest);
        sink.anonymous.send(head).await.unwrap().expect(200).unwrap();
        let options = sink.request(Method::OPTIONS, rest).send().await.unwrap();
        assert_eq!(
            (
                options.status().as_u16(),
                options.headers()["allow"].to_str().unwrap()
            ),
            (204, "GET, HEAD, OPTIONS, POST, PUT")
        );
        for method in [Method::HEAD, Method::OPTIONS] {
            let unknown = format!("/webhooks/5c99ec7e5ed40d3e7512cffa{rest}");
            let unknown = sink.anonymous.request(method, &unknown);
            sink.anonymous.send(unknown).await.unwrap().expect(404).unwrap();
        }
    }
}

#[tokio::test]
async fn repeated_headers_reach_the_flow_as_lists() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    let mut out = request("out", &receiver.url);
    out["fields"]["body"] = json!("{{ headers }}");
    let admin = server.admin().await.unwrap();
    let flow = admin.active_flow(&chain(&[receive(), out])).await.unwrap();
    let anonymous = server.anonymous().unwrap();
    let post = anonymous.request(Method::POST, &format!("/webhooks/{flow}"));
    let post = post
        .header("x-tag", "a")
        .header("x-tag", "b, c")
        .header("x-one", "1");
    anonymous
        .send(post.body("{}"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let headers = receiver.wait_for(1).await.unwrap().remove(0).body;
    assert_eq!(
        (&headers["x-tag"], &headers["x-one"]),
        (&json!(["a", "b, c"]), &json!("1"))
    );
}
