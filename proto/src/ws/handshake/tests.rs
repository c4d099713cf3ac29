//! Both sides against tungstenite and each other, and every answer and request that is not one.
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::{
    self,
    handshake::server::{Request as OracleRequest, Response as OracleResponse},
};

use super::*;
use crate::ws::{Role, stream::WsStream};

const URI: &str = "wss://relay.example:443/$hc/name?sb-hc-action=connect";

fn uri() -> Uri {
    Uri::from_static(URI)
}

/// Serves one connection with our side of the handshake and gives the upgraded transport.
async fn serve(io: DuplexStream, protocol: Option<&'static str>) -> Option<(DuplexStream, BytesMut)> {
    let (give, take) = tokio::sync::oneshot::channel();
    let give = std::sync::Mutex::new(Some(give));
    let service = service_fn(|mut request: Request<hyper::body::Incoming>| {
        let response = match check_request(&request) {
            Ok(accept) => {
                assert!(protocol.is_none_or(|one| offered_protocols(request.headers()).any(|name| name == one)));
                let upgrade = hyper::upgrade::on(&mut request);
                give.lock().unwrap().take().unwrap().send(upgrade).unwrap();
                switching::<Empty<Bytes>>(accept, protocol)
            }
            Err(error) => refusal(error),
        };
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await
        .ok()?;
    into_parts(take.await.ok()?.await.unwrap())
}

#[test]
fn accept_value_of_the_rfc_is_reproduced() {
    assert_eq!(accept_for(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

mod against_each_other {
    use super::*;

    #[tokio::test]
    async fn protocol_and_bytes_behind_the_head_arrive() {
        let (a, b) = duplex(4096);
        let uri = uri();
        let (client, server) = tokio::join!(client(a, &uri, HeaderMap::new(), &["other", "causeway.v1"]), async {
            let (io, read_ahead) = serve(b, Some("causeway.v1")).await.unwrap();
            let mut stream = WsStream::new(io, Role::Server, read_ahead);
            stream.write_all(b"at once").await.unwrap();
            stream
        });
        let client = client.unwrap();
        assert_eq!(client.protocol.as_deref(), Some("causeway.v1"));
        let mut stream = WsStream::new(client.io, Role::Client, client.read_ahead);
        let mut got = [0; 7];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"at once");
        drop(server);
    }
}

mod against_the_oracle {
    use super::*;

    #[tokio::test]
    async fn our_client_is_let_in() {
        let (a, b) = duplex(4096);
        let mut headers = HeaderMap::new();
        headers.insert("x-token", HeaderValue::from_static("t"));
        #[expect(clippy::result_large_err, reason = "the oracle's callback type")]
        let look = |request: &OracleRequest, mut response: OracleResponse| {
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), "/$hc/name?sb-hc-action=connect");
            assert_eq!(request.headers()[header::HOST], "relay.example");
            assert_eq!(request.headers()["x-token"], "t");
            assert!(!request.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS));
            response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("causeway.v1"));
            Ok(response)
        };
        let uri = uri();
        let (ours, oracle) =
            tokio::join!(client(a, &uri, headers, &["causeway.v1"]), tokio_tungstenite::accept_hdr_async(b, look));
        let (ours, mut oracle) = (ours.unwrap(), oracle.unwrap());
        assert_eq!(ours.protocol.as_deref(), Some("causeway.v1"));
        let mut stream = WsStream::new(ours.io, Role::Client, ours.read_ahead);
        oracle.send(tungstenite::Message::binary(&b"hi"[..])).await.unwrap();
        let mut got = [0; 2];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hi");
    }

    #[tokio::test]
    async fn its_client_is_let_in() {
        let (a, b) = duplex(4096);
        let (oracle, ours) = tokio::join!(tokio_tungstenite::client_async(URI, a), serve(b, None));
        let ((mut oracle, _), (io, read_ahead)) = (oracle.unwrap(), ours.unwrap());
        let mut stream = WsStream::new(io, Role::Server, read_ahead);
        stream.write_all(b"hi").await.unwrap();
        assert_eq!(oracle.next().await.unwrap().unwrap().into_data(), Bytes::from("hi"));
    }
}

/// Answers our client's request with `answer`, in which `ACCEPT` becomes the value it expects, and ends the connection.
async fn answered(answer: &str, offered: &[&str]) -> Result<Upgraded<DuplexStream>, UpgradeError> {
    let (a, mut b) = duplex(64 * 1024);
    let server = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(b.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find(|line| line.to_lowercase().starts_with("sec-websocket-key: ")).unwrap();
        let answer = answer.replace("ACCEPT", &accept_for(&key.as_bytes()[19..]));
        b.write_all(answer.as_bytes()).await.unwrap();
        b.shutdown().await.unwrap();
    };
    let uri = uri();
    let (outcome, ()) = tokio::join!(client(a, &uri, HeaderMap::new(), offered), server);
    outcome
}

mod client_refuses {
    use super::*;

    /// A 101 with these further lines.
    async fn switched(lines: &str, offered: &[&str]) -> Result<Upgraded<DuplexStream>, UpgradeError> {
        answered(&format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n"), offered).await
    }

    const GOOD: &str = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n";

    async fn invalid(lines: &str) -> &'static str {
        match switched(lines, &["a"]).await {
            Err(UpgradeError::Invalid(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn only_what_is_wrong() {
        assert_eq!(switched(GOOD, &[]).await.unwrap().protocol, None);
        let chosen = format!("{GOOD}Sec-WebSocket-Protocol: a\r\n");
        assert_eq!(switched(&chosen, &["b", "a"]).await.unwrap().protocol.as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn a_wrong_missing_or_doubled_accept() {
        let why = "Sec-WebSocket-Accept does not answer our key";
        assert_eq!(invalid(&GOOD.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")).await, why);
        assert_eq!(invalid("Upgrade: websocket\r\nConnection: Upgrade\r\n").await, why);
        assert_eq!(invalid(&format!("{GOOD}Sec-WebSocket-Accept: ACCEPT\r\n")).await, why);
    }

    #[tokio::test]
    async fn missing_upgrade_headers() {
        let lines = "Upgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n";
        assert_eq!(invalid(lines).await, "Upgrade is not websocket");
    }

    #[tokio::test]
    async fn what_was_not_offered() {
        let protocol = format!("{GOOD}Sec-WebSocket-Protocol: b\r\n");
        assert_eq!(invalid(&protocol).await, "a protocol that was not offered");
        let two = format!("{GOOD}Sec-WebSocket-Protocol: a, a\r\n");
        assert_eq!(invalid(&two).await, "a protocol that was not offered");
        let extension = format!("{GOOD}Sec-WebSocket-Extensions: permessage-deflate\r\n");
        assert_eq!(invalid(&extension).await, "an extension that was not offered");
    }

    #[tokio::test]
    async fn other_statuses_with_phrase_and_hint() {
        let answer =
            "HTTP/1.1 404 Endpoint does not exist. TrackingId:1\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
        let error = answered(answer, &[]).await.unwrap_err();
        assert_eq!(error.to_string(), "server answered 404 Endpoint does not exist. TrackingId:1");
        let UpgradeError::Refused { status: 404, retry_after: Some(hint), .. } = error else { panic!("{error:?}") };
        assert_eq!(hint, Duration::from_secs(7));
        let plain = answered("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", &[]).await.unwrap_err();
        assert_eq!(plain.to_string(), "server answered 401 Unauthorized");
        let long = format!("HTTP/1.1 503 {}\r\nContent-Length: 0\r\n\r\n", "é".repeat(1000));
        let UpgradeError::Refused { reason, .. } = answered(&long, &[]).await.unwrap_err() else { panic!() };
        assert!(reason.len() <= 512);
    }

    #[tokio::test]
    async fn a_hint_that_no_clock_can_hold_is_cut_to_a_day() {
        let answer = format!("HTTP/1.1 503 Busy\r\nRetry-After: {}\r\nContent-Length: 0\r\n\r\n", u64::MAX);
        let UpgradeError::Refused { retry_after, .. } = answered(&answer, &[]).await.unwrap_err() else { panic!() };
        assert_eq!(retry_after, Some(Duration::from_secs(24 * 3600)));
    }

    #[tokio::test]
    async fn answers_that_are_not_http() {
        let garbage = answered("SSH-2.0-OpenSSH_9.6\r\n\r\n", &[]).await.unwrap_err();
        assert!(matches!(garbage, UpgradeError::Http(_)), "{garbage:?}");
    }

    #[tokio::test]
    async fn heads_without_end() {
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "X-Filler: 0123456789\r\n".repeat(2000));
        let error = answered(&endless, &[]).await.unwrap_err();
        assert!(matches!(error, UpgradeError::Http(_)), "{error:?}");
        let long = format!("HTTP/1.1 200 OK\r\nX-Filler: {}", "0".repeat(40_000));
        let error = answered(&long, &[]).await.unwrap_err();
        assert!(matches!(error, UpgradeError::Http(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_connection_that_ends_early() {
        for part in ["", "HTTP/1.1 101 Swit"] {
            let error = answered(part, &[]).await.unwrap_err();
            assert!(matches!(error, UpgradeError::Io(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn an_address_without_host() {
        let (a, _b) = duplex(64);
        let error = client(a, &Uri::from_static("/path"), HeaderMap::new(), &[]).await.unwrap_err();
        assert!(matches!(error, UpgradeError::Request(_)), "{error:?}");
    }
}

mod server_refuses {
    use super::*;

    fn request() -> Request<()> {
        Request::get("/")
            .header("upgrade", "WebSocket")
            .header("connection", "keep-alive, Upgrade")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .unwrap()
    }

    fn without(name: &str) -> Request<()> {
        let mut request = request();
        request.headers_mut().remove(name);
        request
    }

    fn with(name: &'static str, value: &'static str) -> Request<()> {
        let mut request = request();
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    }

    #[test]
    fn nothing_that_is_right() {
        assert_eq!(check_request(&request()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_upgrade() {
        let mut post = request();
        *post.method_mut() = http::Method::POST;
        let mut old = request();
        *old.version_mut() = http::Version::HTTP_10;
        for bad in [without("upgrade"), without("connection"), with("upgrade", "h2c"), post, old] {
            assert_eq!(check_request(&bad), Err(RequestError::NotUpgrade));
        }
        let answer: Response<()> = refusal(RequestError::NotUpgrade);
        assert_eq!(answer.status(), 400);
    }

    #[test]
    fn other_versions_naming_ours() {
        for bad in [without("sec-websocket-version"), with("sec-websocket-version", "8")] {
            assert_eq!(check_request(&bad), Err(RequestError::Version));
        }
        let answer: Response<()> = refusal(RequestError::Version);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["sec-websocket-version"]),
            (426, &HeaderValue::from_static("13"))
        );
    }

    #[test]
    fn keys_that_are_not_sixteen_bytes() {
        let mut twice = request();
        twice.headers_mut().append("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        for bad in
            [without("sec-websocket-key"), with("sec-websocket-key", "c2hvcnQ="), with("sec-websocket-key", "?"), twice]
        {
            assert_eq!(check_request(&bad), Err(RequestError::Key));
        }
    }
}
