//! The gateway in the cluster, and the connector outside of it.

pub mod blocked;
pub mod call;
pub mod connect;
pub mod describe;
pub mod fault;
mod held;
pub mod kubeconfig;
pub mod policy;
pub mod serve;
pub mod traces;
pub mod trust;
