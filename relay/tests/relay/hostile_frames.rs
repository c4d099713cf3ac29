//! Frames that no honest peer sends, on control channels and through the splice.
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{
    frames::{BINARY, CLOSE, FIN, PING, TEXT, control, frame, head, sender, told},
    support::Relay,
};

/// What breaks the protocol on every WebSocket, and the code that says so.
fn broken() -> Vec<(&'static str, Vec<u8>, u16)> {
    let ping = |first| frame(first, b"p");
    let mut broken = vec![
        ("unmasked", vec![TEXT, 1, b'x'], 1002),
        ("unknown data opcode", frame(FIN | 3, b"x"), 1002),
        ("unknown control opcode", frame(FIN | 0xb, b"x"), 1002),
        ("ping of 126 bytes", frame(PING, &[b'x'; 126]), 1002),
        ("fragmented ping", ping(PING & !FIN), 1002),
        ("fragmented close", frame(CLOSE & !FIN, &[3, 0xe8]), 1002),
        ("continuation of nothing", frame(FIN, b"x"), 1002),
        ("a message inside a message", [frame(TEXT & !FIN, b"x"), frame(TEXT, b"y")].concat(), 1002),
        ("length beyond 63 bits", head(BINARY, u64::MAX), 1009),
        ("length in more bytes than needed", vec![BINARY, 0x80 | 126, 0, 5, 0, 0, 0, 0], 1002),
        ("close with one byte", frame(CLOSE, &[3]), 1002),
        ("close with a code that is never sent", frame(CLOSE, &1005_u16.to_be_bytes()), 1002),
        ("close with a reason that is not UTF-8", frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ];
    for bit in [0x40, 0x20, 0x10] {
        broken.push(("reserved bit", frame(TEXT | bit, b"x"), 1002));
    }
    broken
}

#[tokio::test]
async fn frames_against_the_protocol_end_a_control_channel_by_name() {
    let relay = Relay::new().await;
    for (what, bytes, code) in broken() {
        let (told, reason) = told(control(&relay).await, &bytes).await;
        assert_eq!(told, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
    }
}

#[tokio::test]
async fn frames_against_the_protocol_end_a_sender_by_name_and_its_listener_abruptly() {
    let relay = Relay::new().await;
    for (what, bytes, code) in broken() {
        let (stream, mut listener) = sender(&relay).await;
        let (told, reason) = told(stream, &bytes).await;
        assert_eq!(told, code, "{what}: {reason}");
        let mut last = listener.next().await;
        while matches!(last, Some(Ok(Message::Text(_) | Message::Binary(_)))) {
            last = listener.next().await;
        }
        assert!(matches!(last, Some(Err(Error::Protocol(_) | Error::Io(_))) | None), "{what}: {last:?}");
    }
}

#[tokio::test]
async fn a_control_channel_waits_for_no_byte_of_a_message_that_is_too_large() {
    let relay = Relay::new().await;
    for (what, bytes) in [
        ("one frame", head(BINARY, 65_537)),
        ("a huge one", head(TEXT, 1 << 40)),
        ("the last fragment", [frame(BINARY & !FIN, &[0; 65_000]), head(FIN, 537)].concat()),
    ] {
        assert_eq!(told(control(&relay).await, &bytes).await.0, 1009, "{what}");
    }
}

#[tokio::test]
async fn floods_of_frames_that_carry_nothing_are_refused_everywhere() {
    let relay = Relay::new().await;
    let floods = [
        ("pings", frame(PING, b"")),
        ("pongs", frame(PING + 1, b"pong")),
        ("empty messages", frame(BINARY, b"")),
        ("empty fragments", Vec::new()),
    ];
    for (what, one) in floods {
        let bytes = if one.is_empty() {
            [frame(BINARY & !FIN, b""), frame(0, b"").repeat(200)].concat()
        } else {
            one.repeat(200)
        };
        let (code, reason) = told(control(&relay).await, &bytes).await;
        assert_eq!(code, 1008, "{what} on a control channel: {reason}");
        let (stream, _listener) = sender(&relay).await;
        let (code, reason) = told(stream, &bytes).await;
        assert_eq!(code, 1008, "{what} from a sender: {reason}");
    }
}

#[tokio::test]
async fn a_message_of_one_byte_fragments_is_taken_up_to_the_limit_and_no_further() {
    let relay = Relay::new().await;
    // Spaces before an object are JSON.
    let mut bytes = frame(TEXT & !FIN, b" ");
    for _ in 0..60_000 {
        bytes.extend(frame(0, b" "));
    }
    bytes.extend(frame(FIN, b"{}"));
    bytes.extend(frame(PING, b"still here"));
    let mut stream = control(&relay).await;
    stream.write_all(&bytes).await.unwrap();
    let mut pong = [0; 12];
    stream.read_exact(&mut pong).await.unwrap();
    assert_eq!(&pong[2..], b"still here");
    let endless = [frame(TEXT & !FIN, b" "), frame(0, b" ").repeat(70_000)].concat();
    assert_eq!(told(stream, &endless).await.0, 1009);
}

#[tokio::test]
async fn text_that_is_not_utf_8_ends_a_control_channel_and_passes_the_splice_as_it_is() {
    let relay = Relay::new().await;
    let bytes = frame(TEXT, b"\xc3\x28");
    assert_eq!(told(control(&relay).await, &bytes).await.0, 1007);
    // The relay reads no payload: whoever the text is for judges it.
    let (mut stream, listener) = sender(&relay).await;
    stream.write_all(&bytes).await.unwrap();
    let mut got = [0; 4];
    listener.into_inner().read_exact(&mut got).await.unwrap();
    assert_eq!(got, [TEXT, 2, 0xc3, 0x28]);
}

#[tokio::test]
async fn a_frame_that_announces_more_than_it_brings_holds_nobody_else_up() {
    let relay = Relay::new().await;
    let mut bombs = Vec::new();
    for _ in 0..2 {
        let (mut stream, mut listener) = sender(&relay).await;
        stream.write_all(&[head(BINARY, (1 << 63) - 1), b"and no more".to_vec()].concat()).await.unwrap();
        // What was brought is passed on, as a fragment of what was announced.
        let mut got = [0; 13];
        listener.get_mut().read_exact(&mut got).await.unwrap();
        assert_eq!((got[0], &got[2..]), (BINARY & !FIN, &b"and no more"[..]));
        bombs.push((stream, listener));
    }
    let (mut sender, mut other, _control) = relay.pair().await;
    sender.send(Message::text("hello")).await.unwrap();
    assert_eq!(other.next().await.unwrap().unwrap(), Message::text("hello"));
}
