//! Python's `websockets` as a sender, and as a listener that was written from the published protocol alone.
use std::time::Duration;

use causeway_tests::{
    driver::{binary, close, fragments, is_payload, text},
    hyco,
    namespace::Namespace,
    pattern::Pattern,
    python,
    wait::within,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_python_sender_and_a_hyco_ws_listener_understand_each_other() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        let mut sender = python::sender(&namespace, "ws", "/sub?x=1", json!({ "protocols": ["p1", "p2"] }));
        let open = sender.next("open").await;
        assert_eq!((open.field("protocol").unwrap().as_str(), open.field("extensions").unwrap().as_str()), ("p1", "0"));
        assert!(listener.next("connection").await.field("url").unwrap().contains("/$hc/ws/sub?x=1&"));
        let payload = Pattern::new(1024 * 1024).bytes();
        sender.tell(&text("grüße")).await;
        sender.tell(&binary(&payload)).await;
        sender.tell(&fragments([&payload[..10], &payload[10..]])).await;
        for (kind, bytes) in [("text", "grüße".as_bytes()), ("binary", &payload), ("binary", &payload)] {
            let message = sender.next("message").await;
            assert!(is_payload(&message, kind, bytes), "{}", message.line);
        }
        // The relay answers pings on each hop; the package waits for the answer.
        sender.tell(&json!({ "do": "ping" })).await;
        sender.next("pong").await;
        sender.tell(&close(4001, "enough")).await;
        let closed = listener.next("close").await;
        assert_eq!(
            (closed.field("code").unwrap().as_str(), closed.field("reason").unwrap().as_str()),
            ("4001", "enough")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_read_as_dotnet_reads_it() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let _listener = python::listener(&namespace, "ws").await;
        let described = python::describe(&namespace, "ws").next("described").await;
        assert_eq!(described.field("RequiresClientAuthorization").unwrap(), "true");
        assert_eq!(described.field("ListenerCount").unwrap(), "1");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_written_from_the_published_protocol_accepts_and_rejects() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = python::listener(&namespace, "ws").await;
        let mut sender = hyco::ws_sender(&namespace, "ws", "", json!({ "protocols": ["p1", "p2"] }));
        // It takes the last subprotocol of the list, unlike the SDKs.
        assert_eq!(sender.next("open").await.field("protocol").unwrap(), "p2");
        assert_eq!(listener.next("open").await.field("protocol").unwrap(), "p2");
        let payload = Pattern::new(1024 * 1024).bytes();
        sender.tell(&binary(&payload)).await;
        assert!(is_payload(&sender.next("message").await, "binary", &payload));
        sender.tell(&close(1000, "done")).await;
        assert_eq!(listener.next("close").await.field("reason").unwrap(), "done");

        let mut sender = python::sender(&namespace, "ws", "/reject/418/no%20coffee%20%26%20no%20tea", json!({}));
        let refused = sender.next("refused").await;
        assert_eq!(refused.field("status").unwrap(), "418");
        let reason = refused.field("reason").unwrap();
        assert!(reason.starts_with("no coffee & no tea. TrackingId:"), "{reason}");
        // A listener's rejection is answered by 410, and that means success.
        assert_eq!(listener.next("rejected").await.field("status").unwrap(), "410");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_listener_that_renews_outlives_its_first_token() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = python::listener(&namespace, "ws").await;
        listener.tell(&json!({ "do": "renew", "token": namespace.listen_token("ws") })).await;
        let mut sender = python::sender(&namespace, "ws", "", json!({}));
        sender.next("open").await;
        sender.tell(&text("after the renewal")).await;
        sender.next("message").await;
    })
    .await;
}
