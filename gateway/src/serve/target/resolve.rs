//! Names to addresses. Names are absolute: no search domain is ever tried. `networks.hosts` answers first, and a name
//! that ends in `.svc` gets the cluster's domain, since that is what such a name means in Kubernetes.

use std::{
    collections::HashMap,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::tunnel::failure::{Code, Failure};
use tokio::{sync::Semaphore, time::Instant};

use crate::{policy::Host, serve::config::Networks};

/// How long an answer is used again: as long as the cluster's own DNS says by default. The system's resolver does not
/// tell us more.
const KEPT: Duration = Duration::from_secs(5);

/// Answers kept; more targets than this at once only cost more lookups.
const KEPT_MAX: usize = 1024;

/// Addresses taken from one answer; a headless service of hundreds of pods needs no more than a few to choose from.
pub const ADDRESSES_MAX: usize = 16;

/// Lookups at once. Each one holds a thread, and a dead DNS server holds them for long.
const LOOKUPS_MAX: usize = 64;

/// Of them for one subject: names that nobody answers for must not keep others from theirs (SD-14).
const LOOKUPS_SHARE: usize = LOOKUPS_MAX / 4;

/// Resolves targets.
#[derive(Debug)]
pub struct Resolver {
    domain: String,
    hosts: HashMap<String, IpAddr>,
    kept: Mutex<HashMap<String, Kept>>,
    lookups: Arc<Semaphore>,
    /// Shares of those who look something up now.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
}

#[derive(Debug, Clone)]
struct Kept {
    at: Instant,
    addresses: Arc<[IpAddr]>,
}

impl Resolver {
    /// A resolver for this network.
    pub fn new(networks: &Networks) -> Self {
        Self {
            domain: networks.domain(),
            hosts: networks.hosts.iter().map(|(name, address)| (name.clone(), *address)).collect(),
            kept: Mutex::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            shares: Mutex::default(),
        }
    }

    /// All addresses of a host, at least one, for this subject. The caller sets the deadline.
    ///
    /// # Errors
    /// `TargetUnresolved`.
    pub async fn resolve(&self, host: &Host, subject: &impl ToString) -> Result<Arc<[IpAddr]>, Failure> {
        let name = match host {
            Host::Address(address) => return Ok(Arc::from([*address])),
            Host::Name(name) => name,
        };
        if let Some(address) = self.hosts.get(name) {
            return Ok(Arc::from([*address]));
        }
        if let Some(addresses) = self.remembered(name) {
            return Ok(addresses);
        }
        let addresses = self.look_up(self.absolute(name), subject.to_string()).await.map_err(|reason| {
            Failure::before_target(Code::TargetUnresolved, format!("{name} does not resolve: {reason}"))
        })?;
        self.remember(name, &addresses);
        Ok(addresses)
    }

    /// Forgets what is remembered of a host, because nothing answered there.
    pub fn forget(&self, host: &Host) {
        if let Host::Name(name) = host {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
    }

    fn absolute(&self, name: &str) -> String {
        if name.ends_with(".svc") { format!("{name}.{}.", self.domain) } else { format!("{name}.") }
    }

    async fn look_up(&self, name: String, subject: String) -> Result<Arc<[IpAddr]>, String> {
        // First one's own share, so that whoever waits for it holds nothing of what others need.
        let share = self.share(subject).acquire_owned().await.map_err(|error| error.to_string())?;
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(|error| error.to_string())?;
        // The permit goes with the thread: a caller that gives up does not free what a dead DNS server holds.
        let looked_up = tokio::task::spawn_blocking(move || {
            let _permits = (share, permit);
            (name.as_str(), 0).to_socket_addrs().map(|found| {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found.map(|address| address.ip().to_canonical()) {
                    if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
                        addresses.push(address);
                    }
                }
                addresses
            })
        });
        match looked_up.await {
            Ok(Ok(addresses)) if addresses.is_empty() => Err("the answer is empty".to_owned()),
            Ok(Ok(addresses)) => Ok(addresses.into()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn share(&self, subject: String) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() >= LOOKUPS_MAX {
            // Nobody waits with these or looks something up.
            shares.retain(|_, share| Arc::strong_count(share) > 1);
        }
        Arc::clone(shares.entry(subject).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS_SHARE))))
    }

    fn remembered(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(name).filter(|kept| kept.at.elapsed() < KEPT).map(|kept| Arc::clone(&kept.addresses))
    }

    fn remember(&self, name: &str, addresses: &Arc<[IpAddr]>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| kept.at.elapsed() < KEPT);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(name.to_owned(), Kept { at: Instant::now(), addresses: Arc::clone(addresses) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn resolver() -> Resolver {
        Resolver::new(
            &serde_saphyr::from_str("domain: Cluster.Local\nhosts: { scorer.models.svc: 10.43.0.9 }").unwrap(),
        )
    }

    #[test]
    fn names_are_asked_for_absolutely() {
        assert_eq!(resolver().absolute("scorer.models.svc"), "scorer.models.svc.cluster.local.");
        assert_eq!(resolver().absolute("api.example.com"), "api.example.com.");
        assert_eq!(resolver().absolute("scorer"), "scorer.");
    }

    #[tokio::test]
    async fn configured_names_and_addresses_need_no_dns() {
        for (host, address) in [("scorer.models.svc", "10.43.0.9"), ("10.42.0.5", "10.42.0.5"), ("fd00::1", "fd00::1")]
        {
            let resolved = resolver().resolve(&host.parse().unwrap(), &"corp/alice").await.unwrap();
            assert_eq!(*resolved, [address.parse::<IpAddr>().unwrap()]);
        }
    }

    #[tokio::test]
    async fn what_does_not_resolve_is_named() {
        // RFC 6761: this top-level domain never resolves.
        let failure = resolver().resolve(&"nothing.invalid".parse().unwrap(), &"corp/alice").await.unwrap_err();
        assert_eq!(failure.code, Code::TargetUnresolved);
        assert!(failure.message.starts_with("nothing.invalid does not resolve"), "{failure}");
    }

    #[tokio::test]
    async fn a_subject_whose_lookups_hang_holds_nobody_else_up() {
        let resolver = resolver();
        let host: Host = "nothing.invalid".parse().unwrap();
        let alices = resolver.share("corp/alice".to_owned());
        let hanging = Arc::clone(&alices).acquire_many_owned(LOOKUPS_SHARE as u32).await.unwrap();
        let mut alice = pin!(resolver.resolve(&host, &"corp/alice"));
        assert!(alice.as_mut().now_or_never().is_none());
        resolver.resolve(&host, &"corp/bob").await.unwrap_err();
        assert!(alice.as_mut().now_or_never().is_none(), "she has nothing left of her share");
        drop(hanging);
        alice.await.unwrap_err();
        for number in 0..10 * LOOKUPS_MAX {
            resolver.share(format!("corp/{number}"));
        }
        assert!(resolver.shares.lock().unwrap().len() <= LOOKUPS_MAX + 1, "shares of nobody are forgotten");
    }

    #[test]
    fn no_more_answers_are_kept_than_allowed() {
        let resolver = resolver();
        let addresses: Arc<[IpAddr]> = Arc::from([IpAddr::from([10, 0, 0, 1])]);
        for number in 0..KEPT_MAX + 10 {
            resolver.remember(&format!("n{number}.svc"), &addresses);
        }
        assert_eq!(resolver.kept.lock().unwrap().len(), KEPT_MAX);
        resolver.forget(&Host::Name("n0.svc".to_owned()));
        assert!(resolver.remembered("n0.svc").is_none());
    }
}
