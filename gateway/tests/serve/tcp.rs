//! TCP targets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use daemon::shutdown::Outcome;
use proto::tunnel::{
    client::Client,
    failure::{Code, Failure},
    pb::{Fin, ForwardResponse, forward_response},
    receive::{Part, Receiver},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};

use crate::support::{PATIENCE, Setup, World, logs::Lines, open_tcp, subject, targets::Target};

async fn world(target: SocketAddr) -> World {
    let rules = format!(
        "rules:
  - {{ name: db, who: {{ authenticator: corp, subjects: [alice] }}, tcp: {{ hosts: [postgres.db.svc], ports: [{}] }} }}
  - {{ name: connectors, who: {{ authenticator: corp, subjects: [connector] }}, describe: {{}} }}",
        target.port()
    );
    World::start(Setup { rules, targets: &[("postgres.db.svc", target)], more: "" }).await
}

async fn open(
    world: &World,
    tunnel: &Client,
    target: SocketAddr,
) -> Result<(proto::tunnel::client::Sender, Receiver<ForwardResponse>), Failure> {
    let open = open_tcp("postgres.db.svc", target.port());
    let (sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open).await?;
    match receiver.next().await.unwrap()? {
        Part::Message(ForwardResponse { part: Some(forward_response::Part::Connected(connected)) }) => {
            assert_eq!(connected.address, target.to_string());
        }
        other => panic!("unexpected {other:?}"),
    }
    Ok((sender, receiver))
}

/// Receives payload until `fin`.
async fn rest(receiver: &mut Receiver<ForwardResponse>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match receiver.next().await {
            Some(Ok(Part::Data(data))) => {
                bytes.extend_from_slice(&data);
                receiver.taken(data.len());
            }
            Some(Ok(Part::Message(ForwardResponse { part: Some(forward_response::Part::Fin(_)) }))) => {
                return Ok(bytes);
            }
            Some(Ok(other)) => panic!("unexpected {other:?}"),
            Some(Err(failure)) => return Err(failure),
            None => panic!("ended without fin"),
        }
    }
}

#[tokio::test]
async fn connections_that_came_and_went_leave_nothing_behind() {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let target = Target::of(move |mut stream| {
        let open = Arc::clone(&counted);
        open.fetch_add(1, Ordering::SeqCst);
        async move {
            let (mut read, mut write) = stream.split();
            // A caller that breaks off is nothing to a server.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    for turn in 0..20 {
        let mut streams = JoinSet::new();
        for _ in 0..50 {
            let (mut sender, mut receiver) = self::open(&world, &tunnel, target.address).await.unwrap();
            streams.spawn(async move {
                sender.data(Bytes::from_static(&[7; 20_000])).await.unwrap();
                // Every other one is given up in the middle.
                if turn % 2 == 0 {
                    sender.fin(Fin::default()).await.unwrap();
                    assert_eq!(rest(&mut receiver).await.unwrap().len(), 20_000);
                    assert!(receiver.next().await.is_none());
                }
            });
        }
        while let Some(done) = streams.join_next().await {
            done.unwrap();
        }
    }
    let metric = |name: &str| {
        let text = world.context.metrics.encode();
        let of = |line: &str| line.starts_with(name).then(|| line.rsplit(' ').next()?.parse::<f64>().ok()).flatten();
        text.lines().filter_map(of).sum::<f64>()
    };
    let settled = async {
        while open.load(Ordering::SeqCst) > 0
            || tunnel.in_flight() > 0
            || metric("causeway_gateway_streams_closed_total") < metric("causeway_gateway_streams_opened_total")
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("every stream and every connection ends");
    assert!(metric("causeway_gateway_held_bytes") < 1e6, "framing may count until it is looked at, payload may not");
    drop(tunnel);
    assert_eq!(world.drain(PATIENCE).await, Outcome::Drained);
}

#[tokio::test]
async fn one_side_may_finish_while_the_other_goes_on() {
    // Reads to the end before it says anything.
    let target = Target::of(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all.iter().rev().copied().collect::<Vec<_>>()).await.unwrap();
    })
    .await;
    let (lines, _guard) = Lines::catch();
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, target.address).await.unwrap();
    sender.data(Bytes::from_static(b"abc")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert_eq!(rest(&mut receiver).await.unwrap(), b"cba");
    assert!(receiver.next().await.is_none(), "the call ends well");
    drop(tunnel);
    world.drain(Duration::from_secs(5)).await;
    let line = &lines.access("tcp")[0];
    assert_eq!(
        (&line["ended"], &line["bytes_to_target"], &line["bytes_from_target"]),
        (&"ok".into(), &3.into(), &3.into())
    );
}

#[tokio::test]
async fn the_target_may_finish_first() {
    let target = Target::of(|mut stream| async move {
        stream.write_all(b"greeting").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"late");
    })
    .await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, target.address).await.unwrap();
    assert_eq!(rest(&mut receiver).await.unwrap(), b"greeting");
    sender.data(Bytes::from_static(b"late")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    assert!(receiver.next().await.is_none());
}

#[tokio::test]
async fn a_stream_that_is_given_up_ends_though_the_target_has_finished_and_takes_nothing() {
    let (lines, _guard) = Lines::catch();
    let target = Target::of(|mut stream| async move {
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, target.address).await.unwrap();
    assert_eq!(rest(&mut receiver).await.unwrap(), b"");
    // Until neither the target's machine nor the gateway takes any more.
    let piece = Bytes::from_static(&[0; 60_000]);
    while timeout(Duration::from_millis(50), sender.data(piece.clone())).await.is_ok_and(|sent| sent.is_ok()) {}
    sender.cancel();
    drop((sender, receiver));
    lines.wait_for("\"kind\":\"tcp\"").await;
    assert_eq!(lines.access("tcp")[0]["ended"], "cancelled");
}

#[tokio::test]
async fn a_grant_that_is_taken_away_ends_a_stream_whose_caller_gives_no_credit_at_all() {
    let target = Target::of(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let world = world(target.address).await;
    let tunnel = world.tunnel_of_window(0).await;
    let (_sender, mut receiver) = tunnel
        .forward(subject(&world.token("alice")), open_tcp("postgres.db.svc", target.address.port()))
        .await
        .unwrap();
    timeout(PATIENCE, async {
        while target.count() == 0 {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
    world.write_policy("rules: []");
    let failure = timeout(PATIENCE, receiver.next()).await.expect("the stream ends").unwrap().unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied, "{failure}");
}

#[tokio::test]
async fn bulk_passes_whole_in_both_directions() {
    let target = Target::of(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    })
    .await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, target.address).await.unwrap();
    let upload = async {
        for round in 0..256_u32 {
            let piece: Vec<u8> = (0..16_384_u32).flat_map(|word| (word ^ round).to_be_bytes()).collect();
            sender.data(piece.into()).await.unwrap();
        }
        sender.fin(Fin::default()).await.unwrap();
    };
    let (received, ()) = tokio::join!(rest(&mut receiver), upload);
    let received = received.unwrap();
    assert_eq!(received.len(), 16 << 20);
    for (round, piece) in (0_u32..).zip(received.chunks(65_536)) {
        assert_eq!(piece[65_532..], (16_383 ^ round).to_be_bytes());
    }
}

#[tokio::test]
async fn a_target_that_resets_is_not_a_good_end() {
    let target = Target::of(|mut stream| async move {
        let mut one = [0];
        let _ = stream.read(&mut one).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, target.address).await.unwrap();
    sender.data(Bytes::from_static(b"ab")).await.unwrap();
    assert_eq!(rest(&mut receiver).await.unwrap_err().code, Code::TargetBroken);
}

/// A target that reads to the end, and how its reading ended.
async fn reading_to_the_end() -> (Target, tokio::sync::oneshot::Receiver<Result<usize, std::io::ErrorKind>>) {
    let (ended, end) = tokio::sync::oneshot::channel();
    let ended = std::sync::Mutex::new(Some(ended));
    let target = Target::of(move |mut stream| {
        let ended = ended.lock().unwrap().take();
        async move {
            let mut all = Vec::new();
            let end = stream.read_to_end(&mut all).await;
            let _ = ended.map(|ended| ended.send(end.map_err(|error| error.kind())));
        }
    })
    .await;
    (target, end)
}

#[tokio::test]
async fn a_caller_that_gives_up_resets_the_target() {
    let (target, end) = reading_to_the_end().await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, receiver) = open(&world, &tunnel, target.address).await.unwrap();
    sender.data(Bytes::from_static(b"half a file")).await.unwrap();
    sender.cancel();
    drop((sender, receiver));
    let end = tokio::time::timeout(crate::support::PATIENCE, end).await.unwrap().unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "half a file must not look whole");
}

/// A stream that is dropped in the middle, rather than failing by itself, takes another way to its end.
#[tokio::test]
async fn the_kill_switch_works_beside_a_broken_policy_and_resets_the_target() {
    let (target, end) = reading_to_the_end().await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = open(&world, &tunnel, target.address).await.unwrap();
    sender.data(Bytes::from_static(b"half a file")).await.unwrap();
    world.write_policy("rules: nonsense");
    std::fs::write(world.path("suspended"), "true").unwrap();
    assert_eq!(rest(&mut receiver).await.unwrap_err().code, Code::PolicyDenied);
    let end = tokio::time::timeout(crate::support::PATIENCE, end).await.unwrap().unwrap();
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "half a file must not look whole");
    let again = open(&world, &tunnel, target.address).await.unwrap_err();
    assert_eq!(again.code, Code::PolicyDenied);
}

#[tokio::test]
async fn http_is_not_granted_by_a_tcp_rule_nor_other_ports() {
    let target = Target::http().await;
    let world = world(target.address).await;
    let tunnel = world.held().await;
    let denied = |host: &'static str, port| {
        let (tunnel, token) = (tunnel.clone(), world.token("alice"));
        async move {
            let (_sender, mut receiver) = tunnel.forward(subject(&token), open_tcp(host, port)).await.unwrap();
            receiver.next().await.unwrap().unwrap_err().code
        }
    };
    assert_eq!(denied("postgres.db.svc", target.address.port() ^ 1).await, Code::PolicyDenied);
    assert_eq!(denied("other.db.svc", target.address.port()).await, Code::PolicyDenied);
    assert_eq!(target.count(), 0);
}
