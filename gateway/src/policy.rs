//! The cluster owner's policy: who may call what through the gateway. Deny by default; rules only grant, so their order
//! decides nothing but which of several matching rules is named in the log, and, for requests to the Kubernetes API, as
//! whom they are made.
//!
//! [`mod@file`] is what the owner writes, [`mod@compile`] turns it into a [`Policy`] or says what is wrong, [`mod@decide`] answers
//! one question without I/O and without a clock of its own. Nothing here normalises what a caller sent: a path that two
//! servers could read differently is refused where a rule limits paths.
//!
//! [`mod@deny`] is the owner's list of those who must not come in any more; it stands above every rule.
//!
//! Patterns, the same everywhere: a host pattern is a list of whole labels, where `*` is exactly one label and a leading
//! `**` is one or more; a path pattern is a list of whole segments, where `*` is exactly one non-empty segment and a
//! trailing `**` is anything beneath. There are no regular expressions and no partial wildcards.

pub mod compile;
pub mod decide;
pub mod deny;
pub mod file;
pub mod host;
pub mod kubernetes;
pub mod path;
pub mod rule;
mod shown;

pub use compile::{CompileError, Setting, compile};
pub use decide::{Ask, Denial, Party, Question};
pub use deny::Deny;
pub use file::PolicyFile;
pub use host::Host;
pub use rule::{Policy, Rule};

#[cfg(test)]
mod tests;
