//! What the log and the counters say of HTTP senders' requests.
use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::support::{Client, relay, request, respond, serve_one};
use crate::{
    access::{Log, check},
    support::{Relay, dial_address, until},
};

/// The newest line, once there are so many.
async fn line(log: &Log, count: usize) -> Value {
    until("the request's line", || log.lines("http").len() >= count).await;
    let mut lines = log.lines("http");
    assert_eq!(lines.len(), count, "one line for each request");
    lines.pop().unwrap()
}

#[tokio::test]
async fn each_request_of_a_connection_has_one_line_with_everything_in_it() {
    let (log, _guard) = Log::start();
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.with_body("POST /e/a/b?secret=MARKER", &["Cookie: MARKER", "X-Own: MARKER"], b"question").await;
    let asked = request(&mut control.0).await;
    let made = json!({
        "requestId": asked.id(), "statusCode": 201, "statusDescription": "MARKER",
        "responseHeaders": { "Set-Cookie": "MARKER" }, "body": true,
    });
    respond(&mut control.0, made, Some(b"answer")).await;
    assert_eq!(client.reply().await.status, 201);
    let first = line(&log, 1).await;
    let everything: [(&str, Value); 12] = [
        ("entity", "e".into()),
        ("method", "POST".into()),
        ("path", "e/a/b".into()),
        ("listener", "listener-1".into()),
        ("holder", "send".into()),
        ("status", 201.into()),
        ("outcome", "complete".into()),
        ("fault", "none".into()),
        ("detail", "".into()),
        ("bytes_up", 8.into()),
        ("bytes_down", 6.into()),
        ("level", "INFO".into()),
    ];
    check(&first, &everything);
    assert!(first["first_byte_ms"].as_u64().unwrap() <= first["duration_ms"].as_u64().unwrap(), "{first}");

    client.head("HEAD /e", &[]).await;
    serve_one(&mut control.0, b"").await;
    client.reply_to(true).await;
    let second = line(&log, 2).await;
    check(&second, &[("method", "HEAD".into()), ("path", "e".into()), ("status", 200.into()), ("bytes_up", 0.into())]);
    assert_ne!(second["id"], first["id"]);
    assert!(!log.text().contains("MARKER"), "neither queries nor fields are anybody's business: {}", log.text());
}

/// A request whose body went by rendezvous, and whose answer has begun.
async fn begun(relay: &Relay) -> (Client, crate::support::Socket) {
    let mut control = relay.listener().await;
    let mut client = Client::new(relay).await;
    client.with_body("PUT /e", &[], &vec![7; 70_000]).await;
    let asked = request(&mut control.0).await;
    let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
    let asked = request(&mut rendezvous).await;
    respond(&mut rendezvous, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), None).await;
    let frame = Frame::message("begun", OpCode::Data(Data::Binary), false);
    rendezvous.send(Message::Frame(frame)).await.unwrap();
    client.reply_head().await;
    assert_eq!(client.next_chunk().await.unwrap(), b"begun");
    (client, rendezvous)
}

#[tokio::test]
async fn the_line_of_a_request_says_why_it_ended() {
    let (log, _guard) = Log::start();
    let relay = relay().await;

    relay.send_raw(b"GET /e HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let refused = line(&log, 1).await;
    check(&refused, &[("status", 401.into()), ("outcome", "token_missing".into()), ("fault", "peer".into())]);

    let mut client = Client::new(&relay).await;
    client.ask("GET /e", &[]).await;
    let nobody = line(&log, 2).await;
    check(&nobody, &[("status", 502.into()), ("outcome", "no_listener".into()), ("fault", "listener".into())]);

    let mut control = relay.listener().await;
    client.with_body("PUT /e", &[], b"question").await;
    request(&mut control.0).await;
    drop(control);
    assert_eq!(client.reply().await.status, 502);
    let lost = line(&log, 3).await;
    let of_listener = [("listener", "listener-1".into()), ("fault", "listener".into()), ("bytes_up", 8.into())];
    check(&lost, &of_listener);
    check(&lost, &[("status", 502.into()), ("outcome", "listener_lost".into())]);

    let mut control = relay.listener().await;
    client.with_body("PUT /e", &[], b"question").await;
    request(&mut control.0).await;
    drop(client);
    let left = line(&log, 4).await;
    let of_sender = [("listener", "listener-1".into()), ("outcome", "sender_gone".into()), ("fault", "sender".into())];
    check(&left, &of_sender);
    check(&left, &[("status", 0.into()), ("bytes_up", 8.into())]);
    drop(control);
    until("the listener has gone", || relay.shown_listener("listener-1").is_null()).await;

    let (client, _rendezvous) = begun(&relay).await;
    drop(client);
    let left = line(&log, 5).await;
    check(&left, &of_sender);
    let moved = [("status", 200.into()), ("bytes_up", 70_000.into()), ("bytes_down", 5.into())];
    check(&left, &moved);
    until("the listener has gone", || relay.shown_listener("listener-1").is_null()).await;

    let (mut client, rendezvous) = begun(&relay).await;
    drop(rendezvous);
    assert_eq!(client.next_chunk().await, None);
    let lost = line(&log, 6).await;
    check(&lost, &moved);
    check(&lost, &[("outcome", "lost".into()), ("fault", "listener".into())]);
}

#[tokio::test]
async fn requests_are_counted_by_hybrid_connection_and_class_of_status() {
    let relay = relay().await;
    let counted = |entity: &str, class: &str| {
        let text = relay.context.metrics.encode();
        let name = format!("causeway_relay_http_requests_total{{entity=\"{entity}\",status=\"{class}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name)).expect("a line");
        value.parse::<u64>().unwrap()
    };
    let mut client = Client::new(&relay).await;
    client.ask("GET /e", &[]).await;
    let mut control = relay.listener().await;
    for status in [200, 204, 302, 404, 418, 503, 999] {
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": status }), None).await;
        assert_eq!(client.reply().await.status, status);
    }
    // Who has no token counts where it asked, and who asks for nothing there is nowhere.
    for target in ["/e", "/other", "/unknown"] {
        relay.send_raw(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await;
    }
    assert_eq!(["2xx", "3xx", "4xx", "5xx"].map(|class| counted("e", class)), [2, 1, 3, 3]);
    assert_eq!(["2xx", "3xx", "4xx", "5xx"].map(|class| counted("other", class)), [0, 0, 1, 0]);
}
