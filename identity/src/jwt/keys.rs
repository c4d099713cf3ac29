//! A key set (RFC 7517) as an authenticator uses it: asymmetric signing keys only, each with the algorithms that it may
//! verify. A set that is too large is refused whole; a key that is not usable is left out, the others stay.
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;

/// Largest key set, in bytes (SD-7).
pub(super) const MAX_BYTES: usize = 256 * 1024;

/// Most keys in a set (SD-7).
const MAX_KEYS: usize = 64;

/// Most keys tried for one token: without a key id every key of the kind is a candidate, and each costs up to 60 µs.
const MAX_TRIES: usize = 8;

/// The usable keys of an issuer.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

/// Why a key set cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("is larger than 256 KiB")]
    TooLarge,
    #[error("is no JSON object with a list `keys`")]
    Malformed,
    #[error("holds more than 64 keys")]
    TooMany,
    #[error("holds no asymmetric signing key that can be used")]
    Empty,
}

impl KeySet {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        if bytes.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|_| KeySetError::Malformed)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::parse).collect();
        if keys.is_empty() { Err(KeySetError::Empty) } else { Ok(Self { keys }) }
    }

    /// Keys that may have signed a token with this head, with the name that the set gives them.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = (Option<&str>, &DecodingKey)> {
        self.keys
            .iter()
            .filter(move |key| key.algorithms.contains(&algorithm))
            .filter(move |key| id.is_none() || key.id.is_none() || key.id.as_deref() == id)
            .map(|key| (key.id.as_deref(), &key.decoding))
            .take(MAX_TRIES)
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl Key {
    fn parse(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            return None;
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            // Symmetric keys have no business in a published set.
            _ => return None,
        };
        if let Some(declared) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| declared.to_string() == format!("{algorithm:?}"));
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { id: jwk.common.key_id, algorithms, decoding })
    }
}
