//! Microsoft's `hyco-https`, unmodified, answers HTTP requests through the relay as it does through Azure; Node's own
//! `https` sends them, with the addresses and tokens that the package makes.
use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use causeway_tests::{
    driver::{Driver, is_body},
    hyco,
    log::Entry,
    namespace::Namespace,
    nginx::{self, Nginx},
    pattern::Pattern,
    wait::within,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

/// Largest body that stays on the control channel.
const CONTROL_MAX: u64 = 65_536;

/// One request, and its answer.
async fn ask(sender: &mut Driver, command: Value) -> Entry {
    sender.tell(&command).await;
    sender.next("response").await
}

fn status(response: &Entry) -> (u16, String) {
    (response.field("status").unwrap().parse().unwrap(), response.field("reason").unwrap())
}

fn field(response: &Entry, name: &str) -> Option<String> {
    response.value("headers")?.get(name)?.as_str().map(str::to_owned)
}

/// What `/bytes` and `/pieces` of the listener answer.
fn counted(length: u64) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

fn pieces<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    all.into_iter().map(|piece| BASE64.encode(piece)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_https_sees_method_target_and_headers_and_never_the_token() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        for in_query in [false, true] {
            let response = ask(
                &mut sender,
                json!({
                    "path": "/sub%20path/seen?a=1&a=2&b", "inQuery": in_query, "id": "0f0e0d0c-1111-2222-3333-444455556666",
                    "headers": { "X-Application": "kept", "X-Twice": ["1", "2"], "Authorization": "Bearer application",
                        "Via": "1.0 before", "Connection": "X-Hop, keep-alive", "X-Hop": "one" },
                }),
            )
            .await;
            assert_eq!(status(&response), (200, "OK".to_owned()), "{}", response.line);
            // An answer that a listener made says so.
            assert_eq!(field(&response, "via").unwrap(), format!("1.1 {}", namespace.address.ip()));
            let seen: Value = serde_json::from_str(&response.field("text").unwrap()).unwrap();
            assert_eq!((&seen["method"], &seen["url"]), (&"GET".into(), &"/http/sub%20path/seen?a=1&a=2&b".into()));
            let headers = &seen["headers"];
            assert_eq!(headers["x-application"], "kept");
            assert_eq!(headers["x-twice"], "1, 2");
            assert_eq!(headers["authorization"], "Bearer application");
            assert_eq!(headers["host"], namespace.address.to_string());
            assert_eq!(headers["via"], format!("1.0 before, 1.1 {}", namespace.address.ip()));
            for gone in ["connection", "x-hop", "servicebusauthorization", "transfer-encoding", "content-length"] {
                assert!(headers.get(gone).is_none(), "{gone}: {headers}");
            }
            assert!(!seen.to_string().contains("SharedAccessSignature"), "{seen}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_https_takes_every_method() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            let response = ask(&mut sender, json!({ "method": method, "path": "/seen" })).await;
            let seen: Value = serde_json::from_str(&response.field("text").unwrap()).unwrap();
            assert_eq!(seen["method"], method);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_https_takes_bodies_on_both_sides_of_64_kib_sized_and_chunked() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        let mut rendezvous = 0;
        for length in [0, 1, CONTROL_MAX, CONTROL_MAX + 1, 3 * 1024 * 1024] {
            let body = Pattern::new(length).bytes();
            let answer = ask(
                &mut sender,
                json!({
                    "method": "POST", "path": "/echo", "pieces": pieces([&body[..]]),
                    "headers": { "Content-Length": length.to_string(), "Content-Type": "application/x-test" },
                }),
            )
            .await;
            assert!(status(&answer).0 == 200 && is_body(&answer, &body), "{length}: {}", answer.line);
            assert_eq!(field(&answer, "content-type").unwrap(), "application/x-test");
            rendezvous += usize::from(length > CONTROL_MAX);
            assert_eq!(listener.count("rendezvous"), rendezvous, "{length}: large requests alone go by rendezvous");
            if length > CONTROL_MAX {
                assert_eq!(listener.next("rendezvous closed").await.field("code").unwrap(), "1000");
            }
        }
        // Without a length: the package's sender writes chunks.
        for sizes in [vec![1, 2, 3], vec![40_000, 40_000], vec![100_000; 12]] {
            let body = Pattern::new(sizes.iter().sum()).bytes();
            let mut rest = &body[..];
            let mut cut = Vec::new();
            for size in &sizes {
                let (piece, more) = rest.split_at(usize::try_from(*size).unwrap());
                cut.push(piece);
                rest = more;
            }
            let answer = ask(&mut sender, json!({ "method": "PUT", "path": "/echo", "pieces": pieces(cut) })).await;
            assert!(status(&answer).0 == 200 && is_body(&answer, &body), "{sizes:?}: {}", answer.line);
        }
        for (path, length) in [
            ("/bytes/65536", CONTROL_MAX),
            ("/bytes/65537", CONTROL_MAX + 1),
            ("/bytes/5000000", 5_000_000),
            ("/pieces/1000/100", 1000),
            ("/pieces/1000000/7000", 1_000_000),
        ] {
            let answer = ask(&mut sender, json!({ "path": path })).await;
            assert!(status(&answer).0 == 200 && is_body(&answer, &counted(length)), "{path}: {}", answer.line);
        }
    })
    .await;
}

/// Behind these the package sends an empty message that its answer did not announce.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_hyco_https_without_a_body_leave_the_next_ones_alone() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        for (method, path, code) in [
            ("HEAD", "/bytes/100", 200),
            ("GET", "/status/204", 204),
            ("GET", "/status/304", 304),
            ("HEAD", "/status/404", 404),
        ] {
            for _ in 0..3 {
                let answer = ask(&mut sender, json!({ "method": method, "path": path })).await;
                assert_eq!(
                    (status(&answer).0, answer.field("length").unwrap().as_str()),
                    (code, "0"),
                    "{}",
                    answer.line
                );
                let answer = ask(&mut sender, json!({ "path": "/bytes/3" })).await;
                assert!(is_body(&answer, &counted(3)), "{}", answer.line);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_reasons_and_headers_of_hyco_https_reach_the_sender() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        for (code, reason) in [
            (200, "Fine"),
            (201, "Made"),
            (202, "Taken"),
            (206, "Some"),
            (301, "Over there"),
            (306, "Nobody uses it"),
            (400, "No"),
            (401, "Who"),
            (404, "Nothing here"),
            (409, "Later"),
            (418, "I'm a teapot"),
            (429, "Slowly"),
            (450, "Of our own"),
            (500, "Broken"),
            (502, "Behind me"),
            (503, "Busy"),
            (504, "Too slow"),
            (599, "Last"),
        ] {
            let path = format!("/status/{code}/{}", reason.replace(' ', "%20"));
            let answer = ask(&mut sender, json!({ "path": path })).await;
            assert_eq!(status(&answer), (code, reason.to_owned()));
            assert_eq!(answer.field("text").unwrap(), reason);
            assert!(field(&answer, "via").is_some(), "{}", answer.line);
        }
        let answer = ask(&mut sender, json!({ "path": "/cookies" })).await;
        assert_eq!(field(&answer, "x-listener").unwrap(), "hyco-https");
        // Of several fields of one name the package sends the first alone.
        let cookies = answer.value("headers").unwrap().get("set-cookie").unwrap();
        assert_eq!(cookies, &json!(["one=1; Path=/"]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_requests_at_once_share_one_hyco_https() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        let mut bodies = BTreeMap::new();
        for tag in 0..40_u64 {
            // Every fourth leaves the control channel.
            let length = if tag % 4 == 0 { 70_000 + tag } else { 100 + tag };
            let body = Pattern::new(length).bytes();
            let body = [&tag.to_be_bytes(), &body[..]].concat();
            sender.tell(&json!({ "tag": tag, "method": "POST", "path": "/echo", "pieces": pieces([&body[..]]) })).await;
            bodies.insert(tag.to_string(), body);
        }
        while !bodies.is_empty() {
            let response = sender.next("response").await;
            let body = bodies.remove(&response.field("tag").unwrap()).expect("each is answered once");
            assert!(status(&response).0 == 200 && is_body(&response, &body), "{}", response.line);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_https_that_does_not_renew_is_closed_with_1008_and_comes_back() {
    within(LIMIT, async {
        let namespace = Namespace::with(&[("http", "kind: http")], "tokens: { grace: 0s }").await;
        let mut listener = hyco::https_listener(&namespace, "http", json!({ "seconds": 3 })).await;
        let closed = listener.next("channel closed").await;
        assert_eq!(closed.field("code").unwrap(), "1008");
        assert!(closed.field("reason").unwrap().starts_with("ExpiredToken"), "{}", closed.line);
        // Its own ladder begins at no pause, and a new connection takes a new token.
        listener.next("listening").await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        let answer = ask(&mut sender, json!({ "path": "/bytes/3" })).await;
        assert!(is_body(&answer, &counted(3)), "{}", answer.line);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_https_that_renews_stays() {
    within(LIMIT, async {
        let namespace = Namespace::with(&[("http", "kind: http")], "tokens: { grace: 0s }").await;
        let mut listener = hyco::https_listener(&namespace, "http", json!({ "sooner": true, "seconds": 2 })).await;
        for _ in 0..8 {
            listener.next("token").await;
        }
        let mut sender = hyco::https_sender(&namespace, "http").await;
        let answer = ask(&mut sender, json!({ "path": "/bytes/3" })).await;
        assert!(is_body(&answer, &counted(3)), "{}", answer.line);
        assert_eq!((listener.count("listening"), listener.count("channel closed")), (1, 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_https_that_dies_fails_its_requests_at_once_and_the_relay_says_so() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::https_listener(&namespace, "http", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        sender.tell(&json!({ "path": "/never" })).await;
        listener.next("request").await;
        listener.kill().await;
        for _ in 0..2 {
            // First the request that was waiting, then one that finds nobody.
            let answer = sender.next("response").await;
            assert_eq!(status(&answer).0, 502, "{}", answer.line);
            assert!(field(&answer, "via").is_none(), "what the relay says itself has no Via: {}", answer.line);
            sender.tell(&json!({ "path": "/bytes/3" })).await;
        }
    })
    .await;
}

/// The package's sender, and a listener that has nothing of it: ours, with nginx behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_https_sender_reaches_nginx_behind_our_listener() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let nginx = Nginx::start(namespace.path());
        let _listener = namespace.listener("http", &format!("http: \"http://{}\"", nginx.address)).await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        for in_query in [false, true] {
            let answer = ask(&mut sender, json!({ "path": "/", "inQuery": in_query })).await;
            assert_eq!(
                (status(&answer), answer.field("text").unwrap()),
                ((200, "OK".to_owned()), nginx::HELLO.to_owned())
            );
            assert_eq!(field(&answer, "content-type").unwrap(), "text/html");
        }
        let answer = ask(&mut sender, json!({ "method": "HEAD", "path": "/missing" })).await;
        assert_eq!((status(&answer).0, answer.field("length").unwrap().as_str()), (404, "0"));
        for length in [CONTROL_MAX, CONTROL_MAX + 1, 3 * 1024 * 1024] {
            let body = Pattern::new(length).bytes();
            let path = format!("/files/{length}.bin");
            let put = json!({ "method": "PUT", "path": path, "pieces": pieces(body.chunks(100_000)) });
            let answer = ask(&mut sender, put).await;
            assert_eq!(status(&answer).0, 201, "{}", answer.line);
            let answer = ask(&mut sender, json!({ "path": path })).await;
            assert!(status(&answer).0 == 200 && is_body(&answer, &body), "{length}: {}", answer.line);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_https_comes_back_when_the_relay_does() {
    within(LIMIT, async {
        let mut namespace = Namespace::new().await;
        let mut listener = hyco::https_listener(&namespace, "http", json!({})).await;
        namespace.relay.kill().await;
        listener.next("channel closed").await;
        namespace.relay.start_again();
        listener.next("listening").await;
        let mut sender = hyco::https_sender(&namespace, "http").await;
        let answer = ask(&mut sender, json!({ "path": "/bytes/3" })).await;
        assert!(is_body(&answer, &counted(3)), "{}", answer.line);
    })
    .await;
}

/// hyco-ws ends at a request's body, so none is sent to it where both kinds listen.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_goes_to_a_hyco_ws_beside_a_hyco_https() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut sockets = hyco::ws_listener(&namespace, "open", json!({})).await;
        let _requests = hyco::https_listener(&namespace, "open", json!({})).await;
        let mut sender = hyco::https_sender(&namespace, "open").await;
        for _ in 0..20 {
            let answer =
                ask(&mut sender, json!({ "method": "POST", "path": "/echo", "pieces": pieces([&b"body"[..]]) })).await;
            assert!(status(&answer).0 == 200 && is_body(&answer, b"body"), "{}", answer.line);
        }
        assert_eq!(sockets.count("listening"), 1);
        sockets.tell(&json!({ "do": "stop" })).await;
        sockets.next("stopped").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_sender_is_told_when_a_hybrid_connection_is_for_the_other() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut sender = hyco::ws_sender(&namespace, "http", "", json!({}));
        let error = sender.next("error").await.field("text").unwrap();
        assert!(error.contains("(501)"), "{error}");
        let mut sender = hyco::https_sender(&namespace, "ws").await;
        let answer = ask(&mut sender, json!({})).await;
        assert_eq!(status(&answer).0, 501, "{}", answer.line);
    })
    .await;
}
