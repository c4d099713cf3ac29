//! Pings are answered without being asked to, and cannot be used against us.
use std::time::Duration;

use super::*;
use crate::ws::{
    flood::EMPTY_FRAMES_MAX,
    frame::{DecodeError, put_control},
};

fn ping(payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    put_control(&mut wire, Opcode::Ping, payload, None);
    wire
}

#[tokio::test]
async fn a_reader_alone_answers() {
    let (mut stream, mut raw) = client_and_raw(4096);
    raw.write_all(&ping(b"are you there")).await.unwrap();
    let (mut answer, mut nothing) = (vec![0; 2 + 4 + 13], [0; 10]);
    tokio::select! {
        _ = stream.read(&mut nothing) => unreachable!("no data was sent"),
        got = raw.read_exact(&mut answer) => got.map(drop).unwrap(),
    }
    assert_eq!(seen_by_server(&answer).1, [(Opcode::Pong, b"are you there".to_vec())]);
}

#[tokio::test]
async fn only_the_latest_of_many_is_answered_when_we_cannot_write() {
    let (mut stream, mut raw) = client_and_raw(256);
    // Our direction is full, so nothing can be answered for now.
    let mut blocked = 0;
    while let Poll::Ready(more) =
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &[0; 100]))).await
    {
        blocked += more.unwrap();
    }
    for at in 0..500u16 {
        raw.write_all(&ping(&at.to_be_bytes())).await.unwrap();
        raw.write_all(&frame(Opcode::Binary, true, b"x")).await.unwrap();
        stream.read_exact(&mut [0; 1]).await.unwrap();
    }
    let (wire, _) = tokio::join!(
        async {
            let mut wire = Vec::new();
            raw.read_to_end(&mut wire).await.unwrap();
            wire
        },
        async {
            stream.shutdown().await.unwrap();
            drop(stream);
        }
    );
    let (data, controls) = seen_by_server(&wire);
    assert_eq!(data.len(), blocked);
    assert!(controls.len() <= 3, "{} answers were queued", controls.len());
    assert!(controls.len() < 2 || controls[controls.len() - 2].1.len() == 2);
}

#[tokio::test]
async fn a_flood_ends_the_connection() {
    let (mut stream, mut raw) = client_and_raw(1 << 20);
    for _ in 0..=EMPTY_FRAMES_MAX {
        raw.write_all(&ping(b"")).await.unwrap();
    }
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.into_inner().unwrap().downcast_ref(), Some(&DecodeError::Flood));
}

#[tokio::test]
async fn a_flood_of_empty_frames_ends_the_connection() {
    let (mut stream, mut raw) = client_and_raw(1 << 20);
    raw.write_all(&frame(Opcode::Binary, false, b"")).await.unwrap();
    for _ in 0..EMPTY_FRAMES_MAX {
        raw.write_all(&frame(Opcode::Continuation, false, b"")).await.unwrap();
    }
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.into_inner().unwrap().downcast_ref(), Some(&DecodeError::Flood));
}

#[tokio::test(start_paused = true)]
async fn answering_does_not_steal_the_waiting_writers_wake_up() {
    let (stream, raw) = client_and_raw(512);
    let (mut reading, mut writing) = tokio::io::split(stream);
    let (mut raw_reading, mut raw_writing) = tokio::io::split(raw);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        writing.write_all(&[1; 100_000]).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    tasks.spawn(async move {
        assert_eq!(read_to_end(&mut reading, 100).await.unwrap(), b"x");
    });
    tasks.spawn(async move {
        // Let the writer fill the pipe and wait; then have the reader answer pings; only then make room.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..3 {
            raw_writing.write_all(&ping(b"now")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        raw_writing.write_all(&frame(Opcode::Binary, true, b"x")).await.unwrap();
        raw_writing.write_all(&[0x88, 0]).await.unwrap();
        let mut wire = Vec::new();
        raw_reading.read_to_end(&mut wire).await.unwrap();
        let (data, controls) = seen_by_server(&wire);
        assert_eq!(data.len(), 100_000);
        assert_eq!(controls.last().unwrap().0, Opcode::Close);
        assert_eq!(controls[0].0, Opcode::Pong);
    });
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("a wake-up was lost");
}
