//! A gateway on loopback with an issuer, targets and tunnels of its own; everything ends with the test.

pub(crate) mod logs;
pub(crate) mod targets;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use daemon::{clock::SharedClock, process::Context, workers::Workers};
use gateway::{serve, trust::TrustFile};
use http::{HeaderMap, HeaderName, HeaderValue};
use identity::{
    ca::{Authority, Leaf, LeafRequest},
    jwt::Signer,
    secret::Secret,
    tls::cluster::{ClientCertificate, ClusterTrust, inner_name},
};
use proto::tunnel::{
    client::{self, Client},
    failure::Failure,
    pb::{ForwardResponse, Head, HttpRequest, Open, TcpTarget, forward_response, open},
    receive::{Part, Receiver},
    settings::Settings,
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

pub(crate) const ISSUER: &str = "https://issuer.test";
pub(crate) const AUDIENCE: &str = "causeway://factory-a";

/// Nothing in a test waits for longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) context: Context,
    pub(crate) address: SocketAddr,
    pub(crate) signer: Signer,
    pub(crate) trust: ClusterTrust,
    tasks: Mutex<JoinSet<()>>,
}

/// What a gateway is started with.
pub(crate) struct Setup<'a> {
    /// YAML of the rules.
    pub(crate) rules: String,
    /// Targets that names lead to.
    pub(crate) targets: &'a [(&'a str, SocketAddr)],
    /// More lines of `gateway.yaml`.
    pub(crate) more: &'a str,
}

/// What lies beside the gateway's config, and more of it.
#[derive(Default)]
pub(crate) struct Beside<'a> {
    /// Files in its folder.
    pub(crate) files: &'a [(&'a str, &'a str)],
    /// More keys of `listen`, after a comma.
    pub(crate) listen: &'a str,
    /// More lines of `authenticators`.
    pub(crate) authenticators: &'a str,
    /// The clock it goes by.
    pub(crate) clock: Option<SharedClock>,
}

fn networks(targets: &[(&str, SocketAddr)]) -> String {
    let hosts: Vec<_> = targets.iter().map(|(name, at)| format!("{name}: {}", at.ip())).collect();
    let exceptions: Vec<_> = targets.iter().map(|(_, at)| format!("\"{at}\"")).collect();
    format!("hosts: {{ {} }}, exceptions: [{}]", hosts.join(", "), exceptions.join(", "))
}

impl World {
    pub(crate) async fn start(setup: Setup<'_>) -> Self {
        Self::start_from(&setup.rules, &networks(setup.targets), setup.more, Workers::default()).await
    }

    /// A gateway with one HTTP target, whose tunnels run on these workers.
    pub(crate) async fn on_workers(target: SocketAddr, workers: Workers) -> Self {
        Self::start_from(&rules(target), &networks(&[("scorer.models.svc", target)]), "", workers).await
    }

    /// A gateway with these `networks`.
    pub(crate) async fn start_with_networks(rules: String, networks: &str) -> Self {
        Self::start_from(&rules, networks, "", Workers::default()).await
    }

    /// A gateway with this besides.
    pub(crate) async fn start_beside(setup: Setup<'_>, beside: Beside<'_>) -> Self {
        let networks = networks(setup.targets);
        Self::start_from_all(&setup.rules, &networks, setup.more, Workers::default(), beside).await
    }

    async fn start_from(rules: &str, networks: &str, more: &str, workers: Workers) -> Self {
        Self::start_from_all(rules, networks, more, workers, Beside::default()).await
    }

    async fn start_from_all(rules: &str, networks: &str, more: &str, workers: Workers, beside: Beside<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::generate("k1");
        std::fs::write(folder.path().join("jwks.json"), signer.jwks()).unwrap();
        std::fs::write(folder.path().join("policy.yaml"), rules).unwrap();
        for (name, text) in beside.files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let (listen, authenticators) = (beside.listen, beside.authenticators);
        let config = format!(
            "cluster: factory-a
listen: {{ address: 127.0.0.1:0{listen} }}
identity: {{ directory: identity }}
networks: {{ {networks} }}
authenticators:
  corp: {{ issuer: \"{ISSUER}\", audience: \"{AUDIENCE}\", jwks: {{ file: jwks.json }}, claims: [team] }}
{authenticators}
policy: policy.yaml
{more}"
        );
        let path = folder.path().join("gateway.yaml");
        std::fs::write(&path, config).unwrap();
        let mut context = Context { workers, ..Context::new("causeway_gateway") };
        if let Some(clock) = beside.clock {
            context.clock = clock;
        }
        let loaded = daemon::config::load::<serve::Config>(&path, &[]).unwrap();
        let running = serve::start(loaded, context.clone()).await.unwrap();
        let exported = gateway::trust::export(&folder.path().join("identity"), "factory-a").unwrap();
        let trust = TrustFile::parse(&exported).unwrap().proof().unwrap();
        Self { folder, context, address: running.addresses[0], signer, trust, tasks: Mutex::default() }
    }

    /// A gateway with one HTTP target, and rules for `alice` and the connector.
    pub(crate) async fn with_http(target: SocketAddr) -> Self {
        Self::start(Setup { rules: rules(target), targets: &[("scorer.models.svc", target)], more: "" }).await
    }

    pub(crate) fn write_policy(&self, rules: &str) {
        self.write("policy.yaml", rules);
    }

    /// Renamed into place, as an editor or a volume does it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let draft = self.folder.path().join(format!("{name}.next"));
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.folder.path().join(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn token(&self, subject: &str) -> Secret {
        self.token_for(subject, 600)
    }

    /// A token that ends in so many seconds.
    pub(crate) fn token_for(&self, subject: &str, seconds: i64) -> Secret {
        self.token_with(subject, seconds, json!({}))
    }

    /// The same with more claims.
    pub(crate) fn token_with(&self, subject: &str, seconds: i64, more: Value) -> Secret {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        let mut claims =
            json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now - 600, "exp": now + seconds });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        self.signer.sign(&claims)
    }

    /// A tunnel in an inner session, with nobody bound to it.
    pub(crate) async fn tunnel(&self) -> Client {
        self.tunnel_showing(None).await
    }

    /// The same, with a client certificate.
    pub(crate) async fn tunnel_showing(&self, certificate: Option<&ClientCertificate>) -> Client {
        self.try_tunnel_showing(certificate).await.unwrap()
    }

    /// The same, if it comes about.
    pub(crate) async fn try_tunnel_showing(&self, certificate: Option<&ClientCertificate>) -> anyhow::Result<Client> {
        self.try_tunnel(certificate, Settings::default()).await
    }

    /// A tunnel with nobody bound to it, whose caller gives so much credit for each stream at first.
    pub(crate) async fn tunnel_of_window(&self, stream_window: u32) -> Client {
        self.try_tunnel(None, Settings { stream_window, ..Settings::default() }).await.unwrap()
    }

    async fn try_tunnel(&self, certificate: Option<&ClientCertificate>, settings: Settings) -> anyhow::Result<Client> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(self.trust.inner_client(certificate).unwrap());
        let session = connector.connect(inner_name(), tcp).await?;
        let (client, driver) = client::connect(session, settings).await?;
        self.tasks.lock().unwrap().spawn(async move {
            // How a tunnel ends is for the tests to see at its client.
            let _ = driver.await;
        });
        Ok(client)
    }

    /// A tunnel held by the connector.
    pub(crate) async fn held(&self) -> Client {
        let tunnel = self.tunnel().await;
        tunnel.describe(actor(&self.token("connector"))).await.unwrap();
        tunnel
    }

    /// Drains; what had to be cut is counted.
    pub(crate) async fn drain(&self, grace: Duration) -> daemon::shutdown::Outcome {
        self.context.shutdown.run(grace).await
    }
}

/// A client certificate for this name.
pub(crate) fn leaf(authority: &Authority, uri: &str) -> ClientCertificate {
    let request = LeafRequest {
        name: "connector".to_owned(),
        hosts: Vec::new(),
        uris: vec![uri.to_owned()],
        life: Duration::from_secs(3600),
        client: true,
    };
    let Leaf { certificate, key } = authority.issue(&request).unwrap();
    ClientCertificate { certificate, key }
}

/// Rules for one HTTP target and one connector.
pub(crate) fn rules(target: SocketAddr) -> String {
    format!(
        "rules:
  - name: scoring
    who: {{ authenticator: corp, subjects: [alice] }}
    http: {{ hosts: [\"*.models.svc\"], ports: [{}], methods: [GET, HEAD, POST], paths: [/v1/**] }}
  - name: connectors
    who: {{ authenticator: corp, subjects: [connector] }}
    describe: {{}}
",
        target.port()
    )
}

/// Metadata with the subject's token.
pub(crate) fn subject(token: &Secret) -> HeaderMap {
    metadata("authorization", token)
}

/// Metadata with the actor's token.
pub(crate) fn actor(token: &Secret) -> HeaderMap {
    metadata("causeway-actor", token)
}

fn metadata(name: &'static str, token: &Secret) -> HeaderMap {
    let value = HeaderValue::try_from(format!("Bearer {}", token.expose())).unwrap();
    HeaderMap::from_iter([(HeaderName::from_static(name), value)])
}

/// A request without body.
pub(crate) fn get(target: SocketAddr, path: &str) -> HttpRequest {
    HttpRequest {
        method: "GET".to_owned(),
        scheme: "http".to_owned(),
        host: "scorer.models.svc".to_owned(),
        port: u32::from(target.port()),
        path: path.to_owned(),
        no_body: true,
        ..HttpRequest::default()
    }
}

/// A request with a body.
pub(crate) fn post(target: SocketAddr, path: &str) -> HttpRequest {
    HttpRequest { method: "POST".to_owned(), no_body: false, ..get(target, path) }
}

pub(crate) fn open_http(request: HttpRequest) -> Open {
    Open { target: Some(open::Target::Http(request)), hops: 0 }
}

pub(crate) fn open_tcp(host: &str, port: u16) -> Open {
    let target = TcpTarget { host: host.to_owned(), port: u32::from(port) };
    Open { target: Some(open::Target::Tcp(target)), hops: 0 }
}

/// A whole answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) interim: Vec<Head>,
    pub(crate) head: Head,
    pub(crate) body: BytesMut,
    pub(crate) trailers: Vec<(String, Bytes)>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let field = self.head.fields.iter().find(|field| field.name == name)?;
        str::from_utf8(&field.value).ok()
    }
}

/// Receives an answer to its end.
pub(crate) async fn receive(receiver: &mut Receiver<ForwardResponse>) -> Result<Answer, Failure> {
    use forward_response::Part as Response;
    let mut answer = Answer::default();
    while let Some(part) = tokio::time::timeout(PATIENCE, receiver.next()).await.expect("the answer comes in time") {
        match part? {
            Part::Data(data) => {
                answer.body.extend_from_slice(&data);
                receiver.taken(data.len());
            }
            Part::Message(ForwardResponse { part: Some(Response::Head(head)) }) if head.status < 200 => {
                answer.interim.push(head);
            }
            Part::Message(ForwardResponse { part: Some(Response::Head(head)) }) => answer.head = head,
            Part::Message(ForwardResponse { part: Some(Response::Fin(fin)) }) => {
                answer.trailers = fin.trailers.into_iter().map(|field| (field.name, field.value)).collect();
            }
            Part::Message(other) => panic!("unexpected {other:?}"),
        }
    }
    Ok(answer)
}

/// One request without body, and its answer.
pub(crate) async fn fetch(client: &Client, token: &Secret, request: HttpRequest) -> Result<Answer, Failure> {
    let (mut sender, mut receiver) = client.forward(subject(token), open_http(request)).await?;
    sender.fin(proto::tunnel::pb::Fin::default()).await?;
    receive(&mut receiver).await
}
