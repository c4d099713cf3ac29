//! `relay check` against a relay of ours, and against everything that may stand in its place or on the way.
use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemon::{config::SecretRef, process::Context};
use identity::{
    ca::{Authority, LeafRequest},
    jwt::Signer,
    secret::Secret,
    tls::{ServerTls, Trust},
};
use relay::{
    check::{Code, Finding, Role, Stage, Status, Subject, Surroundings, check},
    dial::{Dialer, ProxyConfig, ProxySettings},
    sender::{Credential, CredentialConfig, JoinLogin},
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    listener::{Listener, echo, relay_with_tls},
    support::{LISTEN_KEY, NAMESPACE_KEY, Relay, SECOND_KEY, SEND_KEY, config, write_secret},
};

fn rule(name: &str, key: &str) -> Credential {
    Credential::rule(name, Secret::new(key))
}

fn listening() -> Credential {
    rule("listen", LISTEN_KEY)
}

fn sending() -> Credential {
    rule("send", SEND_KEY)
}

fn subject(url: impl AsRef<str>, role: Role, credential: Credential) -> Subject {
    Subject {
        address: url.as_ref().parse().unwrap(),
        credential,
        role,
        channels: 2,
        other: None,
        rendezvous_hosts: Vec::new(),
        rendezvous_ports: Vec::new(),
    }
}

fn nobody() -> Trust {
    Trust { system: false, files: Vec::new() }
}

fn straight() -> Surroundings {
    Surroundings::new(Dialer::default(), nobody(), Path::new(".")).unwrap()
}

/// Through a proxy, trusting these files below `base`.
fn proxied(proxy: SocketAddr, trust: Trust, base: &Path) -> Surroundings {
    let settings =
        ProxySettings { url: format!("http://{proxy}"), user: None, password: None, no_proxy: Vec::new(), trust: None };
    let dialer = Dialer::open(&ProxyConfig::Settings(Box::new(settings)), &trust, base).unwrap();
    Surroundings::new(dialer, trust, base).unwrap()
}

async fn checked(subject: &Subject, surroundings: &Surroundings) -> Vec<Finding> {
    let found = check(subject, surroundings).await;
    for finding in &found {
        let told = format!("{finding} {}", finding.json());
        for secret in [LISTEN_KEY, SEND_KEY, SECOND_KEY, NAMESPACE_KEY, "SharedAccessSignature", "sig="] {
            assert!(!told.contains(secret), "a secret is told: {told}");
        }
        assert_eq!(finding.status == Status::Ok, finding.code.is_none(), "{finding}");
    }
    found
}

/// The finding of a stage.
fn at(found: &[Finding], stage: Stage) -> &Finding {
    found.iter().find(|finding| finding.stage == stage).unwrap_or_else(|| panic!("nothing at {stage:?}: {found:?}"))
}

/// Everything before the last finding is well, and the last is this failure.
fn fails(found: &[Finding], stage: Stage, code: Code) -> &Finding {
    let (last, before) = found.split_last().unwrap();
    assert!(before.iter().all(|finding| finding.status != Status::Fail), "{found:?}");
    assert_eq!((last.status, last.stage, last.code), (Status::Fail, stage, Some(code)), "{found:?}");
    last
}

fn all_well(found: &[Finding]) {
    assert!(found.iter().all(|finding| finding.status == Status::Ok), "{found:#?}");
}

#[tokio::test]
async fn a_sound_listener_is_told_stage_by_stage() {
    let relay = Relay::new().await;
    let found = checked(&subject(format!("ws://{}/e", relay.address), Role::Listener, listening()), &straight()).await;
    all_well(&found);
    let stages: Vec<_> = found.iter().map(|finding| finding.stage).collect();
    use Stage::{Clock, Dns, Listeners, RoundTrip, Tcp, Token, Upgrade};
    assert_eq!(stages, [Dns, Tcp, Upgrade, Clock, Token, Listeners, RoundTrip]);
    assert_eq!(at(&found, Token).text, "Listen on e, and nothing else; 59 min left");
    assert!(at(&found, RoundTrip).text.ends_with(" ms over 2 channels"), "{found:?}");
    crate::support::until("the check has left", || {
        relay.context.metrics.encode().contains("active_listeners{entity=\"e\"} 0")
    })
    .await;
}

#[tokio::test]
async fn with_a_senders_credential_bytes_go_through_a_real_rendezvous() {
    let relay = Relay::new().await;
    let mut both = subject(format!("ws://{}/e", relay.address), Role::Listener, listening());
    both.other = Some(sending());
    let found = checked(&both, &straight()).await;
    all_well(&found);
    let text = &at(&found, Stage::RoundTrip).text;
    assert!(text.contains(" ms through a rendezvous, joined in ") && text.ends_with("; 2 channels"), "{text}");
    assert!(relay.context.metrics.encode().contains("active_senders{entity=\"e\"} 0"));
}

#[tokio::test]
async fn a_sound_sender_is_joined_with_whoever_listens() {
    let relay = Relay::new().await;
    let (target, _echo) = echo().await;
    let url = format!("ws://{}/e", relay.address);
    let listener = Listener::new(&url, "", &format!("{{ tcp: \"{target}\" }}"), None).await;
    listener.up().await;
    let found = checked(&subject(url, Role::Sender, sending()), &straight()).await;
    all_well(&found);
    assert_eq!(at(&found, Stage::Token).text, "Send on e, and nothing else; 59 min left");
    assert!(at(&found, Stage::RoundTrip).text.starts_with("a listener accepted in "), "{found:?}");
}

#[tokio::test]
async fn a_sender_without_listeners_and_one_whose_target_is_down_are_told_so() {
    let relay = Relay::new().await;
    let url = format!("ws://{}/e", relay.address);
    let alone = subject(&url, Role::Sender, sending());
    fails(&checked(&alone, &straight()).await, Stage::Listeners, Code::NoListener);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listener = Listener::new(&url, "", &format!("{{ tcp: \"{nobody}\" }}"), None).await;
    listener.up().await;
    let found = checked(&alone, &straight()).await;
    let finding = fails(&found, Stage::RoundTrip, Code::NoRoundTrip);
    assert!(finding.text.starts_with("refused: 502 The listener cannot reach its target"), "{finding}");
}

#[tokio::test]
async fn a_private_authority_is_well_where_it_alone_is_trusted_and_named_where_it_is_not() {
    let tls = relay_with_tls().await;
    let base = tls.relay.folder.path();
    let url = format!("sb://{}/e", tls.relay.address);
    let own = Trust { system: false, files: vec!["ca.pem".into()] };
    let trusting = Surroundings::new(Dialer::default(), own, base).unwrap();
    let found = checked(&subject(&url, Role::Listener, listening()), &trusting).await;
    all_well(&found);
    assert_eq!(at(&found, Stage::Tls).text, "certificate signed by \"test\", as `trust` says");

    std::fs::write(base.join("other.pem"), Authority::generate("other", DAY).unwrap().certificate).unwrap();
    let other = Trust { system: false, files: vec!["other.pem".into()] };
    let strange = Surroundings::new(Dialer::default(), other, base).unwrap();
    let found = checked(&subject(&url, Role::Listener, listening()), &strange).await;
    let finding = fails(&found, Stage::Tls, Code::Untrusted);
    assert!(finding.text.starts_with("certificate signed by \"test\": "), "{finding}");
    let found = checked(&subject(url, Role::Listener, listening()), &straight()).await;
    fails(&found, Stage::Tls, Code::Untrusted);
}

/// What `openssl req -x509` makes unless it is told otherwise: trusted as an authority, it is no server's all the same.
#[tokio::test]
async fn a_server_that_shows_the_certificate_of_an_authority_is_told_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let own = Authority::generate("localhost", DAY).unwrap();
    std::fs::write(folder.path().join("ca.pem"), &own.certificate).unwrap();
    let tls = ServerTls::from_pem(&own.certificate, own.key.expose(), &[b"http/1.1"]).unwrap().current();
    let (address, _serving) = serve(move |stream| {
        let tls = tls.clone();
        async move { drop(tokio_rustls::TlsAcceptor::from(tls).accept(stream).await) }
    })
    .await;
    let trust = Trust { system: false, files: vec!["ca.pem".into()] };
    let trusting = Surroundings::new(Dialer::default(), trust, folder.path()).unwrap();
    let found = checked(&subject(format!("sb://{address}/e"), Role::Listener, listening()), &trusting).await;
    let finding = fails(&found, Stage::Tls, Code::Untrusted);
    assert!(finding.text.ends_with("with basicConstraints=CA:FALSE"), "{finding}");
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The name of a relay that only a proxy resolves.
const HIDDEN: &str = "relay.factory.invalid";

async fn head<IO: AsyncRead + Unpin>(io: &mut IO) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Serves connections by a script, one task each.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(script(stream));
        }
    });
    (address, tasks)
}

/// A server that answers every request head with the same bytes, and keeps the connection.
async fn answering(answer: impl Into<String>) -> (SocketAddr, JoinSet<()>) {
    let answer: Arc<str> = answer.into().into();
    serve(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move { while !head(&mut stream).await.is_empty() && stream.write_all(answer.as_bytes()).await.is_ok() {} }
    })
    .await
}

/// A relay with TLS behind a name.
async fn hidden_relay(authority: &Authority) -> Relay {
    let folder = tempfile::tempdir().unwrap();
    let leaf = authority.issue(&leaf_request()).unwrap();
    std::fs::write(folder.path().join("tls.crt"), &leaf.certificate).unwrap();
    write_secret(&folder.path().join("tls.key"), leaf.key.expose());
    for (file, key) in [
        ("listen.key", LISTEN_KEY),
        ("send.key", SEND_KEY),
        ("second.key", SECOND_KEY),
        ("namespace.key", NAMESPACE_KEY),
    ] {
        write_secret(&folder.path().join(file), key);
    }
    let listen = "{ address: 127.0.0.1:0, tls: { cert: tls.crt, key: { file: tls.key } } }";
    let text = config(listen, "").replace("namespace: 127.0.0.1", &format!("namespace: {HIDDEN}"));
    Relay::again(folder, &text).await
}

fn leaf_request() -> LeafRequest {
    LeafRequest { name: "relay".into(), hosts: vec![HIDDEN.into()], uris: Vec::new(), life: DAY, client: false }
}

#[tokio::test]
async fn a_proxy_that_opens_tls_is_named_with_its_authority() {
    let (own, inspecting) =
        (Authority::generate("relay CA", DAY).unwrap(), Authority::generate("Corp Inspection CA", DAY).unwrap());
    let relay = hidden_relay(&own).await;
    let forged = inspecting.issue(&leaf_request()).unwrap();
    let forged = ServerTls::from_pem(&forged.certificate, forged.key.expose(), &[b"http/1.1"]).unwrap().current();
    let mut roots = rustls::RootCertStore::empty();
    let base = relay.folder.path();
    std::fs::write(base.join("relay.pem"), &own.certificate).unwrap();
    std::fs::write(base.join("corp.pem"), &inspecting.certificate).unwrap();
    let relays = Trust { system: false, files: vec!["relay.pem".into()] };
    roots.roots.extend(identity::tls::roots(&relays, base).unwrap().roots);
    let onward = identity::tls::client(roots, &[b"http/1.1"]);
    let there = relay.address;
    let (proxy, _serving) = serve(move |mut stream| {
        let (forged, onward) = (forged.clone(), onward.clone());
        async move {
            assert!(head(&mut stream).await.starts_with(&format!("CONNECT {HIDDEN}:443 ")));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let Ok(mut near) = tokio_rustls::TlsAcceptor::from(forged).accept(stream).await else { return };
            let far = TcpStream::connect(there).await.unwrap();
            let name = HIDDEN.try_into().unwrap();
            let mut far = tokio_rustls::TlsConnector::from(onward).connect(name, far).await.unwrap();
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
    })
    .await;
    let trusting = proxied(proxy, Trust { system: true, files: vec!["corp.pem".into()] }, base);
    let found = checked(&subject(format!("sb://{HIDDEN}/e"), Role::Listener, listening()), &trusting).await;
    let tls = at(&found, Stage::Tls);
    assert_eq!((tls.status, tls.code), (Status::Warn, Some(Code::Intercepted)), "{tls}");
    assert!(tls.text.contains("\"Corp Inspection CA\""), "{tls}");
    assert!(at(&found, Stage::Proxy).text.ends_with(" CONNECT allowed"));
    assert!(at(&found, Stage::Dns).text.ends_with(" is left to the proxy"));
    assert!(found.iter().all(|finding| finding.status != Status::Fail), "the rest works: {found:?}");

    // Nobody has made the inspecting authority trusted here: then it ends with its name.
    let strange = proxied(proxy, Trust { system: true, files: vec!["relay.pem".into()] }, base);
    let found = checked(&subject(format!("sb://{HIDDEN}/e"), Role::Listener, listening()), &strange).await;
    assert!(fails(&found, Stage::Tls, Code::Untrusted).text.contains("\"Corp Inspection CA\""));
}

#[tokio::test]
async fn a_name_without_an_address_and_a_closed_port_are_told_apart() {
    let unknown = subject("sb://relay.causeway.invalid/e", Role::Listener, listening());
    let trusting = |folder: &Path| {
        std::fs::write(folder.join("ca.pem"), Authority::generate("any", DAY).unwrap().certificate).unwrap();
        Surroundings::new(Dialer::default(), Trust { system: false, files: vec!["ca.pem".into()] }, folder).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    fails(&checked(&unknown, &trusting(folder.path())).await, Stage::Dns, Code::NameUnknown);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let found = checked(&subject(format!("ws://{closed}/e"), Role::Listener, listening()), &straight()).await;
    assert!(fails(&found, Stage::Tcp, Code::Unreachable).text.contains(&closed.to_string()));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_away_or_wants_a_login_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), Authority::generate("any", DAY).unwrap().certificate).unwrap();
    let hidden = subject(format!("sb://{HIDDEN}/e"), Role::Listener, listening());
    let trust = || Trust { system: false, files: vec!["ca.pem".into()] };
    for (answer, code, words) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", Code::ProxyFailed, "403 Forbidden"),
        ("HTTP/1.1 503 No Such Host\r\ncontent-length: 0\r\n\r\n", Code::ProxyFailed, "503 No Such Host"),
        ("HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", Code::ProxyLogin, "no user and password"),
        ("HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n", Code::ProxyLogin, "Negotiate"),
    ] {
        let (proxy, _serving) = answering(answer).await;
        let found = checked(&hidden, &proxied(proxy, trust(), folder.path())).await;
        let finding = fails(&found, Stage::Proxy, code);
        assert!(finding.text.contains(words) && finding.text.contains(&proxy.to_string()), "{finding}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    fails(&checked(&hidden, &proxied(gone, trust(), folder.path())).await, Stage::Proxy, Code::ProxyFailed);
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), Authority::generate("any", DAY).unwrap().certificate).unwrap();
    let trust = Trust { system: false, files: vec!["ca.pem".into()] };
    let trusting = Surroundings::new(Dialer::default(), trust, folder.path()).unwrap();
    let (plain, _serving) = serve(|mut stream| async move {
        let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n").await;
    })
    .await;
    let found = checked(&subject(format!("sb://{plain}/e"), Role::Listener, listening()), &trusting).await;
    fails(&found, Stage::Tls, Code::TlsFailed);
}

#[tokio::test]
async fn listeners_are_counted_where_the_relay_describes_the_hybrid_connection() {
    let relay = Relay::new().await;
    let there = relay.address;
    let (middle, _serving) = serve(move |mut near| async move {
        let asked = head(&mut near).await;
        if asked.to_ascii_lowercase().contains("x-process-at: servicebus") {
            assert!(
                asked.starts_with("GET /e?api-version=2016-07 ") && asked.contains("SharedAccessSignature"),
                "{asked}"
            );
            let entry = "<entry><content><HybridConnectionDescription><ListenerCount>3</ListenerCount>\
                         </HybridConnectionDescription></content></entry>";
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{entry}", entry.len());
            return near.write_all(answer.as_bytes()).await.unwrap();
        }
        let mut far = TcpStream::connect(there).await.unwrap();
        far.write_all(asked.as_bytes()).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await;
    })
    .await;
    let found = checked(&subject(format!("ws://{middle}/e"), Role::Listener, listening()), &straight()).await;
    all_well(&found);
    assert_eq!(at(&found, Stage::Listeners).text, "2 listeners are connected besides this check");
}

#[tokio::test]
async fn a_relay_of_ours_tells_a_listener_how_many_listen_beside_it() {
    let relay = Relay::new().await;
    let subject = subject(format!("ws://{}/e", relay.address), Role::Listener, listening());
    let found = checked(&subject, &straight()).await;
    assert_eq!(at(&found, Stage::Listeners).text, "0 listeners are connected besides this check");
    let _other = relay.listener().await;
    let found = checked(&subject, &straight()).await;
    assert_eq!(at(&found, Stage::Listeners).text, "1 listener is connected besides this check");
}

/// Hands requests on to a relay without what an upgrade needs, as a proxy of HTTP/1.0 does.
async fn stripping(relay: SocketAddr) -> (SocketAddr, JoinSet<()>) {
    serve(move |mut near| async move {
        let kept: String = head(&mut near)
            .await
            .lines()
            .filter(|line| !["connection:", "upgrade:"].iter().any(|name| line.to_ascii_lowercase().starts_with(name)))
            .map(|line| format!("{}\r\n", line.replace("HTTP/1.1", "HTTP/1.0")))
            .collect();
        let mut far = TcpStream::connect(relay).await.unwrap();
        far.write_all(kept.as_bytes()).await.unwrap();
        let _ = tokio::io::copy(&mut far, &mut near).await;
    })
    .await
}

#[tokio::test]
async fn a_path_that_takes_the_upgrade_away_is_named() {
    let relay = Relay::new().await;
    let (middle, _serving) = stripping(relay.address).await;
    let found = checked(&subject(format!("ws://{middle}/e"), Role::Listener, listening()), &straight()).await;
    fails(&found, Stage::Upgrade, Code::UpgradeStripped);
    for answer in ["HTTP/1.1 426 Upgrade Required\r\nVia: 1.0 old-proxy\r\ncontent-length: 0\r\n\r\n", ""] {
        let (middle, _serving) = answering_once(answer).await;
        let found = checked(&subject(format!("ws://{middle}/e"), Role::Listener, listening()), &straight()).await;
        let finding = fails(&found, Stage::Upgrade, Code::UpgradeStripped);
        assert_eq!(finding.text.contains("via \"1.0 old-proxy\""), !answer.is_empty(), "{finding}");
    }
}

/// Answers once and hangs up.
async fn answering_once(answer: &'static str) -> (SocketAddr, JoinSet<()>) {
    serve(move |mut stream| async move {
        head(&mut stream).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

#[tokio::test]
async fn what_is_no_relay_is_named_with_what_it_says_of_itself() {
    for answer in [
        "HTTP/1.1 302 Found\r\nLocation: http://login.hotel.example/\r\nServer: hotel\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nServer: hotel\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 403 Forbidden\r\nServer: hotel\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nServer: hotel\r\ncontent-length: 0\r\n\r\n",
    ] {
        let (other, _serving) = answering(answer).await;
        let found = checked(&subject(format!("ws://{other}/e"), Role::Listener, listening()), &straight()).await;
        assert!(fails(&found, Stage::Upgrade, Code::NotARelay).text.contains("answered by \"hotel\""), "{found:?}");
    }
    let (mail, _serving) = answering("220 mail.example.com ESMTP\r\n").await;
    let found = checked(&subject(format!("ws://{mail}/e"), Role::Listener, listening()), &straight()).await;
    fails(&found, Stage::Upgrade, Code::NotARelay);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_costs_its_time_and_no_more() {
    let (silent, _serving) = serve(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let found = checked(&subject(format!("ws://{silent}/e"), Role::Listener, listening()), &straight()).await;
    fails(&found, Stage::Upgrade, Code::Silent);
}

#[tokio::test]
async fn clocks_that_are_hours_apart_are_told_although_the_rest_is_asked() {
    let refusal = "HTTP/1.1 401 No. TrackingId:x\r\nDate: Tue, 24 Nov 2020 12:00:00 GMT\r\ncontent-length: 0\r\n\r\n";
    let (late, _serving) = answering(refusal).await;
    let found = checked(&subject(format!("ws://{late}/e"), Role::Listener, listening()), &straight()).await;
    let clock = at(&found, Stage::Clock);
    assert_eq!((clock.status, clock.code), (Status::Fail, Some(Code::ClockOff)));
    assert_eq!(at(&found, Stage::Token).code, Some(Code::TokenRefused));
}

#[tokio::test]
async fn a_wrong_key_and_the_other_sides_key_are_told_apart() {
    let relay = Relay::new().await;
    let url = format!("ws://{}/e", relay.address);
    for (role, credential, code, words) in [
        (Role::Listener, rule("listen", SECOND_KEY), Code::TokenRefused, "InvalidSignature"),
        (Role::Listener, rule("no-such-rule", LISTEN_KEY), Code::TokenRefused, "InvalidSignature"),
        (Role::Listener, sending(), Code::RightMissing, "right"),
        (Role::Sender, rule("send", LISTEN_KEY), Code::TokenRefused, "InvalidSignature"),
        (Role::Sender, listening(), Code::RightMissing, "right"),
    ] {
        let found = checked(&subject(&url, role, credential), &straight()).await;
        let finding = fails(&found, Stage::Token, code);
        assert!(finding.text.contains(words), "{finding}");
    }
}

#[tokio::test]
async fn a_credential_that_can_do_more_than_its_side_needs_is_named() {
    let relay = Relay::new().await;
    let url = format!("ws://{}/e", relay.address);
    let found = checked(&subject(&url, Role::Listener, rule("all", NAMESPACE_KEY)), &straight()).await;
    let finding = at(&found, Stage::Token);
    assert_eq!((finding.status, finding.code), (Status::Warn, Some(Code::RightExcess)), "{finding}");
    let expected = "Listen on e, and also Send and every hybrid connection of the namespace; 59 min left";
    assert_eq!(finding.text, expected);
    assert_eq!(at(&found, Stage::RoundTrip).status, Status::Ok, "it works all the same");
    let found = checked(&subject(&url, Role::Sender, rule("all", NAMESPACE_KEY)), &straight()).await;
    assert!(at(&found, Stage::Token).text.starts_with("Send on e, and also Listen and every "), "{found:?}");

    // Where anybody may send, a listener's key is not what allows it.
    let open = subject(format!("ws://{}/open", relay.address), Role::Listener, listening());
    all_well(&checked(&open, &straight()).await);
}

#[tokio::test]
async fn a_hybrid_connection_that_is_not_there_is_named() {
    let relay = Relay::new().await;
    let missing = subject(format!("ws://{}/no-such", relay.address), Role::Listener, rule("all", NAMESPACE_KEY));
    fails(&checked(&missing, &straight()).await, Stage::Token, Code::EntityUnknown);
    let missing = subject(format!("ws://{}/no-such", relay.address), Role::Sender, rule("all", NAMESPACE_KEY));
    fails(&checked(&missing, &straight()).await, Stage::Token, Code::EntityUnknown);
}

#[tokio::test]
async fn a_hybrid_connection_for_http_senders_alone_takes_no_rendezvous() {
    let text = config("{ address: 127.0.0.1:0 }", "").replace("  other:\n", "  other:\n    kind: http\n");
    let relay = Relay::with(&text).await;
    let sender = subject(format!("ws://{}/other", relay.address), Role::Sender, rule("send", SECOND_KEY));
    let found = checked(&sender, &straight()).await;
    assert_eq!(at(&found, Stage::Token).status, Status::Ok);
    assert!(fails(&found, Stage::RoundTrip, Code::NoRoundTrip).text.starts_with("refused: 501 "));
    all_well(
        &checked(
            &subject(format!("ws://{}/other", relay.address), Role::Listener, rule("listen", SECOND_KEY)),
            &straight(),
        )
        .await,
    );
}

#[tokio::test]
async fn a_hybrid_connection_with_too_few_places_is_told_by_channel() {
    let relay = Relay::new().await;
    let mut many = subject(format!("ws://{}/e", relay.address), Role::Listener, listening());
    many.channels = 4;
    let found = checked(&many, &straight()).await;
    let finding = fails(&found, Stage::Listeners, Code::ListenersFull);
    assert!(finding.text.starts_with("channel 4 of 4: "), "{finding}");
    many.channels = 3;
    assert!(at(&checked(&many, &straight()).await, Stage::RoundTrip).text.ends_with("over 3 channels"));
}

#[tokio::test]
async fn a_relay_that_is_busy_is_not_blamed_on_the_token() {
    let (busy, _serving) =
        answering("HTTP/1.1 503 Overloaded. TrackingId:x\r\nRetry-After: 5\r\ncontent-length: 0\r\n\r\n").await;
    let found = checked(&subject(format!("ws://{busy}/e"), Role::Listener, listening()), &straight()).await;
    assert!(fails(&found, Stage::Token, Code::Busy).text.contains("Overloaded"));
}

#[tokio::test]
async fn a_fixed_token_that_ends_soon_or_has_ended_is_told() {
    let relay = Relay::new().await;
    let url = format!("ws://{}/e", relay.address);
    let fixed = |expires: SystemTime| {
        let token = Secret::new(relay.token_until("listen", LISTEN_KEY, "e", expires));
        Credential::from(JoinLogin::Signature { token, expires })
    };
    let soon = subject(&url, Role::Listener, fixed(SystemTime::now() + Duration::from_secs(3600)));
    let found = checked(&soon, &straight()).await;
    let finding = at(&found, Stage::Token);
    assert_eq!((finding.status, finding.code), (Status::Warn, Some(Code::TokenEnds)), "{finding}");
    let ended = subject(&url, Role::Listener, fixed(SystemTime::now() - Duration::from_secs(1)));
    fails(&checked(&ended, &straight()).await, Stage::Token, Code::TokenEnds);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_told_where_the_token_is_wanted() {
    let relay = Relay::new().await;
    let folder = tempfile::tempdir().unwrap();
    write_secret(&folder.path().join("key"), LISTEN_KEY);
    let kept = CredentialConfig::Sas { rule: "listen".into(), key: SecretRef::File("key".into()) };
    let url = format!("ws://{}/e", relay.address);
    let credential = kept.open(&url.parse().unwrap(), folder.path(), &Context::new("causeway_test")).unwrap();
    std::fs::remove_file(folder.path().join("key")).unwrap();
    let lost = subject(url, Role::Listener, credential);
    fails(&checked(&lost, &straight()).await, Stage::Token, Code::TokenUnavailable);
}

#[tokio::test]
async fn a_token_for_azure_in_the_hands_of_another_relay_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let (signer, expires) = (Signer::generate("k"), SystemTime::now() + Duration::from_secs(3600));
    let expires = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let relay = Relay::new().await;
    let url = format!("ws://{}/e", relay.address);
    for (audience, is_warned) in [("https://relay.azure.net/", true), ("relay.example.com", false)] {
        let token = signer.sign(&json!({ "aud": audience, "exp": expires }));
        write_secret(&folder.path().join("token"), token.expose());
        let config = json!({ "entra": { "source": "file", "path": "token" } });
        let config: CredentialConfig = serde_json::from_value(config).unwrap();
        let credential = config.open(&url.parse().unwrap(), folder.path(), &Context::new("causeway_test")).unwrap();
        let found = checked(&subject(&url, Role::Listener, credential), &straight()).await;
        let warned =
            found.iter().any(|finding| (finding.stage, finding.code) == (Stage::Token, Some(Code::AzureToken)));
        assert_eq!(warned, is_warned, "{found:?}");
    }
}

/// A relay that lets a listener in and says nothing any more, or hangs up when it is asked.
async fn mute(hangs_up: bool) -> (SocketAddr, JoinSet<()>) {
    serve(move |mut stream| async move {
        let head = head(&mut stream).await;
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-Websocket-Key: ")).unwrap_or_default();
        if !head.contains("Servicebusauthorization: ") || !head.contains("action=listen") {
            let _ = stream.write_all(b"HTTP/1.1 401 No. TrackingId:x\r\ncontent-length: 0\r\n\r\n").await;
            return;
        }
        let accept = proto::ws::handshake::accept_for(key.as_bytes());
        let open = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(open.as_bytes()).await.unwrap();
        let _ = stream.read_u8().await;
        if !hangs_up {
            swallow(stream).await;
        }
    })
    .await
}

async fn swallow(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink).await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_without_a_pong_is_a_warning_and_one_that_breaks_a_failure() {
    let (relay, _serving) = mute(false).await;
    let found = checked(&subject(format!("ws://{relay}/e"), Role::Listener, listening()), &straight()).await;
    let finding = at(&found, Stage::RoundTrip);
    assert_eq!((finding.status, finding.code), (Status::Warn, Some(Code::NoRoundTrip)), "{finding}");
    let (relay, _serving) = mute(true).await;
    let found = checked(&subject(format!("ws://{relay}/e"), Role::Listener, listening()), &straight()).await;
    fails(&found, Stage::RoundTrip, Code::NoRoundTrip);
}
