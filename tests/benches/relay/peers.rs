//! Senders and listeners, as light as they can be: a handshake written by hand, certificates taken as they come, one key
//! exchange that costs the server what it costs any client.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, bail, ensure};
use proto::{
    hybrid::message::Message as Hybrid,
    ws::{
        Role,
        message::{Message, Receiver, Sender, split},
    },
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::world::World;

/// A connection of a peer.
pub(crate) type Stream = TlsStream<TcpStream>;

/// Dials a relay.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: TlsConnector,
}

impl Dialer {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provider = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every handshake is a full one, as after a restart.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls: Arc::new(config).into() })
    }

    /// TCP and TLS.
    pub(crate) async fn connect(&self, address: SocketAddr) -> anyhow::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(self.tls.connect(name(address.ip()), stream).await?)
    }

    /// A whole WebSocket handshake; the error of a refusal names the status.
    pub(crate) async fn upgrade(
        &self,
        address: SocketAddr,
        target: &str,
        token: Option<&str>,
    ) -> anyhow::Result<Stream> {
        let mut stream = self.connect(address).await?;
        let token = token.map(|token| format!("ServiceBusAuthorization: {token}\r\n")).unwrap_or_default();
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{token}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        // The relay says nothing behind its head before we do, so nothing is read too far.
        let mut answer = Vec::with_capacity(512);
        while !answer.ends_with(b"\r\n\r\n") {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection ended before the answer");
            ensure!(answer.len() < 8192, "endless answer");
        }
        let status = std::str::from_utf8(&answer)?.split(' ').nth(1).context("no status")?.to_owned();
        if status != "101" {
            return Err(anyhow::Error::msg(Refused(status)));
        }
        Ok(stream)
    }
}

/// A refused handshake.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.0)
    }
}

/// A control channel.
pub(crate) struct Control {
    receiver: Receiver<Stream>,
    /// Keeps the writing half open.
    _sender: Sender,
    _writing: JoinSet<()>,
}

impl Control {
    /// Opens one on hybrid connection `entity`.
    pub(crate) async fn open(dialer: &Dialer, world: &Seen, entity: usize, index: usize) -> anyhow::Result<Self> {
        let target = format!("/$hc/e{entity}?sb-hc-action=listen&sb-hc-id=listener-{index}");
        let stream = dialer.upgrade(world.address, &target, Some(&world.listen[entity])).await?;
        // Only the relay's pings are to be seen.
        let (sender, receiver, writer) = split(stream, Role::Client, Default::default(), 64 * 1024, PING_NEVER);
        let mut writing = JoinSet::new();
        writing.spawn(writer);
        Ok(Self { receiver, _sender: sender, _writing: writing })
    }

    /// The path and query at which the next sender waits. Answers pings meanwhile.
    pub(crate) async fn accept(&mut self) -> anyhow::Result<String> {
        loop {
            match self.receiver.next().await? {
                Message::Text(text) => {
                    if let Hybrid::Accept(accept) = Hybrid::read(&text)? {
                        let at = accept.address.find("/$hc/").context("an address of the relay")?;
                        return Ok(accept.address[at..].to_owned());
                    }
                }
                Message::Close(_) => bail!("the relay closed"),
                Message::Binary(_) => bail!("a binary message"),
            }
        }
    }
}

/// Longer than any bench.
const PING_NEVER: std::time::Duration = std::time::Duration::from_secs(100_000);

/// What peers know of a world.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) address: SocketAddr,
    pub(crate) listen: Vec<String>,
    pub(crate) send: Vec<String>,
}

impl Seen {
    pub(crate) fn of(world: &World, entities: usize) -> Arc<Self> {
        let names = || (0..entities).map(|index| format!("e{index}"));
        Arc::new(Self {
            address: world.address,
            listen: names().map(|name| world.listen_token(&name)).collect(),
            send: names().map(|name| world.send_token(&name)).collect(),
        })
    }
}

fn name(ip: IpAddr) -> ServerName<'static> {
    ServerName::from(ip)
}

/// Checks nothing: what a client spends on certificates is not what is measured.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
