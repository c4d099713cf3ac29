use std::time::Duration;

use super::*;
use crate::tunnel::failure::Code;

/// Sends until nothing more is accepted, and says how much was.
async fn stuff(sender: &mut client::Sender, piece: usize) -> usize {
    let mut sent = 0;
    // Time is paused: the timeout fires only when nothing else can happen any more.
    while tokio::time::timeout(Duration::from_millis(100), sender.data(bytes(piece)))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        sent += piece;
    }
    sent
}

/// Reads what there is, taking nothing, and says how much it was.
async fn read_all(receiver: &mut Receiver<pb::ForwardRequest>) -> usize {
    let mut held = 0;
    while let Ok(next) = tokio::time::timeout(Duration::from_millis(500), receiver.next()).await {
        let Some(Ok(Part::Data(bytes))) = next else { panic!("data") };
        held += bytes.len();
    }
    held
}

#[tokio::test(start_paused = true)]
async fn sender_stalls_at_the_window_until_the_reader_has_taken_bytes() {
    let settings = Settings { stream_window: 256 * 1024, ..Settings::default() };
    let mut pair = Pair::with(Settings::default(), settings).await;
    let (mut up, _down, mut served) = pair.forward().await;
    let first = stuff(&mut up, 10_000).await;
    assert!((200_000..=256 * 1024 + 20_000).contains(&first), "{first}");

    // Reading alone gives no credit ...
    let held = read_all(&mut served.receiver).await;
    assert!(held > 200_000 && held < 256 * 1024);
    assert_eq!(stuff(&mut up, 10_000).await, 0);
    // ... taking does.
    served.receiver.taken(held);
    assert!(stuff(&mut up, 10_000).await >= 200_000);
}

#[tokio::test(start_paused = true)]
async fn stalled_reader_does_not_slow_a_hundred_others() {
    const LEN: usize = 300_000;
    let mut pair = Pair::new().await;
    let (mut stalled, _down, _unread) = pair.forward().await;
    let held = stuff(&mut stalled, 60_000).await;
    assert!(held <= 2 << 20, "one stream holds {held}");

    let mut streams = JoinSet::new();
    for _ in 0..100 {
        let (mut up, mut down, mut served) = pair.forward().await;
        streams.spawn(async move {
            let echo = async {
                let read = data(&mut served.receiver, LEN).await;
                served.sender.data(read.into()).await.unwrap();
            };
            let (sent, read, ()) = tokio::join!(up.data(bytes(LEN)), data(&mut down, LEN), echo);
            sent.unwrap();
            assert!(read == bytes(LEN));
        });
    }
    while let Some(done) = streams.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn tiny_messages_to_stalled_readers_do_not_end_the_tunnel() {
    let mut pair = Pair::new().await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let (mut up, down, served) = pair.forward().await;
        assert!(stuff(&mut up, 64).await > 10_000 * 64);
        stalled.push((up, down, served));
    }
    // The connection window is gone; a credit of one stream's bytes moves another.
    let (up, _, served) = &mut stalled[0];
    data(&mut served.receiver, 500_000).await;
    assert!(stuff(up, 64).await > 0);
    assert!(pair.client.is_open());
}

#[tokio::test(start_paused = true)]
async fn small_writes_behind_a_blocked_stream_are_not_queued() {
    let mut pair = Pair::new().await;
    let (mut up, _down, mut served) = pair.forward().await;
    let sent = stuff(&mut up, 64).await;
    // Blocked: the next write waits, so its owner reads nothing meanwhile and comes with one big piece.
    let blocked = up.data(bytes(64));
    tokio::pin!(blocked);
    assert!(futures_util::poll!(&mut blocked).is_pending());
    tokio::join!(async { blocked.await.unwrap() }, async {
        data(&mut served.receiver, sent).await;
    });
}

#[tokio::test(start_paused = true)]
async fn windows_grow_over_a_long_path_and_only_there() {
    for (delay, grows) in [(Duration::from_millis(40), true), (Duration::ZERO, false)] {
        let start = 64 * 1024;
        let settings = Settings { stream_window: start, ..Settings::default() };
        let (near, far) = tokio::io::duplex(64 << 20);
        let (far, wire) = (far, tokio::io::duplex(64 << 20));
        let mut tasks = JoinSet::new();
        let mut pipes = JoinSet::new();
        delayed(&mut pipes, far, wire.0, delay);
        let (mut calls, _drain) = serve(&mut tasks, wire.1, settings);
        let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
        tasks.spawn(async { ("client", driver.await) });
        let (mut up, _down) = client.forward(HeaderMap::new(), open()).await.unwrap();
        let Some(Call::Forward(mut served)) = calls.recv().await else { panic!("no call") };
        message(&mut served.receiver).await;
        pipes.spawn(async move { while up.data(bytes(60_000)).await.is_ok() {} });
        data(&mut served.receiver, 6 << 20).await;
        // What a reader that stops now is still sent is the window.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let window = read_all(&mut served.receiver).await;
        assert_eq!(window > 8 * start as usize, grows, "{window} bytes at {delay:?}");
    }
}

/// Joins two pipes so that every byte takes `delay` each way.
fn delayed(tasks: &mut JoinSet<()>, near: DuplexStream, far: DuplexStream, delay: Duration) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    for (mut read, mut write) in [(near_read, far_write), (far_read, near_write)] {
        let (queue, mut queued) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            let mut buffer = vec![0; 256 * 1024];
            while let Ok(len @ 1..) = read.read(&mut buffer).await {
                let due = tokio::time::Instant::now() + delay;
                if queue.send((due, buffer[..len].to_vec())).is_err() {
                    return;
                }
            }
        });
        tasks.spawn(async move {
            while let Some((due, bytes)) = queued.recv().await {
                tokio::time::sleep_until(due).await;
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn credit_of_an_abandoned_stream_returns_to_the_connection() {
    let mut pair = Pair::new().await;
    for _ in 0..20 {
        let (mut up, down, served) = pair.forward().await;
        assert!(stuff(&mut up, 60_000).await >= 1 << 20);
        drop((up, down, served));
    }
    let (_up, mut down, served) = pair.forward().await;
    served.sender.fail(&Failure::after_target(Code::TargetBroken, "x"));
    assert_eq!(failure(&mut down).await.code, Code::TargetBroken);
}
