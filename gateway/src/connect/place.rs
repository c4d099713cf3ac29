//! Where a face listens: an address, or a Unix socket that is written `unix:<path>`. Parsed once; a bad text says what to
//! write.
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// What Linux has room for in the name of a socket, with its end (`sun_path`).
const SOCKET_NAME_MAX: usize = 107;

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Place {
    /// A TCP port; port 0 lets the kernel choose.
    Port(SocketAddr),
    /// A Unix socket, relative to the configuration file.
    Socket(PathBuf),
}

/// What is wrong with a place's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Neither form.
    #[error("write <address>:<port>, such as 127.0.0.1:8080, or unix:<path>")]
    Shape,
    /// The kernel has no room for the name.
    #[error("the path of a Unix socket has at most {SOCKET_NAME_MAX} bytes")]
    Long,
}

impl Place {
    /// Whether only this machine reaches it.
    pub fn is_private(&self) -> bool {
        match self {
            Self::Port(address) => address.ip().to_canonical().is_loopback(),
            Self::Socket(_) => true,
        }
    }

    /// Its address, if it is a port.
    pub fn port(&self) -> Option<SocketAddr> {
        match self {
            Self::Port(address) => Some(*address),
            Self::Socket(_) => None,
        }
    }

    /// The same with the path of a socket made absolute.
    ///
    /// # Errors
    /// The path has become too long.
    pub fn below(&self, base: &Path) -> Result<Self, PlaceError> {
        match self {
            Self::Socket(path) => Self::socket(base.join(path)),
            Self::Port(_) => Ok(self.clone()),
        }
    }

    fn socket(path: PathBuf) -> Result<Self, PlaceError> {
        if path.as_os_str().len() > SOCKET_NAME_MAX {
            return Err(PlaceError::Long);
        }
        Ok(Self::Socket(path))
    }
}

impl TryFrom<String> for Place {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        match text.strip_prefix("unix:") {
            // A name that begins with a zero byte is not a file, and has no mode.
            Some(path) if path.is_empty() || path.ends_with('/') || path.contains('\0') => Err(PlaceError::Shape),
            Some(path) => Self::socket(path.into()),
            None => text.parse().map(Self::Port).map_err(|_| PlaceError::Shape),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl schemars::JsonSchema for Place {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Place".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "address:port or unix:path" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Place, PlaceError> {
        Place::try_from(text.to_owned())
    }

    #[test]
    fn an_address_or_a_path_comes_back_as_it_was_written() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/causeway/api.sock", "unix:api.sock"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_says_what_to_write() {
        for text in ["", "8080", "localhost:8080", "unix:", "unix:/run/", "unix:a\0b", "/run/api.sock"] {
            assert_eq!(parse(text), Err(PlaceError::Shape), "{text:?}");
        }
    }

    #[test]
    fn a_path_has_the_length_that_the_kernel_takes_and_no_more() {
        let longest = format!("unix:{}", "a".repeat(SOCKET_NAME_MAX));
        let place = parse(&longest).unwrap();
        assert_eq!(parse(&format!("{longest}a")), Err(PlaceError::Long));
        assert_eq!(place.below(Path::new("/etc")), Err(PlaceError::Long));
        assert_eq!(parse("unix:a").unwrap().below(Path::new("/run")), parse("unix:/run/a"));
    }

    #[test]
    fn loopback_and_sockets_are_private() {
        for text in ["127.0.0.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:a"] {
            assert!(parse(text).unwrap().is_private(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            assert!(!parse(text).unwrap().is_private(), "{text}");
        }
    }
}
