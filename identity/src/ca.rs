//! A small certificate authority (ECDSA P-256): makes a CA, signs leaves. Keys leave as [`Secret`] and nowhere else.
//! Serial numbers are random, begins are set back a little, and a leaf never outlives the CA that signed it.
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use time::OffsetDateTime;

use crate::{secret::Secret, tls};

/// Certificates begin this much in the past, because the clocks of two machines differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A CA: its certificate and key as PEM.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Certificate, PEM.
    pub certificate: String,
    /// Private key, PKCS#8 PEM.
    pub key: Secret,
}

/// A leaf: its chain and key as PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Leaf, PEM.
    pub certificate: String,
    /// Private key, PKCS#8 PEM.
    pub key: Secret,
}

/// What a leaf is for.
#[derive(Debug, Clone)]
pub struct LeafRequest {
    /// Common name.
    pub name: String,
    /// DNS names and IP addresses.
    pub hosts: Vec<String>,
    /// URI subject alternative names (`causeway://factory-a`).
    pub uris: Vec<String>,
    /// Life.
    pub life: Duration,
    /// Usable by TLS clients too.
    pub client: bool,
}

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Key or certificate is not usable.
    #[error("certificate generation failed")]
    Generate(#[from] rcgen::Error),
    /// The CA's own certificate cannot be read, or is no CA.
    #[error("the CA certificate cannot sign: {0}")]
    Authority(String),
}

impl Authority {
    /// Makes a new CA, which may sign leaves and nothing else (path length 0).
    pub fn generate(name: &str, life: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = params(name, life, SystemTime::now());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: Secret::new(key.serialize_pem()) })
    }

    /// Whether the key is the certificate's.
    pub fn is_whole(&self) -> bool {
        KeyPair::from_pem(self.key.expose())
            .is_ok_and(|key| spki_sha256(&self.certificate).is_ok_and(|pin| pin == key_sha256(&key)))
    }

    /// Signs a leaf with a key of its own. Its life is cut to the CA's.
    pub fn issue(&self, request: &LeafRequest) -> Result<Leaf, CaError> {
        self.issue_at(request, SystemTime::now())
    }

    /// The same for a life that begins at `now`.
    pub fn issue_at(&self, request: &LeafRequest, now: SystemTime) -> Result<Leaf, CaError> {
        let key = KeyPair::generate()?;
        let mut params = params(&request.name, request.life, now);
        params.not_after = params.not_after.min(self.ends()?);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if request.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        for host in &request.hosts {
            params.subject_alt_names.push(match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        for uri in &request.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(self.key.expose())?)?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Leaf { certificate, key: Secret::new(key.serialize_pem()) })
    }

    fn ends(&self) -> Result<OffsetDateTime, CaError> {
        let unusable = |problem: String| CaError::Authority(problem);
        let der = tls::pem::first_certificate(&self.certificate).map_err(unusable)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| unusable(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(unusable("its basic constraints do not say CA".to_owned()));
        }
        Ok(parsed.validity().not_after.to_datetime())
    }
}

fn key_sha256(key: &KeyPair) -> String {
    tls::pem::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info()).as_ref())
}

fn params(name: &str, life: Duration, now: SystemTime) -> CertificateParams {
    let now = OffsetDateTime::from(now);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    params
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, lower-case hex.
pub fn spki_sha256(certificate_pem: &str) -> Result<String, tls::TlsError> {
    let der = tls::pem::first_certificate(certificate_pem).map_err(|message| tls::TlsError::Pem { message })?;
    tls::pem::spki_sha256(&der).map_err(|message| tls::TlsError::Pem { message })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn leaf(authority: &Authority) -> Leaf {
        let request = LeafRequest {
            name: "gateway".to_owned(),
            hosts: vec!["gw.example.com".to_owned(), "127.0.0.1".to_owned()],
            uris: vec!["causeway://factory-a".to_owned()],
            life: Duration::from_secs(30 * 24 * 3600),
            client: false,
        };
        authority.issue(&request).unwrap()
    }

    #[test]
    fn a_leaf_carries_its_names_and_its_uri() {
        let authority = Authority::generate("test CA", YEAR).unwrap();
        let der = tls::pem::first_certificate(&leaf(&authority).certificate).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value.general_names);
        for wanted in ["gw.example.com", "causeway://factory-a", "[127, 0, 0, 1]"] {
            assert!(names.contains(wanted), "{wanted} in {names}");
        }
        assert!(!parsed.is_ca());
    }

    #[test]
    fn a_leaf_never_outlives_its_ca() {
        let authority = Authority::generate("short", Duration::from_secs(3600)).unwrap();
        let ends = |pem: &str| {
            let der = tls::pem::first_certificate(pem).unwrap();
            x509_parser::parse_x509_certificate(&der).unwrap().1.validity().not_after.timestamp()
        };
        assert_eq!(ends(&leaf(&authority).certificate), ends(&authority.certificate));
    }

    #[test]
    fn a_leaf_cannot_sign_as_if_it_were_a_ca() {
        let authority = Authority::generate("test CA", YEAR).unwrap();
        let Leaf { certificate, key } = leaf(&authority);
        let impostor = Authority { certificate, key };
        let request = LeafRequest { name: "x".into(), hosts: vec![], uris: vec![], life: YEAR, client: false };
        assert!(matches!(impostor.issue(&request), Err(CaError::Authority(_))));
    }

    #[test]
    fn a_ca_is_whole_with_its_own_key_alone() {
        let (one, two) = (Authority::generate("one", YEAR).unwrap(), Authority::generate("two", YEAR).unwrap());
        assert!(one.is_whole());
        assert!(!Authority { key: two.key, ..one.clone() }.is_whole());
        assert!(!Authority { key: Secret::new("no key"), ..one }.is_whole());
    }

    #[test]
    fn spki_hash_is_lower_case_hex_and_follows_the_key() {
        let authority = Authority::generate("test CA", YEAR).unwrap();
        let hash = spki_sha256(&authority.certificate).unwrap();
        assert_eq!(hash.len(), 64);
        assert!(hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)));
        assert_ne!(hash, spki_sha256(&Authority::generate("test CA", YEAR).unwrap().certificate).unwrap());
        assert!(spki_sha256("no certificate").is_err());
    }

    /// An independent judge of the bytes, where there is one.
    #[test]
    fn openssl_agrees_with_chain_and_hash() {
        if Command::new("openssl").arg("version").output().is_err() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (ca, end) = (folder.path().join("ca.pem"), folder.path().join("leaf.pem"));
        let authority = Authority::generate("test CA", YEAR).unwrap();
        std::fs::write(&ca, &authority.certificate).unwrap();
        std::fs::write(&end, leaf(&authority).certificate).unwrap();
        let verified = Command::new("openssl").args(["verify", "-x509_strict", "-CAfile"]).args([&ca, &end]).output();
        let verified = verified.unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let script = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256";
        let hash = Command::new("sh").args(["-c", script]).arg(&ca).output().unwrap();
        assert!(String::from_utf8_lossy(&hash.stdout).contains(&spki_sha256(&authority.certificate).unwrap()));
    }
}
