//! What the API server tells of the cluster, for `Describe` and `Watch`: its version, and how many nodes there are with
//! room for how much. The gateway asks with its own rights, now and then, and tells what it may see: a gateway that may not
//! list nodes tells the version alone. An API server that does not answer leaves what was heard last.

mod quantity;

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use daemon::process::Context;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use proto::tunnel::{
    failure::Failure,
    pb::{Kubernetes, Nodes, Quantity},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout};

use super::Api;
use crate::serve::target::manner::Version;

/// How often it asks: nodes come and go in minutes.
const PERIOD: Duration = Duration::from_secs(60);

/// How soon it asks again when there was no answer.
const AGAIN: Duration = Duration::from_secs(10);

/// All questions of one time together.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes in one answer. An object may be 1.5 MiB, and most are 20 KiB.
const PAGE: usize = 50;

/// Largest answer.
const ANSWER_MAX: usize = 8 * 1024 * 1024;

/// Answers about nodes; a cluster has 5 000 at most.
const PAGES_MAX: usize = 200;

/// Kinds of capacity that are told; the first ones by name. What is told must fit into one message.
const RESOURCES_MAX: usize = 64;

/// Longest text taken from the API server: a name of a resource, a version.
const TEXT_MAX: usize = 128;

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
enum FactsError {
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the API server broke off")]
    Lost(#[source] hyper::Error),
    #[error("the API server's answer broke off, or is larger than {ANSWER_MAX} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the API server answered {0}")]
    Status(StatusCode),
    #[error("the API server's answer is not what it should be")]
    Malformed(#[source] serde_json::Error),
    #[error("the API server lists nodes without end")]
    Endless,
    #[error("the API server did not answer in time")]
    Late,
}

impl From<Failure> for FactsError {
    fn from(failure: Failure) -> Self {
        Self::Unreachable(failure.message)
    }
}

/// Asks until draining begins.
pub(super) async fn follow(api: Arc<Api>, context: Context) {
    loop {
        let asked = tokio::select! {
            biased;
            () = context.shutdown.draining() => return,
            asked = timeout(PATIENCE, ask(&api)) => asked.unwrap_or(Err(FactsError::Late)),
        };
        let pause = match asked {
            Ok(facts) => {
                api.facts.send_if_modified(|told| {
                    let changed = told.as_ref() != Some(&facts);
                    *told = Some(facts);
                    changed
                });
                PERIOD
            }
            Err(error) => {
                let error = daemon::process::explain(&error);
                tracing::warn!(%error, "nothing is heard of the cluster");
                AGAIN
            }
        };
        tokio::select! {
            biased;
            () = context.shutdown.draining() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn ask(api: &Api) -> Result<Kubernetes, FactsError> {
    let deadline = Instant::now() + PATIENCE;
    let credential = api.credential();
    let addresses = api.addresses(deadline).await?;
    let (tcp, _) = api.connect(&addresses, deadline).await?;
    let (session, _) = credential.tls.connect(tcp, &api.host, Version::One).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(session)).await.map_err(FactsError::Lost)?;
    let mut asking = pin!(async {
        let mut asker = Asker { api, bearer: credential.bearer.clone(), sender };
        let version: ServerVersion = asker.get("/version").await?;
        Ok(Kubernetes { version: clip(version.git_version), nodes: asker.nodes().await? })
    });
    let (mut connection, mut open) = (pin!(connection), true);
    loop {
        tokio::select! {
            biased;
            told = &mut asking => return told,
            // How it ended shows in the answer.
            _ = &mut connection, if open => open = false,
        }
    }
}

struct Asker<'a> {
    api: &'a Api,
    bearer: HeaderValue,
    sender: SendRequest<Empty<Bytes>>,
}

impl Asker<'_> {
    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, FactsError> {
        let request = Request::get(path)
            .header(header::HOST, format!("{}:{}", self.api.host, self.api.port))
            .header(header::AUTHORIZATION, self.bearer.clone())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("causeway-gateway/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .expect("made of paths and names that are ours");
        self.sender.ready().await.map_err(FactsError::Lost)?;
        let answer = self.sender.send_request(request).await.map_err(FactsError::Lost)?;
        if answer.status() != StatusCode::OK {
            return Err(FactsError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(FactsError::Body)?.to_bytes();
        serde_json::from_slice(&body).map_err(FactsError::Malformed)
    }

    /// All nodes together; nothing if the gateway may not list them.
    async fn nodes(&mut self) -> Result<Option<Nodes>, FactsError> {
        let mut sum = Sum::default();
        let mut token = String::new();
        for _ in 0..PAGES_MAX {
            let from = percent_encoding::utf8_percent_encode(&token, percent_encoding::NON_ALPHANUMERIC);
            let page: NodeList = match self.get(&format!("/api/v1/nodes?limit={PAGE}&continue={from}")).await {
                Ok(page) => page,
                Err(FactsError::Status(StatusCode::FORBIDDEN)) => return Ok(None),
                Err(error) => return Err(error),
            };
            page.items.iter().for_each(|node| sum.add(node));
            token = page.metadata.token;
            if token.is_empty() {
                return Ok(Some(sum.into()));
            }
        }
        Err(FactsError::Endless)
    }
}

#[derive(Debug, Default)]
struct Sum {
    count: u32,
    ready: u32,
    allocatable: BTreeMap<String, u64>,
}

impl Sum {
    fn add(&mut self, node: &Node) {
        self.count = self.count.saturating_add(1);
        let is_ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
        if node.status.conditions.iter().any(is_ready) {
            self.ready = self.ready.saturating_add(1);
        }
        for (resource, quantity) in &node.status.allocatable {
            if let Some(milli) = quantity::milli(quantity).filter(|milli| *milli > 0) {
                let name = clip(resource.clone());
                if self.allocatable.len() < RESOURCES_MAX || self.allocatable.contains_key(&name) {
                    let total = self.allocatable.entry(name).or_default();
                    *total = total.saturating_add(milli);
                }
            }
        }
    }
}

impl From<Sum> for Nodes {
    fn from(sum: Sum) -> Self {
        let allocatable = sum.allocatable.into_iter().map(|(resource, milli)| Quantity { resource, milli }).collect();
        Self { count: sum.count, ready: sum.ready, allocatable }
    }
}

fn clip(mut text: String) -> String {
    text.retain(|character| character.is_ascii_graphic());
    text.truncate(TEXT_MAX);
    text
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerVersion {
    git_version: String,
}

#[derive(Debug, Deserialize)]
struct NodeList {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<Node>,
}

#[derive(Debug, Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    token: String,
}

#[derive(Debug, Deserialize)]
struct Node {
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    allocatable: BTreeMap<String, String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_summed_and_what_cannot_be_read_is_left_out() {
        let page: NodeList = serde_json::from_str(
            r#"{ "metadata": { "continue": "x" }, "items": [
                { "status": { "allocatable": { "cpu": "3920m", "memory": "1Gi", "odd": "many", "none": "0" },
                  "conditions": [{ "type": "Ready", "status": "True" }] } },
                { "status": { "allocatable": { "cpu": "2", "nvidia.com/gpu": "4" },
                  "conditions": [{ "type": "Ready", "status": "Unknown" }, { "type": "DiskPressure", "status": "True" }] } },
                {}
            ] }"#,
        )
        .unwrap();
        assert_eq!(page.metadata.token, "x");
        let mut sum = Sum::default();
        page.items.iter().for_each(|node| sum.add(node));
        let nodes = Nodes::from(sum);
        let quantity = |resource: &str, milli| Quantity { resource: resource.to_owned(), milli };
        assert_eq!((nodes.count, nodes.ready), (3, 1));
        let expected =
            [quantity("cpu", 5920), quantity("memory", 1024 * 1024 * 1024 * 1000), quantity("nvidia.com/gpu", 4000)];
        assert_eq!(nodes.allocatable, expected);
    }

    #[test]
    fn kinds_of_capacity_are_bounded() {
        let mut sum = Sum::default();
        let allocatable = (0..RESOURCES_MAX + 10).map(|index| (format!("r{index:03}"), "1".to_owned())).collect();
        sum.add(&Node { status: NodeStatus { allocatable, conditions: Vec::new() } });
        assert_eq!(Nodes::from(sum).allocatable.len(), RESOURCES_MAX);
        assert_eq!(clip(format!("v1\n{}", "x".repeat(TEXT_MAX))).len(), TEXT_MAX);
    }
}
