//! `relay entity remove`.
use std::{collections::BTreeSet, io::Write, path::PathBuf};

use super::{
    OwnerError, Which,
    add::say,
    files,
    home::{Home, keys_of, real},
    layout::join_of,
    running::Fate,
};
use crate::serve::Written;

/// What to remove.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the hybrid connection
    name: String,
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), OwnerError> {
    let home = Home::open(&args.which)?;
    let Some(known) = home.entity(&args.name)? else {
        return say(out, format_args!("{} is not there; nothing was changed", args.name));
    };
    if known.at.file == home.loaded.path {
        let message = format!("{} is written in {}: take it out there", known.name, known.at);
        return Err(OwnerError::Unfit(message));
    }
    // First: from here on nobody is let in, and keys that are left behind open nothing.
    files::remove(&known.at.file)?;
    let mut removed = vec![home.shown(&known.at.file)];
    for key in own_keys(&home, &known)? {
        for path in [join_of(&key), key] {
            if files::remove(&path)? {
                removed.push(home.shown(&path));
            }
        }
    }
    let removed = format!("removed {}", removed.join(", "));
    let fate = Fate::of_change(&home).inspect_err(|_| {
        // The change is made, whatever the relay says.
        let _ = say(out, format_args!("{removed}"));
    })?;
    say(out, format_args!("{removed}; {}", fate.told("1 entity removed")))
}

/// Key files of its rules that lie where `relay entity add` puts them and that nobody else names.
fn own_keys(home: &Home, known: &Written) -> Result<Vec<PathBuf>, OwnerError> {
    let used = home.named_keys()?;
    let Some(folder) = real(&home.keys()) else { return Ok(Vec::new()) };
    let is_own = |key: &PathBuf| key.parent() == Some(&folder) && !used.contains(key);
    // As they are told, from where relay.yaml lies.
    let told = |key: PathBuf| home.keys().join(key.file_name().unwrap_or_default());
    let keys: BTreeSet<_> = keys_of(known).collect();
    Ok(keys.into_iter().filter(is_own).map(told).collect())
}
