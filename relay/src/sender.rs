//! The sender: opens WebSockets through hybrid connections, as byte streams. Also what a listener shares with it:
//! addresses, credentials and the dial.
//!
//! A sender is given its identity ([`Credential`]), a way out ([`Dialer`]) and TLS once, and then dials any number of
//! addresses. A refusal comes with the relay's status and reason ([`DialError::refusal`]). Against a relay of ours the
//! sender learns which listener it was joined with ([`Connected::listener`]) and can dial past it ([`Request::avoid`]).
//!
//! ```no_run
//! use std::path::Path;
//!
//! use identity::tls::{self, Trust};
//! use relay::{
//!     dial::{Dialer, ProxyConfig},
//!     sender::{Credential, Join, Request, Sender},
//! };
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let here = Path::new(".");
//! let trust = Trust::default();
//! let dialer = Dialer::open(&ProxyConfig::FromEnvironment, &trust, here)?;
//! let sender = Sender::new(dialer, tls::client(tls::roots(&trust, here)?, &[b"http/1.1"]));
//!
//! // A connection string, as Azure shows it and as `relay entity add` writes it.
//! let join = Join::parse(&std::fs::read_to_string("send.join")?)?;
//! let credential = Credential::from(join.login);
//! let mut stream = match sender.dial(&join.address, &credential, Request::default()).await {
//!     Ok(connected) => connected.stream,
//!     Err(error) => {
//!         if let Some((status, reason)) = error.refusal() {
//!             eprintln!("the relay or its listener said {status} {reason}");
//!         }
//!         return Err(error.into());
//!     }
//! };
//! stream.write_all(b"hello").await?;
//! // Our direction ends; what the listener still sends comes.
//! stream.shutdown().await?;
//! let mut answer = Vec::new();
//! stream.read_to_end(&mut answer).await?;
//! # Ok(())
//! # }
//! ```
mod access;
mod address;
mod credential;
mod join;

use std::{io, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use identity::token::TokenError;
use proto::{
    hybrid::{ID_MAX, TOKEN_HEADER, address::connect_target, new_id},
    tunnel::SUBPROTOCOL,
    ws::{Role, handshake, stream::WsStream},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) use self::credential::{AZURE_AUDIENCE, is_azure};
pub use self::{
    access::Access,
    address::{Address, AddressError},
    credential::{Credential, CredentialConfig, Minted, TOKEN_LIFE},
    join::{Join, JoinError, JoinFile, JoinLogin},
};
use crate::{
    dial::{Carrier, Dialer, ReachError},
    transport::{Ahead, Link, is_untrusted},
};

/// Time for one dial. A relay may take 30 s to find a listener that accepts, and says why when it finds none; so its
/// answer comes first. The SDKs wait as long.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(70);

/// Names the listener that a sender was joined with, in a relay's 101.
const LISTENER: HeaderName = HeaderName::from_static(proto::hybrid::LISTENER_HEADER);

/// Names listeners that a sender must not be joined with.
const DISALLOWED: HeaderName = HeaderName::from_static("microsoft-relay-disallowedlisteners");

/// Either transport under a sender's WebSocket.
pub type Transport = Link<TlsStream<Ahead<Carrier>>, Carrier>;

/// Why a dial failed: stage and cause.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The key of a rule cannot be read any more.
    #[error("the relay credential cannot be read")]
    Key(#[source] daemon::config::ConfigError),
    /// No token source gave a token.
    #[error("no token for the relay")]
    Token(#[source] TokenError),
    /// What the source gave cannot stand in a header.
    #[error("the token for the relay holds bytes that no header may have")]
    Unsendable,
    /// The relay cannot be found or reached, or the proxy before it refused.
    #[error("no connection to the relay")]
    Reach(#[from] ReachError),
    /// The relay's certificate does not convince: issued by nobody whom we trust, for another name, or expired.
    #[error("relay {authority} is not trusted")]
    Untrusted {
        /// Host and port.
        authority: String,
        /// Why not.
        source: io::Error,
    },
    /// TLS failed before or after that, or the peer speaks no TLS.
    #[error("TLS with relay {authority} failed")]
    Tls {
        /// Host and port.
        authority: String,
        /// Why.
        source: io::Error,
    },
    /// Upgrade refused or broken.
    #[error("relay refused the connection")]
    Upgrade(#[from] handshake::UpgradeError),
    /// No answer in time.
    #[error("no connection within {0:?}")]
    TooSlow(Duration),
}

impl DialError {
    /// How long the relay asks us to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upgrade(handshake::UpgradeError::Refused { retry_after, .. }) => *retry_after,
            Self::Token(error) => error.retry_after,
            _ => None,
        }
    }

    /// Status and reason of the relay, or of the listener that rejected through it, when it answered.
    pub fn refusal(&self) -> Option<(u16, &str)> {
        match self {
            Self::Upgrade(handshake::UpgradeError::Refused { status, reason, .. }) => Some((*status, reason)),
            _ => None,
        }
    }
}

/// Opens WebSockets through hybrid connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    dialer: Dialer,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

/// What one dial asks for besides the connection.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// Subprotocols, the most wanted first.
    pub protocols: &'a [&'a str],
    /// Fields that the listener sees among `connectHeaders`. Credentials in them must be marked sensitive.
    pub headers: HeaderMap,
    /// Ids of listeners that must not be chosen; where there are no others, the relay answers 404.
    pub avoid: &'a [String],
}

/// An open connection.
#[derive(Debug)]
pub struct Connected {
    /// Bytes to and from the listener's application.
    pub stream: WsStream<Transport>,
    /// The subprotocol that the listener chose.
    pub protocol: Option<String>,
    /// Id of the listener, where the relay says it.
    pub listener: Option<String>,
}

impl Sender {
    /// A sender that waits [`DIAL_TIMEOUT`] for each dial.
    pub fn new(dialer: Dialer, tls: Arc<ClientConfig>) -> Self {
        Self { dialer, tls, timeout: DIAL_TIMEOUT }
    }

    /// The same with another time for each dial.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How its connections leave.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Opens one connection.
    pub async fn dial(
        &self,
        address: &Address,
        credential: &Credential,
        request: Request<'_>,
    ) -> Result<Connected, DialError> {
        let dialled = Box::pin(self.steps(address, credential, request));
        timeout(self.timeout, dialled).await.unwrap_or(Err(DialError::TooSlow(self.timeout)))
    }

    async fn steps(
        &self,
        address: &Address,
        credential: &Credential,
        request: Request<'_>,
    ) -> Result<Connected, DialError> {
        let token = credential.mint(address).await?;
        let mut headers = request.headers;
        headers.extend(token_headers(&token)?);
        if !request.avoid.is_empty() {
            let avoid = HeaderValue::from_str(&request.avoid.join(",")).map_err(|_| DialError::Unsendable)?;
            headers.insert(DISALLOWED, avoid);
        }
        let carrier = self.dialer.connect(&address.host, address.port).await?;
        let target = connect_target(&address.path, &new_id());
        let upgraded = upgrade(carrier, address, &target, &self.tls, headers, request.protocols).await?;
        let stream = WsStream::new(upgraded.io, Role::Client, upgraded.read_ahead);
        // In our own subprotocol text messages are notices.
        let noticed = upgraded.protocol.as_deref() == Some(SUBPROTOCOL);
        Ok(Connected {
            stream: if noticed { stream } else { stream.with_text() },
            protocol: upgraded.protocol,
            listener: listener(&upgraded.headers),
        })
    }
}

/// The listener's id, if it is one that can be sent back and logged.
fn listener(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(LISTENER)?.to_str().ok()?;
    let is_id = (1..=ID_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    is_id.then(|| id.to_owned())
}

/// The header that carries a token.
pub(crate) fn token_headers(token: &Minted) -> Result<HeaderMap, DialError> {
    let mut headers = HeaderMap::new();
    headers.insert(TOKEN_HEADER, token.secret.header("").ok_or(DialError::Unsendable)?);
    Ok(headers)
}

/// TLS, where the address asks for it, and the upgrade.
pub(crate) async fn upgrade(
    carrier: Carrier,
    address: &Address,
    target: &str,
    tls: &Arc<ClientConfig>,
    headers: HeaderMap,
    protocols: &[&str],
) -> Result<handshake::Upgraded<Transport>, DialError> {
    shake(secure(carrier, address, tls).await?, address, target, headers, protocols).await
}

/// TLS, where the address asks for it.
pub(crate) async fn secure(
    carrier: Carrier,
    address: &Address,
    tls: &Arc<ClientConfig>,
) -> Result<Transport, DialError> {
    if !address.tls {
        return Ok(Link::Tcp(carrier));
    }
    let authority = address.authority();
    let failed = |source| DialError::Tls { authority: authority.clone(), source };
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    match TlsConnector::from(tls.clone()).connect(name, Ahead::new(carrier)).await {
        Ok(stream) => Ok(Link::Tls(Box::new(stream))),
        Err(source) if is_untrusted(&source) => Err(DialError::Untrusted { authority, source }),
        Err(source) => Err(failed(source)),
    }
}

/// The upgrade.
pub(crate) async fn shake(
    io: Transport,
    address: &Address,
    target: &str,
    headers: HeaderMap,
    protocols: &[&str],
) -> Result<handshake::Upgraded<Transport>, DialError> {
    let scheme = if address.tls { "wss" } else { "ws" };
    let uri = format!("{scheme}://{}{target}", address.authority())
        .parse::<Uri>()
        .map_err(|error| handshake::UpgradeError::Request(error.into()))?;
    Ok(handshake::client(io, &uri, headers, protocols).await?)
}
