//! `relay check`: walks the way to a relay step by step, on this machine, with this configuration, and says of each step
//! whether it works, what to do if not, and what works but should be known.
//!
//! Everything is asked with the protocol alone, so Azure Relay is checked like a relay of ours. It changes nothing: for
//! a moment it is one more listener or sender, and what a credential should not be able to do is tried where it disturbs
//! nobody. Words of relays and proxies are repeated cleaned; no secret is.
mod channel;
mod code;
mod command;
mod finding;
mod listeners;
mod path;
mod probe;
mod tls;
mod token;
mod trip;

use std::path::Path;

use identity::tls::{TlsError, Trust, roots};

pub use self::{
    code::Code,
    command::{Args, run},
    finding::{Finding, Stage, Status},
};
use self::{probe::Probe, tls::Witness, token::Judged};
use crate::{
    dial::Dialer,
    sender::{Address, Credential},
};

/// Which side a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// It should have Listen and nothing else.
    Listener,
    /// It should have Send and nothing else.
    Sender,
}

impl Role {
    fn right(self) -> &'static str {
        match self {
            Self::Listener => "Listen",
            Self::Sender => "Send",
        }
    }
}

/// One hybrid connection to check.
#[derive(Debug)]
pub struct Subject {
    /// Where it is.
    pub address: Address,
    /// As whom.
    pub credential: Credential,
    /// On which side.
    pub role: Role,
    /// Control channels that the listener will hold.
    pub channels: usize,
    /// A sender's credential beside a listener's, for a real rendezvous.
    pub other: Option<Credential>,
    /// As in the listener's configuration.
    pub rendezvous_hosts: Vec<String>,
    /// As in the listener's configuration.
    pub rendezvous_ports: Vec<u16>,
}

/// How the relay is reached and trusted.
#[derive(Debug)]
pub struct Surroundings {
    dialer: Dialer,
    trust: Trust,
    roots: rustls::RootCertStore,
}

impl Surroundings {
    /// As the configuration says; relative paths are below `base`.
    pub fn new(dialer: Dialer, trust: Trust, base: &Path) -> Result<Self, TlsError> {
        Ok(Self { dialer, roots: roots(&trust, base)?, trust })
    }
}

/// Checks one hybrid connection. The findings are in the order of the stages; after the first failure on the way nothing
/// more is asked.
pub async fn check(subject: &Subject, surroundings: &Surroundings) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(failed) = steps(subject, surroundings, &mut found).await {
        found.push(failed);
    }
    found
}

async fn steps(subject: &Subject, surroundings: &Surroundings, found: &mut Vec<Finding>) -> Result<(), Finding> {
    let nobody = || Finding::fail(Stage::Tls, Code::Untrusted, "`trust` names nobody who could vouch for a relay");
    // On loopback without TLS nobody has to.
    let witness = match Witness::new(surroundings.roots.clone()) {
        Some(witness) => Some(witness),
        None if subject.address.tls => return Err(nobody()),
        None => None,
    };
    let tls = match &witness {
        Some(witness) => witness.client(),
        None => identity::tls::client(surroundings.roots.clone(), &[b"http/1.1"]),
    };
    let probe = Probe { address: &subject.address, dialer: &surroundings.dialer, tls };
    Box::pin(path::walk(&probe, witness.as_deref(), &surroundings.trust, found)).await?;
    let judged: Judged = Box::pin(token::judge(&probe, subject, found)).await?;
    if judged.channel.is_some() {
        // With a sender's token a relay that does not know this question would ask its listeners.
        found.extend(Box::pin(listeners::besides_us(&probe, &judged.token)).await);
    }
    found.push(match subject.role {
        Role::Listener => Box::pin(trip::listener(&probe, subject, judged)).await,
        Role::Sender => Box::pin(trip::sender(&probe, subject)).await,
    });
    Ok(())
}
