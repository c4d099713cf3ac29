//! The trust file: the public half of a cluster's identity, carried by its owner to the connector (SD-1).
use serde::{Deserialize, Serialize};

/// `factory-a.trust.yaml`, written by `gateway trust export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustFile {
    /// Cluster id; the gateway's leaf must carry the URI `causeway://<cluster>`.
    pub cluster: String,
    /// CA certificates, PEM; several during a rotation.
    pub certificates: Vec<String>,
    /// SHA-256 of each CA's SubjectPublicKeyInfo, lower-case hex, in the same order.
    pub spki_sha256: Vec<String>,
    /// SPKI SHA-256 of a CA kept offline, accepted when it appears.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup_pins: Vec<String>,
}
