//! Connects to a judged address, and to no other: the name is not asked again between the judgement and the connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use proto::tunnel::failure::{Code, Failure};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    address::{Class, Verdict, judge},
    resolve::Resolver,
};
use crate::{policy::Host, serve::config::Networks};

/// Addresses tried one after the other before giving up.
const ATTEMPTS_MAX: usize = 4;

/// What a host's addresses were judged to be.
#[derive(Debug, Default)]
pub struct Judged {
    /// In the cluster, or excepted.
    pub inside: Vec<SocketAddr>,
    /// Outside of the cluster's ranges.
    pub external: Vec<SocketAddr>,
    /// The first one that is never called, and why.
    pub refused: Option<(SocketAddr, Class)>,
}

impl Judged {
    /// Judges each address.
    pub fn new(addresses: &[IpAddr], port: u16, networks: &Networks) -> Self {
        let mut judged = Self::default();
        for address in addresses.iter().map(|ip| SocketAddr::new(*ip, port)) {
            match judge(address, networks) {
                Verdict::Inside => judged.inside.push(address),
                Verdict::External => judged.external.push(address),
                Verdict::Refused(class) => judged.refused = judged.refused.or(Some((address, class))),
            }
        }
        judged
    }

    /// The failure when nothing is left to call.
    pub fn refusal(&self) -> Failure {
        let message = match self.refused {
            Some((address, class)) => format!("{} is a {} address, which is never called", address.ip(), class.name()),
            None => "the name has no address that may be called".to_owned(),
        };
        Failure::before_target(Code::AddressRefused, message)
    }
}

/// Connects to the first address that answers.
///
/// # Errors
/// `AddressRefused` if an address turns out to be this machine's own, `TargetRefused`, `TargetTimeout`.
pub async fn connect(
    addresses: &[SocketAddr],
    networks: &Networks,
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), Failure> {
    connect_unless(addresses, deadline, |address| !networks.exceptions.contains(&address) && is_own(address)).await
}

/// Connects to the first address that answers, of those that the owner's config names: they are not judged.
///
/// # Errors
/// `TargetRefused`, `TargetTimeout`.
pub async fn connect_configured(
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), Failure> {
    connect_unless(addresses, deadline, |_| false).await
}

/// All addresses of a host, for this subject, within a time.
///
/// # Errors
/// `TargetUnresolved`.
pub async fn resolve(
    resolver: &Resolver,
    host: &Host,
    subject: &impl ToString,
    deadline: Instant,
) -> Result<Arc<[IpAddr]>, Failure> {
    timeout_at(deadline, resolver.resolve(host, subject)).await.unwrap_or_else(|_| {
        let message = format!("{host}: the cluster's DNS did not answer in time");
        Err(Failure::before_target(Code::TargetUnresolved, message))
    })
}

async fn connect_unless(
    addresses: &[SocketAddr],
    deadline: Instant,
    is_forbidden: impl Fn(SocketAddr) -> bool,
) -> Result<(TcpStream, SocketAddr), Failure> {
    let attempts = addresses.len().min(ATTEMPTS_MAX);
    let mut last = Failure::before_target(Code::TargetUnresolved, "the name has no address");
    for (index, address) in addresses.iter().take(attempts).enumerate() {
        if is_forbidden(*address) {
            let message = format!("{} is this gateway's own address, which is never called", address.ip());
            last = Failure::before_target(Code::AddressRefused, message);
            continue;
        }
        // Each attempt gets its share of the time that is left, so that one dead address does not take all of it.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(attempts - index).unwrap_or(1);
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Both ways carry requests and answers, which must not wait for each other. Without it all still works.
                let _ = stream.set_nodelay(true);
                return Ok((stream, *address));
            }
            Ok(Err(error)) => last = refused(*address, &error),
            Err(_) => {
                let message = format!("{address} did not accept a connection in time");
                last = Failure::before_target(Code::TargetTimeout, message);
            }
        }
    }
    Err(last)
}

fn refused(address: SocketAddr, error: &io::Error) -> Failure {
    let (code, what) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (Code::TargetRefused, "refused the connection".to_owned()),
        io::ErrorKind::TimedOut => (Code::TargetTimeout, "did not accept a connection in time".to_owned()),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (Code::TargetRefused, "cannot be reached from the gateway".to_owned())
        }
        _ => (Code::TargetRefused, format!("cannot be connected to: {error}")),
    };
    Failure::before_target(code, format!("{address} {what}"))
}

/// Whether an address is one of this machine's. The kernel knows: it would use the address itself to reach it. A
/// connected datagram socket asks that without sending anything.
fn is_own(address: SocketAddr) -> bool {
    let any = match address.ip() {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let local = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    local.is_ok_and(|local| local.ip() == address.ip())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    fn networks(exceptions: &[SocketAddr]) -> Networks {
        Networks { exceptions: exceptions.to_vec(), ..Networks::default() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn addresses_are_sorted_by_what_they_are() {
        let networks: Networks = serde_saphyr::from_str("pods: 10.42.0.0/16").unwrap();
        let addresses = ["10.42.0.1", "8.8.8.8", "127.0.0.1"].map(|text| text.parse().unwrap());
        let judged = Judged::new(&addresses, 80, &networks);
        assert_eq!(judged.inside, ["10.42.0.1:80".parse().unwrap()]);
        assert_eq!(judged.external, ["8.8.8.8:80".parse().unwrap()]);
        assert_eq!(judged.refusal().message, "127.0.0.1 is a loopback address, which is never called");
    }

    #[tokio::test]
    async fn this_machines_own_address_is_not_called_without_exception() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let failure = connect(&[address], &networks(&[]), soon()).await.unwrap_err();
        assert_eq!(failure.code, Code::AddressRefused);
        let (_, connected) = connect(&[address], &networks(&[address]), soon()).await.unwrap();
        assert_eq!(connected, address);
    }

    #[tokio::test]
    async fn a_target_that_refuses_is_named_and_the_next_one_is_tried() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failure = connect(&[closed], &networks(&[closed]), soon()).await.unwrap_err();
        assert_eq!(failure, Failure::before_target(Code::TargetRefused, format!("{closed} refused the connection")));
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open_address = open.local_addr().unwrap();
        let both = [closed, open_address];
        assert_eq!(connect(&both, &networks(&both), soon()).await.unwrap().1, open_address);
    }
}
