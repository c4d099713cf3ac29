//! How a control channel is opened: a token, a connection to one of the relay's addresses, the upgrade, and what the
//! relay says about itself in its answer.
use std::{net::IpAddr, time::Duration};

use bytes::BytesMut;
use proto::{
    hybrid::{address::listen_target, feature, new_id},
    ws::handshake::UpgradeError,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use crate::{
    dial::Carrier,
    listen::{Held, addresses::Addresses},
    sender::{self, Address, DialError, Minted, Transport},
};

/// For one address of the relay's, so that a dead one leaves time for the next.
const ADDRESS: Duration = Duration::from_secs(4);

/// Addresses that one attempt tries.
const ADDRESSES_MAX: usize = 3;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(in crate::listen) enum OpenError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("relay did not answer within {0:?}")]
    TooSlow(Duration),
}

impl OpenError {
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Dial(error) => error.retry_after(),
            Self::TooSlow(_) => None,
        }
    }

    /// Nobody answered; a refusal is an answer.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::TooSlow(_) => true,
            Self::Dial(DialError::Reach(error)) => error.is_unreachable(),
            Self::Dial(_) => false,
        }
    }

    /// The relay did not believe our token.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Dial(DialError::Upgrade(UpgradeError::Refused { status: 401, .. })))
    }

    /// The relay takes no more listeners. Neither relay has a status of its own for that; both name the listeners.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Dial(DialError::Upgrade(UpgradeError::Refused { status: 403 | 429, reason, .. })) => {
                reason.to_ascii_lowercase().contains("listeners")
            }
            _ => false,
        }
    }
}

/// An open channel.
pub(in crate::listen) struct Open<IO> {
    pub(in crate::listen) io: IO,
    pub(in crate::listen) read_ahead: BytesMut,
    pub(in crate::listen) token: Minted,
    pub(in crate::listen) id: String,
    /// Where the relay is, for the class of rendezvous addresses; behind a proxy nobody here knows.
    pub(in crate::listen) relay: Option<IpAddr>,
    /// What the relay can do beyond what every relay can.
    pub(in crate::listen) features: Features,
}

/// What a relay of ours says that it can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::listen) struct Features {
    /// Several fields of one name in an answer, as an array.
    pub(in crate::listen) header_lists: bool,
    /// A notice that this channel is to get nothing new.
    pub(in crate::listen) drain: bool,
}

impl Features {
    fn of(headers: &http::HeaderMap) -> Self {
        let said = feature::listed(headers);
        Self { header_lists: said(feature::HEADER_LISTS), drain: said(feature::DRAIN) }
    }
}

/// Opens control channels: those of a relay, or of a script in tests.
pub(in crate::listen) trait Opener: Send + Sync + 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn open(&self, held: &Held, slot: usize) -> impl Future<Output = Result<Open<Self::Io>, OpenError>> + Send;
}

/// A relay on the network.
#[derive(Debug, Default)]
pub(in crate::listen) struct Relay {
    addresses: Addresses,
}

impl Opener for Relay {
    type Io = Transport;

    async fn open(&self, held: &Held, slot: usize) -> Result<Open<Transport>, OpenError> {
        let Address { host, port, .. } = &held.address;
        let token = held.credential.mint(&held.address).await?;
        let route = held.shared.dialer.route(host, *port).await.map_err(DialError::Reach)?;
        let Some(resolved) = route.addresses() else {
            let carrier = route.connect().await.map_err(DialError::Reach)?;
            return Ok(upgrade(held, token, carrier).await?);
        };
        let mut last = OpenError::TooSlow(ADDRESS);
        for address in self.addresses.order(resolved.to_vec(), slot).into_iter().take(ADDRESSES_MAX) {
            let opened = async {
                let carrier = route.connect_to(address).await.map_err(DialError::Reach)?;
                upgrade(held, token.clone(), carrier).await
            };
            last = match timeout(ADDRESS, opened).await {
                Ok(Ok(open)) => {
                    self.addresses.answered(address);
                    return Ok(open);
                }
                // It is a relay, and said what it thinks of us: the others would say the same.
                Ok(Err(error)) if error.refusal().is_some() => {
                    self.addresses.answered(address);
                    return Err(error.into());
                }
                Ok(Err(error)) => error.into(),
                Err(_) => OpenError::TooSlow(ADDRESS),
            };
            self.addresses.failed(address);
        }
        Err(last)
    }
}

async fn upgrade(held: &Held, token: Minted, carrier: Carrier) -> Result<Open<Transport>, DialError> {
    let relay = carrier.peer().map(|peer| peer.ip());
    let id = new_id();
    let target = listen_target(&held.address.path, &id);
    let headers = sender::token_headers(&token)?;
    let upgraded = sender::upgrade(carrier, &held.address, &target, &held.shared.tls, headers, &[]).await?;
    let features = Features::of(&upgraded.headers);
    Ok(Open { io: upgraded.io, read_ahead: upgraded.read_ahead, token, id, relay, features })
}
