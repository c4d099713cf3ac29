//! What one stream and one tunnel hold, for the [`Budget`]: exact for each stream when it is asked for, and in between kept
//! for each tunnel by two additions for each piece, without a look-up.
//!
//! Lock order: budget, ledger, holder, HTTP/2. Nothing here calls the budget while it holds a lock.

use std::{
    collections::HashMap,
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicIsize, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;

use super::{
    budget::{Budget, Party},
    failure::Failure,
    inbound::Inbound,
    message::Piece,
    window::Pace,
};

/// A stream from which credit is withheld gets it back when it holds no more than this.
const NEARLY_NOTHING: usize = 64 * 1024;

/// Bytes after which a tunnel's sum is made exact: what was counted too much by then is less than one stream's window.
const RECOUNT: usize = 512 * 1024;

/// Streams are counted at most once for each so many bytes, so that counting a thousand of them costs next to nothing.
const RECOUNT_PER_STREAM: usize = 2 * 1024;

/// What the streams of one tunnel hold.
#[derive(Debug)]
pub(super) struct Ledger {
    budget: Budget,
    pace: Arc<Pace>,
    /// Received and not given back; too high by what framing came since the last recount.
    held: AtomicIsize,
    received: AtomicUsize,
    /// Received since HTTP/2 last came to rest: perhaps not with its stream yet.
    unsettled: AtomicUsize,
    streams: Mutex<HashMap<u64, Weak<Holder>>>,
    ids: AtomicU64,
}

impl Ledger {
    pub(super) fn new(budget: Budget, pace: Arc<Pace>) -> Arc<Self> {
        let ledger = Arc::new(Self {
            budget: budget.clone(),
            pace,
            held: AtomicIsize::new(0),
            received: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
            streams: Mutex::default(),
            ids: AtomicU64::new(0),
        });
        budget.join(&ledger);
        ledger
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The transport has received so many bytes.
    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes, Relaxed);
        self.unsettled.fetch_add(bytes, Relaxed);
        let more = isize::try_from(bytes).unwrap_or(isize::MAX);
        self.held.fetch_add(more, SeqCst);
        self.budget.corrected(more);
    }

    /// HTTP/2 has come to rest: what was received is with its streams. Does what is due.
    pub(super) fn settle(&self) {
        self.unsettled.store(0, Relaxed);
        let due = self.received.load(Relaxed);
        if due >= RECOUNT && due >= self.streams().len() * RECOUNT_PER_STREAM {
            self.recount(&mut Vec::new());
        }
        self.budget.settle();
    }

    fn moved(&self, bytes: isize) {
        if bytes != 0 {
            self.held.fetch_add(bytes, SeqCst);
            self.budget.moved(bytes);
        }
    }

    /// Counts exactly, and adds every stream with what it holds.
    pub(super) fn recount(&self, holders: &mut Vec<(usize, Arc<Holder>)>) {
        let before = self.held.load(SeqCst);
        self.received.store(0, Relaxed);
        // Collected first: the last handle of a stream may go while it is counted, and takes this lock.
        let streams: Vec<_> = self.streams().values().filter_map(Weak::upgrade).collect();
        let mut exact = self.unsettled.load(Relaxed);
        for holder in streams {
            let received = holder.inbound().held();
            exact += received;
            holders.push((received + holder.sending.load(Relaxed), holder));
        }
        let change = isize::try_from(exact).unwrap_or(isize::MAX) - before;
        self.held.fetch_add(change, SeqCst);
        self.budget.corrected(change);
    }

    /// Windows are too large for now.
    pub(super) fn press(&self) {
        self.pace.press();
    }

    /// Windows may grow again.
    pub(super) fn relax(&self) {
        self.pace.relax();
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Weak<Holder>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.budget.corrected(-*self.held.get_mut());
    }
}

/// What one stream holds. Both of its halves keep it.
pub(super) struct Holder {
    ledger: Arc<Ledger>,
    id: u64,
    parties: OnceLock<Vec<Party>>,
    inbound: Mutex<Inbound>,
    /// On its way out and not written yet, and what comes behind it.
    sending: AtomicUsize,
    withholding: AtomicBool,
    cut: OnceLock<Failure>,
    waiting: AtomicWaker,
}

impl Holder {
    pub(super) fn new(ledger: &Arc<Ledger>, inbound: Inbound) -> Arc<Self> {
        let holder = Arc::new(Self {
            ledger: Arc::clone(ledger),
            id: ledger.ids.fetch_add(1, Relaxed),
            parties: OnceLock::new(),
            inbound: Mutex::new(inbound),
            sending: AtomicUsize::new(0),
            withholding: AtomicBool::new(false),
            cut: OnceLock::new(),
            waiting: AtomicWaker::new(),
        });
        ledger.streams().insert(holder.id, Arc::downgrade(&holder));
        holder
    }

    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Said once; the first counts.
    pub(super) fn belongs_to(&self, parties: Vec<Party>) {
        let _ = self.parties.set(parties);
    }

    pub(super) fn parties(&self) -> &[Party] {
        self.parties.get().map_or(&[], Vec::as_slice)
    }

    /// The next piece that was received.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Failure>>> {
        let (polled, freed) = {
            let mut inbound = self.inbound();
            let polled = inbound.poll_next(cx);
            (polled, inbound.take_freed())
        };
        self.freed(freed);
        let piece = ready!(polled);
        Poll::Ready(match self.cut.get() {
            Some(failure) if piece.is_none() => Some(Err(failure.clone())),
            _ => piece,
        })
    }

    /// The next hop has taken so much.
    pub(super) fn taken(&self, bytes: usize) {
        let freed = {
            let mut inbound = self.inbound();
            inbound.taken(bytes, self.withholding.load(SeqCst));
            if self.withholding.load(SeqCst) && inbound.held() <= NEARLY_NOTHING {
                self.withholding.store(false, SeqCst);
                inbound.repay();
            }
            inbound.take_freed()
        };
        self.freed(freed);
    }

    /// Nothing more will be received.
    pub(super) fn close(&self) {
        let freed = {
            let mut inbound = self.inbound();
            inbound.close();
            inbound.take_freed()
        };
        self.freed(freed);
    }

    fn freed(&self, bytes: usize) {
        self.ledger.moved(-isize::try_from(bytes).unwrap_or(isize::MAX));
    }

    /// No credit for now.
    pub(super) fn withhold(&self) {
        // Under the lock, so that nobody is just deciding about it.
        let _inbound = self.inbound();
        self.withholding.store(true, SeqCst);
    }

    /// Credit again.
    pub(super) fn resume(&self) {
        let mut inbound = self.inbound();
        self.withholding.store(false, SeqCst);
        inbound.repay();
    }

    /// What it holds is let go, and its owner learns why. To be called under the budget's lock.
    pub(super) fn cut(&self, failure: Failure) {
        let _ = self.cut.set(failure);
        let freed = {
            let mut inbound = self.inbound();
            inbound.close();
            inbound.take_freed()
        };
        self.ledger.held.fetch_sub(isize::try_from(freed).unwrap_or(isize::MAX), SeqCst);
        // What is being sent is subtracted when HTTP/2 lets go of it, which the owner brings about.
        self.ledger.budget.corrected(-isize::try_from(freed).unwrap_or(isize::MAX));
        self.waiting.wake();
    }

    /// Whether it was cut off.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get().is_some()
    }

    /// So much is to be sent.
    pub(super) fn sends(self: &Arc<Self>, bytes: usize) -> Weight {
        self.sending.fetch_add(bytes, Relaxed);
        self.ledger.budget.moved(isize::try_from(bytes).unwrap_or(isize::MAX));
        Weight { holder: Arc::clone(self), bytes }
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Relaxed) > 0
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.ledger.streams().remove(&self.id);
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder").field("id", &self.id).field("sending", &self.sending).finish_non_exhaustive()
    }
}

/// Bytes on their way out, counted as held until it is dropped: when HTTP/2 has written them or given them up.
#[derive(Debug)]
pub struct Weight {
    holder: Arc<Holder>,
    bytes: usize,
}

impl Weight {
    /// So much of it by itself, at most all.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { holder: Arc::clone(&self.holder), bytes }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.holder.sending.fetch_sub(self.bytes, Relaxed);
        // HTTP/2 may be locked here: only counted. Whoever frees something else brings relief.
        self.holder.ledger.budget.corrected(-isize::try_from(self.bytes).unwrap_or(isize::MAX));
    }
}

/// A stream's place in the budget, for whoever owns the stream.
#[derive(Debug, Clone)]
pub struct Hold(pub(super) Arc<Holder>);

impl Hold {
    /// Whose share the stream is part of, said once.
    ///
    /// # Errors
    /// `LimitReached`: they may not begin a stream now.
    pub fn enter(&self, parties: Vec<Party>) -> Result<(), Failure> {
        self.0.ledger.budget.admit(&parties)?;
        self.0.belongs_to(parties);
        Ok(())
    }

    /// So much may have come for the peer that waits behind what is being sent. Counts as held until it is dropped.
    pub fn ahead(&self, bytes: usize) -> Weight {
        self.0.sends(bytes)
    }

    /// Bytes that it holds and that came from its peer.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.0.inbound().held()
    }

    #[cfg(test)]
    pub(super) fn is_withheld(&self) -> bool {
        self.0.withholding.load(SeqCst)
    }

    #[cfg(test)]
    pub(super) fn is_cut(&self) -> bool {
        self.0.is_cut()
    }

    /// Resolves when the stream is cut off because it held too much; its owner then lets it go. One waits at a time.
    pub async fn cut(&self) -> Failure {
        poll_fn(|cx| {
            self.0.waiting.register(cx.waker());
            self.0.cut.get().map_or(Poll::Pending, |failure| Poll::Ready(failure.clone()))
        })
        .await
    }
}
