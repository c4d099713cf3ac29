//! An issuer of JWTs whose keys a test holds. Tokens are put together by hand from `aws-lc-rs` signatures, not by the
//! library that verifies them, so that any claim can be absent, of the wrong type, or wrong.
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Map, Value, json};

/// `iss` of every token.
pub const ISSUER: &str = "https://issuer.test";

/// `sub` of every token.
pub const SUBJECT: &str = "tester";

/// Signature algorithms that the issuer has a key for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 of 2048 bits.
    Rs256,
}

/// The issuer.
#[derive(Debug)]
pub struct Issuer {
    ecdsa: EcdsaKeyPair,
    rsa: RsaKeyPair,
    audience: String,
}

impl Issuer {
    /// New keys; tokens are for `audience`.
    ///
    /// # Panics
    /// When keys cannot be made.
    pub fn new(audience: impl Into<String>) -> Self {
        Self {
            ecdsa: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)
                .expect("a P-256 key can be made"),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key can be made"),
            audience: audience.into(),
        }
    }

    /// The key set, as a JWKS document.
    ///
    /// # Panics
    /// Never: these key types have these parts.
    pub fn jwks(&self) -> String {
        // Uncompressed point: 0x04, x, y.
        let point = self.ecdsa.public_key().as_ref();
        let (n, e) = rsa_parts(self.rsa.public_key().as_ref());
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid(Algorithm::Es256),
              "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]) },
            { "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid(Algorithm::Rs256),
              "n": BASE64.encode(n), "e": BASE64.encode(e) },
        ] })
        .to_string()
    }

    /// Claims of a good token: an hour of life.
    pub fn claims(&self) -> Map<String, Value> {
        let now = seconds(SystemTime::now());
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!(ISSUER));
        claims.insert("aud".to_owned(), json!(self.audience));
        claims.insert("sub".to_owned(), json!(SUBJECT));
        claims.insert("iat".to_owned(), json!(now));
        claims.insert("nbf".to_owned(), json!(now - 5));
        claims.insert("exp".to_owned(), json!(now + 3600));
        claims
    }

    /// A good token.
    pub fn valid(&self) -> String {
        self.sign(Algorithm::Es256, &self.claims())
    }

    /// A good token for another subject.
    pub fn subject(&self, subject: &str) -> String {
        self.with("sub", json!(subject))
    }

    /// Expired two hours ago: past any leeway.
    pub fn expired(&self) -> String {
        self.with("exp", json!(seconds(SystemTime::now() - Duration::from_secs(7200))))
    }

    /// Good but for one claim.
    pub fn with(&self, claim: &str, value: Value) -> String {
        let mut claims = self.claims();
        claims.insert(claim.to_owned(), value);
        self.sign(Algorithm::Es256, &claims)
    }

    /// Good but for one claim that is not there.
    pub fn without(&self, claim: &str) -> String {
        let mut claims = self.claims();
        claims.remove(claim);
        self.sign(Algorithm::Es256, &claims)
    }

    /// Every way in which a token can be wrong that a verifier must notice, by name.
    pub fn bad(&self) -> BTreeMap<&'static str, String> {
        let stranger = Self::new(self.audience.clone());
        let far = seconds(SystemTime::now() + Duration::from_secs(7200));
        let good = self.valid();
        let (signed, signature) = good.rsplit_once('.').expect("a JWT has three parts");
        let unsigned_head = BASE64.encode(json!({ "alg": "none", "typ": "JWT" }).to_string());
        let body = signed.split_once('.').expect("a JWT has three parts").1;
        let mut bad = BTreeMap::from([
            ("foreign key", stranger.valid()),
            ("expired", self.expired()),
            ("not yet valid", self.with("nbf", json!(far))),
            ("foreign issuer", self.with("iss", json!("https://elsewhere.test"))),
            ("foreign audience", self.with("aud", json!("api://elsewhere"))),
            ("alg none", format!("{unsigned_head}.{body}.")),
            ("no signature", format!("{signed}.")),
            ("signature cut", format!("{signed}.{}", &signature[..signature.len() / 2])),
            ("not a token", "not-a-token".to_owned()),
            ("exp as text", self.with("exp", json!("tomorrow"))),
            ("sub as number", self.with("sub", json!(42))),
            ("aud as number", self.with("aud", json!(42))),
            ("iss as list", self.with("iss", json!([ISSUER]))),
            ("nbf as text", self.with("nbf", json!("now"))),
        ]);
        for claim in ["exp", "iss", "aud", "sub"] {
            bad.insert(
                match claim {
                    "exp" => "no exp",
                    "iss" => "no iss",
                    "aud" => "no aud",
                    _ => "no sub",
                },
                self.without(claim),
            );
        }
        bad
    }

    /// Signs any claims.
    ///
    /// # Panics
    /// When signing fails.
    pub fn sign(&self, algorithm: Algorithm, claims: &Map<String, Value>) -> String {
        let name = match algorithm {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        };
        let head = json!({ "alg": name, "typ": "JWT", "kid": kid(algorithm) }).to_string();
        let signed = format!("{}.{}", BASE64.encode(head), BASE64.encode(Value::Object(claims.clone()).to_string()));
        let random = SystemRandom::new();
        let signature = match algorithm {
            Algorithm::Es256 => self.ecdsa.sign(&random, signed.as_bytes()).expect("P-256 signs").as_ref().to_vec(),
            Algorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa
                    .sign(&signature::RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)
                    .expect("RSA signs");
                signature
            }
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

fn kid(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Es256 => "ec-1",
        Algorithm::Rs256 => "rsa-1",
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}

/// Modulus and exponent out of a PKCS#1 `RSAPublicKey`: a SEQUENCE of two INTEGERs.
fn rsa_parts(der: &[u8]) -> (&[u8], &[u8]) {
    let (_, body) = der_value(der);
    let (rest, modulus) = der_value(body);
    let (_, exponent) = der_value(rest);
    (modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent)
}

/// Rest and content of the first DER value.
fn der_value(der: &[u8]) -> (&[u8], &[u8]) {
    let first = usize::from(der[1]);
    let (start, length) = if first < 0x80 {
        (2, first)
    } else {
        let bytes = first & 0x7f;
        (2 + bytes, der[2..2 + bytes].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    };
    (&der[start + length..], &der[start..start + length])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use daemon::{clock::SystemClock, shutdown::Shutdown};
    use identity::jwt::{AuthenticatorConfig, Authenticators};

    use super::*;

    async fn verifier(issuer: &Issuer, folder: &std::path::Path, shutdown: &Shutdown) -> Authenticators {
        std::fs::write(folder.join("jwks.json"), issuer.jwks()).unwrap();
        let config: AuthenticatorConfig = serde_json::from_value(json!({
            "issuer": ISSUER, "audience": issuer.audience, "jwks": { "file": "jwks.json" },
        }))
        .unwrap();
        let all = BTreeMap::from([("tests".to_owned(), config)]);
        Authenticators::start(&all, folder, Arc::new(SystemClock), shutdown).await.unwrap()
    }

    #[tokio::test]
    async fn good_tokens_are_good_and_each_bad_one_is_bad() {
        let (folder, shutdown) = (tempfile::tempdir().unwrap(), Shutdown::new());
        let issuer = Issuer::new("causeway://factory-a");
        let verifier = verifier(&issuer, folder.path(), &shutdown).await;
        for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
            let principal = verifier.verify(&issuer.sign(algorithm, &issuer.claims())).await.unwrap();
            assert_eq!(principal.to_string(), format!("tests/{SUBJECT}"));
        }
        for (reason, token) in issuer.bad() {
            assert!(verifier.verify(&token).await.is_err(), "{reason}");
        }
    }
}
