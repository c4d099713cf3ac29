//! What the tunnel port shows now: the leaf in use, and the CAs that vouch for it and will. The files are followed while
//! the gateway runs; new connections see what has changed, and watchers are told of new CAs. What cannot be used leaves
//! the old in force and is tried again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use daemon::{
    audit::{Journal, fields},
    process::{Context, explain},
    watch::Snapshot,
};
use identity::{ca::Leaf, tls::ServerTls};
use tokio::sync::watch;

use super::{Authority, IdentityError};

/// How often the running gateway looks whether something is due. The wall clock may step, so it does not sleep for weeks.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// ALPN names of the tunnel port, in the order of SD-10.
pub const ALPN: &[&[u8]] = &[proto::tunnel::ALPN, b"h2", b"http/1.1"];

/// CA certificates, PEM, the signing one first.
pub type Anchors = Arc<[String]>;

/// What the tunnel port shows, and its renewal.
#[derive(Debug)]
pub struct Shown {
    names: Vec<String>,
    client_ca: Option<PathBuf>,
    tls: ArcSwap<ServerTls>,
    basis: ArcSwap<Basis>,
    anchors: watch::Sender<Anchors>,
}

/// What the TLS configurations were made of.
#[derive(Debug)]
struct Basis {
    authority: Authority,
    leaf: Leaf,
    client_ca: Option<String>,
}

/// What a look has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Another leaf is shown.
    pub leaf: bool,
    /// Other CAs are published.
    pub anchors: bool,
    /// Other clients are let in.
    pub client_ca: bool,
}

impl Shown {
    /// Loads or makes the leaf. `client_ca` is the file with the CAs of clients.
    ///
    /// # Errors
    /// As [`Authority::leaf`], and when the certificates of `client_ca` cannot be used.
    pub fn new(
        authority: Authority,
        names: Vec<String>,
        client_ca: Option<PathBuf>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf = authority.leaf(&names, now)?;
        let basis = Basis { leaf, client_ca: read_client_ca(client_ca.as_deref())?, authority };
        let tls = ArcSwap::from_pointee(basis.tls(client_ca.as_deref())?);
        let anchors = watch::Sender::new(basis.authority.published().into());
        Ok(Self { names, client_ca, tls, basis: ArcSwap::from_pointee(basis), anchors })
    }

    /// The TLS configurations in force now.
    pub fn tls(&self) -> Arc<ServerTls> {
        self.tls.load_full()
    }

    /// CA certificates, PEM.
    pub fn anchors(&self) -> Anchors {
        Arc::clone(&self.anchors.borrow())
    }

    /// Tells when they change.
    pub fn follow_anchors(&self) -> watch::Receiver<Anchors> {
        self.anchors.subscribe()
    }

    /// Reads the files again, lets another CA sign and renews the leaf if that is due.
    ///
    /// # Errors
    /// As [`Shown::new`]; what was shown before stays.
    pub fn look(&self, now: SystemTime) -> Result<Changed, IdentityError> {
        let old = self.basis.load();
        let mut authority = old.authority.again()?;
        if authority.promote_if_due(now)? {
            authority = authority.again()?;
        }
        let client_ca = read_client_ca(self.client_ca.as_deref())?;
        let keep = authority.will_do(&old.leaf.certificate, &self.names, now);
        let leaf = if keep { old.leaf.clone() } else { authority.leaf(&self.names, now)? };
        let published: Anchors = authority.published().into();
        let changed = Changed {
            leaf: !keep,
            anchors: *self.anchors.borrow() != published,
            client_ca: client_ca != old.client_ca,
        };
        if changed == Changed::default() {
            return Ok(changed);
        }
        let basis = Basis { authority, leaf, client_ca };
        if changed.leaf || changed.client_ca {
            self.tls.store(Arc::new(basis.tls(self.client_ca.as_deref())?));
        }
        self.basis.store(Arc::new(basis));
        if changed.anchors {
            self.anchors.send_replace(published);
        }
        Ok(changed)
    }

    /// Looks whenever a file has changed and from time to time, until draining begins.
    pub async fn keep_fresh(self: Arc<Self>, context: Context, journal: Journal) {
        let mut files = self.files();
        loop {
            tokio::select! {
                biased;
                () = context.shutdown.draining() => return,
                () = changed(&mut files) => {}
                () = tokio::time::sleep(RENEWAL_CHECK) => {}
            }
            match self.look(context.clock.now()) {
                Ok(changed) => self.tell(changed, &journal),
                Err(error) => {
                    let error = explain(&error);
                    tracing::error!(%error, "gateway certificate cannot be renewed; the old one stays");
                }
            }
        }
    }

    /// The files by which others change what is shown.
    fn files(&self) -> Option<watch::Receiver<Snapshot>> {
        let folder = self.basis.load().authority.folder();
        let mut files = vec![folder.join("ca.crt"), folder.join("next.pem")];
        files.extend(self.client_ca.clone());
        let followed = daemon::watch::files(files);
        followed
            .inspect_err(|error| tracing::warn!(%error, "the identity's files are looked at every ten minutes only"))
            .ok()
    }

    fn tell(&self, changed: Changed, journal: &Journal) {
        if changed.anchors {
            let pins: Vec<_> = self.anchors().iter().filter_map(|pem| identity::ca::spki_sha256(pem).ok()).collect();
            tracing::info!(published = %pins.join(", "), "the cluster's CAs changed");
            journal.tell("trust_changed", fields([("spki_sha256", Some(pins.into()))]));
        }
        if changed.leaf {
            let pin = identity::ca::spki_sha256(&self.basis.load().leaf.certificate).ok();
            tracing::info!("gateway certificate renewed");
            journal.tell("key_renewed", fields([("spki_sha256", pin.map(Into::into))]));
        }
        if changed.client_ca {
            tracing::info!("the CAs of clients changed, for new tunnels");
            journal.tell("client_ca_changed", fields([]));
        }
    }
}

impl Basis {
    /// The CA goes with the leaf: a connector that has pinned it, and does not have it, must see it.
    fn tls(&self, client_ca: Option<&Path>) -> Result<ServerTls, IdentityError> {
        let (chain, key) = (format!("{}{}", self.leaf.certificate, self.authority.signing()), self.leaf.key.expose());
        match &self.client_ca {
            Some(ca) => {
                ServerTls::from_pem_with_clients(&chain, key, ca, ALPN).map_err(|error| IdentityError::ClientCa {
                    path: client_ca.unwrap_or(Path::new("")).to_owned(),
                    message: error.to_string(),
                })
            }
            None => ServerTls::from_pem(&chain, key, ALPN).map_err(IdentityError::Tls),
        }
    }
}

fn read_client_ca(path: Option<&Path>) -> Result<Option<String>, IdentityError> {
    let Some(path) = path else { return Ok(None) };
    let read = fs::read_to_string(path);
    let read = read.map_err(|error| IdentityError::ClientCa { path: path.to_owned(), message: error.to_string() });
    read.map(Some)
}

async fn changed(files: &mut Option<watch::Receiver<Snapshot>>) {
    if let Some(files) = files
        && files.changed().await.is_ok()
    {
        files.mark_unchanged();
        return;
    }
    std::future::pending().await
}
