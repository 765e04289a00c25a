//! What is on the wire between a step and another system: tests with a played receiver.

use std::sync::Mutex;

use async_compression::tokio::bufread::{
    BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder,
};
use flowmate_common::{
    Budget, Clock,
    ids::{ExecutionId, StepRunId},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::testing::{MOMENT, data, message, node};

/// A receiver that answers each request with the next of its answers.
struct Receiver {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn answering(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = received(&mut stream).await;
                record.lock().unwrap().push(request);
                stream.write_all(&answer).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// A request to its end, names of headers in lower case as they are.
async fn received(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap();
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_ne!(read, 0, "the request ended early");
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text.into_owned();
        }
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn redirect(status: &str, to: &str) -> Vec<u8> {
    answer(status, &format!("location: {to}\r\n"), b"")
}

/// What a step with these fields does with this data, tried once.
async fn tried(fields: Value, input: &Value, budget: Budget) -> Result<Value, Failure> {
    let settings = Settings {
        private_targets: serde_json::from_value("127.0.0.0/8".into()).unwrap(),
        retry: RetryPolicy::default(),
        budget,
        clock: Clock::System,
    };
    let client = Arc::new(Client::new(settings).unwrap());
    let request = Request::compile(&node("request", &fields), client).unwrap();
    let call = Call {
        message: &message(input),
        execution: &ExecutionId::from("execution"),
        step_run: &StepRunId::from("run"),
        moment: MOMENT,
    };
    let attempt = request.prepare(&call).map_err(|error| Failure {
        message: error.message,
        transient: false,
        after: None,
    })?;
    Ok(data(&attempt.run().await?).remove(0))
}

async fn got(fields: Value) -> Result<Value, Failure> {
    tried(fields, &value!({"a": 1}), Budget::new(256 << 20)).await
}

async fn packed(mut encoder: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn packed_answers_are_unpacked_also_where_the_step_asked_for_them() {
    let json = &br#"{"hello":"hello hello hello"}"#[..];
    let gzip = packed(GzipEncoder::new(json)).await;
    let twice = packed(BrotliEncoder::new(&gzip[..])).await;
    for (coding, bytes) in [
        ("gzip", gzip),
        ("deflate", packed(ZlibEncoder::new(json)).await),
        ("deflate", packed(DeflateEncoder::new(json)).await),
        ("br", packed(BrotliEncoder::new(json)).await),
        ("zstd", packed(ZstdEncoder::new(json)).await),
        ("gzip, br", twice),
        ("identity", json.to_vec()),
    ] {
        let headers = format!("content-type: application/json\r\ncontent-encoding: {coding}\r\n");
        let answers = vec![answer("200 OK", &headers, &bytes); 2];
        let receiver = Receiver::answering(answers).await;
        for fields in [
            value!({"url": receiver.url}),
            value!({"url": receiver.url, "headers": {"accept-encoding": coding}}),
        ] {
            let answer = got(fields).await.unwrap();
            assert_eq!(answer["body"]["hello"], "hello hello hello", "{coding}");
            assert_eq!(
                answer["headers"].get("content-encoding").is_some(),
                coding == "identity"
            );
        }
        assert!(receiver.seen()[0].contains("accept-encoding: gzip, deflate, br, zstd"));
    }
    let unknown = answer("200 OK", "content-encoding: compress\r\n", b"\x1f\x9d\x90\xff");
    let receiver = Receiver::answering(vec![unknown]).await;
    let answer = got(value!({"url": receiver.url})).await.unwrap();
    assert_eq!(answer["body"]["base64"], "H52Q/w==");
    assert_eq!(answer["headers"]["content-encoding"], "compress");
}

#[tokio::test]
async fn what_is_unpacked_counts() {
    let zeros = vec![b'0'; 11 << 20];
    for (coding, bomb) in [
        ("gzip", packed(GzipEncoder::new(&zeros[..])).await),
        ("zstd", packed(ZstdEncoder::new(&zeros[..])).await),
    ] {
        let headers = format!("content-type: text/plain\r\ncontent-encoding: {coding}\r\n");
        let receiver = Receiver::answering(vec![answer("200 OK", &headers, &bomb); 2]).await;
        let fields = value!({"url": receiver.url});
        let failure = got(fields.clone()).await.unwrap_err();
        assert!(
            !failure.transient && failure.message.contains("more than"),
            "{failure:?}"
        );
        let failure = tried(fields, &value!({}), Budget::new(8 << 20))
            .await
            .unwrap_err();
        assert!(
            failure.transient && failure.message.contains("no room"),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_not_what_it_says_is_still_an_answer() {
    let receiver = Receiver::answering(vec![
        answer("200 OK", "content-type: application/json\r\n", b"ok"),
        answer("200 OK", "content-type: application/json\r\n", b"\xef\xbb\xbf[1]"),
        answer(
            "200 OK",
            "content-type: text/plain; charset=latin1\r\n",
            b"\xfcber",
        ),
        answer("200 OK", "set-cookie: a=1\r\nset-cookie: b=2\r\n", b"\xff\x00"),
    ])
    .await;
    let fields = value!({"url": receiver.url});
    for body in [value!("ok"), value!([1]), value!("über")] {
        assert_eq!(got(fields.clone()).await.unwrap()["body"], body);
    }
    let last = got(fields).await.unwrap();
    assert_eq!(last["headers"]["set-cookie"], value!(["a=1", "b=2"]));
    assert_eq!(last["body"], value!({"contentType": "", "base64": "/wA="}));
}

#[tokio::test]
async fn another_origin_learns_no_secret_and_gets_no_body() {
    let other = Receiver::answering(vec![answer("200 OK", "", b"there"); 2]).await;
    let secrets = value!({"authorization": "Bearer s3cret", "x-api-key": "s3cret", "cookie": "s3cret", "accept": "text/plain"});
    for status in ["302 Found", "307 Temporary Redirect"] {
        let one = Receiver::answering(vec![redirect(status, &format!("{}/there", other.url))]).await;
        let url = format!("{}/?key=s3cret", one.url);
        let answer = got(value!({"url": url, "method": "GET", "headers": secrets}))
            .await
            .unwrap();
        assert_eq!(answer["body"], "there");
    }
    for seen in other.seen() {
        assert!(!seen.contains("s3cret") && !seen.contains("referer"), "{seen}");
        assert!(seen.contains("accept: text/plain"), "{seen}");
    }
    let one = Receiver::answering(vec![redirect("308 Permanent Redirect", &other.url)]).await;
    let refused = got(value!({"url": one.url})).await.unwrap_err();
    assert!(
        !refused.transient && refused.message.contains("another origin"),
        "{refused:?}"
    );
    assert_eq!(other.seen().len(), 2);
}

#[tokio::test]
async fn redirects_are_judged_each_and_end() {
    let answers = [
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
    ];
    for target in answers {
        let one = Receiver::answering(vec![
            redirect("302 Found", "/next"),
            redirect("302 Found", target),
        ])
        .await;
        let refused = got(value!({"url": one.url})).await.unwrap_err();
        assert!(
            !refused.transient && refused.message.contains("not sent on"),
            "{refused:?}"
        );
        assert_eq!(one.seen().len(), 2);
    }
    let endless = Receiver::answering(vec![redirect("302 Found", "/"); 9]).await;
    let ended = got(value!({"url": endless.url})).await.unwrap_err();
    assert!(
        !ended.transient && ended.message.contains("redirects"),
        "{ended:?}"
    );
    assert_eq!(endless.seen().len(), 6);
}

#[tokio::test]
async fn only_some_failures_are_worth_another_try() {
    for (status, transient) in [
        ("408 Request Timeout", true),
        ("429 Too Many Requests", true),
        ("500 Internal Server Error", true),
        ("404 Not Found", false),
    ] {
        let receiver = Receiver::answering(vec![answer(status, "retry-after: 0.5\r\n", b"why")]).await;
        let failure = got(value!({"url": receiver.url})).await.unwrap_err();
        assert_eq!(failure.transient, transient, "{failure:?}");
        assert_eq!(failure.after, Some(Duration::from_millis(500)));
        assert!(failure.message.ends_with("why"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_an_error_at_once() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let failure = got(value!({"url": format!("https://localhost:{port}/")}))
        .await
        .unwrap_err();
    assert!(
        !failure.transient && failure.message.contains("certificate"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn what_is_absent_is_not_sent_and_what_is_nested_is_written_in_brackets() {
    let receiver = Receiver::answering(vec![answer("200 OK", "", b""); 2]).await;
    let fields = value!({"url": format!("{}/users/{{{{ data.id }}}}", receiver.url), "bodyType": "form",
        "headers": {"x-trace": "{{ data.trace }}", "x-name": "{{ data.name }}"},
        "query": {"none": "{{ data.none }}", "filter": {"a": "{{ data.id }}"}},
        "body": {"metadata": {"id": "{{ data.id }}"}, "none": "{{ data.none }}"}});
    let budget = Budget::new(1 << 20);
    tried(
        fields.clone(),
        &value!({"id": "a/b", "name": "Müller"}),
        budget.clone(),
    )
    .await
    .unwrap();
    let seen = receiver.seen().remove(0);
    assert!(
        seen.starts_with("POST /users/a%2Fb?filter%5Ba%5D=a%2Fb HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(seen.ends_with("\r\n\r\nmetadata%5Bid%5D=a%2Fb"), "{seen}");
    assert!(
        !seen.contains("x-trace") && seen.contains("x-name: Müller\r\n"),
        "{seen}"
    );
    let refused = tried(fields, &value!({}), budget).await.unwrap_err();
    assert!(refused.message.contains("{{ data.id }}"), "{refused:?}");
    assert_eq!(receiver.seen().len(), 1);
}
