//! What passes between a sender and a listener that were joined.
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::support::{Relay, Socket, closed, dial_address};

async fn next(socket: &mut Socket) -> Message {
    socket.next().await.expect("open").expect("sound")
}

fn is_abrupt(outcome: Option<Result<Message, Error>>) -> bool {
    matches!(
        outcome,
        Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::Io(_)
            | Error::ConnectionClosed))
            | None
    )
}

#[tokio::test]
async fn a_mebibyte_each_way_keeps_type_and_boundaries() {
    let relay = Relay::new().await;
    let (mut sender, mut listener, _control) = relay.pair().await;
    let large: Vec<u8> = (0..1 << 20).map(|at: u32| ((at * 31) >> 3) as u8).collect();
    let text = "grüße ".repeat(30_000);
    for _ in 0..2 {
        let sent = [
            Message::binary(large.clone()),
            Message::text(text.clone()),
            Message::binary(Vec::new()),
            Message::text(String::new()),
            Message::binary(b"x".to_vec()),
        ];
        for message in &sent {
            sender.feed(message.clone()).await.unwrap();
        }
        let (flushed, received) = tokio::join!(sender.flush(), async {
            let mut received = Vec::new();
            for _ in &sent {
                received.push(next(&mut listener).await);
            }
            received
        });
        flushed.unwrap();
        assert!(received == sent, "messages changed on the way");
        std::mem::swap(&mut sender, &mut listener);
    }
}

#[tokio::test]
async fn close_code_and_reason_pass_both_ways() {
    let relay = Relay::new().await;
    for swap in [false, true] {
        let (mut one, mut other, _control) = relay.pair().await;
        if swap {
            std::mem::swap(&mut one, &mut other);
        }
        let frame = CloseFrame { code: CloseCode::Library(4321), reason: "because".into() };
        one.close(Some(frame.clone())).await.unwrap();
        assert_eq!(closed(&mut other).await, Some(frame.clone()));
        // tungstenite answers by itself while it is read on; the answer comes back to who began.
        while other.next().await.is_some() {}
        assert_eq!(closed(&mut one).await, Some(frame));
    }
}

/// A sender whose frames the test writes by hand: masked with the zero key.
async fn by_hand(relay: &Relay) -> (tokio::net::TcpStream, Socket) {
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let headers = [("ServiceBusAuthorization", token.as_str())];
    let (sender, listener) = tokio::join!(relay.raw("/$hc/e", &headers), async {
        let address = control.address().await;
        dial_address(&address, &[]).await.unwrap()
    });
    assert_eq!(sender.status, 101);
    (sender.stream, listener)
}

#[tokio::test]
async fn after_the_senders_close_the_listener_may_go_on() {
    let relay = Relay::new().await;
    let (mut sender, listener) = by_hand(&relay).await;
    // tungstenite closes both directions at once, so the listener, too, works on the bytes.
    let mut listener = listener.into_inner();
    sender.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.unwrap();
    let mut close = [0; 4];
    listener.read_exact(&mut close).await.unwrap();
    assert_eq!(close, *b"\x88\x02\x03\xe8");
    for piece in 0..3 {
        listener.write_all(&[0x82, 0x81, 0, 0, 0, 0, piece]).await.unwrap();
        let mut frame = [0; 3];
        sender.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame, [0x82, 1, piece]);
    }
    listener.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.unwrap();
    let mut rest = Vec::new();
    sender.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x88\x02\x03\xe8");
    assert_eq!(listener.read(&mut close).await.unwrap(), 0);
}

#[tokio::test]
async fn an_abrupt_end_of_one_side_is_an_abrupt_end_of_the_other() {
    let relay = Relay::new().await;
    for swap in [false, true] {
        let (mut one, mut other, _control) = relay.pair().await;
        if swap {
            std::mem::swap(&mut one, &mut other);
        }
        drop(one);
        assert!(is_abrupt(other.next().await));
    }
}

#[tokio::test]
async fn frames_against_the_protocol_are_answered_by_name_and_end_the_other_side_abruptly() {
    let relay = Relay::new().await;
    for (what, frame, code) in [
        ("unmasked", &b"\x82\x01x"[..], 1002_u16),
        ("reserved bit", b"\xc2\x80\0\0\0\0", 1002),
        ("unknown opcode", b"\x83\x80\0\0\0\0", 1002),
        ("long ping", b"\x89\xfe\x00\x7e\0\0\0\0", 1002),
        ("length beyond 63 bits", b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
        ("continuation of nothing", b"\x80\x80\0\0\0\0", 1002),
    ] {
        let (mut sender, mut listener) = by_hand(&relay).await;
        sender.write_all(frame).await.unwrap();
        let mut told = Vec::new();
        sender.read_to_end(&mut told).await.unwrap();
        assert_eq!((told[0], &told[2..4]), (0x88, &code.to_be_bytes()[..]), "{what}: {told:?}");
        assert!(is_abrupt(listener.next().await), "{what}");
    }
}

#[tokio::test]
async fn a_truncated_frame_is_never_completed() {
    let relay = Relay::new().await;
    let (mut sender, mut listener) = by_hand(&relay).await;
    sender.write_all(b"\x82\xfe\x10\x00\0\0\0\0only this").await.unwrap();
    sender.shutdown().await.unwrap();
    assert!(is_abrupt(listener.next().await));
}

#[tokio::test]
async fn pings_are_answered_on_each_hop_and_do_not_pass() {
    let relay = Relay::new().await;
    let (mut sender, mut listener, _control) = relay.pair().await;
    sender.send(Message::Ping(b"hop".to_vec().into())).await.unwrap();
    assert_eq!(next(&mut sender).await, Message::Pong(b"hop".to_vec().into()));
    sender.send(Message::text("behind")).await.unwrap();
    assert_eq!(next(&mut listener).await, Message::text("behind"));
}

#[tokio::test]
async fn a_ping_inside_a_fragmented_message_is_answered_before_the_message_ends() {
    let relay = Relay::new().await;
    let (mut sender, mut listener) = by_hand(&relay).await;
    sender.write_all(b"\x01\x82\0\0\0\0He\x89\x81\0\0\0\0p").await.unwrap();
    let mut pong = [0; 3];
    sender.read_exact(&mut pong).await.unwrap();
    assert_eq!(pong, *b"\x8a\x01p");
    sender.write_all(b"\x80\x83\0\0\0\0llo").await.unwrap();
    assert_eq!(next(&mut listener).await, Message::text("Hello"));
}

#[tokio::test]
async fn what_a_sender_sends_with_its_handshake_is_not_lost() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let request = format!(
        "GET /$hc/e HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nServiceBusAuthorization: {token}\r\n\r\n\
         \u{1}\u{2}"
    );
    let mut bytes = request.into_bytes();
    bytes.truncate(bytes.len() - 2);
    bytes.extend_from_slice(b"\x81\x85\0\0\0\0early");
    let (sender, mut listener) = tokio::join!(relay.send_raw(&bytes), async {
        let address = control.address().await;
        dial_address(&address, &[]).await.unwrap()
    });
    assert_eq!(sender.status, 101);
    assert_eq!(next(&mut listener).await, Message::text("early"));
}

#[tokio::test]
async fn a_stalled_reader_stalls_its_sender_within_bounded_memory() {
    let relay = Relay::new().await;
    let (mut sender, listener) = by_hand(&relay).await;
    // One frame that announces 1 GiB; the listener never reads.
    sender.write_all(&[&b"\x82\xff"[..], &(1_u64 << 30).to_be_bytes(), &[0; 4]].concat()).await.unwrap();
    let piece = vec![7; 64 * 1024];
    let mut taken = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), sender.write(&piece)).await {
        taken += written.unwrap();
        // Kernel buffers of both connections, and the relay's one read between them.
        assert!(taken < 32 << 20, "the relay takes everything");
    }
    // It is only stalled: reading on lets bytes move again.
    let mut listener = listener.into_inner();
    let mut some = vec![0; 8 << 20];
    let (read, written) = tokio::join!(listener.read_exact(&mut some), sender.write(&piece));
    assert!(read.is_ok() && written.unwrap() > 0);
}

#[tokio::test]
async fn draining_tells_senders_that_asked_for_it_and_lets_them_go_on() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    let headers = [("ServiceBusAuthorization", token.as_str()), ("Sec-WebSocket-Protocol", "causeway.v1")];
    let (sender, listener) = tokio::join!(relay.dial("/$hc/e", &headers), async {
        let address = control.address().await;
        dial_address(&address, &[("Sec-WebSocket-Protocol", "causeway.v1")]).await.unwrap()
    });
    let (mut sender, mut listener) = (sender.unwrap(), listener);
    relay.context.shutdown.begin();
    let Message::Text(notice) = next(&mut sender).await else { panic!("no notice") };
    assert_eq!(notice.as_str(), relay::splice::drain_notice());
    assert_eq!(control.close().await.unwrap().code, CloseCode::Away);
    sender.send(Message::text("still here")).await.unwrap();
    assert_eq!(next(&mut listener).await, Message::text("still here"));
    relay.context.shutdown.force();
    assert_eq!(closed(&mut sender).await.unwrap().code, CloseCode::Away);
    assert_eq!(closed(&mut listener).await.unwrap().code, CloseCode::Away);
}

#[tokio::test]
async fn other_senders_get_no_notice() {
    let relay = Relay::new().await;
    let (mut sender, mut listener, mut control) = relay.pair().await;
    relay.context.shutdown.begin();
    assert_eq!(control.close().await.unwrap().code, CloseCode::Away);
    listener.send(Message::text("first")).await.unwrap();
    assert_eq!(next(&mut sender).await, Message::text("first"));
}
