//! Which request targets are taken from a relay. Only the origin form, only beneath our hybrid connection, and only what
//! every reader reads alike: a target that a server could take for another host or another path is refused, never
//! mended.
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;
use proto::hybrid::address::segments;

/// Why a target is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadTarget {
    #[error("the target is not a path")]
    Form,
    #[error("the target has a path that can be read in two ways")]
    Ambiguous,
    #[error("the target is not of this hybrid connection")]
    Elsewhere,
}

/// A target that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    /// As it came.
    pub(super) whole: PathAndQuery,
    /// Without the name of the hybrid connection.
    pub(super) below: PathAndQuery,
}

/// Checks a target. `entity` is the path of our hybrid connection, as [`segments`] gives it.
pub(super) fn check(target: &str, entity: &[String]) -> Result<Checked, BadTarget> {
    let is_plain = |byte: u8| (0x21..0x7f).contains(&byte) && !matches!(byte, b'#' | b'\\');
    if !target.starts_with('/') || !target.bytes().all(is_plain) {
        return Err(BadTarget::Form);
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    // Some servers take what is behind a `;` for a parameter, and what is before it for the segment.
    let bare = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    if decoded.split(['/', '\\']).any(|segment| matches!(bare(segment).as_str(), "." | "..")) {
        return Err(BadTarget::Ambiguous);
    }
    if !segments(&path[1..]).starts_with(entity) {
        return Err(BadTarget::Elsewhere);
    }
    let rest = behind(path, entity.len());
    // Both would be read as an authority by some servers.
    if path.starts_with("//") || rest.starts_with("//") {
        return Err(BadTarget::Ambiguous);
    }
    let below = match query {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let parse = |text: &str| text.parse::<PathAndQuery>().map_err(|_| BadTarget::Form);
    let checked = Checked { whole: parse(target)?, below: parse(&below)? };
    // What the parser would leave out was not there.
    if checked.whole.as_str() != target || checked.below.as_str() != below {
        return Err(BadTarget::Form);
    }
    Ok(checked)
}

/// The path behind its first `count` segments; `/` when nothing is there.
fn behind(path: &str, count: usize) -> &str {
    let slash = path.match_indices('/').nth(count).map_or(path.len(), |(at, _)| at);
    if slash == path.len() { "/" } else { &path[slash..] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn below(target: &str, entity: &str) -> Result<String, BadTarget> {
        check(target, &segments(entity)).map(|checked| checked.below.to_string())
    }

    #[test]
    fn a_target_beneath_our_hybrid_connection_is_taken_byte_for_byte() {
        for (target, entity, expected) in [
            ("/hyco", "hyco", "/"),
            ("/hyco/", "hyco", "/"),
            ("/hyco?x=1", "hyco", "/?x=1"),
            ("/hyco/sub/a%2Fb?x=%7B&&y=//z", "hyco", "/sub/a%2Fb?x=%7B&&y=//z"),
            ("/HyCo/Sub", "hyco", "/Sub"),
            ("/%68yco/sub", "hyco", "/sub"),
            ("/a/b/c", "a/b", "/c"),
            ("/hyco/a;p=1/~x/.hidden/...", "hyco", "/a;p=1/~x/.hidden/..."),
        ] {
            assert_eq!(below(target, entity).as_deref(), Ok(expected), "{target}");
        }
        assert_eq!(check("/HyCo/x", &segments("hyco")).unwrap().whole.as_str(), "/HyCo/x");
    }

    #[test]
    fn absolute_forms_other_hosts_other_entities_and_ambiguous_paths_are_refused() {
        for (target, expected) in [
            ("http://169.254.169.254/hyco", BadTarget::Form),
            ("hyco/x", BadTarget::Form),
            ("*", BadTarget::Form),
            ("", BadTarget::Form),
            ("example.com:443", BadTarget::Form),
            ("/hyco/a b", BadTarget::Form),
            ("/hyco/\r\nX-Injected: 1", BadTarget::Form),
            ("/hyco/\0", BadTarget::Form),
            ("/hyco/ü", BadTarget::Form),
            ("/hyco#fragment", BadTarget::Form),
            ("/hyco\\..\\x", BadTarget::Form),
            ("//evil.example/hyco", BadTarget::Elsewhere),
            ("//hyco", BadTarget::Elsewhere),
            ("/hyco//evil.example/x", BadTarget::Ambiguous),
            ("/hyco//", BadTarget::Ambiguous),
            ("/hyco/../other", BadTarget::Ambiguous),
            ("/hyco/%2e%2E/other", BadTarget::Ambiguous),
            ("/hyco/a%2f..%2f..%2fb", BadTarget::Ambiguous),
            ("/hyco/a%5c..%5cb", BadTarget::Ambiguous),
            ("/hyco/.", BadTarget::Ambiguous),
            ("/hyco/..;/other", BadTarget::Ambiguous),
            ("/hyco/%2e%2e;p=1/other", BadTarget::Ambiguous),
            ("/other", BadTarget::Elsewhere),
            ("/hyco2", BadTarget::Elsewhere),
            ("/", BadTarget::Elsewhere),
            ("/?/hyco", BadTarget::Elsewhere),
        ] {
            assert_eq!(below(target, "hyco"), Err(expected), "{target:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_relay_says_the_target_stays_a_path_of_ours(target in "(/hyco|/|//|http://)?[ -~\\r\\n%/.\\\\]{0,40}") {
            if let Ok(checked) = check(&target, &segments("hyco")) {
                let below = checked.below.as_str();
                prop_assert!(below.starts_with('/') && !below.starts_with("//"));
                prop_assert!(target.ends_with(below) || below.starts_with("/?") || below == "/");
                prop_assert!(below.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
            }
        }
    }
}
