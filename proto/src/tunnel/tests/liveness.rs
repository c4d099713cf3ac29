use std::time::Duration;

use tokio::{io::AsyncReadExt, time::Instant};

use super::*;
use crate::tunnel::failure::Code;

/// Holds bytes back in both directions once `cut` is notified.
async fn relay(near: DuplexStream, far: DuplexStream, cut: Arc<Notify>) {
    let (mut near, mut far) = (near, far);
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = cut.notified() => std::future::pending().await,
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_dead_after_a_ping_went_unanswered_on_both_ends() {
    let (near, middle) = tokio::io::duplex(1 << 20);
    let (other, far) = tokio::io::duplex(1 << 20);
    let cut = Arc::new(Notify::new());
    let mut relays = JoinSet::new();
    relays.spawn(relay(middle, other, cut.clone()));
    let mut tasks = JoinSet::new();
    let (mut calls, _drain) = serve(&mut tasks, far, Settings::default());
    let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
    tasks.spawn(async { ("client", driver.await) });
    let (_up, mut down) = client.forward(HeaderMap::new(), open()).await.unwrap();
    let _call = calls.recv().await.unwrap();
    // An idle tunnel lives on: pings are answered.
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(client.is_open());
    assert!(client.round_trip().is_some());

    cut.notify_one();
    let cut_at = Instant::now();
    for _ in 0..2 {
        let (_, end) = tasks.join_next().await.unwrap().unwrap();
        assert!(matches!(end, Err(ConnectionError::Dead)), "{end:?}");
    }
    let took = cut_at.elapsed();
    assert!(took > Duration::from_secs(9) && took <= Duration::from_secs(21), "{took:?}");
    assert_eq!(failure(&mut down).await.code, Code::TunnelLost);
    assert!(!client.is_open());
}

#[tokio::test(start_paused = true)]
async fn peer_that_sends_anything_is_alive_though_it_answers_no_ping() {
    use tokio::io::AsyncWriteExt;
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver);
    // SETTINGS, then a WINDOW_UPDATE of one byte every eight seconds.
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        far.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap();
        assert!(client.is_open());
    }
    let quiet = Instant::now();
    assert!(matches!(tasks.join_next().await.unwrap().unwrap(), Err(ConnectionError::Dead)));
    assert!(quiet.elapsed() >= Duration::from_secs(18) && quiet.elapsed() <= Duration::from_secs(21));
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    let pings = sent.windows(9).filter(|frame| frame[..5] == [0, 0, 8, 6, 0]).count();
    assert_eq!(pings, 1, "one outstanding at most");
}

#[tokio::test]
async fn round_trip_is_known_soon_after_the_start() {
    let mut pair = Pair::new().await;
    let _stream = pair.forward().await;
    let known = async {
        while pair.client.round_trip().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), known).await.unwrap();
}
