//! Fair shares (SD-14): what one principal may hold and how fast it may go, each as actor of tunnels and as subject of
//! streams. Somebody who counts as both counts once in each role.
//!
//! Two kinds of limits: those that the owner sets for each principal, and the shares of what all use together, of which
//! nobody may have more than a quarter as soon as half is taken. Whoever is refused is told which limit it was, its value,
//! what they have, and when to come again. Bytes are different: who has moved more than their rate waits, and is refused
//! new streams meanwhile, but what is open goes on.

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use identity::principal::{Name, Principal};
use proto::tunnel::failure::{Code, Failure};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    config::{Limits, PerPrincipal},
    session::{caller::Caller, record::Traffic},
};

/// Nobody has more than this part of what all share, once half of it is taken.
const SHARE: usize = 4;

/// When to come again where nobody can know: something held has to be given back first.
const HELD_RETRY: Duration = Duration::from_secs(1);

/// Longest pause of a stream whose principal goes too fast before it is looked at again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accounts are looked through for idle ones when there are so many more than after the last look.
const SWEEP_STEP: usize = 1024;

/// In which role a principal is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Actor,
    Subject,
}

impl Role {
    fn key(self) -> &'static str {
        match self {
            Self::Actor => "limits.per_actor",
            Self::Subject => "limits.per_subject",
        }
    }
}

/// What everybody has now.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    streams: usize,
    tunnels: usize,
    accounts: HashMap<(Role, Name), Arc<Account>>,
    /// How many there were after the last sweep.
    swept: usize,
}

/// What one principal has in one role.
#[derive(Debug)]
pub struct Account {
    bytes: Option<Bucket>,
    opened: Option<Bucket>,
    held: Mutex<Held>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    streams: usize,
    tunnels: usize,
}

/// A rate: fills by so much a second, and holds one second's worth.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        let rate = rate as f64;
        Self { rate, level: Mutex::new((rate, Instant::now())) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut f64) -> T) -> T {
        let mut level = lock(&self.level);
        let now = Instant::now();
        let filled = level.0 + now.saturating_duration_since(level.1).as_secs_f64() * self.rate;
        *level = (filled.min(self.rate), now);
        change(&mut level.0)
    }

    /// How long until there is so much in it.
    fn wait_for(&self, amount: f64) -> Option<Duration> {
        let lacking = amount - self.with(|level| *level);
        (lacking > 0.0).then(|| Duration::from_secs_f64(lacking / self.rate))
    }
}

/// A refusal with everything that the refused can act on.
struct Reached<'a> {
    limit: &'a str,
    value: u64,
    who: &'a Principal,
    current: u64,
    retry: Duration,
}

impl From<Reached<'_>> for Failure {
    fn from(reached: Reached<'_>) -> Self {
        let Reached { limit, value, who, current, retry } = reached;
        // Rounded up: who comes again a moment too early is refused once more.
        let seconds = retry.as_millis().div_ceil(1000).max(1);
        let message = format!("{limit} is {value}, and {who} has {current}; retry after {seconds} s");
        Self::before_target(Code::LimitReached, message)
    }
}

/// One stream's place. Dropping it gives the place back.
#[derive(Debug)]
pub struct StreamPlace {
    ledger: Arc<Ledger>,
    accounts: Vec<Arc<Account>>,
}

/// One tunnel's place. Dropping it gives the place back.
#[derive(Debug)]
pub struct TunnelPlace {
    ledger: Arc<Ledger>,
    account: Arc<Account>,
}

impl Ledger {
    /// Nobody has anything.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { limits: limits.clone(), books: Mutex::default() })
    }

    /// A place for one stream of this caller.
    ///
    /// # Errors
    /// `LimitReached`, with the limit, its value, what the caller has and when to come again.
    pub fn stream(self: &Arc<Self>, caller: &Caller) -> Result<StreamPlace, Failure> {
        let mut books = lock(&self.books);
        let (total, taken) = (self.limits.streams, books.streams);
        if taken >= total {
            let message = format!("limits.streams is {total}, and all callers together have {taken}; retry after 1 s");
            return Err(Failure::before_target(Code::LimitReached, message));
        }
        let roles = [(Role::Actor, &caller.actor), (Role::Subject, &caller.subject)];
        let mut accounts = Vec::with_capacity(roles.len());
        for (role, who) in roles {
            let account = books.account(role, who, self.of(role));
            let (limits, key, held) = (self.of(role), role.key(), lock(&account.held).streams);
            let refuse = |limit: &str, value: usize, current: usize, retry| {
                Err(Reached { limit, value: value as u64, who, current: current as u64, retry }.into())
            };
            if let Some(value) = limits.streams
                && held >= value
            {
                return refuse(&format!("{key}.streams"), value, held, HELD_RETRY);
            }
            if held >= (total / SHARE).max(1) && taken >= total / 2 {
                let limit = "a caller's share of limits.streams while half of them are taken";
                return refuse(limit, (total / SHARE).max(1), held, HELD_RETRY);
            }
            if let Some(opened) = &account.opened
                && let Some(retry) = opened.wait_for(1.0)
            {
                let rate = opened.rate as usize;
                return refuse(&format!("{key}.streams_per_second"), rate, rate, retry);
            }
            if let Some((rate, retry)) = account.debt() {
                return refuse(&format!("{key}.bytes_per_second"), rate, rate, retry);
            }
            accounts.push(account);
        }
        for account in &accounts {
            lock(&account.held).streams += 1;
            if let Some(opened) = &account.opened {
                opened.with(|level| *level -= 1.0);
            }
        }
        books.streams += 1;
        Ok(StreamPlace { ledger: Arc::clone(self), accounts })
    }

    /// A place for one tunnel that this actor holds.
    ///
    /// # Errors
    /// `LimitReached`, as for a stream.
    pub fn tunnel(self: &Arc<Self>, actor: &Principal) -> Result<TunnelPlace, Failure> {
        let mut books = lock(&self.books);
        let account = books.account(Role::Actor, actor, &self.limits.per_actor);
        let (total, taken, held) = (self.limits.tunnels, books.tunnels, lock(&account.held).tunnels);
        let refuse = |limit: &str, value: usize| {
            let (value, current) = (value as u64, held as u64);
            Err(Reached { limit, value, who: actor, current, retry: HELD_RETRY }.into())
        };
        if let Some(value) = self.limits.per_actor.tunnels
            && held >= value
        {
            return refuse("limits.per_actor.tunnels", value);
        }
        if held >= (total / SHARE).max(1) && taken >= total / 2 {
            let limit = "an actor's share of limits.tunnels while half of them are taken";
            return refuse(limit, (total / SHARE).max(1));
        }
        lock(&account.held).tunnels += 1;
        books.tunnels += 1;
        Ok(TunnelPlace { ledger: Arc::clone(self), account })
    }

    fn of(&self, role: Role) -> &PerPrincipal {
        match role {
            Role::Actor => &self.limits.per_actor,
            Role::Subject => &self.limits.per_subject,
        }
    }
}

impl Books {
    fn account(&mut self, role: Role, who: &Principal, limits: &PerPrincipal) -> Arc<Account> {
        if self.accounts.len() >= self.swept + SWEEP_STEP {
            self.accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_idle());
            self.swept = self.accounts.len();
        }
        match self.accounts.entry((role, who.name())) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(new) => Arc::clone(new.insert(Arc::new(Account {
                bytes: limits.bytes_per_second.map(|size| Bucket::new(size.0)),
                opened: limits.streams_per_second.map(|rate| Bucket::new(u64::from(rate))),
                held: Mutex::default(),
            }))),
        }
    }
}

impl Account {
    /// Whether forgetting it would give nobody anything.
    fn is_idle(&self) -> bool {
        let full =
            |bucket: &Option<Bucket>| bucket.as_ref().is_none_or(|bucket| bucket.wait_for(bucket.rate).is_none());
        let held = *lock(&self.held);
        held.streams == 0 && held.tunnels == 0 && full(&self.bytes) && full(&self.opened)
    }

    /// Bytes of its have moved.
    pub fn moved(&self, bytes: usize) {
        if let Some(bucket) = &self.bytes {
            bucket.with(|level| *level -= bytes as f64);
        }
    }

    /// Its rate, and how long it must wait, if more has moved than that.
    fn debt(&self) -> Option<(usize, Duration)> {
        let bucket = self.bytes.as_ref()?;
        bucket.wait_for(0.0).map(|wait| (bucket.rate as usize, wait))
    }
}

impl StreamPlace {
    /// The accounts that the stream's bytes count for, if anybody counts them.
    pub fn counting(&self) -> Vec<Arc<Account>> {
        self.accounts.iter().filter(|account| account.bytes.is_some()).cloned().collect()
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut books = lock(&self.ledger.books);
        for account in &self.accounts {
            lock(&account.held).streams -= 1;
        }
        books.streams -= 1;
    }
}

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        let mut books = lock(&self.ledger.books);
        lock(&self.account.held).tunnels -= 1;
        books.tunnels -= 1;
    }
}

/// A wait for as long as those whose stream it is have moved more bytes than they may. Costs nothing while they have not.
#[derive(Debug, Default)]
pub struct Pause(Option<Pin<Box<Sleep>>>);

impl Pause {
    /// Ready as soon as bytes may move.
    pub fn poll(&mut self, traffic: &Traffic, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pausing) = &mut self.0 {
                ready!(pausing.as_mut().poll(cx));
                self.0 = None;
            }
            let debts = traffic.accounts().iter().filter_map(|account| account.debt());
            match debts.map(|(_, wait)| wait).max() {
                Some(wait) => self.0 = Some(Box::pin(sleep(wait.min(PAUSE_MAX)))),
                None => return Poll::Ready(()),
            }
        }
    }

    /// When it is looked at again, while it lasts.
    pub fn until(&self) -> Option<Instant> {
        self.0.as_ref().map(|pausing| pausing.deadline())
    }
}

/// Works on, but stands still during each [`Pause`]. Credit then stays with whoever sends, and nothing piles up, as long as
/// whoever sends needs credit for all that it sends.
pub async fn paced<T>(traffic: &Traffic, work: impl Future<Output = T>) -> T {
    if traffic.accounts().is_empty() {
        return work.await;
    }
    let (mut work, mut pause) = (pin!(work), Pause::default());
    std::future::poll_fn(|cx| {
        ready!(pause.poll(traffic, cx));
        work.as_mut().poll(cx)
    })
    .await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
