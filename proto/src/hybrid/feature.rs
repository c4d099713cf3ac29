//! What a relay of ours can do beyond the protocol, told in the answer to a listen handshake. A listener uses nothing
//! that is not named there: other relays would not understand it.
use http::HeaderMap;

/// Header of the answer: names, separated by commas.
pub const HEADER: &str = "Causeway-Features";

/// In a `response`, several fields of one name may be an array.
pub const HEADER_LISTS: &str = "header-lists";

/// The relay understands `drain` on a control channel, and says it back: behind that nothing new comes, and what is
/// pending may be finished.
pub const DRAIN: &str = "drain";

/// Everything that a relay of this version can do.
pub const ALL: &str = "header-lists, drain";

/// Whether a head names a feature.
pub fn listed(headers: &HeaderMap) -> impl Fn(&str) -> bool + use<'_> {
    |feature| {
        let values = headers.get_all(HEADER).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(feature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_found_wherever_they_are_named() {
        let mut headers = HeaderMap::new();
        assert!(!listed(&headers)(DRAIN));
        headers.append(HEADER, "other, header-lists".parse().unwrap());
        headers.append(HEADER, "Drain".parse().unwrap());
        let listed = listed(&headers);
        assert!(listed(DRAIN) && listed(HEADER_LISTS) && !listed("header"));
        assert_eq!(ALL, [HEADER_LISTS, DRAIN].join(", "));
    }
}
