//! The leaf in use: what the tunnel port shows now, and its renewal while the gateway runs. New connections see the new
//! one; a renewal that fails leaves the old one in force and is tried again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use daemon::{audit::Journal, process::Context};
use identity::{ca::Leaf, tls::ServerTls};

use super::{Authority, IdentityError};

/// How often the running gateway looks whether its leaf is due. The wall clock may step, so it does not sleep for weeks.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// ALPN names of the tunnel port, in the order of SD-10.
pub const ALPN: &[&[u8]] = &[proto::tunnel::ALPN, b"h2", b"http/1.1"];

/// What the tunnel port shows, and its renewal.
#[derive(Debug)]
pub struct Shown {
    authority: Authority,
    names: Vec<String>,
    client_ca: Option<String>,
    tls: ArcSwap<ServerTls>,
    leaf: ArcSwap<String>,
}

impl Shown {
    /// Loads or makes the leaf.
    ///
    /// # Errors
    /// As [`Authority::leaf`], and when the certificates of `client_ca` (PEM) cannot be used.
    pub fn new(
        authority: Authority,
        names: Vec<String>,
        client_ca: Option<String>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf = authority.leaf(&names, now)?;
        let tls = server_tls(&leaf, client_ca.as_deref())?;
        let (tls, leaf) = (ArcSwap::from_pointee(tls), ArcSwap::from_pointee(leaf.certificate));
        Ok(Self { authority, names, client_ca, tls, leaf })
    }

    /// The TLS configurations in force now.
    pub fn tls(&self) -> Arc<ServerTls> {
        self.tls.load_full()
    }

    /// CA certificates, PEM.
    pub fn anchors(&self) -> &[String] {
        self.authority.certificates()
    }

    /// Renews the leaf if it is due; says whether it did.
    ///
    /// # Errors
    /// As [`Authority::leaf`]; what was shown before stays.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, IdentityError> {
        if self.authority.will_do(&self.leaf.load(), &self.names, now) {
            return Ok(false);
        }
        let leaf = self.authority.leaf(&self.names, now)?;
        self.tls.store(Arc::new(server_tls(&leaf, self.client_ca.as_deref())?));
        self.leaf.store(Arc::new(leaf.certificate));
        Ok(true)
    }

    /// SHA-256 of the key that is shown now.
    fn leaf_fingerprint(&self) -> Option<String> {
        identity::ca::spki_sha256(&self.leaf.load()).ok()
    }

    /// Renews the leaf whenever it is due, until draining begins.
    pub async fn keep_renewed(self: Arc<Self>, context: Context, journal: Journal) {
        loop {
            tokio::select! {
                biased;
                () = context.shutdown.draining() => return,
                () = tokio::time::sleep(RENEWAL_CHECK) => {}
            }
            match self.renew_if_due(context.clock.now()) {
                Ok(true) => {
                    tracing::info!("gateway certificate renewed");
                    let leaf = daemon::audit::fields([("spki_sha256", self.leaf_fingerprint().map(Into::into))]);
                    journal.tell("key_renewed", leaf);
                }
                Ok(false) => {}
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "gateway certificate cannot be renewed; the old one stays");
                }
            }
        }
    }
}

fn server_tls(leaf: &Leaf, client_ca: Option<&str>) -> Result<ServerTls, IdentityError> {
    match client_ca {
        Some(ca) => ServerTls::from_pem_with_clients(&leaf.certificate, leaf.key.expose(), ca, ALPN),
        None => ServerTls::from_pem(&leaf.certificate, leaf.key.expose(), ALPN),
    }
    .map_err(IdentityError::Tls)
}
