//! Who connects, by address: what one address may have at a time, and how fast.
//!
//! A whole site may be behind one address, and after a restart all of it comes back at once. So nothing honest is turned
//! away here: of an address, so many handshakes are served at a time and the rest wait their turn, unread, for as long as
//! there is room to wait and they have the patience. What is turned away is a crowd that would take that room from others.
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

use super::{
    config::Limits,
    rate::Due,
    share::{Excess, Held, Shares},
};

/// How long a connection waits for its turn. SDKs give a handshake at least twenty seconds, and the rest of it takes up to
/// ten.
const TURN: Duration = Duration::from_secs(10);

/// Addresses of which nothing is left but a rate that has not recovered: looked for when there are so many.
const STALE: usize = 1024;

/// When an address with too many connections should come again: they last for hours, or break all at once.
const CONNECTIONS_AGAIN: Duration = Duration::from_secs(30);

/// All addresses. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    all: Arc<Semaphore>,
    shares: Shares<IpAddr>,
    table: Arc<Mutex<Table>>,
    limits: Bounds,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    served: usize,
    connections: usize,
    per_second: Option<usize>,
}

/// What an address has is bounded by connections, so the table is.
#[derive(Debug)]
struct Table {
    by_address: HashMap<IpAddr, Source>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Source {
    /// Handshakes served at a time.
    served: Arc<Semaphore>,
    connections: usize,
    due: Due,
}

/// The right to be unproven, given back on drop.
#[derive(Debug)]
pub(crate) struct Unproven {
    served: Arc<Semaphore>,
    turn: Option<OwnedSemaphorePermit>,
    wait: Duration,
    _share: Held<IpAddr>,
    _one_of_all: OwnedSemaphorePermit,
}

/// A connection, from its acceptance to its end.
#[derive(Debug)]
pub(crate) struct Connected {
    table: Arc<Mutex<Table>>,
    address: IpAddr,
}

/// What counts as one address: an IPv4 address, or the /64 that one IPv6 user has.
pub(crate) fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

impl Sources {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.handshakes.min(Semaphore::MAX_PERMITS))),
            shares: Shares::new("limits.handshakes", limits.handshakes.min(Semaphore::MAX_PERMITS)),
            table: Arc::new(Mutex::new(Table { by_address: HashMap::new(), sweep_at: STALE })),
            limits: Bounds {
                served: limits.handshakes_per_address.min(Semaphore::MAX_PERMITS),
                connections: limits.connections_per_address,
                per_second: limits.handshakes_per_second_per_address,
            },
        }
    }

    /// Room for one more unproven connection from anywhere; whoever waits for this waits in the kernel's queue.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        self.all.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A connection from this peer; an excess when its address has too many that are unproven.
    pub(crate) fn admit(
        &self,
        peer: SocketAddr,
        room: OwnedSemaphorePermit,
    ) -> Result<(Unproven, Connected, Option<Excess>), Excess> {
        let address = counted(peer.ip());
        let share = self.shares.take(address)?;
        let mut table = lock(&self.table);
        let source = table.source(address, self.limits.served);
        source.connections += 1;
        let excess = (source.connections > self.limits.connections).then_some(Excess {
            limit: "limits.connections_per_address",
            value: self.limits.connections,
            current: source.connections,
            again: CONNECTIONS_AGAIN,
        });
        let wait = source.due.wait();
        // Whoever is too late to wait for a turn leaves it to those who come later.
        if let Some(rate) = self.limits.per_second.filter(|_| wait <= TURN) {
            source.due.take(rate);
        }
        let unproven = Unproven { served: source.served.clone(), turn: None, wait, _share: share, _one_of_all: room };
        Ok((unproven, Connected { table: self.table.clone(), address }, excess))
    }
}

impl Sources {
    /// The same for another head on a connection that was admitted before. It does not wait: who is kept connected can
    /// send a head at once, and if there is no room for those who do not, it ends.
    pub(crate) fn admit_again(&self, peer: SocketAddr) -> Option<Unproven> {
        let address = counted(peer.ip());
        let room = self.all.clone().try_acquire_owned().ok()?;
        let share = self.shares.take(address).ok()?;
        let served = lock(&self.table).source(address, self.limits.served).served.clone();
        let turn = served.clone().try_acquire_owned().ok()?;
        Some(Unproven { served, turn: Some(turn), wait: Duration::ZERO, _share: share, _one_of_all: room })
    }
}

impl Table {
    fn source(&mut self, address: IpAddr, served: usize) -> &mut Source {
        if self.by_address.len() >= self.sweep_at {
            self.by_address.retain(|_, source| !source.is_over());
            self.sweep_at = (self.by_address.len() * 2).max(STALE);
        }
        let fresh = || Source { served: Arc::new(Semaphore::new(served)), connections: 0, due: Due::new() };
        self.by_address.entry(address).or_insert_with(fresh)
    }
}

impl Source {
    fn is_over(&self) -> bool {
        self.connections == 0 && self.due.is_fresh()
    }
}

impl Unproven {
    /// Waits until this connection's handshake is served; false when its turn does not come in time.
    pub(crate) async fn turn(&mut self) -> bool {
        if self.wait > TURN {
            return false;
        }
        let deadline = Instant::now() + TURN;
        sleep(self.wait).await;
        match timeout_at(deadline, self.served.clone().acquire_owned()).await {
            Ok(turn) => self.turn = turn.ok(),
            Err(_) => return false,
        }
        true
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if let Some(source) = table.by_address.get_mut(&self.address) {
            source.connections -= 1;
            if source.is_over() {
                table.by_address.remove(&self.address);
            }
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
