//! HTTP/2 connections to targets: many requests at once on each, in streams of their own.
//!
//! The `h2` crate is used as it is, as in the tunnel: only it gives credit back when the caller has taken the bytes, passes
//! interim answers on, and says which requests a target that goes away has not looked at. The connection's window is as
//! large as the windows of all streams together, so that callers who read slowly cannot hold up the others on it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use daemon::shutdown::Shutdown;
use h2::client::SendRequest;
use proto::limits::DATA_FRAME_BUDGET;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    pool::{IDLE_FOR, Place},
    wire::Wire,
};

/// Requests at once on one connection; servers take 100 or more, and with more the next one is opened.
const STREAMS_MAX: usize = 100;

/// What one caller who does not read may make us hold; 256 KiB move 250 MB/s over the millisecond inside a cluster.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;

/// As much as all streams together.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;

/// Largest frame that we take; larger ones gain nothing measurable.
const FRAME_MAX: u32 = 64 * 1024;

/// Largest answer head or trailers, as in HTTP/1.1.
const HEADER_LIST_MAX: u32 = 64 * 1024;

/// What one request's body may have waiting to be written.
const SEND_BUFFER_MAX: usize = 64 * 1024;

/// The target must answer our settings within this time, or it does not speak HTTP/2.
const SETTINGS: Duration = Duration::from_secs(10);

/// How long it is remembered that a target chose HTTP/1.1 when it had the choice.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Connections that are open.
#[derive(Debug, Default)]
pub struct SharedPool {
    places: Mutex<HashMap<Place, Entry>>,
}

#[derive(Debug)]
struct Entry {
    open: Vec<Arc<Shared>>,
    /// Held by whoever connects, so that a burst of requests opens one connection and not a hundred.
    connecting: Arc<tokio::sync::Mutex<()>>,
    /// The target had the choice and chose HTTP/1.1.
    speaks_one: bool,
    used: Instant,
}

impl Default for Entry {
    fn default() -> Self {
        Self { open: Vec::new(), connecting: Arc::default(), speaks_one: false, used: Instant::now() }
    }
}

/// One connection.
#[derive(Debug)]
struct Shared {
    place: Place,
    send: SendRequest<Bytes>,
    state: Arc<State>,
}

/// What the connection's task knows, and what it is told.
#[derive(Debug)]
struct State {
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// It takes no new requests.
    closed: AtomicBool,
    /// Told when nobody needs it any more.
    unneeded: Notify,
}

/// A place for one request on a connection.
#[derive(Debug)]
pub struct Seat {
    /// Sends the request.
    pub send: SendRequest<Bytes>,
    /// Where the connection leads.
    pub place: Place,
    state: Arc<State>,
}

impl Seat {
    /// The connection takes no more requests: do not offer it again.
    pub fn retire(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        *lock(&self.state.idle_since) = Instant::now();
        if self.state.streams.fetch_sub(1, Ordering::SeqCst) == 1 && self.state.closed.load(Ordering::SeqCst) {
            self.state.unneeded.notify_one();
        }
    }
}

impl Shared {
    fn seat(&self) -> Option<Seat> {
        let limit = self.send.current_max_send_streams().clamp(1, STREAMS_MAX);
        let state = &self.state;
        if state.closed.load(Ordering::SeqCst) {
            return None;
        }
        // Counted first, so that two at once cannot both be the last.
        let seat_taken = state.streams.fetch_add(1, Ordering::SeqCst);
        let seat = Seat { send: self.send.clone(), place: self.place.clone(), state: Arc::clone(state) };
        (seat_taken < limit).then_some(seat)
    }

    /// Whether it should be kept.
    fn is_useful(&self) -> bool {
        let (streams, state) = (self.state.streams.load(Ordering::SeqCst), &self.state);
        let idle = streams == 0 && lock(&state.idle_since).elapsed() >= IDLE_FOR;
        !idle && !state.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Requests on it finish, nobody begins another.
        self.state.closed.store(true, Ordering::SeqCst);
        if self.state.streams.load(Ordering::SeqCst) == 0 {
            self.state.unneeded.notify_one();
        }
    }
}

impl SharedPool {
    /// Room on an open connection to one of these places.
    pub fn take(&self, places: &[Place]) -> Option<Seat> {
        let mut known = lock(&self.places);
        places.iter().find_map(|place| {
            let entry = known.get_mut(place)?;
            entry.used = Instant::now();
            entry.open.iter().find_map(|shared| shared.seat())
        })
    }

    /// To be held while a connection to a place is made that may become a shared one; nothing if the target is known to
    /// choose HTTP/1.1.
    pub fn connecting(&self, place: &Place) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let mut known = lock(&self.places);
        let entry = known.entry(place.clone()).or_default();
        entry.used = Instant::now();
        (!entry.speaks_one).then(|| Arc::clone(&entry.connecting))
    }

    /// The target chose HTTP/1.1.
    pub fn speaks_one(&self, place: &Place) {
        lock(&self.places).entry(place.clone()).or_default().speaks_one = true;
    }

    /// HTTP/2 on a connected stream, driven by a task of its own until it ends or nobody needs it.
    ///
    /// # Errors
    /// When the target does not speak HTTP/2.
    pub async fn add(&self, wire: Wire, place: Place, shutdown: &Shutdown) -> Result<Seat, h2::Error> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .max_header_list_size(HEADER_LIST_MAX)
            .max_send_buffer_size(SEND_BUFFER_MAX)
            .initial_max_send_streams(STREAMS_MAX)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .enable_push(false);
        let (send, mut connection) = builder.handshake::<_, Bytes>(wire).await?;
        let ping = connection.ping_pong();
        let state = Arc::new(State {
            streams: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            closed: AtomicBool::new(false),
            unneeded: Notify::new(),
        });
        let (owner, forced) = (Arc::clone(&state), shutdown.clone());
        shutdown.spawn(async move {
            tokio::select! {
                biased;
                () = forced.forced() => {}
                () = owner.unneeded.notified() => {}
                // How it ends is told to each request on it.
                _ = connection => {}
            }
            owner.closed.store(true, Ordering::SeqCst);
        });
        // A server of HTTP/1.1 may say nothing at all to this, or say it in HTTP/1.1, which h2 finds out.
        if let Some(mut ping) = ping
            && !matches!(timeout(SETTINGS, ping.ping(h2::Ping::opaque())).await, Ok(Ok(_)))
        {
            state.unneeded.notify_one();
            return Err(h2::Error::from(h2::Reason::PROTOCOL_ERROR));
        }
        let shared = Arc::new(Shared { place: place.clone(), send, state });
        let seat = shared.seat().ok_or(h2::Error::from(h2::Reason::REFUSED_STREAM))?;
        lock(&self.places).entry(place).or_default().open.push(shared);
        Ok(seat)
    }

    /// Closes what has been idle for too long, and forgets what was not asked for.
    pub fn sweep(&self) {
        lock(&self.places).retain(|_, entry| {
            entry.open.retain(|shared| shared.is_useful());
            !entry.open.is_empty() || entry.used.elapsed() < REMEMBERED
        });
    }

    /// Begins nothing new on any of them, and closes those without requests.
    pub fn clear(&self) {
        lock(&self.places).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
