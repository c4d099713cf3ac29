//! Whose doing the end of a stream was: one closed list for access lines, metrics and spans of both sides.

use proto::tunnel::failure::Code;

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody's: it ended well.
    Nobody,
    /// The caller's.
    Caller,
    /// The policy's, or whoever wrote it.
    Policy,
    /// The target's.
    Target,
    /// The tunnel's, or the network's.
    Tunnel,
    /// The gateway's.
    Gateway,
    /// The connector's.
    Connector,
}

impl Fault {
    /// Every one, in the order of their numbers.
    pub const ALL: &[Self] =
        &[Self::Nobody, Self::Caller, Self::Policy, Self::Target, Self::Tunnel, Self::Gateway, Self::Connector];

    /// Whose doing a failure is, as the gateway sees it.
    pub fn of(code: Code) -> Self {
        match code {
            Code::Unauthenticated
            | Code::TokenRefused
            | Code::AmbiguousPath
            | Code::InvalidRequest
            | Code::Unsupported
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ProtocolError => Self::Caller,
            Code::PolicyDenied | Code::AddressRefused => Self::Policy,
            Code::TargetUnresolved | Code::TargetRefused | Code::TargetTimeout | Code::TargetBroken => Self::Target,
            Code::TunnelLost => Self::Tunnel,
            Code::LimitReached | Code::Draining | Code::AuditUnavailable | Code::Internal => Self::Gateway,
        }
    }

    /// The same, of a failure that a connector found itself.
    pub fn found_by_connector(code: Code) -> Self {
        match Self::of(code) {
            Self::Gateway => Self::Connector,
            fault => fault,
        }
    }

    /// In logs, metrics and spans.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Caller => "caller",
            Self::Policy => "policy",
            Self::Target => "target",
            Self::Tunnel => "tunnel",
            Self::Gateway => "gateway",
            Self::Connector => "connector",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_order_of_the_list() {
        assert!(Fault::ALL.iter().enumerate().all(|(index, fault)| *fault as usize == index));
    }

    #[test]
    fn a_limit_of_the_connectors_is_its_own_doing_and_a_lost_tunnel_is_nobodys_but_the_tunnels() {
        assert_eq!(Fault::found_by_connector(Code::LimitReached), Fault::Connector);
        assert_eq!(Fault::found_by_connector(Code::TunnelLost), Fault::Tunnel);
        assert_eq!(Fault::of(Code::LimitReached), Fault::Gateway);
    }
}
