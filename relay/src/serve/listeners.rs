//! Who listens on a hybrid connection. A listener is chosen at random, which spreads senders without any bookkeeping.
//!
//! A place is taken before the handshake is answered, so the limit holds; a sender that arrives between a listener's 101
//! and its registration waits for it instead of being told that nobody listens.
//!
//! Whoever holds a Listen key could take all places and lock the real listener out. So when there is none left, addresses
//! share them: a newcomer takes the newest place of the address that has most, as long as that one still has no fewer than
//! the newcomer's then. Nobody's last place is taken, two addresses cannot take places from each other in turns, and where
//! all come from one address nothing is taken at all.
use std::{
    collections::{HashMap, HashSet},
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
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{http::Requests, record::Record, refusal::Refusal, share::Excess, sources::counted, stay::Stay};

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
}

/// Whether a sender names both alike.
fn is_same(one: &str, other: &str) -> bool {
    first_part(one).eq_ignore_ascii_case(first_part(other))
}

/// Whether senders can name a listener so, in a list of names and in a header.
fn is_name(id: &str) -> bool {
    !first_part(id).is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// The part of an id that counts. Azure's nodes append to an id, and SDKs cut that off again.
fn first_part(id: &str) -> &str {
    id.split('_').next().unwrap_or_default()
}

/// Which listeners a sender may be given.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Were asked before.
    pub(crate) tried: Vec<Arc<Listener>>,
    allowed: Option<Names>,
    disallowed: Names,
    for_http: bool,
}

/// What a sender's header calls listeners by. A set: a head has room for ten thousand names, and is looked at for each
/// listener.
#[derive(Debug)]
struct Names(HashSet<String>);

impl Names {
    fn read(headers: &HeaderMap, field: &str) -> Self {
        let values = headers.get_all(field).into_iter().filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty());
        Self(names.map(|name| first_part(name).to_ascii_lowercase()).collect())
    }

    fn contains(&self, id: &str) -> bool {
        self.0.contains(&first_part(id).to_ascii_lowercase())
    }
}

impl Wanted {
    /// What a sender's head says about it.
    pub(crate) fn new(headers: &HeaderMap, for_http: bool) -> Self {
        let allowed = headers.contains_key(ALLOWED).then(|| Names::read(headers, ALLOWED));
        Self { tried: Vec::new(), allowed, disallowed: Names::read(headers, DISALLOWED), for_http }
    }

    fn is_chosen(&self, listener: &Listener) -> bool {
        self.allowed.as_ref().is_none_or(|names| names.contains(&listener.id))
            && !self.disallowed.contains(&listener.id)
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
    /// Those that are taken, the newest last.
    seats: Vec<Seat>,
    next: u64,
}

/// A place that is taken.
#[derive(Debug)]
struct Seat {
    number: u64,
    /// What its listener is called.
    id: String,
    from: IpAddr,
    /// Who has it, once the handshake is finished.
    listener: Option<Arc<Listener>>,
    /// Tells its holder that somebody at this address has it now.
    taken: oneshot::Sender<IpAddr>,
}

impl State {
    fn live(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.seats.iter().filter_map(|seat| seat.listener.as_ref())
    }

    /// Handshakes that are not finished.
    fn is_opening(&self) -> bool {
        self.seats.iter().any(|seat| seat.listener.is_none())
    }

    /// Takes a place from the address that has most, for one that has at least two fewer.
    fn take_from_most(&mut self, newcomer: IpAddr) -> Option<()> {
        let mut places: HashMap<IpAddr, usize> = HashMap::new();
        for seat in &self.seats {
            *places.entry(counted(seat.from)).or_default() += 1;
        }
        let of = |address| places.get(&counted(address)).copied().unwrap_or_default();
        let (at, most) =
            self.seats.iter().map(|seat| of(seat.from)).enumerate().max_by_key(|(at, count)| (*count, *at))?;
        if most < of(newcomer) + 2 {
            return None;
        }
        // Its holder may just be leaving.
        let _ = self.seats.remove(at).taken.send(newcomer);
        Some(())
    }
}

/// A place among the listeners; leaving it tells whoever waits.
#[derive(Debug)]
pub(crate) struct Place {
    listeners: Arc<Listeners>,
    registered: Option<Arc<Listener>>,
    number: u64,
    id: String,
    taken: oneshot::Receiver<IpAddr>,
}

impl Listeners {
    pub(crate) fn new(limit: usize, gauge: Gauge) -> Self {
        let state = Mutex::new(State { limit, seats: Vec::new(), next: 0 });
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
        let current = state.seats.len();
        if current >= state.limit {
            let excess = Excess { limit: "limits.listeners", value: state.limit, current, again: AGAIN };
            state.take_from_most(from).ok_or(excess)?;
        }
        let is_free = |seat: &Seat| seat.from == from || !is_same(&seat.id, wish);
        let id = if is_name(wish) && state.seats.iter().all(is_free) { wish.to_owned() } else { new_id() };
        let number = state.next;
        state.next += 1;
        let (tell, taken) = oneshot::channel();
        state.seats.push(Seat { number, id: id.clone(), from, listener: None, taken: tell });
        drop(state);
        Ok(Place { listeners: self.clone(), registered: None, number, id, taken })
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
                let candidates: Vec<&Arc<Listener>> = state.live().filter(|listener| wanted.takes(listener)).collect();
                let answering: Vec<&Arc<Listener>> =
                    candidates.iter().copied().filter(|listener| !listener.record.is_unresponsive()).collect();
                let best = if answering.is_empty() { candidates } else { answering };
                if !best.is_empty() {
                    return Some(best[random(best.len())].clone());
                }
                if !state.is_opening() {
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
        } else if state.live().any(|listener| !wanted.is_chosen(listener)) {
            Refusal::NoEligibleListener
        } else {
            Refusal::NoListener
        }
    }

    /// Those that are live now.
    pub(crate) fn live(&self) -> Vec<Arc<Listener>> {
        self.state().live().cloned().collect()
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

    /// The handshake is finished: senders may be sent here, unless the place was taken meanwhile.
    pub(crate) fn register(&mut self, listener: Arc<Listener>) {
        let mut state = self.listeners.state();
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.number == self.number) {
            seat.listener = Some(listener.clone());
        }
        drop(state);
        self.registered = Some(listener);
        self.listeners.gauge.inc();
        self.listeners.changed.notify_waiters();
    }

    /// Resolves when somebody else has this place, and where that one is.
    pub(crate) async fn taken(&mut self) -> IpAddr {
        match (&mut self.taken).await {
            Ok(by) => by,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.listeners.state();
        state.seats.retain(|seat| seat.number != self.number);
        drop(state);
        if let Some(listener) = self.registered.take() {
            listener.gone.cancel();
            self.listeners.gauge.dec();
        }
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
    use std::time::Instant;

    use http::HeaderName;

    use super::*;

    const REAL: &str = "0b0f9c3e-6f5a-4a8e-9a51-3a6f1e0f7a11";

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Compared one by one, this would take minutes, under a lock that all senders of the hybrid connection need.
    #[test]
    fn a_head_full_of_names_costs_no_more_for_many_listeners() {
        let names = (0..16_000).map(|number| format!("{number:x}")).collect::<Vec<_>>().join(",");
        let headers = HeaderMap::from_iter([(HeaderName::from_static(ALLOWED), names.parse().unwrap())]);
        let began = Instant::now();
        let names = Names::read(&headers, ALLOWED);
        assert!((0..50_000).all(|number| names.contains(&format!("{number:X}_G1")) == (number < 16_000)));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
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
    fn listeners(limit: usize) -> Arc<Listeners> {
        Arc::new(Listeners::new(limit, Gauge::default()))
    }

    /// Whether somebody else has this place now.
    fn is_taken(place: &mut Place) -> bool {
        place.taken.try_recv().is_ok()
    }

    #[test]
    fn whoever_fills_all_places_makes_room_for_another_address_up_to_an_even_share() {
        let listeners = listeners(25);
        let mut thief: Vec<Place> = (0..25).map(|_| listeners.reserve("", address(1)).unwrap()).collect();
        assert!(listeners.reserve("", address(1)).is_err(), "of one address, none has more right than the other");
        let mut real = Vec::new();
        for count in 1..=12 {
            real.push(listeners.reserve("", address(2)).unwrap());
            let taken = thief.iter_mut().position(is_taken).unwrap();
            assert_eq!(taken, 25 - count, "the newest");
            thief.pop();
        }
        let excess = listeners.reserve("", address(2)).unwrap_err();
        assert_eq!((excess.value, excess.current), (25, 25), "12 and 13 is as even as it gets");
        assert!(listeners.reserve("", address(1)).is_err(), "and is not taken back");
        assert!(!thief.iter_mut().chain(&mut real).any(is_taken));
    }

    #[test]
    fn nobody_loses_a_last_place_to_however_many_addresses() {
        let listeners = listeners(3);
        let mut real: Vec<Place> = (0..3).map(|_| listeners.reserve("", address(1)).unwrap()).collect();
        let _thieves = [2, 3].map(|last| listeners.reserve("", address(last)).unwrap());
        assert!(listeners.reserve("", address(4)).is_err());
        assert_eq!(real.iter_mut().map(is_taken).collect::<Vec<_>>(), [false, true, true], "the oldest stays");
    }

    #[test]
    fn addresses_of_one_network_are_one_address() {
        let listeners = listeners(2);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let _thief = ["2001:db8::1", "2001:db8::2"].map(|from| listeners.reserve("", at(from)).unwrap());
        assert!(listeners.reserve("", at("2001:db8::3")).is_err());
        assert!(listeners.reserve("", at("2001:db8:0:1::3")).is_ok());
    }

    #[test]
    fn a_place_that_was_taken_is_not_given_back_by_whoever_had_it() {
        let listeners = listeners(2);
        let thief = [1, 1].map(|last| listeners.reserve("", address(last)).unwrap());
        let _real = listeners.reserve("", address(2)).unwrap();
        let [first, taken] = thief;
        drop(taken);
        assert!(listeners.reserve("", address(3)).is_err());
        drop(first);
        assert!(listeners.reserve("", address(3)).is_ok());
    }

    #[test]
    fn a_limit_that_was_lowered_is_not_exceeded_any_further_by_taking_turns() {
        let listeners = listeners(4);
        let _before: Vec<Place> = (0..4).map(|_| listeners.reserve("", address(1)).unwrap()).collect();
        listeners.limit(1);
        let _real = listeners.reserve("", address(2)).unwrap();
        assert_eq!(listeners.state().seats.len(), 4);
    }
}
