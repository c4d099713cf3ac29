//! Writing files so that a reader sees the old content or the new one, whole, whatever happens in between.
use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, Write as _},
    path::Path,
};

use identity::secret::Secret;

use super::OwnerError;

/// Creates a secret file that only its owner can read. One that is there stays as it is; gives whether it was made.
pub(super) fn create_secret(path: &Path, secret: impl FnOnce() -> Secret) -> Result<bool, OwnerError> {
    if path.try_exists().map_err(OwnerError::io(path))? {
        return Ok(false);
    }
    put(path, &line(&secret()), None, SECRET).map(|()| true)
}

/// Writes a secret file, new or instead of the one that is there, whose owner and mode it keeps.
pub(super) fn put_secret(path: &Path, secret: &Secret) -> Result<(), OwnerError> {
    let known = match path.metadata() {
        Ok(known) => Some(known),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(OwnerError::io(path)(error)),
    };
    put(path, &line(secret), known.as_ref(), SECRET)
}

fn line(secret: &Secret) -> [&[u8]; 2] {
    [secret.expose().as_bytes(), b"\n"]
}

/// Writes a file that anybody may read.
pub(super) fn put_text(path: &Path, text: &str) -> Result<(), OwnerError> {
    put(path, &[text.as_bytes()], None, PUBLIC)
}

/// Removes a file; gives whether there was one.
pub(super) fn remove(path: &Path) -> Result<bool, OwnerError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OwnerError::io(path)(error)),
    }
}

/// Makes a folder for secrets, unless there is one.
pub(super) fn make_private_folder(path: &Path) -> Result<(), OwnerError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(OwnerError::io(path))
}

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

fn put(path: &Path, content: &[&[u8]], like: Option<&Metadata>, mode: u32) -> Result<(), OwnerError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // It begins with a dot, so that no relay takes it for an entity.
    let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written =
        write(&draft, content, like, mode).and_then(|()| fs::rename(&draft, path)).and_then(|()| settle(path));
    if written.is_err() {
        // The error is told; what is left of the draft holds nothing that anybody uses.
        let _ = fs::remove_file(&draft);
    }
    written.map_err(OwnerError::io(path))
}

fn write(draft: &Path, content: &[&[u8]], like: Option<&Metadata>, mode: u32) -> io::Result<()> {
    // One that an interrupted command with the same process id left behind.
    let _ = fs::remove_file(draft);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(draft)?;
    if let Some(like) = like {
        same_owner(&file, like)?;
    }
    for part in content {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// A relay that runs as somebody else must still be able to read it.
#[cfg(unix)]
fn same_owner(file: &File, like: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        fchown(file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(Permissions::clone(&like.permissions()))
}

#[cfg(not(unix))]
fn same_owner(file: &File, like: &Metadata) -> io::Result<()> {
    file.set_permissions(Permissions::clone(&like.permissions()))
}

/// Makes a rename last through a loss of power.
fn settle(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
