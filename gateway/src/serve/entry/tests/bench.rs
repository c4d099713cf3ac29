//! A tunnel port's entry without the gateway behind it.

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderMap, Uri};
use identity::{
    ca::{Authority, Leaf, LeafRequest},
    tls::{
        Clients, ServerTls,
        cluster::{ClusterTrust, inner_name},
    },
};
use proto::ws::{Role, handshake, stream::WsStream};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::serve::{
    cluster::ALPN,
    config::Listen,
    entry::{Admitted, Refusal, admit, gate::Gate, peeked::ALLOWANCE},
};

/// What every HTTP/2 connection begins with.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(super) struct Bench {
    listener: TcpListener,
    pub(super) listen: Listen,
    tls: ServerTls,
    authority: Authority,
    gate: Arc<Gate>,
}

impl Bench {
    pub(super) async fn new(listen: &str) -> Self {
        let authority = Authority::generate("test", DAY).unwrap();
        let Leaf { certificate, key } = leaf(&authority, "causeway://factory-a", false);
        let clients = Clients { ca: &authority.certificate, crl: None };
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            listen: serde_saphyr::from_str(&format!("address: 127.0.0.1:0\n{listen}")).unwrap(),
            tls: ServerTls::from_pem_with_clients(&certificate, key.expose(), clients, ALPN).unwrap(),
            authority,
            gate: Gate::new(8, 8),
        }
    }

    /// Runs a client against the entry; both results.
    pub(super) async fn run<T, F: Future<Output = T>>(
        &self,
        client: impl FnOnce(TcpStream) -> F,
    ) -> (Result<Admitted, Refusal>, T) {
        let stream = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (tcp, peer) = self.listener.accept().await.unwrap();
        let ticket = self.gate.enter().unwrap();
        tokio::join!(Box::pin(admit(tcp, peer, &self.listen, &self.tls, ticket)), client(stream))
    }

    /// Runs a client that ends by sending the HTTP/2 preface, which must come out; then as much as any tunnel carries,
    /// because what limits a peer that has proven nothing must not outlive its handshakes. Says how it came in.
    pub(super) async fn preface<IO, F>(&self, client: impl FnOnce(TcpStream) -> F) -> Admitted
    where
        IO: AsyncWrite + Unpin,
        F: Future<Output = IO>,
    {
        let (admitted, client) = self.run(client).await;
        let mut admitted = admitted.unwrap();
        let mut preface = [0; 24];
        admitted.io.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, PREFACE);
        let mut carried = vec![0; 4 * ALLOWANCE];
        let bulk = vec![7; 4 * ALLOWANCE];
        let (read, _client) = tokio::join!(admitted.io.read_exact(&mut carried), send(client, &bulk));
        read.unwrap();
        assert_eq!(carried, bulk);
        admitted
    }

    pub(super) fn trust(&self) -> ClusterTrust {
        ClusterTrust::new("factory-a", &[&self.authority.certificate], &[]).unwrap()
    }

    /// TLS as the connector speaks it to the gateway itself.
    pub(super) async fn tls<IO>(&self, io: IO, alpn: &[&[u8]]) -> TlsStream<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.trust().direct_client(RootCertStore::empty(), alpn);
        TlsConnector::from(config).connect(inner_name(), io).await.unwrap()
    }

    /// The inner session.
    pub(super) async fn inner<IO>(&self, io: IO) -> TlsStream<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.trust().inner_client(None).unwrap()).connect(inner_name(), io).await.unwrap()
    }

    /// A client's certificate signed by the test's CA.
    pub(super) fn client_certificate(&self, uri: &str) -> identity::tls::cluster::ClientCertificate {
        let Leaf { certificate, key } = leaf(&self.authority, uri, true);
        identity::tls::cluster::ClientCertificate { certificate, key }
    }

    /// TLS 1.2 alone, as the connector never speaks it.
    pub(super) async fn tls12<IO>(&self, io: IO, alpn: &[u8]) -> std::io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(identity::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config)).connect("gw.example.com".try_into().unwrap(), io).await
    }
}

fn leaf(authority: &Authority, uri: &str, client: bool) -> Leaf {
    let request = LeafRequest {
        name: "leaf".into(),
        hosts: vec!["gw.example.com".to_owned()],
        uris: vec![uri.to_owned()],
        life: DAY,
        client,
    };
    authority.issue(&request).unwrap()
}

/// The WebSocket upgrade as the connector does it.
pub(super) async fn websocket<IO>(io: IO) -> WsStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let uri: Uri = format!("http://gateway{}", proto::tunnel::UPGRADE_PATH).parse().unwrap();
    let upgraded = handshake::client(io, &uri, HeaderMap::new(), &[proto::tunnel::SUBPROTOCOL]).await.unwrap();
    assert_eq!(upgraded.protocol.as_deref(), Some(proto::tunnel::SUBPROTOCOL));
    WsStream::new(upgraded.io, Role::Client, BytesMut::from(&upgraded.read_ahead[..]))
}

/// Sends and flushes; gives the stream back, so that it stays open.
pub(super) async fn send<IO: AsyncWrite + Unpin>(mut io: IO, bytes: &[u8]) -> IO {
    io.write_all(bytes).await.unwrap();
    io.flush().await.unwrap();
    io
}

/// An HTTP/1.1 request in text; the whole answer until the gateway closes.
pub(super) async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A reset after the answer is as good an end as any.
    let _ = io.read_to_string(&mut answer).await;
    answer
}

/// The upgrade request in text, with some lines replaced or added.
pub(super) fn upgrade_request(path: &str, lines: &[&str]) -> String {
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n");
    let usual = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol: causeway.v1",
    ];
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    for line in usual.iter().filter(|line| !lines.iter().any(|other| name(other) == name(line))).chain(lines) {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request + "\r\n"
}
