//! Why a way did not become a tunnel: at which stage, under which stable code, and what to do. Codes are C201 and up and
//! never change their meaning.
use std::{fmt, io, time::Duration};

use proto::{
    tunnel::{client::ConnectionError, failure::Failure},
    ws::handshake::UpgradeError,
};
use relay::{dial::ReachError, sender::DialError};

/// How far a way had come, in the order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Getting the connector's own token. Nothing of it is sent before the proof.
    Token,
    /// Resolving the host.
    Dns,
    /// Connecting.
    Tcp,
    /// Having the proxy connect.
    Proxy,
    /// The outer TLS session.
    Tls,
    /// The WebSocket upgrade.
    Upgrade,
    /// The inner TLS session, in which the gateway proves its identity.
    InnerTls,
    /// HTTP/2 on the proven session.
    Http2,
    /// `Describe`, which binds the connector's token to the tunnel.
    Describe,
}

impl Stage {
    /// Stable name, as in logs and `/statusz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Upgrade => "upgrade",
            Self::InnerTls => "inner_tls",
            Self::Http2 => "http2",
            Self::Describe => "describe",
        }
    }
}

/// The catalogue of reasons why a way failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WayCode {
    /// C201: the address refused the connection.
    Refused,
    /// C202: the host has no address.
    Unresolved,
    /// C203: the address did not answer.
    Unreachable,
    /// C204: the outer TLS session failed.
    TlsFailed,
    /// C205: the relay's certificate is not trusted.
    RelayUntrusted,
    /// C206: the server did not upgrade to WebSocket.
    UpgradeRefused,
    /// C207: the relay refused the credential.
    RelayDenied,
    /// C208: no listener holds the hybrid connection.
    NoListener,
    /// C209: the upgrade broke or was no WebSocket.
    UpgradeBroken,
    /// C210: the peer did not prove to be the cluster's gateway.
    IdentityMismatch,
    /// C211: the inner TLS session failed before the proof.
    InnerTlsFailed,
    /// C212: HTTP/2 failed.
    Http2Failed,
    /// C213: the gateway refused the connector.
    DescribeRefused,
    /// C214: the connector has no token of its own.
    TokenUnavailable,
    /// C215: one step used up the time for all.
    TimedOut,
    /// C216: the trust file cannot be used.
    TrustUnusable,
    /// C217: the proxy gave no connection.
    ProxyFailed,
    /// C218: the proxy wants a login that it did not get.
    ProxyDenied,
}

impl WayCode {
    /// Every code, in the order of their numbers.
    pub const ALL: &[Self] = &[
        Self::Refused,
        Self::Unresolved,
        Self::Unreachable,
        Self::TlsFailed,
        Self::RelayUntrusted,
        Self::UpgradeRefused,
        Self::RelayDenied,
        Self::NoListener,
        Self::UpgradeBroken,
        Self::IdentityMismatch,
        Self::InnerTlsFailed,
        Self::Http2Failed,
        Self::DescribeRefused,
        Self::TokenUnavailable,
        Self::TimedOut,
        Self::TrustUnusable,
        Self::ProxyFailed,
        Self::ProxyDenied,
    ];

    /// The number that people quote.
    pub fn id(self) -> &'static str {
        match self {
            Self::Refused => "C201",
            Self::Unresolved => "C202",
            Self::Unreachable => "C203",
            Self::TlsFailed => "C204",
            Self::RelayUntrusted => "C205",
            Self::UpgradeRefused => "C206",
            Self::RelayDenied => "C207",
            Self::NoListener => "C208",
            Self::UpgradeBroken => "C209",
            Self::IdentityMismatch => "C210",
            Self::InnerTlsFailed => "C211",
            Self::Http2Failed => "C212",
            Self::DescribeRefused => "C213",
            Self::TokenUnavailable => "C214",
            Self::TimedOut => "C215",
            Self::TrustUnusable => "C216",
            Self::ProxyFailed => "C217",
            Self::ProxyDenied => "C218",
        }
    }

    /// Stable name, for logs and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::TlsFailed => "tls_failed",
            Self::RelayUntrusted => "relay_untrusted",
            Self::UpgradeRefused => "upgrade_refused",
            Self::RelayDenied => "relay_denied",
            Self::NoListener => "no_listener",
            Self::UpgradeBroken => "upgrade_broken",
            Self::IdentityMismatch => "identity_mismatch",
            Self::InnerTlsFailed => "inner_tls_failed",
            Self::Http2Failed => "http2_failed",
            Self::DescribeRefused => "describe_refused",
            Self::TokenUnavailable => "token_unavailable",
            Self::TimedOut => "timed_out",
            Self::TrustUnusable => "trust_unusable",
            Self::ProxyFailed => "proxy_failed",
            Self::ProxyDenied => "proxy_denied",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Refused => "nothing accepts connections at this address and port",
            Self::Unresolved => "the name has no address",
            Self::Unreachable => "no connection to the address came about",
            Self::TlsFailed => "the outer TLS session failed for a reason other than the certificate",
            Self::RelayUntrusted => "the relay's certificate was not issued by a trusted root, or not for this name",
            Self::UpgradeRefused => "the server answered the WebSocket upgrade with another status",
            Self::RelayDenied => "the relay refused the credential for this hybrid connection",
            Self::NoListener => "the hybrid connection does not exist or no listener is connected to it",
            Self::UpgradeBroken => "the connection broke during the upgrade, or the answer is no WebSocket",
            Self::IdentityMismatch => {
                "the peer's certificate is not one of the cluster's gateway; nothing was sent to it and no weaker form is tried"
            }
            Self::InnerTlsFailed => "the inner TLS session broke before the gateway had proven its identity",
            Self::Http2Failed => "HTTP/2 failed on the proven session",
            Self::DescribeRefused => "the gateway refused the connector's first call",
            Self::TokenUnavailable => "the connector could not get a token of its own",
            Self::TimedOut => "one step used up the time that all steps together have",
            Self::TrustUnusable => "the cluster's trust file is missing or damaged",
            Self::ProxyFailed => "the proxy on the way out cannot be reached or refused the connection",
            Self::ProxyDenied => {
                "the proxy on the way out wants a user and password that it did not get or does not accept"
            }
        }
    }

    /// The next thing to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Refused => "check host and port, and that the gateway or relay runs there",
            Self::Unresolved => "check the name in `ways` and this machine's DNS",
            Self::Unreachable => "check routes and firewalls between here and the address",
            Self::TlsFailed => "see the cause; a proxy that intercepts TLS is the usual one",
            Self::RelayUntrusted => {
                "add the issuing CA to `trust.files`, or use the name that the certificate was issued for"
            }
            Self::UpgradeRefused => {
                "check that the port is a gateway's tunnel port and that proxies on the way let WebSocket through"
            }
            Self::RelayDenied => {
                "check rule name and key of the credential: it needs the right to send on this hybrid connection"
            }
            Self::NoListener => "start the listener in the cluster, or correct the path of the hybrid connection",
            Self::UpgradeBroken => "see the cause; check proxies on the way",
            Self::IdentityMismatch => {
                "if the cluster's CA was rotated, this trust file is from before: ask the cluster owner for a new one (`gateway trust export`), compare its fingerprint, and set `trust.follow` to miss none any more; if the file is right, somebody else answers"
            }
            Self::InnerTlsFailed => "check that the listener forwards to the gateway's tunnel port",
            Self::Http2Failed => "compare the versions of both sides",
            Self::DescribeRefused => {
                "see the gateway's reason: the token's audience and a `describe` rule for this connector"
            }
            Self::TokenUnavailable => "see the cause; check the cluster's `token` section",
            Self::TimedOut => "see the stage: whoever answers there is overloaded or silent",
            Self::TrustUnusable => "fetch it again with `gateway trust export`",
            Self::ProxyFailed => {
                "see the cause; check the proxy in `proxy` or HTTPS_PROXY and that it allows this host and port, or name the host in `no_proxy`"
            }
            Self::ProxyDenied => {
                "set `user` and `password` in the `proxy` section; only Basic authentication is supported"
            }
        }
    }
}

impl fmt::Display for WayCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// What happened beneath.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The operating system or TLS.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The upgrade.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The relay's sender.
    #[error(transparent)]
    Relay(#[from] DialError),
    /// The way out.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// HTTP/2.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The gateway's answer.
    #[error("{}: {}", .0.code.name(), .0.message)]
    Refused(Failure),
    /// No token.
    #[error(transparent)]
    Token(#[from] identity::token::TokenError),
    /// The trust file.
    #[error(transparent)]
    Trust(#[from] super::proof::ProofError),
    /// No answer within this time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// Something for which there is no error value.
    #[error("{0}")]
    Said(&'static str),
}

/// A way that failed. The remedy is the code's.
#[derive(Debug, thiserror::Error)]
#[error("{} ({code}) at {}: {}", code.name(), stage.name(), code.meaning())]
pub struct WayError {
    /// Which step failed.
    pub stage: Stage,
    /// Which of the known reasons it is.
    pub code: WayCode,
    /// What lies beneath.
    #[source]
    pub cause: Cause,
}

impl WayError {
    pub(crate) fn new(stage: Stage, code: WayCode, cause: impl Into<Cause>) -> Self {
        Self { stage, code, cause: cause.into() }
    }

    /// How long the server asks us to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.cause {
            Cause::Upgrade(UpgradeError::Refused { retry_after, .. }) => *retry_after,
            Cause::Relay(error) => error.retry_after(),
            Cause::Token(error) => error.retry_after,
            _ => None,
        }
    }

    /// The whole chain of causes on one line.
    pub fn explained(&self) -> String {
        let mut text = self.cause.to_string();
        let mut next = std::error::Error::source(&self.cause);
        while let Some(error) = next {
            let said = error.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            next = error.source();
        }
        text
    }
}

/// Sorts a failure of the way out into the catalogue.
pub(crate) fn of_reach(error: ReachError) -> WayError {
    let (stage, code) = reached(&error);
    WayError::new(stage, code, error)
}

fn reached(error: &ReachError) -> (Stage, WayCode) {
    match error {
        ReachError::Host | ReachError::Resolve { .. } => (Stage::Dns, WayCode::Unresolved),
        ReachError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            (Stage::Tcp, WayCode::Refused)
        }
        ReachError::Connect { .. } => (Stage::Tcp, WayCode::Unreachable),
        ReachError::Proxy(error) if error.is_login() => (Stage::Proxy, WayCode::ProxyDenied),
        ReachError::Proxy(_) => (Stage::Proxy, WayCode::ProxyFailed),
    }
}

/// Sorts a failure of the relay's sender into the catalogue.
pub(crate) fn of_relay(error: DialError) -> WayError {
    let (stage, code) = match &error {
        DialError::Key(_) | DialError::Token(_) | DialError::Unsendable => (Stage::Token, WayCode::TokenUnavailable),
        DialError::Reach(error) => reached(error),
        DialError::Untrusted { .. } => (Stage::Tls, WayCode::RelayUntrusted),
        DialError::Tls { .. } => (Stage::Tls, WayCode::TlsFailed),
        DialError::Upgrade(UpgradeError::Refused { status, .. }) => {
            let code = match status {
                401 | 403 => WayCode::RelayDenied,
                404 | 502 | 504 => WayCode::NoListener,
                _ => WayCode::UpgradeRefused,
            };
            (Stage::Upgrade, code)
        }
        DialError::Upgrade(_) => (Stage::Upgrade, WayCode::UpgradeBroken),
        DialError::TooSlow(_) => (Stage::Upgrade, WayCode::TimedOut),
    };
    WayError::new(stage, code, error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_numbered_in_order_and_named_once() {
        let ids: Vec<_> = WayCode::ALL.iter().map(|code| code.id()).collect();
        let expected: Vec<_> = (201..).take(ids.len()).map(|number| format!("C{number}")).collect();
        assert_eq!(ids, expected);
        assert_eq!(WayCode::ALL.iter().map(|code| code.name()).collect::<BTreeSet<_>>().len(), ids.len());
    }

    #[test]
    fn an_error_tells_stage_code_and_cause() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = WayError::new(Stage::Tcp, WayCode::Refused, refused);
        assert!(error.to_string().starts_with("refused (C201) at tcp: "), "{error}");
        assert!(error.explained().contains("refused"));
    }
}
