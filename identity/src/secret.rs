//! Secrets that cannot be printed, compared in variable time, or serialised. Memory is wiped when the last copy goes;
//! copies inside TLS and the allocator are beyond our reach.
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};

/// Bytes of a key that we make: 256 bits (SD-9).
const RANDOM_BYTES: usize = 32;

/// A secret text: key, token, password.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// A new secret of 256 random bits, printed as base64.
    ///
    /// # Panics
    /// When the operating system has no randomness, which nothing here can mend.
    pub fn random() -> Self {
        let mut bytes = zeroize::Zeroizing::new([0_u8; RANDOM_BYTES]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).expect("the operating system gives random bytes");
        Self::new(STANDARD.encode(bytes.as_slice()))
    }

    /// The text, for the one place that sends or checks it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Compares in constant time; only the length can be learnt from how long it takes.
    pub fn matches(&self, other: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.expose().as_bytes(), other.as_bytes()).is_ok()
    }

    /// As the value of a header, marked sensitive: never printed, never indexed by HPACK. `prefix` goes before it
    /// (`"Bearer "`); `None` when the secret holds bytes that no header can carry.
    pub fn header(&self, prefix: &str) -> Option<http::HeaderValue> {
        let text = zeroize::Zeroizing::new(format!("{prefix}{}", self.expose()));
        let mut value = http::HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<SecretString> for Secret {
    fn from(text: SecretString) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_text() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert!(!format!("{:?}", secret.header("Bearer ")).contains("hunter2"));
    }

    #[test]
    fn matches_is_exact() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter"));
        assert!(!secret.matches("hunter3"));
        assert!(!secret.matches(""));
    }

    #[test]
    fn random_has_256_bits_and_never_repeats() {
        let (one, two) = (Secret::random(), Secret::random());
        assert_eq!(STANDARD.decode(one.expose()).unwrap().len(), RANDOM_BYTES);
        assert!(!one.matches(two.expose()));
    }

    #[test]
    fn header_is_sensitive_and_refuses_what_no_header_can_carry() {
        assert!(Secret::new("t").header("Bearer ").unwrap().is_sensitive());
        assert!(Secret::new("a\nb").header("").is_none());
    }
}
