//! Places of the HTTP requests of one hybrid connection. A sender that has a quarter of them does not get the last
//! quarter: whatever one does, others find some (SD-14). Senders are told apart by the addresses that the relay names.
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::serve::counted;

/// A sender's own part, one place in so many.
const OWN: usize = 4;

/// What is kept for those who have less than that, one place in so many. Of fewer places than this nothing is kept.
const RESERVE: usize = 4;

/// Who asks; nothing where the relay has not said it, or not yet.
type Sender = Option<IpAddr>;

/// All places.
#[derive(Debug)]
pub(in crate::listen) struct Places {
    table: Arc<Mutex<Table>>,
}

/// One of them, given back on drop.
#[derive(Debug)]
pub(in crate::listen) struct Place {
    table: Arc<Mutex<Table>>,
    sender: Sender,
}

#[derive(Debug)]
struct Table {
    places: usize,
    used: usize,
    /// Only of those who hold something, so no larger than `used`.
    by: HashMap<Sender, usize>,
}

impl Places {
    pub(in crate::listen) fn new(places: usize) -> Self {
        Self { table: Arc::new(Mutex::new(Table { places, used: 0, by: HashMap::new() })) }
    }

    /// How many are taken.
    pub(in crate::listen) fn used(&self) -> usize {
        lock(&self.table).used
    }

    /// Takes a place, if there is one for this sender.
    pub(super) fn take(&self, sender: Option<IpAddr>) -> Option<Place> {
        let sender = sender.map(counted);
        let taken = lock(&self.table).take(sender);
        taken.then(|| Place { table: self.table.clone(), sender })
    }
}

impl Place {
    /// Whose it is shows only now. False when that sender has too many: then it is to be given back soon.
    pub(super) fn belongs_to(&mut self, sender: Option<IpAddr>) -> bool {
        let sender = sender.map(counted);
        if sender == self.sender {
            return true;
        }
        let mut table = lock(&self.table);
        table.give_back(self.sender);
        let taken = table.take(sender);
        if taken {
            self.sender = sender;
        } else {
            table.put(self.sender);
        }
        taken
    }
}

impl Table {
    fn take(&mut self, sender: Sender) -> bool {
        let own = self.by.get(&sender).copied().unwrap_or_default();
        let free = self.places.saturating_sub(self.used);
        let taken = free > 0 && (own < self.places / OWN || free > self.places / RESERVE);
        if taken {
            self.put(sender);
        }
        taken
    }

    fn put(&mut self, sender: Sender) {
        self.used += 1;
        *self.by.entry(sender).or_default() += 1;
    }

    fn give_back(&mut self, sender: Sender) {
        self.used -= 1;
        if let Some(own) = self.by.get_mut(&sender) {
            *own -= 1;
            if *own == 0 {
                self.by.remove(&sender);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.table).give_back(self.sender);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(address: &str) -> Sender {
        Some(address.parse().unwrap())
    }

    fn as_many_as_it_gets(places: &Places, sender: Sender) -> Vec<Place> {
        std::iter::from_fn(|| places.take(sender)).collect()
    }

    #[test]
    fn one_sender_never_gets_the_last_quarter() {
        let places = Places::new(16);
        let greedy = as_many_as_it_gets(&places, sender("192.0.2.1"));
        assert_eq!(greedy.len(), 12);
        assert_eq!(as_many_as_it_gets(&places, None).len(), 4, "nor do the unnamed, but they are others");
        let others = as_many_as_it_gets(&places, sender("192.0.2.2"));
        assert_eq!(others.len(), 4);
        assert_eq!((places.used(), places.take(sender("192.0.2.3")).is_some()), (16, false));
        drop((greedy, others));
        assert!(lock(&places.table).by.is_empty() && places.used() == 0);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_sender() {
        let places = Places::new(4);
        let held = as_many_as_it_gets(&places, sender("2001:db8::1"));
        assert_eq!(held.len(), 3);
        assert!(places.take(sender("2001:db8::2")).is_none());
        assert!(places.take(sender("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn of_three_places_one_sender_may_have_all() {
        assert_eq!(as_many_as_it_gets(&Places::new(3), sender("192.0.2.1")).len(), 3);
        assert_eq!(as_many_as_it_gets(&Places::new(1), None).len(), 1);
    }

    #[test]
    fn a_sender_that_shows_later_is_held_to_the_same() {
        let places = Places::new(4);
        let mut held = as_many_as_it_gets(&places, sender("192.0.2.1"));
        assert_eq!(held.len(), 3);
        let mut late = places.take(None).unwrap();
        assert!(!late.belongs_to(sender("192.0.2.1")));
        assert_eq!(places.used(), 4, "it stays the place of nobody known");
        assert!(held[0].belongs_to(sender("192.0.2.1")), "what one has, one keeps");
        held.pop();
        assert!(late.belongs_to(sender("192.0.2.1")));
        assert_eq!(lock(&places.table).by[&sender("192.0.2.1")], 3);
        drop((held, late));
        assert!(lock(&places.table).by.is_empty() && places.used() == 0);
    }
}
