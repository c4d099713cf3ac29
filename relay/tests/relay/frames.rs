//! Frames by hand, masked with a key of zeros so that what is written is what is meant.
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Relay, Socket, dial_address};

/// First bytes of frames.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const PING: u8 = 0x89;
pub(crate) const CLOSE: u8 = 0x88;
/// Without this bit a frame is not the last of its message.
pub(crate) const FIN: u8 = 0x80;

/// A whole frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// The header of a frame that announces so many bytes.
pub(crate) fn head(first: u8, announced: u64) -> Vec<u8> {
    let mut head = vec![first];
    match announced {
        0..=125 => head.push(0x80 | announced as u8),
        126..=0xffff => {
            head.push(0x80 | 126);
            head.extend_from_slice(&(announced as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend_from_slice(&announced.to_be_bytes());
        }
    }
    head.extend_from_slice(&[0; 4]);
    head
}

/// A control channel on `e`.
pub(crate) async fn control(relay: &Relay) -> TcpStream {
    let token = relay.listen_token();
    let answer = relay.raw("/$hc/e?sb-hc-action=listen&sb-hc-id=by-hand", &[("ServiceBusAuthorization", &token)]).await;
    assert_eq!(answer.status, 101);
    answer.stream
}

/// A sender on `e` by hand, joined with a sound listener.
pub(crate) async fn sender(relay: &Relay) -> (TcpStream, Socket) {
    let mut control = relay.listener().await;
    let (sender, listener) =
        tokio::join!(relay.raw_sender(), async { dial_address(&control.address().await, &[]).await.unwrap() });
    assert_eq!(sender.status, 101);
    (sender.stream, listener)
}

/// Writes, even if the relay has heard enough before the end, and gives the code and reason of the Close that it answers
/// with.
pub(crate) async fn told(stream: TcpStream, bytes: &[u8]) -> (u16, String) {
    let (mut reading, mut writing) = stream.into_split();
    let mut said = Vec::new();
    let _ = tokio::join!(reading.read_to_end(&mut said), async {
        // A reset when the relay was done before we were; else it need not wait for an answer to its Close.
        let _ = writing.write_all(bytes).await;
        writing.shutdown().await
    });
    close_in(&said)
}

/// The Close among frames from the relay, which are short and unmasked.
pub(crate) fn close_in(mut frames: &[u8]) -> (u16, String) {
    while let [first, len, rest @ ..] = frames {
        let (len, rest) = match *len {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            len => (usize::from(len), rest),
        };
        if *first == CLOSE {
            return (u16::from_be_bytes([rest[0], rest[1]]), String::from_utf8(rest[2..len].to_vec()).unwrap());
        }
        frames = &rest[len..];
    }
    panic!("no Close")
}
