//! What the tunnel port shows now: the leaf in use, and the CAs that vouch for it and will. The files are followed while
//! the gateway runs; new connections see what has changed, and watchers are told of new CAs. What cannot be used leaves
//! the old in force and is tried again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use daemon::{
    audit::{Journal, fields},
    process::{Context, explain},
    watch::Snapshot,
};
use identity::{
    ca::Leaf,
    tls::{ServerTls, TlsError},
};
use tokio::sync::watch;

use super::{Authority, ClientFiles, IdentityError, clients::ClientText};

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
    clients: Option<ClientFiles>,
    /// Told when other client certificates are good than before.
    clients_changed: watch::Sender<()>,
    tls: ArcSwap<ServerTls>,
    basis: ArcSwap<Basis>,
    anchors: watch::Sender<Anchors>,
}

/// What the TLS configurations were made of.
#[derive(Debug)]
struct Basis {
    authority: Authority,
    leaf: Leaf,
    clients: Option<ClientText>,
}

/// What a look has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Another leaf is shown.
    pub leaf: bool,
    /// Other CAs are published.
    pub anchors: bool,
    /// Other clients are let in.
    pub clients: bool,
}

impl Shown {
    /// Loads or makes the leaf. `clients` are the files with the CAs of clients.
    ///
    /// # Errors
    /// As [`Authority::leaf`], and when what is in `clients` cannot be used.
    pub fn new(
        authority: Authority,
        names: Vec<String>,
        clients: Option<ClientFiles>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf = authority.leaf(&names, now)?;
        let basis = Basis { leaf, clients: clients.as_ref().map(ClientFiles::read).transpose()?, authority };
        let tls = ArcSwap::from_pointee(basis.tls(clients.as_ref())?);
        let anchors = watch::Sender::new(basis.authority.published().into());
        let (basis, clients_changed) = (ArcSwap::from_pointee(basis), watch::Sender::new(()));
        Ok(Self { names, clients, clients_changed, tls, basis, anchors })
    }

    /// The TLS configurations in force now.
    pub fn tls(&self) -> Arc<ServerTls> {
        self.tls.load_full()
    }

    /// When the leaf in use ends.
    pub fn ends(&self) -> Option<SystemTime> {
        super::ends(&self.basis.load().leaf.certificate)
    }

    /// CA certificates, PEM.
    pub fn anchors(&self) -> Anchors {
        Arc::clone(&self.anchors.borrow())
    }

    /// Tells when they change.
    pub fn follow_anchors(&self) -> watch::Receiver<Anchors> {
        self.anchors.subscribe()
    }

    /// Tells when other client certificates are good than before.
    pub fn clients_changed(&self) -> watch::Receiver<()> {
        self.clients_changed.subscribe()
    }

    /// Reads the files again, lets another CA sign and renews the leaf if that is due. What vouches for clients and cannot
    /// be used leaves as it was whom they are judged by, and nothing else: the gateway's own certificate must not end for it.
    ///
    /// # Errors
    /// As [`Shown::new`], but for that; what was shown before stays.
    pub fn look(&self, now: SystemTime) -> Result<Changed, IdentityError> {
        let clients = self.clients.as_ref().map(ClientFiles::read).transpose();
        match clients.and_then(|clients| self.renew(clients, now)) {
            Err(error @ IdentityError::ClientCa { .. }) => {
                let error = explain(&error);
                tracing::error!(%error, "what vouches for clients cannot be used; what did before stays in force");
                let clients = self.basis.load().clients.clone();
                self.renew(clients, now)
            }
            looked => looked,
        }
    }

    fn renew(&self, clients: Option<ClientText>, now: SystemTime) -> Result<Changed, IdentityError> {
        let old = self.basis.load();
        let mut authority = old.authority.again()?;
        if authority.promote_if_due(now)? {
            authority = authority.again()?;
        }
        let keep = authority.will_do(&old.leaf.certificate, &self.names, now);
        let leaf = if keep { old.leaf.clone() } else { authority.leaf(&self.names, now)? };
        let published: Anchors = authority.published().into();
        let changed =
            Changed { leaf: !keep, anchors: *self.anchors.borrow() != published, clients: clients != old.clients };
        if changed == Changed::default() {
            return Ok(changed);
        }
        let basis = Basis { authority, leaf, clients };
        if changed.leaf || changed.clients {
            self.tls.store(Arc::new(basis.tls(self.clients.as_ref())?));
        }
        self.basis.store(Arc::new(basis));
        if changed.anchors {
            self.anchors.send_replace(published);
        }
        if changed.clients {
            self.clients_changed.send_replace(());
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
        files.extend(self.clients.iter().flat_map(ClientFiles::paths));
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
        if changed.clients {
            tracing::info!("the CAs of clients or their revocation lists changed");
            journal.tell("client_ca_changed", fields([]));
        }
    }
}

impl Basis {
    /// The CA goes with the leaf: a connector that has pinned it, and does not have it, must see it.
    fn tls(&self, files: Option<&ClientFiles>) -> Result<ServerTls, IdentityError> {
        let (chain, key) = (format!("{}{}", self.leaf.certificate, self.authority.signing()), self.leaf.key.expose());
        let refused = |error: TlsError| match files {
            Some(files) => files.refused(&error),
            None => IdentityError::Tls(error),
        };
        match &self.clients {
            Some(text) => ServerTls::from_pem_with_clients(&chain, key, text.clients(), ALPN).map_err(refused),
            None => ServerTls::from_pem(&chain, key, ALPN).map_err(IdentityError::Tls),
        }
    }
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
