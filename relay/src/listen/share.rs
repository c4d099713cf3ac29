//! Places that the hybrid connections of a listener share. Their relays decide how much comes, and one of them may mean
//! harm: half of all places is divided among the hybrid connections, a part for each alone, and the other half is for
//! whoever comes first. So whoever has less than its part finds a place, whatever the others take (SD-14), and one that is
//! alone has them all.
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Of all places, one in so many is divided among the hybrid connections.
const DIVIDED: usize = 2;

/// So many places.
#[derive(Debug, Clone)]
pub(super) struct Commons {
    table: Arc<Mutex<Table>>,
}

/// What one hybrid connection may take of them.
#[derive(Debug)]
pub(super) struct Share {
    table: Arc<Mutex<Table>>,
    member: usize,
}

/// A place, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    table: Arc<Mutex<Table>>,
    member: usize,
}

#[derive(Debug)]
struct Table {
    places: usize,
    used: usize,
    /// None leaves: a listener listens until its process ends.
    members: Vec<Member>,
    /// Who is the first to be asked when a place comes back.
    turn: usize,
}

#[derive(Debug, Default)]
struct Member {
    used: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

impl Commons {
    pub(super) fn new(places: usize) -> Self {
        let table = Table { places, used: 0, members: Vec::new(), turn: 0 };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// One more who shares them.
    pub(super) fn share(&self) -> Share {
        let mut table = lock(&self.table);
        table.members.push(Member::default());
        Share { table: self.table.clone(), member: table.members.len() - 1 }
    }
}

impl Share {
    /// Takes a place, if there is one for us.
    pub(super) fn try_take(&self) -> Option<Place> {
        let mut table = lock(&self.table);
        if !table.may_take(self.member) {
            return None;
        }
        table.take(self.member);
        Some(Place { table: self.table.clone(), member: self.member })
    }

    /// Waits for a place, behind those of this hybrid connection who wait already. Cancel-safe.
    pub(super) async fn take(&self) -> Place {
        if let Some(place) = self.try_take() {
            return place;
        }
        let (sender, place) = oneshot::channel();
        {
            let mut table = lock(&self.table);
            let waiting = &mut table.members[self.member].waiting;
            waiting.retain(|sender| !sender.is_closed());
            waiting.push_back(sender);
        }
        // One may have come back meanwhile.
        hand_out(&self.table);
        match place.await {
            Ok(place) => place,
            // The table, and with it the other end, lives as long as we do.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Table {
    fn may_take(&self, member: usize) -> bool {
        let part = (self.places / DIVIDED / self.members.len()).max(1);
        let free = self.places.saturating_sub(self.used);
        let owed: usize = self.members.iter().map(|other| part.saturating_sub(other.used)).sum();
        // What is owed to us is ours to take.
        free > 0 && (self.members[member].used < part || free > owed)
    }

    fn take(&mut self, member: usize) {
        self.used += 1;
        self.members[member].used += 1;
    }

    /// Takes a place for somebody who waits, if one may have it.
    fn next(&mut self) -> Option<(usize, oneshot::Sender<Place>)> {
        for step in 0..self.members.len() {
            let member = (self.turn + step) % self.members.len();
            if !self.may_take(member) {
                continue;
            }
            while let Some(waiting) = self.members[member].waiting.pop_front() {
                if !waiting.is_closed() {
                    self.take(member);
                    self.turn = member + 1;
                    return Some((member, waiting));
                }
            }
        }
        None
    }
}

/// Gives what is free to those who wait, one of each hybrid connection in turn.
fn hand_out(table: &Arc<Mutex<Table>>) {
    // A statement of its own: whoever left a moment ago gives the place back at once, which locks the table again.
    while let Some((member, waiting)) = { lock(table).next() } {
        drop(waiting.send(Place { table: table.clone(), member }));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut table = lock(&self.table);
            table.used -= 1;
            table.members[self.member].used -= 1;
        }
        hand_out(&self.table);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn as_many_as_it_gets(share: &Share) -> Vec<Place> {
        std::iter::from_fn(|| share.try_take()).collect()
    }

    #[test]
    fn who_is_alone_has_all_places() {
        let share = Commons::new(9).share();
        let held = as_many_as_it_gets(&share);
        assert_eq!(held.len(), 9);
        drop(held);
        assert_eq!(as_many_as_it_gets(&share).len(), 9);
    }

    #[test]
    fn whatever_others_take_each_has_its_part_of_half_the_places() {
        let commons = Commons::new(64);
        let shares: Vec<Share> = (0..4).map(|_| commons.share()).collect();
        // Eight each; what is not owed to the others is for whoever comes first.
        let first = as_many_as_it_gets(&shares[0]);
        assert_eq!(first.len(), 40);
        let second = as_many_as_it_gets(&shares[1]);
        assert_eq!(second.len(), 8);
        let third = as_many_as_it_gets(&shares[2]);
        assert_eq!(third.len(), 8);
        let mut fourth = as_many_as_it_gets(&shares[3]);
        assert_eq!(fourth.len(), 8);
        fourth.pop();
        assert!(shares[..3].iter().all(|share| share.try_take().is_none()), "it is owed to the fourth");
        assert!(shares[3].try_take().is_some());
    }

    #[test]
    fn with_fewer_places_than_would_do_everybody_may_still_have_one() {
        let commons = Commons::new(1);
        let (one, other) = (commons.share(), commons.share());
        let held = one.try_take().unwrap();
        assert!(other.try_take().is_none());
        drop(held);
        assert!(other.try_take().is_some());
    }

    #[tokio::test]
    async fn who_waits_is_served_in_turn_and_his_own_part_at_once() {
        let commons = Commons::new(4);
        let (greedy, modest) = (commons.share(), commons.share());
        let mut held = as_many_as_it_gets(&greedy);
        assert_eq!(held.len(), 3);
        let own = modest.take().now_or_never().expect("its own part");
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(greedy.take())).collect();
        for one in &mut waiting {
            assert!(poll!(one).is_pending());
        }
        let mut more = Box::pin(modest.take());
        assert!(poll!(&mut more).is_pending());
        // One that gives up is passed over.
        drop(waiting.remove(0));
        drop(held.pop());
        assert!(poll!(&mut waiting[1]).is_pending(), "in the order of their coming");
        let Some(first) = waiting.remove(0).now_or_never() else { panic!("nobody has the place") };
        drop(held.pop());
        let second = more.now_or_never().expect("it is the other's turn");
        drop((first, second));
        assert!(waiting.remove(0).now_or_never().is_some());
        drop((held, own));
        assert_eq!(lock(&commons.table).used, 0);
    }

    #[tokio::test]
    async fn a_place_that_was_given_to_one_who_left_is_given_on() {
        let commons = Commons::new(1);
        let share = commons.share();
        let held = share.try_take();
        let (mut gone, mut stays) = (Box::pin(share.take()), Box::pin(share.take()));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut stays).is_pending());
        drop(held);
        // It has the place and does not know yet.
        drop(gone);
        assert!(stays.now_or_never().is_some());
    }
}
