//! Every hybrid connection that is configured, in relay.yaml itself and in the folder of `entities_from`, with the place
//! where it is written. A name that is there twice is refused, and both places are named.
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt, io,
    path::{Path, PathBuf},
};

use daemon::config::{ConfigError, Loaded, load};
use proto::hybrid::address::segments;

use super::{Config, EntityConfig, check_grants, check_name};

/// Hybrid connections of one relay, as on Azure.
const ENTITIES_MAX: usize = 10_000;

/// What a file of the folder ends in.
const EXTENSIONS: [&str; 2] = ["yaml", "yml"];

/// One hybrid connection, as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) config: EntityConfig,
    pub(crate) at: At,
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    /// Which file.
    pub(crate) file: PathBuf,
    /// What comes before its keys: nothing, or a key and a dot.
    pub(crate) prefix: String,
}

impl At {
    /// What relative paths mean there.
    pub(crate) fn base(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// Something is wrong with a key.
    pub(crate) fn refuse(&self, key: &str, message: impl fmt::Display) -> ConfigError {
        let key = format!("{}{key}", self.prefix);
        ConfigError::Invalid { path: self.file.clone(), key, message: message.to_string() }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.trim_end_matches('.') {
            "" => write!(f, "{}", self.file.display()),
            key => write!(f, "{}: {key}", self.file.display()),
        }
    }
}

/// Reads them, by name as names are compared. Whatever was looked at is added to `places`, also when it fails.
pub(crate) fn written(
    loaded: &Loaded<Config>,
    places: &mut BTreeSet<PathBuf>,
) -> Result<BTreeMap<Vec<String>, Written>, ConfigError> {
    places.insert(loaded.path.clone());
    let mut all = BTreeMap::new();
    for (name, config) in &loaded.values.entities {
        let at = At { file: loaded.path.clone(), prefix: format!("entities.{name}.") };
        add(&mut all, Written { name: name.clone(), config: config.clone(), at })?;
    }
    let Some(folder) = folder(loaded) else { return Ok(all) };
    places.insert(folder.clone());
    let files = files(&folder).map_err(|error| {
        let message = format!("the folder {} cannot be read: {error}", folder.display());
        ConfigError::Invalid { path: loaded.path.clone(), key: "entities_from".to_owned(), message }
    })?;
    for file in files {
        places.insert(file.clone());
        let config: EntityConfig = load(&file, &[])?.values;
        let at = At { file, prefix: String::new() };
        // An editor may empty a file before it writes; as a configuration that would shut everybody out.
        if at.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            return Err(at.refuse("", "the file is empty; write `{}` if nothing is to be set"));
        }
        check_grants("grants", &config.grants, &loaded.values.authenticators)
            .map_err(|(key, message)| at.refuse(&key, message))?;
        add(&mut all, Written { name: name(&config, &at)?, config, at })?;
    }
    Ok(all)
}

/// The folder of `entities_from`.
pub(crate) fn folder(loaded: &Loaded<Config>) -> Option<PathBuf> {
    loaded.values.entities_from.as_ref().map(|folder| loaded.resolve(folder))
}

/// As the file says, or as it is called.
fn name(config: &EntityConfig, at: &At) -> Result<String, ConfigError> {
    if let Some(name) = &config.name {
        return Ok(name.clone());
    }
    let name = at.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match check_name("name", &name) {
        Ok(()) => Ok(name),
        Err((key, message)) => {
            Err(at.refuse(&key, format!("is missing, and `{name}`, as the file is called, {message}")))
        }
    }
}

/// Those of the folder that count, in order.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end == *known)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn add(all: &mut BTreeMap<Vec<String>, Written>, written: Written) -> Result<(), ConfigError> {
    if all.len() == ENTITIES_MAX {
        let message = format!("is one hybrid connection more than {ENTITIES_MAX}, the most that a relay has");
        return Err(written.at.refuse("name", message));
    }
    match all.entry(segments(&written.name)) {
        Entry::Vacant(place) => drop(place.insert(written)),
        Entry::Occupied(other) => {
            let message = format!(
                "`{}` is there twice (names are compared without regard to case): here, and in {}",
                written.name,
                other.get().at
            );
            return Err(written.at.refuse("name", message));
        }
    }
    Ok(())
}
