//! Target hosts and the patterns that grant them. A host is a DNS name in one canonical spelling, or an address; every
//! other spelling of either is refused, because a resolver would understand more of them than a policy does.

use std::{fmt, net::IpAddr, str::FromStr};

/// Longest name that DNS can carry (RFC 1035 section 2.3.4), without the trailing dot.
const NAME_MAX: usize = 253;

/// Longest label (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;

/// A target's host: lower case, no trailing dot, no IDNA; IPv4-mapped IPv6 is the IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name.
    Name(String),
    /// An address literal, without brackets.
    Address(IpAddr),
}

/// Why a text is no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing, or longer than DNS allows.
    #[error("a host has 1 to 253 characters")]
    Length,
    /// A label is empty, too long, or begins or ends with a hyphen.
    #[error("a label of the host is empty, longer than 63 characters, or begins or ends with a hyphen")]
    Label,
    /// A character that no host name has.
    #[error("a host name has letters, digits, hyphens and underscores only")]
    Character,
    /// Internationalised names are not served.
    #[error("internationalised host names (xn--) are refused")]
    Idna,
    /// `127.1`, `0x7f.0.0.1`, `2130706433` and their kin, which resolvers read as addresses.
    #[error("a host that ends in a number is an address, and must be written as a plain one")]
    NumericSpelling,
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(HostError::Length);
        }
        let mut last = "";
        for label in name.split('.') {
            check_label(label)?;
            last = label;
        }
        if is_numeric(last) {
            return Err(HostError::NumericSpelling);
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn check_label(label: &str) -> Result<(), HostError> {
    if label.is_empty() || label.len() > LABEL_MAX || label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::Label);
    }
    if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return Err(HostError::Character);
    }
    if label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--")) {
        return Err(HostError::Idna);
    }
    Ok(())
}

/// Whether a last label makes resolvers take the whole for an address: digits, or `0x` and hexadecimal digits.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A host pattern of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this address.
    Address(IpAddr),
    /// Names by labels.
    Labels {
        /// A leading `**`: one or more labels before the rest.
        open: bool,
        /// The labels, left to right; `None` is `*`.
        labels: Vec<Option<String>>,
    },
}

/// Why a text is no host pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// Not a host either.
    #[error(transparent)]
    Host(#[from] HostError),
    /// `**` somewhere else than first.
    #[error("`**` stands only at the beginning, as in `**.example.svc`")]
    OpenInside,
    /// `a*` and their kin.
    #[error("`*` stands for a whole label; there are no partial wildcards")]
    Partial,
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        if !text.contains('*') {
            return Ok(match text.parse::<Host>()? {
                Host::Address(address) => Self::Address(address),
                Host::Name(name) => {
                    Self::Labels { open: false, labels: name.split('.').map(|label| Some(label.to_owned())).collect() }
                }
            });
        }
        let mut open = false;
        let mut labels = Vec::new();
        for (index, label) in text.strip_suffix('.').unwrap_or(text).split('.').enumerate() {
            match label {
                "**" if index == 0 => open = true,
                "**" => return Err(HostPatternError::OpenInside),
                "*" => labels.push(None),
                partial if partial.contains('*') => return Err(HostPatternError::Partial),
                literal => {
                    check_label(literal)?;
                    labels.push(Some(literal.to_ascii_lowercase()));
                }
            }
        }
        if labels.last().is_some_and(|last| last.as_deref().is_some_and(is_numeric)) {
            return Err(HostError::NumericSpelling.into());
        }
        Ok(Self::Labels { open, labels })
    }
}

impl HostPattern {
    /// Whether a host is granted by this pattern.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Address(granted), Host::Address(asked)) => granted == asked,
            (Self::Labels { open, labels }, Host::Name(name)) => {
                let mut asked = name.rsplit('.');
                let tail = labels.iter().rev().all(|granted| match (granted, asked.next()) {
                    (Some(granted), Some(asked)) => granted == asked,
                    (None, Some(_)) => true,
                    (_, None) => false,
                });
                // What is left over is what `**` stands for: at least one label, or nothing without it.
                tail && asked.next().is_some() == *open
            }
            _ => false,
        }
    }

    /// Whether some target could be granted by both. An address may stand behind any name, so it overlaps with all.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Address(one), Self::Address(two)) => one == two,
            (Self::Address(_), Self::Labels { .. }) | (Self::Labels { .. }, Self::Address(_)) => true,
            (Self::Labels { open, labels }, Self::Labels { open: other_open, labels: other_labels }) => {
                let lengths_agree = match (open, other_open) {
                    (false, false) => labels.len() == other_labels.len(),
                    (true, false) => other_labels.len() > labels.len(),
                    (false, true) => labels.len() > other_labels.len(),
                    (true, true) => true,
                };
                lengths_agree
                    && labels.iter().rev().zip(other_labels.iter().rev()).all(|pair| match pair {
                        (Some(one), Some(two)) => one == two,
                        _ => true,
                    })
            }
        }
    }

    /// The same, where a name that ends in `.svc` is resolved below `domain`, so that it names the same host as the one
    /// with the domain written out.
    pub fn overlaps_within(&self, other: &Self, domain: Option<&str>) -> bool {
        let (one, two) = (self.spelt_out(domain), other.spelt_out(domain));
        let all = |long: &Option<Self>, short: &Self| [Some(short.clone()), long.clone()].into_iter().flatten();
        all(&one, self).any(|one| all(&two, other).any(|two| one.overlaps(&two)))
    }

    /// What the names of this pattern that end in `svc` are below `domain`.
    fn spelt_out(&self, domain: Option<&str>) -> Option<Self> {
        let (Self::Labels { open, labels }, Some(domain)) = (self, domain) else { return None };
        let (last, before) = labels.split_last()?;
        if last.as_deref().is_some_and(|last| last != "svc") {
            return None;
        }
        let svc = [Some("svc".to_owned())];
        let domain = domain.split('.').map(|label| Some(label.to_owned()));
        Some(Self::Labels { open: *open, labels: before.iter().cloned().chain(svc).chain(domain).collect() })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => Host::Address(*address).fmt(f),
            Self::Labels { open, labels } => {
                let labels = labels.iter().map(|label| label.as_deref().unwrap_or("*"));
                let all: Vec<&str> = open.then_some("**").into_iter().chain(labels).collect();
                f.write_str(&all.join("."))
            }
        }
    }
}
