//! Whether a relay that runs has taken a change over: its admin port says which file it follows, when it last read it, and
//! what was wrong with it.
use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{OwnerError, Problem, home::Home};

/// How long a relay may take. It notices within a moment where the system tells of changes, and within seconds elsewhere.
const PATIENCE: Duration = Duration::from_secs(15);

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// How long one question may take, on this machine.
const ANSWER: Duration = Duration::from_secs(5);

/// Largest answer: ten thousand hybrid connections with their listeners.
const STATUS_MAX: u64 = 64 * 1024 * 1024;

/// What came of a change.
#[derive(Debug)]
pub(super) enum Fate {
    /// A running relay has it in force.
    InForce,
    /// No relay runs here with this file.
    NotRunning(SocketAddr),
    /// One runs with another file.
    Another(SocketAddr, PathBuf),
    /// Something answers there that does not tell.
    Unknown(SocketAddr, String),
}

impl Fate {
    /// Waits until a running relay has read what was written until now.
    pub(super) fn of_change(home: &Home) -> Result<Self, OwnerError> {
        let changed = millis(SystemTime::now());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let configuration = match status(home) {
                Ok(mut status) => status["relay"]["configuration"].take(),
                Err(fate) => return Ok(fate),
            };
            if configuration["read_ms"].as_u64().is_some_and(|read| read > changed) {
                return match configuration["refused"].as_str() {
                    None => Ok(Self::InForce),
                    Some(problem) => Err(OwnerError::Refused(Problem(problem.to_owned()))),
                };
            }
            if Instant::now() >= deadline {
                return Err(OwnerError::Late(home.admin));
            }
            sleep(PAUSE);
        }
    }

    /// The end of a sentence that says what was changed.
    pub(super) fn told<'a>(&'a self, done: &'a str) -> impl fmt::Display + 'a {
        Told { fate: self, done }
    }
}

struct Told<'a> {
    fate: &'a Fate,
    done: &'a str,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fate {
            Fate::InForce => write!(f, "relay reloaded: {}", self.done),
            Fate::NotRunning(address) => write!(f, "no relay runs at {address}; it counts from the next start"),
            Fate::Another(address, file) => {
                write!(f, "the relay at {address} runs with {}, not with this file", file.display())
            }
            Fate::Unknown(address, why) => write!(f, "whether a relay took it over is not known: {address} {why}"),
        }
    }
}

/// What the relay that runs with this file says; else why nothing can be said.
pub(super) fn status(home: &Home) -> Result<Value, Fate> {
    let address = home.admin;
    if address.port() == 0 {
        return Err(Fate::Unknown(address, "is no address that can be asked (admin.address)".to_owned()));
    }
    let status = match ask(address) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(Fate::NotRunning(address)),
        Err(error) => return Err(Fate::Unknown(address, format!("cannot be asked: {error}"))),
    };
    let Some(file) = status["relay"]["configuration"]["file"].as_str().map(PathBuf::from) else {
        return Err(Fate::Unknown(address, "is no relay".to_owned()));
    };
    let own = &home.loaded.path;
    if file == own.canonicalize().unwrap_or_else(|_| own.clone()) {
        Ok(status)
    } else {
        Err(Fate::Another(address, file))
    }
}

fn ask(address: SocketAddr) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /statusz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(STATUS_MAX).read_to_end(&mut answer)?;
    let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| wrong("not an HTTP answer"))?;
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(wrong("/statusz is refused there; it answers on loopback only"));
    }
    serde_json::from_slice(body).map_err(|_| wrong("not a status"))
}

fn millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
