//! Our listener against relays that the tests play, which say what they like.
use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::{Message, handshake::server};

use crate::{
    listener::{Listener, echo},
    support::until,
};

/// Nothing but control channels is dialled.
#[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
fn only_control(
    request: &server::Request,
    response: server::Response,
) -> Result<server::Response, server::ErrorResponse> {
    assert!(request.uri().path().starts_with("/$hc/e"), "only control channels come: {}", request.uri());
    assert!(request.headers().contains_key("ServiceBusAuthorization"));
    Ok(response)
}

/// A relay that the test plays: accepts control channels and says what it likes on the first.
async fn hostile_relay(say: String) -> (SocketAddr, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, only_control).await.unwrap();
            for line in say.lines() {
                socket.send(Message::text(line)).await.unwrap();
            }
            kept.push(socket);
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn a_hostile_relay_cannot_send_the_listener_anywhere() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = trap.local_addr().unwrap().port();
    let (target, _echo) = echo().await;
    let accept = |address: &str| {
        serde_json::json!({ "accept": {
            "address": address, "id": "x", "connectHeaders": {}, "remoteEndpoint": { "address": "1.2.3.4", "port": 5 },
        } })
        .to_string()
    };
    let say = [
        accept(&format!("ws://127.0.0.1:{port}/$hc/e?sb-hc-action=accept")),
        accept(&format!("ws://localhost:{port}/$hc/e?sb-hc-action=accept")),
        accept("ws://169.254.169.254/$hc/e?sb-hc-action=accept"),
        accept(&format!("http://127.0.0.1:{port}/$hc/e")),
        accept("not an address"),
        "not JSON".to_owned(),
        r#"{"accept":{}}"#.to_owned(),
        "{\"x\":1}".to_owned(),
    ]
    .join("\n");
    let (address, _relay) = hostile_relay(say).await;
    let listener = Listener::new(&format!("ws://{address}/e"), "", &format!("{{ tcp: \"{target}\" }}"), None).await;
    listener.up().await;
    let refused = || {
        let text = listener.context.metrics.encode();
        ["refused_port", "refused_host", "refused_scheme", "refused_malformed"]
            .iter()
            .all(|outcome| text.contains(&format!("rendezvous_total{{outcome=\"{outcome}\"}}")))
    };
    until("every address is refused", refused).await;
    assert_eq!(listener.running.channels(), 2, "the channels are sound");
    let nobody = tokio::time::timeout(Duration::from_millis(100), trap.accept()).await;
    assert!(nobody.is_err(), "a packet left");
}

#[tokio::test]
async fn an_http_request_from_a_relay_is_answered_501() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (target, _echo) = echo().await;
    let forward = format!("{{ tcp: \"{target}\" }}");
    let ours = Listener::new(&format!("ws://{address}/e"), "channels: 1", &forward, None).await;
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    let request = r#"{"request":{"address":"wss://x/$hc/e","id":"r1","requestTarget":"/e","method":"POST","requestHeaders":{},"body":true}}"#;
    socket.send(Message::text(request)).await.unwrap();
    socket.send(Message::binary(b"body".to_vec())).await.unwrap();
    let Message::Text(answer) = socket.next().await.unwrap().unwrap() else { panic!("no text") };
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["response"]["requestId"], &answer["response"]["statusCode"]), (&"r1".into(), &501.into()));
    drop(ours);
}
