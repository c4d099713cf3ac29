//! The shared budget of buffer memory: who may hold how much for bytes in flight.
//!
//! A holder leases what it reads into, for as long as bytes lie there. One of several may hold at most a third of what is left, and
//! so never more than a quarter of the whole: reads shrink as the budget is used up, those of the largest holder first,
//! and whoever comes later still finds room. A holder that keeps its bytes, because its readers stall, keeps no more than
//! that quarter from the others. The smallest read is counted too, but never refused: everybody progresses.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// One of several may have one part in so many of what is left. Alone, it then holds a quarter of the budget.
const OF_WHAT_IS_LEFT: usize = 3;

/// A budget of buffer memory, as one of its holders sees it. Clones are the same holder.
#[derive(Debug, Clone)]
pub struct Buffers {
    budget: Arc<Budget>,
    holder: Arc<Account>,
    /// One of several, so that it must leave something to the others.
    shares: bool,
}

#[derive(Debug)]
struct Budget {
    bytes: usize,
    used: Account,
}

#[derive(Debug, Default)]
struct Account(AtomicUsize);

impl Account {
    /// Adds `bytes` unless that makes more than `most`.
    fn add(&self, bytes: usize, most: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |now| now.checked_add(bytes).filter(|sum| *sum <= most)).is_ok()
    }

    fn subtract(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Relaxed);
    }

    fn now(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Buffers {
    /// A budget in bytes, and a holder that may have all of it.
    pub fn new(bytes: usize) -> Self {
        Self { budget: Arc::new(Budget { bytes, used: Account::default() }), holder: Arc::default(), shares: false }
    }

    /// The same budget for one of several holders: each hybrid connection of a relay is one.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { budget: self.budget.clone(), holder: Arc::default(), shares: true }
    }

    /// Bytes held by this holder.
    pub fn held(&self) -> usize {
        self.holder.now()
    }

    /// Bytes held by all.
    pub fn used(&self) -> usize {
        self.budget.used.now()
    }

    /// Leases `bytes`, if this holder may have them.
    pub fn lease(&self, bytes: usize) -> Option<Lease> {
        let most = if self.shares {
            let left = self.budget.bytes.saturating_sub(self.used());
            // The first bound sees what others hold a moment late; the second is exact.
            (left / OF_WHAT_IS_LEFT).min(self.budget.bytes / (OF_WHAT_IS_LEFT + 1))
        } else {
            self.budget.bytes
        };
        if !self.holder.add(bytes, most) {
            return None;
        }
        if !self.budget.used.add(bytes, self.budget.bytes) {
            self.holder.subtract(bytes);
            return None;
        }
        Some(Lease { buffers: self.clone(), bytes })
    }

    /// Leases `most` or what comes closest by halving, and `least` whatever the others hold.
    pub fn lease_between(&self, least: usize, most: usize) -> Lease {
        let mut bytes = most;
        while bytes > least {
            if let Some(lease) = self.lease(bytes) {
                return lease;
            }
            bytes /= 2;
        }
        self.holder.0.fetch_add(least, Relaxed);
        self.budget.used.0.fetch_add(least, Relaxed);
        Lease { buffers: self.clone(), bytes: least }
    }
}

/// A part of the budget, given back on drop.
#[derive(Debug)]
pub struct Lease {
    buffers: Buffers,
    bytes: usize,
}

impl Lease {
    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.buffers.holder.subtract(self.bytes);
        self.buffers.budget.used.subtract(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_holder_has_at_most_a_quarter_even_alone() {
        let buffers = Buffers::new(400).share();
        let lease = buffers.lease(100);
        assert!(lease.is_some() && buffers.lease(1).is_none());
        drop(lease);
        assert!(buffers.lease(101).is_none());
        assert!(buffers.lease(100).is_some());
    }

    #[test]
    fn who_shares_with_nobody_has_all_of_it() {
        let buffers = Buffers::new(400);
        let lease = buffers.lease(400);
        assert!(lease.is_some() && buffers.lease(1).is_none());
    }

    #[test]
    fn whoever_comes_later_finds_room_and_the_largest_holder_is_refused_first() {
        let first = Buffers::new(400).share();
        let _large = first.lease(100);
        let others: Vec<Buffers> = (0..3).map(|_| first.share()).collect();
        let _leases: Vec<Lease> = others.iter().map(|other| other.lease(40).expect("room for a newcomer")).collect();
        // 180 are left: who holds 100 gets nothing more, who holds 40 does.
        assert!(first.lease(1).is_none());
        assert!(others[0].lease(20).is_some());
        assert!(first.share().lease(60).is_some());
    }

    #[test]
    fn an_exhausted_budget_still_gives_the_least() {
        let buffers = Buffers::new(0);
        let lease = buffers.lease_between(4, 64);
        assert_eq!((lease.bytes(), buffers.held(), buffers.used()), (4, 4, 4));
        drop(lease);
        assert_eq!((buffers.held(), buffers.used()), (0, 0));
    }

    #[test]
    fn reads_shrink_by_halves_as_the_budget_goes() {
        let buffers = Buffers::new(400).share();
        let leases: Vec<Lease> = (0..4).map(|_| buffers.lease_between(4, 64)).collect();
        assert_eq!(leases.iter().map(Lease::bytes).collect::<Vec<_>>(), [64, 32, 4, 4]);
    }

    proptest! {
        #[test]
        fn every_byte_is_accounted_for_and_comes_back(
            budget in 0_usize..10_000,
            steps in prop::collection::vec((0_usize..5, 1_usize..4000, 1_usize..100, any::<bool>()), 0..200),
        ) {
            let first = Buffers::new(budget);
            let holders: Vec<Buffers> = (0..5).map(|_| first.share()).collect();
            let mut leases: Vec<(usize, Lease)> = Vec::new();
            for (holder, bytes, least, take) in steps {
                if take {
                    let before = first.used();
                    if bytes % 2 == 0 {
                        leases.extend(holders[holder].lease(bytes).map(|lease| (holder, lease)));
                        prop_assert!(first.used() <= budget.max(before));
                        prop_assert!(first.used() == before || holders[holder].held() <= budget / 4);
                    } else {
                        leases.push((holder, holders[holder].lease_between(least, bytes)));
                    }
                } else if !leases.is_empty() {
                    leases.swap_remove(bytes % leases.len());
                }
                for (index, holder) in holders.iter().enumerate() {
                    let held: usize =
                        leases.iter().filter(|(whose, _)| *whose == index).map(|(_, lease)| lease.bytes()).sum();
                    prop_assert_eq!(holder.held(), held);
                }
                prop_assert_eq!(first.used(), leases.iter().map(|(_, lease)| lease.bytes()).sum::<usize>());
            }
            leases.clear();
            prop_assert_eq!(first.used(), 0);
            prop_assert!(holders.iter().all(|holder| holder.held() == 0));
        }
    }
}
