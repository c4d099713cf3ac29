//! What all tunnels of one gateway share.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use daemon::{audit::Journal, process::Context, traces::Tracer};
use identity::{jwt::Authenticators, principal::Principal};
use proto::tunnel::{
    budget::Budget,
    failure::{Code, Failure},
    pb::{self, DescribeResponse},
};
use tokio::{net::TcpStream, sync::watch, time::Instant};

use super::{
    cluster::Shown,
    config::{Limits, Networks},
    limits::Ledger,
    metrics::Metrics,
    session::caller::Caller,
    target::{dial, dial::Judged, kubernetes::Api, manner::Manners, naming::Naming, pools::Pools, resolve::Resolver},
};
use crate::policy::{Ask, Denial, Host, Policy, Question, Rule, decide::Why, deny::Denied, kubernetes::Identity};

/// Names of minor features that `Describe` tells; "kubernetes" besides, where the API server is a target.
const FEATURES: &[&str] = &["http", "https", "h2", "upgrade", "tcp", "unix", "watch"];

/// What all tunnels of one gateway share.
#[derive(Debug)]
pub struct Gateway {
    /// Cluster id.
    pub cluster: String,
    /// The cluster's network.
    pub networks: Networks,
    /// Limits.
    pub limits: Limits,
    /// Who vouches for callers.
    pub authenticators: Authenticators,
    /// The policy in force.
    pub policies: watch::Receiver<Arc<Policy>>,
    /// Where grants and refusals are written down.
    pub journal: Journal,
    /// What the tunnel port shows.
    pub shown: Arc<Shown>,
    /// Names to addresses.
    pub resolver: Resolver,
    /// What everybody has of what all share.
    pub ledger: Arc<Ledger>,
    /// How targets are told who calls.
    pub naming: Naming,
    /// How targets are spoken to.
    pub manners: ArcSwap<Manners>,
    /// The API server, if it is a target.
    pub kubernetes: Option<Arc<Api>>,
    /// Unix sockets that callers may name.
    pub sockets: ArcSwap<BTreeMap<String, PathBuf>>,
    /// Connections to targets.
    pub pools: Pools,
    /// What all tunnels hold.
    pub budget: Budget,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Makes a span of each stream.
    pub tracer: Tracer,
    /// Clock and shutdown.
    pub context: Context,
}

/// What was allowed, and where it may go.
#[derive(Debug)]
pub struct Granted {
    /// The rule that allows it.
    pub rule: Arc<str>,
    /// The target was judged to lie outside of the cluster's ranges.
    pub external: bool,
    /// Addresses that may be called, best first.
    pub addresses: Vec<SocketAddr>,
}

impl Gateway {
    /// Asks the policy in force.
    ///
    /// # Errors
    /// `PolicyDenied` or `AmbiguousPath`.
    pub fn decide(&self, caller: &Caller, ask: Ask<'_>, external: bool) -> Result<Arc<str>, Failure> {
        let policy = Arc::clone(&self.policies.borrow());
        let rule = policy.decide(&self.question(caller, ask, external)).map_err(|denial| denied(&denial))?;
        self.log_break_glass(rule, caller, &ask);
        Ok(Arc::clone(rule.name()))
    }

    /// Asks the policy in force for a request to the API server: by which rule, and as whom.
    ///
    /// # Errors
    /// `PolicyDenied`: no rule, or a name that cannot be a user's.
    pub fn impersonate(&self, caller: &Caller, ask: Ask<'_>) -> Result<(Arc<str>, Identity), Failure> {
        let policy = Arc::clone(&self.policies.borrow());
        let rule = policy.decide(&self.question(caller, ask, false)).map_err(|denial| denied(&denial))?;
        let denied = |message: String| Failure::before_target(Code::PolicyDenied, message);
        let identity = rule
            .identity(&(&caller.subject).into())
            .ok_or_else(|| denied(format!("rule \"{}\" makes no user of {}", rule.name(), caller.subject)))?;
        let identity = identity.map_err(|error| {
            denied(format!("rule \"{}\" makes no user of {}: {error}", rule.name(), caller.subject))
        })?;
        self.log_break_glass(rule, caller, &ask);
        Ok((Arc::clone(rule.name()), identity))
    }

    /// Whether the policy still allows what it has allowed before.
    ///
    /// # Errors
    /// The refusal.
    pub fn still(&self, caller: &Caller, ask: Ask<'_>, external: bool) -> Result<(), Failure> {
        let policy = Arc::clone(&self.policies.borrow());
        policy.decide(&self.question(caller, ask, external)).map(|_| ()).map_err(|denial| denied(&denial))
    }

    /// Whether somebody may hold a tunnel as far as the deny list is concerned.
    ///
    /// # Errors
    /// The refusal.
    pub fn not_denied(&self, who: &Principal) -> Result<(), Failure> {
        let policy = Arc::clone(&self.policies.borrow());
        match policy.deny().find(&who.into()) {
            Some(why) => Err(Failure::before_target(denied_code(why), format!("{who} {}", why.text()))),
            None => Ok(()),
        }
    }

    fn question<'a>(&self, caller: &'a Caller, ask: Ask<'a>, external: bool) -> Question<'a> {
        let (subject, actor) = ((&caller.subject).into(), (&caller.actor).into());
        Question { subject, actor, ask, external, at: self.context.clock.now() }
    }

    /// Asks the policy, resolves the target, judges its addresses, and asks again if they lie outside of the cluster.
    ///
    /// # Errors
    /// The refusal, or why there is no address.
    pub async fn grant(
        &self,
        caller: &Caller,
        ask: Ask<'_>,
        host: &Host,
        port: u16,
        deadline: Instant,
    ) -> Result<Granted, Failure> {
        let policy = Arc::clone(&self.policies.borrow());
        let question = self.question(caller, ask, false);
        let rule = policy.decide(&question).map_err(|denial| denied(&denial))?;
        let addresses = dial::resolve(&self.resolver, host, &caller.subject, deadline).await?;
        let judged = Judged::new(&addresses, port, &self.networks);
        let (rule, external, addresses) = match (judged.inside.is_empty(), judged.external.is_empty()) {
            (true, true) => return Err(judged.refusal()),
            (false, _) => (rule, false, judged.inside),
            (true, false) => {
                let question = Question { external: true, ..question };
                (policy.decide(&question).map_err(|denial| denied(&denial))?, true, judged.external)
            }
        };
        self.log_break_glass(rule, caller, &ask);
        Ok(Granted { rule: Arc::clone(rule.name()), external, addresses })
    }

    /// Connects to what was granted.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn connect(
        &self,
        granted: &Granted,
        host: &Host,
        deadline: Instant,
    ) -> Result<(TcpStream, SocketAddr), Failure> {
        let connected = dial::connect(&granted.addresses, &self.networks, deadline).await;
        if connected.is_err() {
            self.resolver.forget(host);
        }
        connected
    }

    /// What `Describe` tells a caller.
    pub fn describe(&self, caller: &Caller) -> DescribeResponse {
        let expires = caller.actor.expires().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let served = self.kubernetes.as_ref().map(|_| "kubernetes");
        DescribeResponse {
            cluster: self.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.iter().copied().chain(served).map(ToOwned::to_owned).collect(),
            trust_anchors: self.shown.anchors().to_vec(),
            actor: caller.actor.to_string(),
            actor_expires: i64::try_from(expires.as_secs()).unwrap_or(i64::MAX),
            kubernetes: self.kubernetes.as_ref().and_then(|api| api.facts().borrow().clone()),
        }
    }

    /// What `Watch` tells when the cluster's capacity has changed.
    pub fn capacity(&self, kubernetes: Option<pb::Kubernetes>) -> pb::Capacity {
        let open = self.metrics.streams_open();
        let streams = u32::try_from(open).unwrap_or(u32::MAX);
        pb::Capacity { streams, streams_limit: self.limits.streams_per_tunnel, kubernetes }
    }

    /// Every use of a break-glass rule is logged (SD-18).
    fn log_break_glass(&self, rule: &Rule, caller: &Caller, ask: &Ask<'_>) {
        let Some(glass) = rule.break_glass() else { return };
        tracing::warn!(
            target: "audit",
            rule = %rule.name(),
            reason = %glass.reason,
            subject = %caller.subject,
            actor = %caller.actor,
            asked = %ask,
            "break-glass rule used"
        );
        super::audit::rule(&self.journal, "break_glass_used", rule.name(), &glass.reason);
    }
}

fn denied(denial: &Denial) -> Failure {
    let code = match denial.why {
        Why::AmbiguousPath => Code::AmbiguousPath,
        Why::SubjectDenied(why) | Why::ActorDenied(why) => denied_code(why),
        Why::Suspended | Why::NoRule => Code::PolicyDenied,
    };
    Failure::before_target(code, denial.to_string())
}

fn denied_code(why: Denied) -> Code {
    match why {
        Denied::Token | Denied::Key => Code::TokenRefused,
        Denied::Subject | Denied::Certificate => Code::PolicyDenied,
    }
}
