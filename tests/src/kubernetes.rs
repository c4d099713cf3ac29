//! A real Kubernetes control plane: Debian's etcd, and the kube-apiserver that `tests/kubernetes/build` makes, with RBAC,
//! an audit log, and service-account tokens that it signs itself. No controller runs, so nothing makes default service
//! accounts or deletes what a namespace held; and there is no kubelet but the node of `tests/kubernetes/node.go`, where a
//! test asks for it.
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use identity::ca::LeafRequest;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    pki::{Pki, write},
    process::{Process, Spec},
    programs::repository,
    wait::{private_loopback, until},
};

/// Issuer of the service-account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Name of the only node, where one was started.
pub const NODE: &str = "node-1";

/// A member of `system:masters`.
const ADMIN_TOKEN: &str = "the-administrator-of-a-test-cluster";

/// Longer than any test.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Ports on addresses of their own.
const ETCD: u16 = 2379;
const ETCD_PEER: u16 = 2380;
const API: u16 = 6443;
const KUBELET: u16 = 10250;

/// A running control plane.
#[derive(Debug)]
pub struct Kubernetes {
    /// Where the API server listens, with TLS from [`Self::pki`].
    pub address: SocketAddr,
    /// The CA of the API server's certificate, of its client certificates and of the node.
    pub pki: Pki,
    /// The API server.
    pub api: Process,
    /// Its store.
    pub etcd: Process,
    node: Option<Process>,
    programs: PathBuf,
    // Last, so that it outlives what runs in it.
    folder: TempDir,
}

impl Kubernetes {
    /// Starts etcd and the API server, and waits until it is ready.
    ///
    /// # Panics
    /// When a program is missing; the message says which step makes it.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let place = folder.path();
        let programs = programs();
        let pki = Pki::new();
        let (store, server) = (private_loopback(), private_loopback());
        let address = SocketAddr::new(server, API);

        write(&place.join("ca.crt"), pki.certificate());
        pki.write_server_named(
            place,
            &[&server.to_string(), "kubernetes", "kubernetes.default", "kubernetes.default.svc"],
        );
        let client = pki.leaf(&LeafRequest {
            name: "kube-apiserver".to_owned(),
            hosts: Vec::new(),
            uris: Vec::new(),
            life: LIFE,
            client: true,
        });
        write(&place.join("node-client.crt"), &client.certificate);
        write(&place.join("node-client.key"), client.key.expose());
        // Any key does; a second authority's is at hand, and its certificate is read as a public key.
        let signer = Pki::new();
        write(&place.join("service-accounts.key"), signer.key().expose());
        write(&place.join("service-accounts.crt"), signer.certificate());
        write(&place.join("tokens.csv"), &format!("{ADMIN_TOKEN},admin,admin,system:masters\n"));
        write(
            &place.join("audit.yaml"),
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{ level: Metadata }]\n",
        );

        let etcd = Process::start(Spec {
            name: "etcd".to_owned(),
            program: "etcd".into(),
            args: arguments(&[
                "--data-dir=etcd".to_owned(),
                format!("--listen-client-urls=http://{store}:{ETCD}"),
                format!("--advertise-client-urls=http://{store}:{ETCD}"),
                format!("--listen-peer-urls=http://{store}:{ETCD_PEER}"),
                format!("--initial-advertise-peer-urls=http://{store}:{ETCD_PEER}"),
                format!("--initial-cluster=default=http://{store}:{ETCD_PEER}"),
                // A test that loses its disk loses nothing.
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ]),
            env: Vec::new(),
            directory: place.to_owned(),
        });
        let api = Process::start(Spec {
            name: "kube-apiserver".to_owned(),
            program: programs.join("kube-apiserver"),
            args: arguments(&[
                format!("--etcd-servers=http://{store}:{ETCD}"),
                format!("--bind-address={server}"),
                format!("--secure-port={API}"),
                "--tls-cert-file=tls.crt".to_owned(),
                "--tls-private-key-file=tls.key".to_owned(),
                "--client-ca-file=ca.crt".to_owned(),
                "--token-auth-file=tokens.csv".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                // It would want default accounts, which a controller makes.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
                format!("--service-account-issuer={ISSUER}"),
                "--service-account-signing-key-file=service-accounts.key".to_owned(),
                "--service-account-key-file=service-accounts.crt".to_owned(),
                "--kubelet-certificate-authority=ca.crt".to_owned(),
                "--kubelet-client-certificate=node-client.crt".to_owned(),
                "--kubelet-client-key=node-client.key".to_owned(),
                "--service-cluster-ip-range=10.43.0.0/16".to_owned(),
                "--audit-policy-file=audit.yaml".to_owned(),
                "--audit-log-path=audit.jsonl".to_owned(),
                "--audit-log-mode=blocking".to_owned(),
            ]),
            env: Vec::new(),
            directory: place.to_owned(),
        });
        let kubernetes = Self { address, pki, api, etcd, node: None, programs, folder };
        kubernetes.write_kubeconfig();
        kubernetes.ready().await;
        kubernetes
    }

    /// Waits until the API server says that it is ready, after a restart too.
    pub async fn ready(&self) {
        until("the API server to be ready", async || {
            let said = self.kubectl(&["get", "--raw", "/readyz"]).await;
            (said.status.success() && said.stdout == b"ok").then_some(())
        })
        .await;
    }

    /// Adds the node, for pods to run on.
    ///
    /// # Panics
    /// When the objects are refused.
    pub async fn start_node(&mut self) {
        let place = self.folder.path();
        let host = private_loopback();
        let leaf = self.pki.server(&[host]);
        write(&place.join("node.crt"), &leaf.certificate);
        write(&place.join("node.key"), leaf.key.expose());
        write(&self.node_log(), "");
        let address = SocketAddr::new(host, KUBELET);
        let node = Process::start(Spec {
            name: "node".to_owned(),
            program: built().join("node"),
            args: arguments(&[address.to_string(), "ca.crt".to_owned(), "node.crt".to_owned(), "node.key".to_owned()]),
            env: vec![("CAUSEWAY_NODE_LOG".to_owned(), self.node_log().into())],
            directory: place.to_owned(),
        });
        until("the node to listen", async || std::net::TcpStream::connect(address).ok()).await;
        self.node = Some(node);
        let status = serde_json::json!({
            "addresses": [{ "type": "InternalIP", "address": host }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": KUBELET } },
        });
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE }, "status": status,
        });
        self.apply(&object).await;
    }

    /// Makes a running pod of the node.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn pod(&self, namespace: &str, name: &str) {
        self.apply(&serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace },
            "spec": { "nodeName": NODE, "containers": [{ "name": "main", "image": "none.test/none" }] },
        }))
        .await;
        let status = serde_json::json!({ "status": { "phase": "Running", "podIP": "10.42.0.7",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "main", "ready": true, "restartCount": 0, "image": "none", "imageID": "",
                "state": { "running": {} } }] } });
        // The status is a resource of its own, which a kubelet would write.
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        self.request("PATCH", &path, Some(&status)).await;
    }

    /// The file whose lines are the log of every container.
    pub fn node_log(&self) -> PathBuf {
        self.folder.path().join("node.log")
    }

    /// Makes a namespace and, in it, a service account of each name.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn namespace(&self, name: &str, accounts: &[&str]) {
        self.apply(&serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await;
        for account in accounts {
            self.apply(&serde_json::json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account, "namespace": name },
            }))
            .await;
        }
    }

    /// A token of a service account for an audience, bound to a pod where one is named.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn token(&self, namespace: &str, account: &str, audience: &str, pod: Option<&str>) -> String {
        let mut spec = serde_json::json!({ "audiences": [audience], "expirationSeconds": 3600 });
        if let Some(pod) = pod {
            spec["boundObjectRef"] = serde_json::json!({ "kind": "Pod", "apiVersion": "v1", "name": pod });
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.request("POST", &path, Some(&serde_json::json!({ "spec": spec }))).await;
        answer["status"]["token"].as_str().expect("a token request is answered by a token").to_owned()
    }

    /// Creates or changes an object, as the administrator.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn apply(&self, object: &Value) {
        let file = tempfile::NamedTempFile::new_in(self.folder.path()).expect("the folder is ours");
        std::fs::write(file.path(), object.to_string()).expect("it can be written");
        let path = file.path().display().to_string();
        let said = self.kubectl(&["apply", "--validate=false", "-f", &path]).await;
        assert!(said.status.success(), "kubectl apply of {object}: {}", String::from_utf8_lossy(&said.stderr));
    }

    /// Runs the administrator's kubectl.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_with(&self.folder.path().join("admin.kubeconfig"), args).await
    }

    /// Runs kubectl with a kubeconfig; its cache is the test's own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn kubectl_with(&self, kubeconfig: &Path, args: &[&str]) -> Output {
        self.kubectl_command(kubeconfig).args(args).output().await.expect("kubectl has been built")
    }

    /// kubectl, ready for its arguments.
    pub fn kubectl_command(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.folder.path()).kill_on_drop(true);
        command.arg("--kubeconfig").arg(kubeconfig);
        command
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// The administrator's bearer token.
    pub fn admin_token(&self) -> &'static str {
        ADMIN_TOKEN
    }

    /// One request of the administrator, past kubectl.
    ///
    /// # Panics
    /// When the answer is no success.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--fail-with-body", "--request", method, "--cacert"])
            .arg(self.folder.path().join("ca.crt"))
            .args(["--header", &format!("authorization: Bearer {ADMIN_TOKEN}")])
            .arg(format!("https://{}{path}", self.address));
        if let Some(body) = body {
            let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            command.args(["--header", &format!("content-type: {kind}"), "--data-binary", &body.to_string()]);
        }
        let said = command.output().await.expect("curl is installed");
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success(), "{method} {path}: {text}{}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_str(&text).expect("the API server answers JSON")
    }

    /// The audit log so far: one event a request.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The CA's certificate as a file.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    fn write_kubeconfig(&self) {
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", self.address), "certificate-authority": self.ca_file() } }],
            "users": [{ "name": "admin", "user": { "token": ADMIN_TOKEN } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        });
        write(&self.kubeconfig(), &config.to_string());
    }
}

/// Where kube-apiserver and kubectl are: in the folder that `KUBEBUILDER_ASSETS` names, else what was built.
fn programs() -> PathBuf {
    std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(built, PathBuf::from)
}

/// What `tests/kubernetes/build` made, which it does here if it must.
fn built() -> PathBuf {
    let said = std::process::Command::new(repository().join("tests/kubernetes/build"))
        .stderr(std::process::Stdio::null())
        .output()
        .expect("the build script can be run");
    assert!(said.status.success(), "tests/kubernetes/build failed; run it by hand, or `tests/run setup`");
    String::from_utf8_lossy(&said.stdout).trim().into()
}

fn arguments(arguments: &[String]) -> Vec<OsString> {
    arguments.iter().map(OsString::from).collect()
}
