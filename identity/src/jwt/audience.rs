//! Whether an audience is the one that an authenticator names: letter by letter, with one exception.
//!
//! `https://host` and `https://host/` are one origin (RFC 3986, section 6.2.3), but issuers copy what was asked for. Azure's
//! clients ask for the scope `https://relay.azure.net//.default`, so what comes back may end in no slash, in one or in
//! two. An audience that is an https origin is therefore compared without the slashes at its end. Anything with a path,
//! a query or another scheme is exact.

/// Compares a claim with what the configuration says.
pub(super) fn is_same(claimed: &str, wanted: &str) -> bool {
    claimed == wanted || origin(wanted).is_some_and(|wanted| origin(claimed) == Some(wanted))
}

/// An https origin without slashes at its end.
fn origin(audience: &str) -> Option<&str> {
    const SCHEME: &str = "https://";
    let host = audience.strip_prefix(SCHEME)?.trim_end_matches('/');
    let is_host = !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\']);
    is_host.then(|| &audience[..SCHEME.len() + host.len()])
}

#[cfg(test)]
mod tests {
    use super::is_same;

    const RELAY: [&str; 3] = ["https://relay.azure.net", "https://relay.azure.net/", "https://relay.azure.net//"];

    #[test]
    fn an_https_origin_is_the_same_with_and_without_slashes_at_its_end() {
        for wanted in RELAY {
            for claimed in RELAY {
                assert!(is_same(claimed, wanted), "{claimed} for {wanted}");
            }
        }
    }

    #[test]
    fn everything_else_is_compared_letter_by_letter() {
        for (claimed, wanted) in [
            ("https://relay.azure.net.evil.example", RELAY[0]),
            ("https://relay.azure.net/other", RELAY[0]),
            ("https://relay.azure.net", "https://relay.azure.net/other"),
            ("https://host/path/", "https://host/path"),
            ("https://relay.azure.net?x", RELAY[0]),
            ("https://evil@relay.azure.net", RELAY[0]),
            ("http://relay.azure.net/", "http://relay.azure.net"),
            ("https://Relay.azure.net", RELAY[0]),
            ("https://", "https:///"),
            ("causeway://factory-a/", "causeway://factory-a"),
            ("api://x/", "api://x"),
            ("", RELAY[0]),
        ] {
            assert!(!is_same(claimed, wanted), "{claimed} for {wanted}");
        }
    }
}
