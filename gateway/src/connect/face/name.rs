//! Names that clients of the proxy faces use: `service.namespace.cluster`, and whatever a gateway resolves before the
//! cluster's name, such as `service.namespace.svc.cluster`. What names no cluster goes to the face's own, if it has one.
use std::{net::IpAddr, sync::Arc};

use proto::tunnel::failure::{Code, Failure};

use crate::connect::{clusters::Clusters, target::Target};

/// What the gateway's resolver wants behind service and namespace.
const SERVICES: &str = "svc";

/// The target that a client names.
///
/// # Errors
/// It names no cluster where it must, or is no name of a target at all.
pub(super) fn target(
    clusters: &Clusters,
    default: Option<&Arc<str>>,
    host: &str,
    port: u16,
) -> Result<Arc<Target>, Failure> {
    let invalid = |text: String| Failure::before_target(Code::InvalidRequest, text);
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    let (host, cluster) = if let Ok(address) = address.parse::<IpAddr>() {
        let cluster = default.ok_or_else(|| {
            invalid("an address names no cluster: use service.namespace.cluster, or set the face's `to`".to_owned())
        })?;
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        (host, Arc::clone(cluster))
    } else if let Some((name, cluster)) = clusters.split(&host) {
        let host = match name.split('.').count() {
            1 => return Err(invalid(format!("`{name}` needs its namespace: use service.namespace.{cluster}"))),
            2 => format!("{name}.{SERVICES}"),
            _ => name.to_owned(),
        };
        (host, cluster)
    } else {
        let cluster = default.ok_or_else(|| {
            invalid("the name ends with no cluster that is configured: use service.namespace.cluster".to_owned())
        })?;
        (host.clone(), Arc::clone(cluster))
    };
    let target = Target::within(&cluster, &format!("{host}:{port}"));
    target.map(Arc::new).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::{
        metrics::{ClusterMetrics, ConnectMetrics},
        tunnels::Tunnels,
    };

    fn name(default: Option<&str>, host: &str) -> Result<String, String> {
        let known = ["factory-a", "eu.factory-a"].map(|name| Tunnels::new(name.into(), 1, ClusterMetrics::default()));
        let clusters = Clusters::new(known, ConnectMetrics::default());
        let default = default.map(Arc::from);
        target(&clusters, default.as_ref(), host, 80).map(|target| target.to_string()).map_err(|error| error.message)
    }

    #[test]
    fn the_last_labels_name_the_cluster() {
        for (host, expected) in [
            ("scorer.models.factory-a", "factory-a/scorer.models.svc:80"),
            ("Scorer.Models.Factory-A.", "factory-a/scorer.models.svc:80"),
            ("scorer.models.svc.factory-a", "factory-a/scorer.models.svc:80"),
            ("scorer.models.svc.cluster.local.factory-a", "factory-a/scorer.models.svc.cluster.local:80"),
            ("db-0.db.models.svc.factory-a", "factory-a/db-0.db.models.svc:80"),
            ("scorer.models.eu.factory-a", "eu.factory-a/scorer.models.svc:80"),
        ] {
            assert_eq!(name(None, host).as_deref(), Ok(expected), "{host}");
            assert_eq!(name(Some("factory-a"), host).as_deref(), Ok(expected), "{host}");
        }
    }

    #[test]
    fn what_names_no_cluster_needs_a_default() {
        for (host, expected) in [
            ("scorer.models.svc", "factory-a/scorer.models.svc:80"),
            ("10.0.0.7", "factory-a/10.0.0.7:80"),
            ("fd00::7", "factory-a/[fd00::7]:80"),
            ("[fd00::7]", "factory-a/[fd00::7]:80"),
        ] {
            assert!(name(None, host).is_err(), "{host}");
            assert_eq!(name(Some("factory-a"), host).as_deref(), Ok(expected), "{host}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_whatever_the_default() {
        for host in
            ["", ".", "scorer.factory-a", "a..factory-a", "..", "user@scorer.models.factory-a", "a b.c.factory-a"]
        {
            assert!(name(Some("factory-a"), host).is_err(), "{host}");
        }
        let known = [Tunnels::new("a".into(), 1, ClusterMetrics::default())];
        let clusters = Clusters::new(known, ConnectMetrics::default());
        assert!(target(&clusters, None, "x.y.a", 0).is_err());
    }
}
