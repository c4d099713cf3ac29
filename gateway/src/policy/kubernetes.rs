//! The kind `kubernetes`: requests to the API server of the gateway's own cluster (SD-4). [`mod@request`] reads what a
//! request asks for exactly as the API server does, [`mod@grant`] is what a rule says of it, [`mod@identity`] as whom the
//! gateway then speaks.

pub mod grant;
pub mod identity;
pub mod request;

pub use grant::{Grant, GrantError};
pub use identity::{Identity, NameError};
pub use request::{Request, Unreadable, Verb};
