//! The sidecar: managed-identity endpoints on loopback that unmodified Azure SDKs look for.
