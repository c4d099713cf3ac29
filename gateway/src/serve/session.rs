//! One tunnel: an HTTP/2 connection whose calls are served side by side, each in a task that the tunnel owns.
//!
//! A tunnel on which nobody has proven who they are, or nobody who has got a place among the tunnels, ends after
//! `PROOF_DEADLINE` or `STRIKES_MAX` refused calls. When draining begins, watchers are told, then the connection says
//! GOAWAY; streams go on until they end or the grace period does.

pub mod caller;
mod forward;
mod holder;
mod kubernetes;
pub mod record;
pub mod revoked;
pub mod services;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use proto::tunnel::{
    server::{self, Call, Server},
    settings::Settings,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    caller::Binding,
    holder::{Holding, Standing},
    record::{TunnelFacts, TunnelRecord},
    services::Services,
};
use super::{
    entry::{Admitted, Io, gate::Ticket},
    gateway::Gateway,
};

/// A tunnel whose peer has proven nothing by then is ended (SD-10).
const PROOF_DEADLINE: Duration = Duration::from_secs(10);

/// Refused calls after which a tunnel is ended if no call was ever accepted.
const STRIKES_MAX: u32 = 16;

/// From telling watchers that we drain to GOAWAY, so that a connector can have a new tunnel before this one refuses
/// streams. Streams that are refused after it are safe to repeat.
const DRAIN_NOTICE: Duration = Duration::from_millis(200);

/// How long streams that were cut off get to tell their callers why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(super) gateway: Arc<Gateway>,
    pub(super) services: Arc<Services>,
    pub(super) facts: Arc<TunnelFacts>,
    pub(super) binding: Binding,
    standing: Standing,
    /// Somebody has, and it has its place.
    proven: AtomicBool,
    /// Until then it counts among the handshakes in flight, so that idle strangers cannot take every tunnel's place.
    ticket: Mutex<Option<Ticket>>,
    strikes: AtomicU32,
    holding: Holding,
    /// Room for calls other than `Forward`.
    calls: Semaphore,
}

impl Tunnel {
    /// Somebody who may hold it has proven who they are, until then.
    fn proven(&self, until: SystemTime) {
        self.standing.proven(until);
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.ticket.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Somebody has failed to.
    fn strike(&self) {
        self.strikes.fetch_add(1, Ordering::Relaxed);
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    fn is_out(&self) -> bool {
        !self.is_proven() && self.strikes.load(Ordering::Relaxed) >= STRIKES_MAX
    }
}

/// Where a tunnel is in its life.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Takes calls.
    Open,
    /// Watchers have been told; GOAWAY follows.
    Noticed(Instant),
    /// GOAWAY was said; streams finish.
    Draining,
    /// The grace period is over; streams say why they end.
    Forced(Instant),
}

/// Serves a tunnel to its end.
pub(crate) async fn run(admitted: Admitted, gateway: Arc<Gateway>, services: Arc<Services>) {
    let Admitted { io, peer, id: forwarded_id, certificate, way, ticket } = admitted;
    let facts = Arc::new(TunnelFacts { id: random_id(), forwarded_id, peer, way: way.name() });
    let mut record = TunnelRecord::open(&facts, &gateway.metrics);
    let (max_streams, budget) = (gateway.limits.streams_per_tunnel, gateway.budget.clone());
    let settings = Settings { max_streams, budget, ..Settings::default() };
    let accepted = tokio::time::timeout(PROOF_DEADLINE, server::accept(io, settings)).await;
    let server = match accepted {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            return record.ended = Some(format!("not HTTP/2: {}", daemon::process::explain_in_line(&error)));
        }
        Err(_) => return record.ended = Some("no HTTP/2 preface in time".to_owned()),
    };
    let (holder, chain) = certificate.map(|shown| (shown.principal, shown.chain)).unzip();
    let (binding, standing) = (Binding::new(holder), Standing::new(chain));
    let tunnel = Arc::new(Tunnel {
        gateway,
        services,
        facts,
        binding,
        standing,
        proven: AtomicBool::new(false),
        ticket: Mutex::new(Some(ticket)),
        strikes: AtomicU32::new(0),
        holding: Holding::default(),
        calls: Semaphore::new(services::CALLS_MAX),
    });
    // Whoever gets no place now is told so at the first call.
    if let Some(actor) = tunnel.binding.actor()
        && tunnel.hold(&actor).is_ok()
    {
        tunnel.proven(actor.expires());
    }
    let ended = serve(server, &tunnel, &mut record).await;
    record.actor = tunnel.binding.actor();
    record.ended = Some(ended);
}

/// Serves calls; says why it ended.
async fn serve(mut server: Server<Io>, tunnel: &Arc<Tunnel>, record: &mut TunnelRecord) -> String {
    let shutdown = &tunnel.gateway.context.shutdown;
    let proof_deadline = Instant::now() + PROOF_DEADLINE;
    let mut streams = JoinSet::new();
    let mut phase = Phase::Open;
    let mut lost = pin!(holder::lost(tunnel));
    loop {
        let timer = match phase {
            Phase::Noticed(until) | Phase::Forced(until) => Some(until),
            Phase::Open | Phase::Draining => (!tunnel.is_proven()).then_some(proof_deadline),
        };
        tokio::select! {
            biased;
            () = shutdown.forced(), if !matches!(phase, Phase::Forced(_)) => {
                phase = Phase::Forced(Instant::now() + LAST_WORDS);
            }
            () = shutdown.draining(), if matches!(phase, Phase::Open) => {
                phase = Phase::Noticed(Instant::now() + DRAIN_NOTICE);
            }
            () = sleep_until(timer.unwrap_or(proof_deadline)), if timer.is_some() => match phase {
                Phase::Noticed(_) => {
                    server.drain();
                    phase = Phase::Draining;
                }
                Phase::Forced(_) => return "the grace period is over".to_owned(),
                Phase::Open | Phase::Draining if tunnel.is_proven() => {}
                Phase::Open | Phase::Draining => return tunnel.unheld(),
            },
            reason = &mut lost => return reason,
            // Before new calls, or a flood of them would put off what ended ones have to say.
            Some(ended) = streams.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(tunnel = %tunnel.facts.id, "a stream's task panicked");
                }
                if tunnel.is_out() {
                    return "too many refused calls, and none accepted".to_owned();
                }
                if matches!(phase, Phase::Forced(_)) && streams.is_empty() {
                    // One more turn of the connection carries the last words.
                    phase = Phase::Forced(Instant::now() + Duration::from_millis(50));
                }
            }
            call = server.next() => match call {
                Some(Ok(Call::Forward(forward))) => {
                    record.streams += 1;
                    streams.spawn(forward::serve(forward, Arc::clone(tunnel)));
                }
                Some(Ok(Call::Other(other))) => {
                    record.streams += 1;
                    streams.spawn(services::serve(other, Arc::clone(tunnel)));
                }
                Some(Err(error)) => return format!("lost: {}", daemon::process::explain_in_line(&error)),
                None => return "closed in good order".to_owned(),
            },
        }
    }
}

/// A name for a tunnel or a stream: 96 random bits.
fn random_id() -> String {
    let mut bytes = [0_u8; 12];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness, or TLS would not work either");
    bytes.iter().fold(String::with_capacity(24), |id, byte| id + &format!("{byte:02x}"))
}
