//! What every Causeway process does the same way: configuration, logs, metrics, the admin port, health, files that
//! change, shutdown, and the one clock.

pub mod admin;
pub mod audit;
pub mod clock;
pub mod config;
pub mod log;
pub mod metrics;
pub mod process;
pub mod reference;
pub mod schema;
pub mod shutdown;
pub mod traces;
pub mod watch;
pub mod workers;
