//! What a rule does not grant is refused by the gateway, by name, whoever the API server would let through.
use std::time::Duration;

use causeway_tests::wait::within;
use serde_json::json;

use super::world::{HOME, World};

const LIMIT: Duration = Duration::from_secs(240);

const EXEC: &str = "/api/v1/namespaces/models/pods/scorer-0/exec?command=echo&command=hello&stdout=true";

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_reads_executes_nothing_by_whatever_method() {
    within(LIMIT, async {
        let world = World::start().await;
        let mut allowed = world.websocket("alice", EXEC);
        let open = allowed.next("open").await;
        assert_eq!(open.field("protocol").as_deref(), Some("v4.channel.k8s.io"));
        assert_eq!(allowed.next("stdout").await.field("text").as_deref(), Some("hello\n"));
        allowed.next("close").await;

        let mut refused = world.websocket("bob", EXEC);
        let refusal = refused.next("refused").await;
        assert_eq!(refusal.field("status").as_deref(), Some("403"));
        let body = refusal.field("body").unwrap();
        assert!(body.contains("connect pods/exec models/scorer-0") && body.contains("readers"), "{body}");

        for args in [
            &["-n", "models", "exec", "scorer-0", "--", "true"][..],
            &["-n", "models", "port-forward", "scorer-0", ":80"],
            &["-n", "models", "delete", "pod", "scorer-0"],
            &["get", "pods", "-A"],
            &["get", "--raw", "/api/v1/nodes/node-1/proxy/pods"],
        ] {
            let refusal = world.refused("bob", args).await;
            assert!(
                refusal.contains("policy_denied") && refusal.contains("rule \"readers\" lacks"),
                "{args:?}: {refusal}"
            );
        }
        let refusal = world.refused("carol", &["get", "--raw", "/api/v1/nodes/node-1/proxy/pods"]).await;
        assert!(refusal.contains("rule \"operators\" lacks `nodes/proxy` by its full name"), "{refusal}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_can_be_asked_as_the_page_says() {
    within(LIMIT, async {
        let world = World::start().await;
        let page = std::fs::read_to_string(causeway_tests::programs::repository().join("docs/kubernetes.md")).unwrap();
        let page = page.replace("entra", "tests");
        let mut lines = page.lines();
        let mut asked = 0;
        while let Some(line) = lines.next() {
            if let Some(words) = line.strip_prefix("$ gateway policy ") {
                let words: Vec<String> = format!("policy {words}").split(' ').map(ToOwned::to_owned).collect();
                let said = world.program(&words).await;
                assert_eq!(String::from_utf8(said.stdout).unwrap().trim_end(), lines.next().unwrap(), "{line}");
                asked += 1;
            }
        }
        assert_eq!(asked, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_manages_the_gateway_through_itself() {
    within(LIMIT, async {
        let world = World::start().await;
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "policy", "namespace": HOME },
            "data": { "policy.yaml": "rules: []" } });
        world.kubernetes.apply(&map).await;
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "ca", "namespace": HOME } });
        world.kubernetes.apply(&secret).await;
        // This one is the cluster's administrator, as far as the API server is concerned.
        assert!(world.done("carol", &["get", "pods", "-A"]).await.contains("gateway-0"));
        assert!(world.done("carol", &["-n", HOME, "get", "configmaps"]).await.contains("policy"));
        for args in [
            &["-n", HOME, "edit", "configmap", "policy"][..],
            &["-n", HOME, "delete", "configmap", "policy"],
            &["-n", HOME, "exec", "gateway-0", "--", "true"],
            &["-n", HOME, "port-forward", "gateway-0", ":80"],
            &["-n", HOME, "get", "secrets"],
            &["-n", HOME, "get", "secret", "ca", "-o", "yaml"],
            &["get", "secrets", "-A"],
            &["delete", "namespace", HOME],
            &["create", "-f", "-"],
        ] {
            let mut command = world.kubectl("carol");
            command.args(args).env("KUBE_EDITOR", "sed -i s/rules:/suspended:/").stdin(std::process::Stdio::null());
            if args[0] == "create" {
                let webhook = json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                    "metadata": { "name": "mine" }, "webhooks": [] });
                let file = world.object("webhook.json", &webhook);
                command.stdin(std::fs::File::open(file).unwrap());
            }
            let said = command.output().await.unwrap();
            let complaint = String::from_utf8_lossy(&said.stderr);
            assert!(!said.status.success(), "{args:?}: {said:?}");
            assert!(complaint.contains("rule \"operators\" lacks `self_manage: true`"), "{args:?}: {complaint}");
        }
        let map = world.kubernetes.request("GET", "/api/v1/namespaces/causeway/configmaps/policy", None).await;
        assert_eq!(map["data"]["policy.yaml"], "rules: []", "nothing has changed");

        // The owner may, by a rule that says so.
        world.site.edit("policy.yaml", "resources: [\"*\"] }", "resources: [\"*\"], self_manage: true }");
        causeway_tests::wait::until("the policy to be in force", async || {
            world.run("carol", &["get", "secrets", "-A"]).await.status.success().then_some(())
        })
        .await;
    })
    .await;
}
