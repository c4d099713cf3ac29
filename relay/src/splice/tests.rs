use std::pin::Pin;

use bytes::BytesMut;
use proptest::prelude::*;
use proto::ws::{
    Role,
    frame::{Decoder, Event, HEADER_MAX, Header, Opcode, close_payload, put_control},
    mask,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::Instant,
};

use super::*;

mod budget;
mod turns;

const SERVER: Framing = Framing::WebSocket(Role::Server);

/// A splice, and what its two peers hold.
fn spliced(
    a: Framing,
    b: Framing,
    capacity: usize,
) -> (Splice<DuplexStream, DuplexStream>, DuplexStream, DuplexStream) {
    let buffers = Buffers::new(1 << 20);
    let ((ours_a, theirs_a), (ours_b, theirs_b)) = (duplex(capacity), duplex(capacity));
    let leg = |io, framing| Leg::new(io, framing, BytesMut::new(), buffers.clone());
    (Splice::new(leg(ours_a, a), leg(ours_b, b)), theirs_a, theirs_b)
}

fn signals() -> Signals {
    Signals { drain: CancellationToken::new(), force: CancellationToken::new(), notice: None }
}

fn put_frame(out: &mut Vec<u8>, fin: bool, opcode: Opcode, payload: &[u8]) {
    let key = [3, 1, 4, 1];
    let mut header = [0; HEADER_MAX];
    let len = Header { fin, opcode, mask: Some(key), len: payload.len() as u64 }.encode(&mut header);
    out.extend_from_slice(&header[..len]);
    let at = out.len();
    out.extend_from_slice(payload);
    mask::apply(key, 0, &mut out[at..]);
}

fn put_close(out: &mut Vec<u8>, code: u16) {
    put_control(out, Opcode::Close, &close_payload(code, "why"), Some([9; 4]));
}

/// What a client sees: messages with their type, and the payload of a Close, if one came.
type Seen = (Vec<(Opcode, Vec<u8>)>, Option<Vec<u8>>);

fn messages(wire: &[u8]) -> Seen {
    let (mut decoder, mut input) = (Decoder::new(Role::Client), BytesMut::from(wire));
    let (mut seen, mut close, mut open) = (Vec::new(), None, false);
    let mut fin = false;
    while let Some(event) = decoder.next(&mut input).unwrap() {
        match event {
            Event::Start(header) => {
                if !open {
                    seen.push((header.opcode, Vec::new()));
                }
                (open, fin) = (true, header.fin);
            }
            Event::Payload { bytes, end } => {
                seen.last_mut().unwrap().1.extend_from_slice(&bytes);
                open = !(end && fin);
            }
            Event::Control { opcode: Opcode::Close, payload } => close = Some(payload.to_vec()),
            Event::Control { .. } => {}
        }
    }
    (seen, close)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

async fn write_in_pieces(peer: &mut tokio::io::WriteHalf<DuplexStream>, wire: &[u8], size: usize) {
    for piece in wire.chunks(size) {
        peer.write_all(piece).await.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_arrive_as_they_were_sent_however_they_are_cut(
        sent in prop::collection::vec((any::<bool>(), prop::collection::vec(0_usize..3000, 1..4)), 0..8),
        large in prop::option::of(60_000_usize..200_000),
        size in 1_usize..5000,
        capacity in 1_usize..5000,
    ) {
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for (text, fragments) in sent.iter().cloned().chain(large.map(|size| (false, vec![size]))) {
            let opcode = if text { Opcode::Text } else { Opcode::Binary };
            let mut whole = Vec::new();
            for (at, length) in fragments.iter().enumerate() {
                let payload: Vec<u8> = (0..*length).map(|byte| (byte * 7 + at) as u8).collect();
                let opcode = if at == 0 { opcode } else { Opcode::Continuation };
                put_frame(&mut wire, at + 1 == fragments.len(), opcode, &payload);
                whole.extend_from_slice(&payload);
                put_control(&mut wire, Opcode::Ping, b"ping", Some([7; 4]));
            }
            expected.push((opcode, whole));
        }
        put_close(&mut wire, 4000);
        runtime().block_on(async {
            let (mut splice, a, b) = spliced(SERVER, SERVER, capacity);
            let ((mut a_read, mut a_write), (mut b_read, mut b_write)) = (tokio::io::split(a), tokio::io::split(b));
            let mut answer = Vec::new();
            put_close(&mut answer, 1000);
            let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
            let (end, ..) = tokio::join!(
                splice.run(signals(), |_, _| {}),
                write_in_pieces(&mut a_write, &wire, size),
                async { b_write.write_all(&answer).await.unwrap() },
                async { a_read.read_to_end(&mut at_a).await.unwrap() },
                async { b_read.read_to_end(&mut at_b).await.unwrap() },
            );
            assert!(matches!(end, End::Complete), "{end:?}");
            let (seen, close) = messages(&at_b);
            assert!(seen == expected, "messages changed");
            assert_eq!(close, Some(close_payload(4000, "why")));
            assert_eq!(messages(&at_a), (Vec::new(), Some(close_payload(1000, "why"))));
            let total: usize = expected.iter().map(|(_, whole)| whole.len()).sum();
            assert_eq!(splice.bytes(), (total as u64, 0));
        });
    }

    #[test]
    fn raw_bytes_come_through_two_splices_whole(
        up in prop::collection::vec(any::<u8>(), 0..100_000),
        down in prop::collection::vec(any::<u8>(), 0..20_000),
        capacity in 1_usize..9000,
    ) {
        runtime().block_on(async {
            let raw = Framing::Raw { skip_text: true };
            let buffers = Buffers::new(0);
            let (near, middle_a) = duplex(capacity);
            let (middle_client, middle_server) = duplex(capacity);
            let (middle_b, far) = duplex(capacity);
            let leg = |io, framing| Leg::new(io, framing, BytesMut::new(), buffers.clone());
            let client = Framing::WebSocket(Role::Client);
            let mut first = Splice::new(leg(middle_a, raw), leg(middle_client, client));
            let mut second = Splice::new(leg(middle_server, SERVER), leg(middle_b, raw));
            let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
                (tokio::io::split(near), tokio::io::split(far));
            let (mut at_near, mut at_far) = (Vec::new(), Vec::new());
            let (one, other, ..) = tokio::join!(
                first.run(signals(), |_, _| {}),
                second.run(signals(), |_, _| {}),
                async {
                    near_write.write_all(&up).await.unwrap();
                    near_write.shutdown().await.unwrap();
                },
                async {
                    far_write.write_all(&down).await.unwrap();
                    far_write.shutdown().await.unwrap();
                },
                async { near_read.read_to_end(&mut at_near).await.unwrap() },
                async { far_read.read_to_end(&mut at_far).await.unwrap() },
            );
            assert!(matches!((&one, &other), (End::Complete, End::Complete)), "{one:?} {other:?}");
            assert!(at_far == up && at_near == down, "bytes changed");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_splice_ends_after_a_minute_without_a_byte() {
    let (mut splice, mut a, mut b) = spliced(SERVER, SERVER, 1024);
    let began = Instant::now();
    let (end, ()) = tokio::join!(splice.run(signals(), |_, _| {}), async {
        let mut close = Vec::new();
        put_close(&mut close, 1000);
        a.write_all(&close).await.unwrap();
        // A byte half-way starts the minute again.
        tokio::time::sleep(HALF_CLOSED_IDLE / 2).await;
        let mut late = Vec::new();
        put_frame(&mut late, true, Opcode::Binary, b"x");
        b.write_all(&late).await.unwrap();
    });
    assert!(matches!(end, End::HalfClosed), "{end:?}");
    assert_eq!(began.elapsed(), 2 * HALF_CLOSED_IDLE);
    drop((a, b));
}

/// Has A close its direction and B send a frame, larger than a connection of 1 KiB holds. The second part of it waits for
/// 200 s, because others have taken as much of the account.
async fn half_closed_in_debt(pace: &Pace, a: &mut DuplexStream, b: &mut DuplexStream) {
    let (mut close, mut large) = (Vec::new(), Vec::new());
    put_close(&mut close, 1000);
    a.write_all(&close).await.unwrap();
    b.read_exact(&mut [0; 7]).await.unwrap();
    pace.clone().spend(200_000);
    put_frame(&mut large, true, Opcode::Binary, &[7; 1500]);
    b.write_all(&large).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_splice_that_waits_for_its_pace_is_not_idle() {
    let (splice, mut a, mut b) = spliced(SERVER, SERVER, 1024);
    let pace = Pace::new(Some(1000));
    let mut splice = splice.paced(&pace);
    let began = Instant::now();
    let run = splice.run(signals(), |_, _| {});
    tokio::pin!(run);
    tokio::select! {
        end = &mut run => panic!("{end:?} after {:?}", began.elapsed()),
        () = async {
            half_closed_in_debt(&pace, &mut a, &mut b).await;
            a.read_exact(&mut [0; 1508]).await.unwrap();
        } => {}
    }
    assert_eq!(began.elapsed().as_secs(), 201, "the debt, and what was read of the frame");
    assert!(matches!(run.await, End::HalfClosed), "with nothing left to wait for but bytes");
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_is_waited_for_no_longer_than_the_pace() {
    let (splice, mut a, mut b) = spliced(SERVER, SERVER, 1024);
    let pace = Pace::new(Some(1000));
    let mut splice = splice.paced(&pace);
    let began = Instant::now();
    let (end, ()) = tokio::join!(splice.run(signals(), |_, _| {}), half_closed_in_debt(&pace, &mut a, &mut b));
    assert!(matches!(end, End::HalfClosed), "{end:?}");
    // The rest, which does not fit, is moved within the fourth minute; the fifth brings nothing.
    assert_eq!(began.elapsed(), 5 * HALF_CLOSED_IDLE + FAREWELL);
    drop((a, b));
}

#[tokio::test]
async fn an_idle_splice_holds_no_buffers() {
    let (mut splice, mut a, mut b) = spliced(SERVER, SERVER, 1 << 20);
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Binary, &vec![7; 500_000]);
    // The front of a header stays, in no more room than it needs.
    wire.push(0x82);
    a.write_all(&wire).await.unwrap();
    let read = async {
        let mut seen = 0;
        while seen < 500_000 {
            seen += b.read(&mut vec![0; 1 << 20]).await.unwrap();
        }
    };
    tokio::select! {
        end = splice.run(signals(), |_, _| {}) => panic!("{end:?}"),
        () = read => {}
    }
    // Polled once more, so that the pause is noticed.
    let idle = tokio::time::timeout(Duration::from_millis(20), splice.run(signals(), |_, _| {})).await;
    assert!(idle.is_err());
    assert!(splice.a.read_memory() < 200, "{}", splice.a.read_memory());
    assert_eq!(splice.b.read_memory(), 0);
}

#[tokio::test]
async fn a_code_that_a_plain_target_cannot_be_told_cuts_it_off() {
    let (mut splice, mut a, mut b) = spliced(SERVER, Framing::Raw { skip_text: false }, 1024);
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Text, b"half");
    put_close(&mut wire, 1011);
    a.write_all(&wire).await.unwrap();
    let end = splice.run(signals(), |_, _| {}).await;
    assert!(matches!(end, End::Cut(Side::A, 1011)), "{end:?}");
    drop(splice);
    let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
    a.read_to_end(&mut at_a).await.unwrap();
    b.read_to_end(&mut at_b).await.unwrap();
    assert_eq!((messages(&at_a).1, at_b), (Some(close_payload(1011, "")), b"".to_vec()));
}

#[tokio::test]
async fn notices_of_our_own_parties_are_not_data_for_a_target() {
    let (mut splice, mut a, mut b) = spliced(SERVER, Framing::Raw { skip_text: true }, 1024);
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Text, b"notice");
    put_frame(&mut wire, true, Opcode::Binary, b"data");
    put_close(&mut wire, 1000);
    a.write_all(&wire).await.unwrap();
    let mut at_b = Vec::new();
    let (end, _) = tokio::join!(splice.run(signals(), |_, _| {}), async {
        b.read_to_end(&mut at_b).await.unwrap();
        b.shutdown().await.unwrap();
    });
    assert!(matches!(end, End::Complete), "{end:?}");
    assert_eq!(at_b, b"data");
}

#[tokio::test]
async fn a_notice_waits_for_the_end_of_the_message_that_is_being_sent() {
    let (mut splice, mut a, mut b) = spliced(SERVER, SERVER, 1024);
    let signals = Signals { notice: Some("notice".into()), ..signals() };
    let (drain, force) = (signals.drain.clone(), signals.force.clone());
    let (end, seen) = tokio::join!(splice.run(signals, |_, _| {}), async {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        put_frame(&mut first, false, Opcode::Binary, b"be");
        put_frame(&mut last, true, Opcode::Continuation, b"gun");
        b.write_all(&first).await.unwrap();
        let mut seen = vec![0; 4];
        a.read_exact(&mut seen).await.unwrap();
        drain.cancel();
        tokio::task::yield_now().await;
        b.write_all(&last).await.unwrap();
        let mut rest = vec![0; 5 + 8];
        a.read_exact(&mut rest).await.unwrap();
        force.cancel();
        [seen, rest].concat()
    });
    assert!(matches!(end, End::Forced), "{end:?}");
    let expected = vec![(Opcode::Binary, b"begun".to_vec()), (Opcode::Text, b"notice".to_vec())];
    assert_eq!(messages(&seen).0, expected);
}

#[tokio::test(start_paused = true)]
async fn a_paced_splice_takes_the_time_that_its_rate_asks_for() {
    let (splice, mut a, mut b) = spliced(SERVER, SERVER, 1 << 20);
    let mut splice = splice.paced(&Pace::new(Some(100_000)));
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Binary, &vec![7; 1_000_000]);
    let began = Instant::now();
    let (wrote, read) = tokio::join!(a.write_all(&wire), async {
        tokio::select! {
            _ = splice.run(signals(), |_, _| {}) => panic!("ended"),
            read = async {
                let mut left = 1_000_000_usize;
                while left > 0 {
                    left = left.saturating_sub(b.read(&mut vec![0; 70_000]).await.unwrap());
                }
            } => read,
        }
    });
    wrote.unwrap();
    let () = read;
    let elapsed = began.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(11)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_flood_of_pings_is_refused() {
    let (mut splice, mut a, b) = spliced(SERVER, SERVER, 1 << 16);
    let mut wire = Vec::new();
    for _ in 0..200 {
        put_control(&mut wire, Opcode::Ping, b"", Some([0; 4]));
    }
    a.write_all(&wire).await.unwrap();
    let end = splice.run(signals(), |_, _| {}).await;
    assert!(matches!(end, End::Broken(Side::A, DecodeError::Flood)), "{end:?}");
    drop((splice, b));
    let mut told = Vec::new();
    a.read_to_end(&mut told).await.unwrap();
    assert_eq!(&messages(&told).1.unwrap()[..2], 1008_u16.to_be_bytes());
}

#[tokio::test]
async fn a_server_that_masks_is_refused_where_we_are_the_client() {
    let (mut splice, mut a, b) = spliced(Framing::WebSocket(Role::Client), Framing::Raw { skip_text: true }, 1024);
    let mut wire = Vec::new();
    put_frame(&mut wire, true, Opcode::Binary, b"masked");
    a.write_all(&wire).await.unwrap();
    let end = splice.run(signals(), |_, _| {}).await;
    assert!(matches!(end, End::Broken(Side::A, DecodeError::Masked)), "{end:?}");
    drop((splice, b));
    let mut told = Vec::new();
    a.read_to_end(&mut told).await.unwrap();
    let Some(Event::Control { opcode: Opcode::Close, payload }) =
        Decoder::new(Role::Server).next(&mut BytesMut::from(&told[..])).unwrap()
    else {
        panic!("no Close: {told:?}")
    };
    assert_eq!(payload[..2], 1002_u16.to_be_bytes());
}
