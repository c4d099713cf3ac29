//! How each direction ends, and what a broken rule leads to.
use super::*;
use crate::ws::{
    frame::{DecodeError, close_payload, put_control},
    stream::CutShort,
};

fn close_frame(code: u16) -> Vec<u8> {
    let mut wire = Vec::new();
    put_control(&mut wire, Opcode::Close, &close_payload(code, ""), None);
    wire
}

#[tokio::test]
async fn close_reads_as_end_and_is_echoed_with_its_code() {
    let (mut stream, mut raw) = client_and_raw(4096);
    raw.write_all(&close_frame(1001)).await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(stream.close_code(), Some(1001));
    stream.shutdown().await.unwrap();
    drop(stream);
    let (_, controls) = seen_by_server(&read_to_end(&mut raw, 100).await.unwrap());
    assert_eq!(controls, [(Opcode::Close, close_payload(1001, ""))]);
}

#[tokio::test]
async fn for_who_asks_for_it_a_close_is_an_end_only_where_the_data_is_complete() {
    for (code, cut) in [(Some(1000), None), (None, None), (Some(1001), Some(CutShort(1001)))] {
        let (stream, mut raw) = client_and_raw(4096);
        let mut stream = stream.whole_or_error();
        let payload = code.map(|code| close_payload(code, "")).unwrap_or_default();
        let mut wire = frame(Opcode::Binary, true, b"all?");
        put_control(&mut wire, Opcode::Close, &payload, None);
        raw.write_all(&wire).await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        for _ in 0..2 {
            let told = stream.read(&mut [0; 10]).await.err();
            assert_eq!(told.map(|error| error.into_inner().unwrap().downcast_ref().copied().unwrap()), cut);
        }
        stream.write_all(b"our direction goes on").await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        let (data, controls) = seen_by_server(&read_to_end(&mut raw, 100).await.unwrap());
        assert_eq!(data, b"our direction goes on");
        assert_eq!(controls, [(Opcode::Close, payload)]);
    }
}

#[tokio::test]
async fn an_empty_close_is_echoed_empty() {
    let (mut stream, mut raw) = client_and_raw(4096);
    raw.write_all(&[0x88, 0]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(stream.close_code(), Some(1005));
    stream.shutdown().await.unwrap();
    drop(stream);
    let (_, controls) = seen_by_server(&read_to_end(&mut raw, 100).await.unwrap());
    assert_eq!(controls, [(Opcode::Close, vec![])]);
}

#[tokio::test]
async fn our_direction_stays_open_after_the_peers_close() {
    let (mut stream, mut raw) = client_and_raw(4096);
    raw.write_all(&close_frame(1000)).await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    stream.write_all(b"the answer").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let (data, controls) = seen_by_server(&read_to_end(&mut raw, 100).await.unwrap());
    assert_eq!(data, b"the answer");
    assert_eq!(controls, [(Opcode::Close, close_payload(1000, ""))]);
}

#[tokio::test]
async fn the_peers_direction_stays_open_after_our_close() {
    let (mut client, mut server) = pair(4096);
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut server, 100).await.unwrap(), b"question");
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client, 100).await.unwrap(), b"answer");
    assert_eq!(client.close_code(), Some(1000));
}

#[tokio::test]
async fn writing_after_our_close_is_refused() {
    let (mut client, _server) = pair(4096);
    client.shutdown().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(client.write(b"late").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn an_end_without_close_is_an_error() {
    for front in [&b""[..], b"\x82", b"\x82\x05ab"] {
        let (mut stream, mut raw) = client_and_raw(4096);
        raw.write_all(front).await.unwrap();
        drop(raw);
        let error = read_to_end(&mut stream, 100).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_broken_rule_is_an_error_behind_the_good_bytes_and_answered_with_its_code() {
    let (mut stream, mut raw) = client_and_raw(4096);
    raw.write_all(&[&frame(Opcode::Binary, true, b"good")[..], &[0xf2, 0]].concat()).await.unwrap();
    let mut good = [0; 4];
    stream.read_exact(&mut good).await.unwrap();
    assert_eq!(&good, b"good");
    for _ in 0..2 {
        let error = stream.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.into_inner().unwrap().downcast_ref(), Some(&DecodeError::ReservedBits));
    }
    assert_eq!(stream.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    drop(stream);
    let (_, controls) = seen_by_server(&read_to_end(&mut raw, 100).await.unwrap());
    assert_eq!(controls, [(Opcode::Close, close_payload(1002, ""))]);
}

#[tokio::test]
async fn text_is_read_like_binary_where_it_is_wanted() {
    let (stream, mut raw) = client_and_raw(1 << 20);
    let mut stream = stream.with_text();
    raw.write_all(&frame(Opcode::Text, false, b"a")).await.unwrap();
    raw.write_all(&frame(Opcode::Continuation, true, b"b")).await.unwrap();
    raw.write_all(&frame(Opcode::Binary, true, b"c")).await.unwrap();
    raw.write_all(&frame(Opcode::Text, true, &[b'd'; 5000])).await.unwrap();
    let mut read = vec![0; 5003];
    stream.read_exact(&mut read).await.unwrap();
    assert!(read.starts_with(b"abcd") && read.ends_with(b"dd"));
}

#[tokio::test]
async fn notices_arrive_when_short_and_wanted_and_are_dropped_otherwise() {
    let (mut stream, mut raw) = client_and_raw(1 << 20);
    raw.write_all(&frame(Opcode::Text, true, b"nobody listens yet")).await.unwrap();
    raw.write_all(&frame(Opcode::Binary, true, b"1")).await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();

    let mut notices = stream.notices();
    raw.write_all(&frame(Opcode::Text, false, br#"{"drain":"#)).await.unwrap();
    raw.write_all(&frame(Opcode::Continuation, true, b"1}")).await.unwrap();
    raw.write_all(&frame(Opcode::Text, true, &[b'x'; 1025])).await.unwrap();
    raw.write_all(&frame(Opcode::Text, true, &[0xff])).await.unwrap();
    for _ in 0..8 {
        raw.write_all(&frame(Opcode::Text, true, b"again")).await.unwrap();
    }
    raw.write_all(&frame(Opcode::Binary, true, b"2")).await.unwrap();
    stream.read_exact(&mut [0; 1]).await.unwrap();
    drop(stream);
    let mut got = Vec::new();
    while let Some(notice) = notices.recv().await {
        got.push(notice);
    }
    assert_eq!(got, [r#"{"drain":1}"#, "again", "again", "again"]);
}
