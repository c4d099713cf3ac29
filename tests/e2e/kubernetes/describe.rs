//! The cloud side knows what it talks to: version and capacity, as far as the gateway may see them, kept fresh.
use std::time::Duration;

use causeway_tests::{
    curl::Curl,
    kubernetes::NODE,
    site::CLUSTER,
    wait::{until, within},
};
use serde_json::{Value, json};

use super::world::World;

const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn version_and_capacity_are_described_and_their_changes_are_told() {
    within(LIMIT, async {
        let world = World::start().await;
        let words = ["describe", CLUSTER, "-c", "kubernetes.yaml", "--json"].map(ToOwned::to_owned);
        let described = until("the gateway to have heard of the cluster", async || {
            let said = world.program(&words).await;
            let told: Value = serde_json::from_slice(&said.stdout).ok()?;
            told["kubernetes"].is_object().then_some(told)
        })
        .await;
        assert!(described["kubernetes"]["version"].as_str().unwrap().starts_with("v1."), "{described}");
        assert_eq!(described["kubernetes"]["nodes"]["count"], 1, "{described}");
        assert!(described["features"].as_array().unwrap().contains(&"kubernetes".into()), "{described}");

        // The node grows, and the tunnels that are open already tell it.
        let status = json!({ "status": { "allocatable": { "cpu": "3920m", "memory": "16Gi" },
            "conditions": [{ "type": "Ready", "status": "True" }] } });
        world.kubernetes.request("PATCH", &format!("/api/v1/nodes/{NODE}/status"), Some(&status)).await;
        let shown = until("the connector to show it", async || {
            let answer = Curl::new(format!("http://{}/statusz", world.admin)).run().await;
            let status: Value = serde_json::from_str(&answer.text()).ok()?;
            let text = status.to_string();
            text.contains("3.92").then_some(text)
        })
        .await;
        assert!(shown.contains("\"ready\":1"), "{shown}");

        let words = ["describe", CLUSTER, "-c", "kubernetes.yaml"].map(ToOwned::to_owned);
        let said = String::from_utf8(world.program(&words).await.stdout).unwrap();
        assert!(said.contains("nodes       1, 1 ready\nroom        cpu 3.92, memory 16.0 GiB"), "{said}");
    })
    .await;
}
