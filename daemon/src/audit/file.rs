//! The file of one chain: opened where the last line ended, appended to, opened again when it was moved or failed.
use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::OFlags;
use serde_json::{Map, Value};

/// `previous` of a file's first line.
pub(super) const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Longest line that can be continued. Ours have some ten fields of at most [`super::TEXT_MAX`] characters.
pub(super) const LINE_MAX: u64 = 64 * 1024;

/// Why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refuses.
    #[error("{}: the audit file cannot be opened for appending", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is a folder, a device, a pipe or a symbolic link.
    #[error("{}: the audit file is not a regular file", path.display())]
    Kind {
        /// Which file.
        path: PathBuf,
    },
    /// A second writer would break the chain.
    #[error("{}: another process writes this audit file; give each its own", path.display())]
    Taken {
        /// Which file.
        path: PathBuf,
    },
    /// It is no audit file.
    #[error("{}: the last line is longer than any audit line; this is another kind of file", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
}

/// Why lines could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum AppendError {
    #[error("the audit file cannot be opened again")]
    Open(#[from] OpenError),
    #[error("{}: writing failed", path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    instance: String,
    seq: u64,
    /// Hash of the last line that this process wrote, wherever that file is now.
    last: Option<String>,
    /// Absent after a failure, which may have left some lines of a batch behind, counted or not.
    open: Option<Open>,
    failed: bool,
}

#[derive(Debug)]
struct Open {
    file: fs::File,
    previous: String,
}

impl File {
    /// Opens or makes it.
    pub(super) fn open(path: PathBuf) -> Result<Self, OpenError> {
        let open = Open::at(&path)?;
        let mut random = [0; 8];
        let random = aws_lc_rs::rand::fill(&mut random).map(|()| random);
        let source =
            |_| OpenError::Open { path: path.clone(), source: io::Error::other("the system has no randomness") };
        let instance = hex(&random.map_err(source)?);
        Ok(Self { path, instance, seq: 0, last: None, open: Some(open), failed: false })
    }

    /// Appends lines, all of them or none as far as this process is concerned: what a failure left half written is
    /// closed off and continued behind when the file is opened again.
    pub(super) fn append(
        &mut self,
        time: &str,
        events: Vec<(&'static str, Map<String, Value>)>,
    ) -> Result<(), AppendError> {
        let open = match self.open.take() {
            Some(open) if open.is_still(&self.path) => open,
            _ => Open::at(&self.path)?,
        };
        let (mut previous, mut seq, mut text) = (open.previous, self.seq, String::new());
        // Across files the chain goes on by this one field.
        let moved = self.last.as_ref().filter(|last| **last != previous);
        let begun = (seq == 0 || self.failed || moved.is_some()).then(|| {
            let after = moved.map(|last| ("after".to_owned(), last.clone().into()));
            (
                "begun",
                Map::from_iter(after.into_iter().chain([("version".to_owned(), env!("CARGO_PKG_VERSION").into())])),
            )
        });
        for (kind, mut fields) in begun.into_iter().chain(events) {
            seq += 1;
            for (name, value) in [
                ("time", time.into()),
                ("instance", self.instance.as_str().into()),
                ("seq", seq.into()),
                ("previous", previous.as_str().into()),
                ("kind", Value::from(kind)),
            ] {
                fields.insert(name.to_owned(), value);
            }
            let line = Value::Object(fields).to_string();
            previous = hash(line.as_bytes());
            text.push_str(&line);
            text.push('\n');
        }
        self.seq = seq;
        if let Err(source) = (&open.file).write_all(text.as_bytes()) {
            self.failed = true;
            return Err(AppendError::Write { path: self.path.clone(), source });
        }
        (self.last, self.failed) = (Some(previous.clone()), false);
        self.open = Some(Open { file: open.file, previous });
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Open { path: path.to_owned(), source };
        let kind = || OpenError::Kind { path: path.to_owned() };
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
        let opened =
            fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => return Err(kind()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => return Err(kind()),
            Err(error) => return Err(failed(error)),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(kind());
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::Taken { path: path.to_owned() }),
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let previous = match last_line(&mut file).map_err(failed)? {
            Last::None => NOTHING_BEFORE.to_owned(),
            Last::Whole(line) => hash(&line),
            Last::Torn(line) => {
                (&file).write_all(b"\n").map_err(failed)?;
                hash(&line)
            }
            Last::TooLong => return Err(OpenError::Foreign { path: path.to_owned() }),
        };
        Ok(Self { file, previous })
    }

    /// Whether the path still leads to this file.
    fn is_still(&self, path: &Path) -> bool {
        let there = fs::symlink_metadata(path).map(|there| (there.dev(), there.ino()));
        let ours = self.file.metadata().map(|ours| (ours.dev(), ours.ino()));
        matches!((there, ours), (Ok(there), Ok(ours)) if there == ours)
    }
}

enum Last {
    None,
    Whole(Vec<u8>),
    /// A crash or a full disk cut it off.
    Torn(Vec<u8>),
    TooLong,
}

fn last_line(file: &mut fs::File) -> io::Result<Last> {
    let length = file.seek(SeekFrom::End(0))?;
    if length == 0 {
        return Ok(Last::None);
    }
    let from = length.saturating_sub(LINE_MAX + 2);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(LINE_MAX + 2).read_to_end(&mut tail)?;
    let whole = tail.last() == Some(&b'\n');
    if whole {
        tail.pop();
    }
    let begin = match tail.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => at + 1,
        None if from == 0 => 0,
        None => return Ok(Last::TooLong),
    };
    let line = tail.split_off(begin);
    Ok(if whole { Last::Whole(line) } else { Last::Torn(line) })
}

pub(super) fn hash(line: &[u8]) -> String {
    hex(digest(&SHA256, line).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
