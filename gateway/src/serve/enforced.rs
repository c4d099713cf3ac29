//! The policy in force: loaded at start, followed while the gateway runs. A file that cannot be used leaves what it said
//! before in force; a start without a valid policy fails. Every change is published, so that streams which are no longer
//! allowed end at once.
//!
//! Three files decide, each by itself, so that a mistake in one does not keep another from being obeyed: the policy, the
//! file named `suspended` beside it, which suspends everything while it says so (SD-18), and the deny file (SD-7).
//! Break-glass rules are logged when they come into force, and when they end, which is published like any change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use daemon::{
    audit::{Journal, fields},
    config::ConfigError,
    process::Context,
    watch::{Content, Snapshot},
};
use tokio::sync::watch;

use super::{
    audit,
    config::{Config, PolicySource},
};
use crate::policy::{CompileError, Deny, Policy, PolicyFile, Rule, Setting, compile, deny};

/// Longest sleep until a break-glass rule's end is looked at again: the wall clock may step.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// How often the files are looked at where the file system does not notify: suspension acts within a second (SD-18).
const POLL: Duration = Duration::from_millis(400);

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
        problem: Box<CompileError>,
    },
    /// The deny file cannot be used.
    #[error("the deny file cannot be read")]
    Deny(#[source] ConfigError),
    /// The deny file is not there, or is not UTF-8 text.
    #[error("{}: the deny file is not there, or cannot be read as text; without it nobody would be denied", path.display())]
    DenyMissing {
        /// Which file.
        path: PathBuf,
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
    deny: Option<PathBuf>,
    setting: Setting,
}

/// Where what is in the files stands in a snapshot of them.
const POLICY: usize = 0;
const SUSPENDED: usize = 1;
const DENY: usize = 2;

impl Loader {
    /// For the policy and the deny file that a config below `base`, in the file `config`, names.
    pub fn new(values: &Config, base: &Path, config: &Path) -> Self {
        let path = match &values.policy {
            PolicySource::File(path) => base.join(path),
            PolicySource::Inline(_) => config.to_owned(),
        };
        let deny = values.deny.as_ref().map(|path| base.join(path));
        Self { source: values.policy.clone(), path, deny, setting: values.setting() }
    }

    /// The files that decide, in the order that [`Loader::load`] takes their contents. A policy that stands in the config
    /// needs no file; the config's is named for its place.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path.clone(), self.path.with_file_name("suspended")];
        files.extend(self.deny.clone());
        files
    }

    /// Reads the files now, without following them.
    pub fn read(&self) -> Snapshot {
        daemon::watch::read(&self.files())
    }

    /// The policy that these contents make.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn load(&self, contents: &Snapshot, now: SystemTime) -> Result<Policy, PolicyError> {
        let (rules, deny) = (self.rules(contents, now)?, self.deny(contents)?);
        Ok(rules.suspend(self.is_suspended(contents)).denying(deny))
    }

    /// The rules alone.
    fn rules(&self, contents: &Snapshot, now: SystemTime) -> Result<Policy, PolicyError> {
        if let PolicySource::Inline(file) = &self.source {
            return compile(file, &self.setting, now).map_err(|problem| PolicyError::Rule {
                path: self.path.clone(),
                key: problem.key(),
                problem: Box::new(problem),
            });
        }
        let bytes = at(contents, POLICY).ok_or_else(|| PolicyError::Missing { path: self.path.clone() })?;
        let text = str::from_utf8(bytes).map_err(|_| PolicyError::NotText { path: self.path.clone() })?;
        self.parse(text, &self.path, now)
    }

    /// The rules that a text makes; its place is for messages.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn parse(&self, text: &str, path: &Path, now: SystemTime) -> Result<Policy, PolicyError> {
        daemon::config::parse_checked(text, path, |file: &PolicyFile| {
            compile(file, &self.setting, now).map_err(|problem| (problem.key(), problem.to_string()))
        })
        .map_err(PolicyError::Parse)
    }

    /// The deny list alone.
    fn deny(&self, contents: &Snapshot) -> Result<Deny, PolicyError> {
        let Some(path) = &self.deny else { return Ok(Deny::default()) };
        let text = at(contents, DENY).and_then(|bytes| str::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| PolicyError::DenyMissing { path: path.clone() })?;
        let deny: Deny = daemon::config::parse(text, path).map_err(PolicyError::Deny)?;
        for name in deny::unknown_authenticators(&deny, |name| self.setting.authenticators.contains_key(name)) {
            tracing::warn!(path = %path.display(), authenticator = name, "the deny list names an authenticator that is not there");
        }
        Ok(deny)
    }

    /// Whether the `suspended` file beside the policy says so. What is neither a plain yes nor a plain no counts as yes, and
    /// so does what cannot be read: somebody wanted to stop everything, and is believed.
    fn is_suspended(&self, contents: &Snapshot) -> bool {
        let what = match contents.get(SUSPENDED) {
            None | Some(Content::Absent) => return false,
            Some(Content::Bytes(bytes)) => match bytes.trim_ascii() {
                b"" | b"false" => return false,
                b"true" => return true,
                _ => "neither `true` nor `false`; everything is suspended",
            },
            Some(Content::Unreadable) => "cannot be read; everything is suspended",
        };
        let path = self.path.with_file_name("suspended");
        tracing::error!(path = %path.display(), "{what}");
        true
    }
}

fn at(contents: &Snapshot, index: usize) -> Option<&Bytes> {
    contents.get(index).and_then(Content::bytes)
}

/// Loads the policy and follows it in a task of `context.shutdown`.
///
/// # Errors
/// When there is no valid policy now.
pub fn start(loader: Loader, journal: Journal, context: &Context) -> Result<watch::Receiver<Arc<Policy>>, PolicyError> {
    let mut changes = daemon::watch::files_every(POLL, loader.files()).map_err(PolicyError::Watch)?;
    let contents = changes.borrow_and_update().clone();
    let policy = loader.load(&contents, context.clock.now())?;
    announce(&journal, &Policy::default(), &policy, context.clock.now());
    let (publish, policies) = watch::channel(Arc::new(policy));
    let owned = context.clone();
    context.shutdown.spawn(async move {
        Follower { loader, contents, publish, journal, context: owned }.follow(changes).await;
    });
    Ok(policies)
}

/// Keeps the policy in force.
struct Follower {
    loader: Loader,
    /// What was seen last.
    contents: Snapshot,
    publish: watch::Sender<Arc<Policy>>,
    journal: Journal,
    context: Context,
}

impl Follower {
    async fn follow(mut self, mut changes: watch::Receiver<Snapshot>) {
        let mut looked = self.context.clock.now();
        loop {
            let now = self.context.clock.now();
            let current = Arc::clone(&self.publish.borrow());
            report_ended(&self.journal, &current, looked, now, &self.publish);
            looked = now;
            let expiry = current.next_expiry(now).and_then(|at| at.duration_since(now).ok());
            tokio::select! {
                biased;
                // Streams go on while draining, and so does the policy's power over them; when the last one has ended,
                // nobody listens any more.
                () = self.publish.closed() => return,
                () = self.context.shutdown.forced() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        // The thread that reads the files has ended, which it only does with its last receiver.
                        return;
                    }
                    let contents = changes.borrow_and_update().clone();
                    self.take(contents, &current);
                }
                () = tokio::time::sleep(expiry.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) => {}
            }
        }
    }

    /// Puts in force what can be of these contents.
    fn take(&mut self, contents: Snapshot, current: &Arc<Policy>) {
        let now = self.context.clock.now();
        // A policy whose file is as it was stays as it is: a break-glass rule in it may be over by now, or be too long for
        // today's clock, and that is no reason to look at it otherwise.
        let rules = if at(&contents, POLICY) == at(&self.contents, POLICY) {
            Ok(None)
        } else {
            self.loader.rules(&contents, now).map(Some)
        };
        let deny = self.loader.deny(&contents);
        let switch = self.loader.is_suspended(&contents);
        self.contents = contents;
        let deny = deny.unwrap_or_else(|error| {
            self.complain("deny_refused", &error, "the changed deny file cannot be used; the old list stays in force");
            current.deny().clone()
        });
        let next = match rules {
            Ok(Some(rules)) => rules.suspend(switch),
            Ok(None) => Policy::clone(current).suspend(switch),
            Err(error) => {
                self.complain(
                    "policy_refused",
                    &error,
                    "the changed policy cannot be used; the old one stays in force",
                );
                Policy::clone(current).suspend(switch)
            }
        };
        let next = next.denying(deny);
        if next != **current {
            announce(&self.journal, current, &next, now);
            self.publish.send_replace(Arc::new(next));
        }
    }

    fn complain(&self, kind: &'static str, error: &PolicyError, what: &'static str) {
        let problem = daemon::process::explain(error);
        self.journal.tell(kind, fields([("reason", Some(problem.as_str().into()))]));
        tracing::error!(error = %problem, "{what}");
    }
}

/// Says what a policy grants that the one before did not, and the other way round.
fn announce(journal: &Journal, old: &Policy, new: &Policy, now: SystemTime) {
    let (added, removed) = old.difference(new);
    let names = |rules: &[&Rule]| rules.iter().map(|rule| &**rule.name()).collect::<Vec<_>>().join(", ");
    tracing::info!(
        target: "audit",
        rules = new.rules().len(),
        suspended = new.is_suspended(),
        denied = new.deny().len(),
        granted = names(&added),
        revoked = names(&removed),
        "policy in force"
    );
    for rule in &removed {
        tracing::info!(target: "audit", grant = %rule, "grant removed");
    }
    for rule in &added {
        tracing::info!(target: "audit", grant = %rule, "grant added");
    }
    audit::policy(journal, new, &added, &removed);
    if new.is_suspended() && !old.is_suspended() {
        tracing::warn!(target: "audit", "everything is suspended by the cluster owner");
    }
    if old.is_suspended() && !new.is_suspended() {
        tracing::warn!(target: "audit", "nothing is suspended any more");
    }
    for rule in added {
        let Some(glass) = rule.break_glass() else { continue };
        let until = glass.time();
        if glass.until > now {
            tracing::warn!(target: "audit", rule = %rule.name(), until, reason = %glass.reason, "break-glass rule in force");
            audit::rule(journal, "break_glass_in_force", rule.name(), &glass.reason);
        } else {
            tracing::warn!(target: "audit", rule = %rule.name(), until, "break-glass rule is over and grants nothing");
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
