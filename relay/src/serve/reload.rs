//! Follows the files that say what is served: relay.yaml, the folder of `entities_from`, and every key.
//!
//! A change that can be used is put in force as a whole, and whoever is inside is asked again: who is still entitled
//! notices nothing, the others are dropped at once. One that cannot be used changes nothing; it is told in the log, as an
//! event and in `/statusz`. It ends when the relay drains, which takes nobody new.
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use daemon::{
    clock::timestamp,
    config::{ConfigError, Loaded, Overrides, load_again},
    process::Context,
    watch::Places,
};
use serde_json::{Value, json};

use super::{
    Relay,
    config::Config,
    entities::{Ground, Namespace},
    plan::{Plan, same_rules},
};

/// What `/statusz` says about the configuration.
#[derive(Debug)]
pub(crate) struct Configuration {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    generation: u64,
    since: SystemTime,
    /// Why the last change is not in force: file, key and what is wrong.
    refused: Option<String>,
    /// Changes that were refused, ever.
    refusals: u64,
    needs_restart: Vec<&'static str>,
    /// When the files were last read: whatever was written before is in force, or was refused.
    read: SystemTime,
}

impl Configuration {
    pub(crate) fn new(file: &Path, generation: u64, since: SystemTime) -> Self {
        // Whoever compares it with a path of their own needs the real one.
        let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let state = State { generation, since, refused: None, refusals: 0, needs_restart: Vec::new(), read: since };
        Self { file, state: Mutex::new(state) }
    }

    pub(crate) fn shown(&self) -> Value {
        let state = self.state();
        json!({
            "file": self.file.to_string_lossy(),
            "generation": state.generation,
            "since": timestamp(state.since),
            "refused": state.refused,
            "refusals": state.refusals,
            "needs_restart": state.needs_restart,
            "read_ms": since_epoch(state.read),
        })
    }

    /// Last of all that is told about one reading.
    fn note_read(&self, at: SystemTime) {
        self.state().read = at;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since_epoch(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Follows the files of one relay.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) relay: Arc<Relay>,
    pub(crate) context: Context,
    /// Which file, and what it said at start.
    pub(crate) started: Loaded<Config>,
    /// What is in force.
    pub(crate) plan: Plan,
    pub(crate) places: BTreeSet<PathBuf>,
}

/// What one reading came to, and what it looked at.
struct Reading {
    plan: Result<Plan, ConfigError>,
    places: BTreeSet<PathBuf>,
}

impl Reading {
    /// Waits for the disk.
    fn take(path: &Path, overrides: &Overrides) -> Self {
        let mut places = BTreeSet::from([path.to_owned()]);
        let plan = load_again(path, overrides).and_then(|loaded| Plan::read(&loaded, &mut places));
        Self { plan, places }
    }
}

impl Follower {
    /// Until the relay drains.
    pub(crate) async fn run(mut self) {
        let mut watched = match Places::start() {
            Ok(watched) => watched,
            Err(error) => return tracing::error!(%error, "configuration files are not followed"),
        };
        watched.follow(std::mem::take(&mut self.places));
        let drain = self.context.shutdown.drain_token();
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                () = watched.changed() => {}
            }
            let began = self.context.clock.now();
            let (path, overrides) = (self.started.path.clone(), self.context.overrides.clone());
            let reading = match tokio::task::spawn_blocking(move || Reading::take(&path, &overrides)).await {
                Ok(reading) => reading,
                Err(error) => {
                    tracing::error!(%error, "configuration could not be read");
                    continue;
                }
            };
            watched.follow(reading.places);
            match reading.plan {
                Ok(plan) => self.take_over(plan).await,
                Err(error) => self.refuse(&error),
            }
            self.relay.configuration.note_read(began);
        }
    }

    async fn take_over(&mut self, plan: Plan) {
        self.note_restart(&plan.config);
        let current = self.relay.namespace();
        let authenticators = if plan.config.authenticators == self.plan.config.authenticators {
            current.permits.authenticators.clone()
        } else {
            let (config, base) = (&plan.config.authenticators, &self.started.base);
            match current.permits.authenticators.changed(config, base, &self.context.shutdown).await {
                Ok(authenticators) => Arc::new(authenticators),
                Err(error) => return self.refuse(&error),
            }
        };
        let difference = Difference::between(&self.plan, &plan);
        let was_refused = self.relay.configuration.state().refused.take().is_some();
        if difference.is_nothing() {
            if was_refused {
                tracing::info!(target: "audit", "configuration can be used again, and is what it was");
            }
            return;
        }
        let generation = current.permits.generation + 1;
        let relay = &self.relay;
        let ground = Ground { generation, authenticators, metrics: &relay.metrics, buffers: &relay.buffers };
        let next = Arc::new(Namespace::build(&plan, &current.host, &ground, Some(&current)));
        relay.namespace.store(next.clone());
        let dropped = next.ask_again(&current);
        {
            let mut state = relay.configuration.state();
            (state.generation, state.since) = (generation, self.context.clock.now());
        }
        self.plan = plan;
        self.tell(&difference, generation, dropped);
    }

    fn refuse(&self, error: &dyn std::error::Error) {
        let problem = daemon::process::explain(error);
        {
            let mut state = self.relay.configuration.state();
            if state.refused.as_ref() == Some(&problem) {
                return;
            }
            state.refused = Some(problem.clone());
            state.refusals += 1;
        }
        tracing::error!(target: "audit", problem, "configuration changed and cannot be used: what is in force stays");
        self.context.events.emit("config_refused", [("problem", problem.into())]);
    }

    /// What is fixed for the life of the process.
    fn note_restart(&self, config: &Config) {
        let started = &self.started.values;
        let fixed = [
            ("listen", started.listen != config.listen),
            ("namespace", started.namespace != config.namespace),
            ("limits", started.limits != config.limits),
        ];
        let names: Vec<_> = fixed.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
        let mut state = self.relay.configuration.state();
        if state.needs_restart != names {
            if !names.is_empty() {
                tracing::warn!(target: "audit", keys = names.join(", "), "these changes need a restart of the relay");
            }
            state.needs_restart = names;
        }
    }

    fn tell(&self, difference: &Difference, generation: u64, dropped: usize) {
        let Difference { added, changed, removed, common } = difference;
        tracing::info!(
            target: "audit",
            generation,
            added = %Names(added),
            changed = %Names(changed),
            removed = %Names(removed),
            common,
            dropped,
            "configuration in force"
        );
        for (kind, names) in [("entity_added", added), ("entity_changed", changed), ("entity_removed", removed)] {
            for name in names {
                let fields = [("entity", name.as_str().into()), ("generation", generation.into())];
                self.context.events.emit(kind, fields);
            }
        }
    }
}

/// What a change comes to: names, as they are written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// Something that counts for all of them.
    common: bool,
}

impl Difference {
    fn between(old: &Plan, new: &Plan) -> Self {
        let mut difference = Self {
            common: !same_rules(&old.rules, &new.rules)
                || old.config.grants != new.config.grants
                || old.config.authenticators != new.config.authenticators
                || old.config.tokens != new.config.tokens,
            ..Self::default()
        };
        for (segments, planned) in &new.entities {
            match old.entities.get(segments) {
                None => difference.added.push(planned.name.clone()),
                Some(known) if !known.is_same(planned) => difference.changed.push(planned.name.clone()),
                Some(_) => {}
            }
        }
        let gone = old.entities.iter().filter(|(segments, _)| !new.entities.contains_key(*segments));
        difference.removed.extend(gone.map(|(_, planned)| planned.name.clone()));
        difference
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Names in a log line: the first of them, and how many there are more.
struct Names<'a>(&'a [String]);

/// Names that a log line lists.
const LISTED_MAX: usize = 20;

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[..self.0.len().min(LISTED_MAX)].join(", "))?;
        match self.0.len().saturating_sub(LISTED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
