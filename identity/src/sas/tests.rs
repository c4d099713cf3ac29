//! Claims about shared access signatures. The golden tokens were made with Python's `hmac`, not with this code.
use super::*;

const KEY: &str = "p4rS1dIE3xVvSt1ZbW3oqv4h5G2T9wM7u8Xk0yZaBcE=";
const OTHER_KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIKq1mJ2Kx8yQ0Zb3Wc4=";
const HOST: &str = "relay.example.com";
const END: u64 = 1_800_000_000;
/// Upper-case escapes.
const GOLDEN: &str = "SharedAccessSignature sr=http%3A%2F%2Frelay.example.com%2Ffactory-a\
    &sig=k5wawBgshLMGZt8YNMgPh69MArlJfTYEOUklqpB6xr8%3D&se=1800000000&skn=send";
/// The same resource with lower-case escapes has another signature.
const GOLDEN_LOWER: &str = "SharedAccessSignature sr=http%3a%2f%2frelay.example.com%2ffactory-a\
    &sig=AJiCO%2Fq7xdGC95XgvLmZOMCfNby0B2Ovu5kBa%2FuozUI%3D&se=1800000000&skn=send";
/// What the Java client signs: `sb://host` without a path.
const GOLDEN_HOST_ONLY: &str = "SharedAccessSignature sr=sb%3A%2F%2Frelay.example.com\
    &sig=6YW0hHghMH50wcU%2FqQU2cgMhLv4Xu4k3lMAFc%2FKLp5o%3D&se=1800000000&skn=send";

fn rule(name: &str, keys: &[&str]) -> Rule {
    Rule {
        name: name.to_owned(),
        rights: Rights { send: true, ..Rights::default() },
        keys: keys.iter().map(|key| Secret::new(*key)).collect(),
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn check(token: &str, path: &str) -> Result<Verified, SasError> {
    verify(token, &[&rule("send", &[KEY])], HOST, path, at(END - 60), Duration::ZERO)
}

fn minted(resource: &str) -> String {
    mint(resource, "send", &Secret::new(KEY), at(END)).expose().to_owned()
}

#[test]
fn minting_gives_the_golden_bytes() {
    assert_eq!(minted("http://relay.example.com/factory-a"), GOLDEN);
    assert_eq!(minted("sb://relay.example.com"), GOLDEN_HOST_ONLY);
}

#[test]
fn golden_tokens_verify_whatever_case_their_escapes_have() {
    for token in [GOLDEN, GOLDEN_LOWER, GOLDEN_HOST_ONLY] {
        let verified = check(token, "factory-a").unwrap();
        assert_eq!((verified.rule.as_str(), verified.expires), ("send", at(END)));
        assert!(verified.rights.send && !verified.rights.listen);
    }
}

#[test]
fn escapes_recoded_after_signing_are_refused() {
    assert_eq!(check(&GOLDEN.replace("%2F", "%2f"), "factory-a"), Err(SasError::Signature));
}

#[test]
fn fields_come_in_any_order_and_the_scheme_in_any_case() {
    let (scheme, fields) = GOLDEN.split_once(' ').unwrap();
    let mut fields: Vec<_> = fields.split('&').collect();
    for _ in 0..fields.len() {
        fields.rotate_left(1);
        check(&format!("{scheme} {}", fields.join("&")), "factory-a").unwrap();
        check(&format!("{} {}", scheme.to_lowercase(), fields.join("&")), "factory-a").unwrap();
    }
}

#[test]
fn a_doubled_field_is_refused() {
    for field in ["sr=x", "sig=x", "se=1900000000", "skn=send"] {
        assert_eq!(check(&format!("{GOLDEN}&{field}"), "factory-a"), Err(SasError::Malformed), "{field}");
    }
}

#[test]
fn a_missing_or_empty_field_is_refused() {
    let (scheme, fields) = GOLDEN.split_once(' ').unwrap();
    for skipped in 0..4 {
        let kept: Vec<_> = fields.split('&').enumerate().filter(|(i, _)| *i != skipped).map(|(_, f)| f).collect();
        assert_eq!(check(&format!("{scheme} {}", kept.join("&")), "factory-a"), Err(SasError::Malformed));
    }
    assert_eq!(check(&GOLDEN.replace("skn=send", "skn="), "factory-a"), Err(SasError::Malformed));
}

#[test]
fn a_token_of_4_kib_is_looked_at_and_one_byte_more_is_not() {
    let padded = |length: usize| format!("{GOLDEN}&x={}", "a".repeat(length - GOLDEN.len() - 3));
    assert!(check(&padded(MAX_TOKEN), "factory-a").is_ok());
    assert_eq!(check(&padded(MAX_TOKEN + 1), "factory-a"), Err(SasError::Malformed));
}

#[test]
fn what_is_not_a_signature_is_refused() {
    let long = format!("{GOLDEN}&x={}", "a".repeat(MAX_TOKEN));
    for token in ["", "SharedAccessSignature", "SharedAccessSignature ", "Bearer a.b.c", "a.b.c", "é", &long] {
        assert_eq!(check(token, "factory-a"), Err(SasError::Malformed), "{token:.40}");
    }
    for expiry in ["-1", "+1800000000", "1e9", "0x7", "99999999999", "1800000000 ", "１８００"] {
        let token = GOLDEN.replace("se=1800000000", &format!("se={expiry}"));
        assert_eq!(check(&token, "factory-a"), Err(SasError::Malformed), "{expiry}");
    }
    assert_eq!(check(&GOLDEN.replace("sig=k5wa", "sig=%ff%"), "factory-a"), Err(SasError::Malformed));
}

#[test]
fn the_secondary_key_verifies_and_a_foreign_key_does_not() {
    let now = at(END - 60);
    let both = rule("SEND", &[OTHER_KEY, KEY]);
    assert_eq!(verify(GOLDEN, &[&both], HOST, "factory-a", now, Duration::ZERO).unwrap().rule, "SEND");
    let foreign = rule("send", &[OTHER_KEY]);
    assert_eq!(verify(GOLDEN, &[&foreign], HOST, "factory-a", now, Duration::ZERO), Err(SasError::Signature));
    let unknown = rule("listen", &[KEY]);
    assert_eq!(verify(GOLDEN, &[&unknown], HOST, "factory-a", now, Duration::ZERO), Err(SasError::Signature));
}

#[test]
fn the_key_is_its_printed_text_not_what_it_decodes_to() {
    let decoded = STANDARD.decode(KEY).unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &decoded), b"http%3A%2F%2Frelay.example.com\n1800000000");
    let signature = utf8_percent_encode(&STANDARD.encode(tag), ENCODED).to_string();
    let token = format!("{SCHEME}sr=http%3A%2F%2Frelay.example.com&sig={signature}&se=1800000000&skn=send");
    assert_eq!(check(&token, "factory-a"), Err(SasError::Signature));
}

#[test]
fn an_entity_rule_goes_before_a_namespace_rule_of_the_same_name() {
    let mut entity = rule("send", &[KEY]);
    entity.rights = Rights { listen: true, ..Rights::default() };
    let namespace = rule("send", &[KEY]);
    let verified = verify(GOLDEN, &[&entity, &namespace], HOST, "factory-a", at(END), Duration::ZERO).unwrap();
    assert_eq!(verified.rights, entity.rights);
}

#[test]
fn a_token_ends_at_its_time_plus_skew() {
    let rule = rule("send", &[KEY]);
    let skew = Duration::from_secs(30);
    let at_offset = |offset| verify(GOLDEN, &[&rule], HOST, "factory-a", at(END + offset), skew).map(|_| ());
    assert_eq!(at_offset(30), Ok(()));
    assert_eq!(at_offset(31), Err(SasError::Expired));
}

#[test]
fn the_resource_may_be_written_as_any_client_writes_it() {
    for resource in [
        "http://relay.example.com:443/factory-a",
        "http://relay.example.com/factory-a/",
        "https://RELAY.example.com/Factory-A",
        "wss://relay.example.com",
        "sb://relay.example.com:9350/",
        "relay.example.com/factory-a",
        "http://relay.example.com/factory-a/suffix",
    ] {
        assert!(check(&minted(resource), "factory-a/suffix/x").is_ok(), "{resource}");
    }
}

#[test]
fn the_resource_must_cover_host_and_whole_segments() {
    for resource in [
        "http://other.example.com/factory-a",
        "http://relay.example.com.evil/factory-a",
        "http://relay.example.com@evil/factory-a",
        "http://evil@relay.example.com/factory-a",
        "http://relay.example.com:443x/factory-a",
        "ftp://relay.example.com/factory-a",
        "http://relay.example.com/factory",
        "http://relay.example.com/factory-ab",
        "http://relay.example.com/factory-a/deeper",
        "http://",
        "",
    ] {
        let token = minted(resource);
        assert!(check(&token, "factory-a").is_err(), "{resource}");
    }
    assert_eq!(check(&minted("http://relay.example.com/factory"), "factory-a"), Err(SasError::Audience));
}

#[test]
fn escapes_in_the_signed_path_are_those_of_the_address() {
    for resource in ["http://relay.example.com/factory-a/er%20path", "http://relay.example.com/factory-a/er path"] {
        assert!(check(&minted(resource), "factory-a/er path/x").is_ok(), "{resource}");
        assert_eq!(check(&minted(resource), "factory-a/er"), Err(SasError::Audience), "{resource}");
    }
    assert!(check(&minted("http://relay.example.com/factory-a/100%"), "factory-a/100%").is_ok());
}

#[test]
fn an_address_literal_is_a_host_like_any_other() {
    let rule = rule("send", &[KEY]);
    for (resource, host) in [
        ("http://127.0.0.1:38180/hyco", "127.0.0.1"),
        ("http://[::1]:38180/hyco", "[::1]"),
        ("http://[::1]/hyco", "::1"),
    ] {
        verify(&minted(resource), &[&rule], host, "hyco", at(END), Duration::ZERO).unwrap();
    }
}

#[test]
fn a_rule_name_with_spaces_and_marks_survives() {
    let rule = rule("send all & sundry=1", &[KEY]);
    let token = mint("http://relay.example.com", &rule.name, &rule.keys[0], at(END));
    verify(token.expose(), &[&rule], HOST, "x", at(END), Duration::ZERO).unwrap();
}

#[test]
fn weak_rules_are_named() {
    assert_eq!(rule("send", &[KEY, OTHER_KEY]).check_strength(), Ok(()));
    assert_eq!(rule("send", &[KEY, "0123456789abcdef01234"]).check_strength(), Err(RuleError::WeakKey(2)));
    assert_eq!(rule("send", &["0123456789abcdef012345"]).check_strength(), Ok(()));
    assert_eq!(rule("send", &[&"a".repeat(257)]).check_strength(), Err(RuleError::LongKey(1)));
    assert_eq!(rule("send", &[]).check_strength(), Err(RuleError::KeyCount));
    assert_eq!(rule("send", &[KEY, KEY, KEY]).check_strength(), Err(RuleError::KeyCount));
    assert_eq!(rule("", &[KEY]).check_strength(), Err(RuleError::Name));
    assert_eq!(rule("a\nb", &[KEY]).check_strength(), Err(RuleError::Name));
    assert_eq!(Rule { keys: vec![Secret::random()], ..rule("send", &[]) }.check_strength(), Ok(()));
}
