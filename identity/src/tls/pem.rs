//! PEM to DER, with messages that say what a person should look at. Messages never hold key material.
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};

/// All certificates of a PEM text, in order; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not well-formed PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(found)
}

/// The first certificate of a PEM text.
pub(crate) fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, String> {
    certificates(pem.as_bytes()).map(|mut all| all.swap_remove(0))
}

/// All revocation lists of a PEM text; at least one.
pub(crate) fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not well-formed PEM: {error}"))?;
    if found.is_empty() {
        return Err("holds no PEM revocation list (-----BEGIN X509 CRL-----)".to_owned());
    }
    Ok(found)
}

/// The first private key of a PEM text.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| "holds no usable PEM private key (PKCS#8, SEC1 or PKCS#1, without a password)".to_owned())
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, lower-case hex.
pub(crate) fn spki_sha256(der: &CertificateDer<'_>) -> Result<String, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(der).map_err(|error| format!("is no certificate: {error}"))?;
    Ok(hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, parsed.public_key().raw).as_ref()))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
