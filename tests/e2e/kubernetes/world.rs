//! A real control plane, a gateway with a service account in it, a connector with a Kubernetes face, and people with
//! kubeconfigs that `gateway kubeconfig` wrote.
use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Output, Stdio},
};

use causeway_tests::{
    driver::Driver,
    kubernetes::{ISSUER, Kubernetes},
    process::{Process, Spec},
    programs,
    site::{CLUSTER, Site, direct_way},
    topology::ready,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// The namespace that the gateway lives in.
pub(super) const HOME: &str = "causeway";

/// Where people work.
pub(super) const MODELS: &str = "models";

/// A rule for somebody whom the gateway's rights do not list.
const UNLISTED: &str = "  - name: unlisted
    who: { authenticator: tests, subjects: [dora] }
    kubernetes: { verbs: [get, list], namespaces: [models] }
";

/// The block of `docs/kubernetes.md` whose first line names this file; its people come from the tests' issuer.
fn page(name: &str) -> String {
    let page = std::fs::read_to_string(programs::repository().join("docs/kubernetes.md")).unwrap();
    let begin = format!("```yaml\n# {name}\n");
    let start = page.find(&begin).unwrap_or_else(|| panic!("the page has no {name}")) + begin.len();
    let block = &page[start..];
    block[..block.find("```").unwrap()].replace("entra", "tests")
}

pub(super) struct World {
    pub(super) site: Site,
    pub(super) kubernetes: Kubernetes,
    pub(super) gateway: Process,
    pub(super) gateway_address: SocketAddr,
    pub(super) connector: Process,
    pub(super) admin: SocketAddr,
    face: SocketAddr,
}

impl World {
    /// Everything runs, and the connector has a tunnel.
    pub(super) async fn start() -> Self {
        let (site, mut kubernetes) = tokio::join!(Site::new(), Kubernetes::start());
        kubernetes.start_node().await;
        kubernetes.namespace(MODELS, &[]).await;
        kubernetes.namespace(HOME, &["gateway"]).await;
        kubernetes.pod(MODELS, "scorer-0").await;
        kubernetes.pod(HOME, "gateway-0").await;
        rights(&kubernetes, &site).await;
        site.write("gateway-account.token", &kubernetes.token(HOME, "gateway", ISSUER, None).await);
        site.append(
            "gateway.yaml",
            &format!(
                "kubernetes: {{ server: \"https://{}\", ca: {}, token: gateway-account.token, namespace: {HOME} }}\n",
                kubernetes.address,
                kubernetes.ca_file().display(),
            ),
        );
        let rules = page("policy.yaml");
        site.append("policy.yaml", &format!("{}{UNLISTED}", rules.strip_prefix("rules:\n").unwrap()));
        let (gateway, gateway_address) = site.gateway().await;
        site.export_trust().await;
        site.write(
            "kubernetes.yaml",
            &format!(
                "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways: [{{ {} }}]
    token: {{ source: file, path: connector.token }}
{}admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
                direct_way(gateway_address),
                page("connector.yaml").replace(":6443", ":0"),
            ),
        );
        let mut connector = programs::start("connector", "gateway", site.path(), ["connect", "-c", "kubernetes.yaml"]);
        let open = connector.log().entry("the face is open", 0, |entry| {
            entry.field("what").is_some_and(|what| what.ends_with("kubernetes")) && entry.field("address").is_some()
        });
        let face = open.await.field("address").unwrap().parse().unwrap();
        let admin = connector.address("admin").await;
        ready("connector", admin).await;
        let world = Self { site, kubernetes, gateway, gateway_address, connector, admin, face };
        for person in ["alice", "bob", "carol", "dora"] {
            world.kubeconfig(person).await;
        }
        world
    }

    /// What a person is given: a kubeconfig that names the file of its token.
    async fn kubeconfig(&self, person: &str) {
        self.site.write(&format!("{person}.token"), &self.token(person));
        let (token, server) = (format!("{person}.token"), format!("https://{}", self.face));
        let output = format!("{person}.kubeconfig");
        let words = ["kubeconfig", CLUSTER, "-c", "kubernetes.yaml", "--token-file", &token, "--server", &server, "-o"];
        let said = self.program(&words.map(ToOwned::to_owned).into_iter().chain([output]).collect::<Vec<_>>()).await;
        assert!(said.status.success(), "gateway kubeconfig: {}", String::from_utf8_lossy(&said.stderr));
    }

    /// Runs a command of the gateway in the site's folder.
    pub(super) async fn program(&self, words: &[String]) -> Output {
        let mut command = Command::new(programs::program("gateway"));
        command.args(words).current_dir(self.site.path()).kill_on_drop(true).output().await.unwrap()
    }

    /// A person's token.
    pub(super) fn token(&self, person: &str) -> String {
        self.site.issuer.subject(person)
    }

    /// kubectl, as a person.
    pub(super) fn kubectl(&self, person: &str) -> Command {
        self.kubernetes.kubectl_command(&self.site.file(&format!("{person}.kubeconfig")))
    }

    /// Runs kubectl, as a person.
    pub(super) async fn run(&self, person: &str, args: &[&str]) -> Output {
        self.kubectl(person).args(args).output().await.unwrap()
    }

    /// Runs kubectl, as a person, and gives what it prints.
    pub(super) async fn done(&self, person: &str, args: &[&str]) -> String {
        let said = self.run(person, args).await;
        assert!(said.status.success(), "{person}: kubectl {args:?}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    }

    /// Runs kubectl, as a person, and gives what it complains of.
    pub(super) async fn refused(&self, person: &str, args: &[&str]) -> String {
        let said = self.run(person, args).await;
        assert!(!said.status.success(), "{person}: kubectl {args:?}: {}", String::from_utf8_lossy(&said.stdout));
        String::from_utf8(said.stderr).unwrap()
    }

    /// kubectl that goes on printing, and its lines.
    pub(super) fn following(&self, person: &str, args: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = self.kubectl(person).args(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }

    /// Python's `websockets` at a path of the face, as a person.
    pub(super) fn websocket(&self, person: &str, path: &str) -> Driver {
        let ca = self.site.file("state/kubernetes-face/ca.crt");
        let options = json!({ "url": format!("wss://{}{path}", self.face), "token": self.token(person), "ca": ca });
        Driver::start(Spec {
            name: format!("websocket of {person}"),
            program: programs::repository().join("target/tools/python/bin/python"),
            args: vec![
                programs::repository().join("tests/python/exec.py").into_os_string(),
                options.to_string().into(),
            ],
            env: vec![("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into())],
            directory: self.site.path().to_owned(),
        })
    }

    /// A file whose content is some text, for kubectl.
    pub(super) fn object(&self, name: &str, object: &Value) -> PathBuf {
        self.site.write(name, &object.to_string());
        self.site.file(name)
    }

    /// What the audit log says of this path, after `mark` events.
    pub(super) fn audited(&self, mark: usize, path: &str) -> Vec<Value> {
        let begins = |event: &Value| event["requestURI"].as_str().is_some_and(|uri| uri.starts_with(path));
        self.kubernetes.audit().into_iter().skip(mark).filter(begins).collect()
    }
}

/// What the cluster's owner grants, as the page has it; and one administrator, so that whatever is refused to this one is
/// refused by the gateway.
async fn rights(kubernetes: &Kubernetes, site: &Site) {
    // The roles of the page are put together from others by a controller, and none runs here.
    let rights = page("rights.yaml").replace("name: admin }", "name: cluster-admin }");
    site.write("rights.yaml", &rights.replace("name: view }", "name: \"system:aggregate-to-view\" }"));
    let said = kubernetes.kubectl(&["apply", "-f", site.file("rights.yaml").to_str().unwrap()]).await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "carol" },
        "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "User", "name": "causeway:tests/carol", "apiGroup": group }],
    });
    kubernetes.apply(&binding).await;
}
