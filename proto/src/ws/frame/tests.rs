//! Golden bytes, every refusal, and round trips under any fragmentation and any split.
use proptest::prelude::*;

use super::*;
use crate::ws::Role;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn encoded(header: Header) -> Vec<u8> {
    let mut out = [0; HEADER_MAX];
    let len = header.encode(&mut out);
    out[..len].to_vec()
}

fn data(len: u64, mask: Option<[u8; 4]>) -> Header {
    Header { fin: true, opcode: Opcode::Binary, mask, len }
}

/// Decodes `wire` in one piece.
fn decode(role: Role, wire: &[u8]) -> Result<Vec<Event>, DecodeError> {
    let (mut decoder, mut input, mut events) = (Decoder::new(role), BytesMut::from(wire), Vec::new());
    while let Some(event) = decoder.next(&mut input)? {
        events.push(event);
    }
    Ok(events)
}

fn refusal(role: Role, wire: &[u8]) -> DecodeError {
    decode(role, wire).expect_err("must be refused")
}

mod golden {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        assert_eq!(encoded(data(0, None)), [0x82, 0]);
        assert_eq!(encoded(data(125, None)), [0x82, 125]);
        assert_eq!(encoded(data(126, None)), [0x82, 126, 0, 126]);
        assert_eq!(encoded(data(65535, None)), [0x82, 126, 0xff, 0xff]);
        assert_eq!(encoded(data(65536, None)), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(encoded(data(5, Some(KEY))), [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d]);
        let first = Header { fin: false, opcode: Opcode::Text, mask: None, len: 3 };
        assert_eq!(encoded(first), [0x01, 3]);
        let last = Header { fin: true, opcode: Opcode::Continuation, mask: None, len: 2 };
        assert_eq!(encoded(last), [0x80, 2]);
    }

    #[test]
    fn masked_hello_of_the_rfc_decodes() {
        let wire = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let header = Header { fin: true, opcode: Opcode::Text, mask: Some(KEY), len: 5 };
        let payload = Event::Payload { bytes: BytesMut::from("Hello"), end: true };
        assert_eq!(decode(Role::Server, &wire).unwrap(), [Event::Start(header), payload]);
    }

    #[test]
    fn control_frames_are_masked_by_clients_only() {
        let (mut server, mut client) = (Vec::new(), Vec::new());
        put_control(&mut server, Opcode::Ping, b"Hello", None);
        put_control(&mut client, Opcode::Pong, b"Hello", Some(KEY));
        assert_eq!(server, [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(client, [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn close_carries_code_and_reason_cut_between_characters() {
        assert_eq!(close_payload(1000, "bye"), [0x03, 0xe8, b'b', b'y', b'e']);
        let long = close_payload(1008, &"é".repeat(100));
        assert_eq!(long.len(), 2 + 122);
        assert_eq!(close_reason(&long), Some((1008, "é".repeat(61).as_str())));
        assert_eq!(close_reason(b""), None);
    }

    #[test]
    fn an_empty_frame_gives_one_empty_last_piece() {
        let events = decode(Role::Client, &[0x82, 0]).unwrap();
        assert_eq!(events, [Event::Start(data(0, None)), Event::Payload { bytes: BytesMut::new(), end: true }]);
    }

    #[test]
    fn bytes_behind_a_close_are_dropped() {
        let events = decode(Role::Client, &[0x88, 0, 0xff, 0xff, 0xff]).unwrap();
        assert_eq!(events, [Event::Control { opcode: Opcode::Close, payload: BytesMut::new() }]);
    }
}

mod refuses {
    use super::*;

    #[test]
    fn an_unmasked_frame_from_a_client() {
        assert_eq!(refusal(Role::Server, &[0x82, 0x01]), DecodeError::Unmasked);
    }

    #[test]
    fn a_masked_frame_from_a_server() {
        assert_eq!(refusal(Role::Client, &[0x82, 0x81]), DecodeError::Masked);
    }

    #[test]
    fn reserved_bits() {
        for bit in [0x40, 0x20, 0x10] {
            assert_eq!(refusal(Role::Client, &[0x82 | bit, 0]), DecodeError::ReservedBits);
        }
    }

    #[test]
    fn unknown_opcodes() {
        for code in (3..8).chain(11..16) {
            assert_eq!(refusal(Role::Client, &[0x80 | code, 0]), DecodeError::UnknownOpcode(code));
        }
    }

    #[test]
    fn lengths_that_are_not_in_their_shortest_form() {
        assert_eq!(refusal(Role::Client, &[0x82, 126, 0, 125]), DecodeError::LongLength);
        assert_eq!(refusal(Role::Client, &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), DecodeError::LongLength);
    }

    #[test]
    fn lengths_beyond_63_bits() {
        let wire = [0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(refusal(Role::Client, &wire), DecodeError::LengthTooLarge);
        let largest = [0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decode(Role::Client, &largest).unwrap(), [Event::Start(data(u64::MAX >> 1, None))]);
    }

    #[test]
    fn frames_beyond_the_users_limit() {
        let mut decoder = Decoder::new(Role::Client).frame_limit(10);
        assert!(decoder.next(&mut BytesMut::from(&[0x02u8, 10][..])).is_ok());
        let mut decoder = Decoder::new(Role::Client).frame_limit(10);
        let error = decoder.next(&mut BytesMut::from(&[0x02u8, 11][..])).unwrap_err();
        assert_eq!(error, DecodeError::FrameTooLarge { limit: 10 });
    }

    #[test]
    fn fragmented_control_frames() {
        assert_eq!(refusal(Role::Client, &[0x09, 0]), DecodeError::FragmentedControl);
    }

    #[test]
    fn long_control_frames() {
        assert_eq!(refusal(Role::Client, &[0x89, 126, 0, 126]), DecodeError::LongControl);
    }

    #[test]
    fn a_continuation_outside_a_message() {
        assert_eq!(refusal(Role::Client, &[0x80, 0]), DecodeError::StrayContinuation);
        assert_eq!(refusal(Role::Client, &[0x82, 0, 0x80, 0]), DecodeError::StrayContinuation);
    }

    #[test]
    fn a_new_message_inside_a_fragmented_one() {
        assert_eq!(refusal(Role::Client, &[0x02, 0, 0x81, 0]), DecodeError::InterleavedMessage);
    }

    #[test]
    fn a_close_frame_with_one_byte() {
        assert_eq!(refusal(Role::Client, &[0x88, 1, 3]), DecodeError::CloseLength);
    }

    #[test]
    fn close_codes_that_may_not_be_sent() {
        for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535] {
            let [high, low] = code.to_be_bytes();
            assert_eq!(refusal(Role::Client, &[0x88, 2, high, low]), DecodeError::CloseCode(code));
        }
        for code in [1000u16, 1001, 1008, 1011, 1014, 3000, 4999] {
            let [high, low] = code.to_be_bytes();
            assert!(decode(Role::Client, &[0x88, 2, high, low]).is_ok());
        }
    }

    #[test]
    fn a_close_reason_that_is_not_text() {
        assert_eq!(refusal(Role::Client, &[0x88, 3, 0x03, 0xe8, 0xff]), DecodeError::CloseReason);
    }

    #[test]
    fn with_the_close_code_that_fits() {
        assert_eq!(DecodeError::Unmasked.close_code(), 1002);
        assert_eq!(DecodeError::FrameTooLarge { limit: 1 }.close_code(), 1009);
        assert_eq!(DecodeError::CloseReason.close_code(), 1007);
        assert_eq!(DecodeError::Flood.close_code(), 1008);
    }
}

/// One frame to send.
#[derive(Debug, Clone)]
enum Sent {
    Message { text: bool, fragments: Vec<Vec<u8>>, between: Option<Vec<u8>> },
    Control { pong: bool, payload: Vec<u8> },
}

/// What came of it: whole messages and control frames in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Message { text: bool, bytes: Vec<u8> },
    Control { opcode: Opcode, payload: Vec<u8> },
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        (any::<bool>(), proptest::collection::vec(bytes(400), 1..4), proptest::option::of(bytes(125)))
            .prop_map(|(text, fragments, between)| Sent::Message { text, fragments, between }),
        (any::<bool>(), bytes(126)).prop_map(|(pong, payload)| Sent::Control { pong, payload }),
    ]
}

fn put_data(wire: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) {
    wire.extend(encoded(Header { fin, opcode, mask: key, len: payload.len() as u64 }));
    let at = wire.len();
    wire.extend(payload);
    mask::apply(key.unwrap_or_default(), 0, &mut wire[at..]);
}

/// The wire bytes of `sent`, and what a receiver must see.
fn write(sent: &[Sent], key: Option<[u8; 4]>) -> (Vec<u8>, Vec<Seen>) {
    let (mut wire, mut seen) = (Vec::new(), Vec::new());
    for one in sent {
        match one {
            Sent::Control { pong, payload } => {
                let opcode = if *pong { Opcode::Pong } else { Opcode::Ping };
                put_control(&mut wire, opcode, payload, key);
                seen.push(Seen::Control { opcode, payload: payload.clone() });
            }
            Sent::Message { text, fragments, between } => {
                for (at, fragment) in fragments.iter().enumerate() {
                    let opcode = match (at, text) {
                        (0, true) => Opcode::Text,
                        (0, false) => Opcode::Binary,
                        _ => Opcode::Continuation,
                    };
                    let fin = at + 1 == fragments.len();
                    put_data(&mut wire, fin, opcode, fragment, key);
                    if let Some(payload) = between.as_ref().filter(|_| !fin) {
                        put_control(&mut wire, Opcode::Ping, payload, key);
                        seen.push(Seen::Control { opcode: Opcode::Ping, payload: payload.clone() });
                    }
                }
                seen.push(Seen::Message { text: *text, bytes: fragments.concat() });
            }
        }
    }
    (wire, seen)
}

/// Feeds `wire` in pieces of the given sizes, in turn.
fn read(role: Role, wire: &[u8], pieces: &[usize]) -> Vec<Seen> {
    let (mut decoder, mut input, mut seen) = (Decoder::new(role), BytesMut::new(), Vec::new());
    let (mut text, mut fin, mut message) = (false, false, Vec::new());
    let (mut at, mut turn) = (0, 0);
    while at < wire.len() {
        let piece = pieces[turn % pieces.len()].min(wire.len() - at);
        input.extend_from_slice(&wire[at..at + piece]);
        (at, turn) = (at + piece, turn + 1);
        while let Some(event) = decoder.next(&mut input).unwrap() {
            match event {
                Event::Start(header) => {
                    fin = header.fin;
                    text = text && header.opcode == Opcode::Continuation || header.opcode == Opcode::Text;
                }
                Event::Payload { bytes, end } => {
                    message.extend_from_slice(&bytes);
                    if end && fin {
                        seen.push(Seen::Message { text, bytes: std::mem::take(&mut message) });
                    }
                }
                Event::Control { opcode, payload } => seen.push(Seen::Control { opcode, payload: payload.to_vec() }),
            }
        }
    }
    assert!(decoder.between_messages());
    seen
}

proptest! {
    #[test]
    fn any_fragmentation_in_any_split_comes_out_whole(
        sent in proptest::collection::vec(any_sent(), 0..6),
        key: Option<[u8; 4]>,
        pieces in proptest::collection::vec(1usize..300, 1..8),
    ) {
        let (wire, expected) = write(&sent, key);
        let role = if key.is_some() { Role::Server } else { Role::Client };
        prop_assert_eq!(read(role, &wire, &pieces), expected);
    }

    #[test]
    fn header_round_trips(len in prop_oneof![0u64..70_000, any::<u64>().prop_map(|len| len >> 1)], key: Option<[u8; 4]>, fin: bool) {
        let header = Header { fin, opcode: Opcode::Binary, mask: key, len };
        let role = if key.is_some() { Role::Server } else { Role::Client };
        let mut wire = BytesMut::from(&encoded(header)[..]);
        prop_assert_eq!(Decoder::new(role).next(&mut wire).unwrap(), Some(Event::Start(header)));
        prop_assert!(wire.is_empty());
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_stall(wire in proptest::collection::vec(any::<u8>(), 0..200), server: bool) {
        let role = if server { Role::Server } else { Role::Client };
        let (mut decoder, mut input) = (Decoder::new(role), BytesMut::from(&wire[..]));
        let mut steps = 0;
        while let Ok(Some(_)) = decoder.next(&mut input) {
            steps += 1;
            prop_assert!(steps <= 2 * wire.len() + 2);
        }
    }
}
