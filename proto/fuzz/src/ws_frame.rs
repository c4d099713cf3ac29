//! WebSocket frames: whatever the bytes, the decoder does not panic, sees the same in any split, takes only what our
//! encoder would have written, and the byte stream on top of it gives exactly the binary payload.
use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, BytesMut};
use proto::ws::{
    Role,
    frame::{DecodeError, Decoder, Event, HEADER_MAX, Header, Opcode, close_payload, put_control},
    stream::WsStream,
};
use tokio::io::{AsyncRead, ReadBuf};

/// The first byte chooses role and sizes, the rest is what the peer sent.
pub fn run(data: &[u8]) {
    let Some((&choice, wire)) = data.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Client } else { Role::Server };
    let size = 1 + usize::from(choice >> 1);

    let whole = decode(role, wire, wire.len().max(1));
    assert_eq!(whole, decode(role, wire, size), "the split changed what was seen");
    if role == Role::Client {
        assert!(wire.starts_with(&whole.encoded), "taken, but not what the encoder writes");
    }
    check_stream(role, wire, size, &whole);
}

/// Inputs that reach deep: every frame type, every length form, both roles.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, key) in [(0u8, None), (1, Some([1, 2, 3, 4]))] {
        let mut wire = vec![choice | 12];
        for (fin, opcode, len) in [
            (true, Opcode::Binary, 5),
            (false, Opcode::Text, 200),
            (true, Opcode::Continuation, 0),
            (false, Opcode::Binary, 70_000),
            (true, Opcode::Continuation, 9000),
        ] {
            let mut header = [0; HEADER_MAX];
            let used = Header { fin, opcode, mask: key, len }.encode(&mut header);
            wire.extend_from_slice(&header[..used]);
            wire.resize(wire.len() + len as usize, 7);
            put_control(&mut wire, Opcode::Ping, b"ping", key);
        }
        put_control(&mut wire, Opcode::Close, &close_payload(1000, "bye"), key);
        seeds.push(wire);
        let mut short = vec![choice];
        put_control(&mut short, Opcode::Pong, b"", key);
        put_control(&mut short, Opcode::Close, b"", key);
        seeds.push(short);
    }
    seeds
}

/// Everything seen until the bytes or the peer's luck ran out, pieces joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    headers: Vec<(Header, Vec<u8>)>,
    controls: Vec<(Opcode, Vec<u8>)>,
    /// What our encoder writes for the same, a server's frames without masks.
    encoded: Vec<u8>,
    binary: Vec<u8>,
    error: Option<DecodeError>,
}

fn decode(role: Role, wire: &[u8], size: usize) -> Seen {
    let (mut decoder, mut input, mut seen) = (Decoder::new(role), BytesMut::new(), Seen::default());
    let mut text = false;
    for piece in wire.chunks(size) {
        input.put_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Start(header))) => {
                    text = text && header.opcode == Opcode::Continuation || header.opcode == Opcode::Text;
                    let mut out = [0; HEADER_MAX];
                    let used = header.encode(&mut out);
                    seen.encoded.extend_from_slice(&out[..used]);
                    seen.headers.push((header, Vec::new()));
                }
                Ok(Some(Event::Payload { bytes, end })) => {
                    let (header, payload) = seen.headers.last_mut().expect("payload follows a header");
                    payload.extend_from_slice(&bytes);
                    assert_eq!(end, payload.len() as u64 == header.len);
                    seen.encoded.extend_from_slice(&bytes);
                    if !text {
                        seen.binary.extend_from_slice(&bytes);
                    }
                }
                Ok(Some(Event::Control { opcode, payload })) => {
                    put_control(&mut seen.encoded, opcode, &payload, None);
                    seen.controls.push((opcode, payload.to_vec()));
                }
                Err(error) => {
                    assert!((1000..2000).contains(&error.close_code()));
                    seen.error = Some(error);
                    return seen;
                }
            }
        }
        assert!(input.len() < HEADER_MAX + 125, "more is held than a control frame needs");
    }
    seen
}

/// Reads the same bytes through the byte stream, in buffers of `size`.
fn check_stream(role: Role, wire: &[u8], size: usize, whole: &Seen) {
    let (ahead, rest) = wire.split_at(size.min(wire.len()));
    let mut stream = WsStream::new(tokio::io::join(rest, tokio::io::sink()), role, BytesMut::from(ahead));
    let (mut buffer, mut got) = (vec![0; size], Vec::new());
    let end = loop {
        let mut read = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut read);
        let Poll::Ready(outcome) = polled else { unreachable!("memory never makes anybody wait") };
        match outcome {
            Ok(()) if read.filled().is_empty() => break None,
            Ok(()) => got.extend_from_slice(read.filled()),
            Err(error) => break Some(error),
        }
    };
    let rule = end.as_ref().and_then(|error| error.get_ref()?.downcast_ref::<DecodeError>().copied());
    if rule == Some(DecodeError::Flood) {
        assert!(whole.binary.starts_with(&got), "bytes differ");
        return;
    }
    assert!(got == whole.binary, "bytes differ");
    assert_eq!(rule, whole.error);
    let closed = whole.controls.last().is_some_and(|(opcode, _)| *opcode == Opcode::Close);
    assert_eq!(end.is_none(), closed, "only a Close is a clean end");
}
