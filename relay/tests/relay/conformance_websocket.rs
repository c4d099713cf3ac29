//! Statements of the Hybrid Connections protocol about WebSockets that no other test is about
//! (`docs/hybrid-connections.md` lists them all).
use std::{collections::BTreeSet, time::Duration};

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Control, LISTEN_KEY, Relay, SEND_KEY, config, dial, dial_address};

#[tokio::test]
async fn the_longest_name_that_fits_is_meant() {
    let text = config("{ address: 127.0.0.1:0 }", "handshakes_per_address: 200").replace("Deep/Name", "e/Sub");
    let relay = Relay::with(&text).await;
    let mut outer = relay.listener().await;
    let token = relay.token("listen", LISTEN_KEY, "e/sub");
    let target = "/$hc/e/sub?sb-hc-action=listen";
    let mut inner = Control(relay.dial(target, &[("ServiceBusAuthorization", &token)]).await.unwrap());
    let mut senders = JoinSet::new();
    for (target, is_inner) in [
        ("/$hc/e/sub", true),
        ("/$hc/E/SUB/way", true),
        ("/$hc/e/subway", false),
        ("/$hc/e/su", false),
        ("/$hc/e", false),
    ] {
        let (address, token) = (relay.address, relay.token("send", SEND_KEY, if is_inner { "e/sub" } else { "e" }));
        senders.spawn(async move { dial(address, target, &[("ServiceBusAuthorization", &token)]).await.map(drop) });
        let address = if is_inner { inner.address().await } else { outer.address().await };
        assert!(address.contains(&format!("{target}?sb-hc-action=accept")), "{address}");
    }
}

#[tokio::test]
async fn an_anonymous_senders_authorization_belongs_to_the_application() {
    let relay = Relay::new().await;
    let token = relay.token("listen", LISTEN_KEY, "open");
    let target = "/$hc/open?sb-hc-action=listen";
    let mut control = Control(relay.dial(target, &[("ServiceBusAuthorization", &token)]).await.unwrap());
    let mut senders = JoinSet::new();
    let address = relay.address;
    // Even one that would have been good here.
    let token = relay.token("send", SEND_KEY, "open");
    let expected = token.clone();
    senders.spawn(async move { dial(address, "/$hc/open", &[("Authorization", &token)]).await.map(drop) });
    assert_eq!(control.accept().await["connectHeaders"]["Authorization"], expected);
}

/// Java drops the channel over a command that it does not know, and splits each decoded pair of the address at its one
/// `=`; Node's listeners fall over text that is not JSON and over binary that nothing announced.
#[tokio::test]
async fn an_accept_message_is_what_every_sdk_can_read() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    for target in ["/sub?x=%3D%3D&y=a=b", "?sb-hc-id=mine", ""] {
        senders.spawn(relay.sender(target));
        let message = loop {
            match control.0.next().await.unwrap().unwrap() {
                Message::Text(text) => break text,
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        };
        let message: Value = serde_json::from_str(&message).unwrap();
        let commands: BTreeSet<&String> = message.as_object().unwrap().keys().collect();
        assert_eq!(commands, BTreeSet::from([&"accept".to_owned()]));
        let accept = &message["accept"];
        for (name, value) in accept["connectHeaders"].as_object().unwrap() {
            assert!(value.is_string(), "{name}: {value}");
        }
        let (_, query) = accept["address"].as_str().unwrap().split_once('?').unwrap();
        let added = query.split('&').filter(|pair| pair.starts_with("sb-hc-"));
        let decoded: Vec<String> =
            added.map(|pair| percent_encoding::percent_decode_str(pair).decode_utf8().unwrap().into_owned()).collect();
        assert_eq!(decoded.len(), 3, "{query}");
        assert!(decoded.iter().all(|pair| pair.matches('=').count() == 1), "{decoded:?}");
    }
}

#[tokio::test]
async fn a_senders_handshake_waits_for_its_listener() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut senders = JoinSet::new();
    senders.spawn(relay.sender(""));
    let address = control.address().await;
    assert!(timeout(Duration::from_millis(200), senders.join_next()).await.is_err(), "answered before its listener");
    let _listener = dial_address(&address, &[]).await.unwrap();
    senders.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn nothing_is_put_between_what_the_two_say() {
    let relay = Relay::new().await;
    let (sender, listener, _control) = relay.pair().await;
    let (mut sender, mut listener) = (sender.into_inner(), listener.into_inner());
    // A message in two frames, an empty one, and a Close: the zero mask shows the bytes as they are.
    let said = b"\x01\x82\0\0\0\0He\x80\x83\0\0\0\0llo\x82\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8";
    sender.write_all(said).await.unwrap();
    listener.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.unwrap();
    let (mut to_listener, mut to_sender) = (Vec::new(), Vec::new());
    let (one, other) = tokio::join!(listener.read_to_end(&mut to_listener), sender.read_to_end(&mut to_sender));
    one.unwrap();
    other.unwrap();
    assert_eq!(to_sender, b"\x88\x02\x03\xe8");
    assert_eq!(to_listener, b"\x01\x02He\x80\x03llo\x82\x00\x88\x02\x03\xe8");
}
