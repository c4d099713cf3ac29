//! What is to be served, as the files say at one moment: every hybrid connection, with the keys of its rules. Reading it
//! waits for the disk, and either all of it can be used or none.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use daemon::config::{ConfigError, Loaded};
use identity::sas::Rule;

use super::config::{At, Config, EntityConfig, RuleConfig, rights, written};

/// Everything together.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    /// Those of the namespace.
    pub(crate) rules: Vec<Arc<Rule>>,
    /// By name, as names are compared.
    pub(crate) entities: BTreeMap<Vec<String>, Planned>,
}

/// One hybrid connection.
#[derive(Debug)]
pub(crate) struct Planned {
    /// As written.
    pub(crate) name: String,
    pub(crate) config: EntityConfig,
    /// Its own.
    pub(crate) rules: Vec<Arc<Rule>>,
}

impl Plan {
    /// Reads entities and keys; weak ones are refused. Whatever was looked at is added to `places`, also when it fails.
    pub(crate) fn read(loaded: &Loaded<Config>, places: &mut BTreeSet<PathBuf>) -> Result<Self, ConfigError> {
        let at = At { file: loaded.path.clone(), prefix: String::new() };
        let mut entities = BTreeMap::new();
        let written = written(loaded, places)?;
        let own = open(&loaded.values.rules, &at, places)?;
        for (segments, written) in written {
            let rules = open(&written.config.rules, &written.at, places)?;
            entities.insert(segments, Planned { name: written.name, config: written.config, rules });
        }
        Ok(Self { config: loaded.values.clone(), rules: own, entities })
    }
}

impl Planned {
    /// Whether nothing differs, the keys themselves included.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.config == other.config && same_rules(&self.rules, &other.rules)
    }
}

/// Whether two lists of rules allow the same to the same.
pub(crate) fn same_rules(rules: &[Arc<Rule>], others: &[Arc<Rule>]) -> bool {
    rules.len() == others.len() && rules.iter().zip(others).all(|(rule, other)| rule.is_same(other))
}

fn open(
    rules: &BTreeMap<String, RuleConfig>,
    at: &At,
    places: &mut BTreeSet<PathBuf>,
) -> Result<Vec<Arc<Rule>>, ConfigError> {
    // All of them first: should one fail, a change of any other is worth another try, too.
    places.extend(rules.values().flat_map(|rule| &rule.keys).filter_map(|key| key.path(at.base())));
    let open = |(name, config): (&String, &RuleConfig)| {
        let key = format!("rules.{name}.keys");
        let read = |(index, reference): (usize, &daemon::config::SecretRef)| {
            let secret = reference.read(at.base()).map_err(|error| at.refuse(&format!("{key}[{index}]"), error))?;
            Ok(secret.into())
        };
        let keys = config.keys.iter().enumerate().map(read).collect::<Result<_, ConfigError>>()?;
        let rule = Rule { name: name.clone(), rights: rights(&config.rights), keys };
        rule.check_strength().map_err(|error| at.refuse(&key, error))?;
        Ok(Arc::new(rule))
    };
    rules.iter().map(open).collect()
}
