//! The files of one relay, opened for a command: nobody else's command changes them meanwhile.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, TryLockError},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use daemon::config::{Loaded, Overrides, SecretRef, load_again, load_settings};
use identity::secret::Secret;
use proto::hybrid::address::segments;

use super::{
    OwnerError, Which,
    files::{self, make_private_folder},
    layout::{Layout, join_text},
};
use crate::{
    sender::Address,
    serve::{Config, Written, folder, written},
};

/// Loopback port of a relay's admin server, when its configuration names none.
pub const ADMIN_PORT: u16 = 9310;

/// Where keys and join strings are put.
const KEYS: &str = "keys";

/// An opened configuration.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) loaded: Loaded<Config>,
    /// Where a running relay would answer.
    pub(super) admin: SocketAddr,
    /// Held until the command ends.
    _lock: File,
}

impl Home {
    pub(super) fn open(which: &Which) -> Result<Self, OwnerError> {
        let overrides = Overrides::from_environment(std::env::vars_os())?;
        let loaded = load_again(&which.config, &overrides)?;
        let settings = load_settings(&which.config, &overrides)?;
        let admin = settings.admin.addresses(ADMIN_PORT).next().unwrap_or_else(|| ([127, 0, 0, 1], ADMIN_PORT).into());
        let lock = File::open(&which.config).map_err(OwnerError::io(&which.config))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { loaded, admin, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OwnerError::Busy(which.config.clone())),
            Err(TryLockError::Error(error)) => Err(OwnerError::io(&which.config)(error)),
        }
    }

    /// Every hybrid connection that is configured.
    pub(super) fn entities(&self) -> Result<BTreeMap<Vec<String>, Written>, OwnerError> {
        Ok(written(&self.loaded, &mut BTreeSet::new())?)
    }

    /// The one of this name.
    pub(super) fn entity(&self, name: &str) -> Result<Option<Written>, OwnerError> {
        Ok(self.entities()?.remove(&segments(name)))
    }

    /// The folder of entities, made if it is not there.
    pub(super) fn folder(&self) -> Result<PathBuf, OwnerError> {
        let folder = folder(&self.loaded).ok_or_else(|| OwnerError::NoFolder(self.loaded.path.clone()))?;
        std::fs::create_dir_all(&folder).map_err(OwnerError::io(&folder))?;
        Ok(folder)
    }

    /// The folder of keys.
    pub(super) fn keys(&self) -> PathBuf {
        self.loaded.base.join(KEYS)
    }

    /// The same, made if it is not there.
    pub(super) fn make_keys(&self) -> Result<PathBuf, OwnerError> {
        let keys = self.keys();
        make_private_folder(&keys).map(|()| keys)
    }

    /// Every key file that is named anywhere, by its one spelling.
    pub(super) fn named_keys(&self) -> Result<BTreeSet<PathBuf>, OwnerError> {
        let common = self.loaded.values.rules.values().flat_map(|rule| &rule.keys);
        let common = common.filter_map(|key| real(&key.path(&self.loaded.base)?));
        Ok(self.entities()?.values().flat_map(keys_of).chain(common).collect())
    }

    /// A path as it is told: from where relay.yaml lies.
    pub(super) fn shown(&self, path: &Path) -> String {
        let base = &self.loaded.base;
        // A key is named from its entity's file: `entities.d/../keys/…`.
        let real = (base.canonicalize().ok()).zip(path.canonicalize().ok());
        let below = real.and_then(|(base, path)| path.strip_prefix(base).map(Path::to_owned).ok());
        below.as_deref().or(path.strip_prefix(base).ok()).unwrap_or(path).display().to_string()
    }

    /// Where clients reach a hybrid connection: at `endpoint`, or as the configuration lets one guess.
    pub(super) fn address(&self, endpoint: Option<&str>, name: &str) -> Result<Address, OwnerError> {
        let endpoint = match endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => self.endpoint()?,
        };
        let unfit = |error| OwnerError::Unfit(format!("--endpoint {endpoint}: {endpoint}/{name} {error}"));
        let address: Address = format!("{endpoint}/{name}").parse().map_err(unfit)?;
        if address.path == name && !address.host.is_empty() {
            Ok(address)
        } else {
            Err(OwnerError::Unfit(format!("--endpoint {endpoint}: write sb://host or sb://host:port, and no path")))
        }
    }

    fn endpoint(&self) -> Result<String, OwnerError> {
        let Config { namespace, listen, .. } = &self.loaded.values;
        let is_loopback =
            namespace == "localhost" || namespace.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let (tls, port) = match (listen.iter().find(|listen| listen.tls.is_some()), listen.first()) {
            (Some(listen), _) => (true, listen.address.port()),
            (None, Some(listen)) if is_loopback => (false, listen.address.port()),
            // Without TLS of its own it stands behind something that has it.
            (None, _) => (true, 443),
        };
        match (tls, port) {
            (_, 0) => Err(OwnerError::Unfit(
                "the relay's port is 0, so say where it is reached: --endpoint sb://host:port".into(),
            )),
            (true, 443) => Ok(format!("sb://{namespace}")),
            (true, port) => Ok(format!("sb://{namespace}:{port}")),
            (false, port) => Ok(format!("ws://{namespace}:{port}")),
        }
    }

    /// The files that belong to a name.
    pub(super) fn layout(&self, folder: &Path, name: &str) -> Result<Layout, OwnerError> {
        Layout::new(folder, &self.keys(), name)
    }
}

/// Key files of a hybrid connection's own rules that are there.
pub(super) fn keys_of(written: &Written) -> impl Iterator<Item = PathBuf> {
    let keys = written.config.rules.values().flat_map(|rule| &rule.keys);
    keys.filter_map(|key| real(&key.path(written.at.base())?))
}

/// One spelling of each path; nothing for what is not there.
pub(super) fn real(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

/// Writes the join string of a side, from the primary key that lies there.
pub(super) fn write_join(address: &Address, rule: &str, key: &Path, join: &Path) -> Result<(), OwnerError> {
    let primary = read_key(key)?;
    let text = join_text(address, rule, primary.expose())
        .ok_or_else(|| OwnerError::Unfit(format!("{}: holds a `;`, which no join string can carry", key.display())))?;
    files::put_secret(join, &Secret::new(text))
}

/// A key, judged as the relay judges it.
pub(super) fn read_key(path: &Path) -> Result<Secret, OwnerError> {
    let reference = SecretRef::File(path.to_owned());
    Ok(reference.read(Path::new(".")).map(Into::into)?)
}
