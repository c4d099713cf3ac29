//! gRPC messages of a `Forward` stream: whatever the bytes, the decoder does not panic, sees the same in any split, and
//! hands on exactly what prost would have read from the whole messages.
use bytes::Bytes;
use prost::Message;
use proto::{
    limits::{DATA_TAKEN_MAX, MESSAGE_GATHERED_MAX},
    tunnel::{
        message::{Decoder, Piece},
        pb::{self, forward_request::Part},
    },
};

/// The first byte chooses the size of the pieces, the rest is what the peer sent.
pub fn run(data: &[u8]) {
    let Some((&size, wire)) = data.split_first() else { return };
    let size = 1 + usize::from(size);
    let whole = decode(Decoder::streaming(), wire, wire.len().max(1));
    assert_eq!(whole, decode(Decoder::streaming(), wire, size), "the split changed what was seen");

    let gathered = decode(Decoder::gathering(), wire, size);
    assert_eq!(gathered, decode(Decoder::gathering(), wire, wire.len().max(1)), "the split changed what was seen");
    if whole.ended_well && gathered.ended_well {
        assert_eq!(whole.data, gathered.data, "streamed data differs from prost's");
        assert_eq!(whole.others, gathered.others);
    }
}

/// Inputs that reach deep: every part, canonical and other shapes, lengths of one to three bytes.
pub fn seeds() -> Vec<Vec<u8>> {
    let part = |part| pb::ForwardRequest { part: Some(part) };
    let open = pb::Open {
        target: Some(pb::open::Target::Tcp(pb::TcpTarget { host: "db.prod.svc".to_owned(), port: 5432 })),
        hops: 1,
    };
    let trailers = vec![pb::Field { name: "x-sum".to_owned(), value: Bytes::from_static(b"1") }];
    let mut good = vec![6];
    for message in [
        part(Part::Open(open)),
        part(Part::Data(Bytes::from_static(b"abc"))),
        part(Part::Data(vec![7; 300].into())),
        part(Part::Data(vec![7; 20_000].into())),
        part(Part::Data(Bytes::new())),
        part(Part::Fin(pb::Fin { trailers })),
        pb::ForwardRequest { part: None },
    ] {
        frame(&mut good, &message.encode_to_vec());
    }
    let mut odd = vec![0];
    for message in
        [&[0x12, 1, b'a', 0x12, 1, b'b'][..], &[0x12, 0x81, 0, b'c'], &[0x12, 1, b'd', 0x78, 1], &[0x0a, 0xff]]
    {
        frame(&mut odd, message);
    }
    let oversize = [&[3, 0][..], &(DATA_TAKEN_MAX as u32).to_be_bytes(), &[0x12, 0xff, 0xff, 0xff, 1]].concat();
    vec![good, odd, oversize, vec![0, 1, 0, 0, 0, 0]]
}

fn frame(wire: &mut Vec<u8>, message: &[u8]) {
    wire.push(0);
    wire.extend((message.len() as u32).to_be_bytes());
    wire.extend(message);
}

/// Everything seen until the bytes or the peer's luck ran out, pieces of data joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    data: Vec<u8>,
    others: Vec<Vec<u8>>,
    ended_well: bool,
    error: Option<String>,
}

fn decode(mut decoder: Decoder, wire: &[u8], size: usize) -> Seen {
    let mut seen = Seen::default();
    for piece in wire.chunks(size) {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.next() {
                Ok(None) => break,
                Ok(Some(Piece::Data(data))) => {
                    assert!(!data.is_empty() && data.len() <= size, "data is handed on as it arrives");
                    seen.data.extend(data);
                }
                Ok(Some(Piece::Message(message))) => {
                    assert!(message.len() <= MESSAGE_GATHERED_MAX, "more is gathered than the limit");
                    match pb::ForwardRequest::decode(message.clone()) {
                        Ok(pb::ForwardRequest { part: Some(Part::Data(data)) }) => seen.data.extend(data),
                        _ => seen.others.push(message.to_vec()),
                    }
                }
                Err(error) => {
                    seen.error = Some(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen.ended_well = decoder.at_boundary();
    seen
}
