//! Why a destination was not reached, and whose doing it was.
use std::io;

use daemon::config::ConfigError;

/// Why no connection to a destination came about.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The host holds characters that no host name has.
    #[error("the host is no host name and no address")]
    Host,
    /// The name has no address.
    #[error("{authority} cannot be found")]
    Resolve {
        /// Host and port.
        authority: String,
        /// Why not.
        source: io::Error,
    },
    /// No address answered.
    #[error("{authority} cannot be reached")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy was in the way.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

impl ReachError {
    /// Nobody was there; a refusal is an answer.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } => true,
            Self::Host => false,
            Self::Proxy(error) => error.is_unreachable(),
        }
    }
}

/// Why a proxy gave no tunnel. `proxy` is its address without credentials.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The proxy's password cannot be read any more.
    #[error("the password for proxy {proxy} cannot be read")]
    Password {
        /// Which proxy.
        proxy: String,
        /// Why not.
        source: ConfigError,
    },
    /// User or password hold bytes that no header may have.
    #[error("user or password for proxy {proxy} hold characters that cannot be sent")]
    Unsendable {
        /// Which proxy.
        proxy: String,
    },
    /// The proxy's name has no address.
    #[error("proxy {proxy} cannot be found")]
    Resolve {
        /// Which proxy.
        proxy: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy cannot be reached.
    #[error("proxy {proxy} cannot be reached")]
    Connect {
        /// Which proxy.
        proxy: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy's certificate does not convince.
    #[error("proxy {proxy} is not trusted")]
    Untrusted {
        /// Which proxy.
        proxy: String,
        /// Why not.
        source: io::Error,
    },
    /// TLS with the proxy failed otherwise.
    #[error("TLS with proxy {proxy} failed")]
    Tls {
        /// Which proxy.
        proxy: String,
        /// Why.
        source: io::Error,
    },
    /// 407, and no user is configured.
    #[error("proxy {proxy} wants to know who asks (407): no user and password are configured for it")]
    LoginWanted {
        /// Which proxy.
        proxy: String,
    },
    /// 407 to the configured user and password.
    #[error("proxy {proxy} does not accept the configured user and password (407)")]
    LoginRefused {
        /// Which proxy.
        proxy: String,
    },
    /// 407, and none of the offered schemes is Basic.
    #[error("proxy {proxy} wants authentication by {offered} (407); only Basic is supported")]
    Scheme {
        /// Which proxy.
        proxy: String,
        /// What it offers.
        offered: String,
    },
    /// Any other answer than 200.
    #[error("proxy {proxy} refused the connection to {authority}: {status} {reason}")]
    Refused {
        /// Which proxy.
        proxy: String,
        /// Where to.
        authority: String,
        /// HTTP status.
        status: u16,
        /// Reason phrase, cleaned.
        reason: String,
    },
    /// The connection broke before an answer.
    #[error("proxy {proxy} closed the connection without an answer")]
    Broken {
        /// Which proxy.
        proxy: String,
        /// How.
        source: io::Error,
    },
    /// The answer is not HTTP, or its head is too large.
    #[error("what proxy {proxy} answers is not HTTP/1.1")]
    NotHttp {
        /// Which proxy.
        proxy: String,
        /// What is wrong.
        source: hyper::Error,
    },
    /// No answer in time.
    #[error("proxy {proxy} did not answer within {0:?}", super::proxy::ANSWER_DEADLINE)]
    Silent {
        /// Which proxy.
        proxy: String,
    },
}

impl ProxyError {
    /// Nobody was there; a refusal is an answer. Statuses from 500 on speak of the destination, not of us.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Password { .. }
            | Self::Unsendable { .. }
            | Self::Untrusted { .. }
            | Self::Tls { .. }
            | Self::LoginWanted { .. }
            | Self::LoginRefused { .. }
            | Self::Scheme { .. }
            | Self::NotHttp { .. } => false,
        }
    }

    /// Whether the proxy asks for a login that it did not get.
    pub fn is_login(&self) -> bool {
        matches!(self, Self::LoginWanted { .. } | Self::LoginRefused { .. } | Self::Scheme { .. })
    }
}
