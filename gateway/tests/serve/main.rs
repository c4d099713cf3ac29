//! A running gateway, called through real tunnels, with real targets behind it.

mod http;
mod identity_of_callers;
mod lifecycle;
mod policy;
mod services;
mod support;
mod target;
mod tcp;
