//! What a process holds of other people's bytes, on all of its tunnels together: received and not yet taken by the next
//! hop, and to be sent and not yet written, from before there is credit for it. HTTP/2's windows bound one stream; this
//! bounds their sum.
//!
//! * From `PRESSED` on, credit is withheld from the largest holders until they have given back nearly all they hold,
//!   every tunnel's stream window is halved, and whoever holds more than a share (`SHARE`) while others wait opens no
//!   new stream.
//! * From `REFUSING` on, nobody does.
//! * When the limit is reached, the largest holders are reset, with a reason, until it is not.
//!
//! Those over their share count as larger than anybody who is not. Streams are compared by exact numbers. The sum may be too
//! high between two looks, because framing counts until it is looked at, and too low by one frame for each tunnel, because a
//! frame that is half there at a look belongs to no stream yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering::SeqCst},
    },
};

use super::{
    failure::{Code, Failure, Reached},
    hold::{Holder, Ledger},
};

/// Percent of the limit from which on credit is withheld.
const PRESSED: usize = 75;

/// Percent of the limit below which credit flows again: a little lower, so that it does not flutter.
const RELIEVED: usize = 70;

/// Percent of the limit from which on no stream is begun.
const REFUSING: usize = 95;

/// Percent of the limit that one actor or subject may hold while others wait (SD-14).
const SHARE: usize = 25;

/// How far the sum may grow under pressure until holders are looked at again: often enough to react, seldom enough to
/// cost nothing.
const LOOK_AGAIN: usize = 32;

/// What part of the limit the sum may be wrong by where a stream is refused.
const EXACT_ENOUGH: usize = 256;

/// A limit for everything that is held. Cheap to clone; clones are the same budget.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    /// As the configuration calls it.
    name: &'static str,
    limit: usize,
    /// May be a little too high, and below zero for a moment when two threads count at once.
    held: AtomicIsize,
    /// What must be held before anybody looks.
    look_at: AtomicIsize,
    /// What was held at the last look.
    looked: AtomicIsize,
    pressed: AtomicBool,
    watch: Mutex<Watch>,
    refused: AtomicU64,
    reset: AtomicU64,
}

#[derive(Default)]
struct Watch {
    tunnels: Vec<Weak<Ledger>>,
    withheld: Vec<Weak<Holder>>,
    crowd: Crowd,
}

/// Somebody whose share of a budget is counted: an actor, a subject, a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// What they are. Only parties of one kind compete.
    pub kind: &'static str,
    /// Who they are.
    pub name: Arc<str>,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Streams that were not begun.
    pub refused: u64,
    /// Streams that were reset.
    pub reset: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new("", usize::MAX)
    }
}

impl Budget {
    /// At most `limit` bytes; `name` is what the configuration calls it.
    pub fn new(name: &'static str, limit: usize) -> Self {
        let inner = Inner {
            name,
            limit,
            held: AtomicIsize::new(0),
            look_at: AtomicIsize::new(percent(limit, PRESSED)),
            looked: AtomicIsize::new(0),
            pressed: AtomicBool::new(false),
            watch: Mutex::default(),
            refused: AtomicU64::new(0),
            reset: AtomicU64::new(0),
        };
        Self(Arc::new(inner))
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        usize::try_from(self.0.held.load(SeqCst)).unwrap_or(0)
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        Counts { refused: self.0.refused.load(SeqCst), reset: self.0.reset.load(SeqCst) }
    }

    /// Whether these parties may begin a stream.
    ///
    /// # Errors
    /// `LimitReached`, with the limit, what is held and when to try again.
    pub(super) fn admit(&self, parties: &[Party]) -> Result<(), Failure> {
        if !self.reaches(PRESSED) {
            return Ok(());
        }
        // The sum may be too high by now. It is not made exact for each of a flood of streams that are all refused.
        let (held, looked) = (self.0.held.load(SeqCst), self.0.looked.load(SeqCst));
        if held.abs_diff(looked) > self.0.limit / EXACT_ENOUGH {
            self.look();
        }
        let why = if self.reaches(REFUSING) {
            format!("and from {REFUSING} % on no stream is begun")
        } else {
            let watch = self.watch();
            let over = parties.iter().find(|party| self.reaches(PRESSED) && watch.crowd.is_over(party, self.0.limit));
            let Some(over) = over else { return Ok(()) };
            let (share, theirs) = (mebibytes(self.0.limit / 100 * SHARE), mebibytes(watch.crowd.of(over)));
            let Party { kind, name } = over;
            format!("{theirs} of it by {kind} {name}, whose share is {share} while others wait")
        };
        self.0.refused.fetch_add(1, SeqCst);
        Err(Failure::before_target(Code::LimitReached, format!("{}, {why}; try again in 1 s", self.shown())))
    }

    pub(super) fn join(&self, ledger: &Arc<Ledger>) {
        let mut watch = self.watch();
        watch.tunnels.retain(|tunnel| tunnel.strong_count() > 0);
        watch.tunnels.push(Arc::downgrade(ledger));
    }

    /// More, or less, is held. Not to be called while a holder is locked.
    pub(super) fn moved(&self, bytes: isize) {
        let now = self.0.held.fetch_add(bytes, SeqCst) + bytes;
        if bytes > 0 {
            if now >= self.0.look_at.load(SeqCst) {
                self.look();
            }
        } else if self.0.pressed.load(SeqCst) && now < percent(self.0.limit, RELIEVED) {
            self.relieve();
        }
    }

    /// The sum was wrong by so much, or less is held; nothing is done about it now, because locks may be held.
    pub(super) fn corrected(&self, bytes: isize) {
        self.0.held.fetch_add(bytes, SeqCst);
    }

    /// Does what is due: for those who could not when they took something on or let it go.
    pub(super) fn settle(&self) {
        if self.0.held.load(SeqCst) >= self.0.look_at.load(SeqCst) {
            self.look();
        }
        self.settle_down();
    }

    fn settle_down(&self) {
        if self.0.pressed.load(SeqCst) && !self.reaches(RELIEVED) {
            self.relieve();
        }
    }

    /// Counts exactly and does what is due. If another thread is at it already, leaves it to that one.
    fn look(&self) {
        let Ok(mut watch) = self.0.watch.try_lock() else { return };
        let tunnels: Vec<Arc<Ledger>> = watch.tunnels.iter().filter_map(Weak::upgrade).collect();
        let mut holders = Vec::new();
        for tunnel in &tunnels {
            tunnel.recount(&mut holders);
        }
        watch.crowd = Crowd::of_all(&holders);
        let limit = self.0.limit;
        holders.sort_by_cached_key(|(bytes, holder)| {
            let over = holder.parties().iter().any(|party| watch.crowd.is_over(party, limit));
            std::cmp::Reverse((over, *bytes))
        });
        // Those that were cut off already and are still being let go are as good as gone.
        let leaving = |(bytes, holder): &(usize, Arc<Holder>)| if holder.is_cut() { *bytes } else { 0 };
        let mut left = self.held().saturating_sub(holders.iter().map(leaving).sum());
        let mut largest = holders.into_iter().filter(|(bytes, holder)| *bytes > 0 && !holder.is_cut());
        while left >= limit {
            let Some((bytes, holder)) = largest.next() else { break };
            self.0.reset.fetch_add(1, SeqCst);
            holder.cut(self.too_much(bytes));
            left = left.saturating_sub(bytes);
        }
        if self.reaches(PRESSED) {
            self.0.pressed.store(true, SeqCst);
            // Half of it is what can be had back soon; the others go on as they were.
            let mut wanted = self.held() / 2;
            for (bytes, holder) in largest {
                holder.withhold();
                watch.withheld.push(Arc::downgrade(&holder));
                wanted = wanted.saturating_sub(bytes);
                if wanted == 0 {
                    break;
                }
            }
            tunnels.iter().for_each(|tunnel| tunnel.press());
            watch.withheld.retain(|holder| holder.strong_count() > 0);
        }
        let now = self.held();
        self.0.looked.store(signed(now), SeqCst);
        let next = now.saturating_add(limit / LOOK_AGAIN);
        // The limit itself is not to be missed.
        let next = if now < limit { next.min(limit) } else { next };
        self.0.look_at.store(signed(next).max(percent(limit, PRESSED)), SeqCst);
        drop(watch);
        // Somebody may have given back the last of it before they could see that they were pressed.
        self.settle_down();
    }

    /// Lets credit flow again.
    fn relieve(&self) {
        let mut watch = self.watch();
        self.0.pressed.store(false, SeqCst);
        let withheld = std::mem::take(&mut watch.withheld);
        let tunnels: Vec<Arc<Ledger>> = watch.tunnels.iter().filter_map(Weak::upgrade).collect();
        self.0.look_at.store(percent(self.0.limit, PRESSED), SeqCst);
        drop(watch);
        withheld.iter().filter_map(Weak::upgrade).for_each(|holder| holder.resume());
        tunnels.iter().for_each(|tunnel| tunnel.relax());
    }

    fn reaches(&self, percentage: usize) -> bool {
        self.0.held.load(SeqCst) >= percent(self.0.limit, percentage)
    }

    fn too_much(&self, bytes: usize) -> Failure {
        let message = format!("{}, and this stream held {}, more than any other", self.shown(), mebibytes(bytes));
        Failure { code: Code::LimitReached, message, reached: Reached::Maybe }
    }

    fn shown(&self) -> String {
        let Inner { name, limit, .. } = &*self.0;
        format!("{name}: {} of {} are held", mebibytes(self.held()), mebibytes(*limit))
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.0.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("limit", &self.0.limit).field("held", &self.held()).finish()
    }
}

/// Who held how much at the last look.
#[derive(Debug, Default)]
struct Crowd {
    held: BTreeMap<Party, usize>,
    /// Kinds of which there is more than one.
    competing: BTreeSet<&'static str>,
}

impl Crowd {
    fn of_all(holders: &[(usize, Arc<Holder>)]) -> Self {
        let mut crowd = Self::default();
        for (bytes, holder) in holders {
            for party in holder.parties() {
                *crowd.held.entry(party.clone()).or_default() += bytes;
            }
        }
        let parties: Vec<_> = crowd.held.keys().collect();
        // In order, so equal kinds are neighbours.
        let competing = parties.windows(2).filter(|pair| pair[0].kind == pair[1].kind).map(|pair| pair[0].kind);
        crowd.competing = competing.collect();
        crowd
    }

    fn of(&self, party: &Party) -> usize {
        self.held.get(party).copied().unwrap_or(0)
    }

    fn is_over(&self, party: &Party, limit: usize) -> bool {
        self.competing.contains(party.kind) && signed(self.of(party)) > percent(limit, SHARE)
    }
}

fn percent(limit: usize, percentage: usize) -> isize {
    signed((limit as u128 * percentage as u128 / 100).try_into().unwrap_or(usize::MAX))
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
