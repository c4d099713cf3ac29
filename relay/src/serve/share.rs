//! Bounded numbers of places, each held by a guard; and shares of them, so that nobody takes all.
//!
//! Who finds no place is told which limit it met and when to come again: as soon as, by what was seen so far, the next
//! place comes back.
use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A holder has one in so many of all places for itself. Beyond, it may have what others leave, but for a reserve.
const OWN: usize = 4;

/// The reserve, one in so many: what somebody who has nothing yet finds free, whatever one holder does.
const RESERVE: usize = 4;

/// The reserve where addresses share what hybrid connections share already. Tenants behind one address must not lose
/// their part to one of them, so it is smaller than what that one has to leave.
const RESERVE_OF_ADDRESSES: usize = 8;

/// When to come again, while nothing is known.
const AGAIN_UNKNOWN: Duration = Duration::from_secs(5);

/// At the soonest: HTTP counts whole seconds, and none would be an invitation to spin.
const AGAIN_MIN: Duration = Duration::from_secs(1);

/// At the latest: an estimate is no better beyond, and limits can be raised meanwhile.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// A limit that was met, as the refused peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Its name in the configuration.
    pub(crate) limit: &'static str,
    /// What it allows.
    pub(crate) value: usize,
    /// What there is.
    pub(crate) current: usize,
    /// When another try may succeed.
    pub(crate) again: Duration,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} allows {}, and there are {}", self.limit, self.value, self.current)
    }
}

/// So many places.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    limit: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    places: usize,
    used: usize,
    turnover: Turnover,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    state: Arc<Mutex<State>>,
}

impl Share {
    /// `limit` is the name in the configuration.
    pub(crate) fn new(limit: &'static str, places: usize) -> Self {
        let state = State { places, used: 0, turnover: Turnover::default() };
        Self { limit, state: Arc::new(Mutex::new(state)) }
    }

    /// Changes how many there are; places that are taken stay taken.
    pub(crate) fn resize(&self, places: usize) {
        lock(&self.state).places = places;
    }

    /// Takes a place, if there is one.
    pub(crate) fn take(&self) -> Result<Place, Excess> {
        let mut state = lock(&self.state);
        if state.used >= state.places {
            let again = state.turnover.again();
            return Err(Excess { limit: self.limit, value: state.places, current: state.used, again });
        }
        state.used += 1;
        Ok(Place { state: self.state.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.used -= 1;
        state.turnover.returned();
    }
}

/// So many places, shared by holders who may not crowd each other out (SD-14).
#[derive(Debug)]
pub(crate) struct Shares<H: Eq + Hash> {
    limit: &'static str,
    table: Arc<Mutex<Table<H>>>,
}

#[derive(Debug)]
struct Table<H> {
    places: usize,
    reserve: usize,
    used: usize,
    /// Only of those who hold something, so no larger than `used`.
    by: HashMap<H, usize>,
    turnover: Turnover,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub(crate) struct Held<H: Eq + Hash> {
    table: Arc<Mutex<Table<H>>>,
    holder: H,
}

impl<H: Clone + Eq + Hash> Shares<H> {
    pub(crate) fn new(limit: &'static str, places: usize) -> Self {
        Self::with_reserve(limit, places, places / RESERVE)
    }

    fn with_reserve(limit: &'static str, places: usize, reserve: usize) -> Self {
        let table =
            Table { places, reserve: reserve.max(1), used: 0, by: HashMap::new(), turnover: Turnover::default() };
        Self { limit, table: Arc::new(Mutex::new(table)) }
    }

    /// Takes a place: one of the holder's own part, or one that is not of the reserve.
    pub(crate) fn take(&self, holder: H) -> Result<Held<H>, Excess> {
        let mut table = lock(&self.table);
        let part = (table.places / OWN).max(1);
        let (own, free) = (table.by.get(&holder).copied().unwrap_or_default(), table.places - table.used);
        let excess = |value, current| Excess { limit: self.limit, value, current, again: table.turnover.again() };
        if free == 0 {
            return Err(excess(table.places, table.used));
        }
        if own >= part && free <= table.reserve {
            return Err(excess(part, own));
        }
        table.used += 1;
        *table.by.entry(holder.clone()).or_default() += 1;
        Ok(Held { table: self.table.clone(), holder })
    }

    /// How many are taken.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        lock(&self.table).used
    }
}

impl<H: Eq + Hash> Clone for Shares<H> {
    fn clone(&self) -> Self {
        Self { limit: self.limit, table: self.table.clone() }
    }
}

impl<H: Eq + Hash> Drop for Held<H> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        table.used -= 1;
        table.turnover.returned();
        if let Some(own) = table.by.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                table.by.remove(&self.holder);
            }
        }
    }
}

/// Senders that wait for listeners: no hybrid connection and no address may have all the places.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    entities: Shares<String>,
    addresses: Shares<IpAddr>,
}

/// A place in it.
#[derive(Debug)]
pub(crate) struct Waiting {
    _of_entity: Held<String>,
    _of_address: Held<IpAddr>,
}

impl WaitingRoom {
    pub(crate) fn new(limit: &'static str, places: usize) -> Self {
        let addresses = Shares::with_reserve(limit, places, places / RESERVE_OF_ADDRESSES);
        Self { entities: Shares::new(limit, places), addresses }
    }

    pub(crate) fn take(&self, entity: &str, address: IpAddr) -> Result<Waiting, Excess> {
        Ok(Waiting { _of_entity: self.entities.take(entity.to_owned())?, _of_address: self.addresses.take(address)? })
    }
}

/// How often places come back.
#[derive(Debug, Default)]
struct Turnover {
    last: Option<Instant>,
    /// Between two returns, lately.
    gap: Option<Duration>,
}

impl Turnover {
    fn returned(&mut self) {
        let now = Instant::now();
        let gap = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        self.gap = match (self.gap, gap) {
            (Some(before), Some(gap)) => Some((before * 7 + gap) / 8),
            (before, gap) => before.or(gap),
        };
    }

    /// When to expect the next.
    fn again(&self) -> Duration {
        let (Some(last), Some(gap)) = (self.last, self.gap) else { return AGAIN_UNKNOWN };
        // One that takes longer than usual may take as long again.
        gap.max(last.elapsed()).clamp(AGAIN_MIN, AGAIN_MAX)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_when_its_holder_goes() {
        let share = Share::new("limits.senders", 1);
        let place = share.take().unwrap();
        let excess = share.take().unwrap_err();
        assert_eq!((excess.limit, excess.value, excess.current), ("limits.senders", 1, 1));
        drop(place);
        assert!(share.take().is_ok());
    }

    #[test]
    fn nobody_takes_the_last_quarter_but_those_who_have_less_than_theirs() {
        let shares = Shares::new("limits.rendezvous", 100);
        let mut held: Vec<Held<&str>> = (0..75).map(|_| shares.take("greedy").unwrap()).collect();
        let excess = shares.take("greedy").unwrap_err();
        assert_eq!((excess.value, excess.current), (25, 75));
        held.extend((0..25).map(|_| shares.take("late").unwrap()));
        let excess = shares.take("later").unwrap_err();
        assert_eq!((excess.value, excess.current), (100, 100));
        held.remove(0);
        assert!(
            shares.take("greedy").is_err() && shares.take("late").is_err(),
            "the one place is for whoever has none"
        );
        held.push(shares.take("later").unwrap());
        drop(held);
        assert!(lock(&shares.table).by.is_empty());
    }

    #[test]
    fn with_less_than_four_places_everybody_may_still_have_one() {
        let shares = Shares::new("limits.rendezvous", 1);
        let held = shares.take("one").unwrap();
        assert!(shares.take("other").is_err());
        drop(held);
        assert!(shares.take("other").is_ok());
    }

    #[test]
    fn a_waiting_room_is_shared_by_entities_and_by_addresses() {
        let room = WaitingRoom::new("limits.rendezvous", 4);
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let _held: Vec<Waiting> = (0..3).map(|last| room.take("busy", address(last)).unwrap()).collect();
        assert!(room.take("busy", address(9)).is_err());
        assert!(room.take("quiet", address(9)).is_ok());

        // Behind one address the others still have room beside the busiest, and beside that address other addresses.
        let room = WaitingRoom::new("limits.rendezvous", 8);
        let _busiest: Vec<Waiting> = (0..6).map(|_| room.take("busy", address(1)).unwrap()).collect();
        assert!(room.take("busy", address(1)).is_err());
        let _beside = room.take("beside", address(1)).unwrap();
        assert!(room.take("third", address(1)).is_err());
        assert_eq!(lock(&room.entities.table).used, 7, "a place that was refused by half is given back whole");
        assert!(room.take("third", address(2)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn when_to_come_again_follows_how_fast_places_come_back() {
        let share = Share::new("limits.senders", 1);
        let again = |share: &Share| share.take().unwrap_err().again;
        let place = share.take().unwrap();
        assert_eq!(again(&share), AGAIN_UNKNOWN);
        drop(place);
        for (gap, expected) in [(20, 20), (3600, 60), (0, 1)] {
            for _ in 0..100 {
                let place = share.take().unwrap();
                tokio::time::advance(Duration::from_secs(gap)).await;
                drop(place);
            }
            let _place = share.take().unwrap();
            assert_eq!(again(&share).as_secs(), expected, "one every {gap} s");
        }
        let _place = share.take();
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(again(&share).as_secs(), 30, "nothing has come back for that long");
    }
}
