//! curl and Node's fetch as HTTP senders: through Microsoft's listener, one written from the published protocol alone, and
//! ours with nginx behind it.
use std::time::Duration;

use causeway_tests::{
    curl::{Answer, Curl},
    hyco,
    namespace::Namespace,
    nginx::Nginx,
    pattern::{Pattern, hex},
    process::{Process, Spec},
    python,
    targets::Events,
    wait::{named, within},
};
use serde_json::{Value, json};

use crate::service::{HeadLength, curl_sees_the_service, fetch_sees_the_service};

const LIMIT: Duration = Duration::from_secs(120);

/// A request with a token.
fn request(namespace: &Namespace, entity: &str, path: &str) -> Curl {
    bare(namespace, entity, path).header(format!("ServiceBusAuthorization: {}", namespace.send_token(entity)))
}

/// A request without a token.
fn bare(namespace: &Namespace, entity: &str, path: &str) -> Curl {
    let ca = namespace.path().join("ca.pem");
    Curl::new(namespace.url(&format!("{entity}{path}"))).args(["--cacert".into(), ca.into_os_string()])
}

fn seen(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn digest(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_asks_a_hyco_https_with_bodies_of_every_kind() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;

        let answer = request(&namespace, "http", "/seen?x=1").run().await;
        assert_eq!((answer.status, &seen(&answer)["url"]), (200, &json!("/http/seen?x=1")), "{answer:?}");
        assert_eq!(answer.fields["via"], format!("1.1 {}", namespace.address.ip()));
        let token = url::form_urlencoded::byte_serialize(namespace.send_token("http").as_bytes()).collect::<String>();
        let answer = bare(&namespace, "http", &format!("/seen?x=1&sb-hc-token={token}")).run().await;
        assert_eq!((answer.status, &seen(&answer)["url"]), (200, &json!("/http/seen?x=1")), "{answer:?}");

        let answer = request(&namespace, "http", "/echo").post("a body").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "a body"));
        let answer = request(&namespace, "http", "/bytes/100").head().run().await;
        assert_eq!((answer.exit, answer.status), (0, 200), "{answer:?}");

        let upload = namespace.path().join("upload.bin");
        let payload = Pattern::new(20 * 1024 * 1024 + 7).bytes();
        std::fs::write(&upload, &payload).unwrap();
        for chunked in [false, true] {
            // Were `Expect: 100-continue` not answered, curl would wait longer than it may take in all.
            let mut put = request(&namespace, "http", "/seen").upload(&upload).args(["--expect100-timeout", "600"]);
            put = put.header("Expect: 100-continue");
            if chunked {
                put = put.header("Transfer-Encoding: chunked");
            }
            let answer = put.run().await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let seen = seen(&answer);
            assert_eq!((&seen["length"], &seen["sha256"]), (&json!(payload.len()), &json!(digest(&payload))));
            assert!(seen["headers"].get("expect").is_none(), "the relay answers that itself: {seen}");
        }
        let small =
            request(&namespace, "http", "/echo").header("Transfer-Encoding: chunked").post("in chunks").run().await;
        assert_eq!((small.status, small.text().as_str()), (200, "in chunks"));

        let large = namespace.path().join("large.bin");
        let answer = request(&namespace, "http", "/pieces/20000000/50000").output(&large).run().await;
        assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.complaint);
        let expected: Vec<u8> = (0..20_000_000_u32).map(|index| (index % 251) as u8).collect();
        assert!(std::fs::read(&large).unwrap() == expected, "the download differs");

        // A client of HTTP/1.0 gets neither chunks nor a kept connection.
        let answer = request(&namespace, "http", "/pieces/200000/7000").args(["--http1.0"]).run().await;
        assert_eq!((answer.exit, answer.status, answer.body.len()), (0, 200, 200_000), "{answer:?}");
        assert!(!answer.fields.contains_key("transfer-encoding"), "{answer:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_told_by_status_and_via_who_refused_it() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let relays = async |curl: Curl, status: u16| {
            let answer = curl.run().await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert!(!answer.fields.contains_key("via"), "{answer:?}");
        };
        relays(bare(&namespace, "http", "/"), 401).await;
        relays(bare(&namespace, "http", "/").header("ServiceBusAuthorization: garbage"), 401).await;
        relays(
            bare(&namespace, "http", "/")
                .header(format!("ServiceBusAuthorization: {}", namespace.listen_token("http"))),
            403,
        )
        .await;
        relays(request(&namespace, "http", "/"), 502).await;
        relays(request(&namespace, "http", "/").args(["--request", "CONNECT"]), 400).await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let answer = request(&namespace, "http", "/status/502/behind").run().await;
        assert!(answer.status == 502 && answer.fields.contains_key("via"), "{answer:?}");
    })
    .await;
}

/// One connection, many requests: each goes to any of the listeners.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_kept_connection_are_spread_over_listeners() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let one = hyco::https_listener(&namespace, "http", json!({})).await;
        let other = hyco::https_listener(&namespace, "http", json!({})).await;
        let asked = request(&namespace, "http", "/echo?n=[1-60]").args(["--write-out", "%{num_connects}\n"]);
        let answer = asked.run().await;
        assert_eq!(answer.exit, 0, "{}", answer.complaint);
        assert_eq!(answer.text().lines().filter(|line| *line == "1").count(), 1, "one connection: {}", answer.text());
        let counts = [one.count("request"), other.count("request")];
        assert!(counts.iter().sum::<usize>() == 60 && counts.iter().all(|count| *count > 0), "{counts:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_written_from_the_published_protocol_answers_requests() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = python::listener(&namespace, "http").await;
        let answer = request(&namespace, "http", "/sub?a=b").header("X-Application: kept").run().await;
        assert_eq!((answer.status, answer.fields["content-type"].as_str()), (200, "application/json"), "{answer:?}");
        let asked = &seen(&answer)["request"];
        assert_eq!((&asked["method"], &asked["requestTarget"]), (&json!("GET"), &json!("/http/sub?a=b")));
        assert_eq!((&asked["body"], &asked["requestHeaders"]["X-Application"]), (&json!(false), &json!("kept")));
        assert_eq!(asked["remoteEndpoint"]["address"], "127.0.0.1");

        for length in [10, 65_536, 65_537, 2_000_000] {
            let upload = namespace.path().join("upload.bin");
            let payload = Pattern::new(length).bytes();
            std::fs::write(&upload, &payload).unwrap();
            let answer = request(&namespace, "http", "/sub").upload(&upload).run().await;
            assert_eq!(seen(&answer)["body"]["sha256"], digest(&payload), "{length}");
            if length > 65_536 {
                listener.next("rendezvous").await;
                assert_eq!(listener.next("rendezvous closed").await.field("code").unwrap(), "1000");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sees_nginx_through_the_relay_and_our_listener() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let nginx = Nginx::start(namespace.path());
        let _listener = namespace.listener("http", &format!("http: \"http://{}\"", nginx.address)).await;
        curl_sees_the_service(
            |path| request(&namespace, "http", path),
            HeadLength::Unsaid,
            &nginx.web(),
            namespace.path(),
        )
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_sees_nginx_through_the_relay_and_our_listener() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let nginx = Nginx::start(namespace.path());
        let _listener = namespace.listener("http", &format!("http: \"http://{}\"", nginx.address)).await;
        let fields = json!({ "ServiceBusAuthorization": namespace.send_token("http") });
        fetch_sees_the_service(
            &namespace.url("http"),
            HeadLength::Unsaid,
            &fields,
            Some(&namespace.path().join("ca.pem")),
        )
        .await;
    })
    .await;
}

/// The next event is sent only when the one before has been seen.
#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_reach_curl_one_by_one() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let events = Events::start().await;
        let _listener = namespace.listener("http", &format!("http: \"http://{}\"", events.address)).await;
        let curl = Process::start(Spec {
            name: "curl".to_owned(),
            program: "curl".into(),
            args: [
                "--disable",
                "--silent",
                "--show-error",
                "--no-buffer",
                "--noproxy",
                "*",
                "--cacert",
                "ca.pem",
                "--header",
                &format!("ServiceBusAuthorization: {}", namespace.send_token("http")),
                &namespace.url("http/events"),
            ]
            .map(Into::into)
            .to_vec(),
            env: Vec::new(),
            directory: namespace.path().to_owned(),
        });
        for number in 0..20 {
            let data = format!("event {number}");
            events.send(&data);
            let line = format!("data: {data}");
            let arrived = curl.log().wait(|entries| entries.iter().any(|entry| entry.line == line).then_some(()));
            named(&line, arrived).await;
        }
    })
    .await;
}
