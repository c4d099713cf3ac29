//! Claims about tokens: each refusal has its reason, and each reason its test.
use std::{
    sync::atomic::AtomicUsize,
    time::{Duration, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use daemon::clock::Manual;
use serde_json::{Value, json};

use super::*;
use crate::{
    secret::Secret,
    testing::{HttpServer, Reply},
};

/// The time at which every test begins.
const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example.com";
const AUDIENCE: &str = "causeway://factory-a";

fn config(text: Value) -> AuthenticatorConfig {
    let mut full = json!({ "issuer": ISSUER, "audience": AUDIENCE, "jwks": { "file": "keys.json" } });
    for (name, value) in text.as_object().unwrap() {
        match value {
            Value::Null => drop(full.as_object_mut().unwrap().remove(name)),
            value => full[name] = value.clone(),
        }
    }
    serde_json::from_value(full).unwrap()
}

struct World {
    clock: Arc<Manual>,
    folder: tempfile::TempDir,
    shutdown: Shutdown,
    signer: Signer,
}

impl World {
    fn new() -> Self {
        let world = Self {
            clock: Arc::new(Manual::new(UNIX_EPOCH + Duration::from_secs(NOW))),
            folder: tempfile::tempdir().unwrap(),
            shutdown: Shutdown::new(),
            signer: Signer::generate("key-1"),
        };
        world.publish("keys.json", &world.signer.jwks());
        world
    }

    /// Replaces a file at once, as Kubernetes does.
    fn publish(&self, file: &str, text: &str) {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.folder.path().join(file)).unwrap();
    }

    async fn try_start(&self, all: &[(&str, Value)]) -> Result<Authenticators, StartError> {
        let all = all.iter().map(|(name, text)| ((*name).to_owned(), config(text.clone()))).collect();
        Authenticators::start(&all, self.folder.path(), self.clock.clone(), &self.shutdown).await
    }

    async fn start(&self, text: Value) -> Authenticators {
        self.try_start(&[("corp", text)]).await.unwrap()
    }

    /// A good token, with some claims changed; `null` removes a claim.
    fn token(&self, changes: Value) -> Secret {
        self.signer.sign(&claims(changes))
    }

    async fn refusal(&self, changes: Value) -> JwtError {
        let authenticators = self.start(json!({})).await;
        authenticators.verify(self.token(changes.clone()).expose()).await.expect_err(&changes.to_string())
    }
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 3600 });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[tokio::test]
async fn a_good_token_gives_its_principal() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let token = world.token(json!({ "aud": ["other", AUDIENCE], "groups": ["a"], "roles": ["b"], "nbf": NOW }));
    let principal = authenticators.verify(token.expose()).await.unwrap();
    assert_eq!(principal.to_string(), "corp/alice");
    assert_eq!((principal.groups(), principal.roles()), (["a".into(), "b".into()].as_slice(), ["b".into()].as_slice()));
    assert_eq!(principal.expires(), UNIX_EPOCH + Duration::from_secs(NOW + 3600));
}

#[tokio::test]
async fn a_principal_says_what_it_was_proven_by_and_which_claims_a_policy_may_ask_for() {
    let world = World::new();
    let authenticators = world.start(json!({ "claims": ["team", "azp", "absent"] })).await;
    let token = world.token(json!({ "jti": "t-1", "team": ["ml", 7, {}], "azp": "app", "other": "x" }));
    let principal = authenticators.verify(token.expose()).await.unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(principal.claims(), [pair("team", "ml"), pair("team", "7"), pair("azp", "app")]);
    assert_eq!(principal.proof().token_id.as_deref(), Some("t-1"));
    assert_eq!(principal.proof().key_id.as_deref(), Some("key-1"));
    // Whoever leaves the key's name out is still known to have used it.
    let signed = world.signer.sign_with(&json!({ "alg": "ES256" }), &claims(json!({})));
    let principal = authenticators.verify(signed.expose()).await.unwrap();
    assert_eq!(principal.proof().key_id.as_deref(), Some("key-1"));
    assert_eq!(principal.proof().token_id, None);
}

#[tokio::test]
async fn scopes_are_words_or_a_list_under_either_name() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    for (claims, scopes) in [
        (json!({ "scp": "Relay.Listen  Relay.Send" }), vec!["Relay.Listen", "Relay.Send"]),
        (json!({ "scope": "a" }), vec!["a"]),
        (json!({ "scp": ["a", "b"] }), vec!["a", "b"]),
        (json!({ "scp": "" }), vec![]),
        (json!({}), vec![]),
    ] {
        let principal = authenticators.verify(world.token(claims.clone()).expose()).await.unwrap();
        assert_eq!(principal.scopes(), scopes, "{claims}");
        assert!(principal.roles().is_empty() && principal.groups().is_empty(), "a scope is no role: {claims}");
    }
}

#[tokio::test]
async fn the_audience_of_azure_relay_is_taken_with_and_without_slashes() {
    let world = World::new();
    for wanted in ["https://relay.azure.net", "https://relay.azure.net/"] {
        let authenticators = world.start(json!({ "audience": wanted })).await;
        for claimed in ["https://relay.azure.net", "https://relay.azure.net/", "https://relay.azure.net//"] {
            let token = world.token(json!({ "aud": claimed }));
            assert!(authenticators.verify(token.expose()).await.is_ok(), "{claimed} for {wanted}");
        }
        let token = world.token(json!({ "aud": "https://relay.azure.net.example.com/" }));
        assert_eq!(authenticators.verify(token.expose()).await, Err(JwtError::Audience));
    }
}

#[tokio::test]
async fn an_authenticator_that_did_not_change_still_vouches_and_one_that_did_does_not() {
    let world = World::new();
    let config = |audience| BTreeMap::from([("corp".to_owned(), config(json!({ "audience": audience })))]);
    let first = world.try_start(&[("corp", json!({})), ("gone", json!({ "issuer": "https://gone" }))]).await.unwrap();
    let principal = first.verify(world.token(json!({})).expose()).await.unwrap();
    assert!(first.vouch_for(&principal));
    let base = world.folder.path();
    let same = first.changed(&config(AUDIENCE), base, &world.shutdown).await.unwrap();
    assert!(same.vouch_for(&principal));
    assert!(same.vouch_for(&same.verify(world.token(json!({})).expose()).await.unwrap()));
    let other = same.changed(&config("another"), base, &world.shutdown).await.unwrap();
    assert!(!other.vouch_for(&principal), "of the same name, and another all the same");
    assert_eq!(other.verify(world.token(json!({})).expose()).await, Err(JwtError::Audience));
    assert!(other.changed(&BTreeMap::new(), base, &world.shutdown).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_task_that_keeps_keys_ends_with_its_authenticator() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let source = Arc::downgrade(&authenticators.all[0].source);
    drop(authenticators);
    let ended = async {
        while source.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
}

#[tokio::test]
async fn a_token_lacking_a_required_claim_is_refused() {
    let world = World::new();
    for (claim, reason) in [
        ("exp", JwtError::ExpiryMissing),
        ("iss", JwtError::IssuerMissing),
        ("aud", JwtError::AudienceMissing),
        ("sub", JwtError::SubjectMissing),
    ] {
        assert_eq!(world.refusal(json!({ claim: null })).await, reason);
    }
}

#[tokio::test]
async fn a_claim_of_the_wrong_type_is_refused() {
    let world = World::new();
    let soon = (NOW + 3600).to_string();
    for (claim, values, reason) in [
        ("exp", vec![json!(soon), json!(true), json!([NOW]), json!(-1), json!(1e30)], JwtError::ExpiryType),
        ("nbf", vec![json!("0"), json!({}), json!(-5)], JwtError::NotBeforeType),
        ("iss", vec![json!(1), json!([ISSUER]), json!({})], JwtError::IssuerType),
        ("aud", vec![json!(1), json!([AUDIENCE, 1]), json!({ AUDIENCE: 1 })], JwtError::AudienceType),
        (
            "sub",
            vec![json!(1), json!(["alice"]), json!(""), json!("a\nb"), json!("a".repeat(513))],
            JwtError::SubjectType,
        ),
        ("groups", vec![json!("admins"), json!([1]), json!({})], JwtError::GroupsType),
        ("roles", vec![json!("admins")], JwtError::GroupsType),
        ("scp", vec![json!(1), json!(["a", 1]), json!({})], JwtError::ScopeType),
        ("scope", vec![json!(true)], JwtError::ScopeType),
    ] {
        for value in values {
            assert_eq!(world.refusal(json!({ claim: value })).await, reason, "{claim}: {value}");
        }
    }
}

#[tokio::test]
async fn an_explicit_null_is_not_a_claim() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    for (claim, reason) in [
        ("exp", JwtError::ExpiryType),
        ("iss", JwtError::IssuerType),
        ("aud", JwtError::AudienceType),
        ("sub", JwtError::SubjectType),
        ("nbf", JwtError::NotBeforeType),
        ("cnf", JwtError::Bound),
    ] {
        let mut claims = claims(json!({}));
        claims[claim] = Value::Null;
        assert_eq!(authenticators.verify(world.signer.sign(&claims).expose()).await, Err(reason), "{claim}");
    }
}

#[tokio::test]
async fn another_issuer_or_audience_is_refused() {
    let world = World::new();
    assert_eq!(world.refusal(json!({ "iss": "https://issuer.example.com/" })).await, JwtError::Issuer);
    assert_eq!(world.refusal(json!({ "aud": "causeway://factory-b" })).await, JwtError::Audience);
    assert_eq!(world.refusal(json!({ "aud": [] })).await, JwtError::Audience);
    assert_eq!(world.refusal(json!({ "aud": ["causeway://factory-a/"] })).await, JwtError::Audience);
}

#[tokio::test]
async fn time_limits_have_a_leeway_of_a_minute_and_no_more() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    for (changes, outcome) in [
        (json!({ "exp": NOW - 59 }), Ok(())),
        (json!({ "exp": NOW - 60 }), Err(JwtError::Expired)),
        (json!({ "exp": 0 }), Err(JwtError::Expired)),
        (json!({ "nbf": NOW + 60 }), Ok(())),
        (json!({ "nbf": NOW + 61 }), Err(JwtError::NotYetValid)),
        (json!({ "exp": NOW as f64 + 0.5, "nbf": NOW as f64 - 0.5 }), Ok(())),
    ] {
        let verdict = authenticators.verify(world.token(changes.clone()).expose()).await.map(|_| ());
        assert_eq!(verdict, outcome, "{changes}");
    }
    let strict = world.start(json!({ "leeway": "0s" })).await;
    assert_eq!(strict.verify(world.token(json!({ "exp": NOW - 1 })).expose()).await, Err(JwtError::Expired));
}

#[tokio::test]
async fn a_kept_verdict_ends_with_the_token() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let token = world.token(json!({}));
    for _ in 0..2 {
        authenticators.verify(token.expose()).await.unwrap();
    }
    assert_eq!(authenticators.verdicts.len(), 1);
    world.clock.advance(Duration::from_secs(3600 + 59));
    authenticators.verify(token.expose()).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(authenticators.verify(token.expose()).await, Err(JwtError::Expired));
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let good = world.token(json!({}));
    let good = good.expose();
    let padded = format!("{good}=");
    let quoted = format!("\"{good}\"");
    for bad in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "é.é.é",
        "e30.e30.",
        "W10.e30.x",
        "SharedAccessSignature sr=x",
        &padded,
        &quoted,
    ] {
        let refusal = authenticators.verify(bad).await.unwrap_err();
        assert!(matches!(refusal, JwtError::Malformed | JwtError::Signature), "{bad}: {refusal:?}");
    }
    assert_eq!(authenticators.verify(&"a".repeat(MAX_TOKEN + 1)).await, Err(JwtError::TooLong));
    assert_eq!(authenticators.verify(&format!("{}.e30.x", "a".repeat(MAX_TOKEN))).await, Err(JwtError::TooLong));
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let token = world.token(json!({}));
    let mut parts: Vec<_> = token.expose().split('.').collect();
    let admin = URL_SAFE_NO_PAD.encode(claims(json!({ "sub": "admin" })).to_string());
    parts[1] = &admin;
    assert_eq!(authenticators.verify(&parts.join(".")).await, Err(JwtError::Signature));
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(authenticators.verify(&unsigned).await, Err(JwtError::Signature));
}

#[tokio::test]
async fn an_unsigned_token_is_refused_however_none_is_spelt() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    for none in ["none", "None", "NONE", "nOnE"] {
        let head = URL_SAFE_NO_PAD.encode(json!({ "alg": none }).to_string());
        let body = URL_SAFE_NO_PAD.encode(claims(json!({})).to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{head}.{body}.{signature}");
            assert_eq!(authenticators.verify(&token).await, Err(JwtError::Unsigned), "{none}");
        }
    }
}

struct Rsa(KeyPair);

impl Rsa {
    fn generate() -> Self {
        Self(KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn jwks(&self) -> String {
        let key = self.0.public_key();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (n, e) =
            (key.modulus().big_endian_without_leading_zero(), key.exponent().big_endian_without_leading_zero());
        json!({ "keys": [{ "kty": "RSA", "use": "sig", "kid": "rsa-1", "n": number(n), "e": number(e) }] }).to_string()
    }

    fn message(alg: &str, claims: &Value) -> String {
        let head = json!({ "alg": alg, "kid": "rsa-1", "typ": "JWT" });
        format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn sign(&self, claims: &Value) -> String {
        let message = Self::message("RS256", claims);
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[tokio::test]
async fn a_public_key_used_as_a_secret_signs_nothing() {
    let world = World::new();
    let rsa = Rsa::generate();
    world.publish("keys.json", &rsa.jwks());
    let authenticators = world.start(json!({})).await;
    authenticators.verify(&rsa.sign(&claims(json!({})))).await.unwrap();

    let der = rsa.0.public_key().as_der().unwrap();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(der.as_ref())
    );
    for secret in [der.as_ref(), pem.as_bytes(), rsa.jwks().as_bytes()] {
        let message = Rsa::message("HS256", &claims(json!({})));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(authenticators.verify(&token).await, Err(JwtError::Algorithm));
    }
}

#[tokio::test]
async fn only_listed_algorithms_count_and_symmetric_ones_cannot_be_listed() {
    let world = World::new();
    let strict = world.start(json!({ "algorithms": ["RS256"] })).await;
    assert_eq!(strict.verify(world.token(json!({})).expose()).await, Err(JwtError::Algorithm));
    for bad in ["HS256", "none", "ES256K", "rs256"] {
        let error = world.try_start(&[("corp", json!({ "algorithms": [bad] }))]).await.unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("corp"), "{error}");
    }
}

#[tokio::test]
async fn a_key_is_used_only_for_what_its_set_says() {
    let world = World::new();
    for changes in [json!({ "use": "enc" }), json!({ "alg": "ES384" }), json!({ "kty": "oct", "k": "AAAA" })] {
        let mut key = world.signer.jwk();
        for (name, value) in changes.as_object().unwrap() {
            key[name] = value.clone();
        }
        world.publish("keys.json", &json!({ "keys": [key] }).to_string());
        let error = world.try_start(&[("corp", json!({}))]).await.unwrap_err().to_string();
        assert!(error.contains("no asymmetric signing key"), "{changes}: {error}");
    }
}

#[tokio::test]
async fn another_key_id_is_an_unknown_key_and_a_forged_one_a_bad_signature() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let stranger = Signer::generate("key-2");
    assert_eq!(authenticators.verify(stranger.sign(&claims(json!({}))).expose()).await, Err(JwtError::UnknownKey));
    let forger = Signer::generate("key-1");
    assert_eq!(authenticators.verify(forger.sign(&claims(json!({}))).expose()).await, Err(JwtError::Signature));
}

#[tokio::test]
async fn a_token_without_a_key_id_is_tried_against_the_keys_there_are() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let head = json!({ "alg": "ES256" });
    authenticators.verify(world.signer.sign_with(&head, &claims(json!({}))).expose()).await.unwrap();
    let stranger = Signer::generate("x").sign_with(&head, &claims(json!({})));
    assert_eq!(authenticators.verify(stranger.expose()).await, Err(JwtError::UnknownKey));
}

#[tokio::test]
async fn keys_offered_inside_a_token_are_ignored() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let forger = Signer::generate("key-1");
    let head = json!({ "alg": "ES256", "kid": "key-1", "jwk": forger.jwk(), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/" });
    assert_eq!(
        authenticators.verify(forger.sign_with(&head, &claims(json!({}))).expose()).await,
        Err(JwtError::Signature)
    );
}

#[tokio::test]
async fn critical_extensions_other_types_id_tokens_and_bound_tokens_are_refused() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let head = |extra: Value| {
        let mut head = json!({ "alg": "ES256", "kid": "key-1" });
        head.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        head
    };
    let with_head = |extra: Value| world.signer.sign_with(&head(extra), &claims(json!({})));
    for (token, reason) in [
        (with_head(json!({ "crit": ["exp"], "exp": 1 })), JwtError::Critical),
        (with_head(json!({ "typ": "logout+jwt" })), JwtError::Type),
        (with_head(json!({ "typ": "dpop+jwt" })), JwtError::Type),
        (with_head(json!({ "typ": 1 })), JwtError::Malformed),
        (world.token(json!({ "nonce": "n" })), JwtError::IdToken),
        (world.token(json!({ "at_hash": "h" })), JwtError::IdToken),
        (world.token(json!({ "c_hash": "h" })), JwtError::IdToken),
        (world.token(json!({ "cnf": { "jkt": "x" } })), JwtError::Bound),
        (world.token(json!({ "cnf": {} })), JwtError::Bound),
    ] {
        assert_eq!(authenticators.verify(token.expose()).await, Err(reason));
    }
    for accepted in
        [json!({}), json!({ "typ": "jwt" }), json!({ "typ": "at+JWT" }), json!({ "typ": "application/at+jwt" })]
    {
        authenticators.verify(with_head(accepted).expose()).await.unwrap();
    }
    let narrow = world.start(json!({ "types": ["at+jwt"] })).await;
    assert_eq!(narrow.verify(world.token(json!({})).expose()).await, Err(JwtError::Type));
    narrow.verify(with_head(json!({ "typ": "at+jwt" })).expose()).await.unwrap();
}

#[tokio::test]
async fn two_clusters_with_one_issuer_string_are_told_apart_by_their_keys() {
    let world = World::new();
    let other = Signer::generate("key-1");
    world.publish("other.json", &other.jwks());
    let all = [("a", json!({})), ("b", json!({ "jwks": { "file": "other.json" } }))];
    let authenticators = world.try_start(&all).await.unwrap();
    let verify = async |signer: &Signer| authenticators.verify(signer.sign(&claims(json!({}))).expose()).await.unwrap();
    assert_eq!(verify(&world.signer).await.to_string(), "a/alice");
    assert_eq!(verify(&other).await.to_string(), "b/alice");
}

#[tokio::test]
async fn two_authenticators_with_one_key_are_told_apart_by_audience() {
    let world = World::new();
    let all = [("a", json!({})), ("b", json!({ "audience": "other" }))];
    let authenticators = world.try_start(&all).await.unwrap();
    let verify = async |audience: &str| authenticators.verify(world.token(json!({ "aud": audience })).expose()).await;
    assert_eq!(verify(AUDIENCE).await.unwrap().authenticator(), "a");
    assert_eq!(verify("other").await.unwrap().authenticator(), "b");
    assert_eq!(verify("third").await, Err(JwtError::Audience));
}

#[tokio::test]
async fn the_subject_claim_is_the_configured_one() {
    let world = World::new();
    let authenticators = world.start(json!({ "subject": "oid" })).await;
    let token = world.token(json!({ "oid": "7d5c", "sub": "pairwise" }));
    assert_eq!(authenticators.verify(token.expose()).await.unwrap().subject(), "7d5c");
    assert_eq!(authenticators.verify(world.token(json!({})).expose()).await, Err(JwtError::SubjectMissing));
}

#[tokio::test]
async fn settings_that_cannot_be_safe_are_refused_by_name() {
    let world = World::new();
    for (text, word) in [
        (json!({ "subject": "email" }), "email"),
        (json!({ "subject": "upn" }), "upn"),
        (json!({ "claims": ["team", "preferred_username"] }), "preferred_username"),
        (json!({ "issuer": "" }), "issuer"),
        (json!({ "audience": "" }), "audience"),
        (json!({ "leeway": "11m" }), "leeway"),
        (json!({ "jwks": { "file": "absent.json" } }), "absent.json"),
        (json!({ "jwks": { "url": "http://issuer.example.com/keys" } }), "https"),
        (json!({ "jwks": null, "issuer": "factory" }), "OpenID"),
    ] {
        let error = world.try_start(&[("corp", text)]).await.unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("corp"), "{error}");
    }
    for name in ["", "a/b", "mtls"] {
        assert!(world.try_start(&[(name, json!({}))]).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_key_set_that_is_too_large_is_refused() {
    let world = World::new();
    let many: Vec<Value> = (0..65).map(|_| world.signer.jwk()).collect();
    let spaces = format!("{}{}", " ".repeat(256 * 1024), world.signer.jwks());
    for (text, word) in [(json!({ "keys": many }).to_string(), "64 keys"), (spaces, "256 KiB"), ("[]".into(), "JSON")] {
        world.publish("keys.json", &text);
        let error = world.try_start(&[("corp", json!({}))]).await.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// Waits for a condition; the test fails if it does not come.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the condition comes true");
}

#[tokio::test]
async fn a_changed_key_file_voids_the_verdicts_of_the_old_one() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let token = world.token(json!({}));
    authenticators.verify(token.expose()).await.unwrap();
    let next = Signer::generate("key-2");
    world.publish("keys.json", &next.jwks());
    until(async || authenticators.verify(next.sign(&claims(json!({}))).expose()).await.is_ok()).await;
    assert_eq!(authenticators.verify(token.expose()).await, Err(JwtError::UnknownKey));
}

#[tokio::test]
async fn a_broken_key_file_leaves_the_last_good_keys_for_a_day() {
    let world = World::new();
    let authenticators = world.start(json!({})).await;
    let attempts = || *authenticators.all[0].source.attempts_for_tests().borrow();
    world.publish("keys.json", "broken");
    until(async || attempts() == 1).await;
    authenticators.verify(world.token(json!({})).expose()).await.unwrap();
    world.clock.advance(source::MAX_AGE);
    world.publish("keys.json", "still broken");
    until(async || attempts() == 2).await;
    let later = world.token(json!({ "exp": NOW + 2 * 24 * 3600 }));
    assert_eq!(authenticators.verify(later.expose()).await, Err(JwtError::KeysUnavailable));
}

#[tokio::test]
async fn a_key_server_that_disappears_leaves_the_last_good_keys_for_a_day() {
    let world = World::new();
    let (good, gone) = (world.signer.jwks(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let away = gone.clone();
    let server =
        HttpServer::start(
            move |_| {
                if away.load(Ordering::SeqCst) { Reply::hang_up() } else { Reply::json(good.clone()) }
            },
        )
        .await;
    let authenticators = world.start(json!({ "jwks": { "url": server.url("/keys") } })).await;
    authenticators.verify(world.token(json!({})).expose()).await.unwrap();
    gone.store(true, Ordering::SeqCst);
    let stranger = Signer::generate("key-2").sign(&claims(json!({ "exp": NOW + 2 * 24 * 3600 })));
    let known = world.token(json!({ "exp": NOW + 2 * 24 * 3600 }));
    world.clock.advance(source::REFETCH_PAUSE);
    assert_eq!(authenticators.verify(stranger.expose()).await, Err(JwtError::UnknownKey));
    authenticators.verify(known.expose()).await.unwrap();
    // Nobody has confirmed them for a day.
    world.clock.advance(source::MAX_AGE);
    authenticators.verify(stranger.expose()).await.unwrap_err();
    assert_eq!(authenticators.verify(known.expose()).await, Err(JwtError::KeysUnavailable));
}

#[tokio::test]
async fn keys_from_a_url_are_refetched_once_for_an_unknown_key_and_not_again_within_a_minute() {
    let world = World::new();
    let set = Arc::new(std::sync::Mutex::new(world.signer.jwks()));
    let asked = Arc::new(AtomicUsize::new(0));
    let (served, counter) = (set.clone(), asked.clone());
    let server = HttpServer::start(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Reply::json(served.lock().unwrap().clone())
    })
    .await;
    let authenticators = world.start(json!({ "jwks": { "url": server.url("/keys") } })).await;
    authenticators.verify(world.token(json!({})).expose()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let next = Signer::generate("key-2");
    *set.lock().unwrap() = json!({ "keys": [world.signer.jwk(), next.jwk()] }).to_string();
    authenticators.verify(next.sign(&claims(json!({}))).expose()).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    let stranger = Signer::generate("key-3").sign(&claims(json!({})));
    for _ in 0..20 {
        assert_eq!(authenticators.verify(stranger.expose()).await, Err(JwtError::UnknownKey));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "a flood of unknown keys reached the issuer");
    world.clock.advance(source::REFETCH_PAUSE);
    assert_eq!(authenticators.verify(stranger.expose()).await, Err(JwtError::UnknownKey));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    let elsewhere = Signer::generate("key-4").sign(&claims(json!({ "iss": "https://elsewhere.example.com" })));
    world.clock.advance(source::REFETCH_PAUSE);
    assert_eq!(authenticators.verify(elsewhere.expose()).await, Err(JwtError::UnknownKey));
    assert_eq!(asked.load(Ordering::SeqCst), 3, "a stranger's issuer made us fetch");
}

#[tokio::test]
async fn without_jwks_the_openid_configuration_of_the_issuer_is_asked() {
    let world = World::new();
    let set = world.signer.jwks();
    let server = HttpServer::start(move |request| match request.path.as_str() {
        "/t/.well-known/openid-configuration" => {
            let base = format!("http://{}", request.host);
            Reply::json(json!({ "issuer": format!("{base}/t"), "jwks_uri": format!("{base}/keys") }).to_string())
        }
        "/keys" => Reply::json(set.clone()),
        _ => Reply::status(404),
    })
    .await;
    let issuer = server.url("/t");
    let authenticators = world.start(json!({ "issuer": issuer, "jwks": null })).await;
    authenticators.verify(world.token(json!({ "iss": issuer })).expose()).await.unwrap();
}

#[tokio::test]
async fn a_key_server_that_redirects_lies_or_floods_gives_no_keys() {
    let world = World::new();
    let good = world.signer.jwks();
    let target = HttpServer::start(move |_| Reply::json(good.clone())).await;
    let location = target.url("/keys");
    let flood = format!("{}{}", " ".repeat(300 * 1024), world.signer.jwks());
    for reply in [
        Reply::status(302).header("location", &location),
        Reply::status(500),
        Reply::json(flood),
        Reply::json("{}".to_owned()),
        Reply::hang_up(),
    ] {
        let server = HttpServer::start(move |_| reply.clone()).await;
        let authenticators = world.start(json!({ "jwks": { "url": server.url("/keys") } })).await;
        let refusal = authenticators.verify(world.token(json!({})).expose()).await;
        assert_eq!(refusal, Err(JwtError::KeysUnavailable));
    }
    let liar = HttpServer::start(|request| {
        let keys = format!("http://{}/keys", request.host);
        Reply::json(json!({ "issuer": "https://elsewhere.example.com", "jwks_uri": keys }).to_string())
    })
    .await;
    let issuer = liar.url("");
    let authenticators = world.start(json!({ "issuer": issuer, "jwks": null })).await;
    let refusal = authenticators.verify(world.token(json!({ "iss": issuer })).expose()).await;
    assert_eq!(refusal, Err(JwtError::KeysUnavailable));
}

#[tokio::test]
async fn fetching_ends_with_the_process() {
    let world = World::new();
    let server = HttpServer::start(|_| Reply::status(500)).await;
    let _authenticators = world.start(json!({ "jwks": { "url": server.url("/keys") } })).await;
    assert_eq!(world.shutdown.run(Duration::from_secs(10)).await, daemon::shutdown::Outcome::Drained);
}

#[test]
fn the_catalogue_is_complete_and_its_names_are_unique() {
    let mut names: Vec<_> = JwtError::ALL.iter().map(|error| error.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), JwtError::ALL.len());
    for error in JwtError::ALL {
        assert!(error.name().starts_with("token_") && !error.meaning().is_empty() && !error.remedy().is_empty());
        assert_eq!(error.to_string(), error.meaning());
    }
}

#[test]
fn audiences_are_read_without_believing_anything() {
    let is_for =
        |claims: Value, audience: &str| unverified_is_for(Signer::generate("k").sign(&claims).expose(), audience);
    assert!(is_for(json!({ "aud": "https://relay.azure.net/" }), "https://relay.azure.net"));
    assert!(is_for(json!({ "aud": ["a", "b"] }), "b"));
    for other in [json!({ "aud": "a" }), json!({ "aud": 1 }), json!({}), json!({ "aud": [1] })] {
        assert!(!is_for(other, "b"));
    }
    assert!(!unverified_is_for("opaque", "b") && !unverified_is_for("a.b.c", "b"));
}

#[test]
fn expiry_is_read_without_believing_anything() {
    let token = Signer::generate("k").sign(&json!({ "exp": NOW }));
    assert_eq!(unverified_expiry(token.expose()), Some(UNIX_EPOCH + Duration::from_secs(NOW)));
    let typeless = Signer::generate("k").sign(&json!({ "exp": "x" }));
    for bad in ["", "a.b.c", "opaque", typeless.expose()] {
        assert_eq!(unverified_expiry(bad), None, "{bad}");
    }
}
