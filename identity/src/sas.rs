//! Shared access signatures as Azure Relay uses them: minted and verified over the raw, percent-encoded resource.
//!
//! A token is `SharedAccessSignature sr=…&sig=…&se=…&skn=…`, fields in any order. The signature is HMAC-SHA256 over the
//! `sr` text exactly as it stands, a line feed, and the decimal `se`, keyed with the rule's key *as printed* (its base64
//! text is not decoded). Nothing is decoded and encoded again before the check, because encoders differ.
//! A token that is not valid is refused with the texts of the live service; nothing here logs.
mod audience;

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use base64::{
    Engine,
    alphabet::STANDARD as ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::secret::Secret;

/// Longest token that is looked at: a 256-byte rule name and a resource of the longest allowed path fit several times.
pub const MAX_TOKEN: usize = 4 * 1024;

/// Longest rule name and longest key, as on the live service.
pub const MAX_NAME: usize = 256;

/// Least strength of a key in bits (SD-9).
const MIN_KEY_BITS: usize = 128;

/// What one character of a base64 or other printed key can hold at most, in bits.
const BITS_PER_CHARACTER: usize = 6;

/// Begins every token; compared without case, one space.
const SCHEME: &str = "SharedAccessSignature ";

/// What JavaScript's and .NET's encoders leave alone, less the marks that not all of them leave alone.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Encoders disagree about the padding of `sig`.
const SIGNATURE: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a rule allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Hold a control channel, renew.
    pub listen: bool,
    /// Connect and send.
    pub send: bool,
    /// Read and manage entities.
    pub manage: bool,
}

impl Rights {
    /// What either allows.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { listen: self.listen || other.listen, send: self.send || other.send, manage: self.manage || other.manage }
    }
}

/// A shared access rule: a name, rights, and one or two keys.
#[derive(Debug, Clone)]
pub struct Rule {
    /// `skn`.
    pub name: String,
    /// What it allows.
    pub rights: Rights,
    /// Primary first.
    pub keys: Vec<Secret>,
}

/// Why a rule cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No name, too long a name, or control characters in it.
    #[error("a rule name has 1 to 256 printable characters")]
    Name,
    /// Neither one nor two keys.
    #[error("a rule has one or two keys: the primary, and the secondary that rotation needs")]
    KeyCount,
    /// Too short a key.
    #[error("key {0} holds fewer than 128 bits; make one with `openssl rand -base64 32`")]
    WeakKey(usize),
    /// Too long a key.
    #[error("key {0} is longer than 256 characters")]
    LongKey(usize),
}

impl Rule {
    /// Whether this is one of its keys.
    pub fn has_key(&self, print: &KeyPrint) -> bool {
        self.keys.iter().any(|key| KeyPrint::of(key) == *print)
    }

    /// Whether both allow the same to the same keys.
    pub fn is_same(&self, other: &Self) -> bool {
        let prints = |rule: &Self| rule.keys.iter().map(KeyPrint::of).collect::<Vec<_>>();
        self.name == other.name && self.rights == other.rights && prints(self) == prints(other)
    }

    /// Refuses what no configuration should hold: keys under 128 bits (counted as six bits a character, which is what
    /// base64 carries), more than two keys, names that no token can carry.
    pub fn check_strength(&self) -> Result<(), RuleError> {
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.chars().any(char::is_control) {
            return Err(RuleError::Name);
        }
        if !(1..=2).contains(&self.keys.len()) {
            return Err(RuleError::KeyCount);
        }
        for (index, key) in self.keys.iter().enumerate() {
            let text = key.expose();
            if text.len() > MAX_NAME {
                return Err(RuleError::LongKey(index + 1));
            }
            if text.trim_end_matches('=').chars().count() * BITS_PER_CHARACTER < MIN_KEY_BITS {
                return Err(RuleError::WeakKey(index + 1));
            }
        }
        Ok(())
    }
}

/// Which key it was, without being one: the SHA-256 of at least 128 bits that nobody else knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyPrint([u8; 32]);

impl KeyPrint {
    fn of(key: &Secret) -> Self {
        let mut print = [0; 32];
        print.copy_from_slice(digest(&SHA256, key.expose().as_bytes()).as_ref());
        Self(print)
    }
}

impl fmt::Debug for KeyPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPrint(…)")
    }
}

/// Mints `SharedAccessSignature sr=…&sig=…&se=…&skn=…` for a resource URI such as `http://host/path`.
pub fn mint(resource: &str, rule: &str, key: &Secret, expires: SystemTime) -> Secret {
    let resource = utf8_percent_encode(resource, ENCODED).to_string();
    let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
    let tag = hmac::sign(&hmac_key(key), signed_text(&resource, &expires).as_bytes());
    let signature = STANDARD.encode(tag);
    let signature = utf8_percent_encode(&signature, ENCODED);
    let rule = utf8_percent_encode(rule, ENCODED);
    Secret::new(format!("{SCHEME}sr={resource}&sig={signature}&se={expires}&skn={rule}"))
}

/// A verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The rule that signed it.
    pub rule: String,
    /// With this key.
    pub key: KeyPrint,
    /// What it allows.
    pub rights: Rights,
    /// When it ends.
    pub expires: SystemTime,
}

/// Why a token was refused; the texts follow what the live service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    /// Not a shared access signature, or a field is missing or doubled.
    #[error("MalformedToken: The token is not a shared access signature.")]
    Malformed,
    /// No key of the named rule made this signature, or there is no such rule.
    #[error("InvalidSignature: The token has an invalid signature.")]
    Signature,
    /// Past `se`.
    #[error("ExpiredToken: The token is expired.")]
    Expired,
    /// `sr` does not cover what was asked for.
    #[error("InvalidAudience: The authorization header contains a token with a wrong audience.")]
    Audience,
}

/// Whether a text claims to be a shared access signature rather than a JWT.
pub fn looks_like(token: &str) -> bool {
    token.get(..SCHEME.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(SCHEME))
}

/// Verifies a token. `rules` are entity rules first, then namespace rules; `host` is the namespace (without port) and
/// `path` the requested path (entity and suffix, without `$hc/`). Signature is checked over the raw `sr`, in constant time.
pub fn verify(
    token: &str,
    rules: &[&Rule],
    host: &str,
    path: &str,
    now: SystemTime,
    skew: Duration,
) -> Result<Verified, SasError> {
    let fields = Fields::parse(token)?;
    let signature = percent_decode_str(fields.signature).decode_utf8().map_err(|_| SasError::Malformed)?;
    let signature = SIGNATURE.decode(signature.as_bytes()).map_err(|_| SasError::Malformed)?;
    let name = percent_decode_str(fields.rule).decode_utf8().map_err(|_| SasError::Malformed)?;
    let text = signed_text(fields.resource, fields.expires);
    let (rule, key) = rules
        .iter()
        .filter(|rule| rule.name.eq_ignore_ascii_case(&name))
        .flat_map(|rule| rule.keys.iter().map(move |key| (rule, key)))
        .find(|(_, key)| hmac::verify(&hmac_key(key), text.as_bytes(), &signature).is_ok())
        .ok_or(SasError::Signature)?;
    let expires = UNIX_EPOCH + Duration::from_secs(fields.expires.parse().map_err(|_| SasError::Malformed)?);
    if expires + skew < now {
        return Err(SasError::Expired);
    }
    if !audience::covers(fields.resource, host, path) {
        return Err(SasError::Audience);
    }
    Ok(Verified { rule: rule.name.clone(), key: KeyPrint::of(key), rights: rule.rights, expires })
}

/// The four fields as they stand in the token, still percent-encoded.
struct Fields<'a> {
    resource: &'a str,
    signature: &'a str,
    expires: &'a str,
    rule: &'a str,
}

impl<'a> Fields<'a> {
    fn parse(token: &'a str) -> Result<Self, SasError> {
        if token.len() > MAX_TOKEN || !looks_like(token) {
            return Err(SasError::Malformed);
        }
        let (mut resource, mut signature, mut expires, mut rule) = (None, None, None, None);
        for field in token[SCHEME.len()..].split('&') {
            let (name, value) = field.split_once('=').ok_or(SasError::Malformed)?;
            let slot = match name {
                "sr" => &mut resource,
                "sig" => &mut signature,
                "se" => &mut expires,
                "skn" => &mut rule,
                _ => continue,
            };
            // A doubled field would let two readers of one token disagree about what was signed.
            if value.is_empty() || slot.replace(value).is_some() {
                return Err(SasError::Malformed);
            }
        }
        let expires: &str = expires.ok_or(SasError::Malformed)?;
        // Ten digits last until the year 2286; the bound keeps every later sum inside `SystemTime`.
        if expires.len() > 10 || !expires.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SasError::Malformed);
        }
        Ok(Self {
            resource: resource.ok_or(SasError::Malformed)?,
            signature: signature.ok_or(SasError::Malformed)?,
            expires,
            rule: rule.ok_or(SasError::Malformed)?,
        })
    }
}

fn signed_text(resource: &str, expires: &str) -> String {
    format!("{resource}\n{expires}")
}

fn hmac_key(key: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes())
}

#[cfg(test)]
mod tests;
