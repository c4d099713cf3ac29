//! Unix sockets of this machine. Callers know names; the paths stand in the config and never travel (SD-5).

use std::{collections::BTreeMap, io, path::PathBuf};

use proto::tunnel::failure::{Code, Failure};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

/// Connects to the socket of this name. The caller has been granted the name already.
///
/// # Errors
/// `TargetUnresolved` if the config has no such name, `TargetRefused`, `TargetTimeout`.
pub async fn connect(
    sockets: &BTreeMap<String, PathBuf>,
    name: &str,
    deadline: Instant,
) -> Result<UnixStream, Failure> {
    let Some(path) = sockets.get(name) else {
        let message = format!("the gateway's config has no Unix socket \"{name}\"");
        return Err(Failure::before_target(Code::TargetUnresolved, message));
    };
    match timeout_at(deadline, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            // The path is the owner's affair: it is in the config, not in what the caller is told.
            let what = match error.kind() {
                io::ErrorKind::ConnectionRefused => "nobody listens on it",
                io::ErrorKind::NotFound => "it does not exist",
                io::ErrorKind::PermissionDenied => "the gateway may not open it",
                _ => "it cannot be opened",
            };
            Err(Failure::before_target(Code::TargetRefused, format!("Unix socket {name}: {what}")))
        }
        Err(_) => {
            let message = format!("Unix socket {name} did not accept a connection in time");
            Err(Failure::before_target(Code::TargetTimeout, message))
        }
    }
}
