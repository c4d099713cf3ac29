//! The part of a process's life that has a runtime: admin port, start, wait, drain.
use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{Context, Program, Settings, StartFailure, log_outcome, signals::Signals};
use crate::{
    admin::Admin,
    config::{self, Overrides},
    log,
    shutdown::FORCE_WAIT,
    watch,
    workers::Workers,
};

/// Why a process ended by itself.
#[derive(Debug)]
pub(super) enum Failed<E> {
    /// The admin port cannot be bound.
    Admin {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The component could not start.
    Start(E),
}

/// The file to follow, and what is laid over it.
#[derive(Debug)]
pub(super) struct Follow {
    pub(super) path: PathBuf,
    pub(super) overrides: Overrides,
}

/// From the admin port to the last log line.
pub(super) async fn run<R, E, F>(
    program: &Program,
    settings: &Settings,
    follow: Follow,
    workers: Workers,
    start: impl FnOnce(Context) -> F,
) -> Result<(), Failed<E>>
where
    E: StartFailure,
    F: Future<Output = Result<R, E>>,
{
    let mut signals = match Signals::new() {
        Ok(signals) => Some(signals),
        Err(error) => {
            error!(%error, "signals cannot be received: only SIGKILL will end this process");
            None
        }
    };
    info!(program = program.name, version = env!("CARGO_PKG_VERSION"), config = %follow.path.display(), "starting");
    let context = Context { overrides: follow.overrides.clone(), workers, ..Context::new(program.metrics) };
    // What observes the process outlives what it does.
    let mut observers = JoinSet::new();
    for address in settings.admin.addresses(program.admin_port) {
        let admin = Admin::bind(address).await.map_err(|source| Failed::Admin { address, source })?;
        let (readiness, metrics) = (context.readiness.clone(), context.metrics.clone());
        let (status, events) = (context.status.status(), context.events.clone());
        observers.spawn(admin.serve(readiness, metrics, status, events, context.shutdown.clone()));
    }
    observers.spawn(follow_log_level(follow));

    let guard = context.readiness.guard("start");
    let running = tokio::select! {
        started = Box::pin(start(context.clone())) => Some(started.map_err(Failed::Start)),
        () = next(&mut signals) => None,
    };
    let running = match running {
        Some(Err(failed)) => {
            context.shutdown.run(std::time::Duration::ZERO).await;
            return Err(failed);
        }
        Some(Ok(running)) => {
            guard.ready();
            info!("started");
            next(&mut signals).await;
            Some(running)
        }
        None => None,
    };

    let grace = settings.grace.0;
    info!(grace_s = grace.as_secs(), "draining");
    let mut ending = Box::pin(context.shutdown.run(grace));
    let outcome = tokio::select! {
        outcome = &mut ending => outcome,
        () = next(&mut signals) => {
            warn!("second signal: ending now");
            context.shutdown.force();
            ending.await
        }
    };
    drop(running);
    log_outcome(outcome);
    observers.abort_all();
    let _ = tokio::time::timeout(FORCE_WAIT, async { while observers.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn next(signals: &mut Option<Signals>) {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

/// Changes of the file are judged as at start; of a good one the log level is taken over at once.
async fn follow_log_level(follow: Follow) {
    let mut file = match watch::files(vec![follow.path.clone()]) {
        Ok(file) => file,
        Err(error) => return warn!(%error, "the configuration file is not followed"),
    };
    let follow = Arc::new(follow);
    while file.changed().await.is_ok() {
        let again = follow.clone();
        let settings = tokio::task::spawn_blocking(move || config::load_settings(&again.path, &again.overrides)).await;
        match settings {
            Ok(Ok(settings)) => {
                log::change(&settings.log);
                // A record, so that it is shown whatever the new level is.
                info!(
                    target: "audit",
                    level = ?settings.log.level,
                    "configuration file changed: log.level is in force; what else changed needs a restart, unless the component follows it"
                );
            }
            Ok(Err(error)) => warn!(%error, "configuration file changed and is not usable: nothing is taken over"),
            Err(error) => warn!(%error, "configuration file could not be judged"),
        }
    }
}
