//! Who may call, and tokens for those who may: secrets, TLS from files, JWT and SAS verification, token sources and
//! the one cache, and the sidecar.

pub mod ca;
pub mod chance;
pub mod http_client;
pub mod jwt;
pub mod principal;
pub mod sas;
pub mod secret;
pub mod sidecar;
pub mod tls;
pub mod token;

#[cfg(test)]
mod testing;
