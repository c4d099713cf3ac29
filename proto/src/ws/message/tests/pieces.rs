//! Binary messages of any length, sent and taken in pieces.
use super::*;

fn piece(bytes: &'static [u8], first: bool, last: bool) -> Piece {
    Piece { bytes: Bytes::from_static(bytes), first, last }
}

async fn next_part(end: &mut End) -> Result<Part, ChannelError> {
    tokio::select! {
        part = end.receiver.next_part() => part,
        () = &mut end.writer => panic!("the writer has ended"),
    }
}

fn part(bytes: &'static [u8], last: bool) -> Part {
    Part::Bytes { bytes: Bytes::from_static(bytes), last }
}

#[tokio::test]
async fn a_piece_arrives_before_the_next_one_is_sent() {
    let (mut client, mut server) = ends();
    for (sent, expected) in [
        (piece(b"one", true, false), part(b"one", false)),
        (piece(b"two", false, false), part(b"two", false)),
        (piece(b"", false, true), part(b"", true)),
        (piece(b"alone", true, true), part(b"alone", true)),
    ] {
        let sender = client.sender.clone();
        let came = tokio::select! {
            (sent, came) = async { tokio::join!(sender.send_piece(sent), next_part(&mut server)) } => sent.and(came),
            _ = client.next() => unreachable!(),
        };
        assert_eq!(came.unwrap(), expected);
    }
}

#[tokio::test]
async fn pieces_are_one_message_for_who_takes_it_whole() {
    let (mut client, mut server) = ends();
    let sender = server.sender.clone();
    let sending = async {
        for sent in [piece(b"one ", true, false), piece(b"two", false, true)] {
            sender.send_piece(sent).await?;
        }
        client.next().await
    };
    let came = tokio::select! { came = sending => came, _ = server.next() => unreachable!() };
    assert_eq!(came.unwrap(), Message::Binary(Bytes::from_static(b"one two")));
}

#[tokio::test]
async fn a_binary_message_in_pieces_has_no_limit_and_a_text_keeps_it() {
    let (a, mut raw) = duplex(1 << 20);
    let mut client = End::new(a, Role::Client);
    let body = vec![7; 100 * LIMIT];
    raw.write_all(&frame(Opcode::Binary, false, &body)).await.unwrap();
    raw.write_all(&frame(Opcode::Continuation, true, b"")).await.unwrap();
    let mut came = Vec::new();
    loop {
        match next_part(&mut client).await.unwrap() {
            Part::Bytes { bytes, last } => {
                came.extend_from_slice(&bytes);
                if last {
                    break;
                }
            }
            Part::Whole(other) => panic!("{other:?}"),
        }
    }
    assert!(came == body);
    raw.write_all(&frame(Opcode::Text, true, &vec![b'x'; LIMIT + 1])).await.unwrap();
    assert!(matches!(client.receiver.next_part().await, Err(ChannelError::TooLarge { limit: LIMIT })));
    assert!(matches!(client.receiver.next_part().await, Err(ChannelError::Ended)));
}

#[tokio::test]
async fn a_small_piece_holds_no_more_than_a_few_times_its_bytes() {
    for size in [1, receive::PIECE_SHARED - 1, receive::PIECE_SHARED] {
        let (mut client, mut raw) = client_and_raw();
        // A message that is under way, so that the next read is large.
        raw.write_all(&frame(Opcode::Binary, false, b"begun")).await.unwrap();
        assert_eq!(next_part(&mut client).await.unwrap(), part(b"begun", false));
        raw.write_all(&frame(Opcode::Continuation, false, &vec![7; size])).await.unwrap();
        let Part::Bytes { bytes, .. } = next_part(&mut client).await.unwrap() else { panic!("no bytes") };
        assert_eq!(bytes.len(), size);
        drop(client);
        let held = bytes.try_into_mut().expect("nobody else holds it").capacity();
        assert!(held <= 5 * size, "{held} bytes for {size}");
    }
}

#[tokio::test]
async fn one_piece_at_a_time_waits_for_a_reader_that_stalls() {
    let (a, _raw) = duplex(10);
    let (sender, _receiver, writer) = split(a, Role::Client, BytesMut::new(), LIMIT, PING);
    let sending = async {
        sender.send_piece(piece(b"more than ten bytes", true, false)).await.unwrap();
        sender.send_piece(piece(b"never", false, false)).await.unwrap();
    };
    let (mut sending, mut writer) = (Box::pin(sending), Box::pin(writer));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for _ in 0..3 {
        assert!(sending.as_mut().poll(&mut cx).is_pending());
        assert!(writer.as_mut().poll(&mut cx).is_pending());
    }
}

#[tokio::test]
async fn a_connection_that_ends_within_a_message_is_lost_and_not_complete() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&frame(Opcode::Binary, false, b"half")).await.unwrap();
    assert_eq!(next_part(&mut client).await.unwrap(), part(b"half", false));
    drop(raw);
    assert!(matches!(next_part(&mut client).await, Err(ChannelError::Io(_))));
}

#[tokio::test]
async fn a_close_within_a_message_is_told_as_a_close() {
    let (mut client, mut raw) = client_and_raw();
    raw.write_all(&frame(Opcode::Binary, false, b"half")).await.unwrap();
    raw.write_all(&control(Opcode::Close, &close_payload(1001, "gone"))).await.unwrap();
    assert_eq!(next_part(&mut client).await.unwrap(), part(b"half", false));
    let close = Message::Close(Some((1001, "gone".to_owned())));
    assert_eq!(next_part(&mut client).await.unwrap(), Part::Whole(close));
}

#[tokio::test]
async fn endless_empty_frames_within_a_message_are_a_flood() {
    let (mut client, mut raw) = client_and_raw();
    let mut wire = frame(Opcode::Binary, false, b"x");
    for _ in 0..1000 {
        wire.extend(frame(Opcode::Continuation, false, b""));
    }
    raw.write_all(&wire).await.unwrap();
    assert_eq!(next_part(&mut client).await.unwrap(), part(b"x", false));
    assert!(matches!(next_part(&mut client).await, Err(ChannelError::Frame(DecodeError::Flood))));
}
