//! Proxies that answer by a script, over real sockets.
use std::{net::SocketAddr, path::Path, time::Duration};

use daemon::config::SecretRef;
use identity::{
    ca::{Authority, LeafRequest},
    tls::{ServerTls, Trust},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A destination that only a proxy could find.
const DESTINATION: &str = "relay.factory.invalid";

fn nobody() -> Trust {
    Trust { system: false, files: Vec::new() }
}

fn settings(url: String) -> ProxySettings {
    ProxySettings { url, user: None, password: None, no_proxy: Vec::new(), trust: None }
}

fn dialer(settings: ProxySettings) -> Dialer {
    Dialer::open(&ProxyConfig::Settings(Box::new(settings)), &nobody(), Path::new(".")).unwrap()
}

async fn listen() -> (TcpListener, Dialer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = dialer(settings(format!("http://{}", listener.local_addr().unwrap())));
    (listener, dialer)
}

async fn head<IO: tokio::io::AsyncRead + Unpin>(io: &mut IO) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Dials through a proxy that answers with these bytes; gives what came of it and what the proxy was asked.
async fn through(answer: &[u8]) -> (Result<Carrier, ReachError>, String) {
    let (listener, dialer) = listen().await;
    with(&listener, &dialer, answer).await
}

async fn with(listener: &TcpListener, dialer: &Dialer, answer: &[u8]) -> (Result<Carrier, ReachError>, String) {
    let proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        // A client that has seen enough may have hung up.
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
        head
    };
    tokio::join!(dialer.connect(DESTINATION, 8443), proxy)
}

async fn refusal(answer: &[u8]) -> ProxyError {
    match through(answer).await.0 {
        Err(ReachError::Proxy(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_proxy_is_asked_for_the_name_and_its_next_bytes_are_the_destinations() {
    for answer in [
        "HTTP/1.1 200 Connection established\r\n\r\nfirst",
        "HTTP/1.0 200 OK\r\nVia: x\r\ncontent-length: 9\r\n\r\nfirst",
    ] {
        let (carrier, head) = through(answer.as_bytes()).await;
        let mut carrier = carrier.unwrap();
        assert!(head.starts_with("CONNECT relay.factory.invalid:8443 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nHost: relay.factory.invalid:8443\r\n"), "{head}");
        assert!(!head.contains("Proxy-Authorization"), "{head}");
        assert!(carrier.peer().is_none());
        let mut bytes = [0; 2];
        carrier.read_exact(&mut bytes).await.unwrap();
        let mut rest = String::new();
        carrier.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&bytes, rest.as_str()), (b"fi", "rst"));
    }
}

#[tokio::test]
async fn bytes_pass_both_ways() {
    let (listener, dialer) = listen().await;
    let proxy = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    };
    let client = async {
        let mut carrier = dialer.connect(DESTINATION, 443).await.unwrap();
        carrier.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        carrier.read_exact(&mut bytes).await.unwrap();
        bytes
    };
    assert_eq!(tokio::join!(client, proxy).0, *b"ping");
}

#[tokio::test]
async fn a_proxy_that_wants_a_login_is_answered_with_basic_and_with_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let (listener, _) = listen().await;
    let mut with_login = settings(format!("http://{}", listener.local_addr().unwrap()));
    with_login.user = Some("cause".to_owned());
    with_login.password = Some(SecretRef::FileReadableByOthers(password.clone()));
    let dialer = dialer(with_login);
    let (_, head) = with(&listener, &dialer, b"HTTP/1.1 200 OK\r\n\r\n").await;
    // base64 of cause:hunter2
    assert!(head.contains("\r\nProxy-Authorization: Basic Y2F1c2U6aHVudGVyMg==\r\n"), "{head}");
    assert!(!format!("{dialer:?}").contains("hunter2"));

    std::fs::write(&password, "hunter3\n").unwrap();
    let denied = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\ncontent-length: 0\r\n\r\n";
    let (refused, head) = with(&listener, &dialer, denied).await;
    assert!(head.contains("Basic Y2F1c2U6aHVudGVyMw==\r\n"), "a changed password is read again: {head}");
    let Err(ReachError::Proxy(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error, ProxyError::LoginRefused { .. }) && error.is_login(), "{error}");
    assert!(!format!("{error:?}{error}").contains("hunter"));
}

#[tokio::test]
async fn the_login_of_the_environment_is_sent_decoded_and_never_shown() {
    let (listener, _) = listen().await;
    let url = format!("http://c%40use:hunter2@{}", listener.local_addr().unwrap());
    let read = |name: &str| (name == "HTTPS_PROXY").then(|| url.clone().into());
    let (proxy, except) = from_environment(read, &nobody(), Path::new(".")).unwrap();
    let dialer = Dialer { proxy: proxy.map(Arc::new), except: Arc::new(except) };
    let (_, head) = with(&listener, &dialer, b"HTTP/1.1 200 OK\r\n\r\n").await;
    // base64 of c@use:hunter2
    assert!(head.contains("Basic Y0B1c2U6aHVudGVyMg=="), "{head}");
    assert!(!format!("{dialer:?}{}", dialer.proxy().unwrap()).contains("hunter2"));
}

#[tokio::test]
async fn refusals_say_what_the_proxy_wants() {
    let wanted = refusal(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, Basic realm=\"a, b\"\r\n\r\n").await;
    assert!(matches!(wanted, ProxyError::LoginWanted { .. }), "{wanted}");
    let bare = refusal(b"HTTP/1.1 407 No\r\n\r\n").await;
    assert!(matches!(bare, ProxyError::LoginWanted { .. }), "{bare}");
    let scheme = refusal(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n").await;
    assert!(scheme.to_string().contains("Negotiate, NTLM") && scheme.is_login(), "{scheme}");
    let refused = refusal(b"HTTP/1.1 403 Not this\xff one\r\ncontent-length: 3\r\n\r\nno!").await;
    assert!(matches!(refused, ProxyError::Refused { status: 403, .. }) && !refused.is_unreachable(), "{refused}");
    assert!(refused.to_string().is_ascii(), "{refused}");
    assert!(refusal(b"HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n").await.is_unreachable());
    for status in ["101 Switching Protocols", "204 No Content", "301 Moved"] {
        let error = refusal(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
        assert!(!matches!(error, ProxyError::Broken { .. }), "{status}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_or_no_answer_is_named() {
    assert!(matches!(refusal(b"SSH-2.0-x\r\n\r\n").await, ProxyError::NotHttp { .. }));
    assert!(matches!(refusal(b"").await, ProxyError::Broken { .. }));
    assert!(matches!(refusal(b"HTTP/1.1 200 OK\r\n").await, ProxyError::Broken { .. }));
}

#[tokio::test]
async fn an_endless_head_ends_at_its_limit() {
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    while endless.len() < 2 * proto::ws::handshake::HEAD_MAX {
        endless.extend_from_slice(b"X-Y: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
    }
    assert!(matches!(refusal(&endless).await, ProxyError::NotHttp { .. }));
    let one_line = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 64 * 1024]].concat();
    assert!(matches!(refusal(&one_line).await, ProxyError::NotHttp { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_costs_no_more_than_its_deadline() {
    let (listener, dialer) = listen().await;
    let began = tokio::time::Instant::now();
    let (connected, _held) = tokio::join!(dialer.connect(DESTINATION, 443), listener.accept());
    assert!(matches!(connected, Err(ReachError::Proxy(ProxyError::Silent { .. }))));
    assert!(began.elapsed() >= proxy::ANSWER_DEADLINE && began.elapsed() < proxy::ANSWER_DEADLINE * 2);
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_blamed_and_not_the_destination() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = dialer(settings(format!("http://{free}"))).connect(DESTINATION, 443).await.unwrap_err();
    assert!(matches!(gone, ReachError::Proxy(ProxyError::Connect { .. })) && gone.is_unreachable(), "{gone}");
    let unknown = dialer(settings("http://proxy.invalid:3128".to_owned())).connect(DESTINATION, 443).await.unwrap_err();
    assert!(matches!(unknown, ReachError::Proxy(ProxyError::Resolve { .. })) && unknown.is_unreachable(), "{unknown}");
}

#[tokio::test]
async fn loopback_and_exceptions_never_reach_the_proxy() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    // Nobody listens where the proxy should be.
    let dialer = dialer(settings("http://proxy.invalid:3128".to_owned()));
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
        let (connected, accepted) = tokio::join!(dialer.connect(host, port), target.accept());
        accepted.unwrap();
        assert!(connected.unwrap().peer().is_some(), "{host}");
    }
    let mut excepted = settings("http://proxy.invalid:3128".to_owned());
    excepted.no_proxy = vec![".invalid".to_owned()];
    let route = super::tests::dialer(excepted).route(DESTINATION, 443).await;
    assert!(matches!(route, Err(ReachError::Resolve { .. })), "resolved here: {route:?}");
}

#[tokio::test]
async fn without_a_proxy_the_destination_is_dialled() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = target.local_addr().unwrap();
    for dialer in [Dialer::default(), Dialer::open(&ProxyConfig::None, &nobody(), Path::new(".")).unwrap()] {
        let route = dialer.route("127.0.0.1", address.port()).await.unwrap();
        assert_eq!(route.addresses(), Some([address].as_slice()));
        assert!(route.proxy().is_none() && dialer.proxy().is_none());
        let (connected, _) = tokio::join!(route.connect(), target.accept());
        assert_eq!(connected.unwrap().peer(), Some(address));
    }
}

#[tokio::test]
async fn an_address_that_refuses_leaves_it_to_the_next_up_to_a_limit() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = target.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut addresses = vec![closed; ADDRESSES_MAX - 1];
    addresses.push(open);
    let (connected, _) = tokio::join!(first_of(&addresses), target.accept());
    assert_eq!(connected.unwrap().peer_addr().unwrap(), open);
    addresses.insert(0, closed);
    assert_eq!(first_of(&addresses).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn nothing_that_is_no_host_reaches_a_request_line() {
    let dialer = dialer(settings("http://proxy.invalid:3128".to_owned()));
    let long = "a".repeat(256);
    for host in ["a\r\nX: y", "a b", "a:80", "a/b", "a@b", "[::1]", "", "a\u{e9}", "%0d%0a", "::1%eth0", &long] {
        assert!(matches!(dialer.route(host, 443).await, Err(ReachError::Host)), "{host:?}");
    }
    assert!(dialer.route(&long[..255], 443).await.is_ok());
}

#[tokio::test]
async fn an_https_proxy_is_spoken_to_in_tls_with_the_trust_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::generate("proxy CA", Duration::from_secs(3600)).unwrap();
    std::fs::write(folder.path().join("ca.pem"), &authority.certificate).unwrap();
    let leaf = authority
        .issue(&LeafRequest {
            name: "proxy".into(),
            hosts: vec!["127.0.0.1".into()],
            uris: Vec::new(),
            life: Duration::from_secs(3600),
            client: false,
        })
        .unwrap();
    let server = ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), &[b"http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let accept = async || {
        let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(server.current()).accept(stream).await
    };

    let mut trusted = settings(url.clone());
    trusted.trust = Some(Trust { system: false, files: vec!["ca.pem".into()] });
    let trusted = Dialer::open(&ProxyConfig::Settings(Box::new(trusted)), &nobody(), folder.path()).unwrap();
    let proxy = async {
        let mut stream = accept().await.unwrap();
        let head = head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").await.unwrap();
        stream.shutdown().await.unwrap();
        head
    };
    let (carrier, head) = tokio::join!(trusted.connect(DESTINATION, 443), proxy);
    let mut said = String::new();
    carrier.unwrap().read_to_string(&mut said).await.unwrap();
    assert!(head.starts_with("CONNECT relay.factory.invalid:443 "), "{head}");
    assert_eq!(said, "hello");

    let strange = Dialer::open(&ProxyConfig::Settings(Box::new(settings(url))), &nobody(), folder.path()).unwrap();
    let (refused, _) = tokio::join!(strange.connect(DESTINATION, 443), accept());
    assert!(matches!(refused, Err(ReachError::Proxy(ProxyError::Untrusted { .. }))), "{refused:?}");
}

#[test]
fn a_section_that_cannot_work_is_refused_with_its_key() {
    let open = |settings: ProxySettings| {
        Dialer::open(&ProxyConfig::Settings(Box::new(settings)), &nobody(), Path::new(".")).unwrap_err().to_string()
    };
    let url = |url: &str| open(settings(url.to_owned()));
    for wrong in
        ["", "proxy", "ftp://proxy", "http://proxy/path", "http://proxy:0", "http://pro xy", "socks5://proxy:1"]
    {
        assert!(url(wrong).contains("proxy.url: "), "{wrong}");
    }
    let with_login = url("http://user:hunter2@proxy:1");
    assert!(with_login.contains("`password: { file: … }`") && !with_login.contains("hunter2"), "{with_login}");
    let half = |user: Option<&str>, password: Option<SecretRef>| {
        let user = user.map(str::to_owned);
        open(ProxySettings { user, password, ..settings("http://proxy".to_owned()) })
    };
    assert!(half(Some("u"), None).contains("proxy.password: "));
    assert!(half(None, Some(SecretRef::Env("HOME".to_owned()))).contains("proxy.user: "));
    assert!(half(Some("u:v"), Some(SecretRef::Env("HOME".to_owned()))).contains("proxy.user: "));
    assert!(half(Some("u"), Some(SecretRef::Env("CAUSEWAY_NOT_SET".to_owned()))).contains("proxy.password: "));
    let no_proxy = vec!["10.0.0.0/99".to_owned()];
    let list = open(ProxySettings { no_proxy, ..settings("http://proxy".to_owned()) });
    assert!(list.contains("proxy.no_proxy: ") && list.contains("10.0.0.0/99"), "{list}");
}
