//! Builders for end-to-end tests: the real programs as processes, in a private folder, on ports that the kernel chose,
//! against real clients and targets.
//!
//! A test is one future under one deadline ([`wait::within`]). Inside it nothing sleeps: everything waits for a
//! condition. When a test fails, each process that it had started prints its log.

pub mod chromium;
pub mod conformance;
pub mod curl;
pub mod driver;
pub mod hyco;
pub mod kubernetes;
pub mod log;
pub mod namespace;
pub mod nginx;
pub mod node;
pub mod pattern;
pub mod pki;
pub mod process;
pub mod programs;
pub mod python;
pub mod recorder;
pub mod site;
pub mod squid;
pub mod targets;
pub mod token_endpoint;
pub mod tokens;
pub mod topology;

pub mod wait;
