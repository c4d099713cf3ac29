//! Proof before token (SD-1): against the real gateway protocol, and against impostors that note everything they can read.
use std::{
    path::Path,
    time::{Duration as StdDuration, SystemTime},
};

use daemon::{clock::SystemClock, process::Context};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use identity::{
    ca::{Authority, Leaf, LeafRequest},
    tls::ServerTls,
    token::Cache,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::connect::fake::{Gateway, Tokens, soon};

const DAY: StdDuration = StdDuration::from_secs(24 * 3600);

fn authority() -> Authority {
    Authority::generate("test", DAY).unwrap()
}

fn leaf(authority: &Authority, uri: &str) -> Leaf {
    leaf_for(authority, uri, DAY)
}

fn leaf_for(authority: &Authority, uri: &str, life: StdDuration) -> Leaf {
    let request = LeafRequest {
        name: "gateway".to_owned(),
        hosts: vec!["127.0.0.1".to_owned()],
        uris: vec![uri.to_owned()],
        life,
        client: false,
    };
    authority.issue(&request).unwrap()
}

/// A connector's view of the cluster whose CA this is.
struct Near {
    opener: Opener,
    context: Context,
    _folder: tempfile::TempDir,
}

fn near(authority: &Authority) -> Near {
    near_with(authority, RootCertStore::empty())
}

fn near_with(authority: &Authority, roots: RootCertStore) -> Near {
    let folder = tempfile::tempdir().unwrap();
    let trust = folder.path().join("trust.yaml");
    write_trust(&trust, authority);
    let context = Context::new("test");
    let cache = Cache::new(Arc::new(Tokens::default()), Arc::new(SystemClock), context.shutdown.clone());
    let opener = Opener {
        cluster: "factory-a".into(),
        trust,
        roots: roots.clone(),
        sender: sender::Sender::new(relay::dial::Dialer::default(), identity::tls::client(roots, &[b"http/1.1"])),
        actor: Actor::new(cache, "causeway://factory-a".to_owned()),
        clock: Arc::new(SystemClock),
        follow: Follow::off(),
        budget: Default::default(),
        mismatches: Counter::default(),
        events: context.events.clone(),
    };
    Near { opener, context, _folder: folder }
}

fn write_trust(path: &Path, authority: &Authority) {
    let file = crate::trust::TrustFile::new("factory-a", vec![authority.certificate.clone()]).unwrap();
    std::fs::write(path, file.to_yaml().unwrap()).unwrap();
}

fn acceptor(leaf: &Leaf, alpn: &[&[u8]]) -> TlsAcceptor {
    ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), alpn).unwrap().current().into()
}

/// The server's side of the upgrade; also the head that came.
async fn accept_ws<IO>(io: IO) -> (WsStream<IO>, String)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    accept_ws_as(io, None).await
}

/// The same by a relay that names its listener.
async fn accept_ws_as<IO>(io: IO, listener: Option<&'static str>) -> (WsStream<IO>, String)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (done, upgraded) = oneshot::channel();
    let done = Arc::new(Mutex::new(Some(done)));
    let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let done = Arc::clone(&done);
        async move {
            let accept = handshake::check_request(&request).unwrap();
            let head = format!("{request:?}");
            let upgrade = hyper::upgrade::on(&mut request);
            done.lock().unwrap().take().unwrap().send((upgrade, head)).ok().unwrap();
            let mut answer = handshake::switching::<http_body_util::Empty<bytes::Bytes>>(accept, Some(SUBPROTOCOL));
            if let Some(listener) = listener {
                answer.headers_mut().insert("causeway-listener", http::HeaderValue::from_static(listener));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(io), service).with_upgrades();
    let (served, upgraded) = tokio::join!(serving, upgraded);
    served.unwrap();
    let (upgrade, head) = upgraded.unwrap();
    let (io, read_ahead) = handshake::into_parts::<IO>(upgrade.await.unwrap()).unwrap();
    (WsStream::new(io, Role::Server, read_ahead), head)
}

async fn listen(tls: bool) -> (TcpListener, Way) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    (listener, Way::Direct(url.parse().unwrap()))
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    soon("a connection comes", listener.accept()).await.unwrap().0
}

#[tokio::test]
async fn the_gateways_own_certificate_outside_needs_no_inner_session() {
    let authority = authority();
    let near = near(&authority);
    let (gateway, _calls) = Gateway::new(&near.context);
    let (listener, way) = listen(true).await;
    let serve = async {
        let tls = acceptor(&leaf(&authority, "causeway://factory-a"), &[b"http/1.1"]);
        let outer = tls.accept(accepted(&listener).await).await.unwrap();
        let (ws, head) = accept_ws(outer).await;
        assert!(!head.contains("actor-"), "the upgrade carries no token: {head}");
        near.context.shutdown.spawn(gateway.serve(ws));
    };
    let (opened, ()) = tokio::join!(near.opener.open(&way), serve);
    let opened = opened.unwrap();
    assert_eq!(opened.state.actor, "local/connector");
    assert_eq!(opened.identity, identity::ca::spki_sha256(&authority.certificate).unwrap());
    assert_eq!((opened.way, opened.address), ("direct", way.to_string()));
}

#[tokio::test]
async fn behind_an_ordinary_certificate_the_gateway_proves_itself_inside() {
    let (authority, web) = (authority(), authority());
    let mut roots = RootCertStore::empty();
    let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
        web.certificate.as_bytes(),
    );
    roots.add(der.unwrap()).unwrap();
    let near = near_with(&authority, roots);
    let (gateway, _calls) = Gateway::new(&near.context);
    let (listener, way) = listen(true).await;
    let serve = async {
        let outer = acceptor(&leaf(&web, "https://proxy"), &[b"http/1.1"]);
        let (ws, _) = accept_ws(outer.accept(accepted(&listener).await).await.unwrap()).await;
        let inner = acceptor(&leaf(&authority, "causeway://factory-a"), &[proto::tunnel::ALPN]);
        near.context.shutdown.spawn(gateway.serve(inner.accept(ws).await.unwrap()));
    };
    let (opened, ()) = tokio::join!(near.opener.open(&way), serve);
    assert_eq!(opened.unwrap().state.actor, "local/connector");
}

#[tokio::test]
async fn over_plain_websocket_the_gateway_proves_itself_inside() {
    let authority = authority();
    let near = near(&authority);
    let (gateway, _calls) = Gateway::new(&near.context);
    let (listener, way) = listen(false).await;
    let serve = async {
        let (ws, _) = accept_ws(accepted(&listener).await).await;
        let inner = acceptor(&leaf(&authority, "causeway://factory-a"), &[proto::tunnel::ALPN]);
        near.context.shutdown.spawn(gateway.serve(inner.accept(ws).await.unwrap()));
    };
    let (opened, ()) = tokio::join!(near.opener.open(&way), serve);
    assert!(opened.is_ok());
}

/// Certificates that are not the cluster's.
async fn impostors(authority: &Authority) -> Vec<(&'static str, Leaf)> {
    let other = self::authority();
    let issued = SystemTime::now();
    let impostors = vec![
        ("wrong CA", leaf(&other, "causeway://factory-a")),
        ("right CA, wrong name", leaf(authority, "causeway://factory-b")),
        ("right CA, expired", leaf_for(authority, "causeway://factory-a", StdDuration::ZERO)),
        ("self-signed", Leaf { certificate: other.certificate.clone(), key: other.key.clone() }),
    ];
    // Certificates count in whole seconds, and their last one is valid.
    crate::connect::fake::until("the short-lived one has expired", || {
        issued.elapsed().is_ok_and(|passed| passed >= StdDuration::from_secs(2))
    })
    .await;
    impostors
}

/// Everything that an impostor can read, once the connector has hung up.
async fn overheard(io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut io = io;
    // A reset is an end, too.
    let _ = soon("the connector hangs up", io.read_to_end(&mut heard)).await;
    heard
}

fn assert_mismatch(what: &str, stage: Stage, opened: Result<Opened, WayError>) {
    let error = opened.expect_err(what);
    assert_eq!((error.code, error.stage), (WayCode::IdentityMismatch, stage), "{what}: {}", error.explained());
}

#[tokio::test]
async fn an_impostor_outside_hears_no_byte() {
    let authority = authority();
    let near = near(&authority);
    for (what, leaf) in impostors(&authority).await {
        let (listener, way) = listen(true).await;
        let tls = acceptor(&leaf, &[b"http/1.1"]);
        let serve = async {
            match tls.accept(accepted(&listener).await).await {
                Ok(session) => overheard(session).await,
                Err(_) => Vec::new(),
            }
        };
        let (opened, heard) = tokio::join!(near.opener.open(&way), serve);
        assert_mismatch(what, Stage::Tls, opened);
        assert_eq!(heard, b"", "{what}");
    }
}

#[tokio::test]
async fn an_impostor_inside_hears_no_byte() {
    let authority = authority();
    let near = near(&authority);
    for (what, leaf) in impostors(&authority).await {
        let (listener, way) = listen(false).await;
        let inner = acceptor(&leaf, &[proto::tunnel::ALPN]);
        let serve = async {
            let (ws, head) = accept_ws(accepted(&listener).await).await;
            assert!(!head.contains("actor-"), "{head}");
            match inner.accept(ws).await {
                Ok(session) => overheard(session).await,
                Err(_) => Vec::new(),
            }
        };
        let (opened, heard) = tokio::join!(near.opener.open(&way), serve);
        assert_mismatch(what, Stage::InnerTls, opened);
        assert_eq!(heard, b"", "{what}");
    }
}

#[tokio::test]
async fn failures_name_their_stage() {
    let near = near(&authority());
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let way = |url: String| Way::Direct(url.parse().unwrap());
    let refused = near.opener.open(&way(format!("wss://{free}"))).await.unwrap_err();
    assert_eq!((refused.code, refused.stage), (WayCode::Refused, Stage::Tcp));
    let unresolved = near.opener.open(&way("wss://gateway.causeway.invalid".to_owned())).await.unwrap_err();
    assert_eq!((unresolved.code, unresolved.stage), (WayCode::Unresolved, Stage::Dns));

    let (listener, no_websocket) = listen(false).await;
    let serve = async {
        let mut client = accepted(&listener).await;
        client.readable().await.unwrap();
        let answer = b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut client, answer).await.unwrap();
    };
    let (opened, ()) = tokio::join!(near.opener.open(&no_websocket), serve);
    let error = opened.unwrap_err();
    assert_eq!((error.code, error.stage), (WayCode::UpgradeRefused, Stage::Upgrade));
    assert_eq!(error.retry_after(), Some(StdDuration::from_secs(7)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_costs_no_more_than_the_deadline() {
    let near = near(&authority());
    let (listener, way) = listen(true).await;
    let began = tokio::time::Instant::now();
    let (opened, _held) = tokio::join!(near.opener.open(&way), listener.accept());
    let error = opened.unwrap_err();
    assert_eq!((error.code, error.stage), (WayCode::TimedOut, Stage::Tls));
    assert!(began.elapsed() >= TUNNEL_SETUP_DEADLINE && began.elapsed() < TUNNEL_SETUP_DEADLINE * 2);
}

#[tokio::test]
async fn a_damaged_or_foreign_trust_file_stops_before_the_network() {
    let near = near(&authority());
    let way = Way::Direct("wss://gateway.causeway.invalid".parse().unwrap());
    for text in ["", "not: [yaml", "cluster: factory-b\ncertificates: []\nspki_sha256: []\n"] {
        std::fs::write(&near.opener.trust, text).unwrap();
        let error = near.opener.open(&way).await.unwrap_err();
        assert_eq!(error.code, WayCode::TrustUnusable, "{text}");
    }
}

/// A hybrid connection of a relay that the test plays.
async fn relayed() -> (TcpListener, Way) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}/factory-a", listener.local_addr().unwrap()).parse().unwrap();
    let credential = sender::Credential::rule("send", identity::secret::Secret::random());
    (listener, Way::HybridConnection(Relayed { address, credential, avoided: Avoided::default() }))
}

fn avoided(way: &Way) -> Vec<String> {
    match way {
        Way::HybridConnection(relayed) => relayed.avoided.ids(),
        Way::Direct(_) => Vec::new(),
    }
}

/// The head says whom it wants to avoid, or nothing.
fn asks_to_avoid(head: &str) -> Option<String> {
    let (_, rest) = head.split_once("\"microsoft-relay-disallowedlisteners\": \"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[tokio::test]
async fn a_thieving_listener_is_told_nothing_reported_and_passed_over_within_one_attempt() {
    let authority = authority();
    let near = near(&authority);
    let (gateway, _calls) = Gateway::new(&near.context);
    let (relay, way) = relayed().await;
    let thief = acceptor(&leaf(&self::authority(), "causeway://factory-a"), &[proto::tunnel::ALPN]);
    let serve = async {
        let (ws, head) = accept_ws_as(accepted(&relay).await, Some("thief_G0")).await;
        assert_eq!(asks_to_avoid(&head), None);
        if let Ok(session) = thief.accept(ws).await {
            assert_eq!(overheard(session).await, b"");
        }
        let (ws, head) = accept_ws_as(accepted(&relay).await, Some("honest_G0")).await;
        assert_eq!(asks_to_avoid(&head).as_deref(), Some("thief_G0"));
        let inner = acceptor(&leaf(&authority, "causeway://factory-a"), &[proto::tunnel::ALPN]);
        near.context.shutdown.spawn(gateway.serve(inner.accept(ws).await.unwrap()));
    };
    let (opened, ()) = tokio::join!(near.opener.open(&way), serve);
    assert_eq!(opened.unwrap().state.actor, "local/connector");
    assert_eq!((near.opener.mismatches.get(), avoided(&way)), (1, vec!["thief_G0".to_owned()]));
    let told = near.context.events.recent();
    assert_eq!(told[0].kind, "gateway_identity_mismatch");
    assert_eq!((&told[0].fields["listener"], &told[0].fields["cluster"]), (&"thief_G0".into(), &"factory-a".into()));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_says_nothing_is_passed_over_without_an_alarm() {
    let near = near(&authority());
    let (relay, way) = relayed().await;
    let serve = async {
        let silent = accept_ws_as(accepted(&relay).await, Some("silent")).await;
        // The second one breaks the session, which proves nothing either.
        let (mut ws, head) = accept_ws_as(accepted(&relay).await, Some("rude")).await;
        assert_eq!(asks_to_avoid(&head).as_deref(), Some("silent"));
        tokio::io::AsyncWriteExt::write_all(&mut ws, b"not tls at all").await.unwrap();
        let mut third = accepted(&relay).await;
        third.readable().await.unwrap();
        let answer = b"HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut third, answer).await.unwrap();
        (silent, ws, third)
    };
    let (opened, _held) = tokio::join!(near.opener.open(&way), serve);
    assert_eq!(opened.unwrap_err().code, WayCode::NoListener);
    assert!(avoided(&way).is_empty(), "nobody is avoided when that leaves nobody");
    assert!(near.context.events.recent().is_empty() && near.opener.mismatches.get() == 0);
}

#[tokio::test]
async fn an_attempt_ends_though_all_listeners_be_thieves() {
    let near = near(&authority());
    let (relay, way) = relayed().await;
    let thief = acceptor(&leaf(&authority(), "causeway://factory-a"), &[proto::tunnel::ALPN]);
    let serve = async {
        for name in ["a", "b", "c", "d"] {
            let (ws, _) = accept_ws_as(accepted(&relay).await, Some(name)).await;
            assert!(thief.accept(ws).await.is_err());
        }
    };
    let (opened, ()) = tokio::join!(near.opener.open(&way), serve);
    assert_mismatch("all of them", Stage::InnerTls, opened);
    assert_eq!((near.opener.mismatches.get(), avoided(&way).len()), (4, LISTENERS_TRIED));
}

#[tokio::test]
async fn an_impostor_without_a_name_ends_the_attempt() {
    let near = near(&authority());
    let (relay, way) = relayed().await;
    let thief = acceptor(&leaf(&authority(), "causeway://factory-a"), &[proto::tunnel::ALPN]);
    let serve = async {
        let (ws, _) = accept_ws(accepted(&relay).await).await;
        let _ = thief.accept(ws).await;
    };
    let (opened, ()) = tokio::join!(near.opener.open(&way), serve);
    assert_mismatch("nameless", Stage::InnerTls, opened);
    assert!(avoided(&way).is_empty() && near.opener.mismatches.get() == 1);
    assert!(near.context.events.recent()[0].fields["listener"].is_null());
}
