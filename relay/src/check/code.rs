//! The catalogue of what a check finds. Codes are R101 and up and never change their meaning.
use std::fmt;

/// One kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// R101: the relay's name has no address.
    NameUnknown,
    /// R102: no TCP connection to the relay.
    Unreachable,
    /// R103: the proxy gave no connection.
    ProxyFailed,
    /// R104: TLS is vouched for by no public authority.
    Intercepted,
    /// R105: the proxy wants a login.
    ProxyLogin,
    /// R106: the certificate is not trusted.
    Untrusted,
    /// R107: TLS failed otherwise.
    TlsFailed,
    /// R108: the WebSocket upgrade did not reach the relay.
    UpgradeStripped,
    /// R109: what answers is no relay.
    NotARelay,
    /// R110: the clocks differ.
    ClockOff,
    /// R111: there is no token.
    TokenUnavailable,
    /// R112: the relay does not accept the token.
    TokenRefused,
    /// R113: the token lacks the right.
    RightMissing,
    /// R114: the credential can do what it should not.
    RightExcess,
    /// R115: the token ends soon and cannot be renewed.
    TokenEnds,
    /// R116: there is no such hybrid connection.
    EntityUnknown,
    /// R117: the hybrid connection takes no more listeners.
    ListenersFull,
    /// R118: nobody listens.
    NoListener,
    /// R119: no round trip.
    NoRoundTrip,
    /// R120: the relay refuses for now.
    Busy,
    /// R121: no answer in time.
    Silent,
    /// R122: the token is one for Azure, and the relay is not Azure's.
    AzureToken,
}

impl Code {
    /// Every code, in the order of their numbers.
    pub const ALL: &[Self] = &[
        Self::NameUnknown,
        Self::Unreachable,
        Self::ProxyFailed,
        Self::Intercepted,
        Self::ProxyLogin,
        Self::Untrusted,
        Self::TlsFailed,
        Self::UpgradeStripped,
        Self::NotARelay,
        Self::ClockOff,
        Self::TokenUnavailable,
        Self::TokenRefused,
        Self::RightMissing,
        Self::RightExcess,
        Self::TokenEnds,
        Self::EntityUnknown,
        Self::ListenersFull,
        Self::NoListener,
        Self::NoRoundTrip,
        Self::Busy,
        Self::Silent,
        Self::AzureToken,
    ];

    /// The number that people quote.
    pub fn id(self) -> &'static str {
        match self {
            Self::NameUnknown => "R101",
            Self::Unreachable => "R102",
            Self::ProxyFailed => "R103",
            Self::Intercepted => "R104",
            Self::ProxyLogin => "R105",
            Self::Untrusted => "R106",
            Self::TlsFailed => "R107",
            Self::UpgradeStripped => "R108",
            Self::NotARelay => "R109",
            Self::ClockOff => "R110",
            Self::TokenUnavailable => "R111",
            Self::TokenRefused => "R112",
            Self::RightMissing => "R113",
            Self::RightExcess => "R114",
            Self::TokenEnds => "R115",
            Self::EntityUnknown => "R116",
            Self::ListenersFull => "R117",
            Self::NoListener => "R118",
            Self::NoRoundTrip => "R119",
            Self::Busy => "R120",
            Self::Silent => "R121",
            Self::AzureToken => "R122",
        }
    }

    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::NameUnknown => "name_unknown",
            Self::Unreachable => "unreachable",
            Self::ProxyFailed => "proxy_failed",
            Self::Intercepted => "intercepted",
            Self::ProxyLogin => "proxy_login",
            Self::Untrusted => "untrusted",
            Self::TlsFailed => "tls_failed",
            Self::UpgradeStripped => "upgrade_stripped",
            Self::NotARelay => "not_a_relay",
            Self::ClockOff => "clock_off",
            Self::TokenUnavailable => "token_unavailable",
            Self::TokenRefused => "token_refused",
            Self::RightMissing => "right_missing",
            Self::RightExcess => "right_excess",
            Self::TokenEnds => "token_ends",
            Self::EntityUnknown => "entity_unknown",
            Self::ListenersFull => "listeners_full",
            Self::NoListener => "no_listener",
            Self::NoRoundTrip => "no_round_trip",
            Self::Busy => "busy",
            Self::Silent => "silent",
            Self::AzureToken => "azure_token",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NameUnknown => "the relay's name has no address here",
            Self::Unreachable => {
                "nothing accepts TCP connections at the relay's address and port, or the way there is closed"
            }
            Self::ProxyFailed => "the proxy cannot be reached, or refuses to connect to the relay",
            Self::Intercepted => {
                "the relay's certificate is trusted here and signed by no public authority: by a proxy that opens TLS on the way, or by the CA of a relay's owner"
            }
            Self::ProxyLogin => {
                "the proxy wants a user and password that it did not get, does not accept, or in a scheme other than Basic"
            }
            Self::Untrusted => {
                "the relay's certificate was issued by nobody whom this machine trusts, for another name, or is not valid now"
            }
            Self::TlsFailed => "the TLS session failed for a reason other than the certificate",
            Self::UpgradeStripped => {
                "the relay was asked for a plain page, or the connection ended: something on the way takes WebSocket upgrades away"
            }
            Self::NotARelay => "what answers at this address does not speak the protocol of a relay",
            Self::ClockOff => "this machine's clock and the relay's differ; tokens look expired or not yet valid",
            Self::TokenUnavailable => "the credential gives no token",
            Self::TokenRefused => {
                "the relay does not accept the token: another key or rule, another address, or expired"
            }
            Self::RightMissing => "the token is good and lacks the right that is needed",
            Self::RightExcess => "the credential can do more than its side needs; who steals it can, too",
            Self::TokenEnds => "the credential is a fixed token that ends soon or has ended, and nothing renews it",
            Self::EntityUnknown => "the relay has no hybrid connection of this name",
            Self::ListenersFull => "the hybrid connection has as many listeners as it may have",
            Self::NoListener => "the hybrid connection exists and nobody listens on it",
            Self::NoRoundTrip => "the connection stands, and what is sent through it does not come back",
            Self::Busy => "the relay refuses for a reason of its own: overload, a limit, or a restart",
            Self::Silent => "no answer came in time",
            Self::AzureToken => {
                "the token is for Azure Relay, and this relay is not Azure's: whoever runs it could use the token there"
            }
        }
    }

    /// The next thing to do.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NameUnknown => {
                "compare the address with the relay's owner, and look at this machine's DNS; where only a proxy resolves names, set `proxy`"
            }
            Self::Unreachable => "let this machine reach host and port (outbound TCP), or set `proxy`",
            Self::ProxyFailed => {
                "see the cause; have the proxy allow CONNECT to this host and port, correct `proxy`, or name the host in `no_proxy`"
            }
            Self::Intercepted => {
                "tunnel content stays private (end to end); HTTP senders would not. Have the proxy make an exception for this host; if it is the relay's own CA, trust it alone: `trust: { system: false, files: […] }`"
            }
            Self::ProxyLogin => {
                "set `user` and `password` in the `proxy` section; only Basic authentication is supported"
            }
            Self::Untrusted => "compare the signer with the relay's owner; if it is right, add its CA to `trust.files`",
            Self::TlsFailed => {
                "see the cause; a firewall that ends TLS, or a port that speaks no TLS, are the usual ones"
            }
            Self::UpgradeStripped => {
                "have the proxy or firewall let the headers Connection and Upgrade pass for this host"
            }
            Self::NotARelay => {
                "compare host and port with the relay's owner; a login page of the network is another usual cause"
            }
            Self::ClockOff => "set this machine's clock (NTP)",
            Self::TokenUnavailable => "see the cause; check the credential's file or token source",
            Self::TokenRefused => "see the relay's words; fetch the key of this hybrid connection's rule again",
            Self::RightMissing => "use the key of the other rule: a listener's has Listen, a sender's Send",
            Self::RightExcess => {
                "give each side a rule of the hybrid connection with its one right (`relay entity add` makes them)"
            }
            Self::TokenEnds => "use a rule's name and key, from which tokens are made anew",
            Self::EntityUnknown => "compare the name with the relay's owner (`relay entity add`)",
            Self::ListenersFull => "stop a listener, set fewer `channels`, or raise the limit",
            Self::NoListener => "start the listener in the cluster, and look at its log",
            Self::NoRoundTrip => {
                "see the cause; look at the listener's log and at firewalls that cut idle or unknown traffic"
            }
            Self::Busy => "see the relay's words, and try again",
            Self::Silent => "see the stage: a firewall that drops packets, or a peer that is overloaded",
            Self::AzureToken => {
                "have the relay's owner expect an audience of its own (`authenticators`), and write it as `credential.entra.audience`"
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_numbered_in_order_and_named_once() {
        let ids: Vec<_> = Code::ALL.iter().map(|code| code.id()).collect();
        let expected: Vec<_> = (101..).take(ids.len()).map(|number| format!("R{number}")).collect();
        assert_eq!(ids, expected);
        assert_eq!(Code::ALL.iter().map(|code| code.name()).collect::<BTreeSet<_>>().len(), ids.len());
        assert_eq!(Code::Intercepted.id(), "R104", "documented by its number");
    }
}
