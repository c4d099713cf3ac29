//! Who listens on a hybrid connection. A listener is chosen at random, which spreads senders without any bookkeeping.
//!
//! A place is taken before the handshake is answered, so the limit holds; a sender that arrives between a listener's 101
//! and its registration waits for it instead of being told that nobody listens.
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderMap;
use prometheus_client::metrics::gauge::Gauge;
use proto::{hybrid::new_id, ws::message::Sender};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{http::Requests, record::Record, refusal::Refusal, share::Excess, stay::Stay};

/// By this a sender names the listeners that it wants, and by the other those that it does not: their ids, separated by
/// commas. Nobody documents them; the live service and its tests know them.
const ALLOWED: &str = "microsoft-relay-allowedlisteners";
const DISALLOWED: &str = "microsoft-relay-disallowedlisteners";

/// When a listener for whom there is no place should come again: others leave when they are restarted.
const AGAIN: Duration = Duration::from_secs(30);

/// A live control channel.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Its `sb-hc-id`, or one that we made.
    pub(crate) id: String,
    /// Where `accept` messages go.
    pub(crate) channel: Sender,
    /// How it named us: what its rendezvous addresses are built from.
    pub(crate) base: Base,
    /// Where it came from.
    pub(crate) remote: SocketAddr,
    /// Why it may listen. What it accepted ends with this right.
    pub(crate) stay: Arc<Stay>,
    /// It would end at the first HTTP request.
    pub(crate) websockets_only: bool,
    /// It asked for nothing new.
    pub(crate) draining: AtomicBool,
    /// HTTP requests that it has not answered yet.
    pub(crate) requests: Requests,
    /// What it came to so far.
    pub(crate) record: Record,
    /// Cancelled when it has gone.
    pub(crate) gone: CancellationToken,
}

/// Scheme and authority of a listener's own handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// It came by TLS.
    pub(crate) tls: bool,
    /// Its `Host`.
    pub(crate) authority: String,
}

impl Listener {
    /// Nothing new is given to it from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether it asked for nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The part of an id that a sender names it by. Azure's nodes append to an id, and SDKs cut that off again.
    fn is_called(&self, name: &str) -> bool {
        is_same(&self.id, name)
    }
}

fn is_same(one: &str, other: &str) -> bool {
    first_part(one).eq_ignore_ascii_case(first_part(other))
}

/// Whether senders can name a listener so, in a list of names and in a header.
fn is_name(id: &str) -> bool {
    !first_part(id).is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

fn first_part(id: &str) -> &str {
    id.split('_').next().unwrap_or_default()
}

/// Which listeners a sender may be given.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Were asked before.
    pub(crate) tried: Vec<Arc<Listener>>,
    allowed: Option<Vec<String>>,
    disallowed: Vec<String>,
    for_http: bool,
}

impl Wanted {
    /// What a sender's head says about it.
    pub(crate) fn new(headers: &HeaderMap, for_http: bool) -> Self {
        let list = |name: &str| {
            let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
            let ids = values.flat_map(|value| value.split(',')).map(str::trim).filter(|id| !id.is_empty());
            ids.map(str::to_owned).collect::<Vec<_>>()
        };
        let allowed = headers.contains_key(ALLOWED).then(|| list(ALLOWED));
        Self { tried: Vec::new(), allowed, disallowed: list(DISALLOWED), for_http }
    }

    fn is_chosen(&self, listener: &Listener) -> bool {
        self.allowed.as_ref().is_none_or(|ids| ids.iter().any(|id| listener.is_called(id)))
            && !self.disallowed.iter().any(|id| listener.is_called(id))
    }

    fn takes(&self, listener: &Arc<Listener>) -> bool {
        let was_tried = self.tried.iter().any(|other| Arc::ptr_eq(other, listener));
        let cannot = self.for_http && listener.websockets_only;
        !was_tried && !cannot && !listener.is_draining() && self.is_chosen(listener)
    }
}

/// The listeners of one hybrid connection.
#[derive(Debug)]
pub(crate) struct Listeners {
    state: Mutex<State>,
    changed: Notify,
    gauge: Gauge,
}

#[derive(Debug)]
struct State {
    /// Most places.
    limit: usize,
    live: Vec<Arc<Listener>>,
    /// Every place, those of unfinished handshakes included: its listener's id, and where it came from.
    taken: Vec<(String, IpAddr)>,
}

impl State {
    /// Handshakes that are not finished.
    fn opening(&self) -> usize {
        self.taken.len() - self.live.len()
    }
}

/// A place among the listeners; leaving it tells whoever waits.
#[derive(Debug)]
pub(crate) struct Place {
    listeners: Arc<Listeners>,
    registered: Option<Arc<Listener>>,
    id: String,
    from: IpAddr,
}

impl Listeners {
    pub(crate) fn new(limit: usize, gauge: Gauge) -> Self {
        let state = Mutex::new(State { limit, live: Vec::new(), taken: Vec::new() });
        Self { state, changed: Notify::new(), gauge }
    }

    /// Changes the limit; who listens goes on.
    pub(crate) fn limit(&self, limit: usize) {
        self.state().limit = limit;
    }

    /// Takes a place for a handshake. A listener is called as it wishes to be, unless nobody could name it by that, or
    /// somebody at another address is called so: senders that avoid one must not avoid the other.
    pub(crate) fn reserve(self: &Arc<Self>, wish: &str, from: IpAddr) -> Result<Place, Excess> {
        let mut state = self.state();
        let current = state.taken.len();
        if current >= state.limit {
            return Err(Excess { limit: "limits.listeners", value: state.limit, current, again: AGAIN });
        }
        let is_free = |(id, other): &(String, IpAddr)| *other == from || !is_same(id, wish);
        let id = if is_name(wish) && state.taken.iter().all(is_free) { wish.to_owned() } else { new_id() };
        state.taken.push((id.clone(), from));
        drop(state);
        Ok(Place { listeners: self.clone(), registered: None, id, from })
    }

    /// One of those `wanted` at random, and one that does not answer only when there is no other. Waits while the only
    /// candidates are still opening.
    pub(crate) async fn pick(&self, wanted: &Wanted) -> Option<Arc<Listener>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                let candidates: Vec<&Arc<Listener>> =
                    state.live.iter().filter(|listener| wanted.takes(listener)).collect();
                let answering: Vec<&Arc<Listener>> =
                    candidates.iter().copied().filter(|listener| !listener.record.is_unresponsive()).collect();
                let best = if answering.is_empty() { candidates } else { answering };
                if !best.is_empty() {
                    return Some(best[random(best.len())].clone());
                }
                if state.opening() == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Why there is nobody to pick.
    pub(crate) fn nobody(&self, wanted: &Wanted) -> Refusal {
        let state = self.state();
        if !wanted.tried.is_empty() {
            Refusal::ListenerLost
        } else if state.live.iter().any(|listener| !wanted.is_chosen(listener)) {
            Refusal::NoEligibleListener
        } else {
            Refusal::NoListener
        }
    }

    /// Those that are live now.
    pub(crate) fn live(&self) -> Vec<Arc<Listener>> {
        self.state().live.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What its listener is called.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The handshake is finished: senders may be sent here.
    pub(crate) fn register(&mut self, listener: Arc<Listener>) {
        let mut state = self.listeners.state();
        state.live.push(listener.clone());
        drop(state);
        self.registered = Some(listener);
        self.listeners.gauge.inc();
        self.listeners.changed.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.listeners.state();
        if let Some(at) = state.taken.iter().position(|(id, from)| *id == self.id && *from == self.from) {
            state.taken.swap_remove(at);
        }
        if let Some(listener) = self.registered.take() {
            state.live.retain(|other| !Arc::ptr_eq(other, &listener));
            listener.gone.cancel();
            self.listeners.gauge.dec();
        }
        drop(state);
        self.listeners.changed.notify_waiters();
    }
}

/// An index below `count`. The bias of the remainder is below 2^-50 for any real number of listeners.
fn random(count: usize) -> usize {
    let mut bytes = [0; 8];
    // Without random numbers the first listener is as good as any.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    (u64::from_le_bytes(bytes) % count as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "0b0f9c3e-6f5a-4a8e-9a51-3a6f1e0f7a11";

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn nobody_elsewhere_is_called_as_a_listener_that_is_there() {
        let listeners = Arc::new(Listeners::new(25, Gauge::default()));
        let real = listeners.reserve(REAL, address(1)).unwrap();
        assert_eq!(real.id(), REAL);
        for wish in [REAL.to_owned(), REAL.to_uppercase(), format!("{REAL}_x")] {
            let thief = listeners.reserve(&wish, address(2)).unwrap();
            assert!(!is_same(thief.id(), REAL), "{wish}");
        }
        // Its own next channel keeps the name, and so does whoever comes when it has gone.
        assert_eq!(listeners.reserve(REAL, address(1)).unwrap().id(), REAL);
        drop(real);
        assert_eq!(listeners.reserve(REAL, address(2)).unwrap().id(), REAL);
    }

    #[test]
    fn a_listener_is_called_so_that_senders_can_name_it() {
        let listeners = Arc::new(Listeners::new(25, Gauge::default()));
        for wish in ["", "_", "a,b", "a.b", "a b", "\u{e9}"] {
            let place = listeners.reserve(wish, address(1)).unwrap();
            assert_ne!(place.id(), wish);
            assert!(is_name(place.id()));
        }
    }
}
