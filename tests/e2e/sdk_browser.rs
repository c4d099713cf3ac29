//! A browser's own WebSocket is a sender: it can set no header, so its token travels in the address.
use std::time::Duration;

use causeway_tests::{chromium, driver::is_payload, hyco, namespace::Namespace, wait::within};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn chromiums_websocket_sends_with_a_token_in_the_address() {
    within(LIMIT, async {
        let namespace = Namespace::new().await;
        let mut listener = hyco::ws_listener(&namespace, "ws", json!({})).await;
        let token = url::form_urlencoded::byte_serialize(namespace.send_token("ws").as_bytes()).collect::<String>();
        let address = namespace.connect_url("ws", &format!("/page?from=browser&sb-hc-token={token}"));
        let address = url::form_urlencoded::byte_serialize(address.as_bytes()).collect::<String>();
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/browser.html");
        // Chromium has a trust store of its own; this names the one key that it is to believe.
        let believed = format!("--ignore-certificate-errors-spki-list={}", namespace.certified_key());
        let _chromium = chromium::open(namespace.path(), &format!("file://{page}#{address}"), &[believed]);
        let url = listener.next("connection").await.field("url").unwrap();
        assert!(url.contains("/$hc/ws/page?from=browser&") && !url.contains("sb-hc-token"), "{url}");
        assert_eq!(listener.next("open").await.field("protocol").unwrap(), "p1");
        assert!(is_payload(&listener.next("message").await, "text", "grüße".as_bytes()));
        let large: Vec<u8> = (0..1024 * 1024).map(|index: u32| (index % 251) as u8).collect();
        assert!(is_payload(&listener.next("message").await, "binary", &large));
        let told = listener.next("message").await.field("text").unwrap();
        assert_eq!(told, "told open p1 []; text grüße; binary 1048576 true");
        let closed = listener.next("close").await;
        assert_eq!(
            (closed.field("code").unwrap().as_str(), closed.field("reason").unwrap().as_str()),
            ("4002", "page is done")
        );
    })
    .await;
}
