//! Placement, waiting, replacement and renewal, on tunnels in memory and simulated time.
use std::sync::{Mutex as StdMutex, atomic::Ordering};

use super::{keep::keep, *};
use crate::connect::{
    fake::{ACTOR_LIFE, Bench, Gateway, fail, opening, soon, tcp_open, until},
    way::error::{Cause, Stage},
};

#[tokio::test(start_paused = true)]
async fn without_a_tunnel_a_stream_waits_no_longer_than_it_says_and_tells_why() {
    let bench = Bench::new();
    let error = WayError::new(Stage::Tcp, WayCode::Refused, Cause::Said("connection refused"));
    bench.tunnels.failed("direct", "wss://gw:1", &error);
    let began = tokio::time::Instant::now();
    let failure = bench.tunnels.open(tcp_open).await.unwrap_err();
    assert_eq!(began.elapsed(), WAIT_FOR_TUNNEL);
    assert_eq!((failure.code, failure.reached), (Code::TunnelLost, Reached::No));
    for part in ["factory-a", "wss://gw:1", "C201", "connection refused"] {
        assert!(failure.message.contains(part), "{part} in: {}", failure.message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_takes_the_first_tunnel_that_comes_up() {
    let bench = Bench::new();
    let (gateway, mut calls) = Gateway::new(&bench.context);
    let (stream, ()) = tokio::join!(bench.tunnels.open(tcp_open), async {
        tokio::time::sleep(WAIT_FOR_TUNNEL / 2).await;
        bench.connect(&gateway).await;
    });
    assert!(stream.is_ok());
    assert!(soon("the call arrives", calls.recv()).await.is_some());
}

#[tokio::test]
async fn streams_go_to_the_least_loaded_tunnel() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    bench.connect(&gateway).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(bench.tunnels.open(tcp_open).await.unwrap());
    }
    let first = streams[0].tunnel.id;
    assert_eq!(streams.iter().filter(|stream| stream.tunnel.id == first).count(), 3);
    // Those on one tunnel end; the next ones go there.
    streams.retain(|stream| stream.tunnel.id != first);
    for _ in 0..3 {
        let stream = bench.tunnels.open(tcp_open).await.unwrap();
        assert_eq!(stream.tunnel.id, first);
        streams.push(stream);
    }
}

#[tokio::test]
async fn a_draining_tunnel_gets_no_new_streams_and_keeps_its_old_ones() {
    let bench = Bench::new();
    let (old, mut old_calls) = Gateway::new(&bench.context);
    let (new, mut new_calls) = Gateway::new(&bench.context);
    bench.connect(&old).await;
    let mut kept = bench.tunnels.open(tcp_open).await.unwrap();
    let mut serving = soon("the call arrives", old_calls.recv()).await.unwrap();
    opening(&mut serving).await;

    bench.connect(&new).await;
    old.drain();
    until("the old tunnel has retired", || bench.tunnels.up() == 1).await;
    let _stream = bench.tunnels.open(tcp_open).await.unwrap();
    assert!(soon("the new gateway gets it", new_calls.recv()).await.is_some());

    serving.sender.message(crate::connect::fake::connected()).await.unwrap();
    assert!(soon("the old stream goes on", kept.receiver.next()).await.unwrap().is_ok());
}

#[test]
fn only_what_certainly_went_nowhere_is_repeated() {
    let failure = |code, reached| Failure { code, message: String::new(), reached };
    assert!(is_repeatable(&failure(Code::TunnelLost, Reached::No)));
    assert!(is_repeatable(&failure(Code::Draining, Reached::No)));
    for reached in [Reached::Yes, Reached::Maybe] {
        assert!(!is_repeatable(&failure(Code::TunnelLost, reached)));
    }
    for code in [Code::PolicyDenied, Code::TargetRefused, Code::LimitReached, Code::Internal] {
        assert!(!is_repeatable(&failure(code, Reached::No)));
    }
}

/// Keeps one place filled from `gateway`, noting when it dials.
fn kept(bench: &Bench, gateway: &Gateway) -> Arc<StdMutex<Vec<tokio::time::Instant>>> {
    let dials = Arc::<StdMutex<Vec<_>>>::default();
    let (gateway, noted) = (gateway.clone(), Arc::clone(&dials));
    let open = move || {
        let (gateway, noted) = (gateway.clone(), Arc::clone(&noted));
        async move {
            noted.lock().unwrap().push(tokio::time::Instant::now());
            Ok(gateway.open().await)
        }
    };
    bench.context.shutdown.spawn(keep(bench.care(), open));
    dials
}

#[tokio::test(start_paused = true)]
async fn a_lost_tunnel_is_replaced() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    for round in 1..=5 {
        until("it is up", || bench.tunnels.up() == 1 && gateway.opened.load(Ordering::Relaxed) == round).await;
        gateway.kill();
        until("it is gone or replaced", || gateway.opened.load(Ordering::Relaxed) > round || bench.tunnels.up() == 0)
            .await;
    }
    assert!(dials.lock().unwrap().len() >= 5);
}

#[tokio::test(start_paused = true)]
async fn a_healthy_tunnel_that_drains_is_replaced_at_once() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let asked = tokio::time::Instant::now();
    gateway.drain();
    until("its replacement is dialled", || dials.lock().unwrap().len() == 2).await;
    assert!(dials.lock().unwrap()[1] - asked < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn endless_drain_notices_cause_no_storm_of_dials() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let dials = kept(&bench, &gateway);
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        gateway.notice();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = dials.lock().unwrap().len();
    assert!((2..40).contains(&count), "{count} dials in a minute of notices");
}

#[tokio::test(start_paused = true)]
async fn the_actor_is_renewed_before_its_proof_ends() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let _dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    tokio::time::sleep(ACTOR_LIFE / 100 * 69).await;
    assert_eq!(gateway.described.load(Ordering::Relaxed), 0);
    tokio::time::sleep(ACTOR_LIFE / 100 * 2).await;
    until("it is renewed", || gateway.described.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_actor_is_renewed_early() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    let stream = bench.tunnels.open(tcp_open).await.unwrap();
    stream.tunnel.renew_actor();
    until("it is renewed", || gateway.described.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn keepers_and_tunnels_end_when_they_are_stopped() {
    let bench = Bench::new();
    let (gateway, _calls) = Gateway::new(&bench.context);
    let _dials = kept(&bench, &gateway);
    until("it is up", || bench.tunnels.up() == 1).await;
    bench.stop.cancel();
    until("it is gone", || bench.tunnels.up() == 0).await;
}

#[tokio::test]
async fn a_refusal_of_the_gateway_is_not_tried_again() {
    let bench = Bench::new();
    let (gateway, mut calls) = Gateway::new(&bench.context);
    bench.connect(&gateway).await;
    let mut stream = bench.tunnels.open(tcp_open).await.unwrap();
    let refused = Failure::before_target(Code::PolicyDenied, "no rule");
    fail(soon("the call arrives", calls.recv()).await.unwrap(), &refused);
    assert_eq!(soon("it fails", stream.receiver.next()).await.unwrap().unwrap_err(), refused);
    assert!(calls.try_recv().is_err());
}
