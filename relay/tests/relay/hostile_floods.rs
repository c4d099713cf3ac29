//! One hybrid connection that takes all it can get, while another's round trips go on. What is asserted is progress, not
//! speed.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Control, LISTEN_KEY, Relay, config, dial, dial_address};

/// Round trips of a whole life each: connect, a message there and one back, close.
async fn round_trips(relay: &Relay, control: &mut Control, count: usize) {
    for number in 0..count {
        let (sender, accepted) = tokio::join!(relay.sender(""), async {
            let address = control.address().await;
            dial_address(&address, &[]).await
        });
        let (mut sender, mut accepted) = (sender.unwrap(), accepted.unwrap());
        sender.send(Message::text(number.to_string())).await.unwrap();
        assert_eq!(accepted.next().await.unwrap().unwrap(), Message::text(number.to_string()));
        accepted.send(Message::text("back")).await.unwrap();
        assert_eq!(sender.next().await.unwrap().unwrap(), Message::text("back"));
    }
}

async fn listener_on_open(relay: &Relay) -> Control {
    let token = relay.token("listen", LISTEN_KEY, "open");
    let target = "/$hc/open?sb-hc-action=listen";
    Control(relay.dial(target, &[("ServiceBusAuthorization", &token)]).await.unwrap())
}

#[tokio::test]
async fn a_flood_of_connects_that_nobody_answers_leaves_room_for_others() {
    let limits = "handshakes_per_address: 16, handshakes: 64, rendezvous: 16";
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", limits)).await;
    let mut control = relay.listener().await;
    // It is there, and its channel is read by nobody.
    let _silent = listener_on_open(&relay).await;
    let (refusals, mut flood) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..32 {
        let (address, refusals) = (relay.address, refusals.clone());
        flood.spawn(async move {
            loop {
                assert!(dial(address, "/$hc/open", &[]).await.is_err(), "nobody accepts");
                refusals.fetch_add(1, Relaxed);
            }
        });
    }
    while refusals.load(Relaxed) < 32 {
        tokio::task::yield_now().await;
    }
    let before = refusals.load(Relaxed);
    round_trips(&relay, &mut control, 30).await;
    assert!(refusals.load(Relaxed) > before, "the flood went on");
    let waiting = relay.context.status.status()()["relay"]["waiting_senders"].as_u64().unwrap();
    assert!(waiting <= 12, "{waiting} wait, of 16 places");
}

#[tokio::test]
async fn a_flood_of_bytes_leaves_room_for_others() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut flooded = listener_on_open(&relay).await;
    let (moved, mut flood) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..4 {
        let (sender, accepted) = tokio::join!(dial(relay.address, "/$hc/open", &[]), async {
            dial_address(&flooded.address().await, &[]).await
        });
        let (mut sender, mut accepted) = (sender.unwrap(), accepted.unwrap());
        flood.spawn(async move {
            let bytes = vec![7; 1 << 14];
            while sender.send(Message::binary(bytes.clone())).await.is_ok() {
                // The peers of this test share one thread with the relay and with the others' peers.
                tokio::task::yield_now().await;
            }
        });
        let moved = moved.clone();
        flood.spawn(async move {
            while let Some(Ok(message)) = accepted.next().await {
                moved.fetch_add(message.len(), Relaxed);
                tokio::task::yield_now().await;
            }
        });
    }
    while moved.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let before = moved.load(Relaxed);
    round_trips(&relay, &mut control, 30).await;
    assert!(moved.load(Relaxed) > before, "the flood went on");
}

#[tokio::test]
async fn listeners_that_read_nothing_hold_up_no_sender_of_another() {
    let limits = "handshakes_per_address: 200, accept_timeout: 12s";
    let relay = Relay::with(&config("{ address: 127.0.0.1:0 }", limits)).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(relay.address).await.unwrap();
    // Its messages pile up in the relay, up to a bound, and in the kernel.
    let _deaf = crate::events::listen_on(&relay, stream, "deaf").await;
    let mut control = relay.listener_as("reading").await;
    let large = "x".repeat(10_000);
    let mut senders = JoinSet::new();
    for _ in 0..60 {
        let (address, token, large) = (relay.address, relay.send_token(), large.clone());
        senders.spawn(async move {
            dial(address, "/$hc/e", &[("ServiceBusAuthorization", &token), ("X-Large", &large)]).await
        });
    }
    let mut taken = Vec::new();
    while !senders.is_empty() {
        tokio::select! {
            address = control.address() => taken.push(dial_address(&address, &[]).await.unwrap()),
            sender = senders.join_next() => drop(sender.unwrap().unwrap().unwrap()),
        }
    }
    assert_eq!(taken.len(), 60);
    assert_eq!(relay.shown_listener("deaf")["answers"], false);
}

#[tokio::test]
async fn a_listener_that_answers_what_nobody_asked_is_ended() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let stray = r#"{"response":{"requestId":"nobodys","statusCode":200}}"#;
    // As many as of every other message that nobody asked for, and one more.
    for _ in 0..=proto::ws::flood::EMPTY_FRAMES_MAX {
        control.send_text(stray).await;
    }
    let close = control.close().await.unwrap();
    assert_eq!((u16::from(close.code), close.reason.contains("nobody asked for")), (1008, true), "{}", close.reason);
}
