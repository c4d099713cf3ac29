//! Follows the connector's file, and the roots that it names.
//!
//! A change that can be used is put in force as a whole; streams that are still entitled notice nothing. One that cannot
//! be used changes nothing: log, event and `/statusz` say file, line and key. It ends when the connector drains.
use std::{
    collections::BTreeSet,
    error::Error,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use daemon::{
    config::load_again,
    process::{Context, explain},
    watch::Places,
};
use serde_json::{Value, json};

use super::{
    Config,
    in_force::{Difference, InForce},
};

/// What `/statusz` says about the configuration.
#[derive(Debug, Default)]
pub(super) struct Configuration(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Changes that were put in force.
    changes: u64,
    /// Changes that were refused, ever.
    refusals: u64,
    /// Why the last change is not in force.
    refused: Option<String>,
}

impl Configuration {
    pub(super) fn shown(&self) -> Value {
        let state = self.state();
        json!({ "changes": state.changes, "refusals": state.refusals, "refused": state.refused })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the file of one connector.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) in_force: InForce,
    pub(super) context: Context,
    pub(super) path: PathBuf,
    pub(super) configuration: Arc<Configuration>,
}

impl Follower {
    /// Until the connector drains.
    pub(super) async fn run(mut self) {
        let mut places = match Places::start() {
            Ok(places) => places,
            Err(error) => return tracing::error!(%error, "the configuration file is not followed"),
        };
        let drain = self.context.shutdown.drain_token();
        loop {
            let mut followed = BTreeSet::from([self.path.clone()]);
            followed.extend(self.in_force.places());
            places.follow(followed);
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = places.changed() => self.change().await,
            }
        }
    }

    async fn change(&mut self) {
        let (path, overrides) = (self.path.clone(), self.context.overrides.clone());
        let loaded = match tokio::task::spawn_blocking(move || load_again::<Config>(&path, &overrides)).await {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => return self.refuse(&error),
            Err(error) => return tracing::error!(%error, "the configuration file could not be read"),
        };
        match self.in_force.prepare(&loaded).await {
            Ok(prepared) => {
                let difference = self.in_force.take_over(prepared);
                self.tell(&difference);
            }
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&self, error: &dyn Error) {
        let problem = explain(error);
        {
            let mut state = self.configuration.state();
            if state.refused.as_ref() == Some(&problem) {
                return;
            }
            state.refused = Some(problem.clone());
            state.refusals += 1;
        }
        tracing::error!(target: "audit", problem, "configuration changed and cannot be used: what is in force stays");
        self.context.events.emit("config_refused", [("problem", problem.into())]);
    }

    fn tell(&self, difference: &Difference) {
        let was_refused = {
            let mut state = self.configuration.state();
            state.changes += u64::from(!difference.is_nothing());
            state.refused.take().is_some()
        };
        if difference.is_nothing() {
            if was_refused {
                tracing::info!(target: "audit", "configuration can be used again, and is what it was");
            }
            return;
        }
        let Difference { added, changed, removed, opened, closed } = difference;
        tracing::info!(
            target: "audit",
            added = %added.join(", "),
            changed = %changed.join(", "),
            removed = %removed.join(", "),
            opened = %opened.join(", "),
            closed = %closed.join(", "),
            "configuration in force"
        );
        let names =
            [("added", added), ("changed", changed), ("removed", removed), ("opened", opened), ("closed", closed)];
        self.context.events.emit("config_in_force", names.map(|(name, list)| (name, Value::from(list.clone()))));
    }
}
