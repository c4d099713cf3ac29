use super::*;
use crate::tunnel::failure::{Code, Reached};

#[tokio::test]
async fn streams_in_flight_finish_and_new_ones_are_refused_as_not_reached() {
    let mut pair = Pair::new().await;
    let (mut up, mut down, mut served) = pair.forward().await;
    assert!(pair.client.is_open());
    pair.drain.notify_one();
    pair.client.closed().await;
    assert!(!pair.client.is_open());

    let refused = pair.client.forward(HeaderMap::new(), open()).await.unwrap_err();
    assert_eq!((refused.code, refused.reached), (Code::Draining, Reached::No));

    let len = 3 << 20;
    tokio::join!(async { up.data(bytes(len)).await.unwrap() }, data(&mut served.receiver, len));
    up.fin(pb::Fin::default()).await.unwrap();
    served.sender.fin(pb::Fin::default()).await.unwrap();
    served.sender.finish();
    message(&mut down).await;
    assert!(down.next().await.is_none());
    drop((up, down, served.receiver));
    assert!(pair.end().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn stream_that_crosses_the_goaway_either_runs_or_was_not_reached() {
    for _ in 0..50 {
        let mut pair = Pair::new().await;
        pair.forward().await;
        pair.drain.notify_one();
        let mut crossed = Vec::new();
        while let Ok(call) = pair.client.forward(HeaderMap::new(), open()).await {
            crossed.push(call);
            tokio::task::yield_now().await;
        }
        for (_up, mut down) in crossed {
            let outcome = tokio::select! {
                failure = failure(&mut down) => failure,
                Some(Call::Forward(forward)) = pair.calls.recv() => {
                    forward.sender.fail(&Failure::after_target(Code::TargetBroken, "ran"));
                    continue;
                }
            };
            assert!(outcome.reached == Reached::No || outcome.code == Code::TargetBroken, "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn dropping_every_client_lets_streams_finish() {
    let mut pair = Pair::new().await;
    let (mut up, mut down, mut served) = pair.forward().await;
    let Pair { client, mut tasks, calls: _calls, .. } = pair;
    drop(client);
    up.data(bytes(5)).await.unwrap();
    data(&mut served.receiver, 5).await;
    served.sender.fin(pb::Fin::default()).await.unwrap();
    served.sender.finish();
    message(&mut down).await;
    assert!(down.next().await.is_none());
    drop((up, down, served.receiver));
    while let Some(end) = tasks.join_next().await {
        end.unwrap().1.unwrap();
    }
}

#[tokio::test]
async fn lost_transport_fails_streams_and_closes_the_client() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut servers = JoinSet::new();
    let (mut calls, _drain) = serve(&mut servers, far, Settings::default());
    let (client, driver) = client::connect(near, Settings::default()).await.unwrap();
    let mut drivers = JoinSet::new();
    drivers.spawn(driver);
    let (mut up, mut down) = client.forward(HeaderMap::new(), open()).await.unwrap();
    calls.recv().await.unwrap();
    servers.shutdown().await;

    let lost = failure(&mut down).await;
    assert_eq!((lost.code, lost.reached), (Code::TunnelLost, Reached::Maybe));
    assert_eq!(up.data(bytes(1)).await.unwrap_err().code, Code::TunnelLost);
    client.closed().await;
    let refused = client.forward(HeaderMap::new(), open()).await.unwrap_err();
    assert_eq!((refused.code, refused.reached), (Code::TunnelLost, Reached::No));
}
