//! The sender: opens one WebSocket through a hybrid connection, as a byte stream. Also what a listener shares with it:
//! addresses, credentials and the dial.
mod address;
mod credential;

use std::{io, net::SocketAddr, sync::Arc};

use http::{HeaderMap, Uri};
use identity::token::TokenError;
use proto::{
    hybrid::{TOKEN_HEADER, address::connect_target, new_id},
    ws::{Role, handshake, stream::WsStream},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::{
    address::{Address, AddressError},
    credential::{Credential, CredentialConfig, KeyFile, Minted, TOKEN_LIFE},
};
use crate::transport::{self, Link};

/// Either transport under a sender's WebSocket.
pub type Transport = Link<TlsStream<TcpStream>>;

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
    /// The relay's name has no address.
    #[error("relay {authority} cannot be found")]
    Resolve {
        /// Host and port.
        authority: String,
        /// Why not.
        source: io::Error,
    },
    /// The relay cannot be reached.
    #[error("relay {authority} cannot be reached")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why not.
        source: io::Error,
    },
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
}

impl DialError {
    /// How long the relay asks us to stay away.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::Upgrade(handshake::UpgradeError::Refused { retry_after, .. }) => *retry_after,
            Self::Token(error) => error.retry_after,
            _ => None,
        }
    }
}

/// Connects as a sender. `protocols` are offered as subprotocols. The caller bounds it in time; a relay may take 30 s to
/// find a listener that accepts.
pub async fn dial(
    address: &Address,
    credential: &Credential,
    tls: &Arc<ClientConfig>,
    protocols: &[&str],
) -> Result<WsStream<Transport>, DialError> {
    let token = credential.mint(address).await?;
    let headers = token_headers(&token)?;
    let stream = connect(address).await?;
    let upgraded = upgrade(stream, address, &connect_target(&address.path, &new_id()), tls, headers, protocols).await?;
    Ok(WsStream::new(upgraded.io, Role::Client, upgraded.read_ahead))
}

/// The header that carries a token.
pub(crate) fn token_headers(token: &Minted) -> Result<HeaderMap, DialError> {
    let mut headers = HeaderMap::new();
    headers.insert(TOKEN_HEADER, token.secret.header("").ok_or(DialError::Unsendable)?);
    Ok(headers)
}

/// TCP to the relay; every address of its name is tried.
pub(crate) async fn connect(address: &Address) -> Result<TcpStream, DialError> {
    let authority = || address.authority();
    let resolved: Vec<SocketAddr> = lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|source| DialError::Resolve { authority: authority(), source })?
        .collect();
    connect_to(address, &resolved).await
}

/// TCP to the first of these addresses that answers.
pub(crate) async fn connect_to(address: &Address, resolved: &[SocketAddr]) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Connect { authority: address.authority(), source };
    let stream = TcpStream::connect(resolved).await.map_err(failed)?;
    transport::prepare(&stream).map_err(failed)?;
    Ok(stream)
}

/// TLS, where the address asks for it, and the upgrade.
pub(crate) async fn upgrade(
    stream: TcpStream,
    address: &Address,
    target: &str,
    tls: &Arc<ClientConfig>,
    headers: HeaderMap,
    protocols: &[&str],
) -> Result<handshake::Upgraded<Transport>, DialError> {
    let authority = address.authority();
    let io = if address.tls {
        let failed = |source| DialError::Tls { authority: authority.clone(), source };
        let name = ServerName::try_from(address.host.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        match TlsConnector::from(tls.clone()).connect(name, stream).await {
            Ok(stream) => Link::Tls(Box::new(stream)),
            Err(source) if is_untrusted(&source) => return Err(DialError::Untrusted { authority, source }),
            Err(source) => return Err(failed(source)),
        }
    } else {
        Link::Tcp(stream)
    };
    let scheme = if address.tls { "wss" } else { "ws" };
    let uri = format!("{scheme}://{authority}{target}")
        .parse::<Uri>()
        .map_err(|error| handshake::UpgradeError::Request(error.into()))?;
    Ok(handshake::client(io, &uri, headers, protocols).await?)
}

fn is_untrusted(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
