//! The policy in force: loaded at start, followed while the gateway runs. A file that cannot be used leaves the policy
//! that is in force; a start without a valid one fails. Every change is published, so that streams which are no longer
//! allowed end at once.
//!
//! Beside the policy file may lie a file named `suspended`; while it holds `true`, everything is suspended (SD-18).
//! Break-glass rules are logged when they come into force, and when they end, which is published like any change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use daemon::{
    audit::{Journal, fields},
    config::ConfigError,
    process::Context,
    watch::Snapshot,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;

use super::{audit, config::PolicySource};
use crate::policy::{CompileError, Policy, PolicyFile, compile};

/// Longest sleep until a break-glass rule's end is looked at again: the wall clock may step.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file is not there or cannot be read.
    #[error("{}: the policy file cannot be read; nothing is served without one", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// It is not UTF-8 text.
    #[error("{}: the policy file is not UTF-8 text", path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
    },
    /// It is not a policy.
    #[error("the policy cannot be read")]
    Parse(#[source] ConfigError),
    /// A rule cannot be meant.
    #[error("{}: {key}: {problem}", path.display())]
    Rule {
        /// Which file.
        path: PathBuf,
        /// Which rule.
        key: String,
        /// What is wrong.
        problem: CompileError,
    },
    /// The file cannot be followed.
    #[error("the policy file cannot be followed")]
    Watch(#[source] std::io::Error),
}

/// Loads policies for one gateway.
#[derive(Debug, Clone)]
pub struct Loader {
    source: PolicySource,
    path: PathBuf,
    authenticators: BTreeSet<String>,
}

impl Loader {
    /// For a policy that lies in a file below `base`, or stands in the config file `config`.
    pub fn new(source: &PolicySource, base: &Path, config: &Path, authenticators: BTreeSet<String>) -> Self {
        let path = match source {
            PolicySource::File(path) => base.join(path),
            PolicySource::Inline(_) => config.to_owned(),
        };
        Self { source: source.clone(), path, authenticators }
    }

    /// The files that decide, in the order that [`Loader::load`] takes their contents.
    pub fn files(&self) -> Vec<PathBuf> {
        match self.source {
            PolicySource::File(_) => vec![self.path.clone(), self.path.with_file_name("suspended")],
            PolicySource::Inline(_) => Vec::new(),
        }
    }

    /// Reads the files now, without following them.
    pub fn read(&self) -> Snapshot {
        self.files().iter().map(|path| std::fs::read(path).ok().map(Into::into)).collect()
    }

    /// The policy that these contents make.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn load(&self, contents: &Snapshot, now: SystemTime) -> Result<Policy, PolicyError> {
        let compile = |file: &PolicyFile| {
            compile(file, &self.authenticators, now).map_err(|problem| PolicyError::Rule {
                path: self.path.clone(),
                key: problem.key(),
                problem,
            })
        };
        if let PolicySource::Inline(file) = &self.source {
            return compile(file);
        }
        let bytes = contents.first().and_then(Option::as_ref);
        let bytes = bytes.ok_or_else(|| PolicyError::Missing { path: self.path.clone() })?;
        let text = str::from_utf8(bytes).map_err(|_| PolicyError::NotText { path: self.path.clone() })?;
        let file: PolicyFile = daemon::config::parse(text, &self.path).map_err(PolicyError::Parse)?;
        Ok(compile(&file)?.suspend(self.is_suspended(contents)))
    }

    /// Whether the `suspended` file beside the policy says `true`.
    fn is_suspended(&self, contents: &Snapshot) -> bool {
        let file = contents.get(1).and_then(Option::as_ref);
        matches!(self.source, PolicySource::File(_)) && file.is_some_and(|bytes| bytes.trim_ascii() == b"true")
    }
}

/// Loads the policy and follows it in a task of `context.shutdown`.
///
/// # Errors
/// When there is no valid policy now.
pub fn start(loader: Loader, journal: Journal, context: &Context) -> Result<watch::Receiver<Arc<Policy>>, PolicyError> {
    let files = loader.files();
    let mut changes =
        if files.is_empty() { None } else { Some(daemon::watch::files(files).map_err(PolicyError::Watch)?) };
    let contents = changes.as_mut().map(|changes| changes.borrow_and_update().clone()).unwrap_or_default();
    let policy = loader.load(&contents, context.clock.now())?;
    announce(&journal, &Policy::default(), &policy, context.clock.now());
    let (publish, policies) = watch::channel(Arc::new(policy));
    let owned = context.clone();
    context.shutdown.spawn(async move { follow_changes(&loader, changes, &publish, &journal, &owned).await });
    Ok(policies)
}

async fn follow_changes(
    loader: &Loader,
    mut changes: Option<watch::Receiver<Snapshot>>,
    publish: &watch::Sender<Arc<Policy>>,
    journal: &Journal,
    context: &Context,
) {
    let mut looked = context.clock.now();
    loop {
        let now = context.clock.now();
        let current = Arc::clone(&publish.borrow());
        report_ended(journal, &current, looked, now, publish);
        looked = now;
        let expiry = current.next_expiry(now).and_then(|at| at.duration_since(now).ok());
        let contents = tokio::select! {
            biased;
            // Streams go on while draining, and so does the policy's power over them; when the last one has ended,
            // nobody listens any more.
            () = publish.closed() => return,
            () = context.shutdown.forced() => return,
            contents = changed(&mut changes) => contents,
            () = tokio::time::sleep(expiry.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) => continue,
        };
        match loader.load(&contents, context.clock.now()) {
            Ok(policy) if policy == *current => {}
            Ok(policy) => {
                announce(journal, &current, &policy, context.clock.now());
                publish.send_replace(Arc::new(policy));
            }
            Err(error) => {
                let problem = daemon::process::explain(&error);
                journal.tell("policy_refused", fields([("reason", Some(problem.as_str().into()))]));
                tracing::error!(error = %problem, "the changed policy cannot be used; the old one stays in force");
                // The kill switch works beside a broken policy, too; it stays thrown until a valid one says otherwise.
                if loader.is_suspended(&contents) && !current.is_suspended() {
                    let suspended = Policy::clone(&current).suspend(true);
                    announce(journal, &current, &suspended, context.clock.now());
                    publish.send_replace(Arc::new(suspended));
                }
            }
        }
    }
}

async fn changed(changes: &mut Option<watch::Receiver<Snapshot>>) -> Snapshot {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        return changes.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Says what a policy grants that the one before did not, and the other way round.
fn announce(journal: &Journal, old: &Policy, new: &Policy, now: SystemTime) {
    let (added, removed) = old.difference(new);
    tracing::info!(
        target: "audit",
        rules = new.rules().len(),
        suspended = new.is_suspended(),
        granted = %added.join(", "),
        revoked = %removed.join(", "),
        "policy in force"
    );
    audit::policy(journal, new, &added, &removed);
    if new.is_suspended() && !old.is_suspended() {
        tracing::warn!(target: "audit", "everything is suspended by the cluster owner");
    }
    for rule in new.rules().iter().filter(|rule| added.contains(rule.name())) {
        let Some(glass) = rule.break_glass() else { continue };
        let until = OffsetDateTime::from(glass.until).format(&Rfc3339).unwrap_or_default();
        if glass.until > now {
            tracing::warn!(target: "audit", rule = %rule.name(), %until, reason = %glass.reason, "break-glass rule in force");
            audit::rule(journal, "break_glass_in_force", rule.name(), &glass.reason);
        } else {
            tracing::warn!(target: "audit", rule = %rule.name(), %until, "break-glass rule is over and grants nothing");
        }
    }
}

/// Says which break-glass rules have ended since the last look, and publishes it, so that their streams end.
fn report_ended(
    journal: &Journal,
    policy: &Arc<Policy>,
    looked: SystemTime,
    now: SystemTime,
    publish: &watch::Sender<Arc<Policy>>,
) {
    let glasses = policy.rules().iter().filter_map(|rule| rule.break_glass().map(|glass| (rule, glass)));
    let mut ended = glasses.filter(|(_, glass)| glass.until > looked && glass.until <= now).peekable();
    if ended.peek().is_none() {
        return;
    }
    for (rule, glass) in ended {
        tracing::warn!(target: "audit", rule = %rule.name(), reason = %glass.reason, "break-glass rule has ended");
        audit::rule(journal, "break_glass_ended", rule.name(), &glass.reason);
    }
    publish.send_replace(Arc::clone(policy));
}
