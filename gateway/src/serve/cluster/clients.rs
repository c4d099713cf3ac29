//! Who vouches for client certificates: the CAs and their revocation lists, in files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use identity::tls::Clients;

use super::IdentityError;
use crate::serve::config::Listen;

/// The files.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    ca: PathBuf,
    crl: Option<PathBuf>,
}

/// What is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientText {
    ca: String,
    crl: Option<String>,
}

impl ClientText {
    /// As the TLS configuration is made of it.
    pub(super) fn clients(&self) -> Clients<'_> {
        Clients { ca: &self.ca, crl: self.crl.as_deref() }
    }
}

impl ClientFiles {
    /// The files that a config below `base` names, if client certificates are asked for at all.
    pub fn new(listen: &Listen, base: &Path) -> Option<Self> {
        let ca = base.join(listen.client_ca.as_ref()?);
        Some(Self { ca, crl: listen.client_crl.as_ref().map(|path| base.join(path)) })
    }

    #[cfg(test)]
    pub(super) fn of(ca: PathBuf) -> Self {
        Self { ca, crl: None }
    }

    /// Reads them now.
    pub(super) fn read(&self) -> Result<ClientText, IdentityError> {
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(|error| unusable(path, &error));
        Ok(ClientText { ca: read(&self.ca)?, crl: self.crl.as_ref().map(read).transpose()? })
    }

    /// To be followed.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        [Some(self.ca.clone()), self.crl.clone()].into_iter().flatten().collect()
    }

    /// That what they hold cannot be used; the message says which of the two it is.
    pub(super) fn refused(&self, error: &impl ToString) -> IdentityError {
        unusable(&self.ca, error)
    }
}

fn unusable(path: &Path, error: &impl ToString) -> IdentityError {
    IdentityError::ClientCa { path: path.to_owned(), message: error.to_string() }
}
