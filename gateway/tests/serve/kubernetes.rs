//! The API server as a target, before a server that answers what no API server should.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::tunnel::{
    client::{Client, Sender},
    failure::{Code, Failure, Reached},
    pb::{ForwardResponse, KubernetesRequest, Open, open},
    receive::Receiver,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

use crate::{
    support::{PATIENCE, Setup, World, receive, subject, targets::Target},
    tls::Proof,
};

const RULES: &str = "rules:
  - name: connectors
    who: { authenticator: corp, subjects: [connector] }
    describe: {}
  - name: editors
    who: { authenticator: corp, subjects: [alice] }
    kubernetes: { verbs: [\"*\"], namespaces: [models], as_groups: [editors] }
";

/// A server with TLS, everything that each of its connections was told, and leave to answer what must wait.
struct Server {
    target: Target,
    proof: Proof,
    said: Arc<Mutex<Vec<String>>>,
    leave: Arc<Semaphore>,
}

impl Server {
    /// Refuses upgrades and reads on; leaves `/healthz` without an answer, and a watch until it is told to go on.
    async fn start() -> Self {
        let proof = Proof::of("127.0.0.1", &[b"http/1.1"]);
        let (said, leave) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Semaphore::new(0)));
        let (acceptor, told, waits) = (proof.acceptor.clone(), Arc::clone(&said), Arc::clone(&leave));
        let target = Target::of(move |stream| {
            let (acceptor, told, waits) = (acceptor.clone(), Arc::clone(&told), Arc::clone(&waits));
            async move {
                let Ok(mut session) = acceptor.accept(stream).await else { return };
                let number = {
                    let mut told = told.lock().unwrap();
                    told.push(String::new());
                    told.len() - 1
                };
                loop {
                    let head = head(&mut session, |byte| told.lock().unwrap()[number].push(char::from(byte))).await;
                    let answer = match head.split(' ').nth(1) {
                        None | Some("/healthz") => return std::future::pending().await,
                        Some(path) if path.ends_with("/exec") => {
                            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno"
                        }
                        Some(path) if path.contains("watch") => {
                            waits.acquire().await.unwrap().forget();
                            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
                        }
                        Some(_) => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
                    };
                    if session.write_all(answer.as_bytes()).await.is_err() || session.flush().await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { target, proof, said, leave }
    }

    async fn world(&self, more: &str) -> World {
        let folder = self.proof.folder.path();
        std::fs::write(folder.join("token"), "the-gateways-own").unwrap();
        let more = format!(
            "kubernetes: {{ server: \"https://{}\", ca: {}, token: {}, namespace: causeway }}\n{more}",
            self.target.address,
            folder.join("ca.pem").display(),
            folder.join("token").display(),
        );
        World::start(Setup { rules: RULES.to_owned(), targets: &[], more: &more }).await
    }

    /// What the connections were told on which this was asked for.
    fn told(&self, path: &str) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|said| said.contains(&format!("{path} HTTP/1.1\r\n"))).cloned().collect()
    }
}

/// A request's head; empty when there is none any more.
async fn head(stream: &mut (impl AsyncRead + Unpin), seen: impl Fn(u8)) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => {
                seen(byte);
                head.push(char::from(byte));
            }
            Err(_) => return String::new(),
        }
    }
    head
}

fn request(path: &str, upgrade: &str) -> KubernetesRequest {
    KubernetesRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        fields: Vec::new(),
        no_body: true,
        upgrade: upgrade.to_owned(),
    }
}

async fn open(world: &World, tunnel: &Client, request: KubernetesRequest) -> (Sender, Receiver<ForwardResponse>) {
    let open = Open { target: Some(open::Target::Kubernetes(request)), hops: 0 };
    tunnel.forward(subject(&world.token("alice")), open).await.unwrap()
}

async fn fetch(world: &World, tunnel: &Client, path: &str) -> Result<u32, Failure> {
    let (mut sender, mut receiver) = open(world, tunnel, request(path, "")).await;
    sender.fin(proto::tunnel::pb::Fin::default()).await?;
    receive(&mut receiver).await.map(|answer| answer.head.status)
}

const EXEC: &str = "/api/v1/namespaces/models/pods/a/exec";
const WATCH: &str = "/api/v1/namespaces/models/pods?watch=1";

#[tokio::test]
async fn a_refused_upgrade_leaves_no_pipe_and_its_connection_is_never_used_again() {
    let server = Server::start().await;
    let world = server.world("").await;
    let tunnel = world.held().await;
    for round in 1..=3 {
        let (mut sender, mut receiver) = open(&world, &tunnel, request(EXEC, "spdy/3.1")).await;
        // A request of its own making, which the server would take for the gateway's.
        let smuggled = "GET /api/v1/namespaces/causeway/secrets HTTP/1.1\r\nhost: a\r\nimpersonate-user: admin\r\n\r\n";
        // The gateway may have ended the call already.
        let _ = sender.data(Bytes::from_static(smuggled.as_bytes())).await;
        let answer = receive(&mut receiver).await.unwrap();
        assert_eq!((answer.head.status, &answer.body[..]), (400, &b"no"[..]));
        // What comes next goes elsewhere.
        assert_eq!(fetch(&world, &tunnel, "/api/v1/namespaces/models/pods").await.unwrap(), 200);
        let told = server.told(EXEC);
        assert_eq!(told.len(), round, "each upgrade has a connection of its own");
        for said in told {
            assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
            assert!(said.ends_with("\r\n\r\n") && !said.contains("secrets"), "{said}");
            assert!(said.contains("impersonate-user: causeway:corp/alice\r\n"), "{said}");
            assert!(said.contains("impersonate-group: editors\r\n"), "{said}");
            assert!(said.contains("authorization: Bearer the-gateways-own\r\n"), "{said}");
            assert!(said.contains("connection: upgrade, te\r\n") && said.contains("upgrade: spdy/3.1\r\n"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_watch_may_be_silent_for_longer_than_any_other_request() {
    let server = Server::start().await;
    let world = server.world("limits: { first_byte: 300ms }").await;
    world.write_policy(&RULES.replace("as_groups", "paths: [/healthz], as_groups"));
    let tunnel = world.held().await;
    let (_sender, mut watching) = open(&world, &tunnel, request(WATCH, "")).await;
    // This one began later, and has waited for too long already.
    let failure = loop {
        match fetch(&world, &tunnel, "/healthz").await {
            // The changed policy is not in force yet.
            Err(failure) if failure.code == Code::PolicyDenied => tokio::task::yield_now().await,
            other => break other.unwrap_err(),
        }
    };
    assert_eq!((failure.code, failure.reached), (Code::TargetTimeout, Reached::Maybe));
    server.leave.add_permits(1);
    let heard = tokio::time::timeout(PATIENCE, watching.next()).await.unwrap().unwrap();
    assert!(heard.is_ok(), "{heard:?}");
}

#[tokio::test]
async fn a_watch_ends_when_its_caller_would_be_somebody_else() {
    let server = Server::start().await;
    server.leave.add_permits(1);
    let world = server.world("").await;
    let tunnel = world.held().await;
    let (_sender, mut watching) = open(&world, &tunnel, request(WATCH, "")).await;
    assert!(watching.next().await.unwrap().is_ok(), "the watch goes on");
    world.write_policy(&RULES.replace("[editors]", "[guests]"));
    let failure = tokio::time::timeout(PATIENCE, receive(&mut watching)).await.unwrap().unwrap_err();
    assert_eq!(failure.code, Code::PolicyDenied);
    assert!(failure.message.contains("the user and groups as which it was begun"), "{failure}");
}

#[tokio::test]
async fn a_gateway_without_the_section_serves_no_such_request() {
    let world = World::start(Setup { rules: RULES.to_owned(), targets: &[], more: "" }).await;
    let tunnel = world.held().await;
    let failure = fetch(&world, &tunnel, "/api").await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::Unsupported, Reached::No));
    assert!(failure.message.contains("`kubernetes`"), "{failure}");
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused_and_never_sent() {
    let server = Server::start().await;
    let world = server.world("").await;
    let tunnel = world.held().await;
    for path in [
        "/api/v1/namespaces/models/../causeway/secrets",
        "/api/v1/namespaces/models/%2e%2e/causeway/secrets",
        "/api/v1//namespaces/models/pods",
        "/api/v1/namespaces/models/pods?watch=0&watch=1",
    ] {
        assert_eq!(fetch(&world, &tunnel, path).await.unwrap_err().code, Code::AmbiguousPath, "{path}");
        assert!(server.told(path).is_empty(), "{path}");
    }
}
