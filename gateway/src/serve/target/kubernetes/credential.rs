//! The gateway's own credential for the API server: a token that Kubernetes renews in its file, and the CAs that vouch for
//! the server. Both are read again when they change. What cannot be used leaves the last good one in force; a token file
//! that is gone leaves the token, which the API server judges.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use daemon::{
    process::Context,
    watch::{Content, Snapshot},
};
use http::HeaderValue;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::serve::target::manner::Tls;

/// What is shown to the API server, and what it must prove.
#[derive(Debug)]
pub struct Credential {
    /// `Bearer <token>`, marked sensitive.
    pub bearer: HeaderValue,
    /// Trust in the server.
    pub tls: Arc<Tls>,
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("{}: it is not there, cannot be read, or is larger than 1 MiB", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
    },
    /// It holds no token.
    #[error("{}: it does not hold one token", path.display())]
    Token {
        /// Which.
        path: PathBuf,
    },
    /// It holds no CA.
    #[error("{}: it does not hold PEM certificates of CAs", path.display())]
    Ca {
        /// Which.
        path: PathBuf,
    },
    /// The files cannot be followed.
    #[error("the files cannot be followed")]
    Watch(#[source] std::io::Error),
}

/// The credential in force.
#[derive(Debug)]
pub struct Credentials(Arc<ArcSwap<Credential>>);

impl Credentials {
    /// Reads the files, and follows them in a task of `context.shutdown`.
    ///
    /// # Errors
    /// When one cannot be used now.
    pub fn start(ca: &Path, token: &Path, context: &Context) -> Result<Self, CredentialError> {
        let files = Files { ca: ca.to_owned(), token: token.to_owned() };
        let mut changes =
            daemon::watch::files(vec![files.ca.clone(), files.token.clone()]).map_err(CredentialError::Watch)?;
        let mut last = changes.borrow_and_update().clone();
        let mut generation = 0;
        let in_force = Arc::new(ArcSwap::from_pointee(Credential {
            bearer: files.bearer(&last)?,
            tls: files.tls(&last, generation)?,
        }));
        let (publish, shutdown) = (Arc::clone(&in_force), context.shutdown.clone());
        context.shutdown.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.forced() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                let now = changes.borrow_and_update().clone();
                let before = publish.load_full();
                let tls = if now.first() == last.first() {
                    Ok(Arc::clone(&before.tls))
                } else {
                    generation += 1;
                    files.tls(&now, generation)
                };
                let bearer = files.bearer(&now);
                for problem in [tls.as_ref().err(), bearer.as_ref().err()].into_iter().flatten() {
                    let error = daemon::process::explain(problem);
                    tracing::error!(%error, "the credential for the API server cannot be used; the old one stays in force");
                }
                publish.store(Arc::new(Credential {
                    bearer: bearer.unwrap_or_else(|_| before.bearer.clone()),
                    tls: tls.unwrap_or_else(|_| Arc::clone(&before.tls)),
                }));
                tracing::info!("the credential for the API server was read again");
                last = now;
            }
        });
        Ok(Self(in_force))
    }

    /// What is in force now.
    pub fn now(&self) -> Arc<Credential> {
        self.0.load_full()
    }
}

struct Files {
    ca: PathBuf,
    token: PathBuf,
}

impl Files {
    fn bearer(&self, contents: &Snapshot) -> Result<HeaderValue, CredentialError> {
        let path = || self.token.clone();
        let bytes = contents.get(1).and_then(Content::bytes);
        let bytes = bytes.ok_or_else(|| CredentialError::Unreadable { path: path() })?;
        let text = str::from_utf8(bytes).map(str::trim).unwrap_or_default();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(CredentialError::Token { path: path() });
        }
        let mut value =
            HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| CredentialError::Token { path: path() })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Connections that were verified by one set of CAs do not serve requests under the next.
    fn tls(&self, contents: &Snapshot, generation: usize) -> Result<Arc<Tls>, CredentialError> {
        let path = || self.ca.clone();
        let bytes = contents.first().and_then(Content::bytes);
        let bytes = bytes.ok_or_else(|| CredentialError::Unreadable { path: path() })?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bytes) {
            let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
            added.ok_or_else(|| CredentialError::Ca { path: path() })?;
        }
        if roots.is_empty() {
            return Err(CredentialError::Ca { path: path() });
        }
        Ok(Arc::new(Tls::new(format!("kubernetes {generation}"), None, roots)))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use identity::ca::Authority;

    use super::*;

    fn write(path: &Path, text: &str) {
        let draft = path.with_extension("next");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, path).unwrap();
    }

    #[tokio::test]
    async fn a_renewed_token_is_used_and_a_bad_one_is_not() {
        identity::tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
        let authority = Authority::generate("test", Duration::from_secs(3600)).unwrap();
        let context = Context::new("test");
        assert!(matches!(Credentials::start(&ca, &token, &context), Err(CredentialError::Unreadable { .. })));
        write(&ca, &authority.certificate);
        write(&token, "two words\n");
        assert!(matches!(Credentials::start(&ca, &token, &context), Err(CredentialError::Token { .. })));
        write(&token, "first\n");
        let credentials = Credentials::start(&ca, &token, &context).unwrap();
        let first = credentials.now();
        assert_eq!(first.bearer, "Bearer first");
        assert!(first.bearer.is_sensitive());

        let changed = async |is: &dyn Fn(&Credential) -> bool| {
            while !is(&credentials.now()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        write(&token, "second");
        changed(&|now| now.bearer == "Bearer second").await;
        assert!(Arc::ptr_eq(&first.tls, &credentials.now().tls), "connections go on being shared");
        // The one change is told by the other, which comes later.
        write(&ca, "no certificate");
        write(&token, "third");
        changed(&|now| now.bearer == "Bearer third").await;
        assert!(Arc::ptr_eq(&first.tls, &credentials.now().tls), "the last good CA stays in force");
        write(&ca, &Authority::generate("next", Duration::from_secs(3600)).unwrap().certificate);
        changed(&|now| !Arc::ptr_eq(&first.tls, &now.tls)).await;
    }
}
