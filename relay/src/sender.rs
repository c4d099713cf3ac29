//! The sender: opens one WebSocket through a hybrid connection, as a byte stream.
use std::{path::Path, sync::Arc};

use identity::token::{Cache, SourceConfig};
use proto::ws::stream::WsStream;
use rustls::ClientConfig;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// `credential: { sas: { rule: …, key: { file: … } } }` or `{ entra: { source: … } }`, of a listener or a sender.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum CredentialConfig {
    /// Mint shared access signatures from a rule's key.
    Sas {
        /// Rule name.
        rule: String,
        /// Its key.
        key: daemon::config::SecretRef,
    },
    /// Ask a token source; audience `https://relay.azure.net`.
    Entra(SourceConfig),
}

/// A credential ready to mint tokens.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A rule and its key.
    Sas {
        /// Rule name.
        rule: String,
        /// Its key.
        key: identity::secret::Secret,
    },
    /// A token cache.
    Entra(Cache),
}

/// `sb://host[:port]/path` (or wss), parsed. `ws://` is for loopback only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Namespace host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Entity path.
    pub path: String,
}

impl std::str::FromStr for Address {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let _ = s;
        todo!()
    }
}

impl CredentialConfig {
    /// Reads keys and starts caches.
    pub fn open(
        &self,
        base: &Path,
        context: &daemon::process::Context,
    ) -> Result<Credential, daemon::config::ConfigError> {
        let _ = (base, context);
        todo!()
    }
}

/// Either transport under a sender's WebSocket.
#[derive(Debug)]
pub enum Transport {
    /// Plain, to a relay on loopback.
    Tcp(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a dial failed: stage and cause.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Upgrade refused or broken.
    #[error("relay refused the sender")]
    Upgrade(#[from] proto::ws::handshake::UpgradeError),
}

/// Connects as a sender. `protocols` are offered as subprotocols. The caller bounds it in time.
pub async fn dial(
    address: &Address,
    credential: &Credential,
    tls: &Arc<ClientConfig>,
    protocols: &[&str],
) -> Result<WsStream<Transport>, DialError> {
    let _ = (address, credential, tls, protocols);
    todo!()
}

impl tokio::io::AsyncRead for Transport {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        _buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        todo!()
    }
}

impl tokio::io::AsyncWrite for Transport {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
        _buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        todo!()
    }
    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        todo!()
    }
}
