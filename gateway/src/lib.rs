//! The gateway in the cluster, and the connector outside of it.

pub mod call;
pub mod connect;
pub mod describe;
mod held;
pub mod kubeconfig;
pub mod policy;
pub mod serve;
pub mod trust;
