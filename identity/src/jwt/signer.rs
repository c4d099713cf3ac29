//! An issuer of its own: signs JWTs with a fresh ES256 key and publishes it as a key set. For the local demonstration
//! and for tests; real issuers are somebody else's.
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::secret::Secret;

/// A signing key with a key id.
#[derive(Debug)]
pub struct Signer {
    key: EcdsaKeyPair,
    id: String,
}

impl Signer {
    /// A fresh key.
    ///
    /// # Panics
    /// When the operating system has no randomness.
    pub fn generate(id: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key can be made");
        Self { key, id: id.to_owned() }
    }

    /// The key set to publish, as JSON text.
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// The public key alone, to be put beside others.
    pub fn jwk(&self) -> Value {
        // An uncompressed point: 0x04, then both coordinates of 32 bytes.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// Signs claims under the ordinary head.
    pub fn sign(&self, claims: &Value) -> Secret {
        self.sign_with(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }), claims)
    }

    /// Signs claims under any head, for those who want to see it refused.
    ///
    /// # Panics
    /// When the operating system has no randomness.
    pub fn sign_with(&self, head: &Value, claims: &Value) -> Secret {
        let message = format!("{}.{}", encode(head), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("a P-256 key can sign");
        Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
