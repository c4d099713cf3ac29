//! Hosts, host patterns, paths and path patterns.

use proptest::prelude::*;

use crate::policy::{
    host::{Host, HostError, HostPattern, HostPatternError},
    path::{Ambiguity, PathPattern, check},
};

#[test]
fn hosts_have_one_spelling() {
    for (text, expected) in [
        ("Scorer.Models.SVC.", Ok("scorer.models.svc")),
        ("scorer", Ok("scorer")),
        ("a_b.c-d", Ok("a_b.c-d")),
        ("10.42.0.5", Ok("10.42.0.5")),
        ("::ffff:10.42.0.5", Ok("10.42.0.5")),
        ("2001:db8::1", Ok("[2001:db8::1]")),
        ("", Err(HostError::Length)),
        (".", Err(HostError::Length)),
        ("a..b", Err(HostError::Label)),
        ("-a.b", Err(HostError::Label)),
        ("a b", Err(HostError::Character)),
        ("a/b", Err(HostError::Character)),
        ("a%00", Err(HostError::Character)),
        ("[::1]", Err(HostError::Character)),
        ("münchen.de", Err(HostError::Character)),
        ("XN--mnchen-3ya.de", Err(HostError::Idna)),
        ("127.1", Err(HostError::NumericSpelling)),
        ("2130706433", Err(HostError::NumericSpelling)),
        ("0x7f.0.0.1", Err(HostError::NumericSpelling)),
        ("127.0.0.1.", Err(HostError::NumericSpelling)),
        ("1.2.3.0x4", Err(HostError::NumericSpelling)),
    ] {
        let parsed = text.parse::<Host>();
        assert_eq!(parsed.map(|host| host.to_string()), expected.map(str::to_owned), "{text}");
    }
    let long_label = "a".repeat(64);
    assert_eq!(long_label.parse::<Host>(), Err(HostError::Label));
    let long_name = vec!["abcdefgh"; 29].join(".");
    assert_eq!(long_name.parse::<Host>(), Err(HostError::Length));
}

#[test]
fn host_patterns_match_whole_labels() {
    for (pattern, host, matches) in [
        ("scorer.models.svc", "scorer.models.svc", true),
        ("scorer.models.svc", "SCORER.models.svc.", true),
        ("scorer.models.svc", "xscorer.models.svc", false),
        ("scorer.models.svc", "models.svc", false),
        ("*.models.svc", "scorer.models.svc", true),
        ("*.models.svc", "a.b.models.svc", false),
        ("*.models.svc", "models.svc", false),
        ("*.models.svc", "scorer.models.svc.evil.com", false),
        ("scorer.*.svc", "scorer.models.svc", true),
        ("scorer.*.svc", "scorer.svc", false),
        ("**.svc", "scorer.models.svc", true),
        ("**.svc", "models.svc", true),
        ("**.svc", "svc", false),
        ("**", "anything.at.all", true),
        ("**", "10.0.0.1", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "::ffff:10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
    ] {
        let host: Host = host.parse().unwrap();
        assert_eq!(pattern.parse::<HostPattern>().unwrap().matches(&host), matches, "{pattern} {host}");
    }
}

#[test]
fn host_patterns_have_no_partial_wildcards() {
    assert_eq!("a*.svc".parse::<HostPattern>(), Err(HostPatternError::Partial));
    assert_eq!("***.svc".parse::<HostPattern>(), Err(HostPatternError::Partial));
    assert_eq!("a.**.svc".parse::<HostPattern>(), Err(HostPatternError::OpenInside));
    assert!("*.0x1".parse::<HostPattern>().is_err());
    assert!("".parse::<HostPattern>().is_err());
}

#[test]
fn ambiguous_paths_are_found() {
    use Ambiguity::{Backslash, BrokenEscape, DotSegment, EmptySegment, EncodedDelimiter, NotAscii, Parameter};
    for (path, expected) in [
        ("/", Ok(())),
        ("/v1/x", Ok(())),
        ("/v1/", Ok(())),
        ("/v1/...", Ok(())),
        ("/v1/.well-known", Ok(())),
        ("/a%20b", Ok(())),
        ("/.", Err(DotSegment)),
        ("/a/../b", Err(DotSegment)),
        ("/a/%2e%2E/b", Err(DotSegment)),
        ("/a/.%2e", Err(DotSegment)),
        ("//a", Err(EmptySegment)),
        ("/a//b", Err(EmptySegment)),
        ("/a\\b", Err(Backslash)),
        ("/a%2fb", Err(EncodedDelimiter)),
        ("/a%5Cb", Err(EncodedDelimiter)),
        ("/a%00", Err(EncodedDelimiter)),
        ("/a%0d%0a", Err(EncodedDelimiter)),
        ("/a%252e", Err(EncodedDelimiter)),
        ("/a%", Err(BrokenEscape)),
        ("/a%2", Err(BrokenEscape)),
        ("/a%zz", Err(BrokenEscape)),
        ("/a;b=c", Err(Parameter)),
        ("/a%3Bb", Err(Parameter)),
        ("/ä", Err(NotAscii)),
        ("/%c0%ae", Err(NotAscii)),
    ] {
        assert_eq!(check(path), expected, "{path}");
    }
}

#[test]
fn path_patterns_match_whole_segments() {
    for (pattern, path, matches) in [
        ("/score", "/score", true),
        ("/score", "/score/", false),
        ("/score", "/scorer", false),
        ("/v1/**", "/v1/x/y", true),
        ("/v1/**", "/v1/", true),
        ("/v1/**", "/v1", false),
        ("/v1/**", "/v10/x", false),
        ("/v1/*/read", "/v1/x/read", true),
        ("/v1/*/read", "/v1/x/y/read", false),
        ("/v1/*", "/v1/", false),
        ("/", "/", true),
        ("/**", "/anything/at/all", true),
    ] {
        assert_eq!(pattern.parse::<PathPattern>().unwrap().matches(path), matches, "{pattern} {path}");
    }
    for bad in ["v1", "/v1?x", "/v*", "/**/x", "/a/../b", "/a;b", ""] {
        assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,2}", Just("svc".to_owned())]
}

fn pattern_text() -> impl Strategy<Value = String> {
    let labels = prop::collection::vec(prop_oneof![3 => label(), 1 => Just("*".to_owned())], 1..4);
    (any::<bool>(), labels).prop_map(|(open, labels)| format!("{}{}", if open { "**." } else { "" }, labels.join(".")))
}

proptest! {
    #[test]
    fn whatever_two_patterns_both_match_they_overlap_on(
        one in pattern_text(), two in pattern_text(), name in prop::collection::vec(label(), 1..5)
    ) {
        let (one, two): (HostPattern, HostPattern) = (one.parse().unwrap(), two.parse().unwrap());
        let host: Host = name.join(".").parse().unwrap();
        prop_assert_eq!(one.overlaps(&two), two.overlaps(&one));
        if one.matches(&host) && two.matches(&host) {
            prop_assert!(one.overlaps(&two));
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,80}") {
        let _ = text.parse::<Host>();
        let _ = text.parse::<HostPattern>();
        let _ = text.parse::<PathPattern>();
        let _ = check(&text);
    }

    #[test]
    fn a_path_that_passes_means_the_same_after_decoding_and_resolving(path in "(/[a-z%.0-9;\\\\]{0,6}){1,4}") {
        if check(&path).is_ok() {
            let decoded = percent_encoding::percent_decode_str(&path).decode_utf8().unwrap().into_owned();
            let base = url::Url::parse("http://host/").unwrap();
            let resolved = base.join(&decoded).unwrap();
            prop_assert_eq!(resolved.path().split('/').count(), path.split('/').count());
        }
    }
}
