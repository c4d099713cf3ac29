//! The limit on what the gateway holds.

use std::time::Duration;

use bytes::Bytes;
use proto::tunnel::{
    client::Client,
    failure::{Code, Reached},
    pb::HttpRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PATIENCE, Setup, World, get, open_http, open_tcp, receive, rules, subject, targets::Target};

/// What the metrics say is held.
fn held(world: &World) -> usize {
    let text = world.context.metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix("causeway_gateway_held_bytes ")).unwrap();
    line.parse().unwrap()
}

#[tokio::test]
async fn who_fills_most_of_the_buffers_opens_no_more_streams_while_others_do() {
    // Takes nothing.
    let target = Target::of(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let rules = format!(
        "rules:
  - {{ name: store, who: {{ authenticator: corp, subjects: [alice, bob] }}, tcp: {{ hosts: [store.svc], ports: [{}] }} }}
  - {{ name: connectors, who: {{ authenticator: corp, subjects: [connector] }}, describe: {{}} }}",
        target.address.port()
    );
    let more = "limits: { buffers: 8Mi }\n";
    let world = World::start(Setup { rules, targets: &[("store.svc", target.address)], more }).await;
    let open = async |tunnel: &Client, who: &str| {
        let (sender, mut receiver) =
            tunnel.forward(subject(&world.token(who)), open_tcp("store.svc", target.address.port())).await?;
        // `connected`, or why not.
        receiver.next().await.unwrap().map(|_| (sender, receiver))
    };

    let bobs = world.held().await;
    let mut kept = vec![open(&bobs, "bob").await.unwrap()];
    let mut tunnels = Vec::new();
    let refused = loop {
        // Three of four windows: one is left on each tunnel for others.
        if kept.len() % 3 == 1 {
            tunnels.push(world.held().await);
        }
        let (mut sender, receiver) = match open(tunnels.last().unwrap(), "alice").await {
            Ok(stream) => stream,
            Err(refused) => break refused,
        };
        // Until neither the target's machine nor the gateway takes any more.
        let piece = Bytes::from_static(&[0; 60_000]);
        while tokio::time::timeout(Duration::from_millis(50), sender.data(piece.clone()))
            .await
            .is_ok_and(|sent| sent.is_ok())
        {}
        kept.push((sender, receiver));
        assert!(kept.len() < 60, "{} held by so many streams, and nobody is refused", held(&world));
    };
    assert_eq!((refused.code, refused.reached), (Code::LimitReached, Reached::No));
    for part in ["limits.buffers", "of 8.0 MiB", "by subject corp/alice, whose share is 2.0 MiB", "try again"] {
        assert!(refused.message.contains(part), "{}", refused.message);
    }
    kept.push(open(&bobs, "bob").await.unwrap());
    assert!(world.context.metrics.encode().contains("causeway_gateway_held_refused_total 1\n"));

    drop(kept);
    let empty = async {
        while held(&world) > 1 << 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.expect("what was held is let go with its streams");
    assert!(open(&bobs, "alice").await.is_ok());
}

/// Streams of a caller who gives no credit, opened until the gateway has had enough; the answers have no end.
async fn stalled_answers_are_counted(target: &Target, protocol: &str) {
    let more = "limits: { buffers: 8Mi }\n";
    let setup = Setup { rules: rules(target.address), targets: &[("scorer.models.svc", target.address)], more };
    let world = World::start(setup).await;
    let (tunnel, token) = (world.tunnel_of_window(0).await, world.token("alice"));
    let mut kept = Vec::new();
    let failure = loop {
        let request = HttpRequest { protocol: protocol.to_owned(), ..get(target.address, "/v1/x") };
        let before = held(&world);
        let (sender, mut receiver) = tunnel.forward(subject(&token), open_http(request)).await.unwrap();
        let counted = async {
            // Less what framing was counted too much before.
            while held(&world) < before + 240 * 1024 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            failed = receive(&mut receiver) => break failed.unwrap_err(),
            counted = tokio::time::timeout(PATIENCE, counted) => counted.expect("what waits is counted"),
        }
        kept.push((sender, receiver));
        assert!(kept.len() < 40, "{} held by so many streams", held(&world));
    };
    assert_eq!(failure.code, Code::LimitReached, "{failure}");
    assert!(failure.message.contains("limits.buffers"), "{failure}");
}

#[tokio::test]
async fn an_answer_that_waits_for_its_caller_is_held_with_all_that_may_come_behind_it() {
    let target = Target::of(|mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[0; 65_536]).await.is_ok() {}
    })
    .await;
    stalled_answers_are_counted(&target, "").await;
}

#[tokio::test]
async fn an_answer_in_http2_that_waits_for_its_caller_is_held_with_all_that_may_come_behind_it() {
    let target = Target::of(|stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let mut answers = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data(Bytes::from(vec![0; 1 << 20]), false).unwrap();
            answers.push(send);
        }
    })
    .await;
    stalled_answers_are_counted(&target, "h2").await;
}
