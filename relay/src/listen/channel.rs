//! One control channel, kept: dialled, replaced before it is old, and dialled again when it breaks.
//!
//! A replacement is open before its predecessor gives way (`hold` says how), so senders always find somebody. Where the
//! relay takes no more listeners, the order is turned round. Pauses grow from failure to failure, and only a channel that
//! lived for a while makes them short again.
mod board;
mod hold;
mod open;
mod renewal;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use daemon::shutdown::Shutdown;
use identity::chance::Chance;
use proto::retry::{LISTENER, Ladder};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use self::{
    board::Channels,
    hold::Wire,
    open::{OpenError, Opener, Relay},
};
use self::{
    hold::{Ended, hold},
    open::Open,
};
use super::{Held, explained};

/// Within this a control channel must be up: dial, TLS, upgrade.
const SETUP: Duration = Duration::from_secs(15);

/// Part of its age by which a channel is replaced earlier or later, so that those of many listeners do not do it at once.
const ROTATION_JITTER: f64 = 0.2;

/// Pause after a replacement that failed; the channel that is up goes on.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// A channel that is up, and the task that holds it.
struct Live {
    task: JoinHandle<Ended>,
    retire: CancellationToken,
    rotate_at: Instant,
}

impl Live {
    fn start<O: Opener>(held: &Arc<Held>, open: Open<O::Io>, chance: &Chance) -> Self {
        let retire = CancellationToken::new();
        let age = held.rotate_after.mul_f64(1.0 + ROTATION_JITTER * (2.0 * chance.fraction() - 1.0));
        let task = held.shared.context.shutdown.spawn(hold(held.clone(), open, retire.clone()));
        Self { task, retire, rotate_at: Instant::now() + age }
    }

    /// How it ended. A task that panicked has said so itself.
    async fn ended(&mut self) -> Ended {
        (&mut self.task).await.unwrap_or_default()
    }
}

/// Keeps one channel up until the drain begins. `slot` is its number among the channels of the hybrid connection.
pub(super) async fn keep<O: Opener>(held: Arc<Held>, opener: Arc<O>, slot: usize, chance: Chance) {
    let shutdown = held.shared.context.shutdown.clone();
    let draw = chance.clone();
    let mut ladder = Ladder::with_random(LISTENER, move || draw.fraction());
    while let Some(open) = reach(&held, &*opener, slot, &mut ladder).await {
        let mut live = Live::start::<O>(&held, open, &chance);
        let ended = loop {
            let rotate_at = live.rotate_at;
            tokio::select! {
                biased;
                // Its own task sees the drain, too, and finishes what it has.
                () = shutdown.draining() => return,
                ended = live.ended() => break ended,
                () = sleep_until(rotate_at) => {}
            }
            match attempt(&held, &*opener, slot).await {
                Ok(open) => {
                    let old = std::mem::replace(&mut live, Live::start::<O>(&held, open, &chance));
                    old.retire.cancel();
                    held.shared.metrics.rotated("replaced");
                }
                Err(error) if error.is_full() => {
                    info!(relay = %held.address, "no room for a replacement: the control channel is closed first");
                    held.shared.metrics.rotated("closed_first");
                    live.retire.cancel();
                    break live.ended().await;
                }
                Err(error) => {
                    held.shared.metrics.rotated("failed");
                    let pause = ROTATE_AGAIN.max(error.retry_after().unwrap_or_default().min(LISTENER.hint_max));
                    warn!(
                        relay = %held.address,
                        error = explained(&error),
                        again_ms = pause.as_millis() as u64,
                        "control channel cannot be replaced; the old one goes on"
                    );
                    live.rotate_at = Instant::now() + pause;
                }
            }
        };
        ladder.ended(ended.lived);
        if ended.token_refused {
            held.credential.refused();
        }
        if !ended.retired && !paused(&shutdown, ladder.next_wait(None)).await {
            return;
        }
    }
}

/// Opens a channel, however long it takes; nothing when the drain began meanwhile.
async fn reach<O: Opener>(held: &Held, opener: &O, slot: usize, ladder: &mut Ladder) -> Option<Open<O::Io>> {
    let shutdown = &held.shared.context.shutdown;
    loop {
        let attempted = tokio::select! {
            biased;
            () = shutdown.draining() => return None,
            attempted = attempt(held, opener, slot) => attempted,
        };
        let error = match attempted {
            Ok(open) => return Some(open),
            Err(error) => error,
        };
        let pause = ladder.next_wait(error.retry_after());
        let problem = explained(&error);
        warn!(
            relay = %held.address,
            error = problem,
            again_ms = pause.as_millis() as u64,
            "control channel cannot be opened"
        );
        held.ready.failed(error.is_unreachable(), problem);
        if !paused(shutdown, pause).await {
            return None;
        }
    }
}

async fn attempt<O: Opener>(held: &Held, opener: &O, slot: usize) -> Result<Open<O::Io>, OpenError> {
    let attempted = timeout(SETUP, opener.open(held, slot)).await.unwrap_or(Err(OpenError::TooSlow(SETUP)));
    if let Err(error) = &attempted {
        held.shared.metrics.channel_failures.inc();
        if error.is_unauthorized() {
            held.credential.refused();
        }
    }
    attempted
}

/// False when the drain began meanwhile.
async fn paused(shutdown: &Shutdown, pause: Duration) -> bool {
    tokio::select! {
        biased;
        () = shutdown.draining() => false,
        () = sleep(pause) => true,
    }
}
