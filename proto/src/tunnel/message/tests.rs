use proptest::prelude::*;

use super::*;
use crate::tunnel::pb::{self, forward_request::Part};

fn encode(message: &impl Message) -> Vec<u8> {
    let mut wire = vec![0];
    wire.extend((message.encoded_len() as u32).to_be_bytes());
    wire.extend(message.encode_to_vec());
    wire
}

fn request(part: Part) -> pb::ForwardRequest {
    pb::ForwardRequest { part: Some(part) }
}

fn fin() -> pb::ForwardRequest {
    request(Part::Fin(pb::Fin { trailers: vec![pb::Field { name: "x".into(), value: "y".into() }] }))
}

fn flatten(mut chunk: Chunk) -> Vec<u8> {
    chunk.copy_to_bytes(chunk.remaining()).to_vec()
}

/// Decodes `wire` cut at `cuts`; joins the data of one message again.
fn decode(mut decoder: Decoder, wire: &[u8], cuts: &[usize]) -> Result<(Vec<Piece>, Decoder), DecodeError> {
    let mut pieces = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    cuts.extend([0, wire.len()]);
    cuts.sort_unstable();
    for cut in cuts.windows(2) {
        decoder.push(Bytes::copy_from_slice(&wire[cut[0]..cut[1]]));
        while let Some(piece) = decoder.next()? {
            pieces.push(piece);
        }
    }
    Ok((pieces, decoder))
}

#[test]
fn data_message_has_these_bytes() {
    let golden = [&[0, 0, 0, 0, 5, 0x12, 3][..], b"abc"].concat();
    assert_eq!(flatten(Chunk::data(Bytes::from_static(b"abc"))), golden);
    let chunk = Chunk::data(Bytes::from(vec![7; DATA_SENT_MAX]));
    assert_eq!(chunk.chunk(), [0, 0, 0, 0xff, 0xc4, 0x12, 0xc0, 0xff, 0x03]);
    assert!(chunk.remaining() + 9 <= 64 * 1024, "fills one 64 KiB frame, its header included");
}

#[test]
fn other_message_has_these_bytes() {
    assert_eq!(flatten(Chunk::message(&request(Part::Fin(pb::Fin::default()))).unwrap()), [0, 0, 0, 0, 2, 0x1a, 0]);
}

fn open_bytes(target: pb::open::Target) -> Vec<u8> {
    pb::Open { target: Some(target), hops: 0 }.encode_to_vec()
}

#[test]
fn unix_target_has_these_bytes() {
    let target = pb::open::Target::Unix(pb::UnixTarget { name: "db".to_owned() });
    assert_eq!(open_bytes(target), [&[0x22, 4, 0x0a, 2][..], b"db"].concat());
}

#[test]
fn kubernetes_request_has_these_bytes() {
    let request = pb::KubernetesRequest {
        method: "GET".to_owned(),
        path: "/api".to_owned(),
        fields: vec![pb::Field { name: "a".to_owned(), value: Bytes::from_static(b"b") }],
        no_body: true,
        upgrade: "spdy/3.1".to_owned(),
    };
    let golden = [
        &[0x1a, 31, 0x0a, 3][..],
        b"GET",
        &[0x12, 4],
        b"/api",
        &[0x1a, 6, 0x0a, 1],
        b"a",
        &[0x12, 1],
        b"b",
        &[0x20, 1, 0x2a, 8],
        b"spdy/3.1",
    ];
    assert_eq!(open_bytes(pb::open::Target::Kubernetes(request.clone())), golden.concat());
    let open = pb::Open::decode(golden.concat().as_slice()).unwrap();
    assert_eq!(open.target, Some(pb::open::Target::Kubernetes(request)));
}

#[test]
fn what_is_told_of_a_cluster_has_these_bytes() {
    let cpu = pb::Quantity { resource: "cpu".to_owned(), milli: 3920 };
    let nodes = pb::Nodes { count: 3, ready: 2, allocatable: vec![cpu] };
    let kubernetes = pb::Kubernetes { version: "v1".to_owned(), nodes: Some(nodes) };
    let inner =
        [&[0x0a, 2][..], b"v1", &[0x12, 14, 0x08, 3, 0x10, 2, 0x1a, 8, 0x0a, 3], b"cpu", &[0x10, 0xd0, 0x1e]].concat();
    let described = pb::DescribeResponse { kubernetes: Some(kubernetes.clone()), ..Default::default() };
    assert_eq!(described.encode_to_vec(), [&[0x3a, 20][..], &inner].concat());
    let capacity = pb::Capacity { streams: 1, streams_limit: 2, kubernetes: Some(kubernetes) };
    assert_eq!(capacity.encode_to_vec(), [&[0x08, 1, 0x10, 2, 0x1a, 20][..], &inner].concat());
}

#[test]
fn http_request_with_an_upgrade_and_a_protocol_has_these_bytes() {
    let request = pb::HttpRequest {
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        host: "a.svc".to_owned(),
        port: 443,
        path: "/".to_owned(),
        fields: vec![pb::Field { name: "a".to_owned(), value: Bytes::from_static(b"b") }],
        no_body: true,
        upgrade: "websocket".to_owned(),
        protocol: "h2".to_owned(),
    };
    let golden = [
        &[0x0a, 50, 0x0a, 3][..],
        b"GET",
        &[0x12, 5],
        b"https",
        &[0x1a, 5],
        b"a.svc",
        &[0x20, 0xbb, 0x03, 0x2a, 1],
        b"/",
        &[0x32, 6, 0x0a, 1],
        b"a",
        &[0x12, 1],
        b"b",
        &[0x38, 1, 0x42, 9],
        b"websocket",
        &[0x4a, 2],
        b"h2",
    ];
    assert_eq!(open_bytes(pb::open::Target::Http(request)), golden.concat());
}

#[test]
fn message_larger_than_a_peer_takes_is_not_sent() {
    let path = "x".repeat(MESSAGE_GATHERED_MAX);
    let open =
        pb::Open { target: Some(pb::open::Target::Http(pb::HttpRequest { path, ..Default::default() })), hops: 0 };
    let failure = Chunk::message(&request(Part::Open(open))).unwrap_err();
    assert_eq!(failure.code, Code::InvalidRequest);
}

#[test]
fn payload_is_handed_to_the_writer_and_on_by_the_reader_without_a_copy() {
    let payload = Bytes::from(vec![1; 1000]);
    let chunk = Chunk::data(payload.clone());
    let mut slices = [IoSlice::new(&[]); 2];
    assert_eq!(chunk.chunks_vectored(&mut slices), 2);
    assert_eq!(slices[1].as_ptr(), payload.as_ptr());

    let mut decoder = Decoder::streaming();
    let wire = Bytes::from(flatten(chunk));
    decoder.push(wire.clone());
    let Some(Piece::Data(data)) = decoder.next().unwrap() else { panic!("data") };
    assert_eq!(data.as_ptr(), wire[wire.len() - 1000..].as_ptr());
}

#[test]
fn half_received_data_is_handed_on() {
    let wire = flatten(Chunk::data(Bytes::from_static(b"abcdef")));
    let (pieces, decoder) = decode(Decoder::streaming(), &wire[..wire.len() - 2], &[]).unwrap();
    assert_eq!(pieces, [Piece::Data(Bytes::from_static(b"abcd"))]);
    assert!(!decoder.at_boundary());
}

#[test]
fn data_of_four_mebibytes_is_streamed_and_one_byte_more_is_refused() {
    let wire = encode(&request(Part::Data(vec![0; DATA_TAKEN_MAX].into())));
    let (pieces, decoder) = decode(Decoder::streaming(), &wire, &[1 << 16, 1 << 20]).unwrap();
    assert_eq!(pieces.len(), 3);
    assert!(decoder.at_boundary());
    let wire = encode(&request(Part::Data(vec![0; DATA_TAKEN_MAX + 1].into())));
    assert!(matches!(decode(Decoder::streaming(), &wire[..20], &[]), Err(DecodeError::Oversize { .. })));
}

#[test]
fn message_of_another_shape_is_refused_above_its_limit_before_it_is_gathered() {
    for length in [MESSAGE_GATHERED_MAX + 1, DATA_TAKEN_MAX, u32::MAX as usize] {
        let mut wire = vec![0];
        wire.extend((length as u32).to_be_bytes());
        wire.extend([0x0a, 0xff]);
        for (decoder, cuts) in
            [(Decoder::streaming(), &[][..]), (Decoder::streaming(), &[6]), (Decoder::gathering(), &[])]
        {
            assert!(matches!(decode(decoder, &wire, cuts), Err(DecodeError::Oversize { .. })));
        }
    }
}

#[test]
fn data_in_another_shape_is_gathered_whole() {
    // The same field twice, the length written with a needless byte, and an unknown field behind it.
    let twice = [&[0x12, 1][..], b"a", &[0x12, 1], b"b"].concat();
    let unknown = [&[0x12, 1][..], b"b", &[0x78, 1]].concat();
    for message in [twice, unknown] {
        let mut wire = vec![0, 0, 0, 0, message.len() as u8];
        wire.extend(&message);
        let (pieces, _) = decode(Decoder::streaming(), &wire, &[6]).unwrap();
        assert_eq!(pieces, [Piece::Message(message.clone().into())]);
        assert_eq!(
            pb::ForwardRequest::decode(message.as_slice()).unwrap(),
            request(Part::Data(Bytes::from_static(b"b")))
        );
    }
    let (pieces, _) = decode(Decoder::streaming(), &[0, 0, 0, 0, 4, 0x12, 0x81, 0, b'c'], &[]).unwrap();
    assert_eq!(pieces, [Piece::Data(Bytes::from_static(b"c"))]);
}

#[test]
fn compressed_message_is_refused() {
    assert_eq!(decode(Decoder::streaming(), &[1, 0, 0, 0, 0], &[]).unwrap_err(), DecodeError::Compressed);
    assert_eq!(decode(Decoder::gathering(), &[2, 0, 0, 0, 0], &[]).unwrap_err(), DecodeError::Flag(2));
}

#[test]
fn stream_may_end_only_between_messages() {
    let wire = [flatten(Chunk::data(Bytes::from_static(b"abc"))), encode(&fin())].concat();
    let first = flatten(Chunk::data(Bytes::from_static(b"abc"))).len();
    for end in 0..=wire.len() {
        let (_, decoder) = decode(Decoder::streaming(), &wire[..end], &[]).unwrap();
        assert_eq!(decoder.at_boundary(), [0, first, wire.len()].contains(&end), "after {end} bytes");
    }
}

#[test]
fn every_byte_is_either_data_or_overhead() {
    let wire = [flatten(Chunk::data(Bytes::from_static(b"abc"))), encode(&fin()), vec![0; 5]].concat();
    for cut in 0..=wire.len() {
        let (_, mut decoder) = decode(Decoder::streaming(), &wire, &[cut]).unwrap();
        assert_eq!(decoder.take_overhead(), wire.len() - 3);
    }
}

proptest! {
    #[test]
    fn any_stream_cut_anywhere_comes_back(
        parts in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| request(Part::Data(data.into()))),
            Just(fin()),
            any::<u32>().prop_map(|hops| request(Part::Open(pb::Open { target: None, hops }))),
            Just(pb::ForwardRequest { part: None }),
        ], 0..12),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        streaming: bool,
    ) {
        let wire: Vec<u8> = parts.iter().flat_map(encode).collect();
        let decoder = if streaming { Decoder::streaming() } else { Decoder::gathering() };
        let (pieces, decoder) = decode(decoder, &wire, &cuts).unwrap();
        prop_assert!(decoder.at_boundary());

        let mut data = Vec::new();
        let mut others = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Data(bytes) => {
                    prop_assert!(streaming && !bytes.is_empty());
                    data.extend(bytes);
                }
                Piece::Message(bytes) => match pb::ForwardRequest::decode(bytes).unwrap() {
                    pb::ForwardRequest { part: Some(Part::Data(bytes)) } => data.extend(bytes),
                    other => others.push(other),
                },
            }
        }
        let sent: Vec<u8> = parts.iter().filter_map(|part| match &part.part {
            Some(Part::Data(data)) => Some(data.to_vec()),
            _ => None,
        }).flatten().collect();
        prop_assert_eq!(data, sent);
        others.retain(|part| !matches!(part.part, Some(Part::Data(_))));
        let sent: Vec<_> = parts.into_iter().filter(|part| !matches!(part.part, Some(Part::Data(_)))).collect();
        prop_assert_eq!(others, sent);
    }

    #[test]
    fn arbitrary_bytes_never_panic(wire: Vec<u8>, cuts in prop::collection::vec(any::<usize>(), 0..8), streaming: bool) {
        let decoder = if streaming { Decoder::streaming() } else { Decoder::gathering() };
        if let Ok((pieces, _)) = decode(decoder, &wire, &cuts) {
            for piece in pieces {
                if let Piece::Message(bytes) = piece {
                    let _ = pb::ForwardResponse::decode(bytes);
                }
            }
        }
    }

    #[test]
    fn chunk_is_what_prost_would_write(length in 1usize..40_000, steps in prop::collection::vec(1usize..50, 0..10)) {
        let payload: Bytes = (0..length).map(|at| at as u8).collect::<Vec<_>>().into();
        let wire = encode(&request(Part::Data(payload.clone())));
        let mut chunk = Chunk::data(payload);
        let mut read = Vec::new();
        for step in steps {
            let step = step.min(chunk.remaining());
            let mut slices = [IoSlice::new(&[]); 4];
            let used = chunk.chunks_vectored(&mut slices);
            let gathered: usize = slices[..used].iter().map(|slice| slice.len()).sum();
            prop_assert_eq!(gathered, chunk.remaining());
            read.extend(chunk.copy_to_bytes(step));
        }
        read.extend(flatten(chunk));
        prop_assert_eq!(read, wire);
    }
}
