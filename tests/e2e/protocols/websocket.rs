//! WebSockets through an HTTP face, which the service's own word turns into a byte stream.
use std::net::SocketAddr;

use causeway_tests::{
    chromium,
    driver::{Driver, binary, close, is_payload, text},
    pattern::Pattern,
    process::Process,
    python,
    site::CLUSTER,
    wait::within,
};
use serde_json::{Value, json};

use super::{LIMIT, Mode, Plan, World, face};

async fn service(options: Value) -> (Driver, SocketAddr) {
    let folder = std::env::temp_dir();
    let mut service = python::script("websocket service", "websocket_service.py", &folder, &options);
    let address = service.process().address("websocket").await;
    (service, address)
}

async fn python_to_python(mode: Mode) {
    let (mut service, address) = service(json!({})).await;
    let targets = vec![("ws.test", address)];
    let faces = vec![face("http", "ws.test", address)];
    let world = World::new(mode, Plan { targets, faces, ..Plan::default() }).await;
    let url = format!("ws://{}/chat?room=1", world.faces[0]);
    let options = json!({ "url": url, "protocols": ["p2", "p1"] });
    let mut client = python::script("websocket client", "sender.py", world.site.path(), &options);
    // The service takes the first of its own that the client offers.
    assert_eq!(client.next("open").await.field("protocol").unwrap(), "p1");
    let open = service.next("open").await;
    assert_eq!(
        (open.field("path").unwrap().as_str(), open.field("protocol").unwrap().as_str()),
        ("/chat?room=1", "p1")
    );
    let payload = Pattern::new(1024 * 1024).bytes();
    client.tell(&text("grüße")).await;
    client.tell(&binary(&payload)).await;
    for (kind, bytes) in [("text", "grüße".as_bytes()), ("binary", &payload)] {
        let message = service.next("message").await;
        assert!(is_payload(&message, kind, bytes), "{}", message.line);
        let message = client.next("message").await;
        assert!(is_payload(&message, kind, bytes), "{}", message.line);
    }
    client.tell(&json!({ "do": "ping" })).await;
    client.next("pong").await;
    client.tell(&close(4001, "enough")).await;
    let closed = service.next("close").await;
    assert_eq!((closed.field("code").unwrap().as_str(), closed.field("reason").unwrap().as_str()), ("4001", "enough"));

    // What the service refuses is a plain answer, and the face goes on.
    let options = json!({ "url": format!("ws://{}/refused", world.faces[0]) });
    let mut client = python::script("websocket client", "sender.py", world.site.path(), &options);
    assert_eq!(client.next("refused").await.field("status").unwrap(), "403");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_websockets_meet_in_direct_mode() {
    within(LIMIT, python_to_python(Mode::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_websockets_meet_through_a_relay() {
    within(LIMIT, python_to_python(Mode::Relay)).await;
}

/// One side goes without a word: the other is told at once, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_breaks_breaks_on_the_other_side() {
    within(LIMIT, async {
        let (mut service, address) = service(json!({})).await;
        let targets = vec![("ws.test", address)];
        let faces = vec![face("http", "ws.test", address)];
        let world = World::new(Mode::Direct, Plan { targets, faces, ..Plan::default() }).await;
        let options = json!({ "url": format!("ws://{}/", world.faces[0]), "protocols": ["p1"] });
        let mut client = python::script("websocket client", "sender.py", world.site.path(), &options);
        client.next("open").await;
        client.kill().await;
        assert_eq!(service.next("close").await.field("code").unwrap(), "1006");
        let mut client = python::script("websocket client", "sender.py", world.site.path(), &options);
        client.next("open").await;
        service.kill().await;
        assert_eq!(client.next("close").await.field("code").unwrap(), "1006");
    })
    .await;
}

/// A page that the service serves through the face opens a WebSocket to where it came from, which the face's owner allows;
/// a page from elsewhere may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_websocket_comes_from_a_page_that_is_allowed() {
    within(LIMIT, async {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/protocols/websocket.html");
        let (mut service, address) = service(json!({ "page": page })).await;
        let own = ("http", format!("to: {CLUSTER}/ws.test:{}, as: connector, origins: [self]", address.port()));
        let faces = vec![own, face("http", "ws.test", address)];
        let world =
            World::new(Mode::Direct, Plan { targets: vec![("ws.test", address)], faces, ..Plan::default() }).await;
        let _browser = browser(&world, &world.url(0, "/page"));
        let open = service.next("open").await;
        assert_eq!(open.field("origin").unwrap(), world.url(0, ""));
        assert!(is_payload(&service.next("message").await, "text", "grüße".as_bytes()));
        let large: Vec<u8> = (0..1024 * 1024).map(|index: u32| (index % 251) as u8).collect();
        assert!(is_payload(&service.next("message").await, "binary", &large));
        let told = service.next("message").await.field("text").unwrap();
        assert_eq!(told, "told text grüße; binary 1048576 true");
        assert_eq!(service.next("close").await.field("code").unwrap(), "4002");

        let mark = world.connector.log().mark();
        let _stranger = browser(&world, &world.url(1, "/page"));
        let refused = |entry: &causeway_tests::log::Entry| entry.field("ended").as_deref() == Some("invalid_request");
        let line = world.connector.log().entry("a refusal", mark, refused).await;
        assert!(line.contains("Origin"), "{}", line.line);
    })
    .await;
}

fn browser(world: &World, url: &str) -> Process {
    // A profile for each page, in a folder of its own.
    let profile = url.rsplit_once(':').map_or("page", |(_, rest)| rest).replace('/', "-");
    let folder = world.site.file(&profile);
    std::fs::create_dir(&folder).unwrap();
    chromium::open(&folder, url, &[])
}
