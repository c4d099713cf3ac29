//! Client assertions signed with the key of a certificate (RFC 7523). Both are read anew for each assertion. A key that
//! does not belong to the certificate, a key that is not RSA and a certificate that has ended are told before anybody is
//! asked.
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256},
    rand::SystemRandom,
    signature::{KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use daemon::config::SecretRef;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use url::Url;

use super::proof;
use crate::{
    secret::Secret,
    tls::pem,
    token::{ErrorCode, SourceConfig, TokenError, config::Signature, file::fingerprint},
};

/// Life of an assertion: it is used at once; the rest is room for clocks that differ.
const LIFE: Duration = Duration::from_secs(600);

/// Largest certificate file: a chain of a dozen certificates.
const MAX_BYTES: u64 = 128 * 1024;

/// A certificate and its key, in files.
pub(super) struct Certificate {
    path: PathBuf,
    key: SecretRef,
    base: PathBuf,
    signature: Signature,
    send_chain: bool,
}

/// What the files hold now.
struct Loaded {
    chain: Vec<CertificateDer<'static>>,
    key: RsaKeyPair,
    ends: SystemTime,
}

impl Certificate {
    /// Files that cannot be used now are a mistake in the configuration; later it may be a rotation going on.
    pub(super) fn new(config: &SourceConfig, base: &Path) -> Result<Self, TokenError> {
        let path = config.certificate.as_ref().ok_or_else(|| TokenError::setting("certificate", "is absent"))?;
        let certificate = Self {
            path: base.join(path),
            key: config.key.clone().ok_or_else(|| TokenError::setting("key", "is absent"))?,
            base: base.to_owned(),
            signature: config.signature.unwrap_or(Signature::Ps256),
            send_chain: config.send_chain.unwrap_or_default(),
        };
        certificate.load()?;
        Ok(certificate)
    }

    /// An assertion that `client_id` shows to `endpoint`.
    pub(super) fn sign(&self, client_id: &str, endpoint: &Url) -> Result<Secret, TokenError> {
        let loaded = self.load()?;
        let now = SystemTime::now();
        if loaded.ends <= now {
            let message = format!("the certificate in {} has expired; make a new one", self.path.display());
            return Err(TokenError::new(ErrorCode::SourceMisconfigured, message));
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let claims = json!({
            "aud": endpoint.as_str(), "iss": client_id, "sub": client_id, "jti": unique()?,
            "nbf": now.as_secs(), "iat": now.as_secs(), "exp": (now + LIFE).as_secs(),
        });
        let message = format!("{}.{}", encode(&self.head(&loaded.chain)), encode(&claims));
        let scheme: &'static dyn RsaEncoding = match self.signature {
            Signature::Ps256 => &RSA_PSS_SHA256,
            Signature::Rs256 => &RSA_PKCS1_SHA256,
        };
        let mut signature = vec![0; loaded.key.public_modulus_len()];
        let signed = loaded.key.sign(scheme, &SystemRandom::new(), message.as_bytes(), &mut signature);
        signed.map_err(|_| self.wrong("key", "cannot sign"))?;
        Ok(Secret::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }

    /// A number that changes when either file does.
    pub(super) fn generation(&self) -> u64 {
        let key = self.key.path(&self.base).map_or(0, |path| fingerprint(&path));
        fingerprint(&self.path) ^ key.rotate_left(1)
    }

    fn head(&self, chain: &[CertificateDer<'_>]) -> Value {
        let thumbprint = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, &chain[0]));
        let mut head = match self.signature {
            Signature::Ps256 => json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint(&SHA256) }),
            Signature::Rs256 => {
                json!({ "alg": "RS256", "typ": "JWT", "x5t": thumbprint(&SHA1_FOR_LEGACY_USE_ONLY) })
            }
        };
        if self.send_chain {
            head["x5c"] = chain.iter().map(|der| STANDARD.encode(der)).collect();
        }
        head
    }

    fn load(&self) -> Result<Loaded, TokenError> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
            .map_err(|error| TokenError::new(ErrorCode::FileUnreadable, format!("{}: {error}", self.path.display())))?;
        let chain = pem::certificates(&bytes).map_err(|why| self.wrong("certificate", why))?;
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0])
            .map_err(|_| self.wrong("certificate", "holds no X.509 certificate"))?;
        let ends = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        let key = rsa_key(proof::read(&self.key, &self.base)?.expose()).map_err(|why| self.wrong("key", why))?;
        if key.public_key().as_ref() != leaf.public_key().subject_public_key.data.as_ref() {
            return Err(self.wrong("key", "does not belong to the certificate, which must be the first in its file"));
        }
        let ends = UNIX_EPOCH.checked_add(Duration::from_secs(ends)).unwrap_or(UNIX_EPOCH);
        Ok(Loaded { chain, key, ends })
    }

    fn wrong(&self, setting: &str, why: impl std::fmt::Display) -> TokenError {
        let message = match setting {
            "key" => format!("{setting}: {} {why}", self.key),
            _ => format!("{setting}: {} {why}", self.path.display()),
        };
        TokenError::new(ErrorCode::SourceMisconfigured, message)
    }
}

fn rsa_key(text: &str) -> Result<RsaKeyPair, String> {
    let refused = |_| "is not an RSA key of 2048 to 8192 bits".to_owned();
    match pem::private_key(text)? {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(refused),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(refused),
        _ => Err("is not an RSA key; Entra takes no other".to_owned()),
    }
}

/// 128 random bits: an assertion is used once.
fn unique() -> Result<String, TokenError> {
    let mut bytes = [0_u8; 16];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_err(|_| TokenError::new(ErrorCode::SourceUnavailable, "the operating system has no random bytes"))?;
    Ok(pem::hex(&bytes))
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
