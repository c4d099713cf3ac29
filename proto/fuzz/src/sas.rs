//! Shared access signatures: whatever the text, nothing panics; a token counts only for the path and the time that were
//! signed, whatever else stands in it; nothing counts that was not signed.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{
    sas::{MAX_TOKEN, Rights, Rule, SasError, mint, verify},
    secret::Secret,
};

const HOST: &str = "relay.example.com";
const PATH: &str = "factory-a/suffix";
const KEY: &str = "YS1rZXktb2YtYXQtbGVhc3QtMTI4LWJpdHM=";
const NOW: u64 = 1_800_000_000;

/// The first byte chooses: a token as it stands, or a resource, a time and a rule's name to sign.
pub fn run(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    match choice % 3 {
        0 => as_it_stands(&text),
        1 => signed_resource(&text),
        _ => signed_fields(&text, u64::from(choice)),
    }
}

/// Inputs that reach deep: tokens in every order and spelling, resources as the SDKs write them.
pub fn seeds() -> Vec<Vec<u8>> {
    let tokens = [
        "SharedAccessSignature sr=http%3a%2f%2frelay.example.com%2ffactory-a&sig=AAAA%3D&se=1800000600&skn=send",
        "sharedaccesssignature skn=send&se=1&sig=%2B%2F&sr=sb%3A%2F%2Fns",
        "SharedAccessSignature sr=&sig=&se=&skn=",
        "SharedAccessSignature sr=a&sr=b&sig=c&se=99999999999999999999&skn=%zz",
    ];
    let resources = [
        "http://relay.example.com:443/factory-a",
        "sb://relay.example.com",
        "wss://[::1]:1/factory-a/suffix/",
        "relay.example.com/FACTORY-A/suf%66ix",
        "http://evil@relay.example.com/factory-a",
        "https://relay.example.com/factory",
    ];
    let fields = ["9999999999", "1800000000", "0", "-1", "18446744073709551615"];
    let of_kind = |kind: u8, texts: &[&str]| -> Vec<Vec<u8>> {
        texts.iter().map(|text| [&[kind], text.as_bytes()].concat()).collect()
    };
    [of_kind(0, &tokens), of_kind(1, &resources), of_kind(2, &fields)].concat()
}

fn rule(name: &str) -> Rule {
    Rule { name: name.to_owned(), rights: Rights { send: true, ..Rights::default() }, keys: vec![Secret::new(KEY)] }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn as_it_stands(token: &str) {
    let outcome = verify(token, &[&rule("send")], HOST, PATH, now(), Duration::ZERO);
    assert!(outcome.is_err(), "nobody signed {token:?}");
}

fn signed_resource(resource: &str) {
    let (rule, expires) = (rule("send"), now() + Duration::from_secs(600));
    let token = mint(resource, &rule.name, &rule.keys[0], expires);
    match verify(token.expose(), &[&rule], HOST, PATH, now(), Duration::ZERO) {
        Ok(verified) => {
            assert_eq!(verified.expires, expires);
            // Our own reading of what covers: the host, whole, and a beginning of the path.
            let lower = resource.to_ascii_lowercase();
            assert!(lower.contains(HOST) && !lower.contains('@'), "{resource}");
        }
        Err(SasError::Audience) => assert!(!resource.is_empty()),
        Err(SasError::Malformed) => assert!(resource.is_empty() || token.expose().len() > MAX_TOKEN),
        Err(other) => panic!("{other} for {resource:?}"),
    }
    // Signed with another key, or changed behind the signature, it is nobody's.
    let foreign = mint(resource, &rule.name, &Secret::new("another-key-of-at-least-128-bits"), expires);
    assert!(verify(foreign.expose(), &[&rule], HOST, PATH, now(), Duration::ZERO).is_err());
    let longer = token.expose().replace("&se=1", "&se=2");
    assert!(verify(&longer, &[&rule], HOST, PATH, now(), Duration::ZERO).is_err(), "{resource}");
}

/// `se` and the rule's name are any text; the signature is good.
fn signed_fields(text: &str, skew: u64) {
    let name: String = text.chars().filter(|c| !c.is_control()).collect();
    let expires = now() + Duration::from_secs(text.len() as u64);
    let rule = rule(&name);
    let token = mint("http://relay.example.com/factory-a", &name, &rule.keys[0], expires);
    if !name.is_empty() && token.expose().len() <= MAX_TOKEN {
        verify(token.expose(), &[&rule], HOST, PATH, now(), Duration::ZERO).expect("what we sign, we take");
    }
    let token = token.expose().replacen(&format!("se={}", NOW + text.len() as u64), &format!("se={text}"), 1);
    let _ = verify(&token, &[&rule], HOST, PATH, now(), Duration::from_secs(skew));
}
