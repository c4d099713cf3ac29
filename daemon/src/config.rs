//! One YAML file, environment and flags into one typed structure, validated before a port opens.
use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};

/// Exit code of every process whose configuration is wrong (EX_USAGE in sysexits.h).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// What was wrong, where, and what to do. `Display` is the whole explanation, several lines if need be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A key is unknown, a value has the wrong type, or YAML is malformed.
    #[error("{message}")]
    Parse {
        /// File, line, column, key path, nearest known key.
        message: String,
    },
    /// A value is well-formed but cannot work; raised by `Validate`.
    #[error("{path}: {key}: {message}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Dotted key path.
        key: String,
        /// What is wrong and what to write instead.
        message: String,
    },
}

/// Checks that types alone cannot make; names the dotted key and says what to write.
pub trait Validate {
    /// First problem found, as (dotted key, message).
    fn validate(&self) -> Result<(), (String, String)> {
        Ok(())
    }
}

/// A loaded file: the values, and the folder that relative paths in it mean.
#[derive(Debug, Clone)]
pub struct Loaded<T> {
    /// Typed values.
    pub values: T,
    /// Folder of the file.
    pub base: PathBuf,
    /// The file itself.
    pub path: PathBuf,
}

/// Loads and validates a file. Overrides are `CAUSEWAY_<KEY>__<KEY>=value` environment variables handed in by the
/// caller as (dotted key, value) pairs, then flags in the same form; later wins.
pub fn load<T: DeserializeOwned + Validate>(
    path: &Path,
    overrides: &[(String, String)],
) -> Result<Loaded<T>, ConfigError> {
    let _ = (path, overrides);
    todo!()
}

/// Parses text that did not come from a file (tests, embedded defaults). `path` is only for messages.
pub fn parse<T: DeserializeOwned + Validate>(text: &str, path: &Path) -> Result<T, ConfigError> {
    let _ = (text, path);
    todo!()
}

/// Values laid over the file: environment, then flags.
#[derive(Debug, Clone, Default)]
pub struct Overrides {}

impl Overrides {
    /// From `CAUSEWAY_CONFIG__<KEY>__<KEY>=value`.
    pub fn from_environment(
        _variables: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, ConfigError> {
        todo!()
    }
    /// Then `--set key=value`.
    pub fn and_flags(self, _flags: &[String]) -> Result<Self, ConfigError> {
        todo!()
    }
}

pub(crate) struct LoadedProgram<T> {
    pub(crate) settings: crate::process::Settings,
    pub(crate) loaded: Loaded<T>,
}

impl<T> LoadedProgram<T> {
    pub(crate) fn effective<S: schemars::JsonSchema>(&self) -> String {
        todo!()
    }
}

pub(crate) fn load_program<T: DeserializeOwned + Validate>(
    _path: &Path,
    _overrides: &Overrides,
) -> Result<LoadedProgram<T>, ConfigError> {
    todo!()
}

pub(crate) fn load_settings(_path: &Path, _overrides: &Overrides) -> Result<crate::process::Settings, ConfigError> {
    todo!()
}

/// Where a secret comes from: `{ file: … }` or `{ env: … }`, never the text itself.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SecretRef {
    /// A file, relative to the config file. One trailing newline is not part of the secret.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl SecretRef {
    /// Reads the secret. Files readable by others are refused (B12-T3) unless in a mounted volume.
    pub fn read(&self, base: &Path) -> Result<secrecy::SecretString, ConfigError> {
        let _ = base;
        todo!()
    }
}

/// A size: `64Mi`, `512Ki`, `1Gi` or plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["string", "integer"], "description": "64Mi, 512Ki, 1Gi or bytes" })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(_d: D) -> Result<Self, D::Error> {
        todo!()
    }
}

/// A time: `250ms`, `30s`, `15m`, `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub std::time::Duration);

impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "250ms, 30s, 15m, 24h" })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(_d: D) -> Result<Self, D::Error> {
        todo!()
    }
}
