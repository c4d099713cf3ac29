//! Who a TLS client certificate says its holder is. Call it only with the chain of a session whose handshake verified
//! it; the chain by itself proves nothing.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::principal::{Principal, Proof};

/// Name of the authenticator that stands for client certificates: principals are `mtls/<URI or common name>`.
pub const AUTHENTICATOR: &str = "mtls";

/// Longest subject taken from a certificate; SPIFFE allows 2048 bytes, nobody uses a fraction of it.
const MAX_SUBJECT: usize = 512;

/// Why a verified certificate names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No certificate was shown.
    #[error("no client certificate was shown")]
    Absent,
    /// The certificate cannot be read.
    #[error("the client certificate cannot be parsed")]
    Unreadable,
    /// Neither one URI name nor one common name.
    #[error(
        "the client certificate names nobody: it needs exactly one URI subject alternative name, or one common name"
    )]
    Nameless,
    /// A name that is too long or not printable.
    #[error("the name in the client certificate is empty, longer than 512 bytes, or not printable")]
    BadName,
}

/// The principal of a verified client certificate: its one URI subject alternative name, else its one common name.
/// Several URIs are refused, because policy could then be written against one and met by another.
pub fn peer_principal(chain: &[CertificateDer<'_>]) -> Result<Principal, PeerError> {
    let leaf = chain.first().ok_or(PeerError::Absent)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| PeerError::Unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let subject = match uris.as_slice() {
        [uri] => *uri,
        [] => {
            let mut names = parsed.subject().iter_common_name();
            let (Some(name), None) = (names.next(), names.next()) else { return Err(PeerError::Nameless) };
            name.as_str().map_err(|_| PeerError::BadName)?
        }
        _ => return Err(PeerError::Nameless),
    };
    if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return Err(PeerError::BadName);
    }
    Ok(Principal {
        authenticator: AUTHENTICATOR.into(),
        subject: subject.into(),
        groups: [].into(),
        roles: [].into(),
        scopes: [].into(),
        claims: [].into(),
        proof: Proof { serial: Some(serial(&parsed).into()), ..Proof::default() },
        expires: not_after(&parsed),
    })
}

/// The serial number as people write it: hexadecimal digits, without the zeros that DER puts in front.
fn serial(parsed: &x509_parser::certificate::X509Certificate<'_>) -> String {
    let digits = super::pem::hex(parsed.raw_serial());
    let shown = digits.trim_start_matches('0');
    if shown.is_empty() { "0".to_owned() } else { shown.to_owned() }
}

/// When a certificate ends.
pub(crate) fn not_after(parsed: &x509_parser::certificate::X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(seconds)
}
