//! `relay key rotate`: the primary key becomes the secondary, and a new one the primary.
//!
//! The configuration names the same two files before and after; what changes is their content. First the secondary is
//! replaced by the primary, which ends the oldest key; then the primary by a new one; then the join string is written.
//! At every moment who holds the primary is let in, so an interruption shuts nobody out, and the next call goes on.
use std::{io::Write, path::PathBuf};

use daemon::config::SecretRef;
use identity::secret::Secret;

use super::{
    OwnerError, Which,
    add::say,
    files::put_secret,
    home::{Home, read_key, write_join},
    layout::{Side, join_of},
    running::Fate,
};
use crate::{
    sender::{Address, Join, JoinLogin},
    serve::{Right, RuleConfig},
};

/// Which rule.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the shared access rule, such as factory-a-listen
    rule: String,
    #[command(flatten)]
    which: Which,
    /// The hybrid connection it belongs to, where several have a rule of this name
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Where clients reach the relay, for the join string [default: as in the join string before]
    #[arg(long, value_name = "sb://HOST[:PORT]")]
    endpoint: Option<String>,
}

/// A rule whose keys are two files.
#[derive(Debug)]
struct Found {
    /// Nothing for a rule of the whole namespace, which no join string is for.
    entity: Option<String>,
    side: Option<Side>,
    primary: PathBuf,
    secondary: PathBuf,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), OwnerError> {
    let home = Home::open(&args.which)?;
    let found = find(&home, args)?;
    let (primary, secondary) = (read_key(&found.primary)?, read_key(&found.secondary)?);
    let join = join_of(&found.primary);
    let before = previous(&join)?;
    let address = match (&found.entity, &before, &args.endpoint) {
        (None, ..) => None,
        (Some(_), Some((address, _)), None) => Some(address.clone()),
        (Some(entity), ..) => Some(home.address(args.endpoint.as_deref(), entity)?),
    };
    // The new key was in force and nobody had been given it yet.
    let interrupted = before.is_some_and(|(_, key)| !primary.matches(key.expose()) && secondary.matches(key.expose()));
    if !interrupted {
        put_secret(&found.secondary, &primary)?;
        put_secret(&found.primary, &Secret::random())?;
    }
    if let Some(address) = &address {
        write_join(address, &args.rule, &found.primary, &join)?;
    }
    let (new, old) = (home.shown(&found.primary), home.shown(&found.secondary));
    let rotated = if interrupted {
        format!("{}: the last rotation was interrupted, and is complete now; the new key is in {new}", args.rule)
    } else {
        format!("{}: the new key is in {new}, the one before goes on in {old}, and older ones have ended", args.rule)
    };
    let fate = Fate::of_change(&home).inspect_err(|_| {
        // The change is made, whatever the relay says.
        let _ = say(out, format_args!("{rotated}"));
    })?;
    say(out, format_args!("{rotated}; {}", fate.told("the new key is in force")))?;
    match (address, found.side) {
        (None, _) => say(out, format_args!("give its holders:   {new}")),
        (Some(_), None) => say(out, format_args!("give its holders:   {}", home.shown(&join))),
        (Some(_), Some(side)) => say(out, format_args!("{} {}", side.whose(), home.shown(&join))),
    }
}

fn find(home: &Home, args: &Args) -> Result<Found, OwnerError> {
    let mut found = Vec::new();
    let common = &home.loaded.values.rules;
    if args.entity.is_none()
        && let Some(rule) = common.get(&args.rule)
    {
        found.push(rotatable(&args.rule, rule, &home.loaded.base, None)?);
    }
    for written in home.entities()?.values() {
        let is_meant = args.entity.as_ref().is_none_or(|entity| entity.eq_ignore_ascii_case(&written.name));
        if let Some(rule) = written.config.rules.get(&args.rule).filter(|_| is_meant) {
            found.push(rotatable(&args.rule, rule, written.at.base(), Some(&written.name))?);
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(found), true) => Ok(found),
        (None, _) => Err(OwnerError::Unfit(format!(
            "there is no rule {}{}; `relay entity list` names them all",
            args.rule,
            args.entity.as_ref().map(|entity| format!(" in {entity}")).unwrap_or_default()
        ))),
        (Some(_), false) => Err(OwnerError::Unfit(format!(
            "several hybrid connections have a rule {}; say which one with --entity",
            args.rule
        ))),
    }
}

fn rotatable(name: &str, rule: &RuleConfig, base: &std::path::Path, entity: Option<&str>) -> Result<Found, OwnerError> {
    let file = |key: &SecretRef| match key {
        SecretRef::File(path) | SecretRef::FileReadableByOthers(path) => Some(base.join(path)),
        SecretRef::Env(_) => None,
    };
    let unfit = |why: &str| Err(OwnerError::Unfit(format!("rule {name} cannot be rotated: {why}")));
    let [primary, secondary] = rule.keys.as_slice() else {
        return unfit("it has one key; add a second file to its `keys`, which then holds the key before");
    };
    let (Some(primary), Some(secondary)) = (file(primary), file(secondary)) else {
        return unfit("a key of it comes from the environment, which no command can change");
    };
    let side = match rule.rights.as_slice() {
        [Right::Listen] => Some(Side::Listen),
        [Right::Send] => Some(Side::Send),
        _ => None,
    };
    Ok(Found { entity: entity.map(str::to_owned), side, primary, secondary })
}

/// Where the join string led until now, and by which key. One that cannot be read is written anew.
fn previous(path: &std::path::Path) -> Result<Option<(Address, Secret)>, OwnerError> {
    if !path.try_exists().map_err(OwnerError::io(path))? {
        return Ok(None);
    }
    let text = read_key(path)?;
    Ok(Join::parse(text.expose()).ok().and_then(|join| match join.login {
        JoinLogin::Key { key, .. } => Some((join.address, key)),
        JoinLogin::Signature { .. } => None,
    }))
}
