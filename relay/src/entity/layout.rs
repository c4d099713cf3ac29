//! Which files belong to a hybrid connection, and what its rules are called.
//!
//! A name may hold `/`, which no file name can: `~` stands for it, which no name can hold. So no two names share a file.
use std::path::{Path, PathBuf};

use crate::sender::{Address, Join};

use super::OwnerError;

/// Longest name that the commands make files for; file systems end at 255 bytes.
pub(super) const NAME_MAX: usize = 200;

/// One of the two sides of a hybrid connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Listen,
    Send,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Listen, Self::Send];

    /// Its right, and what its files are called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Send => "send",
        }
    }

    /// Who gets its join string.
    pub(super) fn whose(self) -> &'static str {
        match self {
            Self::Listen => "give the cluster:  ",
            Self::Send => "give the connector:",
        }
    }
}

/// The files of one hybrid connection.
#[derive(Debug)]
pub(super) struct Layout {
    /// The one that decides.
    pub(super) file: PathBuf,
    keys: PathBuf,
    name: String,
    label: String,
}

impl Layout {
    /// `folder` is that of `entities_from`, `keys` that of keys and join strings.
    pub(super) fn new(folder: &Path, keys: &Path, name: &str) -> Result<Self, OwnerError> {
        if name.len() > NAME_MAX {
            let message =
                format!("{name}: longer than {NAME_MAX} characters, too long for a file; write its file yourself");
            return Err(OwnerError::Unfit(message));
        }
        let label = name.replace('/', "~");
        let file = folder.join(format!("{label}.yaml"));
        Ok(Self { file, keys: keys.to_owned(), name: name.to_owned(), label })
    }

    /// Key 1 is the primary, key 2 the secondary.
    pub(super) fn key(&self, side: Side, number: u8) -> PathBuf {
        self.keys.join(format!("{}-{}-{number}", self.label, side.name()))
    }

    pub(super) fn join(&self, side: Side) -> PathBuf {
        join_of(&self.key(side, 1))
    }

    /// Clients put a rule's name into tokens without any escaping, so it has no `/`.
    pub(super) fn rule(&self, side: Side) -> String {
        format!("{}-{}", self.name.replace('/', "."), side.name())
    }

    /// The file that decides, for a relay that reads it from where it lies.
    pub(super) fn text(&self, kind: Option<&str>) -> String {
        let mut text = "# Made by `relay entity add`, and yours to edit. Paths start at this file.\n".to_owned();
        if self.label != self.name {
            text.push_str(&format!("name: {}\n", self.name));
        }
        if let Some(kind) = kind {
            text.push_str(&format!("kind: {kind}\n"));
        }
        text.push_str("rules:\n");
        for side in Side::BOTH {
            let key = |number| format!("{{ file: {} }}", quoted(&self.as_written(&self.key(side, number))));
            let (rule, right) = (self.rule(side), side.name());
            text.push_str(&format!("  {rule}:\n    rights: [{right}]\n    keys: [{}, {}]\n", key(1), key(2)));
        }
        text
    }

    /// A path as the file that decides has to write it.
    fn as_written(&self, path: &Path) -> PathBuf {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let shared = folder.components().zip(path.components()).take_while(|(one, other)| one == other).count();
        // Without anything in common (another drive, an absolute folder) the way up leads nowhere.
        if shared == 0 || folder.components().skip(shared).any(|part| part == std::path::Component::ParentDir) {
            return std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        }
        let up = folder.components().skip(shared).map(|_| Path::new(".."));
        up.collect::<PathBuf>().join(path.components().skip(shared).collect::<PathBuf>())
    }
}

/// The join string that lies beside a primary key.
pub(super) fn join_of(primary: &Path) -> PathBuf {
    let name = primary.file_name().unwrap_or_default().to_string_lossy();
    primary.with_file_name(format!("{}.join", name.strip_suffix("-1").unwrap_or(&name)))
}

/// A join string, in the form that the SDKs of Azure read. A key with a `;` fits into none.
pub(super) fn join_text(address: &Address, rule: &str, key: &str) -> Option<String> {
    let (scheme, authority, path) = (if address.tls { "sb" } else { "ws" }, address.authority(), &address.path);
    let text =
        format!("Endpoint={scheme}://{authority}/;SharedAccessKeyName={rule};SharedAccessKey={key};EntityPath={path}");
    Join::parse(&text).is_ok_and(|join| join.address == *address).then_some(text)
}

/// YAML's double-quoted texts are JSON's.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let simple = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./~".contains(&byte);
    if text.bytes().all(simple) { text.into_owned() } else { serde_json::Value::from(text).to_string() }
}
