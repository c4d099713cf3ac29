//! `NO_PROXY`: destinations that are reached without a proxy.
//!
//! Entries are what curl takes: a name covers itself and all names below it, with or without a leading dot; an address
//! covers itself and a CIDR range what lies in it, and neither is compared with what a name resolves to, because behind
//! a proxy names are not ours to resolve; `*` covers everything; `:port` narrows any of them. Loopback is always covered.
use std::net::IpAddr;

use ipnet::IpNet;

/// Most entries. Every dial looks at all of them.
const ENTRIES_MAX: usize = 1024;

/// Destinations without a proxy.
#[derive(Debug, Default)]
pub(super) struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    All,
    /// Lower-case, no dot at either end.
    Name(String),
    Network(IpNet),
}

impl NoProxy {
    /// As a list in a config file: an entry that means nothing is an error.
    pub(super) fn strict(entries: &[String]) -> Result<Self, String> {
        if entries.len() > ENTRIES_MAX {
            return Err(format!("holds more than {ENTRIES_MAX} entries"));
        }
        let parse = |text: &String| {
            Entry::parse(text).ok_or_else(|| {
                format!("{text:?} is no name, address, range (10.0.0.0/8) or `*`, each with or without :port")
            })
        };
        Ok(Self { entries: entries.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// As the variable's text: separated by commas or spaces; entries that mean nothing to us are somebody else's.
    pub(super) fn lenient(text: &str) -> Self {
        let entries = text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        Self { entries: entries.take(ENTRIES_MAX).filter_map(Entry::parse).collect() }
    }

    /// Whether a destination is reached without a proxy. `host` has no brackets.
    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let is_loopback = match address {
            Some(address) => address.is_loopback(),
            None => host == "localhost" || host.ends_with(".localhost"),
        };
        is_loopback || self.entries.iter().any(|entry| entry.covers(&host, address, port))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(what) = network(text) {
            return Some(Self { what, port: None });
        }
        let (text, port) = match text.rsplit_once(':') {
            _ if text.ends_with(']') => (text, None),
            Some((text, port)) => (text, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if text == "*" {
            return Some(Self { what: What::All, port });
        }
        if let Some(what) = network(bare) {
            return Some(Self { what, port });
        }
        let name = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text).trim_end_matches('.');
        let is_name = super::is_host(name) && !name.starts_with('.');
        is_name.then(|| Self { what: What::Name(name.to_ascii_lowercase()), port })
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match &self.what {
            What::All => true,
            What::Name(name) => {
                address.is_none()
                    && host.strip_suffix(name.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
            }
            What::Network(network) => address.is_some_and(|address| network.contains(&address)),
        }
    }
}

/// An address or a CIDR range.
fn network(text: &str) -> Option<What> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.ok().or_else(|| text.parse().ok()).map(What::Network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(list: &str, host: &str, port: u16) -> bool {
        NoProxy::lenient(list).covers(host, port)
    }

    #[test]
    fn a_name_covers_itself_and_what_is_below_it_on_whole_labels() {
        for entry in ["example.com", ".example.com", "*.example.com", "EXAMPLE.com."] {
            assert!(covers(entry, "example.com", 443), "{entry}");
            assert!(covers(entry, "Relay.Example.com", 443), "{entry}");
            assert!(covers(entry, "relay.example.com.", 443), "{entry}");
            assert!(!covers(entry, "badexample.com", 443), "{entry}");
            assert!(!covers(entry, "example.com.evil.net", 443), "{entry}");
            assert!(!covers(entry, "com", 443), "{entry}");
        }
    }

    #[test]
    fn ranges_of_both_families_cover_addresses_and_never_names() {
        let list = "10.0.0.0/8, 192.0.2.7, fd00::/8 ,2001:db8::1";
        for (host, expected) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
            ("::ffff:10.1.2.3", true),
            ("ten.example.com", false),
        ] {
            assert_eq!(covers(list, host, 443), expected, "{host}");
        }
        for (list, host) in [("0.0.0.0/0", "203.0.113.1"), ("::/0", "2001:db8::1")] {
            assert!(covers(list, host, 1), "{list}");
        }
        assert!(!covers("203.0.113.1/32", "203.0.113.2", 1));
        assert!(!covers("0.0.0.0/0", "2001:db8::1", 1));
    }

    #[test]
    fn a_port_narrows_every_kind_of_entry() {
        let list = "relay.example.com:8443,192.0.2.0/24:8443,[2001:db8::1]:8443";
        for host in ["relay.example.com", "192.0.2.9", "2001:db8::1"] {
            assert!(covers(list, host, 8443), "{host}");
            assert!(!covers(list, host, 443), "{host}");
        }
        assert!(covers("*:8443", "any.example", 8443) && !covers("*:8443", "any.example", 443));
        assert!(covers("[2001:db8::2]", "2001:db8::2", 1));
    }

    #[test]
    fn a_star_covers_everything_and_an_empty_list_only_loopback() {
        assert!(covers("*", "relay.example.com", 443) && covers("a.b, *", "192.0.2.1", 1));
        for host in ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(covers("", host, 443), "{host}");
        }
        for host in ["localhost.example.com", "128.0.0.1", "mylocalhost"] {
            assert!(!covers("", host, 443), "{host}");
        }
    }

    #[test]
    fn entries_without_meaning_are_errors_in_a_file_and_skipped_in_the_variable() {
        for entry in
            ["10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "fd00::/129", "a b", "relay:0", "relay:99999", "<local>", "."]
        {
            assert!(NoProxy::strict(&[entry.to_owned()]).is_err(), "{entry}");
        }
        assert!(covers("<local>,10.0.0.0/33,relay.example.com", "relay.example.com", 443));
    }

    #[test]
    fn a_list_has_at_most_its_limit_of_entries() {
        let entries = |count| vec!["relay.example.com".to_owned(); count];
        assert!(NoProxy::strict(&entries(ENTRIES_MAX)).is_ok());
        assert!(NoProxy::strict(&entries(ENTRIES_MAX + 1)).is_err());
        let text = entries(ENTRIES_MAX + 9).join(",");
        assert_eq!(NoProxy::lenient(&text).entries.len(), ENTRIES_MAX);
    }
}
