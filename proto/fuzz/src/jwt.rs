//! JSON Web Tokens: whatever the text, nothing panics; of what was signed, only that passes which names the configured
//! issuer, audience and type, a subject, and a time that is not over.
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, UNIX_EPOCH},
};

use daemon::{clock::Manual, shutdown::Shutdown};
use identity::jwt::{Authenticators, JwtError, Signer, unverified_expiry};
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example.com";
const AUDIENCE: &str = "https://relay.azure.net/";
const NOW: u64 = 1_800_000_000;

/// As one process has them: keys from a file, one issuer.
struct World {
    runtime: tokio::runtime::Runtime,
    authenticators: Authenticators,
    signer: Signer,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let signer = Signer::generate("key-1");
    let folder = std::env::temp_dir().join(format!("causeway-fuzz-jwt-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::write(folder.join("keys.json"), signer.jwks()).expect("a file can be written there");
    let config = json!({ "tests": { "issuer": ISSUER, "audience": AUDIENCE, "jwks": { "file": "keys.json" } } });
    let config: BTreeMap<String, _> = serde_json::from_value(config).expect("the configuration is sound");
    let clock = Arc::new(Manual::new(UNIX_EPOCH + Duration::from_secs(NOW)));
    let shutdown = Shutdown::new();
    let started = Authenticators::start(&config, &folder, clock, &shutdown);
    let authenticators = runtime.block_on(started).expect("the keys are there");
    std::fs::remove_dir_all(&folder).expect("the keys have been read");
    World { runtime, authenticators, signer }
});

/// The first byte chooses: a token as it stands, or claims, or a head, to sign.
pub fn run(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let world = &*WORLD;
    let verify = |token: &str| world.runtime.block_on(world.authenticators.verify(token));
    let _ = unverified_expiry(&text);
    if choice % 3 == 0 {
        assert!(verify(&text).is_err(), "nobody signed {text:?}");
        return;
    }
    let Ok(value) = serde_json::from_str::<Value>(&text) else { return };
    let good = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "exp": NOW + 600 });
    let head = json!({ "alg": "ES256", "typ": "JWT", "kid": "key-1" });
    let (head, claims) = if choice % 3 == 1 { (head, value) } else { (value, good) };
    let token = world.signer.sign_with(&head, &claims);
    match verify(token.expose()) {
        Ok(principal) => {
            assert_eq!(claims["iss"], ISSUER);
            assert!(
                claims["aud"] == AUDIENCE || claims["aud"].as_array().is_some_and(|all| all.contains(&AUDIENCE.into()))
            );
            assert!(claims["exp"].as_f64().is_some_and(|end| end + 600.0 > NOW as f64), "{claims}");
            assert_eq!(claims["sub"], principal.subject());
            assert_eq!(head["alg"], "ES256");
            assert!(claims.get("nonce").is_none() && claims.get("cnf").is_none() && head.get("crit").is_none());
        }
        Err(error) => assert_ne!(error, JwtError::KeysUnavailable),
    }
    // The same claims with another's signature.
    let (message, _) = token.expose().rsplit_once('.').expect("a token has three parts");
    assert!(verify(&format!("{message}.{}", "A".repeat(86))).is_err());
}

/// Inputs that reach deep: each claim and each head, sound and of the wrong type.
pub fn seeds() -> Vec<Vec<u8>> {
    let tokens = ["e30.e30.c2ln", "..", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjF9.AAAA"];
    let claims = [
        r#"{"iss":"https://issuer.example.com","aud":"https://relay.azure.net/","sub":"somebody","exp":1800000600,"nbf":1,"roles":["a"],"groups":["b"]}"#,
        r#"{"iss":"https://issuer.example.com","aud":["x","https://relay.azure.net/"],"sub":"somebody","exp":1e300}"#,
        r#"{"iss":"https://issuer.example.com","aud":"https://relay.azure.net/","sub":"","exp":-1,"nbf":[]}"#,
        r#"{"iss":7,"aud":{},"sub":null,"exp":"soon","cnf":{},"nonce":"n"}"#,
    ];
    let heads = [
        r#"{"alg":"ES256","typ":"at+jwt","kid":"key-1"}"#,
        r#"{"alg":"ES256","typ":"JWT"}"#,
        r#"{"alg":"none","crit":["x"]}"#,
        r#"{"alg":"HS256","kid":"key-1","jku":"https://x","typ":7}"#,
    ];
    let of_kind = |kind: u8, texts: &[&str]| -> Vec<Vec<u8>> {
        texts.iter().map(|text| [&[kind], text.as_bytes()].concat()).collect()
    };
    [of_kind(0, &tokens), of_kind(1, &claims), of_kind(2, &heads)].concat()
}
