//! Where the streams of a face lead: to one target, by host name and path, or wherever the client says.
use std::{fmt, sync::Arc};

use http::{HeaderMap, Uri, header};

use super::guard;
use crate::connect::{
    config::{FaceConfig, RouteConfig, begins},
    target::{Target, To},
};

/// Where a face leads.
#[derive(Debug)]
pub(super) enum Wiring {
    /// All to one target.
    One(Arc<Target>),
    /// By host name and path: the first that fits.
    Routes(Vec<Route>),
    /// The client says; what does not name a cluster goes to this one, if any.
    Named(Option<Arc<str>>),
}

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    /// In the form in which hosts are compared.
    host: Option<String>,
    path: Option<String>,
    bulk: bool,
    target: Arc<Target>,
}

impl Wiring {
    pub(super) fn of(config: &FaceConfig) -> Self {
        match &config.to {
            _ if !config.routes.is_empty() => Self::Routes(config.routes.iter().map(Route::of).collect()),
            Some(To::Target(target)) => Self::One(Arc::new(target.clone())),
            Some(To::Cluster(cluster)) if config.kubernetes.is_some() => Self::One(Arc::new(Target::api(cluster))),
            Some(To::Cluster(cluster)) => Self::Named(Some(Arc::clone(cluster))),
            None => Self::Named(None),
        }
    }

    /// The target of an HTTP request that has one Host, and whether its route is for bulk.
    pub(super) fn target(&self, uri: &Uri, fields: &HeaderMap) -> Option<(Arc<Target>, bool)> {
        match self {
            Self::One(target) => Some((Arc::clone(target), false)),
            Self::Routes(routes) => {
                let host = fields.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(guard::parse);
                let host = host.as_ref().map_or("", |(host, _)| host);
                let route = routes.iter().find(|route| route.takes(host, uri.path()));
                route.map(|route| (Arc::clone(&route.target), route.bulk))
            }
            Self::Named(_) => None,
        }
    }

    /// Where names go that name no cluster.
    pub(super) fn default(&self) -> Option<&Arc<str>> {
        match self {
            Self::Named(default) => default.as_ref(),
            Self::One(_) | Self::Routes(_) => None,
        }
    }

    /// The clusters that it leads to; none if any may be named.
    pub(super) fn clusters(&self) -> Vec<Arc<str>> {
        match self {
            Self::One(target) => vec![Arc::clone(&target.cluster)],
            Self::Routes(routes) => routes.iter().map(|route| Arc::clone(&route.target.cluster)).collect(),
            Self::Named(default) => default.iter().cloned().collect(),
        }
    }

    /// The one target there is.
    pub(super) fn only(&self) -> Option<Arc<Target>> {
        match self {
            Self::One(target) => Some(Arc::clone(target)),
            Self::Routes(_) | Self::Named(_) => None,
        }
    }
}

impl Route {
    fn of(config: &RouteConfig) -> Self {
        let host = config.host.as_deref().and_then(guard::parse).map(|(host, _)| host);
        Self { host, path: config.path.clone(), bulk: config.bulk, target: Arc::new(config.to.clone()) }
    }

    fn takes(&self, host: &str, path: &str) -> bool {
        self.host.as_deref().is_none_or(|wanted| wanted == host)
            && self.path.as_deref().is_none_or(|prefix| begins(path, prefix))
    }
}

impl fmt::Display for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(target) => target.fmt(f),
            Self::Routes(routes) => write!(f, "{} routes", routes.len()),
            Self::Named(Some(cluster)) => write!(f, "{cluster} and names of clusters"),
            Self::Named(None) => f.write_str("names of clusters"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn wiring(routes: &str) -> Wiring {
        let text = format!("{{ http: 127.0.0.1:0, routes: [{routes}] }}");
        Wiring::of(&serde_saphyr::from_str::<FaceConfig>(&text).unwrap())
    }

    fn target(wiring: &Wiring, host: &'static str, uri: &'static str) -> Option<String> {
        let fields = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
        wiring.target(&Uri::from_static(uri), &fields).map(|(target, _)| target.to_string())
    }

    #[test]
    fn the_first_route_that_fits_counts() {
        let wiring = wiring(
            "{ host: A.local, path: /v1, to: a/one:1 }, { host: a.local, to: a/two:2 }, \
             { path: /v1, to: b/three:3 }",
        );
        for (host, uri, expected) in [
            ("a.local:8080", "/v1/x?y", Some("a/one:1")),
            ("A.LOCAL.", "/v1", Some("a/one:1")),
            ("a.local", "/v1x", Some("a/two:2")),
            ("a.local", "http://a.local/v1/x", Some("a/one:1")),
            ("b.local", "/v1/x", Some("b/three:3")),
            ("b.local", "/v2", None),
        ] {
            assert_eq!(target(&wiring, host, uri).as_deref(), expected, "{host} {uri}");
        }
    }

    #[test]
    fn a_route_says_whether_it_is_for_bulk() {
        let wiring = wiring("{ path: /models, to: a/store:1, bulk: true }, { to: a/store:1 }");
        let fields = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("a.local"))]);
        for (uri, bulk) in [("/models/large", true), ("/health", false)] {
            assert_eq!(wiring.target(&Uri::from_static(uri), &fields).unwrap().1, bulk, "{uri}");
        }
    }
}
