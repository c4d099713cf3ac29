//! The sender as a library, and join strings for both sides.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use daemon::{config::load, process::Context};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue};
use relay::{
    dial::Dialer,
    sender::{Address, Connected, Credential, DIAL_TIMEOUT, DialError, Join, Request, Sender},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    listener::{echo, plain_tls},
    support::{LISTEN_KEY, Relay, SEND_KEY, dial_address, until, write_secret},
};

fn sender() -> Sender {
    Sender::new(Dialer::default(), plain_tls())
}

fn credential() -> Credential {
    Credential::rule("send", identity::secret::Secret::new(SEND_KEY))
}

fn address(relay: &Relay) -> Address {
    format!("ws://{}/e", relay.address).parse().unwrap()
}

#[tokio::test]
async fn a_senders_fields_and_protocols_reach_the_listener_and_bytes_come_back() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let mut headers = HeaderMap::new();
    headers.insert("x-of-ours", HeaderValue::from_static("a"));
    // What belongs to the handshake is not the caller's to say.
    headers.insert("upgrade", HeaderValue::from_static("nonsense"));
    let request = Request { protocols: &["p1", "p2"], headers, ..Request::default() };
    let (connected, accepted) =
        tokio::join!(async { sender().dial(&address(&relay), &credential(), request).await }, async {
            let accept = control.accept().await;
            let fields = accept["connectHeaders"].as_object().unwrap();
            let field = |name: &str| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).unwrap().1.clone();
            assert_eq!(
                (field("x-of-ours"), field("sec-websocket-protocol"), field("upgrade")),
                ("a".into(), "p1, p2".into(), "websocket".into())
            );
            let url = accept["address"].as_str().unwrap();
            dial_address(url, &[("Sec-WebSocket-Protocol", "p2")]).await.unwrap()
        });
    let (Connected { mut stream, protocol, .. }, mut accepted) = (connected.unwrap(), accepted);
    assert_eq!(protocol.as_deref(), Some("p2"));
    accepted.send(Message::binary(b"hello".to_vec())).await.unwrap();
    accepted.send(Message::text(" and words")).await.unwrap();
    let mut bytes = [0; 15];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello and words");
}

#[tokio::test]
async fn a_refusal_comes_with_the_listeners_status_and_words() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let (dialled, ()) =
        tokio::join!(async { sender().dial(&address(&relay), &credential(), Request::default()).await }, async {
            let url = control.address().await;
            let url = format!("{url}&sb-hc-statusCode=450&sb-hc-statusDescription=not%20today");
            assert_eq!(crate::support::refused(dial_address(&url, &[]).await), 410);
        });
    let error = dialled.unwrap_err();
    let (status, reason) = error.refusal().unwrap();
    assert!(status == 450 && reason.starts_with("not today"), "{status} {reason}");
}

#[tokio::test]
async fn a_relay_that_does_not_answer_ends_the_dial_at_its_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}/e", silent.local_addr().unwrap()).parse().unwrap();
    let limit = Duration::from_millis(50);
    let (dialled, _held) = tokio::join!(
        async { sender().with_timeout(limit).dial(&address, &credential(), Request::default()).await },
        silent.accept()
    );
    assert!(matches!(dialled, Err(DialError::TooSlow(time)) if time == limit));
    assert!(DIAL_TIMEOUT > Duration::from_secs(30 + 20), "a relay's own answer comes after 30 s at the latest");
}

/// A relay of one sentence: takes one handshake, answers it with these fields, and gives the request's head.
async fn scripted(relay: &TcpListener, fields: &str) -> (TcpStream, String) {
    let (mut stream, _) = relay.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-Websocket-Key: ")).unwrap();
    let accept = proto::ws::handshake::accept_for(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    (stream, head)
}

#[tokio::test]
async fn the_listener_is_named_when_the_relay_names_it_and_others_can_be_asked_for() {
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = format!("ws://{}/e", relay.local_addr().unwrap()).parse().unwrap();
    let ours = "0f0e0d0c-1111-2222-3333-444455556666_G0";
    let long = "a".repeat(129);
    let long_field = format!("Causeway-Listener: {long}\r\n");
    let field = format!("causeway-listener: {ours}\r\n");
    for (fields, expected) in [
        (field.as_str(), Some(ours)),
        ("", None),
        ("Causeway-Listener: \r\n", None),
        ("Causeway-Listener: a,b\r\n", None),
        (long_field.as_str(), None),
    ] {
        let (connected, _) = tokio::join!(
            async { sender().dial(&address, &credential(), Request::default()).await },
            scripted(&relay, fields)
        );
        assert_eq!(connected.unwrap().listener.as_deref(), expected, "{fields}");
    }
    let avoid = [ours.to_owned(), "other".to_owned()];
    let request = Request { avoid: &avoid, ..Request::default() };
    let (connected, (_, head)) =
        tokio::join!(async { sender().dial(&address, &credential(), request).await }, scripted(&relay, ""));
    connected.unwrap();
    assert!(head.contains(&format!("\r\nMicrosoft-Relay-Disallowedlisteners: {ours},other\r\n")), "{head}");
}

#[tokio::test]
async fn a_relay_of_ours_names_the_listener_to_a_connector_and_takes_it_past_one() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    // Whatever the listener chooses: a thief would choose nothing.
    for chosen in [&[("Sec-WebSocket-Protocol", "causeway.v1")][..], &[]] {
        let request = Request { protocols: &["causeway.v1"], ..Request::default() };
        let (connected, _accepted) =
            tokio::join!(async { sender().dial(&address(&relay), &credential(), request).await }, async {
                dial_address(&control.address().await, chosen).await.unwrap()
            });
        assert_eq!(connected.unwrap().listener.as_deref(), Some("listener-1"));
    }
    let (connected, _accepted) =
        tokio::join!(async { sender().dial(&address(&relay), &credential(), Request::default()).await }, async {
            dial_address(&control.address().await, &[]).await.unwrap()
        });
    assert_eq!(connected.unwrap().listener, None, "other senders are not told who listens");
    let avoid = ["listener-1".to_owned()];
    let request = Request { protocols: &["causeway.v1"], avoid: &avoid, ..Request::default() };
    let refused = sender().dial(&address(&relay), &credential(), request).await.unwrap_err();
    let (status, reason) = refused.refusal().unwrap();
    assert!(status == 404 && reason.contains("DisallowedListeners"), "{status} {reason}");
}

#[tokio::test]
async fn one_join_string_for_each_side_is_all_that_listener_and_sender_need() {
    let relay = Relay::new().await;
    let (target, _echo) = echo().await;
    let folder = tempfile::tempdir().unwrap();
    let join = |rule: &str, key: &str| {
        format!("Endpoint=ws://{}/;SharedAccessKeyName={rule};SharedAccessKey={key};EntityPath=e", relay.address)
    };
    write_secret(&folder.path().join("listen.join"), &join("listen", LISTEN_KEY));
    let file = folder.path().join("listener.yaml");
    let text = format!(
        "hybrid_connections: [{{ join: {{ file: listen.join }}, forward: {{ tcp: \"{target}\" }} }}]\n\
         trust: {{ system: false }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let listening = relay::listen::start(load(&file, &[]).unwrap(), Context::new("causeway_listener")).await.unwrap();
    until("both control channels are up", || listening.channels() == 2).await;

    let joined = Join::parse(&join("send", SEND_KEY)).unwrap();
    let token = relay.send_token();
    let end = daemon::clock::Clock::now(&*relay.clock).duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(600);
    let signed =
        Join::parse(&format!("Endpoint=ws://{}/;SharedAccessSignature={token};EntityPath=e", relay.address)).unwrap();
    for (join, expires) in [(joined, None), (signed, Some(UNIX_EPOCH + Duration::from_secs(end.as_secs())))] {
        let credential = Credential::from(join.login);
        let minted = credential.mint(&join.address).await.unwrap();
        assert!(expires.is_none_or(|expires| minted.expires == expires) && minted.expires > SystemTime::now());
        let mut stream = sender().dial(&join.address, &credential, Request::default()).await.unwrap().stream;
        stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    }
}

#[tokio::test]
async fn a_join_string_that_cannot_be_used_stops_the_start_and_shows_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("listener.yaml");
    std::fs::write(
        &file,
        "hybrid_connections: [{ join: { file: a.join }, forward: { tcp: \"a:1\" } }]\ntrust: { system: false }\n",
    )
    .unwrap();
    for (text, expected) in [
        ("Endpoint=sb://ns/;SharedAccessKeyName=r;SharedAccessKey=hunter2;EntityPath=e", "fewer than 128 bits"),
        ("Endpoint=sb://ns/;SharedAccessKeyName=r;SharedAccessKey=hunter2", "EntityPath"),
        ("hunter2", "holds no join string"),
    ] {
        write_secret(&folder.path().join("a.join"), text);
        let context = Context::new("causeway_listener");
        let error = relay::listen::start(load(&file, &[]).unwrap(), context).await.unwrap_err();
        let said = daemon::process::explain(&error);
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_listener_closes_it() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    let (connected, accepted) =
        tokio::join!(async { sender().dial(&address(&relay), &credential(), Request::default()).await }, async {
            dial_address(&control.address().await, &[]).await.unwrap()
        });
    let (mut stream, mut accepted) = (connected.unwrap().stream, accepted);
    accepted.close(None).await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(rest.is_empty() && accepted.next().await.is_none_or(|message| message.is_ok()));
}
