//! The dial back to a relay: to the address that it named, if it may name it (SD-8), and to none that its host should not
//! resolve to. Whatever the answer is, no redirect is followed.
use std::net::IpAddr;

use http::HeaderMap;
use proto::ws::handshake::{UpgradeError, Upgraded};

use super::{
    Held,
    permit::{Destination, Refused, may_dial},
};
use crate::{
    dial::{Carrier, ReachError},
    sender::{self, Address, DialError, Transport},
};

/// Why a rendezvous did not come about.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// The relay may not send us there.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be dialled.
    #[error("rendezvous cannot be dialled")]
    Dial(#[from] DialError),
    /// It took longer than any relay remembers it.
    #[error("no rendezvous within {} s", super::knock::SETUP.as_secs())]
    TooSlow,
}

impl RendezvousError {
    /// Stable name, for logs and metric labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.name(),
            Self::Dial(DialError::Reach(ReachError::Resolve { .. })) => "unresolvable",
            Self::Dial(_) => "dial_failed",
            Self::TooSlow => "too_slow",
        }
    }

    /// Whose doing it was.
    pub fn fault(&self) -> &'static str {
        match self {
            Self::Refused(_) | Self::Dial(_) => "relay",
            Self::TooSlow => "unknown",
        }
    }
}

/// Opens the rendezvous at `destination`. `relay` is where the control channel's peer is, where that is known.
pub(super) async fn open(
    held: &Held,
    destination: &Destination,
    relay: Option<IpAddr>,
    protocols: &[&str],
) -> Result<Upgraded<Transport>, RendezvousError> {
    let stream = connect(held, destination, relay).await?;
    let Destination { address, target } = destination;
    Ok(sender::upgrade(stream, address, target, &held.shared.tls, HeaderMap::new(), protocols).await?)
}

/// Has the relay tell the sender no: it answers our dial with 410 and the sender with this status and text.
pub(super) async fn reject(
    held: &Held,
    destination: &Destination,
    relay: Option<IpAddr>,
    status: u16,
    description: &str,
) -> Result<(), RendezvousError> {
    let rejection = Destination {
        address: destination.address.clone(),
        target: proto::hybrid::address::reject(&destination.target, status, description),
    };
    match open(held, &rejection, relay, &[]).await {
        Err(RendezvousError::Dial(DialError::Upgrade(UpgradeError::Refused { status: 410, .. }))) => Ok(()),
        Err(error) => Err(error),
        // A relay that accepts a rejection has not understood it; dropping the connection ends the sender's.
        Ok(_) => Ok(()),
    }
}

/// Finds the way to the rendezvous host, checks every address where there are any to check, and connects. Where a proxy
/// resolves the name, the checks of the address itself are all: `permit` has refused every literal but the relay's own.
async fn connect(held: &Held, destination: &Destination, relay: Option<IpAddr>) -> Result<Carrier, RendezvousError> {
    let Address { host, port, .. } = &destination.address;
    let route = held.shared.dialer.route(host, *port).await.map_err(DialError::Reach)?;
    if !route.addresses().unwrap_or_default().iter().all(|one| may_dial(one.ip(), relay)) {
        return Err(Refused::Address.into());
    }
    Ok(route.connect().await.map_err(DialError::Reach)?)
}
