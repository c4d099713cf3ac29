//! Which of a relay's addresses is tried first. Channels begin at different ones, so that one dead relay node takes one
//! channel and not all; and an address that failed is tried last for a while, instead of first for ever.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a failure is held against an address: a node that restarts is back by then, and asking a dead one that often
/// costs nothing.
const HELD_AGAINST: Duration = Duration::from_secs(120);

/// Failed addresses that are remembered. A relay's name has a handful.
const REMEMBERED: usize = 64;

/// What is known about the addresses of one relay.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    failed: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Addresses {
    /// The order for channel `slot`: those not known to have failed first, from the slot's own place on.
    pub(super) fn order(&self, mut resolved: Vec<SocketAddr>, slot: usize) -> Vec<SocketAddr> {
        // Resolvers turn their answers round; a stable order spreads the slots for certain.
        resolved.sort_unstable();
        resolved.dedup();
        if !resolved.is_empty() {
            let begin = slot % resolved.len();
            resolved.rotate_left(begin);
        }
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.sort_by_key(|address| failed.get(address).is_some_and(|since| since.elapsed() < HELD_AGAINST));
        resolved
    }

    /// It did not answer, or what answered was no relay.
    pub(super) fn failed(&self, address: SocketAddr) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, since| since.elapsed() < HELD_AGAINST);
        if failed.len() < REMEMBERED {
            failed.insert(address, Instant::now());
        }
    }

    /// It answered.
    pub(super) fn answered(&self, address: SocketAddr) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<SocketAddr> {
        ["192.0.2.3:443", "192.0.2.1:443", "192.0.2.2:443"].map(|address| address.parse().unwrap()).to_vec()
    }

    fn firsts(addresses: &Addresses) -> Vec<String> {
        (0..4).map(|slot| addresses.order(three(), slot)[0].to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn channels_are_spread_and_a_dead_address_is_not_tried_first_until_it_was_forgiven() {
        let addresses = Addresses::default();
        assert_eq!(firsts(&addresses), ["192.0.2.1:443", "192.0.2.2:443", "192.0.2.3:443", "192.0.2.1:443"]);
        let dead = "192.0.2.2:443".parse().unwrap();
        addresses.failed(dead);
        assert_eq!(firsts(&addresses), ["192.0.2.1:443", "192.0.2.3:443", "192.0.2.3:443", "192.0.2.1:443"]);
        assert_eq!(addresses.order(three(), 1)[2], dead, "it is still tried, last");
        tokio::time::advance(HELD_AGAINST).await;
        assert_eq!(firsts(&addresses)[1], "192.0.2.2:443");
        addresses.failed(dead);
        addresses.answered(dead);
        assert_eq!(firsts(&addresses)[1], "192.0.2.2:443");
    }

    #[test]
    fn no_addresses_have_an_order_too_and_memory_is_bounded() {
        let addresses = Addresses::default();
        assert!(addresses.order(Vec::new(), 3).is_empty());
        for port in 0..1000 {
            addresses.failed((std::net::Ipv4Addr::LOCALHOST, port).into());
        }
        assert_eq!(addresses.failed.lock().unwrap().len(), REMEMBERED);
    }
}
