//! The choice among the ways of a cluster: in their order, but a way that neither leads nor fails within a moment does not
//! hold up the next one. The first that leads is taken.
use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::Tunnels;
use crate::connect::way::{Opened, candidate::Candidate, error::WayError, proof::short};

/// How long a way is tried alone: twice what the half dozen round trips of its handshakes take across an ocean. Two ways
/// that swallow packets still leave a third one time before waiting streams give up.
pub(super) const HEAD_START: Duration = Duration::from_secs(2);

/// A tunnel, and the way that it took.
#[derive(Debug)]
pub(super) struct Led {
    pub(super) way: Arc<Candidate>,
    pub(super) opened: Opened,
}

/// Tries all of them. If none leads, gives the shortest pause that every server asked for.
pub(super) async fn first(ways: Vec<Arc<Candidate>>, tunnels: Tunnels) -> Result<Led, Option<Duration>> {
    let mut hints = Vec::with_capacity(ways.len());
    let mut waiting = ways.into_iter();
    let mut trying = FuturesUnordered::new();
    loop {
        let Some(way) = waiting.next() else {
            // Nothing is left but to wait for those that were begun.
            while let Some((way, result)) = trying.next().await {
                match judge(&tunnels, way, result, false) {
                    Ok(led) => return Ok(led),
                    Err(hint) => hints.push(hint),
                }
            }
            return Err(hints.into_iter().collect::<Option<Vec<_>>>().and_then(|hints| hints.into_iter().min()));
        };
        let opening = way.open();
        trying.push(async move { (way, opening.await) });
        let next_at = Instant::now() + HEAD_START;
        tokio::select! {
            biased;
            // Who fails gives the next one its turn.
            Some((way, result)) = trying.next() => match judge(&tunnels, way, result, waiting.len() > 0) {
                Ok(led) => return Ok(led),
                Err(hint) => hints.push(hint),
            },
            () = sleep_until(next_at), if waiting.len() > 0 => {}
        }
    }
}

/// Tells how an attempt went.
fn judge(
    tunnels: &Tunnels,
    way: Arc<Candidate>,
    result: Result<Opened, WayError>,
    more: bool,
) -> Result<Led, Option<Duration>> {
    let cluster = tunnels.cluster();
    match result {
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
            Ok(Led { way, opened })
        }
        Err(error) => {
            tunnels.failed(way.kind, &way.address, &error);
            let then = if more { "trying next" } else { "trying again" };
            tracing::warn!(
                %cluster,
                way = way.kind,
                address = %way.address,
                code = error.code.id(),
                stage = error.stage.name(),
                error = %error.explained(),
                remedy = error.code.remedy(),
                "{} ({}), {then}",
                error.code.name(),
                error.code.id()
            );
            Err(error.retry_after())
        }
    }
}
