//! How connections leave this process: straight, or through an HTTP proxy (`CONNECT`), for control channels, rendezvous,
//! senders and direct ways alike.
//!
//! A [`Dialer`] is made once from `proxy:` and decides for each host and port. Loopback is never proxied, whatever is
//! configured. A name that goes through a proxy is resolved by the proxy and by nobody else; so a caller that must see
//! the addresses first asks for the [`Route`] and looks at [`Route::addresses`], which only a straight route has.
//! A failure says whether the proxy or the destination is to blame, and never holds a credential.
mod carrier;
mod config;
mod environment;
mod error;
mod no_proxy;
mod proxy;
#[cfg(test)]
mod tests;
mod tunnel;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use daemon::config::ConfigError;
use identity::tls::Trust;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

pub use self::{
    carrier::Carrier,
    config::{ProxyConfig, ProxySettings},
    error::{ProxyError, ReachError},
    proxy::Proxy,
};
use self::{environment::from_environment, no_proxy::NoProxy};
use crate::transport;

/// Time for one address, so that a dead one leaves time for the next within the caller's deadline.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(4);

/// Addresses tried: more would not fit into any caller's deadline.
const ADDRESSES_MAX: usize = 4;

/// Decides for each destination how it is reached, and connects. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    proxy: Option<Arc<Proxy>>,
    except: Arc<NoProxy>,
}

impl Dialer {
    /// From a `proxy:` section. `trust` is the program's own, which also vouches for an `https://` proxy unless the
    /// section names another. The environment is read here and never again.
    pub fn open(config: &ProxyConfig, trust: &Trust, base: &Path) -> Result<Self, ConfigError> {
        let invalid = |key: &str, message: String| ConfigError::Invalid {
            path: base.to_owned(),
            key: if key.is_empty() { "proxy".to_owned() } else { format!("proxy.{key}") },
            message,
        };
        let (proxy, except) = match config {
            ProxyConfig::None => (None, NoProxy::default()),
            ProxyConfig::FromEnvironment => {
                let (proxy, except) = from_environment(|name| std::env::var_os(name), trust, base)
                    .map_err(|message| invalid("", message))?;
                (proxy, except)
            }
            ProxyConfig::Settings(settings) => {
                let proxy = Proxy::open(settings, trust, base).map_err(|(key, message)| invalid(key, message))?;
                let except = NoProxy::strict(&settings.no_proxy).map_err(|message| invalid("no_proxy", message))?;
                (Some(proxy), except)
            }
        };
        Ok(Self { proxy: proxy.map(Arc::new), except: Arc::new(except) })
    }

    /// The proxy, if there is one, whether or not a destination goes through it.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_deref()
    }

    /// How a destination is reached. Straight, its name is resolved here.
    pub async fn route(&self, host: &str, port: u16) -> Result<Route, ReachError> {
        if !is_host(host) {
            return Err(ReachError::Host);
        }
        let by = match &self.proxy {
            Some(proxy) if !self.except.covers(host, port) => By::Proxy(Arc::clone(proxy)),
            _ => By::Straight(resolve(host, port).await?),
        };
        Ok(Route { host: host.to_owned(), port, by })
    }

    /// Connects to a destination whose addresses need no check.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Carrier, ReachError> {
        self.route(host, port).await?.connect().await
    }
}

/// A decided way to one destination.
#[derive(Debug)]
pub struct Route {
    host: String,
    port: u16,
    by: By,
}

#[derive(Debug)]
enum By {
    Straight(Vec<SocketAddr>),
    Proxy(Arc<Proxy>),
}

impl Route {
    /// The addresses one of which will be connected to; none where a proxy resolves the name.
    pub fn addresses(&self) -> Option<&[SocketAddr]> {
        match &self.by {
            By::Straight(addresses) => Some(addresses),
            By::Proxy(_) => None,
        }
    }

    /// The proxy in between, if any.
    pub fn proxy(&self) -> Option<&Proxy> {
        match &self.by {
            By::Straight(_) => None,
            By::Proxy(proxy) => Some(proxy),
        }
    }

    /// Connects to one of [`Self::addresses`], for a caller who chooses among them.
    pub async fn connect_to(&self, address: SocketAddr) -> Result<Carrier, ReachError> {
        let failed = |source| ReachError::Connect { authority: authority(&self.host, self.port), source };
        first_of(&[address]).await.map(Carrier::Straight).map_err(failed)
    }

    /// Connects. The caller bounds all of it in time; single steps have bounds of their own.
    pub async fn connect(&self) -> Result<Carrier, ReachError> {
        match &self.by {
            By::Straight(addresses) => {
                let failed = |source| ReachError::Connect { authority: authority(&self.host, self.port), source };
                first_of(addresses).await.map(Carrier::Straight).map_err(failed)
            }
            By::Proxy(proxy) => Ok(proxy.connect(&self.host, self.port).await?),
        }
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ReachError> {
    let failed = |source| ReachError::Resolve { authority: authority(host, port), source };
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(failed)?.collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// TCP to the first of these addresses that answers.
async fn first_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        last = match timeout(ADDRESS_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                transport::prepare(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ADDRESS_DEADLINE:?}")),
        };
    }
    Err(last)
}

/// Only what a host name or address is made of ever reaches a resolver or a request line: nothing that could end the
/// line, and nothing that two parsers could read in two ways.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match host.contains(':') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => !host.is_empty() && host.len() <= 255 && host.bytes().all(plain),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
