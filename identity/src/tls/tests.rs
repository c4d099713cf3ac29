//! Claims about TLS, each over a real session on an in-memory pipe.
use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use daemon::{config::SecretRef, shutdown::Shutdown};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{
    cluster::{ClientCertificate, ClusterTrust, inner_name, is_identity_mismatch},
    peer::{PeerError, peer_principal},
    *,
};
use crate::ca::{Authority, Leaf, LeafRequest, spki_sha256};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn authority() -> Authority {
    Authority::generate("test CA", DAY).unwrap()
}

fn leaf(authority: &Authority, uris: &[&str]) -> Leaf {
    let request = LeafRequest {
        name: "gateway".into(),
        hosts: vec!["gw.example.com".into()],
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        life: DAY,
        client: true,
    };
    authority.issue(&request).unwrap()
}

fn server_tls(leaf: &Leaf, alpn: &[&[u8]]) -> ServerTls {
    ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), alpn).unwrap()
}

fn trusting(authority: &Authority) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add(pem::first_certificate(&authority.certificate).unwrap()).unwrap();
    store
}

type Sessions = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

async fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> std::io::Result<Sessions> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (near, far) =
        tokio::join!(TlsConnector::from(client).connect(name, near), TlsAcceptor::from(server).accept(far));
    Ok((near?, far?))
}

async fn echo((near, far): &mut Sessions) {
    near.write_all(b"ping").await.unwrap();
    near.flush().await.unwrap();
    let mut bytes = [0; 4];
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
}

#[test]
fn hybrid_key_exchange_comes_first_and_old_suites_are_absent() {
    assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    for suite in &provider().cipher_suites {
        let name = format!("{:?}", suite.suite());
        assert!(name.contains("GCM") || name.contains("CHACHA20_POLY1305"), "{name} has no AEAD");
        assert!(name.starts_with("TLS13") || name.starts_with("TLS_ECDHE"), "{name} has no forward secrecy");
    }
}

#[test]
fn installing_the_provider_twice_does_nothing() {
    install_provider();
    install_provider();
    assert!(CryptoProvider::get_default().is_some());
}

#[tokio::test]
async fn alpn_is_offered_and_agreed() {
    let authority = authority();
    let server = server_tls(&leaf(&authority, &[]), &[b"h2", b"http/1.1"]);
    let sessions = connect(server.current(), client(trusting(&authority), &[b"http/1.1"]), "gw.example.com").await;
    let (near, far) = sessions.unwrap();
    assert_eq!(near.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert_eq!(far.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
    assert!(connect(server.current(), client(trusting(&authority), &[b"spdy"]), "gw.example.com").await.is_err());
}

#[tokio::test]
async fn an_unknown_root_or_another_host_name_is_refused() {
    let known = authority();
    let server = server_tls(&leaf(&known, &[]), &[]);
    let strange = client(trusting(&authority()), &[]);
    assert!(connect(server.current(), strange, "gw.example.com").await.is_err());
    assert!(connect(server.current(), client(trusting(&known), &[]), "other.example.com").await.is_err());
}

#[tokio::test]
async fn inner_sessions_accept_only_the_cluster_and_only_tls13() {
    let own = authority();
    let trust = ClusterTrust::new("factory-a", &[&own.certificate], &[]).unwrap();
    let inner = trust.inner_client(None).unwrap();
    let good = server_tls(&leaf(&own, &["causeway://factory-a"]), &[]);
    let mut sessions = connect(good.inner(), inner.clone(), "x.invalid").await.unwrap();
    echo(&mut sessions).await;
    assert_eq!(sessions.0.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(sessions.0.get_ref().1.alpn_protocol(), Some(proto::tunnel::ALPN));
    assert!(sessions.1.get_ref().1.server_name().is_none(), "a relay could read the server name");
    assert!(trust.proves(sessions.0.get_ref().1.peer_certificates(), SystemTime::now()));

    for wrong in [
        leaf(&own, &["causeway://factory-b"]),
        leaf(&own, &["causeway://factory-a.evil"]),
        leaf(&own, &[]),
        leaf(&authority(), &["causeway://factory-a"]),
    ] {
        let error = connect(server_tls(&wrong, &[]).inner(), inner.clone(), "x.invalid").await.unwrap_err();
        assert!(is_identity_mismatch(&error), "{error}");
    }
    let no_alpn = client(trusting(&own), &[b"h2"]);
    assert!(connect(good.inner(), no_alpn, "gw.example.com").await.is_err());
}

#[tokio::test]
async fn outer_sessions_go_down_to_tls12_and_inner_ones_do_not() {
    let own = authority();
    let server = server_tls(&leaf(&own, &["causeway://factory-a"]), &[proto::tunnel::ALPN]);
    let mut old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(trusting(&own))
        .with_no_client_auth();
    old.alpn_protocols = protocols(&[proto::tunnel::ALPN]);
    let old = Arc::new(old);
    let mut sessions = connect(server.current(), old.clone(), "gw.example.com").await.unwrap();
    echo(&mut sessions).await;
    assert_eq!(sessions.0.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(connect(server.inner(), old, "gw.example.com").await.is_err());
}

#[tokio::test]
async fn inner_sessions_are_never_resumed() {
    let own = authority();
    let trust = ClusterTrust::new("factory-a", &[&own.certificate], &[]).unwrap();
    let (server, client) = (server_tls(&leaf(&own, &["causeway://factory-a"]), &[]), trust.inner_client(None).unwrap());
    for _ in 0..2 {
        let mut sessions = connect(server.inner(), client.clone(), "x.invalid").await.unwrap();
        echo(&mut sessions).await;
        assert_eq!(sessions.0.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn direct_sessions_say_whether_the_cluster_or_the_web_vouched() {
    let (own, web) = (authority(), authority());
    let trust = ClusterTrust::new("factory-a", &[&own.certificate], &[]).unwrap();
    let direct = trust.direct_client(trusting(&web), &[b"http/1.1"]);
    let now = SystemTime::now();

    let gateway = server_tls(&leaf(&own, &["causeway://factory-a"]), &[b"http/1.1"]);
    let (near, _) = connect(gateway.current(), direct.clone(), "other.example.com").await.unwrap();
    assert!(trust.proves(near.get_ref().1.peer_certificates(), now));

    let ingress = server_tls(&leaf(&web, &[]), &[b"http/1.1"]);
    let (near, _) = connect(ingress.current(), direct.clone(), "gw.example.com").await.unwrap();
    assert!(!trust.proves(near.get_ref().1.peer_certificates(), now));
    assert!(connect(ingress.current(), direct.clone(), "other.example.com").await.is_err());

    // The web's CA cannot make a gateway of somebody by writing the cluster's URI into a leaf.
    let forged = server_tls(&leaf(&web, &["causeway://factory-a"]), &[b"http/1.1"]);
    let error = connect(forged.current(), direct, "gw.example.com").await.unwrap_err();
    assert!(is_identity_mismatch(&error));
}

#[tokio::test]
async fn an_expired_leaf_proves_nothing() {
    let own = authority();
    let trust = ClusterTrust::new("factory-a", &[&own.certificate], &[]).unwrap();
    let chain = [pem::first_certificate(&leaf(&own, &["causeway://factory-a"]).certificate).unwrap()];
    assert!(trust.proves(Some(&chain), SystemTime::now()));
    assert!(!trust.proves(Some(&chain), SystemTime::now() + 2 * DAY));
    assert!(!trust.proves(Some(&[]), SystemTime::now()));
    assert!(!trust.proves(None, SystemTime::now()));
}

#[tokio::test]
async fn both_cas_are_trusted_during_a_rotation_and_a_backup_pin_covers_loss() {
    let (old, new, offline) = (authority(), authority(), authority());
    let pins = [spki_sha256(&offline.certificate).unwrap()];
    let trust = ClusterTrust::new("factory-a", &[&old.certificate, &new.certificate], &pins).unwrap();
    let inner = trust.inner_client(None).unwrap();
    for authority in [&old, &new] {
        let server = server_tls(&leaf(authority, &["causeway://factory-a"]), &[]);
        connect(server.inner(), inner.clone(), "x.invalid").await.unwrap();
    }
    let mut pinned = leaf(&offline, &["causeway://factory-a"]);
    assert!(connect(server_tls(&pinned, &[]).inner(), inner.clone(), "x.invalid").await.is_err());
    pinned.certificate.push_str(&offline.certificate);
    connect(server_tls(&pinned, &[]).inner(), inner.clone(), "x.invalid").await.unwrap();
    let mut stranger = leaf(&authority(), &["causeway://factory-a"]);
    stranger.certificate.push_str(&offline.certificate);
    assert!(connect(server_tls(&stranger, &[]).inner(), inner, "x.invalid").await.is_err());
}

/// What is written in hexadecimal digits.
fn bytes(digits: &str) -> Vec<u8> {
    let even = format!("{}{digits}", "0".repeat(digits.len() % 2));
    (0..even.len()).step_by(2).map(|at| u8::from_str_radix(&even[at..at + 2], 16).unwrap()).collect()
}

/// A revocation list of `authority` with these serial numbers, good until `until` from now.
fn revocations(authority: &Authority, serials: &[&str], until: time::Duration) -> String {
    let now = time::OffsetDateTime::now_utc();
    let revoked = |serial: &&str| rcgen::RevokedCertParams {
        serial_number: bytes(serial).into(),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let params = rcgen::CertificateRevocationListParams {
        this_update: now - time::Duration::days(2),
        next_update: now + until,
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let key = rcgen::KeyPair::from_pem(authority.key.expose()).unwrap();
    params.signed_by(&rcgen::Issuer::from_ca_cert_pem(&authority.certificate, key).unwrap()).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_revoked_client_certificate_is_refused_and_so_is_one_of_which_no_list_speaks() {
    let (own, clients, others) = (authority(), authority(), authority());
    let gateway = leaf(&own, &["causeway://factory-a"]);
    let trust = ClusterTrust::new("factory-a", &[&own.certificate], &[]).unwrap();
    let (one, two) = (leaf(&clients, &["a://one"]), leaf(&clients, &["a://two"]));
    let chain = |leaf: &Leaf| pem::certificates(leaf.certificate.as_bytes()).unwrap();
    let serial = |leaf: &Leaf| peer_principal(&chain(leaf)).unwrap().proof().serial.clone().unwrap();
    let day = time::Duration::days(1);
    let cas = format!("{}{}", clients.certificate, others.certificate);
    for (crl, expected) in [
        (None, [true, true]),
        (Some(revocations(&clients, &[&serial(&one)], day)), [false, true]),
        (Some(revocations(&clients, &[], day)), [true, true]),
        (Some(revocations(&clients, &[], -day)), [false, false]),
        (Some(revocations(&others, &[], day)), [false, false]),
    ] {
        let known = Clients { ca: &cas, crl: crl.as_deref() };
        let server =
            ServerTls::from_pem_with_clients(&gateway.certificate, gateway.key.expose(), known, &[b"h2"]).unwrap();
        for (leaf, accepted) in [&one, &two].into_iter().zip(expected) {
            let shown = ClientCertificate { certificate: leaf.certificate.clone(), key: leaf.key.clone() };
            let config = trust.inner_client(Some(&shown)).unwrap();
            let session = async {
                let (mut near, mut far) = connect(server.inner(), config, "x.invalid").await?;
                // A client of TLS 1.3 is done before the server has looked at its certificate.
                tokio::io::AsyncWriteExt::shutdown(&mut near).await?;
                far.read(&mut [0]).await
            };
            assert_eq!(session.await.is_ok(), accepted, "{crl:?}");
            assert_eq!(server.vouches_for(&chain(leaf), SystemTime::now()), accepted);
        }
        assert!(!server.vouches_for(&chain(&leaf(&authority(), &["a://one"])), SystemTime::now()));
    }
    let known = Clients { ca: &cas, crl: Some(&cas) };
    let error = ServerTls::from_pem_with_clients(&gateway.certificate, gateway.key.expose(), known, &[]).unwrap_err();
    assert!(error.to_string().contains("holds no PEM revocation list"), "{error}");
}

#[test]
fn a_trust_without_a_ca_is_refused() {
    assert!(ClusterTrust::new::<&str>("factory-a", &[], &[]).is_err());
    assert!(ClusterTrust::new("factory-a", &["no certificate"], &[]).is_err());
    assert!(ClusterTrust::new("", &[authority().certificate], &[]).is_err());
}

#[tokio::test]
async fn a_client_certificate_names_its_holder() {
    let (own, clients) = (authority(), authority());
    let gateway = leaf(&own, &["causeway://factory-a"]);
    let server = ServerTls::from_pem_with_clients(
        &gateway.certificate,
        gateway.key.expose(),
        Clients { ca: &clients.certificate, crl: None },
        &[proto::tunnel::ALPN],
    )
    .unwrap();
    let trust = ClusterTrust::new("factory-a", &[&own.certificate], &[]).unwrap();
    let show = |authority: &Authority, uris: &[&str]| {
        let leaf = leaf(authority, uris);
        let shown = ClientCertificate { certificate: leaf.certificate, key: leaf.key };
        trust.inner_client(Some(&shown)).unwrap()
    };
    for (uris, expected) in [(&["spiffe://corp/connector"][..], "mtls/spiffe://corp/connector"), (&[], "mtls/gateway")]
    {
        let (_, far) = connect(server.inner(), show(&clients, uris), "x.invalid").await.unwrap();
        let principal = peer_principal(far.get_ref().1.peer_certificates().unwrap()).unwrap();
        assert_eq!(principal.to_string(), expected);
        assert!(principal.expires() > SystemTime::now());
    }
    let (_, far) = connect(server.inner(), show(&clients, &["a://b", "a://c"]), "x.invalid").await.unwrap();
    assert_eq!(peer_principal(far.get_ref().1.peer_certificates().unwrap()), Err(PeerError::Nameless));
    assert_eq!(peer_principal(&[]), Err(PeerError::Absent));

    let stranger = connect(server.inner(), show(&authority(), &[]), "x.invalid").await;
    assert!(stranger.is_err(), "a certificate of another CA was accepted");
    let (_, far) = connect(server.inner(), trust.inner_client(None).unwrap(), "x.invalid").await.unwrap();
    assert!(far.get_ref().1.peer_certificates().is_none());
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(leaf: &Leaf) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write(leaf);
        files
    }

    fn base(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, leaf: &Leaf) {
        let path = self.base().join("tls.key");
        let mut key = std::fs::File::create(&path).unwrap();
        key.set_permissions(std::fs::Permissions::from_mode(0o600)).unwrap();
        key.write_all(leaf.key.expose().as_bytes()).unwrap();
        std::fs::write(self.base().join("tls.crt"), &leaf.certificate).unwrap();
    }

    fn server(&self) -> ServerFiles {
        ServerFiles {
            cert: "tls.crt".into(),
            key: SecretRef::File("tls.key".into()),
            client_ca: None,
            client_crl: None,
        }
    }

    fn start(&self) -> Result<ServerTls, TlsError> {
        ServerTls::start(&self.server(), self.base(), &[b"http/1.1"], &Shutdown::new())
    }

    fn error(&self) -> String {
        self.start().unwrap_err().to_string()
    }
}

#[tokio::test]
async fn unusable_files_are_named() {
    let own = authority();
    let files = Files::new(&leaf(&own, &[]));
    files.start().unwrap();

    std::fs::write(files.base().join("tls.crt"), leaf(&own, &[]).certificate).unwrap();
    let error = files.error();
    assert!(error.contains("tls.key") && error.contains("not the private key") && error.contains("tls.crt"), "{error}");

    std::fs::write(files.base().join("tls.crt"), "nothing").unwrap();
    assert!(files.error().contains("tls.crt: holds no PEM certificate"), "{}", files.error());
    std::fs::remove_file(files.base().join("tls.crt")).unwrap();
    assert!(files.error().contains("tls.crt"), "{}", files.error());

    files.write(&leaf(&own, &[]));
    std::fs::write(files.base().join("tls.key"), "nothing").unwrap();
    assert!(files.error().contains("tls.key: holds no usable PEM private key"), "{}", files.error());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let files = Files::new(&leaf(&authority(), &[]));
    let key = files.base().join("tls.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(files.error().contains("tls.key"), "{}", files.error());
}

#[tokio::test]
async fn a_reload_serves_new_sessions_keeps_open_ones_and_forgets_tickets() {
    let (old, new) = (authority(), authority());
    let files = Files::new(&leaf(&old, &[]));
    let shutdown = Shutdown::new();
    let server = ServerTls::start(&files.server(), files.base(), &[b"http/1.1"], &shutdown).unwrap();
    let mut roots = trusting(&old);
    roots.add(pem::first_certificate(&new.certificate).unwrap()).unwrap();
    let client = client(roots, &[b"http/1.1"]);
    let mut open = connect(server.current(), client.clone(), "gw.example.com").await.unwrap();
    echo(&mut open).await;
    let first = server.current();

    files.write(&leaf(&new, &[]));
    let reloaded = async {
        while Arc::ptr_eq(&first, &server.current()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reloaded).await.expect("the change is noticed");
    echo(&mut open).await;
    let mut fresh = connect(server.current(), client, "gw.example.com").await.unwrap();
    echo(&mut fresh).await;
    assert_eq!(fresh.0.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "a ticket outlived the reload");
    let shown = &fresh.0.get_ref().1.peer_certificates().unwrap()[0];
    assert_ne!(Some(shown), open.0.get_ref().1.peer_certificates().unwrap().first());
}

#[tokio::test]
async fn tickets_work_between_reloads() {
    let own = authority();
    let server = server_tls(&leaf(&own, &[]), &[]);
    let client = client(trusting(&own), &[]);
    let mut first = connect(server.current(), client.clone(), "gw.example.com").await.unwrap();
    echo(&mut first).await;
    first.1.write_all(b"pong").await.unwrap();
    first.1.flush().await.unwrap();
    first.0.read_exact(&mut [0; 4]).await.unwrap();
    let second = connect(server.current(), client, "gw.example.com").await.unwrap();
    assert_eq!(second.0.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn roots_come_from_files_and_faults_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let two = format!("{}{}", authority().certificate, authority().certificate);
    std::fs::write(folder.path().join("cas.pem"), two).unwrap();
    let trust = |file: &str| Trust { system: false, files: vec![file.into()] };
    assert_eq!(roots(&trust("cas.pem"), folder.path()).unwrap().len(), 2);
    std::fs::write(folder.path().join("bad.pem"), "nothing").unwrap();
    for file in ["bad.pem", "absent.pem"] {
        let error = roots(&trust(file), folder.path()).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
    assert!(roots(&Trust { system: false, files: vec![] }, folder.path()).unwrap().is_empty());
}

#[test]
fn inner_name_is_a_name() {
    assert!(matches!(inner_name(), ServerName::DnsName(_)));
}
