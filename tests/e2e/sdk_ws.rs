//! Microsoft's `hyco-ws`, unmodified, listens and sends through the relay as it does through Azure.
use std::time::Duration;

use causeway_tests::{
    driver::{Driver, binary, close, fragments, is_payload, text},
    hyco,
    namespace::{LISTEN, Namespace, SEND},
    pattern::Pattern,
    targets::Target,
    wait::within,
};
use daemon::{config::SecretRef, process::Context};
use relay::{
    dial::Dialer,
    sender::{Address, CredentialConfig, Request, Sender},
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(90);

const MEBIBYTE: u64 = 1024 * 1024;

/// Sends one message of each kind from a sender to a listener that echoes, and sees each arrive there and come back.
async fn echoes(sender: &mut Driver, listener: &mut Driver) {
    for said in ["plain", "grüße, 世界 🌍", ""] {
        sender.tell(&text(said)).await;
        for side in [&mut *listener, &mut *sender] {
            let message = side.next("message").await;
            assert!(is_payload(&message, "text", said.as_bytes()), "{}", message.line);
        }
    }
    for length in [1, 125, 126, 65_535, 65_536, MEBIBYTE, 3 * MEBIBYTE + 5] {
        let payload = Pattern::new(length).bytes();
        sender.tell(&binary(&payload)).await;
        for side in [&mut *listener, &mut *sender] {
            let message = side.next("message").await;
            assert!(is_payload(&message, "binary", &payload), "{}", message.line);
        }
    }
    let large = "0123456789abcdef".repeat(65_536);
    sender.tell(&text(&large)).await;
    for side in [listener, sender] {
        let message = side.next("message").await;
        assert!(is_payload(&message, "text", large.as_bytes()), "{}", message.line);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_ws_on_both_sides_exchanges_text_and_binary_up_to_megabytes() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({}));
        let open = sender.next("open").await;
        // It offers compression; the relay leaves that unanswered.
        assert_eq!(open.field("extensions").unwrap(), "[]");
        listener.next("open").await;
        echoes(&mut sender, &mut listener).await;

        // What the sender cuts into fragments arrives as one message.
        let payload = Pattern::new(300_000).bytes();
        sender.tell(&fragments([&payload[..1], &payload[1..100_000], &[], &payload[100_000..]])).await;
        for side in [&mut listener, &mut sender] {
            let message = side.next("message").await;
            assert!(is_payload(&message, "binary", &payload), "{}", message.line);
        }

        // What the listener's application begins by itself.
        listener.tell(&json!({ "do": "send", "number": 0, "text": "from the listener" })).await;
        let message = sender.next("message").await;
        assert!(is_payload(&message, "text", b"from the listener"), "{}", message.line);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_ws_close_codes_and_reasons_pass_both_ways() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        for (code, reason) in [(1000, ""), (1000, "done"), (3000, "registered"), (4321, "private, with ümlaut")] {
            let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({}));
            let number = listener.next("open").await.field("number").unwrap();
            sender.next("open").await;
            sender.tell(&close(code, reason)).await;
            let closed = listener.next("close").await;
            assert_eq!(closed.field("number").unwrap(), number);
            assert_eq!(
                (closed.field("code").unwrap(), closed.field("reason").unwrap()),
                (code.to_string(), reason.into())
            );
            sender.next("close").await;

            let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({}));
            let number: u64 = listener.next("open").await.field("number").unwrap().parse().unwrap();
            sender.next("open").await;
            listener.tell(&json!({ "do": "close", "number": number, "code": code, "reason": reason })).await;
            let closed = sender.next("close").await;
            assert_eq!(
                (closed.field("code").unwrap(), closed.field("reason").unwrap()),
                (code.to_string(), reason.into())
            );
            listener.next("close").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_ws_sees_suffix_and_query_and_never_the_token() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        // The token once in the header and once in the query; the package signs the address with its suffix.
        for more in [json!({}), json!({ "inQuery": true })] {
            let rest = "/deep/er%20path?a=1&a=2&empty=&flag";
            let mut sender = hyco::ws_sender(&namespace, "ws", rest, more);
            sender.next("open").await;
            let url = listener.next("connection").await.field("url").unwrap();
            assert!(url.contains("/$hc/ws/deep/er%20path?a=1&a=2&empty=&flag&"), "{url}");
            assert!(!url.contains("sb-hc-token") && !url.contains("SharedAccessSignature"), "{url}");
            sender.tell(&text("through")).await;
            listener.next("message").await;
            sender.next("message").await;
        }
        // For senders that offer compression the package dials with a header whose name is `0`.
        let headers =
            listener.process().log().entries().into_iter().find(|entry| entry.message() == "headers").unwrap();
        assert_eq!(headers.field("headers").unwrap(), r#"["Sec-WebSocket-Extensions: permessage-deflate"]"#);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hyco_ws_chooses_the_subprotocol_for_both_sides() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        // Left to itself, the package takes the first.
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({ "protocols": ["p1", "p2"] }));
        assert_eq!(sender.next("open").await.field("protocol").unwrap(), "p1");
        assert_eq!(listener.next("open").await.field("protocol").unwrap(), "p1");
        listener.kill().await;
        sender.next("close").await;

        let mut listener = hyco::ws_listener(&namespace, "ws", json!({ "protocol": "p2" })).await;
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({ "protocols": ["p1", "p2"] }));
        assert_eq!(sender.next("open").await.field("protocol").unwrap(), "p2");
        assert_eq!(listener.next("offered").await.field("protocols").unwrap(), r#"["p1","p2"]"#);
        assert_eq!(listener.next("open").await.field("protocol").unwrap(), "p2");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_ws_sender_is_told_the_status_of_its_refusal() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        for (entity, more, status) in [
            ("ws", json!({}), 404),
            ("ws", json!({ "key": "not the key" }), 401),
            ("ws", json!({ "rule": LISTEN, "key": namespace.listen_key }), 403),
        ] {
            let mut sender = hyco::ws_sender(&namespace, entity, "", more);
            let error = sender.next("error").await.field("text").unwrap();
            assert!(error.contains(&format!("unexpected server response ({status})")), "{error}");
            assert_eq!(sender.next("close").await.field("code").unwrap(), "1006");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_ws_sender_needs_no_token_where_senders_are_anonymous() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "open", json!({})).await;
        // No token, and one that is worth nothing.
        for more in [json!({ "rule": null }), json!({ "key": "not the key" })] {
            let mut sender = hyco::ws_sender(&namespace, "open", "", more);
            sender.next("open").await;
            sender.tell(&text("nobody in particular")).await;
            listener.next("message").await;
            sender.next("message").await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_ws_listener_renews_its_token_and_stays() {
    within(LIMIT, async {
        // A token of two seconds and no grace: without renewals the channel would end while the test runs.
        let namespace = Namespace::with(&[("ws", "kind: websocket")], "tokens: { grace: 0s }").await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({ "sooner": true, "seconds": 2 })).await;
        for _ in 0..8 {
            listener.next("token").await;
        }
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({}));
        sender.next("open").await;
        sender.tell(&text("still here")).await;
        sender.next("message").await;
        assert_eq!(listener.count("listening"), 1, "one channel for all that time");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_sender_reaches_a_hyco_ws_listener() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        let sender = Sender::new(Dialer::default(), namespace.pki.connector(&[b"http/1.1"]).config().clone());
        let address: Address = format!("sb://{}/ws", namespace.address).parse().unwrap();
        let config = CredentialConfig::Sas { rule: SEND.to_owned(), key: SecretRef::File("send.key".into()) };
        let credential = config.open(&address, namespace.path(), &Context::new("test")).unwrap();
        let request = Request { protocols: &["p1", "p2"], ..Request::default() };
        let mut connected = sender.dial(&address, &credential, request).await.unwrap();
        assert_eq!(connected.protocol.as_deref(), Some("p1"));
        listener.next("open").await;
        let payload = Pattern::new(MEBIBYTE + 1).bytes();
        let (mut read, mut write) = tokio::io::split(&mut connected.stream);
        let mut back = vec![0; payload.len()];
        let (sent, received) = tokio::join!(
            async {
                write.write_all(&payload).await?;
                write.flush().await
            },
            read.read_exact(&mut back)
        );
        sent.unwrap();
        received.unwrap();
        assert!(back == payload, "what came back differs");
        write.shutdown().await.unwrap();
        assert_eq!(listener.next("close").await.field("code").unwrap(), "1000");
        assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_ws_sender_reaches_a_service_behind_our_listener() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let echo = Target::echo().await;
        let _listener = namespace.listener("ws", &format!("tcp: \"{}\"", echo.address)).await;
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({}));
        sender.next("open").await;
        for length in [5, 70_000] {
            let payload = Pattern::new(length).bytes();
            sender.tell(&binary(&payload)).await;
            // A byte stream has no message boundaries: what matters is that all of it comes back, in order.
            let mut back = 0;
            while back < length {
                back += sender.next("message").await.field("length").unwrap().parse::<u64>().unwrap();
            }
            assert_eq!(back, length);
        }
        sender.tell(&close(1000, "done")).await;
        assert_eq!(sender.next("close").await.field("code").unwrap(), "1000");
    })
    .await;
}

/// Left to itself the package doubles its attempts with each refusal, and has no pause between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_hyco_ws_listener_with_a_bad_token_makes_a_bounded_number_of_attempts() {
    within(2 * LIMIT, async {
        let namespace = Namespace::new().await;
        let mut others = hyco::ws_listener(&namespace, "open", json!({})).await;
        let mut refused = hyco::ws_listener_refused(&namespace, "ws", json!({ "key": "not the key" }));
        let error = refused.next("error").await.field("text").unwrap();
        assert!(error.contains("unexpected server response (401)"), "{error}");

        // One attempt became two and two became four; those are kept apart for a while, then told why, and come back.
        for _ in 0..4 {
            refused.next("listening").await;
        }
        let mut sender = hyco::ws_sender(&namespace, "open", "", json!({}));
        sender.next("open").await;
        echoes(&mut sender, &mut others).await;
        for _ in 0..8 {
            refused.next("listening").await;
        }
        let (opened, attempts) = (refused.count("listening"), refused.count("token"));
        assert!(attempts <= opened + 3 + 4, "{attempts} attempts, of which {opened} were parked");

        // Nobody is sent to who only seems to listen.
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({}));
        assert!(sender.next("error").await.field("text").unwrap().contains("(404)"));
    })
    .await;
}
