//! The limit on what the gateway holds.

use std::time::Duration;

use bytes::Bytes;
use proto::tunnel::{
    client::Client,
    failure::{Code, Reached},
};

use crate::support::{PATIENCE, Setup, World, open_tcp, subject, targets::Target};

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
