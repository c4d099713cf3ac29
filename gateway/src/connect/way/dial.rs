//! TCP to the first address of a host that takes the connection.
use std::{io, time::Duration};

use tokio::net::TcpStream;

use super::{
    Progress,
    error::{Cause, Stage, WayCode, WayError},
};

/// Time for one address, so that a dead one leaves time for the next within the deadline of the whole setup.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(4);
/// Addresses tried: more would not fit into the deadline.
const ADDRESSES_MAX: usize = 4;

/// Resolves and connects. Every write goes out at once: what is written is whole frames already.
pub(super) async fn tcp(host: &str, port: u16, progress: &Progress) -> Result<TcpStream, WayError> {
    progress.at(Stage::Dns);
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| WayError::new(Stage::Dns, WayCode::Unresolved, error))?;
    progress.at(Stage::Tcp);
    let mut last = WayError::new(Stage::Dns, WayCode::Unresolved, Cause::Said("the name has no address"));
    for address in addresses.take(ADDRESSES_MAX) {
        last = match tokio::time::timeout(ADDRESS_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|error| WayError::new(Stage::Tcp, WayCode::Unreachable, error))?;
                return Ok(stream);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                WayError::new(Stage::Tcp, WayCode::Refused, error)
            }
            Ok(Err(error)) => WayError::new(Stage::Tcp, WayCode::Unreachable, error),
            Err(_) => WayError::new(Stage::Tcp, WayCode::Unreachable, Cause::Silent(ADDRESS_DEADLINE)),
        };
    }
    Err(last)
}
