//! HTTP senders whose right, or whose hybrid connection, goes while they are served.
use futures_util::SinkExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Bytes, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::support::{Client, relay, request, respond, serve_one};
use crate::support::{Relay, closed, dial_address};

/// Changes relay.yaml, and waits until that is in force.
async fn change(relay: &Relay, old: &str, new: &str) {
    let text = std::fs::read_to_string(relay.folder.path().join("relay.yaml")).unwrap();
    assert!(text.contains(old), "{text}");
    relay.reload(|| relay.put("relay.yaml", &text.replacen(old, new, 1))).await;
}

const REMOVED: (&str, &str) = ("  e:\n", "  another:\n");
const NO_SEND: (&str, &str) = ("{ rights: [send]", "{ rights: [listen]");

#[tokio::test]
async fn a_request_that_waits_is_told_what_a_new_one_would_be() {
    for ((old, new), status) in [(REMOVED, 404), (NO_SEND, 403)] {
        let relay = relay().await;
        let mut control = relay.listener().await;
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        request(&mut control.0).await;
        change(&relay, old, new).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, status, "{}", reply.reason);
        assert_eq!(reply.one("Via"), None, "the relay's own answer");
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_is_cut_and_its_rendezvous_closed() {
    for ((old, new), code) in [(REMOVED, 1001), (NO_SEND, 1008)] {
        let relay = relay().await;
        let mut control = relay.listener().await;
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        let mut rendezvous = dial_address(asked.address(), &[]).await.unwrap();
        respond(&mut rendezvous, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), None).await;
        let first = Frame::message(Bytes::from_static(b"first"), OpCode::Data(Data::Binary), false);
        rendezvous.send(Message::Frame(first)).await.unwrap();
        let head = client.reply_head().await;
        assert_eq!(head.status, 200);
        assert_eq!(client.next_chunk().await.as_deref(), Some(&b"first"[..]));
        change(&relay, old, new).await;
        assert_eq!(client.next_chunk().await, None, "cut, and not ended");
        assert!(client.is_closed().await);
        assert_eq!(u16::from(closed(&mut rendezvous).await.unwrap().code), code);
    }
}

#[tokio::test]
async fn a_kept_alive_connection_goes_on_over_unrelated_changes_and_each_request_is_checked() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for round in 0..3 {
        change(&relay, "entities:\n", &format!("entities:\n  new-{round}: {{}}\n")).await;
        client.head("GET /e", &[]).await;
        serve_one(&mut control.0, b"here").await;
        assert_eq!(client.reply().await.body, b"here");
    }
    change(&relay, NO_SEND.0, NO_SEND.1).await;
    client.head("GET /e", &[]).await;
    assert_eq!(client.reply().await.status, 403);
}
