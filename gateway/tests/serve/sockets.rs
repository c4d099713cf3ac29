//! Unix sockets of the gateway's machine.

use bytes::Bytes;
use proto::tunnel::{
    failure::{Code, Reached},
    pb::{Fin, ForwardResponse, Open, UnixTarget, forward_response, open},
    receive::Part,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    task::JoinSet,
};

use crate::support::{PATIENCE, Setup, World, subject};

const RULES: &str = "rules:
  - { name: sockets, who: { authenticator: corp, subjects: [alice] }, unix: { names: [echo, absent, unknown] } }
  - { name: connectors, who: { authenticator: corp, subjects: [connector] }, describe: {} }";

fn open_unix(name: &str) -> Open {
    Open { target: Some(open::Target::Unix(UnixTarget { name: name.to_owned() })), hops: 0 }
}

#[tokio::test]
async fn a_named_socket_is_reached_and_either_side_may_finish_first() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("echo")).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    let more = format!("unix: {{ echo: {} }}", folder.path().join("echo").display());
    let world = World::start(Setup { rules: RULES.to_owned(), targets: &[], more: &more }).await;
    let tunnel = world.held().await;
    let (mut sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open_unix("echo")).await.unwrap();
    match receiver.next().await.unwrap().unwrap() {
        Part::Message(ForwardResponse { part: Some(forward_response::Part::Connected(connected)) }) => {
            assert_eq!(connected.address, "echo", "the path stays with its owner");
        }
        other => panic!("unexpected {other:?}"),
    }
    sender.data(Bytes::from_static(b"hello")).await.unwrap();
    sender.fin(Fin::default()).await.unwrap();
    let Some(Ok(Part::Data(data))) = receiver.next().await else { panic!("the echo") };
    assert_eq!(data, "hello");
    receiver.taken(data.len());
    assert!(matches!(receiver.next().await, Some(Ok(Part::Message(_)))));
    assert!(receiver.next().await.is_none(), "the call ends well");
}

#[tokio::test]
async fn a_socket_is_a_name_of_the_config_that_a_rule_grants() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent");
    let more = format!("unix: {{ absent: {}, secret: {} }}", path.display(), path.display());
    let world = World::start(Setup { rules: RULES.to_owned(), targets: &[], more: &more }).await;
    let tunnel = world.held().await;
    for (name, code) in [
        ("absent", Code::TargetRefused),
        ("unknown", Code::TargetUnresolved),
        ("secret", Code::PolicyDenied),
        ("/etc/passwd", Code::InvalidRequest),
        ("", Code::InvalidRequest),
    ] {
        let (_sender, mut receiver) = tunnel.forward(subject(&world.token("alice")), open_unix(name)).await.unwrap();
        let failure = receiver.next().await.unwrap().unwrap_err();
        assert_eq!((failure.code, failure.reached), (code, Reached::No), "{name}: {failure}");
        assert!(!failure.message.contains(&*folder.path().to_string_lossy()), "{failure}");
    }
}

#[tokio::test]
async fn a_socket_that_is_named_while_the_gateway_runs_is_reached_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(folder.path().join("echo")).unwrap();
    let world = World::start(Setup { rules: RULES.to_owned(), targets: &[], more: "" }).await;
    let tunnel = world.held().await;
    let events = world.context.events.clone();
    let opens = async || {
        let token = world.token("alice");
        let (_sender, mut receiver) = tunnel.forward(subject(&token), open_unix("echo")).await.unwrap();
        receiver.next().await.unwrap().is_ok()
    };
    let soon = async |what: &str, holds: &dyn Fn(bool) -> bool| {
        let waiting = async {
            while !holds(opens().await) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
    };
    assert!(!opens().await);
    let path = world.path("gateway.yaml");
    let write = |text: &str| {
        let draft = world.path("gateway.next");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, &path).unwrap();
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let named = format!("{text}unix: {{ echo: {} }}\n", folder.path().join("echo").display());
    write(&named);
    soon("it is named", &|opened| opened).await;

    write(&named.replace("unix:", "unixx:"));
    let refused = || {
        let told = events.recent().into_iter().find(|event| event.kind == "config_refused");
        told.map(|event| event.fields["problem"].to_string())
    };
    soon("the broken file is told of", &|opened| {
        assert!(opened, "the old one stays");
        refused().is_some()
    })
    .await;
    let refused = refused().unwrap();
    assert!(refused.contains("gateway.yaml:") && refused.contains("unixx"), "{refused}");
    write(&text);
    soon("it is no longer named", &|opened| !opened).await;
}
