//! The private folder with keys and configuration, and the components started from it, each through the entry point that
//! its own program uses.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use daemon::{
    config::{self, Validate},
    process::Context,
    shutdown::Outcome,
};
use identity::{
    ca::{Authority, LeafRequest},
    secret::Secret,
};
use serde::de::DeserializeOwned;

use crate::{
    issuer::{Application, Issuer, TENANT},
    sample::Sample,
    say,
};

/// Life of every certificate made here: a demonstration does not last longer.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Cluster id of the demonstration.
pub(crate) const CLUSTER: &str = "factory-a";
/// Audience of tokens for the gateway.
pub(crate) const AUDIENCE: &str = "api://causeway/factory-a";
/// The connectors' application: it holds tunnels and speaks on the TCP faces.
const CONNECTOR: &str = "connector";
/// The workload's application: it asks the sidecar for tokens and calls the scorer.
const WORKLOAD: &str = "workload";
/// Name under which the gateway knows the scorer.
pub(crate) const SCORER: &str = "scorer.models.svc";
/// Name under which the gateway knows the TCP echo.
const ECHO: &str = "echo.models.svc";

/// A private folder; removed at the end unless it was named or must be kept.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    temporary: Option<std::sync::Mutex<Option<tempfile::TempDir>>>,
}

impl Folder {
    /// Makes it, readable by the owner alone.
    pub(crate) fn make(named: Option<&Path>) -> anyhow::Result<Self> {
        match named {
            Some(path) => {
                fs::DirBuilder::new().mode(0o700).create(path).with_context(|| {
                    format!("creating --folder {}: it must not exist, and its parent must", path.display())
                })?;
                Ok(Self { path: path.canonicalize()?, temporary: None })
            }
            None => {
                let made = tempfile::Builder::new().prefix("causeway-").tempdir().context("making a folder")?;
                Ok(Self { path: made.path().to_owned(), temporary: Some(std::sync::Mutex::new(Some(made))) })
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it behind, because somebody will want to read the log.
    pub(crate) fn keep(&self) {
        let Some(temporary) = &self.temporary else { return };
        let held = temporary.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(folder) = held {
            let _ = folder.keep();
            say::line(&format!("kept {} (log: causeway.log)", self.path.display()));
        }
    }

    fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("writing {}", path.display()))?;
        file.write_all(content.as_bytes())?;
        Ok(path)
    }

    fn load<T: DeserializeOwned + Validate>(&self, name: &str, content: &str) -> anyhow::Result<config::Loaded<T>> {
        let path = self.write(name, content)?;
        config::load(&path, &[]).with_context(|| format!("configuration {name}"))
    }
}

/// Local ports that a person may have chosen; 0 takes free ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) relay_http: u16,
    pub(crate) direct_http: u16,
    pub(crate) sidecar: u16,
}

/// How one topology is reached.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    /// What it is called on the screen.
    pub(crate) name: &'static str,
    /// Local HTTP face, a request's caller being whoever sends it a token.
    pub(crate) http: SocketAddr,
    /// Local TCP face, the connector being the caller.
    pub(crate) tcp: SocketAddr,
    /// The connector's configuration file.
    pub(crate) config: PathBuf,
    /// The hops in order, as text.
    pub(crate) hops: &'static str,
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Through the relay, then direct.
    pub(crate) ways: [Way; 2],
    /// The sidecar's managed-identity endpoint.
    pub(crate) sidecar: SocketAddr,
    /// Its `X-IDENTITY-HEADER`.
    pub(crate) identity_header: Secret,
    /// Where the scorer really listens (only the gateway goes there).
    pub(crate) scorer: SocketAddr,
    components: Vec<(&'static str, Context)>,
}

/// 256 random bits as text, for keys and passwords.
fn random_key() -> anyhow::Result<String> {
    let mut bytes = [0u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).context("reading randomness")?;
    Ok(STANDARD.encode(bytes))
}

impl Stage {
    /// Writes keys and configuration, and starts every component.
    pub(crate) async fn start(folder: &Folder, ports: Ports) -> anyhow::Result<Self> {
        let mut starting = Starting { folder, components: Vec::new() };
        match starting.all(ports).await {
            Ok(stage) => Ok(Self { components: starting.components, ..stage }),
            Err(error) => {
                stop(&starting.components, Duration::from_secs(1)).await;
                Err(error)
            }
        }
    }

    /// Drains every component, cloud side first, and says how it went.
    pub(crate) async fn stop(&self, grace: Duration) {
        stop(&self.components, grace).await;
    }
}

async fn stop(components: &[(&'static str, Context)], grace: Duration) {
    for (name, context) in components.iter().rev() {
        if let Outcome::Forced(tasks) = context.shutdown.run(grace).await {
            say::line(&format!("  {name}: {tasks} task(s) had to be cut off after {grace:?}"));
        }
    }
}

struct Starting<'a> {
    folder: &'a Folder,
    components: Vec<(&'static str, Context)>,
}

impl Starting<'_> {
    fn context(&mut self, name: &'static str) -> Context {
        let context = Context::new(name);
        self.components.push((name, context.clone()));
        context
    }

    async fn all(&mut self, ports: Ports) -> anyhow::Result<Stage> {
        say::title("Starting");
        let began = Instant::now();
        let authority = Authority::generate("Causeway local CA", CERTIFICATE_LIFE)?;
        self.folder.write("local-ca.crt", &authority.certificate)?;
        let leaf = authority.issue(&LeafRequest {
            name: "127.0.0.1".to_owned(),
            hosts: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            uris: Vec::new(),
            life: CERTIFICATE_LIFE,
            client: false,
        })?;
        say::done("certificates", "a CA and a leaf for the relay and the token endpoint", began.elapsed());

        let sample_context = self.context("sample");
        let sample = Sample::start(&sample_context.shutdown).await?;
        say::done("cluster", &format!("scorer {}, echo {}", sample.scorer, sample.echo), began.elapsed());

        let issuer = self.issuer(&leaf).await?;
        say::done("token endpoint", &issuer.authority(), began.elapsed());
        let relay = self.relay(&leaf).await?;
        say::done("relay", &format!("sb://{relay}/{CLUSTER}"), began.elapsed());
        let gateway = self.gateway(&issuer, &sample).await?;
        say::done("gateway", &format!("wss://{gateway}, made its own CA"), began.elapsed());
        self.listener(relay, gateway).await?;
        say::done("listener", "dials out to the relay, opens no port", began.elapsed());
        let sidecar = self.sidecar(&issuer, ports.sidecar).await?;
        say::done("token sidecar", &format!("http://{}/msi/token", sidecar.0), began.elapsed());

        let hybrid = format!(
            "hybrid_connection: sb://{relay}/{CLUSTER}\n        \
             credential: {{ sas: {{ rule: {CLUSTER}-send, key: {{ file: fa-send }} }} }}"
        );
        let through_relay = self.connector("relay", &hybrid, ports.relay_http, &issuer, &sample).await?;
        say::done(
            "connector (relay)",
            &format!("http {}, tcp {}", through_relay[0], through_relay[1]),
            began.elapsed(),
        );
        let direct =
            self.connector("direct", &format!("direct: wss://{gateway}"), ports.direct_http, &issuer, &sample).await?;
        say::done("connector (direct)", &format!("http {}, tcp {}", direct[0], direct[1]), began.elapsed());

        let way = |name: &'static str, faces: [SocketAddr; 2], hops: &'static str| Way {
            name,
            http: faces[0],
            tcp: faces[1],
            config: self.folder.path().join(format!("connector-{name}.yaml")),
            hops,
        };
        Ok(Stage {
            ways: [
                way("relay", through_relay, "client → connector → relay ⇐ listener → gateway → service"),
                way("direct", direct, "client → connector → gateway → service"),
            ],
            sidecar: sidecar.0,
            identity_header: sidecar.1,
            scorer: sample.scorer,
            components: Vec::new(),
        })
    }

    async fn issuer(&mut self, leaf: &identity::ca::Leaf) -> anyhow::Result<Issuer> {
        let mut applications = Vec::new();
        for id in [CONNECTOR, WORKLOAD] {
            let secret = random_key()?;
            self.folder.write(&format!("{id}.secret"), &secret)?;
            applications.push(Application { id: id.to_owned(), secret: Secret::new(secret) });
        }
        let context = self.context("token endpoint");
        let issuer = Issuer::start(leaf, applications, &context.shutdown).await?;
        self.folder.write("issuer.jwks", &issuer.keys().to_string())?;
        Ok(issuer)
    }

    async fn relay(&mut self, leaf: &identity::ca::Leaf) -> anyhow::Result<SocketAddr> {
        self.folder.write("relay.crt", &leaf.certificate)?;
        self.folder.write("relay.key", leaf.key.expose())?;
        for key in ["fa-listen", "fa-send"] {
            self.folder.write(key, &random_key()?)?;
        }
        let config = self.folder.load(
            "relay.yaml",
            &format!(
                "listen:
  - address: 127.0.0.1:0
    tls: {{ cert: relay.crt, key: {{ file: relay.key }} }}
namespace: 127.0.0.1
entities:
  {CLUSTER}:
    kind: websocket
    rules:
      {CLUSTER}-listen: {{ rights: [listen], keys: [{{ file: fa-listen }}] }}
      {CLUSTER}-send:   {{ rights: [send],   keys: [{{ file: fa-send }}] }}
"
            ),
        )?;
        let context = self.context("causeway_relay");
        let running = relay::serve::start(config, context).await.context("starting the relay")?;
        running.addresses.first().copied().context("the relay has no address")
    }

    async fn gateway(&mut self, issuer: &Issuer, sample: &Sample) -> anyhow::Result<SocketAddr> {
        let (scorer, echo) = (sample.scorer, sample.echo);
        self.folder.write(
            "policy.yaml",
            &format!(
                "rules:
  - name: scoring
    who: {{ authenticator: local, subjects: [{WORKLOAD}] }}
    http: {{ hosts: [{SCORER}], ports: [{}], methods: [GET, POST], paths: [/v1/**] }}
  - name: echo
    who: {{ authenticator: local, subjects: [{CONNECTOR}] }}
    tcp: {{ hosts: [{ECHO}], ports: [{}] }}
  - name: connectors
    who: {{ authenticator: local, subjects: [{CONNECTOR}] }}
    describe: {{}}
",
                scorer.port(),
                echo.port()
            ),
        )?;
        let config = self.folder.load(
            "gateway.yaml",
            &format!(
                "cluster: {CLUSTER}
listen: {{ address: 127.0.0.1:0 }}
identity: {{ directory: cluster-identity }}
networks:
  hosts: {{ {SCORER}: 127.0.0.1, {ECHO}: 127.0.0.1 }}
  exceptions: [\"{scorer}\", \"{echo}\"]
authenticators:
  local: {{ issuer: \"{}\", audience: \"{AUDIENCE}\", jwks: {{ file: issuer.jwks }} }}
policy: policy.yaml
",
                issuer.issuer()
            ),
        )?;
        let context = self.context("causeway_gateway");
        let running = gateway::serve::start(config, context).await.context("starting the gateway")?;
        let address = running.addresses.first().copied().context("the gateway has no address")?;
        let trust = gateway::trust::export(&self.folder.path().join("cluster-identity"), CLUSTER)?;
        self.folder.write(&format!("{CLUSTER}.trust.yaml"), &trust)?;
        Ok(address)
    }

    async fn listener(&mut self, relay: SocketAddr, gateway: SocketAddr) -> anyhow::Result<()> {
        let config = self.folder.load(
            "listener.yaml",
            &format!(
                "hybrid_connections:
  - url: sb://{relay}/{CLUSTER}
    credential: {{ sas: {{ rule: {CLUSTER}-listen, key: {{ file: fa-listen }} }} }}
    channels: 2
    forward: {{ tunnel: \"{gateway}\" }}
trust: {{ system: false, files: [local-ca.crt] }}
"
            ),
        )?;
        let context = self.context("causeway_listener");
        relay::listen::start(config, context).await.context("starting the listener")?;
        Ok(())
    }

    async fn sidecar(&mut self, issuer: &Issuer, port: u16) -> anyhow::Result<(SocketAddr, Secret)> {
        let header = random_key()?;
        self.folder.write("identity.header", &header)?;
        let config = self.folder.load(
            "sidecar.yaml",
            &format!(
                "listen: 127.0.0.1:{port}
source:
  source: client_secret
  authority: {}
  tenant: {TENANT}
  client_id: {WORKLOAD}
  client_secret: {{ file: {WORKLOAD}.secret }}
  ca: local-ca.crt
faces: {{ app_service: {{ header: {{ file: identity.header }} }} }}
allow: [\"{AUDIENCE}\", \"https://storage.azure.com\"]
",
                issuer.authority()
            ),
        )?;
        let context = self.context("causeway_sidecar");
        let running = identity::sidecar::start(config, context).await.context("starting the sidecar")?;
        Ok((running.address, Secret::new(header)))
    }

    async fn connector(
        &mut self,
        name: &'static str,
        way: &str,
        http_port: u16,
        issuer: &Issuer,
        sample: &Sample,
    ) -> anyhow::Result<[SocketAddr; 2]> {
        let config = self.folder.load(
            &format!("connector-{name}.yaml"),
            &format!(
                "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {way}
    token:
      source: client_secret
      authority: {}
      tenant: {TENANT}
      client_id: {CONNECTOR}
      client_secret: {{ file: {CONNECTOR}.secret }}
      ca: local-ca.crt
      audience: {AUDIENCE}
faces:
  - {{ http: 127.0.0.1:{http_port}, to: \"{CLUSTER}/{SCORER}:{}\", as: caller }}
  - {{ tcp: 127.0.0.1:0, to: \"{CLUSTER}/{ECHO}:{}\", as: connector }}
trust: {{ system: false, files: [local-ca.crt] }}
",
                issuer.authority(),
                sample.scorer.port(),
                sample.echo.port(),
            ),
        )?;
        let context = self.context(if name == "relay" { "causeway_connector_relay" } else { "causeway_connector" });
        let running = gateway::connect::start(config, context).await.context("starting the connector")?;
        match running.addresses.as_slice() {
            [http, tcp] => Ok([*http, *tcp]),
            other => bail!("the connector has {} faces instead of 2", other.len()),
        }
    }
}
