//! What a face of `connector.yaml` must be, so that it can work and is open to nobody by mistake.
use super::{FaceConfig, FaceKind, LoginConfig, Place, Problem, RouteConfig, Speaks, problem};
use crate::connect::{face::guard, target::To};

/// Longest user name and password (RFC 1929: one byte of length).
const LOGIN_MAX: usize = 255;

impl FaceConfig {
    pub(super) fn validate(&self, key: &str) -> Result<(FaceKind, &Place), Problem> {
        let Some((kind, place)) = self.place() else {
            let known = FaceKind::ALL.iter().map(|kind| format!("`{}: <place>`", kind.name())).collect::<Vec<_>>();
            return Err(problem(key, format!("a face is exactly one of {}", known.join(", "))));
        };
        self.validate_leads(key, kind)?;
        self.validate_speaks(key, kind)?;
        if matches!(kind, FaceKind::Socks5 | FaceKind::Connect) && !self.hosts.is_empty() {
            return Err(problem(
                format!("{key}.hosts"),
                "only an http, kubernetes or tcp face checks `Host`: remove it",
            ));
        }
        if kind == FaceKind::Kubernetes && place.port().is_none() {
            return Err(problem(
                format!("{key}.kubernetes"),
                format!("{place}: clients of Kubernetes know no Unix sockets: write an address and a port"),
            ));
        }
        if let Some((index, host)) = self.hosts.iter().enumerate().find(|(_, host)| guard::parse(host).is_none()) {
            return Err(problem(
                format!("{key}.hosts[{index}]"),
                format!("`{host}` is no value of Host: write a host name or address, with or without `:<port>`"),
            ));
        }
        if kind != FaceKind::Http && !self.origins.is_empty() {
            return Err(problem(format!("{key}.origins"), "only an http face serves web pages: remove it"));
        }
        if let Some((index, origin)) = self.origins.iter().enumerate().find(|(_, text)| !guard::is_origin(text)) {
            return Err(problem(
                format!("{key}.origins[{index}]"),
                format!("`{origin}` is no origin: write https://<host>[:<port>] without a path, or `self`"),
            ));
        }
        if kind != FaceKind::Tcp && self.allow_http {
            return Err(problem(format!("{key}.allow_http"), "only a tcp face has this key: remove it"));
        }
        if self.shared && place.port().is_none_or(|address| address.port() == 0) {
            return Err(problem(
                format!("{key}.shared"),
                "only a port that the file names can be shared with another connector: remove it",
            ));
        }
        self.login.iter().try_for_each(|login| login.validate(&format!("{key}.login")))?;
        if !place.is_private() && !self.open_to_network && self.login.is_none() {
            let or = match kind {
                FaceKind::Socks5 | FaceKind::Connect => "add `login:`, or ",
                FaceKind::Http | FaceKind::Tcp | FaceKind::Kubernetes | FaceKind::Grpc => "",
            };
            return Err(problem(
                format!("{key}.{}", kind.name()),
                format!(
                    "{place} is reachable from the network, and this face asks nobody who they are: bind 127.0.0.1, \
                     [::1] or unix:<path>, {or}write `open_to_network: true` if that is meant"
                ),
            ));
        }
        Ok((kind, place))
    }

    fn validate_leads(&self, key: &str, kind: FaceKind) -> Result<(), Problem> {
        if kind != FaceKind::Http && !self.routes.is_empty() {
            return Err(problem(format!("{key}.routes"), "only an http face has routes: remove them"));
        }
        match (kind, &self.to) {
            (FaceKind::Http, Some(_)) if !self.routes.is_empty() => {
                return Err(problem(
                    format!("{key}.routes"),
                    "an http face has either `to:` or `routes:`; a route without `host` and `path` takes every request",
                ));
            }
            (FaceKind::Http, None) if !self.routes.is_empty() => {}
            (FaceKind::Http | FaceKind::Tcp, Some(To::Target(_))) => {}
            (FaceKind::Http | FaceKind::Tcp, to) => {
                let at = if to.is_some() { format!("{key}.to") } else { key.to_owned() };
                return Err(problem(
                    at,
                    format!(
                        "{} face leads to one target: write `to: <cluster>/<host>:<port>`{}",
                        if kind == FaceKind::Http { "an http" } else { "a tcp" },
                        if kind == FaceKind::Http { ", or `routes:`" } else { "" }
                    ),
                ));
            }
            (FaceKind::Kubernetes, Some(To::Cluster(_))) => {}
            (FaceKind::Kubernetes, _) => {
                return Err(problem(
                    format!("{key}.to"),
                    "a kubernetes face leads to the API server of one cluster: write `to: <cluster>`",
                ));
            }
            (FaceKind::Grpc, Some(To::Cluster(_))) => {}
            (FaceKind::Grpc, _) => {
                return Err(problem(
                    format!("{key}.to"),
                    "calls at a grpc face name the target themselves: write `to: <cluster>`",
                ));
            }
            (FaceKind::Socks5 | FaceKind::Connect, None | Some(To::Cluster(_))) => {}
            (FaceKind::Socks5 | FaceKind::Connect, Some(To::Target(_))) => {
                return Err(problem(
                    format!("{key}.to"),
                    format!("clients of a {} face name the target themselves: write a cluster alone", kind.name()),
                ));
            }
        }
        for (index, route) in self.routes.iter().enumerate() {
            let at = format!("{key}.routes[{index}]");
            route.validate(&at)?;
            if let Some(before) = self.routes[..index].iter().position(|before| before.covers(route)) {
                return Err(problem(at, format!("is never reached: routes[{before}] takes all of its requests")));
            }
        }
        Ok(())
    }

    fn validate_speaks(&self, key: &str, kind: FaceKind) -> Result<(), Problem> {
        let caller = self.speaks() == Speaks::Caller;
        if caller && matches!(kind, FaceKind::Tcp | FaceKind::Socks5) {
            return Err(problem(
                format!("{key}.as"),
                format!(
                    "a {} face cannot carry a caller's token: write `as: connector`, or use an http or connect face",
                    kind.name()
                ),
            ));
        }
        if self.login.is_some() && !matches!(kind, FaceKind::Socks5 | FaceKind::Connect) {
            return Err(problem(format!("{key}.login"), "only a socks5 or connect face asks for a login: remove it"));
        }
        if self.login.is_some() && caller {
            return Err(problem(
                format!("{key}.login"),
                "with `as: caller`, `Proxy-Authorization` holds the caller's token: remove the login",
            ));
        }
        Ok(())
    }
}

impl RouteConfig {
    fn validate(&self, key: &str) -> Result<(), Problem> {
        if let Some(host) = &self.host
            && !matches!(guard::parse(host), Some((_, None)))
        {
            return Err(problem(
                format!("{key}.host"),
                format!("`{host}` is no host name; a port does not belong here"),
            ));
        }
        let plain = |path: &str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(path) = self.path.as_ref().filter(|path| !plain(path) || path.contains(['?', '#'])) {
            return Err(problem(
                format!("{key}.path"),
                format!("`{path}` is no path: it begins with `/`, without query"),
            ));
        }
        Ok(())
    }

    /// Whether every request of `other` is one of ours.
    fn covers(&self, other: &Self) -> bool {
        let host = |route: &Self| route.host.as_deref().and_then(guard::parse).map(|(host, _)| host);
        let hosts = self.host.is_none() || host(self) == host(other);
        hosts && self.path.as_ref().is_none_or(|path| other.path.as_deref().is_some_and(|inner| begins(inner, path)))
    }
}

/// Whether a path lies at or below another, in whole segments.
pub(in crate::connect) fn begins(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl LoginConfig {
    fn validate(&self, key: &str) -> Result<(), Problem> {
        if self.user.is_empty() || self.user.len() > LOGIN_MAX || self.user.contains(':') {
            let text = format!("a user name has 1 to {LOGIN_MAX} bytes, and no colon");
            return Err(problem(format!("{key}.user"), text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::begins;

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        for (path, prefix, expected) in [
            ("/v1", "/v1", true),
            ("/v1/x", "/v1", true),
            ("/v1/x", "/v1/", true),
            ("/v1", "/v1/", true),
            ("/v1x", "/v1", false),
            ("/v", "/v1", false),
            ("/anything", "/", true),
            ("/", "/", true),
        ] {
            assert_eq!(begins(path, prefix), expected, "{path} below {prefix}");
        }
    }
}
