//! One place in the set of tunnels, kept filled: opens a tunnel, waits until it retires, opens the next. A tunnel that
//! says in time that it goes away is replaced while its streams run on; so is one that took a worse way than there is, or
//! a way that a reload took out of the configuration.
use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::retry::{self, Climb, Ladder};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use super::life::Care;
use super::{
    choose::{Led, first},
    life::{Retired, live},
};
use crate::connect::way::candidate::{Candidate, Ways};

/// Tunnels of one place whose last streams may run on. More are left behind only by somebody who drains us again and
/// again; then the oldest is cut.
const RETIRED_MAX: usize = 8;

/// A worse way has lived at least this long before a better one is tried again.
const RETURN_MIN: Duration = Duration::from_secs(30);
/// On top of that, at random, so that a fleet does not come back at once. A way that leads and soon fails again is tried
/// less and less often; five minutes on it are a healthy spell.
const RETURN: retry::Policy = retry::Policy {
    climb: Climb::Exponential { first: Duration::from_secs(60), factor: 2.0, cap: Duration::from_secs(15 * 60) },
    hint_max: RETURN_MIN,
    healthy: Duration::from_secs(5 * 60),
};

/// A tunnel that lived this long and is to be replaced is replaced at once. Who announces it need not be proven, and must
/// not make us dial without end.
const SETTLED: Duration = Duration::from_secs(5);

/// Longest pause before a tunnel is replaced that the gateway itself ended in good order: somebody may be waiting, and who
/// waits has five seconds.
const DRAINED_MAX: Duration = Duration::from_secs(1);

/// How long a tunnel stays on a way that is no longer configured while no other way leads.
const UNWANTED_MAX: Duration = Duration::from_secs(30);

/// The tunnel that fills the place now.
struct Current {
    way: Arc<Candidate>,
    began: Instant,
    told: oneshot::Receiver<Retired>,
    retire: CancellationToken,
}

/// What a tunnel left behind. It may still be there, for as long as there is no other.
struct Left {
    why: Retired,
    lived: Duration,
    retire: CancellationToken,
}

/// Keeps one place.
struct Keeper {
    care: Care,
    ways: watch::Receiver<Ways>,
    /// When to try again while no way leads.
    again: Ladder,
    /// When to try a better way.
    back: Ladder,
    /// Ends tunnels that have retired and still carry streams.
    left: VecDeque<CancellationToken>,
}

/// Fills one place until the connector stops, by the ways that are configured at each time.
pub(crate) async fn keep(care: Care, ways: watch::Receiver<Ways>) {
    let (stop, shutdown) = (care.stop.clone(), care.shutdown.clone());
    let keeper =
        Keeper { care, ways, again: Ladder::new(retry::TUNNEL), back: Ladder::new(RETURN), left: VecDeque::new() };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = shutdown.forced() => {}
        () = keeper.run() => {}
    }
}

impl Keeper {
    async fn run(mut self) {
        let mut before = None;
        loop {
            let ways = self.ways.borrow_and_update().to_vec();
            let led = tokio::select! {
                biased;
                () = changed(&mut self.ways) => continue,
                led = first(ways, self.care.tunnels.clone()) => led,
            };
            let pause = match led {
                Err(hint) => self.again.next_wait(hint),
                Ok(led) => {
                    let Left { why, lived, retire } = self.hold(led, before.take()).await;
                    before = Some(retire);
                    self.again.ended(lived);
                    match why {
                        Retired::Stopped => return,
                        Retired::GatewayDrains | Retired::RelayDrains | Retired::Age | Retired::Replaced
                            if lived >= SETTLED =>
                        {
                            Duration::ZERO
                        }
                        Retired::GatewayDrains => self.again.next_wait(None).min(DRAINED_MAX),
                        Retired::RelayDrains | Retired::Age | Retired::Replaced | Retired::Lost => {
                            self.again.next_wait(None)
                        }
                    }
                }
            };
            tokio::select! {
                biased;
                // Other ways are worth trying at once.
                () = changed(&mut self.ways) => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Stays on the best way that leads, until the last tunnel is to be replaced or is gone. The one `before` goes now.
    async fn hold(&mut self, led: Led, before: Option<CancellationToken>) -> Left {
        let mut current = self.begin(led);
        before.inspect(CancellationToken::cancel);
        let mut unwanted_since = None;
        loop {
            let ways = self.ways.borrow_and_update().clone();
            let rank = ways.iter().position(|way| Arc::ptr_eq(way, &current.way));
            let better = ways[..rank.unwrap_or(ways.len())].to_vec();
            let (pause, until) = match rank {
                Some(0) => (None, None),
                Some(_) => {
                    unwanted_since = None;
                    (Some(self.back.next_wait(Some(RETURN_MIN))), None)
                }
                None => {
                    let first = unwanted_since.is_none();
                    let since = *unwanted_since.get_or_insert_with(Instant::now);
                    let pause = if first { Duration::ZERO } else { self.again.next_wait(None) };
                    (Some(pause), Some(since + UNWANTED_MAX))
                }
            };
            let tunnels = self.care.tunnels.clone();
            let returning = async {
                match pause {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
                }
                first(better, tunnels).await
            };
            let given_up = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // A tunnel whose task died is lost.
                why = &mut current.told => {
                    let lived = current.began.elapsed();
                    self.back.ended(lived);
                    return Left { why: why.unwrap_or(Retired::Lost), lived, retire: current.retire };
                }
                () = changed(&mut self.ways) => {}
                () = given_up => current.retire.cancel(),
                // If none leads, the pause grows.
                led = returning => if let Ok(led) = led {
                    let next = self.begin(led);
                    current.retire.cancel();
                    current = next;
                    unwanted_since = None;
                },
            }
        }
    }

    /// Puts a tunnel in the place.
    fn begin(&mut self, Led { way, opened }: Led) -> Current {
        let (tell, told) = oneshot::channel();
        let (retire, cut) = (CancellationToken::new(), CancellationToken::new());
        let care = Care { actor: way.actor.clone(), ..self.care.clone() };
        self.care.shutdown.spawn(live(care, opened, tell, retire.clone(), cut.clone()));
        self.left.push_back(cut);
        if self.left.len() > RETIRED_MAX + 1 {
            self.left.pop_front().inspect(CancellationToken::cancel);
        }
        Current { way, began: Instant::now(), told, retire }
    }
}

/// Resolves when other ways are configured. Once nobody configures any more, never.
async fn changed(ways: &mut watch::Receiver<Ways>) {
    if ways.changed().await.is_err() {
        std::future::pending().await
    }
}
