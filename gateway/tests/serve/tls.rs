//! Targets behind TLS.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use identity::ca::{Authority, LeafRequest};
use proto::tunnel::{
    failure::{Code, Reached},
    pb::HttpRequest,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::support::{Setup, World, fetch, get, rules, targets::Target};

/// What proves the target's name, and the CA that says so.
pub(crate) struct Proof {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) acceptor: TlsAcceptor,
}

impl Proof {
    pub(crate) fn of(name: &str, alpn: &[&[u8]]) -> Self {
        let life = Duration::from_secs(3600);
        let authority = Authority::generate("targets", life).unwrap();
        let request =
            LeafRequest { name: name.to_owned(), hosts: vec![name.to_owned()], uris: Vec::new(), life, client: false };
        let leaf = authority.issue(&request).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &authority.certificate).unwrap();
        let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.expose().as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(identity::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Self { folder, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    /// A target that tells the name that it was called by, the version, and how the gateway says it was called.
    async fn target(&self) -> Target {
        let acceptor = self.acceptor.clone();
        Target::of(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(session) = acceptor.accept(stream).await else { return };
                let name = session.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let text = format!(
                        "{name} {:?} {} {}",
                        request.version(),
                        request.headers()["x-forwarded-proto"].to_str().unwrap(),
                        request.headers()["host"].to_str().unwrap().split(':').next().unwrap(),
                    );
                    async move { Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(text)))) }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(session), answer).await;
            }
        })
        .await
    }

    fn entry(&self, more: &str) -> String {
        format!("tls: {{ ca: {}{more} }}", self.folder.path().join("ca.pem").display())
    }
}

async fn world(target: &Target, entry: &str) -> World {
    let more = format!("targets: [{{ hosts: [\"*.models.svc\"], ports: [{}], {entry} }}]", target.address.port());
    let targets = &[("scorer.models.svc", target.address)];
    World::start(Setup { rules: rules(target.address), targets, more: &more }).await
}

#[tokio::test]
async fn a_target_proves_its_name_to_the_ca_of_the_config_whatever_the_caller_says() {
    let proof = Proof::of("scorer.models.svc", &[b"http/1.1"]);
    let target = proof.target().await;
    let world = world(&target, &proof.entry("")).await;
    let tunnel = world.held().await;
    for scheme in ["http", "https", "https"] {
        let request = HttpRequest { scheme: scheme.to_owned(), ..get(target.address, "/v1/x") };
        let answer = fetch(&tunnel, &world.token("alice"), request).await.unwrap();
        let expected = format!("scorer.models.svc HTTP/1.1 {scheme} scorer.models.svc");
        assert_eq!(answer.body, expected.as_bytes());
    }
    assert_eq!(target.count(), 1, "the session is used again");
}

#[tokio::test]
async fn another_name_may_be_expected() {
    let proof = Proof::of("internal.example.com", &[]);
    let target = proof.target().await;
    let world = world(&target, &proof.entry(", server_name: internal.example.com")).await;
    let tunnel = world.held().await;
    let answer = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap();
    assert_eq!(answer.body, &b"internal.example.com HTTP/1.1 http scorer.models.svc"[..]);
}

#[tokio::test]
async fn a_target_that_cannot_prove_its_name_gets_no_request() {
    let proof = Proof::of("somebody-else.models.svc", &[]);
    let target = proof.target().await;
    let right = Proof::of("scorer.models.svc", &[]);
    let impostor = right.target().await;
    for (target, entry) in [(&target, proof.entry("")), (&impostor, proof.entry(""))] {
        let world = world(target, &entry).await;
        let tunnel = world.held().await;
        let failure = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap_err();
        assert_eq!((failure.code, failure.reached), (Code::TargetRefused, Reached::No), "{failure}");
        assert!(failure.message.contains("certificate"), "{failure}");
    }
}

#[tokio::test]
async fn a_target_that_must_speak_http2_and_does_not_is_named() {
    let proof = Proof::of("scorer.models.svc", &[b"http/1.1"]);
    let target = proof.target().await;
    let world = world(&target, &format!("{}, protocol: h2", proof.entry(""))).await;
    let tunnel = world.held().await;
    let failure = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!((failure.code, failure.reached), (Code::TargetRefused, Reached::No), "{failure}");
}

#[tokio::test]
async fn a_session_that_ends_without_goodbye_is_a_cut() {
    let proof = Proof::of("scorer.models.svc", &[]);
    let acceptor = proof.acceptor.clone();
    let target = Target::of(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut session = acceptor.accept(stream).await.unwrap();
            let _ = session.read(&mut [0; 4096]).await;
            // Ends by the end of the connection, which an attacker could have brought about.
            tokio::io::AsyncWriteExt::write_all(&mut session, b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
            tokio::io::AsyncWriteExt::flush(&mut session).await.unwrap();
        }
    })
    .await;
    let world = world(&target, &proof.entry("")).await;
    let tunnel = world.held().await;
    let failure = fetch(&tunnel, &world.token("alice"), get(target.address, "/v1/x")).await.unwrap_err();
    assert_eq!(failure.code, Code::TargetBroken, "{failure}");
}
