//! A token that something else renews: a projected service-account token, or one that a job writes. The cache reads it
//! again as soon as the file changes. A newline at its end is not part of the token.
use std::{
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use super::{ErrorCode, Source, Token, TokenError};
use crate::{jwt, secret::Secret};

/// Larger files hold no token that any server would take.
const MAX_BYTES: u64 = 64 * 1024;

/// Room for most tokens: growing would leave copies behind in freed memory.
const USUAL_BYTES: usize = 16 * 1024;

/// Assumed life of a token that does not say when it ends; it is read again at half of it at the latest.
const OPAQUE_LIFE: Duration = Duration::from_secs(300);

/// Reads a token from a file.
pub(super) struct FileSource {
    path: PathBuf,
}

impl FileSource {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

/// The token in a file.
pub(super) fn read_token(path: &Path) -> Result<Token, TokenError> {
    let shown = path.display();
    let mut text = zeroize::Zeroizing::new(String::with_capacity(USUAL_BYTES));
    fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| TokenError::new(ErrorCode::FileUnreadable, format!("{shown}: {error}")))?;
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() || token.len() as u64 > MAX_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{shown} holds no bearer token: one line of printable characters without spaces");
        return Err(TokenError::new(ErrorCode::UpstreamShape, message));
    }
    let now = SystemTime::now();
    let expires = jwt::unverified_expiry(token).unwrap_or(now + OPAQUE_LIFE);
    if expires <= now {
        let message = format!("the token in {shown} has expired: what renews the file has stopped");
        return Err(TokenError::new(ErrorCode::TokenExpired, message));
    }
    Ok(Token { secret: Secret::new(token), expires, refresh: None })
}

impl Source for FileSource {
    fn fetch<'a>(&'a self, _audience: &'a str) -> Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>> {
        // A small file that was just written: reading it takes less than handing it to another thread.
        Box::pin(std::future::ready(read_token(&self.path)))
    }

    fn generation(&self) -> u64 {
        fingerprint(&self.path)
    }
}

impl fmt::Debug for FileSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSource").field("path", &self.path).finish()
    }
}

/// A number that changes when the file does: one look at its metadata, through symbolic links as Kubernetes swaps them.
pub(super) fn fingerprint(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(metadata) = fs::metadata(path) {
        metadata.len().hash(&mut hasher);
        metadata.modified().ok().hash(&mut hasher);
        #[cfg(unix)]
        std::os::unix::fs::MetadataExt::ino(&metadata).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jwt::Signer;

    fn source(text: &str) -> (tempfile::TempDir, FileSource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        (folder, FileSource::new(path))
    }

    #[tokio::test]
    async fn the_newline_is_not_part_of_the_token() {
        for text in ["opaque", "opaque\n", "opaque\r\n"] {
            let (_folder, source) = source(text);
            assert_eq!(source.fetch("x").await.unwrap().secret.expose(), "opaque");
        }
    }

    #[tokio::test]
    async fn a_jwt_ends_when_it_says() {
        let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 600;
        let (_folder, good) = source(Signer::generate("k").sign(&json!({ "exp": end })).expose());
        let expires = good.fetch("x").await.unwrap().expires;
        assert_eq!(expires, SystemTime::UNIX_EPOCH + Duration::from_secs(end));
        let (_folder, old) = source(Signer::generate("k").sign(&json!({ "exp": end - 601 })).expose());
        assert_eq!(old.fetch("x").await.unwrap_err().code, ErrorCode::TokenExpired);
    }

    #[tokio::test]
    async fn what_is_no_token_is_refused_without_being_shown() {
        for text in ["", "\n", "two words", "hunter2\nhunter2", "hunter2 \n", &"x".repeat(70_000)] {
            let (_folder, source) = source(text);
            let error = source.fetch("x").await.unwrap_err();
            assert_eq!(error.code, ErrorCode::UpstreamShape);
            assert!(!error.to_string().contains("hunter2"));
        }
        let (folder, source) = source("x");
        folder.close().unwrap();
        assert_eq!(source.fetch("x").await.unwrap_err().code, ErrorCode::FileUnreadable);
    }

    #[test]
    fn the_generation_follows_the_file() {
        let (folder, source) = source("one");
        let first = source.generation();
        assert_eq!(first, source.generation());
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, "two").unwrap();
        fs::rename(&fresh, folder.path().join("token")).unwrap();
        assert_ne!(first, source.generation());
        folder.close().unwrap();
        assert_ne!(first, source.generation());
    }
}
