//! Listeners that are refused again and again: slowed down, so that one wrong token does not become a flood.
//!
//! hyco-ws has no pause between its attempts, and opens two connections for each handshake that fails: refusals double
//! it, and delayed refusals double it more slowly. It opens only one for a connection that was open. So it is *parked*:
//! its handshake succeeds, it is not registered, and after a while it is closed with the reason. Every other client would
//! report itself as online, and pauses by itself; only where refusals come faster than that, they come late.
//!
//! What counts is source address and hybrid connection together. The first refusals are plain, because every SDK shows
//! those best. A good token ends it at once; ten quiet minutes forget it. Whose token is genuine, and is refused for
//! another reason, is told at once: others at its address may be why refusals come late there.
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use proto::{
    hybrid::status::close_reason,
    ws::{Role, handshake, message::split},
};
use tokio::time::{Instant, sleep};

use super::{
    Relay,
    access::Line,
    body::Body,
    config::NAME_MAX,
    control::PING,
    door::Visitor,
    entities::compared,
    refusal::Refusal,
    route::{Asked, Denied},
    share::{self, Shares},
    sources::counted,
    upgrade::taken_over,
};
use crate::farewell::Farewell;

/// Refusals of a hyco-ws that are plain. Each adds a connection to its storm, and more than three teach nobody anything.
const PLAIN: u32 = 3;

/// Refusals of any other client that are plain. SDKs pause for seconds after the first few, so a site with a wrong token
/// in a dozen listeners is told at once why.
const BURST: f64 = 10.0;

/// So many refusals a second do not count towards that: what a large site comes to with the pauses of its SDKs.
const COOLING: f64 = 1.0;

/// Without a refusal for so long, everything before is forgotten.
const QUIET: Duration = Duration::from_secs(600);

/// Offenders that are remembered. When there are more, the one that was quiet for longest is forgotten: who storms is
/// never that one.
const OFFENDERS_MAX: usize = 1024;

/// The shortest time that a listener is parked: the last step but one of the SDKs that do pause.
const PARKED_MIN: Duration = Duration::from_secs(10);

/// The longest, which is their last step. Drawn anew for each, so that the parked of one process do not come back together.
const PARKED_MAX: Duration = Duration::from_secs(30);

/// How late the first refusal beyond those comes; the delay doubles with each.
const DELAY: Duration = Duration::from_secs(1);

/// The longest delay. SDKs wait a minute for the answer to a handshake.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// Connections of one offender that are held, parked or delayed. One process comes to [`PLAIN`] + 1, but one that found no
/// relay for a minute comes back with hundreds. Beyond, refusals are plain again.
const HELD_OF_ONE: u32 = 256;

/// The same for all offenders together: some 25 MiB. An address may name as many paths as it likes, so these are shared
/// by addresses: none has all of them.
const HELD_MAX: usize = 2048;

/// Largest message of a parked listener, which has proven nothing: a renewed token fits.
const PARKED_MESSAGE_MAX: usize = 8 * 1024;

/// So many messages a parked listener may send; none is read, and SDKs send one an hour.
const PARKED_MESSAGES: usize = 8;

/// What begins the key of every handshake by `ws` 1.x, which hyco-ws is built on: base64 of `13-`.
const HYCO_WS_KEY: &[u8] = b"MTMt";

/// Sent by .NET, which must never be parked.
const USER_AGENT: &str = "relay-user-agent";

/// Whether a handshake is one of hyco-ws.
pub(crate) fn is_hyco_ws(headers: &HeaderMap) -> bool {
    !headers.contains_key(USER_AGENT)
        && headers.get(header::SEC_WEBSOCKET_KEY).is_some_and(|key| key.as_bytes().starts_with(HYCO_WS_KEY))
}

/// Who failed lately. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Offenders {
    table: Arc<Mutex<Table>>,
    places: Shares<IpAddr>,
}

#[derive(Debug, Default)]
struct Table {
    offenders: HashMap<Key, Offender>,
}

/// Source, and path that was asked for, cut to the longest name.
type Key = (IpAddr, String);

#[derive(Debug)]
struct Offender {
    /// Since the last good token or quiet time.
    failures: u32,
    /// The same of those that were parked.
    parkings: u32,
    /// The same, less what has cooled since.
    heat: f64,
    last: Instant,
    parked: u32,
    delayed: u32,
}

/// What may become of a refused handshake beside a plain refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slowed {
    /// It is one of hyco-ws.
    Parked,
    Delayed,
    /// Its token is genuine.
    Never,
}

/// What becomes of one refused handshake.
#[derive(Debug)]
struct Course {
    kind: Kind,
    /// How many refused handshakes, or parked ones, there were from this source, this one included.
    count: u32,
}

#[derive(Debug)]
enum Kind {
    Plain,
    Delay(Duration, Held),
    Park(Duration, Held),
}

/// A connection that is held; counted out on drop.
#[derive(Debug)]
struct Held {
    table: Arc<Mutex<Table>>,
    key: Key,
    parked: bool,
    _place: share::Held<IpAddr>,
}

impl Default for Offenders {
    fn default() -> Self {
        Self { table: Arc::default(), places: Shares::new("refused listeners", HELD_MAX) }
    }
}

impl Offenders {
    /// A good token for this path was seen.
    pub(crate) fn clear(&self, address: IpAddr, path: &str) {
        let mut table = self.table();
        let key = key(address, path);
        match table.offenders.get_mut(&key) {
            Some(offender) if offender.parked + offender.delayed > 0 => offender.cool(),
            Some(_) => drop(table.offenders.remove(&key)),
            None => {}
        }
    }

    /// Another refusal.
    fn refuse(&self, address: IpAddr, path: &str, slowed: Slowed) -> Course {
        let now = Instant::now();
        let key = key(address, path);
        let mut table = self.table();
        table.make_room(&key, now);
        let fresh = || Offender { failures: 0, parkings: 0, heat: 0.0, last: now, parked: 0, delayed: 0 };
        let offender = table.offenders.entry(key.clone()).or_insert_with(fresh);
        let failures = offender.count(now, slowed);
        // With one parked there is no better answer than to park the next as well, whatever was cleared in between.
        let parks = slowed == Slowed::Parked && (failures > PLAIN || offender.parked > 0);
        let delay = offender.delay().filter(|_| slowed == Slowed::Delayed);
        let plain = Course { kind: Kind::Plain, count: failures };
        if !parks && delay.is_none() || offender.parked + offender.delayed >= HELD_OF_ONE {
            return plain;
        }
        let Ok(place) = self.places.take(key.0) else { return plain };
        if let Some(delay) = delay {
            offender.delayed += 1;
            return Course { kind: Kind::Delay(delay, self.held(key, false, place)), count: failures };
        }
        offender.parked += 1;
        offender.parkings = offender.parkings.saturating_add(1);
        let count = offender.parkings;
        Course { kind: Kind::Park(parked_for(), self.held(key, true, place)), count }
    }

    fn held(&self, key: Key, parked: bool, place: share::Held<IpAddr>) -> Held {
        Held { table: self.table.clone(), key, parked, _place: place }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// Forgets somebody, when `key` is new and there are too many.
    fn make_room(&mut self, key: &Key, now: Instant) {
        if self.offenders.len() < OFFENDERS_MAX || self.offenders.contains_key(key) {
            return;
        }
        self.offenders.retain(|_, offender| now.saturating_duration_since(offender.last) < QUIET);
        if self.offenders.len() >= OFFENDERS_MAX {
            let quietest = self.offenders.iter().min_by_key(|(_, offender)| offender.last).map(|(key, _)| key.clone());
            quietest.map(|key| self.offenders.remove(&key));
        }
    }
}

impl Offender {
    fn cool(&mut self) {
        (self.failures, self.parkings, self.heat) = (0, 0, 0.0);
    }

    /// One more; gives how many there were.
    fn count(&mut self, now: Instant, slowed: Slowed) -> u32 {
        let quiet = now.saturating_duration_since(self.last);
        if quiet >= QUIET {
            self.cool();
        }
        self.last = now;
        self.heat = (self.heat - quiet.as_secs_f64() * COOLING).max(0.0) + f64::from(slowed != Slowed::Never);
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// How late the refusal of a client that pauses by itself comes.
    fn delay(&self) -> Option<Duration> {
        let beyond = self.heat - BURST;
        // Seconds double until they are more than the longest delay anyway.
        (beyond > 0.0).then(|| DELAY.mul_f64(beyond.min(8.0).ceil().exp2() / 2.0).min(DELAY_MAX))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // Forgotten meanwhile, perhaps; what came after it under the same key counts for itself.
        if let Some(offender) = table.offenders.get_mut(&self.key) {
            let count = if self.parked { &mut offender.parked } else { &mut offender.delayed };
            *count = count.saturating_sub(1);
        }
    }
}

fn parked_for() -> Duration {
    let span = PARKED_MAX - PARKED_MIN;
    let mut byte = [0];
    // Without random numbers all are parked for the shortest time.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    PARKED_MIN + span * u32::from(byte[0]) / 255
}

/// Counted by the path that was asked for, whether or not something is there: what is counted by entities tells which exist.
fn key(address: IpAddr, path: &str) -> Key {
    let mut path = compared(path).join("/");
    path.truncate(path.floor_char_boundary(NAME_MAX));
    (counted(address), path)
}

/// Refuses a listen handshake: plainly, late, or by parking it.
pub(crate) async fn refuse(
    visitor: &Visitor,
    mut asked: Asked,
    accept: HeaderValue,
    mut line: Box<Line>,
    denied: Denied,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    let relay = &visitor.relay;
    let refusal = match &denied {
        Denied::By(Refusal::Draining) | Denied::Nobody(_) | Denied::ByListener { .. } | Denied::Rejects => {
            return Err((denied, line));
        }
        Denied::By(refusal) | Denied::Over(refusal, _) => *refusal,
    };
    let found = relay.namespace().find(asked.target.path()).cloned();
    let entity = found.as_ref().map_or("", |entity| &entity.name);
    // A plain refusal would double a hyco-ws, whatever its token is.
    let slowed = if is_hyco_ws(asked.request.headers()) {
        Slowed::Parked
    } else if refusal.is_of_genuine_token() {
        Slowed::Never
    } else {
        Slowed::Delayed
    };
    let course = relay.offenders.refuse(visitor.peer.ip(), asked.target.path(), slowed);
    // What is held from here on is counted as such.
    visitor.proven();
    match course.kind {
        Kind::Plain => {
            relay.teller.refused(entity, visitor.peer.ip(), refusal, course.count);
            Err((denied, line))
        }
        Kind::Delay(pause, _held) => {
            relay.teller.refused(entity, visitor.peer.ip(), refusal, course.count);
            tokio::select! {
                () = relay.shutdown.draining() => {}
                () = sleep(pause) => {}
            }
            Err((denied, line))
        }
        Kind::Park(time, held) => {
            relay.teller.parked(entity, visitor.peer.ip(), refusal, course.count);
            relay.metrics.refused(entity, refusal);
            if let Some(entity) = &found {
                entity.metrics.parked.inc();
            }
            line.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
            line.end("parked", "listener");
            line.because(refusal.text());
            let upgrade = hyper::upgrade::on(&mut asked.request);
            let parked = Parked { relay: relay.clone(), id: asked.id, refusal, time, held, line };
            relay.shutdown.spawn(parked.stay(upgrade));
            Ok(handshake::switching(accept, None))
        }
    }
}

/// A listener that believes to be one.
struct Parked {
    relay: Arc<Relay>,
    id: String,
    refusal: Refusal,
    time: Duration,
    held: Held,
    line: Box<Line>,
}

impl Parked {
    async fn stay(self, upgrade: OnUpgrade) {
        let Self { relay, id, refusal, time, held: _held, line: _line } = self;
        let Some((io, ahead)) = taken_over(upgrade).await else { return };
        let (channel, mut receiver, writer) = split(io, Role::Server, ahead, PARKED_MESSAGE_MAX, PING);
        tokio::pin!(writer);
        let (drain, force) = (relay.shutdown.drain_token(), relay.shutdown.force_token());
        let close = |code, reason| Farewell::Close(code, close_reason(reason, &id));
        let farewell = tokio::select! {
            biased;
            () = force.cancelled() => Farewell::Nothing,
            () = drain.cancelled() => close(1001, "the relay is shutting down"),
            () = sleep(time) => close(1008, refusal.text()),
            // Whatever it says, nobody is there.
            ended = async {
                for _ in 0..PARKED_MESSAGES {
                    match receiver.next().await {
                        Ok(proto::ws::message::Message::Close(_)) => return Farewell::Queued,
                        Ok(_) => {}
                        Err(error) => return Farewell::after(&error),
                    }
                }
                close(1008, refusal.text())
            } => ended,
            () = &mut writer => return,
        };
        farewell.say(channel, &mut receiver, writer).await;
    }
}
