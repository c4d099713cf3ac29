//! `relay listen` with an HTTP target: from a relay played by the test to a server played by the test.
use std::{io, net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use identity::{
    ca::{Authority, LeafRequest},
    tls::ServerTls,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    listener::{Listener, echo},
    script::{Frames, Script, body, close, command, next, response, say},
    support::{LIMIT, until},
};

/// An HTTP server in raw text.
pub(crate) struct Target {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

/// One connection to it.
pub(crate) struct Connection<IO>(IO);

impl Target {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    pub(crate) async fn accept(&self) -> Connection<TcpStream> {
        let accepted = tokio::time::timeout(LIMIT, self.listener.accept()).await.expect("somebody connects");
        Connection(accepted.unwrap().0)
    }

    /// Nobody has connected and not been taken yet.
    pub(crate) async fn is_untouched(&self) -> bool {
        tokio::select! { biased; _ = self.listener.accept() => false, () = std::future::ready(()) => true }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// Reads until what was read ends so.
    async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = tokio::time::timeout(LIMIT, self.0.read_u8()).await.expect("something comes");
            read.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&read))));
        }
        String::from_utf8(read).unwrap()
    }

    /// The head of the next request, its lines in order of their letters.
    async fn head(&mut self) -> Vec<String> {
        let head = self.until("\r\n\r\n").await;
        let mut lines: Vec<String> = head.trim_end().split("\r\n").map(str::to_owned).collect();
        lines[1..].sort();
        lines
    }

    async fn reply(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// How the connection ends, when nothing more comes.
    async fn end(mut self) -> io::Result<usize> {
        let mut rest = Vec::new();
        tokio::time::timeout(LIMIT, self.0.read_to_end(&mut rest)).await.expect("an end comes")
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A listener with one channel, whose requests go to `url`; `http` says how.
async fn forwarding(script: &Script, url: &str, http: &str) -> Listener {
    let more = format!("channels: 1\n    http: {{ {http} }}");
    Listener::new(&script.url(), &more, &format!("{{ http: \"{url}\" }}"), None).await
}

#[tokio::test]
async fn a_request_reaches_its_target_with_its_name_removed_and_its_sender_named() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    let headers = json!({
        "Host": "ns.example.com", "Via": "1.1 ns.example.com", "X-Forwarded-For": "10.0.0.1", "Cookie": "a=1",
        "Connection": "X-Mine", "X-Mine": "1", "Authorization": "Bearer of-the-application",
    });
    say(&mut control, &script.request("r", json!({ "requestHeaders": headers }))).await;
    let mut connection = target.accept().await;
    assert_eq!(
        connection.head().await,
        [
            "GET /path?q=1 HTTP/1.1",
            "authorization: Bearer of-the-application",
            "cookie: a=1",
            "forwarded: for=\"203.0.113.9:4711\";host=\"ns.example.com\";proto=http",
            &format!("host: {}", target.address),
            "via: 1.1 ns.example.com",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: ns.example.com",
            "x-forwarded-proto: http",
            "x-real-ip: 203.0.113.9",
        ]
    );
    connection
        .reply("HTTP/1.1 201 Made It\r\nConnection: keep-alive\r\nContent-Length: 2\r\nLocation: /x\r\n\r\nok")
        .await;
    let (head, said) = response(&mut control).await;
    assert_eq!(head["statusCode"], 201);
    assert_eq!(head["statusDescription"], "Made It");
    assert_eq!(head["responseHeaders"], json!({ "location": "/x" }));
    assert_eq!(said, "ok");
}

#[tokio::test]
async fn name_base_and_host_are_what_the_owner_wants() {
    let (script, target) = (Script::new().await, Target::new().await);
    let url = format!("http://{}/base", target.address);
    let _listener = forwarding(&script, &url, "keep_name: true, host: sender").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let head = target.accept().await.head().await;
    assert_eq!(head[0], "GET /base/e/path?q=1 HTTP/1.1");
    assert!(head.contains(&"host: ns.example.com".to_owned()), "{head:?}");
}

#[tokio::test]
async fn a_connection_is_used_again_until_the_target_closes_it() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({}))).await;
    let mut connection = target.accept().await;
    for id in ["r2", "r3"] {
        connection.head().await;
        connection.reply(OK).await;
        assert_eq!(response(&mut control).await.1, "ok");
        say(&mut control, &script.request(id, json!({}))).await;
    }
    // Closed just when the next request is on its way, which is asked for once more.
    connection.head().await;
    drop(connection);
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply(OK).await;
    assert_eq!(response(&mut control).await.0["requestId"], "r3");
}

/// Targets that speak NTLM or Negotiate remember who authenticated on a connection.
#[tokio::test]
async fn nobody_is_taken_for_the_sender_that_authenticated_a_connection_before() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    for (scheme, reply) in [
        ("NTLM TlRMTVNTUAAD", OK),
        ("Negotiate YIIKZQYGKwYBBQUC", "HTTP/1.1 204 No Content\r\nPersistent-Auth: true\r\n\r\n"),
    ] {
        let headers = json!({ "Host": "ns.example.com", "Authorization": scheme });
        say(&mut control, &script.request("known", json!({ "requestHeaders": headers }))).await;
        let mut authenticated = target.accept().await;
        authenticated.head().await;
        authenticated.reply(reply).await;
        response(&mut control).await;
        say(&mut control, &script.request("stranger", json!({}))).await;
        let mut fresh = target.accept().await;
        fresh.head().await;
        assert_eq!(authenticated.end().await.unwrap(), 0, "{scheme}: nothing more came on it");
        fresh.reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(response(&mut control).await.0["requestId"], "stranger");
    }
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply(OK).await;
    response(&mut control).await;
    say(&mut control, &script.request("r2", json!({ "method": "POST" }))).await;
    connection.head().await;
    drop(connection);
    let (head, said) = response(&mut control).await;
    assert_eq!((head["statusCode"].as_u64(), said.trim()), (Some(502), "The target broke off before it answered"));
    assert!(target.is_untouched().await);
}

#[tokio::test]
async fn redirects_are_the_senders_business_and_interim_answers_are_nobodys() {
    let (script, target) = (Script::new().await, Target::new().await);
    let elsewhere = Target::new().await;
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    let location = format!("http://{}/", elsewhere.address);
    connection
        .reply(&format!(
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
    let (head, _) = response(&mut control).await;
    assert_eq!(
        (head["statusCode"].as_u64(), head["responseHeaders"]["location"].as_str()),
        (Some(302), Some(&*location))
    );
    assert!(elsewhere.is_untouched().await);
}

#[tokio::test]
async fn a_target_that_switches_protocols_unasked_has_not_answered() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(response(&mut control).await.0["statusCode"], 502);
}

#[tokio::test]
async fn a_target_that_is_down_is_a_502_that_says_so() {
    let (script, target) = (Script::new().await, Target::new().await);
    let address = target.address;
    drop(target);
    let listener = forwarding(&script, &format!("http://{address}"), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let (head, said) = response(&mut control).await;
    assert_eq!(head["statusCode"], 502);
    assert_eq!(head["statusDescription"], "The listener cannot reach its target (connection refused)");
    assert!(!said.contains(&address.port().to_string()), "the target's address is nobody's business");
    let metrics = listener.context.metrics.encode();
    assert!(metrics.contains("requests_total{outcome=\"target_down\",by=\"control\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_target_that_is_silent_is_a_504_and_its_connection_is_given_up() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "answer_within: 100ms").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    assert_eq!(response(&mut control).await.0["statusCode"], 504);
    assert_eq!(connection.end().await.unwrap(), 0);
}

#[tokio::test]
async fn a_target_that_dies_in_its_answer_is_an_error_or_an_abrupt_end_and_never_the_whole() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    drop(connection);
    assert_eq!(response(&mut control).await.0["statusCode"], 502);
    say(&mut control, &script.request("r2", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let mut rendezvous = Frames::of(script.rendezvous("r2").await);
    rendezvous.text().await;
    rendezvous.bytes(b"half").await;
    drop(connection);
    assert_eq!(rendezvous.next().await.unwrap_err(), "connection lost");
}

#[tokio::test]
async fn events_of_a_target_reach_the_relay_one_by_one() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("events", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut rendezvous = Frames::of(script.rendezvous("events").await);
    assert_eq!(rendezvous.text().await["response"]["responseHeaders"]["content-type"], "text/event-stream");
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        connection.reply(&format!("{:x}\r\n{event}\r\n", event.len())).await;
        rendezvous.bytes(event.as_bytes()).await;
    }
    // The sender has had enough: the target learns it.
    rendezvous.close(1001).await;
    assert_eq!(connection.end().await.unwrap(), 0);
}

#[tokio::test]
async fn a_body_by_rendezvous_is_put_to_the_target_as_it_comes() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &json!({ "request": { "address": script.rendezvous_address("big") } })).await;
    let mut rendezvous = Frames::of(script.rendezvous("big").await);
    rendezvous.send_text(&script.request("big", json!({ "method": "POST", "body": true }))).await;
    let mut connection = target.accept().await;
    assert!(connection.head().await.contains(&"transfer-encoding: chunked".to_owned()));
    for (at, piece) in [&b"one"[..], b"two"].into_iter().enumerate() {
        rendezvous.send_piece(piece, at == 0, false).await;
        assert_eq!(connection.until("\r\n").await, "3\r\n");
        assert_eq!(connection.until("\r\n").await.as_bytes(), [piece, b"\r\n"].concat());
    }
    rendezvous.send_piece(b"", false, true).await;
    assert_eq!(connection.until("\r\n\r\n").await, "0\r\n\r\n");
    connection.reply(OK).await;
    assert_eq!(rendezvous.text().await["response"]["statusCode"], 200);
    rendezvous.bytes(b"ok").await;
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_was_said_never_looks_whole_to_the_target() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    let said = |length: &str| json!({ "method": "POST", "body": true, "requestHeaders": { "Content-Length": length } });
    // With the request: it is refused, and the target sees nothing of it.
    say(&mut control, &script.request("r1", said("6"))).await;
    control.send(Message::binary(b"seven77".to_vec())).await.unwrap();
    assert_eq!(response(&mut control).await.0["statusCode"], 400);
    assert!(target.is_untouched().await);
    // By rendezvous, shorter and longer: the connection is given up.
    for (id, pieces) in [("short", ["four", ""]), ("long", ["four", "more"])] {
        say(&mut control, &json!({ "request": { "address": script.rendezvous_address(id) } })).await;
        let mut rendezvous = Frames::of(script.rendezvous(id).await);
        rendezvous.send_text(&script.request(id, said("6"))).await;
        let mut connection = target.accept().await;
        assert!(connection.head().await.contains(&"content-length: 6".to_owned()));
        rendezvous.send_piece(pieces[0].as_bytes(), true, false).await;
        rendezvous.send_piece(pieces[1].as_bytes(), false, true).await;
        assert!(connection.end().await.unwrap() < 6, "{id}");
        assert_eq!(rendezvous.text().await["response"]["statusCode"], 400, "{id}");
    }
}

#[tokio::test]
async fn a_sender_that_goes_away_within_its_body_leaves_no_whole_request() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &json!({ "request": { "address": script.rendezvous_address("big") } })).await;
    let rendezvous = Frames::of(script.rendezvous("big").await);
    rendezvous.send_text(&script.request("big", json!({ "method": "POST", "body": true }))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    rendezvous.send_piece(b"half", true, false).await;
    assert_eq!(connection.until("half\r\n").await, "4\r\nhalf\r\n");
    rendezvous.close(1001).await;
    assert_eq!(connection.end().await.unwrap(), 0, "no last chunk");
}

#[tokio::test]
async fn one_hybrid_connection_takes_websockets_and_requests() {
    let (script, target) = (Script::new().await, Target::new().await);
    let (stream, _echo) = echo().await;
    let forward = format!("{{ tcp: \"{stream}\", http: \"http://{}\" }}", target.address);
    let _listener = Listener::new(&script.url(), "channels: 1", &forward, None).await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r", json!({}))).await;
    let mut connection = target.accept().await;
    connection.head().await;
    connection.reply(OK).await;
    assert_eq!(response(&mut control).await.1, "ok");
    let address = script.rendezvous_address("ws");
    say(&mut control, &json!({ "accept": { "address": address, "id": "ws", "connectHeaders": {} } })).await;
    let mut rendezvous = script.rendezvous("ws").await;
    rendezvous.send(Message::binary(b"hello".to_vec())).await.unwrap();
    assert_eq!(body(&mut rendezvous).await, b"hello");
    close(&mut rendezvous, 1000).await;
}

#[tokio::test]
async fn who_takes_requests_only_rejects_websockets() {
    let (script, target) = (Script::new().await, Target::new().await);
    let _listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    let address = script.rendezvous_address("ws");
    say(&mut control, &json!({ "accept": { "address": address, "id": "ws", "connectHeaders": {} } })).await;
    let (dialled, _rejection) = script.accept().await;
    assert!(dialled.target.contains("&sb-hc-statusCode=501&"), "{}", dialled.target);
}

#[tokio::test]
async fn a_target_with_tls_is_believed_only_when_somebody_trusted_vouches_for_it() {
    let (script, target) = (Script::new().await, Target::new().await);
    let authority = Authority::generate("targets", Duration::from_secs(3600)).unwrap();
    let leaf = authority
        .issue(&LeafRequest {
            name: "target".into(),
            hosts: vec!["127.0.0.1".into()],
            uris: Vec::new(),
            life: Duration::from_secs(3600),
            client: false,
        })
        .unwrap();
    let tls = ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), &[b"http/1.1"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("targets.pem");
    std::fs::write(&ca, &authority.certificate).unwrap();
    let url = format!("https://{}", target.address);
    let trusting = format!("trust: {{ system: false, files: [\"{}\"] }}", ca.display());
    for (http, status) in [(&*trusting, 200), ("trust: { system: true }", 502)] {
        let listener = forwarding(&script, &url, http).await;
        let mut control = script.control().await;
        say(&mut control, &script.request("r", json!({}))).await;
        let acceptor = TlsAcceptor::from(tls.current());
        let serving = async {
            let Ok(stream) = acceptor.accept(target.accept().await.0).await else { return };
            let mut connection = Connection(stream);
            connection.head().await;
            connection.reply(OK).await;
        };
        let ((head, _), ()) = tokio::join!(response(&mut control), serving);
        assert_eq!(head["statusCode"], status);
        if status == 502 {
            assert_eq!(head["statusDescription"], "The listener does not trust its target");
        }
        listener.context.shutdown.force();
        while control.next().await.is_some_and(|message| message.is_ok()) {}
    }
}

#[tokio::test]
async fn requests_in_flight_finish_while_the_process_drains() {
    let (script, target) = (Script::new().await, Target::new().await);
    let listener = forwarding(&script, &format!("http://{}", target.address), "").await;
    let mut control = script.control().await;
    say(&mut control, &script.request("r1", json!({}))).await;
    say(&mut control, &script.request("r2", json!({}))).await;
    let (mut first, mut second) = (target.accept().await, target.accept().await);
    first.head().await;
    second.head().await;
    second.reply("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none \r\n").await;
    let (dialled, rendezvous) = script.accept().await;
    let (outcome, ()) = tokio::join!(listener.context.shutdown.run(LIMIT), async {
        until("it drains", || listener.running.listening()[0].channels().iter().all(|channel| channel.retiring)).await;
        first.reply(OK).await;
        assert_eq!(command(&mut control, "response").await["statusCode"], 200);
        assert_eq!(body(&mut control).await, b"ok");
        // One of the two is still running by rendezvous; the channel is not needed any more.
        assert!(matches!(next(&mut control).await, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
        while let Some(Ok(_)) = control.next().await {}
        second.reply("3\r\ntwo\r\n0\r\n\r\n").await;
        assert!(dialled.target.ends_with("r1") || dialled.target.ends_with("r2"));
        let mut rendezvous = Frames::of(rendezvous);
        rendezvous.text().await;
        rendezvous.bytes(b"one two").await;
        while rendezvous.next().await.is_ok() {}
    });
    assert_eq!(outcome, daemon::shutdown::Outcome::Drained);
}
