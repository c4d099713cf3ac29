//! Secrets by reference. A configuration text never holds one, so a configuration can be printed, logged and kept in
//! version control; a secret that was written where its reference belongs is refused without being repeated.
use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use secrecy::{SecretString, zeroize::Zeroize as _};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

use super::ConfigError;

/// Largest secret. Private keys in PEM are a few kilobytes; a larger file is the wrong file.
pub const SECRET_MAX: u64 = 64 * 1024;

/// Marks secrets in a schema, so that printing a configuration knows them.
pub(crate) const MARKER: &str = "x-secret";

const HOW: &str = "a secret is never written here: write { file: … } or { env: … }";

/// Where a secret comes from: `{ file: … }` or `{ env: … }`, never the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// A file, relative to the config file. One trailing newline is not part of the secret. Others must not be able to
    /// read it, except in a mounted Kubernetes volume.
    File(PathBuf),
    /// The same without the check of who else can read it: written `{ file_readable_by_others: … }`.
    FileReadableByOthers(PathBuf),
    /// An environment variable.
    Env(String),
}

impl SecretRef {
    /// Reads the secret. A file is refused when others can read or write it (mode `o+rwx`), unless it lies in a
    /// Kubernetes volume, whose files the kubelet makes readable for everybody in the container; when it is larger than
    /// [`SECRET_MAX`], not UTF-8, or empty.
    pub fn read(&self, base: &Path) -> Result<SecretString, ConfigError> {
        let refused = |message: String| ConfigError::Secret { reference: self.to_string(), message };
        match self {
            Self::File(path) => read_file(&base.join(path), false).map_err(refused),
            Self::FileReadableByOthers(path) => read_file(&base.join(path), true).map_err(refused),
            Self::Env(name) => match std::env::var(name) {
                Ok(value) if value.is_empty() => Err(refused("the variable is empty".to_owned())),
                Ok(value) => Ok(value.into()),
                Err(std::env::VarError::NotPresent) => Err(refused("the variable is not set".to_owned())),
                Err(std::env::VarError::NotUnicode(_)) => Err(refused("the variable is not UTF-8".to_owned())),
            },
        }
    }

    /// The file to watch for changes, if it is one.
    pub fn path(&self, base: &Path) -> Option<PathBuf> {
        match self {
            Self::File(path) | Self::FileReadableByOthers(path) => Some(base.join(path)),
            Self::Env(_) => None,
        }
    }
}

/// As it is written in a configuration.
impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{{ file: {} }}", path.display()),
            Self::FileReadableByOthers(path) => write!(f, "{{ file_readable_by_others: {} }}", path.display()),
            Self::Env(name) => write!(f, "{{ env: {name} }}"),
        }
    }
}

fn read_file(path: &Path, shared: bool) -> Result<SecretString, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // Opening a pipe that nobody writes to would block for ever.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let file = File::open(path).map_err(failed)?;
    // Judged on the opened file, so that nobody can exchange it in between.
    if !shared && open_to_others(&file).map_err(failed)? && !in_kubernetes_volume(path) {
        return Err(format!(
            "others can read or change {}: run `chmod o= {0}`, or write {{ file_readable_by_others: … }} if that is meant",
            path.display()
        ));
    }
    // Reserved at once: growing would leave copies behind in freed memory.
    let mut bytes = Vec::with_capacity(SECRET_MAX as usize + 1);
    file.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let secret = judge(&bytes).map_err(|why| format!("{} {why}", path.display()));
    bytes.zeroize();
    secret
}

fn judge(bytes: &[u8]) -> Result<SecretString, String> {
    if bytes.len() as u64 > SECRET_MAX {
        return Err(format!("is larger than {SECRET_MAX} bytes (SECRET_MAX)"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.into()) }
}

#[cfg(unix)]
fn open_to_others(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(file.metadata()?.permissions().mode() & 0o007 != 0)
}

#[cfg(not(unix))]
fn open_to_others(_: &File) -> std::io::Result<bool> {
    Ok(false)
}

/// Secret and projected volumes hold a folder `..<time>` that `..data` links to, and the files are reached through it.
fn in_kubernetes_volume(path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    real.ancestors().skip(1).any(|folder| {
        let generation = folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
        generation && folder.with_file_name("..data").canonicalize().is_ok_and(|current| current == folder)
    })
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

struct ReferenceVisitor;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    File,
    FileReadableByOthers,
    Env,
}

/// Each visit of a value refuses it without looking: it may be the secret itself.
impl<'de> Visitor<'de> for ReferenceVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ file: … } or { env: … }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        let Some(kind) = map.next_key::<Kind>()? else { return Err(A::Error::custom(HOW)) };
        let reference = match kind {
            Kind::File => SecretRef::File(map.next_value()?),
            Kind::FileReadableByOthers => SecretRef::FileReadableByOthers(map.next_value()?),
            Kind::Env => SecretRef::Env(map.next_value()?),
        };
        match map.next_key::<Kind>()? {
            None => Ok(reference),
            Some(_) => Err(A::Error::custom("a secret has one origin: file or env, not both")),
        }
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<SecretRef, E> {
        Err(E::custom(HOW))
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<SecretRef, E> {
        Err(E::custom(HOW))
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretRef, E> {
        Err(E::custom(HOW))
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretRef, E> {
        Err(E::custom(HOW))
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<SecretRef, E> {
        Err(E::custom(HOW))
    }
}

impl schemars::JsonSchema for SecretRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretRef".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "a secret: `{ file: … }`, `{ env: … }` or `{ file_readable_by_others: … }`",
            "x-secret": true,
        })
    }
}

#[cfg(test)]
mod tests;
