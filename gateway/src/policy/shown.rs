//! A rule in one line, for whoever reads what a reload has changed.

use std::fmt;

use super::{
    file::Upgrade,
    host::HostPattern,
    rule::{Grant, PartyMatch, Rule},
};

impl fmt::Display for Rule {
    /// `scoring: entra/alice may http GET,POST *.models.svc:80 /v1/**`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match (&self.subject, &self.actor) {
            (Some(subject), Some(actor)) => write!(f, "{subject} through {actor}")?,
            (Some(subject), None) => subject.fmt(f)?,
            (None, Some(actor)) => write!(f, "anybody through {actor}")?,
            (None, None) => f.write_str("nobody")?,
        }
        write!(f, " may {}", self.grant)?;
        if self.external {
            f.write_str(", also outside of the cluster")?;
        }
        match &self.break_glass {
            Some(glass) => write!(f, ", until {}: {}", glass.time(), glass.reason),
            None => Ok(()),
        }
    }
}

impl fmt::Display for PartyMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let everyone = self.everyone.then(|| "*".to_owned());
        let groups = self.groups.iter().map(|group| format!("group:{group}"));
        let who: Vec<String> = everyone.into_iter().chain(self.subjects.iter().cloned()).chain(groups).collect();
        write!(f, "{}/{}", self.authenticator, one_or_several(&who))?;
        for (claim, values) in &self.claims {
            write!(f, " with {claim}={}", one_or_several(values))?;
        }
        Ok(())
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { hosts, ports, methods, paths, upgrade } => {
                let methods = if methods.is_empty() { "any method".to_owned() } else { methods.join(",") };
                write!(f, "http {methods} {}", places(hosts, ports))?;
                if !paths.is_empty() {
                    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
                    write!(f, " {}", one_or_several(&paths))?;
                }
                if !upgrade.is_empty() {
                    let names: Vec<&str> = upgrade.iter().copied().map(Upgrade::name).collect();
                    write!(f, ", upgrade to {}", names.join(","))?;
                }
                Ok(())
            }
            Self::Tcp { hosts, ports, bypasses_http } => {
                write!(f, "tcp {}", places(hosts, ports))?;
                if *bypasses_http { f.write_str(", past the limits of http rules") } else { Ok(()) }
            }
            Self::Unix { names } => write!(f, "unix {}", one_or_several(names)),
            Self::Kubernetes(grant) => grant.fmt(f),
            Self::Describe => f.write_str("describe"),
        }
    }
}

fn places(hosts: &[HostPattern], ports: &[u16]) -> String {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("{}:{}", one_or_several(&hosts), one_or_several(&ports))
}

fn one_or_several(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        several => format!("{{{}}}", several.join(",")),
    }
}
