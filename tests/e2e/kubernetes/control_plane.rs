//! What the other tests here build on: without Causeway between them, kubectl and the control plane do what they should.
use std::time::Duration;

use causeway_tests::{kubernetes::Kubernetes, wait::within};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn tokens_are_requested_and_reviewed() {
    within(LIMIT, async {
        let kubernetes = Kubernetes::start().await;
        kubernetes.namespace("models", &["scorer"]).await;
        let token = kubernetes.token("models", "scorer", "causeway-identity/test", None).await;
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token, "audiences": ["causeway-identity/test"] } });
        let said = kubernetes.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", Some(&review)).await;
        assert_eq!(said["status"]["authenticated"], true, "{said}");
        assert_eq!(said["status"]["user"]["username"], "system:serviceaccount:models:scorer");
    })
    .await;
}

#[tokio::test]
async fn the_node_executes_follows_and_forwards() {
    within(LIMIT, async {
        let mut kubernetes = Kubernetes::start().await;
        kubernetes.start_node().await;
        kubernetes.namespace("models", &["scorer"]).await;
        kubernetes.pod("models", "scorer-0").await;
        let said =
            kubernetes.kubectl(&["-n", "models", "exec", "scorer-0", "--", "sh", "-c", "echo out; exit 3"]).await;
        assert_eq!((said.status.code(), said.stdout.as_slice()), (Some(3), b"out\n".as_slice()), "{said:?}");

        std::fs::write(kubernetes.node_log(), "first\n").unwrap();
        let mut command = kubernetes.kubectl_command(&kubernetes.kubeconfig());
        let mut child = command
            .args(["-n", "models", "logs", "-f", "scorer-0"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("first"));
    })
    .await;
}
