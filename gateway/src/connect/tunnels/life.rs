//! The life of one tunnel: renews the connector's proof, hears that the gateway or the relay goes away, and tells its
//! keeper in time for a replacement. Streams in flight outlive the tunnel's time in the pool.
use std::{sync::Arc, time::Duration};

use daemon::{clock::SharedClock, shutdown::Shutdown};
use futures_util::stream::{self, Stream, StreamExt};
use http::HeaderMap;
use proto::tunnel::{
    client::{ConnectionError, Watch},
    failure::{Code, Failure},
    pb,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Tunnel, Tunnels, notice};
use crate::connect::{
    actor::{Actor, renew_after},
    way::{Opened, follow::Follow},
};

/// A tunnel is replaced at this age at the latest, so that middleboxes with long memories and load balancing get their
/// due, and a better way that has come back is found.
const AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// A tenth of [`AGE_MAX`] is taken off at random, so that tunnels opened together do not go together.
const AGE_JITTER: Duration = Duration::from_secs(6 * 60);
/// How long after its streams were refused a lost connection takes to end; one that drains stays.
const END_OF_LOSS: Duration = Duration::from_millis(10);
/// After a renewal failed. The old proof still holds for a while.
const RENEW_AGAIN: Duration = Duration::from_secs(5);
/// One renewal, token included.
const RENEW_DEADLINE: Duration = Duration::from_secs(15);

/// Why a tunnel no longer takes streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retired {
    /// The gateway said so, by GOAWAY or `Drain`.
    GatewayDrains,
    /// A notice in the WebSocket said so.
    RelayDrains,
    /// It has reached its age.
    Age,
    /// The connector itself goes away.
    Stopped,
    /// Another tunnel has taken its place, on a better way.
    Replaced,
    /// The connection is gone.
    Lost,
}

impl Retired {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GatewayDrains => "gateway_drains",
            Self::RelayDrains => "relay_drains",
            Self::Age => "age",
            Self::Stopped => "stopped",
            Self::Replaced => "replaced",
            Self::Lost => "lost",
        }
    }
}

/// What a tunnel needs while it lives.
#[derive(Debug, Clone)]
pub(crate) struct Care {
    pub(crate) tunnels: Tunnels,
    pub(crate) actor: Actor,
    pub(crate) clock: SharedClock,
    pub(crate) shutdown: Shutdown,
    /// No stream will come any more: the connector's faces are closed.
    pub(crate) stop: CancellationToken,
}

/// Takes a tunnel into the pool and looks after it until it ends. That another one is needed is told as soon as it is known,
/// so that the new tunnel comes first; the future itself ends when the last stream has.
///
/// `retire` takes it out of the pool; `cut` ends it even though streams are in flight.
pub(crate) async fn live(
    care: Care,
    opened: Opened,
    told: oneshot::Sender<Retired>,
    retire: CancellationToken,
    cut: CancellationToken,
) {
    let tunnel = care.tunnels.add(&opened);
    let Opened { driver, notices, state, follow, .. } = opened;
    drop(opened.client);
    follow.adopt(&state.trust_anchors);
    let mut farewell = Farewell { tunnel: &tunnel, cluster: care.tunnels.cluster(), told: Some(told) };
    let mut driver = care.shutdown.spawn(driver);
    let why = tokio::select! {
        biased;
        () = care.shutdown.forced() => Retired::Stopped,
        () = care.stop.cancelled() => Retired::Stopped,
        () = retire.cancelled() => Retired::Replaced,
        why = serve(&care, &tunnel, state, notices, &follow, &mut driver, &mut farewell) => why,
    };
    let told = farewell.told.take();
    care.tunnels.remove(tunnel.id);
    let (id, way) = (tunnel.id, tunnel.way);
    // The last handles but those of streams: when they are done, the connection ends.
    drop(tunnel);
    let cluster = Arc::clone(care.tunnels.cluster());
    if why == Retired::Lost && told.is_some() {
        tracing::warn!(%cluster, tunnel = id, way, "tunnel lost");
    } else {
        tracing::info!(%cluster, tunnel = id, way, why = why.name(), "tunnel retires");
    }
    if let Some(told) = told {
        // The keeper may be gone already, when everything stops.
        let _ = told.send(why);
    }
    if !driver.is_finished() {
        tokio::select! {
            biased;
            () = care.shutdown.forced() => driver.abort(),
            () = cut.cancelled() => driver.abort(),
            _ = &mut driver => {}
        }
    }
    tracing::debug!(%cluster, tunnel = id, "tunnel closed");
}

/// Tells the keeper, once, that a tunnel is to be replaced.
struct Farewell<'a> {
    tunnel: &'a Tunnel,
    cluster: &'a Arc<str>,
    told: Option<oneshot::Sender<Retired>>,
}

impl Farewell<'_> {
    fn say(&mut self, why: Retired) {
        let Some(told) = self.told.take() else { return };
        let Tunnel { id, way, .. } = self.tunnel;
        tracing::info!(cluster = %self.cluster, tunnel = id, way, why = why.name(), "tunnel is to be replaced");
        let _ = told.send(why);
    }
}

/// Until the tunnel takes no more streams.
async fn serve(
    care: &Care,
    tunnel: &Tunnel,
    state: pb::DescribeResponse,
    mut notices: mpsc::Receiver<String>,
    follow: &Follow,
    driver: &mut JoinHandle<Result<(), ConnectionError>>,
    farewell: &mut Farewell<'_>,
) -> Retired {
    let age = sleep(AGE_MAX - jitter());
    tokio::pin!(age);
    let mut renew_at = Instant::now() + renew_after(care.clock.now(), state.actor_expires);
    let events = events(tunnel);
    tokio::pin!(events);
    let (mut notices_open, mut events_open) = (true, true);
    loop {
        tokio::select! {
            biased;
            ended = &mut *driver => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(error = %error, "tunnel connection ended");
                }
                return Retired::Lost;
            }
            () = tunnel.client.closed() => {
                // GOAWAY leaves the connection up for streams in flight; a loss ends the driver in a moment.
                let gone = tokio::time::timeout(END_OF_LOSS, &mut *driver).await.is_ok();
                return if gone { Retired::Lost } else { Retired::GatewayDrains };
            }
            text = notices.recv(), if notices_open => match text {
                Some(text) if notice::is_drain(&text) => farewell.say(Retired::RelayDrains),
                Some(_) => {}
                None => notices_open = false,
            },
            event = events.next(), if events_open => match event {
                // Streams are still taken; GOAWAY follows.
                Some(pb::watch_event::Event::Drain(_)) => farewell.say(Retired::GatewayDrains),
                Some(pb::watch_event::Event::State(state)) => {
                    follow.adopt(&state.trust_anchors);
                    if state.actor_expires > 0 {
                        renew_at = Instant::now() + renew_after(care.clock.now(), state.actor_expires);
                        tunnel.describes(state);
                    }
                }
                Some(pb::watch_event::Event::Capacity(capacity)) => tunnel.capacity_is(capacity),
                // A gateway without `Watch`, or one that ended it: GOAWAY and the connection's end still tell us.
                None => events_open = false,
            },
            () = &mut age, if farewell.told.is_some() => farewell.say(Retired::Age),
            () = sleep_until(renew_at) => renew_at = renew(care, tunnel).await,
            () = tunnel.renew.notified() => renew_at = renew(care, tunnel).await,
        }
    }
}

/// What `Watch` tells, until the gateway ends it or cannot serve it.
fn events(tunnel: &Tunnel) -> impl Stream<Item = pb::watch_event::Event> {
    stream::unfold(None, move |watch: Option<Watch>| async move {
        let mut watch = match watch {
            Some(watch) => watch,
            None => tunnel.client.watch(HeaderMap::new()).await.ok()?,
        };
        loop {
            // An event of a kind that this version does not know is skipped.
            if let Some(event) = watch.next().await?.ok()?.event {
                return Some((event, Some(watch)));
            }
        }
    })
}

/// Binds a fresh token to the tunnel; gives the time of the next renewal.
async fn renew(care: &Care, tunnel: &Tunnel) -> Instant {
    let renewed = tokio::time::timeout(RENEW_DEADLINE, bind(care, tunnel)).await;
    let cluster = care.tunnels.cluster();
    match renewed {
        Ok(Ok(state)) => {
            tracing::debug!(%cluster, tunnel = tunnel.id, expires = state.actor_expires, "actor renewed");
            let renew_at = Instant::now() + renew_after(care.clock.now(), state.actor_expires);
            tunnel.describes(state);
            renew_at
        }
        Ok(Err(said)) => {
            tracing::warn!(%cluster, tunnel = tunnel.id, error = %said, "the connector's own proof could not be renewed");
            Instant::now() + RENEW_AGAIN
        }
        Err(_) => {
            tracing::warn!(%cluster, tunnel = tunnel.id, "renewing the connector's own proof took too long");
            Instant::now() + RENEW_AGAIN
        }
    }
}

async fn bind(care: &Care, tunnel: &Tunnel) -> Result<pb::DescribeResponse, String> {
    let metadata = care.actor.metadata().await.map_err(|error| error.to_string())?;
    tunnel.client.describe(metadata).await.map_err(|failure: Failure| {
        if matches!(failure.code, Code::Unauthenticated | Code::TokenRefused) {
            care.actor.refused();
        }
        format!("{}: {}", failure.code.name(), failure.message)
    })
}

/// Up to [`AGE_JITTER`].
fn jitter() -> Duration {
    let mut random = [0u8; 2];
    // Without randomness tunnels grow equally old, which only makes their replacements coincide.
    let _ = aws_lc_rs::rand::fill(&mut random);
    AGE_JITTER * u32::from(u16::from_be_bytes(random)) / u32::from(u16::MAX)
}
