//! One YAML file, environment and flags into one typed structure, validated before a port opens.
//!
//! The file is read into a tree that remembers where each value came from. Environment variables
//! (`CAUSEWAY_CONFIG__LOG__LEVEL=debug`) and then flags (`--set log.level=debug`) are laid over it, maps merging, all
//! else replacing; only then are values typed. So every refusal names file, line, column and dotted key, or the variable
//! or flag that brought the value, and an unknown key also its nearest known one. A plain scalar becomes what the typed
//! structure asks for: `name: 0123` is a text where a text is wanted.
//!
//! Beyond typing, a file is refused that is larger than [`FILE_MAX`], nested deeper than [`DEPTH_MAX`], expands to more
//! than [`NODES_MAX`] values or [`TEXT_MAX`] bytes (aliases count as often as they are used), names a key twice, holds
//! several documents, or uses tags or merge keys. Refusals never quote a text value: it could be a secret.
use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::process::Settings;

mod effective;
mod overrides;
mod range;
mod refusal;
mod scalar;
mod secret;
mod tree;
mod typed;
mod units;
mod yaml;

pub use overrides::Overrides;
pub use range::{Range, Ranges};
pub use secret::{SECRET_MAX, SecretRef};
pub use units::{Size, Span};
pub use yaml::{DEPTH_MAX, NODES_MAX, TEXT_MAX};

use refusal::Refusal;
use tree::Node;

pub(crate) use secret::MARKER as SECRET_MARKER;

/// Exit code of every process whose configuration is wrong (EX_USAGE in sysexits.h).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// Largest configuration file. A fleet of a thousand clusters fits; what does not should be one file per cluster.
pub const FILE_MAX: u64 = 1024 * 1024;

/// What was wrong, where, and what to do. `Display` is the whole explanation, several lines if need be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Refused at a known place: a key is unknown, a value has the wrong type or was found invalid, YAML is malformed.
    #[error("{message}")]
    Parse {
        /// File, line, column, key path, nearest known key.
        message: String,
    },
    /// A value is well-formed but cannot work; found by a component that uses it.
    #[error("{path}: {key}: {message}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Dotted key path.
        key: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A secret cannot be read.
    #[error("secret {reference}: {message}")]
    Secret {
        /// As written: `{ file: keys/send }`.
        reference: String,
        /// What is wrong and what to do instead.
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

impl<T> Loaded<T> {
    /// What a path in the file means: relative ones start at the file's folder.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }
}

/// Loads and validates a file whose keys all belong to `T`: a policy, one entity, a component's file without the common
/// sections. Overrides are (dotted key, value) pairs; later wins. Programs load theirs through
/// [`crate::process::CommonArgs`].
pub fn load<T: DeserializeOwned + Validate>(
    path: &Path,
    overrides: &[(String, String)],
) -> Result<Loaded<T>, ConfigError> {
    let mut tree = yaml::parse(&read(path)?, path)?;
    Overrides::from_pairs(overrides)?.lay_over(&mut tree, path)?;
    Ok(Loaded { values: typed_and_valid(&tree, path, &[])?, base: base_of(path), path: path.to_owned() })
}

/// Parses text that did not come from a file (tests, embedded defaults). `path` is only for messages.
pub fn parse<T: DeserializeOwned + Validate>(text: &str, path: &Path) -> Result<T, ConfigError> {
    typed_and_valid(&yaml::parse(text, path)?, path, &[])
}

/// The same, with a further check that needs more than the text: its problems are told with their places, too.
pub fn parse_checked<T: DeserializeOwned + Validate, R>(
    text: &str,
    path: &Path,
    check: impl FnOnce(&T) -> Result<R, (String, String)>,
) -> Result<R, ConfigError> {
    let tree = yaml::parse(text, path)?;
    let values: T = typed_and_valid(&tree, path, &[])?;
    check(&values).map_err(|problem| misplaced(&tree, path, problem))
}

/// A program's file: its own keys, and beside them the sections that every program has.
#[derive(Debug)]
pub(crate) struct LoadedProgram<T> {
    pub(crate) settings: Settings,
    pub(crate) loaded: Loaded<T>,
    tree: Node,
}

impl<T: JsonSchema> LoadedProgram<T> {
    /// Every value in force as YAML, with where it came from.
    pub(crate) fn effective(&self) -> String {
        effective::render(&self.tree, &crate::schema::of_program::<T>(), &self.loaded.path)
    }
}

pub(crate) fn load_program<T: DeserializeOwned + Validate>(
    path: &Path,
    overrides: &Overrides,
) -> Result<LoadedProgram<T>, ConfigError> {
    let tree = merged(path, overrides)?;
    let (common, own) = tree.clone().split(&Settings::KEYS);
    let settings = typed_and_valid(&common, path, &[])?;
    let values = typed_and_valid(&own, path, &Settings::KEYS)?;
    Ok(LoadedProgram { settings, loaded: Loaded { values, base: base_of(path), path: path.to_owned() }, tree })
}

/// A program's own keys as they stand in its file now, with what was laid over them at start: for a component that follows
/// its configuration. The sections that every program has are not looked at.
pub fn load_again<T: DeserializeOwned + Validate>(
    path: &Path,
    overrides: &Overrides,
) -> Result<Loaded<T>, ConfigError> {
    let (_, own) = merged(path, overrides)?.split(&Settings::KEYS);
    let values = typed_and_valid(&own, path, &Settings::KEYS)?;
    Ok(Loaded { values, base: base_of(path), path: path.to_owned() })
}

/// The common sections of a program's file alone.
pub fn load_settings(path: &Path, overrides: &Overrides) -> Result<Settings, ConfigError> {
    let (common, _) = merged(path, overrides)?.split(&Settings::KEYS);
    typed_and_valid(&common, path, &[])
}

fn merged(path: &Path, overrides: &Overrides) -> Result<Node, ConfigError> {
    let mut tree = yaml::parse(&read(path)?, path)?;
    overrides.lay_over(&mut tree, path)?;
    Ok(tree)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let bounded = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_MAX {
            let why = format!("larger than {FILE_MAX} bytes (FILE_MAX), the most a configuration file may have");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 (byte {at})"))
        })
    };
    bounded().map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

fn base_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// `also` are keys that would be known at the root, were they not taken out before.
fn typed_and_valid<T: DeserializeOwned + Validate>(
    tree: &Node,
    path: &Path,
    also: &[&'static str],
) -> Result<T, ConfigError> {
    let values: T = typed::typed(tree).map_err(|refusal: Refusal| refusal.into_error(path, also))?;
    values.validate().map_err(|problem| misplaced(tree, path, problem))?;
    Ok(values)
}

/// A problem of one key, with its place in the file.
fn misplaced(tree: &Node, path: &Path, (key, message): (String, String)) -> ConfigError {
    ConfigError::Parse { message: format!("{}: {key}: {message}", tree.nearest_origin(&key).place(path)) }
}

#[cfg(test)]
mod tests;
