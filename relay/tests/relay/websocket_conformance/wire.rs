//! Frames as a client writes them, and a strict reader of what a server sends, both by the letter of the RFC.
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A message: whether it is text, and its payload.
pub(super) type Message = (bool, Vec<u8>);

/// Code and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Close(pub(super) Option<u16>, pub(super) Vec<u8>);

/// Keys differ from frame to frame.
fn key() -> [u8; 4] {
    static NEXT: AtomicU32 = AtomicU32::new(0x9e37_79b9);
    NEXT.fetch_add(0x6d2b_79f5, Relaxed).to_be_bytes()
}

/// A masked frame with this first byte.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    with_key(first, payload, key())
}

/// The same with this key.
pub(super) fn with_key(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let length = match payload.len() {
        short @ 0..=125 => vec![0x80 | short as u8],
        middle @ 126..=0xffff => [&[0x80 | 126][..], &(middle as u16).to_be_bytes()].concat(),
        long => [&[0x80 | 127][..], &(long as u64).to_be_bytes()].concat(),
    };
    let masked = payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]);
    [first].into_iter().chain(length).chain(key).chain(masked).collect()
}

/// The same with a length that the test writes.
pub(super) fn with_length(first: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[first], length, &[0; 4], payload].concat()
}

/// The same without a mask, as only a server may.
pub(super) fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, payload.len() as u8], payload].concat()
}

/// A Close.
pub(super) fn close(close: Option<(u16, &[u8])>) -> Vec<u8> {
    frame(0x88, &close.map(|(code, reason)| [&code.to_be_bytes(), reason].concat()).unwrap_or_default())
}

/// Sizes instead of long payloads.
pub(super) fn short(messages: &[Message]) -> Vec<(bool, usize)> {
    messages.iter().map(|(text, payload)| (*text, payload.len())).collect()
}

/// Reads what a server sends. Any broken rule is a panic.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) messages: Vec<Message>,
    pub(super) pongs: Vec<Vec<u8>>,
    pub(super) close: Option<Close>,
    input: Vec<u8>,
    open: Option<Message>,
}

impl Reader {
    /// One read; `None` at the end, however it comes.
    pub(super) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Option<()> {
        let mut bytes = vec![0; 64 * 1024];
        let count = from.read(&mut bytes).await.unwrap_or(0);
        if count == 0 {
            return None;
        }
        self.input.extend_from_slice(&bytes[..count]);
        let mut used = 0;
        while let Some(length) = self.take(used) {
            used += length;
        }
        self.input.drain(..used);
        Some(())
    }

    fn take(&mut self, at: usize) -> Option<usize> {
        let &[first, second, ref rest @ ..] = &self.input[at..] else { return None };
        assert_eq!(first & 0x70, 0, "reserved bits");
        assert_eq!(second & 0x80, 0, "a server masks");
        let (length, header) = match second {
            126 => {
                let length = u16::from_be_bytes(*rest.first_chunk()?).into();
                assert!(length > 125, "a longer length than needed");
                (length, 4)
            }
            127 => {
                let length = u64::from_be_bytes(*rest.first_chunk()?) as usize;
                assert!(length > 0xffff, "a longer length than needed");
                (length, 10)
            }
            short => (usize::from(short), 2),
        };
        let payload = self.input.get(at + header..at + header + length)?.to_vec();
        assert!(self.close.is_none(), "something behind the Close");
        let fin = first & 0x80 != 0;
        match first & 0x0f {
            0 => {
                let (_, message) = self.open.as_mut().expect("a continuation of nothing");
                message.extend(payload);
            }
            opcode @ (1 | 2) => assert!(self.open.replace((opcode == 1, payload)).is_none(), "a message in a message"),
            opcode @ (8 | 0xa) => {
                assert!(fin && length <= 125, "a control frame that is long or in parts");
                match opcode {
                    8 => {
                        let (code, reason) = payload.split_at(payload.len().min(2));
                        let code = code.first_chunk().map(|code| u16::from_be_bytes(*code));
                        assert!(code.is_some() || payload.is_empty(), "half a code");
                        std::str::from_utf8(reason).expect("a reason is text");
                        self.close = Some(Close(code, reason.to_vec()));
                    }
                    _ => self.pongs.push(payload),
                }
                return Some(header + length);
            }
            other => panic!("opcode {other}"),
        }
        if fin {
            self.messages.extend(self.open.take());
        }
        Some(header + length)
    }
}
