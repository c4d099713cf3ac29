//! One place in the set of tunnels, kept filled: opens a tunnel, waits until it retires, opens the next. A tunnel that
//! says in time that it goes away is replaced while its streams run on.
use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::retry::{self, Ladder};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) use super::life::Care;
use super::{
    Tunnels,
    life::{Retired, live},
};
use crate::connect::way::{Opened, Opener, Way, proof::short};

/// Tunnels of one place whose last streams may run on. More are left behind only by somebody who drains us again and
/// again; then the oldest is cut.
const RETIRED_MAX: usize = 8;

/// Fills one place until the connector stops. `open` tries every way once; its error is the server's wish for a pause.
pub(crate) async fn keep<D, F>(care: Care, open: D)
where
    D: Fn() -> F,
    F: Future<Output = Result<Opened, Option<Duration>>>,
{
    let mut ladder = Ladder::new(retry::TUNNEL);
    let mut left: VecDeque<CancellationToken> = VecDeque::new();
    loop {
        let opened = tokio::select! {
            biased;
            () = care.stop.cancelled() => return,
            () = care.shutdown.forced() => return,
            opened = open() => opened,
        };
        let pause = match opened {
            Err(hint) => ladder.next_wait(hint),
            Ok(opened) => {
                let began = Instant::now();
                let (retired, told) = oneshot::channel();
                let cut = CancellationToken::new();
                care.shutdown.spawn(live(care.clone(), opened, retired, cut.clone()));
                // A tunnel whose task died is lost.
                let why = told.await.unwrap_or(Retired::Lost);
                left.push_back(cut);
                if left.len() > RETIRED_MAX {
                    left.pop_front().inspect(CancellationToken::cancel);
                }
                let lived = began.elapsed();
                ladder.ended(lived);
                match why {
                    Retired::Stopped => return,
                    Retired::Lost => ladder.next_wait(None),
                    // Whoever announces it wants the replacement first. Notices are not proven, so only a tunnel that
                    // has lived for a while is replaced at once.
                    Retired::GatewayDrains | Retired::RelayDrains | Retired::Age if lived >= retry::TUNNEL.healthy => {
                        Duration::ZERO
                    }
                    Retired::GatewayDrains | Retired::RelayDrains | Retired::Age => ladder.next_wait(None),
                }
            }
        };
        tokio::select! {
            biased;
            () = care.stop.cancelled() => return,
            () = care.shutdown.forced() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Tries the ways in their order. On failure of all, gives the shortest pause that every server asked for.
pub(crate) async fn any_way(
    opener: Arc<Opener>,
    ways: Arc<[Way]>,
    tunnels: Tunnels,
) -> Result<Opened, Option<Duration>> {
    let cluster = Arc::clone(tunnels.cluster());
    let mut hints = Vec::with_capacity(ways.len());
    for (index, way) in ways.iter().enumerate() {
        match opener.open(way).await {
            Ok(opened) => {
                tracing::info!(
                    %cluster,
                    way = opened.way,
                    address = %opened.address,
                    identity = %format!("{} ok", short(&opened.identity)),
                    actor = %opened.state.actor,
                    gateway = %opened.state.version,
                    setup_ms = u64::try_from(opened.took.as_millis()).unwrap_or(u64::MAX),
                    "tunnel up"
                );
                return Ok(opened);
            }
            Err(error) => {
                let shown = way.to_string();
                tunnels.failed(way.kind(), &shown, &error);
                let then = if index + 1 < ways.len() { "trying next" } else { "trying again" };
                tracing::warn!(
                    %cluster,
                    way = way.kind(),
                    address = %shown,
                    code = error.code.id(),
                    stage = error.stage.name(),
                    error = %error.explained(),
                    remedy = error.code.remedy(),
                    "{} ({}), {then}",
                    error.code.name(),
                    error.code.id()
                );
                hints.push(error.retry_after());
            }
        }
    }
    Err(hints.into_iter().collect::<Option<Vec<_>>>().and_then(|hints| hints.into_iter().min()))
}
