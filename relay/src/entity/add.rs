//! `relay entity add`.
use std::io::Write;

use daemon::config::parse;
use identity::secret::Secret;

use super::{
    OwnerError, Which,
    files::{create_secret, put_text, remove},
    home::{Home, real, write_join},
    layout::{Layout, Side},
    running::Fate,
};
use crate::{
    sender::Address,
    serve::{EntityConfig, check_name},
};

/// What to add.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the hybrid connection, such as factory-a
    name: String,
    #[command(flatten)]
    which: Which,
    /// Which senders it has: websocket, http or both [default: websocket]
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Where clients reach the relay, for the join strings [default: its namespace, and the port it listens on]
    #[arg(long, value_name = "sb://HOST[:PORT]")]
    endpoint: Option<String>,
}

pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), OwnerError> {
    check_name(&args.name, &args.name).map_err(|(name, why)| OwnerError::Unfit(format!("{name} {why}")))?;
    let home = Home::open(&args.which)?;
    let folder = home.folder()?;
    let layout = home.layout(&folder, &args.name)?;
    let address = home.address(args.endpoint.as_deref(), &args.name)?;
    let file = layout.text(args.kind.as_deref());
    // What the relay would refuse is not written in the first place.
    let planned: EntityConfig = parse(&file, &layout.file)?;
    let known = home.entity(&args.name)?;
    if let Some(known) = &known {
        if args.kind.is_some() && known.config.kind != planned.kind {
            let message = format!("{} is there already, of another kind: edit {}", args.name, known.at);
            return Err(OwnerError::Unfit(message));
        }
        if known.at.file != layout.file {
            return say(out, format_args!("{} is there already, in {}; nothing was changed", args.name, known.at));
        }
    } else if let Some(other) = home.entities()?.values().find(|written| written.at.file == layout.file) {
        let message = format!("{} holds another hybrid connection, {}", layout.file.display(), other.name);
        return Err(OwnerError::Unfit(message));
    }
    let made = secrets(&home, &layout, known.as_ref().map(|known| &known.config), &address)?;
    if known.is_some() {
        let what =
            if made { "what was missing of its keys and join strings is there again" } else { "nothing was changed" };
        return say(out, format_args!("{} is there already, in {}; {what}", args.name, home.shown(&layout.file)));
    }
    // Last: with it everything else counts.
    put_text(&layout.file, &file)?;
    let keys = |side| {
        let first = home.shown(&layout.key(side, 1));
        format!("{}-{{1,2}}", first.trim_end_matches("-1"))
    };
    let (file, listen, send) = (home.shown(&layout.file), keys(Side::Listen), keys(Side::Send));
    let wrote = format!("wrote {file}, {listen}, {send} (0600), join strings to {address}");
    let fate = Fate::of_change(&home).inspect_err(|_| {
        // The change is made, whatever the relay says.
        let _ = say(out, format_args!("{wrote}"));
    })?;
    say(out, format_args!("{wrote}; {}", fate.told("1 entity added")))?;
    let given = Side::BOTH.map(|side| format!("{} {}", side.whose(), home.shown(&layout.join(side))));
    say(out, format_args!("{}", given.join("      ")))
}

/// Takes away keys that were left behind: a hybrid connection of this name may have been removed without them, and whoever
/// still holds one must not be let in again.
fn clear(home: &Home, layout: &Layout) -> Result<(), OwnerError> {
    let named = home.named_keys()?;
    let keys: Vec<_> = Side::BOTH.into_iter().flat_map(|side| [1, 2].map(|number| layout.key(side, number))).collect();
    if let Some(key) = keys.iter().find(|key| real(key).is_some_and(|key| named.contains(&key))) {
        let message = format!("{} is the key of another rule: take it away there", home.shown(key));
        return Err(OwnerError::Unfit(message));
    }
    keys.iter().try_for_each(|key| remove(key).map(drop))
}

/// Makes what is missing of keys and join strings; gives whether anything was.
fn secrets(home: &Home, layout: &Layout, known: Option<&EntityConfig>, address: &Address) -> Result<bool, OwnerError> {
    home.make_keys()?;
    if known.is_none() {
        clear(home, layout)?;
    }
    let mut made = false;
    // One that was edited since may have other rules; those are its owner's business.
    let ours = |side: &Side| known.is_none_or(|known| known.rules.contains_key(&layout.rule(*side)));
    for side in Side::BOTH.into_iter().filter(ours) {
        let (primary, join) = (layout.key(side, 1), layout.join(side));
        let is_new = create_secret(&primary, Secret::random)?;
        made |= is_new | create_secret(&layout.key(side, 2), Secret::random)?;
        if is_new || !join.try_exists().map_err(OwnerError::io(&join))? {
            write_join(address, &layout.rule(side), &primary, &join)?;
            made = true;
        }
    }
    Ok(made)
}

pub(super) fn say(out: &mut dyn Write, line: std::fmt::Arguments<'_>) -> Result<(), OwnerError> {
    writeln!(out, "{line}").map_err(OwnerError::Output)
}
