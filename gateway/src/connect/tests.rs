//! The whole connector against a real gateway in one process: files, tokens, TLS, policy, targets.
use std::{
    net::SocketAddr,
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use daemon::{config, process::Context};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use identity::{
    ca::{Authority, LeafRequest},
    secret::Secret,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Running,
    fake::{soon, until},
};
use crate::call::{self, Call, CallError};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Signs tokens for the test's authenticator.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn keys(&self) -> String {
        // An uncompressed point: 4, x, y.
        let point = self.0.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        serde_json::json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1", "use": "sig", "x": x, "y": y }] })
            .to_string()
    }

    fn token(&self, subject: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let head = serde_json::json!({ "alg": "ES256", "typ": "JWT", "kid": "1" });
        let claims = serde_json::json!({
            "iss": "https://issuer.example", "aud": "api://causeway/factory-a", "sub": subject,
            "iat": now, "nbf": now, "exp": now + 3600,
        });
        let signed = [head, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A gateway, the services behind it, and a connector in front of it.
struct World {
    folder: tempfile::TempDir,
    issuer: Issuer,
    targets: Context,
    web: SocketAddr,
    echo: SocketAddr,
    /// Heads that the web service has seen.
    seen: std::sync::Arc<Mutex<Vec<HeaderMap>>>,
}

impl World {
    async fn new() -> Self {
        let (folder, issuer, targets) = (tempfile::tempdir().unwrap(), Issuer::new(), Context::new("targets"));
        let seen = std::sync::Arc::<Mutex<Vec<HeaderMap>>>::default();
        let (web, echo) = (web(&targets, &seen).await, echo(&targets).await);
        let world = Self { folder, issuer, targets, web, echo, seen };
        world.write("keys.json", &world.issuer.keys());
        world.write("token", &world.issuer.token("connector"));
        world
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // Renamed into place, as an editor or a volume does it: nobody reads half of it.
        let draft = self.path(&format!(".{name}"));
        std::fs::write(&draft, text).unwrap();
        let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
        std::fs::set_permissions(&draft, private).unwrap();
        std::fs::rename(draft, self.path(name)).unwrap();
    }

    fn load<T: serde::de::DeserializeOwned + config::Validate>(&self, name: &str, text: &str) -> config::Loaded<T> {
        self.write(name, text);
        config::load(Path::new(&self.path(name)), &[]).unwrap()
    }

    async fn gateway(&self, address: SocketAddr) -> (Context, SocketAddr) {
        let (web, echo) = (self.web, self.echo);
        let text = format!(
            "cluster: factory-a
listen: {{ address: \"{address}\" }}
identity: {{ directory: identity }}
networks:
  hosts: {{ web.test.svc: 127.0.0.1, echo.test.svc: 127.0.0.1 }}
  exceptions: [\"{web}\", \"{echo}\"]
authenticators:
  local: {{ issuer: \"https://issuer.example\", audience: \"api://causeway/factory-a\", jwks: {{ file: keys.json }} }}
policy:
  rules:
    - name: web
      who: {{ authenticator: local, subjects: [workload, connector] }}
      http: {{ hosts: [web.test.svc], ports: [{}], methods: [GET, POST], paths: [/v1/**] }}
    - name: echo
      who: {{ authenticator: local, subjects: [connector] }}
      tcp: {{ hosts: [echo.test.svc], ports: [{}] }}
    - name: describe
      who: {{ authenticator: local, subjects: [connector] }}
      describe: {{}}
",
            web.port(),
            echo.port()
        );
        let context = Context::new("gateway");
        let running = crate::serve::start(self.load("gateway.yaml", &text), context.clone()).await.unwrap();
        let trust = crate::trust::export(&self.path("identity"), "factory-a").unwrap();
        self.write("factory-a.trust.yaml", &trust);
        (context, running.addresses[0])
    }

    /// A relay and a listener that hands on to `gateway`; gives the relay's address.
    async fn relay(&self, gateway: SocketAddr) -> (Context, SocketAddr) {
        let authority = Authority::generate("web", DAY).unwrap();
        let leaf = authority
            .issue(&LeafRequest {
                name: "relay".to_owned(),
                hosts: vec!["127.0.0.1".to_owned()],
                uris: Vec::new(),
                life: DAY,
                client: false,
            })
            .unwrap();
        self.write("web-ca.crt", &authority.certificate);
        self.write("relay.crt", &leaf.certificate);
        self.write("relay.key", leaf.key.expose());
        for key in ["listen-key", "send-key"] {
            self.write(
                key,
                &URL_SAFE_NO_PAD.encode(aws_lc_rs::rand::generate::<[u8; 32]>(&SystemRandom::new()).unwrap().expose()),
            );
        }
        let context = Context::new("relay");
        let relay = "listen: [{ address: 127.0.0.1:0, tls: { cert: relay.crt, key: { file: relay.key } } }]
namespace: 127.0.0.1
entities:
  factory-a:
    kind: websocket
    rules:
      listen: { rights: [listen], keys: [{ file: listen-key }] }
      send: { rights: [send], keys: [{ file: send-key }] }
";
        let running = relay::serve::start(self.load("relay.yaml", relay), context.clone()).await.unwrap();
        let relay = running.addresses[0];
        let listener = format!(
            "hybrid_connections:
  - url: sb://{relay}/factory-a
    credential: {{ sas: {{ rule: listen, key: {{ file: listen-key }} }} }}
    forward: {{ tunnel: \"{gateway}\" }}
trust: {{ system: false, files: [web-ca.crt] }}
"
        );
        relay::listen::start(self.load("listener.yaml", &listener), context.clone()).await.unwrap();
        (context, relay)
    }

    fn connector_file(&self, ways: &str, roots: &str) -> config::Loaded<super::Config> {
        let text = format!(
            "clusters:
  factory-a:
    trust: {{ file: factory-a.trust.yaml }}
    ways: {ways}
    token: {{ source: file, path: token, audience: api://causeway/factory-a }}
faces:
  - {{ http: 127.0.0.1:0, to: \"factory-a/web.test.svc:{}\" }}
  - {{ tcp: 127.0.0.1:0, to: \"factory-a/echo.test.svc:{}\" }}
trust: {{ system: false, files: [{roots}] }}
",
            self.web.port(),
            self.echo.port()
        );
        self.load("connector.yaml", &text)
    }

    async fn start(file: config::Loaded<super::Config>) -> (Context, Running) {
        let context = Context::new("connector");
        let running = super::start(file, context.clone()).await.unwrap();
        (context, running)
    }

    async fn connector(&self, gateway: SocketAddr) -> (Context, Running) {
        Self::start(self.direct_file(gateway)).await
    }

    fn direct_file(&self, gateway: SocketAddr) -> config::Loaded<super::Config> {
        self.connector_file(&format!("[{{ direct: \"wss://{gateway}\" }}]"), "")
    }

    fn call(&self, path: &str, subject: Option<&str>) -> Call {
        Call {
            cluster: "factory-a".to_owned(),
            url: format!("http://web.test.svc:{}{path}", self.web.port()).parse().unwrap(),
            method: Method::GET,
            fields: HeaderMap::new(),
            subject: subject.map(|subject| Secret::new(self.issuer.token(subject))),
            body: None,
        }
    }
}

/// Answers with the request's body, and remembers its head.
async fn web(context: &Context, seen: &std::sync::Arc<Mutex<Vec<HeaderMap>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (owner, seen) = (context.shutdown.clone(), std::sync::Arc::clone(seen));
    context.shutdown.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let seen = std::sync::Arc::clone(&seen);
            let service = service_fn(move |request: Request<Incoming>| {
                seen.lock().unwrap().push(request.headers().clone());
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    let text = if body.is_empty() { Bytes::from_static(b"hello") } else { body };
                    Ok::<_, hyper::Error>(Response::new(Full::new(text)))
                }
            });
            owner.spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
            });
        }
    });
    address
}

async fn echo(context: &Context) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let owner = context.shutdown.clone();
    context.shutdown.spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            owner.spawn(async move {
                let (mut reading, mut writing) = client.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
                let _ = writing.shutdown().await;
            });
        }
    });
    address
}

async fn get(face: SocketAddr, path: &str, token: &str) -> (u16, String) {
    let mut client = TcpStream::connect(face).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {face}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", client.read_to_string(&mut answer)).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

const ANY: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_connections_go_through_and_nothing_of_the_token_reaches_the_target() {
    let world = World::new().await;
    let (_gateway, address) = world.gateway(ANY.into()).await;
    let (_connector, running) = world.connector(address).await;
    let token = world.issuer.token("workload");
    let (status, answer) = get(running.addresses[0], "/v1/x", &token).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
    let heads = world.seen.lock().unwrap().clone();
    assert_eq!(heads.len(), 1);
    assert!(!heads[0].contains_key("authorization"));
    // Nothing of ours but how many gateways it has crossed.
    let ours = |name: &http::HeaderName| name.as_str().starts_with("causeway-") && name != "causeway-hops";
    assert!(!heads[0].keys().any(ours));

    let mut client = TcpStream::connect(running.addresses[1]).await.unwrap();
    client.write_all(b"there").await.unwrap();
    client.shutdown().await.unwrap();
    let mut back = String::new();
    soon("the echo", client.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "there");

    let status = running.status();
    assert_eq!(status["clusters"][0]["tunnels"][0]["actor"], "local/connector", "{status}");
    world.targets.shutdown.force();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_taken_when_the_direct_way_is_closed() {
    let world = World::new().await;
    let (_gateway, gateway) = world.gateway(ANY.into()).await;
    let (_relay, relay) = world.relay(gateway).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let ways = format!(
        "[{{ direct: \"wss://{closed}\" }}, {{ hybrid_connection: \"sb://{relay}/factory-a\", \
         credential: {{ sas: {{ rule: send, key: {{ file: send-key }} }} }} }}]"
    );
    let (connector, running) = World::start(world.connector_file(&ways, "web-ca.crt")).await;
    until("the connector is ready", || connector.readiness.is_ready()).await;
    let (status, answer) = get(running.addresses[0], "/v1/x", &world.issuer.token("workload")).await;
    assert_eq!(status, 200, "{answer}");

    let mut client = TcpStream::connect(running.addresses[1]).await.unwrap();
    let (mut reading, mut writing) = client.split();
    let sent: Vec<u8> = (0..4 * 1024 * 1024 + 5).map(|index| (index % 253) as u8).collect();
    let mut back = Vec::new();
    let (_, read) = tokio::join!(
        async {
            writing.write_all(&sent).await.unwrap();
            writing.shutdown().await.unwrap();
        },
        soon("the echo", reading.read_to_end(&mut back))
    );
    read.unwrap();
    assert!(back == sent);
    let status = running.status();
    assert_eq!(status["clusters"][0]["tunnels"][0]["way"], "relay", "{status}");
    assert_eq!(status["clusters"][0]["last_errors"][0]["code"], "C201", "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_refuses_by_name() {
    let world = World::new().await;
    let (_gateway, gateway) = world.gateway(ANY.into()).await;
    let (_relay, relay) = world.relay(gateway).await;
    let context = Context::new("call");
    for (entity, key, roots, code) in
        [("factory-a", "listen-key", "web-ca.crt", "C207"), ("factory-a", "send-key", "", "C205")]
    {
        let way = format!(
            "[{{ hybrid_connection: \"sb://{relay}/{entity}\", credential: {{ sas: {{ rule: send, key: {{ file: {key} }} }} }} }}]"
        );
        let file = world.connector_file(&way, roots);
        let error = call::send(file, &context, world.call("/v1/x", None)).await.unwrap_err();
        assert!(error.explained().contains(code), "{code} in: {}", error.explained());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_who_decided() {
    let world = World::new().await;
    let (_gateway, address) = world.gateway(ANY.into()).await;
    let (_connector, running) = world.connector(address).await;
    let face = running.addresses[0];
    let (status, answer) = get(face, "/admin", &world.issuer.token("workload")).await;
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("policy_denied") && answer.contains("gateway factory-a"), "{answer}");
    let (status, answer) = get(face, "/v1/x", "not-a-token").await;
    assert_eq!(status, 401, "{answer}");
    assert!(answer.contains("token_refused"), "{answer}");
    assert!(world.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_starts_before_its_gateway_and_outlives_it() {
    let world = World::new().await;
    // Makes identity and trust file, and shows a free port.
    let (first, address) = world.gateway(ANY.into()).await;
    first.shutdown.run(Duration::ZERO).await;
    let (connector, running) = world.connector(address).await;
    assert!(!connector.readiness.is_ready());
    let token = world.issuer.token("workload");
    for _ in 0..2 {
        let (gateway, _) = world.gateway(address).await;
        until("the connector is ready", || connector.readiness.is_ready()).await;
        assert_eq!(get(running.addresses[0], "/v1/x", &token).await.0, 200);
        gateway.shutdown.run(Duration::ZERO).await;
        until("the connector notices", || !connector.readiness.is_ready()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_connector_finishes_and_ends() {
    let world = World::new().await;
    let (_gateway, address) = world.gateway(ANY.into()).await;
    let (connector, running) = world.connector(address).await;
    let mut client = TcpStream::connect(running.addresses[1]).await.unwrap();
    client.write_all(b"a").await.unwrap();
    let mut byte = [0];
    soon("the echo", client.read_exact(&mut byte)).await.unwrap();
    connector.shutdown.begin();
    client.write_all(b"b").await.unwrap();
    soon("the echo goes on", client.read_exact(&mut byte)).await.unwrap();
    assert_eq!(&byte, b"b");
    drop(client);
    let outcome = connector.shutdown.run(Duration::from_secs(10)).await;
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_streams_its_answer() {
    let world = World::new().await;
    let (_gateway, address) = world.gateway(ANY.into()).await;
    let (file, context) = (world.direct_file(address), Context::new("call"));
    let body = Bytes::from(vec![7u8; 1 << 20]);
    let mut call = world.call("/v1/echo", Some("workload"));
    (call.method, call.body) = (Method::POST, Some(call::body_from(std::io::Cursor::new(body.clone()))));
    let mut answer = call::send(file, &context, call).await.unwrap();
    assert_eq!(answer.status, 200);
    let mut back = Vec::new();
    while let Some(piece) = answer.next().await {
        back.extend_from_slice(&piece.unwrap());
    }
    assert!(back == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_explains_itself() {
    let world = World::new().await;
    let (gateway, address) = world.gateway(ANY.into()).await;
    let (file, context) = (world.direct_file(address), Context::new("call"));
    let error = call::send(file.clone(), &context, world.call("/admin", Some("workload"))).await.unwrap_err();
    let text = error.explained();
    assert!(!error.is_bad_config());
    for part in ["403 policy_denied", "stream ", "decided by gateway factory-a", "target not contacted"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    gateway.shutdown.run(Duration::ZERO).await;
    let error = call::send(file.clone(), &context, world.call("/v1/x", None)).await.unwrap_err();
    assert!(!error.is_bad_config());
    let text = error.explained();
    assert!(text.contains("C201") && text.contains(&address.to_string()), "{text}");

    let mut elsewhere = world.call("/v1/x", None);
    elsewhere.cluster = "factory-b".to_owned();
    assert!(matches!(call::send(file.clone(), &context, elsewhere).await, Err(CallError::UnknownCluster { .. })));
    let mut secure = world.call("/v1/x", None);
    secure.url = "https://web.test.svc/".parse().unwrap();
    assert!(call::send(file, &context, secure).await.unwrap_err().is_bad_config());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_gateway_is_let_go_at_once() {
    let world = World::new().await;
    let (gateway, address) = world.gateway(ANY.into()).await;
    let (connector, running) = world.connector(address).await;
    assert_eq!(get(running.addresses[0], "/v1/x", &world.issuer.token("workload")).await.0, 200);
    until("the connector is ready", || connector.readiness.is_ready()).await;
    let outcome = soon("the gateway ends", gateway.shutdown.run(Duration::from_secs(60))).await;
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_component_of_the_relay_way_drains_at_once() {
    let world = World::new().await;
    let (gateway, address) = world.gateway(ANY.into()).await;
    let (relay, relay_address) = world.relay(address).await;
    let way = format!(
        "[{{ hybrid_connection: \"sb://{relay_address}/factory-a\", \
         credential: {{ sas: {{ rule: send, key: {{ file: send-key }} }} }} }}]"
    );
    let (connector, running) = World::start(world.connector_file(&way, "web-ca.crt")).await;
    assert_eq!(get(running.addresses[0], "/v1/x", &world.issuer.token("workload")).await.0, 200);
    for (what, context) in [("connector", connector), ("relay and listener", relay), ("gateway", gateway)] {
        let outcome = soon(what, context.shutdown.run(Duration::from_secs(60))).await;
        assert_eq!(outcome, daemon::shutdown::Outcome::Drained, "{what}");
    }
}

/// A connector.yaml with these clusters, each with the way to one gateway, and these faces.
fn file_of(clusters: &[(&str, SocketAddr)], faces: &str) -> String {
    let mut text = "clusters:\n".to_owned();
    for (name, gateway) in clusters {
        text.push_str(&format!(
            "  {name}:
    trust: {{ file: {name}.trust.yaml }}
    ways: [{{ direct: \"wss://{gateway}\" }}]
    token: {{ source: file, path: token, audience: api://causeway/factory-a }}
"
        ));
    }
    format!("{text}faces: [{faces}]\ntrust: {{ system: false, files: [] }}\n")
}

async fn changes(running: &Running, count: u64) {
    until("the change is in force", || running.status()["configuration"]["changes"] == count).await;
}

async fn echoes(client: &mut TcpStream, byte: u8) {
    client.write_u8(byte).await.unwrap();
    assert_eq!(soon("the echo", client.read_u8()).await.unwrap(), byte);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_put_in_force_and_streams_that_are_there_go_on() {
    let world = World::new().await;
    let (_gateway, gateway) = world.gateway(ANY.into()).await;
    // Another cluster, which nobody reaches.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let ca = Authority::generate("factory-b", DAY).unwrap().certificate;
    let trust = crate::trust::TrustFile::new("factory-b", vec![ca]).unwrap();
    world.write("factory-b.trust.yaml", &trust.to_yaml().unwrap());
    let echo = format!("factory-a/echo.test.svc:{}", world.echo.port());
    let web = format!("{{ http: 127.0.0.1:0, to: \"factory-a/web.test.svc:{}\" }}", world.web.port());

    let before = format!("{web}, {{ tcp: 127.0.0.1:0, to: \"{echo}\" }}");
    let file = world.load("connector.yaml", &file_of(&[("factory-a", gateway)], &before));
    let (_connector, running) = World::start(file).await;
    let [http, tcp] = running.addresses[..] else { panic!("two faces") };
    let mut old = TcpStream::connect(tcp).await.unwrap();
    echoes(&mut old, 1).await;
    let tunnels = || running.status()["clusters"][0]["tunnels"].clone();
    let first = tunnels()[0]["id"].clone();

    // A cluster and a face more, one face less, one that stays, and more tunnels by the same way.
    let socket = world.path("echo.sock");
    let after = format!("{web}, {{ tcp: \"unix:echo.sock\", to: \"{echo}\" }}");
    let text = file_of(&[("factory-a", gateway), ("factory-b", nobody)], &after);
    world.write("connector.yaml", &text.replacen("    ways:", "    tunnels: 3\n    ways:", 1));
    changes(&running, 1).await;
    echoes(&mut old, 2).await;
    until("the old face is closed", || std::net::TcpStream::connect(tcp).is_err()).await;
    let mut new = tokio::net::UnixStream::connect(&socket).await.unwrap();
    new.write_u8(3).await.unwrap();
    assert_eq!(soon("the echo", new.read_u8()).await.unwrap(), 3);
    assert_eq!(get(http, "/v1/x", &world.issuer.token("workload")).await.0, 200);
    until("there are three tunnels", || tunnels().as_array().is_some_and(|tunnels| tunnels.len() == 3)).await;
    assert_eq!(tunnels()[0]["id"], first, "what was there has stayed");
    assert_eq!(running.status()["clusters"][1]["cluster"], "factory-b");

    // The cluster goes; its streams end when they end.
    let elsewhere = "{ tcp: 127.0.0.1:0, to: \"factory-b/echo.test.svc:1\" }";
    world.write("connector.yaml", &file_of(&[("factory-b", nobody)], elsewhere));
    changes(&running, 2).await;
    assert_eq!(running.status()["clusters"].as_array().unwrap().len(), 1);
    echoes(&mut old, 4).await;
    new.write_u8(5).await.unwrap();
    assert_eq!(soon("the echo", new.read_u8()).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_exchanged_is_left_when_the_other_one_leads() {
    let world = World::new().await;
    let (_one, one) = world.gateway(ANY.into()).await;
    let (_two, two) = world.gateway(ANY.into()).await;
    let face = format!("{{ tcp: 127.0.0.1:0, to: \"factory-a/echo.test.svc:{}\" }}", world.echo.port());
    let file = world.load("connector.yaml", &file_of(&[("factory-a", one)], &face));
    let (_connector, running) = World::start(file).await;
    let mut old = TcpStream::connect(running.addresses[0]).await.unwrap();
    echoes(&mut old, 1).await;
    world.write("connector.yaml", &file_of(&[("factory-a", two)], &face));
    let address = format!("wss://{two}");
    until("the other way is taken", || {
        let tunnels = running.status()["clusters"][0]["tunnels"].clone();
        let tunnels = tunnels.as_array().unwrap();
        tunnels.len() == 2 && tunnels.iter().all(|tunnel| tunnel["address"] == address)
    })
    .await;
    echoes(&mut old, 2).await;
    let mut new = TcpStream::connect(running.addresses[0]).await.unwrap();
    echoes(&mut new, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_told_with_line_and_key() {
    let world = World::new().await;
    let (_gateway, gateway) = world.gateway(ANY.into()).await;
    let (connector, running) = world.connector(gateway).await;
    let good = std::fs::read_to_string(world.path("connector.yaml")).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = other.local_addr().unwrap();
    let also = format!("faces:\n  - {{ tcp: \"{taken}\", to: \"factory-a/x:1\" }}");
    let refusals = [
        (good.replace("    ways:", "    wayz:"), ["connector.yaml:4", "clusters.factory-a.wayz"]),
        (good.replace("path: token", "path: nowhere, tenant: x"), ["clusters.factory-a.token", "tenant"]),
        (
            good.replace("file: factory-a.trust", "file: other.trust"),
            ["clusters.factory-a.trust.file", "other.trust.yaml"],
        ),
        // Of several changes, of which one cannot be, none counts.
        (good.replace("faces:", &also), [&taken.to_string(), "bound"]),
    ];
    for (number, (text, parts)) in (1..).zip(refusals) {
        world.write("connector.yaml", &text);
        until("it is refused", || running.status()["configuration"]["refusals"] == number).await;
        let refused = running.status()["configuration"]["refused"].to_string();
        assert!(parts.iter().all(|part| refused.contains(part)), "{parts:?} in {refused}");
        assert_eq!(get(running.addresses[0], "/v1/x", &world.issuer.token("workload")).await.0, 200);
        assert_eq!(running.status()["faces"].as_array().unwrap().len(), 2);
    }
    world.write("connector.yaml", &good);
    until("it is good again", || running.status()["configuration"]["refused"].is_null()).await;
    assert_eq!(running.status()["configuration"]["changes"], 0);
    assert!(connector.readiness.is_ready());
}
