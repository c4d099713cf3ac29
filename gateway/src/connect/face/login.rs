//! User and password of a face, compared in constant time.
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use daemon::config::ConfigError;
use identity::secret::Secret;
use secrecy::ExposeSecret as _;

use crate::connect::config::LoginConfig;

/// Longest password (RFC 1929: one byte of length).
const PASSWORD_MAX: usize = 255;

/// What clients must show.
#[derive(Debug)]
pub(crate) struct Login {
    user: Secret,
    password: Secret,
}

impl Login {
    /// Reads the password.
    pub(crate) fn open(config: &LoginConfig, base: &Path) -> Result<Self, ConfigError> {
        let password = config.password.read(base)?;
        if password.expose_secret().len() > PASSWORD_MAX {
            let message = format!("a password has at most {PASSWORD_MAX} bytes");
            return Err(ConfigError::Secret { reference: config.password.to_string(), message });
        }
        Ok(Self { user: Secret::new(config.user.as_str()), password: Secret::new(password.expose_secret()) })
    }

    /// Whether these are the right ones.
    pub(super) fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        let (Ok(user), Ok(password)) = (std::str::from_utf8(user), std::str::from_utf8(password)) else { return false };
        // Both are compared, so that time does not tell which one was wrong.
        self.user.matches(user) & self.password.matches(password)
    }

    /// Whether the value of a field holds them (RFC 7617).
    pub(super) fn admits_basic(&self, value: &[u8]) -> bool {
        let value = std::str::from_utf8(value).ok().and_then(|value| value.split_once(' '));
        let Some((_, encoded)) = value.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")) else {
            return false;
        };
        let Ok(decoded) = STANDARD.decode(encoded.trim_matches(' ')) else { return false };
        let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return false };
        self.admits(&decoded[..colon], &decoded[colon + 1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_user_with_the_right_password_is_admitted() {
        let login = Login { user: Secret::new("alice"), password: Secret::new("open: sesame") };
        assert!(login.admits(b"alice", b"open: sesame"));
        for (user, password) in [("alice", ""), ("", "open: sesame"), ("alice", "open"), ("bob", "open: sesame")] {
            assert!(!login.admits(user.as_bytes(), password.as_bytes()), "{user} {password}");
        }
        assert!(!login.admits(b"alice", b"\xff"));
        for (text, admitted) in [("alice:open: sesame", true), ("alice:", false), ("alice", false), ("", false)] {
            for scheme in ["Basic", "basic"] {
                let value = format!("{scheme} {}", STANDARD.encode(text));
                assert_eq!(login.admits_basic(value.as_bytes()), admitted, "{text}");
            }
            let other = format!("Bearer {}", STANDARD.encode(text));
            assert!(!login.admits_basic(other.as_bytes()) && !login.admits_basic(b"Basic ???"));
        }
    }
}
