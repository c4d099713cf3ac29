//! The face on a real socket with real TLS, before a gateway in memory.
use std::sync::Arc;

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{self, open::Target},
    receive::Part,
    server::Forward,
};
use rustls::{RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::connect::{
    face::tests::Setup,
    fake::{answer, body, fail, head, soon},
};

const TOKEN: &str = "authorization: Bearer caller-token\r\n";

/// The face, and the calls that arrive at its gateway.
async fn start() -> (Setup, mpsc::Receiver<Forward>) {
    let mut setup = Setup::new("kubernetes", "").await;
    let (_, none) = mpsc::channel(1);
    let calls = std::mem::replace(&mut setup.calls, none);
    (setup, calls)
}

async fn session(setup: &Setup) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(setup.authority.certificate.as_bytes());
    roots.add(certificate.unwrap()).unwrap();
    // Newer protocols are asked for, and not given: kubectl does the same.
    let config = identity::tls::client(roots, &[b"h2", b"http/1.1"]);
    let name = ServerName::IpAddress(setup.address.ip().into());
    let session = TlsConnector::from(Arc::clone(&config)).connect(name, setup.client().await).await.unwrap();
    assert_eq!(session.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    session
}

/// Says a head on a connection of its own.
async fn say(setup: &Setup, line: &str, fields: &str) -> TlsStream<TcpStream> {
    let mut session = session(setup).await;
    let head = format!("{line} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", setup.address);
    session.write_all(head.as_bytes()).await.unwrap();
    session
}

async fn send(setup: &Setup, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(session(setup).await)).await.unwrap();
    setup.bench.context.shutdown.spawn(async move {
        let _ = connection.await;
    });
    let mut request = Request::get(path).header("host", setup.address.to_string());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

async fn opening(call: &mut Forward) -> pb::KubernetesRequest {
    match call.receiver.next().await.unwrap().unwrap() {
        Part::Message(pb::ForwardRequest {
            part: Some(pb::forward_request::Part::Open(pb::Open { target: Some(Target::Kubernetes(request)), .. })),
        }) => request,
        other => panic!("unexpected {other:?}"),
    }
}

async fn status(response: Response<Incoming>) -> (u16, serde_json::Value) {
    let status = response.status().as_u16();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap())
}

/// What comes until the head's end.
async fn head_of(session: &mut TlsStream<TcpStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", session.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_request_goes_with_the_callers_token_as_metadata_alone() {
    let (setup, mut calls) = start().await;
    let asking = async {
        let fields =
            [("authorization", "Bearer caller-token"), ("accept", "application/json"), ("x-forwarded-for", "1")];
        let response = send(&setup, "/api/v1/pods?watch=1", &fields).await;
        let (status, body) = (response.status(), response.into_body().collect().await.unwrap().to_bytes());
        (status.as_u16(), body)
    };
    let serving = async {
        let mut call = soon("a call", calls.recv()).await.unwrap();
        let request = opening(&mut call).await;
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/api/v1/pods?watch=1"));
        assert_eq!(call.metadata["authorization"], "Bearer caller-token");
        let names: Vec<_> = request.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["accept"]);
        assert!(request.no_body && request.upgrade.is_empty());
        answer(call, 200, &[], b"pods").await;
    };
    let ((status, body), ()) = tokio::join!(asking, serving);
    assert_eq!((status, &body[..]), (200, &b"pods"[..]));
}

#[tokio::test]
async fn refusals_are_told_as_api_servers_tell_them() {
    let (setup, mut calls) = start().await;
    let (code, said) = status(send(&setup, "/api", &[]).await).await;
    assert_eq!((code, &said["kind"], &said["reason"]), (401, &"Status".into(), &"Unauthorized".into()));
    for name in ["impersonate-user", "Impersonate_Group"] {
        let fields = [("authorization", "Bearer caller-token"), (name, "somebody")];
        let (code, said) = status(send(&setup, "/api", &fields).await).await;
        assert_eq!(code, 400, "{said}");
        assert!(said["message"].as_str().unwrap().contains("remove `--as`"), "{said}");
    }
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let fields = [("authorization", "Bearer caller-token"), (name, value)];
        assert_eq!(status(send(&setup, "/api", &fields).await).await.0, 403, "{name}");
    }
    let asking = async { status(send(&setup, "/api", &[("authorization", "Bearer caller-token")]).await).await };
    let serving = async {
        let mut call = soon("a call", calls.recv()).await.unwrap();
        opening(&mut call).await;
        let message = "no rule for a/b; nearest: rule \"readers\" lacks this verb";
        fail(call, &Failure::before_target(Code::PolicyDenied, message));
    };
    let ((code, said), ()) = tokio::join!(asking, serving);
    assert_eq!((code, &said["reason"], &said["code"]), (403, &"Forbidden".into(), &403.into()));
    assert!(said["message"].as_str().unwrap().contains("rule \"readers\" lacks this verb"), "{said}");
}

#[tokio::test]
async fn bytes_pass_both_ways_after_101_and_each_side_ends_by_itself() {
    let (setup, mut calls) = start().await;
    let asking = async {
        let fields = format!(
            "{TOKEN}connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4\r\ncontent-length: 0\r\n"
        );
        let mut session = say(&setup, "POST /api/v1/namespaces/a/pods/b/exec", &fields).await;
        let head = head_of(&mut session).await;
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(head.contains("\r\nupgrade: spdy/3.1\r\n") && head.contains("\r\nconnection: upgrade\r\n"), "{head}");
        assert!(head.contains("\r\nx-stream-protocol-version: v4\r\n"), "{head}");
        session.write_all(b"hello").await.unwrap();
        session.shutdown().await.unwrap();
        let mut all = Vec::new();
        soon("the end", session.read_to_end(&mut all)).await.unwrap();
        all
    };
    let serving = async {
        let mut call = soon("a call", calls.recv()).await.unwrap();
        let request = opening(&mut call).await;
        assert_eq!((request.upgrade.as_str(), request.no_body), ("spdy/3.1", true));
        assert!(request.fields.iter().all(|field| field.name != "upgrade" && field.name != "connection"));
        let switched = head(101, &[("x-stream-protocol-version", "v4"), ("causeway-x", "forged")]);
        call.sender.message(switched).await.unwrap();
        let (sent, _) = body(&mut call).await;
        call.sender.data(Bytes::from(sent)).await.unwrap();
        call.sender.fin(pb::Fin::default()).await.unwrap();
        call.sender.finish();
    };
    assert_eq!(tokio::join!(asking, serving).0, b"hello");
}

#[tokio::test]
async fn any_other_answer_is_plain_and_ends_the_connection() {
    let (setup, mut calls) = start().await;
    let asking = async {
        let fields = format!("{TOKEN}connection: upgrade\r\nupgrade: websocket\r\n");
        // What is sent ahead of the answer must not be taken for a request.
        let smuggled = "GET /api/v1/secrets HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut session = say(&setup, "GET /api/v1/namespaces/a/pods/b/exec", &fields).await;
        session.write_all(smuggled.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        // The end may come without a farewell, over bytes that nobody read.
        let _ = soon("the end", session.read_to_end(&mut all)).await;
        String::from_utf8(all).unwrap().to_lowercase()
    };
    let serving = async {
        let mut call = soon("a call", calls.recv()).await.unwrap();
        opening(&mut call).await;
        answer(call, 400, &[("content-length", "2")], b"no").await;
    };
    let (said, ()) = tokio::join!(asking, serving);
    assert!(said.starts_with("http/1.1 400 ") && said.contains("connection: close"), "{said}");
    assert_eq!(said.matches("http/1.1").count(), 1, "{said}");
    assert!(calls.try_recv().is_err(), "no second request was made");
}

#[tokio::test]
async fn without_tls_there_is_nothing() {
    let setup = Setup::new("kubernetes", "").await;
    let mut client = setup.client().await;
    client.write_all(b"GET /api HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    // It may be reset over what was not read.
    let _ = soon("the end", client.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
}
