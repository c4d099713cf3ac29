//! The file that an Azure Arc challenge names: directly in the agent's own folder, named `….key`, a regular file and no
//! link, 4 KiB at most. What is opened is compared with what was looked at, so that nobody can exchange it in between.
use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
};

use http::{HeaderMap, header};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Largest key file.
const MAX_BYTES: u64 = 4096;

/// Why a file is not read.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is none that the agent makes.
    Unsafe(&'static str),
    /// It cannot be opened.
    Unreadable(io::Error),
}

/// The file that the challenge names, if it is one in `folder`.
pub(super) fn path(headers: &HeaderMap, folder: &Path) -> Result<PathBuf, &'static str> {
    let mut challenges = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let challenge = challenges.next().ok_or("there is no WWW-Authenticate")?;
    if challenges.next().is_some() {
        return Err("there are several");
    }
    let text = challenge.to_str().map_err(|_| "it is not plain text")?;
    let (scheme, realm) = text.split_once(' ').ok_or("it is not `Basic realm=…`")?;
    let named = realm.trim().strip_prefix("realm=").filter(|_| scheme.eq_ignore_ascii_case("basic"));
    let path = Path::new(named.ok_or("it is not `Basic realm=…`")?);
    let name = path.file_name().and_then(|name| name.to_str()).ok_or("it names no file")?;
    // Put together again, so that dot segments, doubled slashes and their like differ.
    if path.as_os_str() != folder.join(name).as_os_str() {
        return Err("it names a file outside the agent's folder");
    }
    if !name.ends_with(".key") || name.len() == ".key".len() {
        return Err("it names a file that is no .key");
    }
    Ok(path.to_owned())
}

/// The content of the file.
pub(super) fn read(path: &Path) -> Result<Secret, Problem> {
    let looked = fs::symlink_metadata(path).map_err(Problem::Unreadable)?;
    if !looked.is_file() {
        return Err(Problem::Unsafe("is a link or no regular file"));
    }
    let folder = path.parent().unwrap_or(path);
    if fs::symlink_metadata(folder).map_err(Problem::Unreadable)?.is_symlink() {
        return Err(Problem::Unsafe("lies in a folder that is a link"));
    }
    let file = File::open(path).map_err(Problem::Unreadable)?;
    if !same(&looked, &file.metadata().map_err(Problem::Unreadable)?) {
        return Err(Problem::Unsafe("was exchanged while it was opened"));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize + 1));
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(Problem::Unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Problem::Unsafe("is larger than 4 KiB"));
    }
    match std::str::from_utf8(&text) {
        Ok("") => Err(Problem::Unsafe("is empty")),
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(Problem::Unsafe("is no text")),
    }
}

#[cfg(unix)]
fn same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Without file numbers there is nothing to compare; the agent's folder is then protected by its permissions alone.
#[cfg(not(unix))]
fn same(_: &Metadata, other: &Metadata) -> bool {
    other.is_file()
}
