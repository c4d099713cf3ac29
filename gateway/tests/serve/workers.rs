//! Tunnels on threads of their own, as the program runs them.

use daemon::{shutdown::Outcome, workers::Crew};
use tokio::task::JoinSet;

use crate::support::{PATIENCE, World, fetch, get, targets::Target};

#[tokio::test]
async fn tunnels_of_different_workers_serve_side_by_side_and_drain_together() {
    let crew = Crew::of(3).unwrap();
    let target = Target::http().await;
    let world = World::on_workers(target.address, crew.workers().clone()).await;
    let (token, mut tunnels) = (world.token("alice"), Vec::new());
    for _ in 0..6 {
        tunnels.push(world.held().await);
    }
    let mut requests = JoinSet::new();
    for tunnel in tunnels.iter().cycle().take(120) {
        let (tunnel, token, address) = (tunnel.clone(), token.clone(), target.address);
        requests.spawn(async move {
            let answer = fetch(&tunnel, &token, get(address, "/v1/x")).await.unwrap();
            assert_eq!(answer.body, "GET /v1/x");
        });
    }
    while let Some(done) = requests.join_next().await {
        done.unwrap();
    }
    let before = target.count();
    for tunnel in &tunnels {
        fetch(tunnel, &token, get(target.address, "/v1/x")).await.unwrap();
    }
    assert_eq!(target.count(), before, "each worker uses the connections again that it has");
    drop(tunnels);
    assert_eq!(world.drain(PATIENCE).await, Outcome::Drained);
    crew.stop(PATIENCE);
}
