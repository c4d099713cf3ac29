//! The gateway in the cluster, and the connector outside of it.

pub mod call;
pub mod connect;
pub mod describe;
pub mod kubeconfig;
mod held;
pub mod policy;
pub mod serve;
pub mod trust;
