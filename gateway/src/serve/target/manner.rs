//! How a target is spoken to: over TLS or not, in which version of HTTP. The cluster owner's word, in the config, comes
//! before the caller's; what only one version can carry (gRPC, upgrades) asks for that one.

use std::{
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use identity::tls::{self, TlsError, Trust};
use proto::tunnel::failure::{Code, Failure};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::head::Checked;
use crate::{
    policy::{Host, host::HostPattern},
    serve::config::{TargetConfig, TargetProtocol},
};

/// ALPN of HTTP/2.
const H2: &[u8] = b"h2";

/// ALPN of HTTP/1.1.
const HTTP1: &[u8] = b"http/1.1";

/// Within this time a target has finished its handshake: some round trips inside a cluster, and a busy target's CPU.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How targets are spoken to.
#[derive(Debug)]
pub struct Manners {
    entries: Vec<Entry>,
    /// For `https` to targets that no entry names; made when first needed, because the system's CAs are many.
    system: OnceLock<Arc<Tls>>,
}

#[derive(Debug)]
struct Entry {
    hosts: Vec<HostPattern>,
    ports: Vec<u16>,
    tls: Option<Arc<Tls>>,
    protocol: Option<TargetProtocol>,
}

/// How one target is spoken to.
#[derive(Debug, Clone)]
pub struct Manner {
    /// TLS, and how it verifies.
    pub tls: Option<Arc<Tls>>,
    /// Version of HTTP.
    pub version: Version,
}

/// Version of HTTP towards a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
    /// What ALPN gives.
    Either,
}

/// TLS to targets.
#[derive(Debug)]
pub struct Tls {
    /// Tells connections apart that were verified in different ways.
    id: String,
    /// Hash of the CAs.
    vouchers: [u8; 32],
    name: Option<ServerName<'static>>,
    one: Arc<ClientConfig>,
    two: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

impl Manners {
    /// Reads the CAs that the entries name, below `base`.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn new(targets: &[TargetConfig], base: &Path) -> Result<Self, TlsError> {
        let mut entries = Vec::with_capacity(targets.len());
        for target in targets {
            let tls = match &target.tls {
                Some(tls) => {
                    let trust = match &tls.ca {
                        Some(ca) => Trust { system: false, files: vec![ca.clone()] },
                        None => Trust::default(),
                    };
                    let name = tls.server_name.as_deref().and_then(|name| ServerName::try_from(name.to_owned()).ok());
                    Some(Arc::new(Tls::new(unique(), name, tls::roots(&trust, base)?)))
                }
                None => None,
            };
            entries.push(Entry {
                // What does not parse was refused with the config.
                hosts: target.hosts.iter().filter_map(|host| host.parse().ok()).collect(),
                ports: target.ports.clone(),
                tls,
                protocol: target.protocol,
            });
        }
        Ok(Self { entries, system: OnceLock::new() })
    }

    /// Whether the entries trust the same CAs, one by one.
    pub fn trusts_as(&self, other: &Self) -> bool {
        let vouchers = |manners: &Self| -> Vec<_> {
            manners.entries.iter().map(|entry| entry.tls.as_ref().map(|tls| tls.vouchers)).collect()
        };
        vouchers(self) == vouchers(other)
    }

    /// How the target of a request is spoken to.
    ///
    /// # Errors
    /// `Unsupported` if the config and the request exclude each other; `Internal` if there are no CAs on this machine.
    pub fn of(&self, checked: &Checked) -> Result<Manner, Failure> {
        let fits = |entry: &&Entry| {
            entry.ports.contains(&checked.port) && entry.hosts.iter().any(|pattern| pattern.matches(&checked.host))
        };
        let entry = self.entries.iter().find(fits);
        let tls = match entry.and_then(|entry| entry.tls.as_ref()) {
            Some(tls) => Some(Arc::clone(tls)),
            None if checked.secure => Some(self.system()?),
            None => None,
        };
        let unsupported = |message: &str| Failure::before_target(Code::Unsupported, message);
        let needs_two = checked.h2 || checked.is_grpc();
        let version = match entry.and_then(|entry| entry.protocol) {
            Some(TargetProtocol::Http1) if needs_two => {
                return Err(unsupported(
                    "the gateway's config says that this target speaks HTTP/1.1, and this needs HTTP/2",
                ));
            }
            Some(TargetProtocol::H2) if checked.upgrade.is_some() => {
                return Err(unsupported(
                    "the gateway's config says that this target speaks HTTP/2, which has no upgrades",
                ));
            }
            Some(TargetProtocol::Http1) => Version::One,
            Some(TargetProtocol::H2) => Version::Two,
            None if checked.upgrade.is_some() => Version::One,
            None if needs_two => Version::Two,
            None if tls.is_some() => Version::Either,
            None => Version::One,
        };
        Ok(Manner { tls, version })
    }

    fn system(&self) -> Result<Arc<Tls>, Failure> {
        if let Some(tls) = self.system.get() {
            return Ok(Arc::clone(tls));
        }
        let roots = tls::roots(&Trust::default(), Path::new(""))
            .map_err(|error| Failure::before_target(Code::Internal, format!("TLS to targets: {error}")))?;
        Ok(Arc::clone(self.system.get_or_init(|| Arc::new(Tls::new(unique(), None, roots)))))
    }
}

/// Never given twice: a connection that was verified before a reload must not pass for one that was after it.
fn unique() -> usize {
    static IDS: AtomicUsize = AtomicUsize::new(0);
    IDS.fetch_add(1, Ordering::Relaxed)
}

fn vouchers(roots: &RootCertStore) -> [u8; 32] {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for anchor in &roots.roots {
        for part in [&anchor.subject, &anchor.subject_public_key_info] {
            hash.update(&part.len().to_be_bytes());
            hash.update(part);
        }
    }
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

impl Tls {
    /// Trust in `roots` alone, and the name that the target must have, if it is not the one that is called.
    pub fn new(id: impl ToString, name: Option<ServerName<'static>>, roots: RootCertStore) -> Self {
        let vouchers = vouchers(&roots);
        let either = tls::client(roots, &[H2, HTTP1]);
        let only = |protocol: &[u8]| {
            let mut config = ClientConfig::clone(&either);
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Self { id: id.to_string(), vouchers, name, one: only(HTTP1), two: only(H2), either }
    }

    fn name(&self, host: &Host) -> Result<ServerName<'static>, Failure> {
        let named = match (&self.name, host) {
            (Some(name), _) => Ok(name.clone()),
            (None, Host::Address(address)) => Ok(ServerName::IpAddress((*address).into())),
            (None, Host::Name(name)) => ServerName::try_from(name.clone()),
        };
        named.map_err(|_| Failure::before_target(Code::InvalidRequest, format!("{host} cannot be a name in TLS")))
    }

    /// What tells a connection apart from others to the same address.
    pub fn place(&self, host: &Host) -> String {
        match &self.name {
            Some(_) => self.id.clone(),
            None => format!("{} {host}", self.id),
        }
    }

    /// The handshake; also whether the target chose HTTP/2.
    ///
    /// # Errors
    /// `TargetRefused` if the target cannot prove its name or does not speak TLS or the wanted version, `TargetTimeout`.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        host: &Host,
        version: Version,
    ) -> Result<(TlsStream<TcpStream>, bool), Failure> {
        let config = match version {
            Version::One => &self.one,
            Version::Two => &self.two,
            Version::Either => &self.either,
        };
        let name = self.name(host)?;
        let refused =
            |what: String| Failure::before_target(Code::TargetRefused, format!("TLS with {host} failed: {what}"));
        let session = match timeout(HANDSHAKE, TlsConnector::from(Arc::clone(config)).connect(name, tcp)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(refused(explained(&error))),
            Err(_) => {
                let message = format!("TLS with {host} was not finished within {} s", HANDSHAKE.as_secs());
                return Err(Failure::before_target(Code::TargetTimeout, message));
            }
        };
        let two = session.get_ref().1.alpn_protocol() == Some(H2);
        if version == Version::Two && !two {
            return Err(refused("the target does not agree on HTTP/2".to_owned()));
        }
        Ok((session, two))
    }
}

fn explained(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the target closed the connection".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proto::tunnel::pb::{Field, HttpRequest};

    use super::*;
    use crate::serve::target::head;

    fn manners() -> Manners {
        let targets: Vec<TargetConfig> = serde_saphyr::from_str(
            "- { hosts: [\"*.grpc.svc\"], ports: [50051], protocol: h2 }
- { hosts: [old.svc], ports: [80], protocol: http1 }
- { hosts: [\"**\"], ports: [50051], protocol: http1 }",
        )
        .unwrap();
        let mut manners = Manners::new(&targets, Path::new("")).unwrap();
        let tls = || Arc::new(Tls::new(unique(), None, RootCertStore::empty()));
        let hosts = vec!["tls.svc".parse().unwrap()];
        manners.entries.push(Entry { hosts, ports: vec![443], tls: Some(tls()), protocol: None });
        manners.system.set(tls()).unwrap();
        manners
    }

    fn checked(host: &str, port: u32, change: impl FnOnce(&mut HttpRequest)) -> Checked {
        let mut request = HttpRequest {
            method: "GET".to_owned(),
            scheme: "http".to_owned(),
            host: host.to_owned(),
            port,
            path: "/".to_owned(),
            no_body: true,
            ..HttpRequest::default()
        };
        change(&mut request);
        head::check(request).unwrap()
    }

    fn grpc(request: &mut HttpRequest) {
        request.fields = vec![Field {
            name: "content-type".to_owned(),
            value: bytes::Bytes::from_static(b"application/grpc+proto"),
        }];
    }

    fn upgrade(request: &mut HttpRequest) {
        request.upgrade = "websocket".to_owned();
    }

    #[test]
    fn the_version_is_what_the_request_needs_unless_the_config_says() {
        type Change = fn(&mut HttpRequest);
        let plain: Change = |_| {};
        let h2: Change = |request| request.protocol = "h2".to_owned();
        let https: Change = |request| request.scheme = "https".to_owned();
        type Row = (&'static str, u32, Change, Option<(Version, bool)>);
        let table: &[Row] = &[
            ("a.svc", 80, plain, Some((Version::One, false))),
            ("a.svc", 80, h2, Some((Version::Two, false))),
            ("a.svc", 80, grpc, Some((Version::Two, false))),
            ("a.svc", 80, upgrade, Some((Version::One, false))),
            ("a.svc", 443, https, Some((Version::Either, true))),
            ("tls.svc", 443, plain, Some((Version::Either, true))),
            ("tls.svc", 443, grpc, Some((Version::Two, true))),
            ("tls.svc", 443, upgrade, Some((Version::One, true))),
            ("x.grpc.svc", 50051, plain, Some((Version::Two, false))),
            ("x.grpc.svc", 50051, upgrade, None),
            ("x.other.svc", 50051, plain, Some((Version::One, false))),
            ("old.svc", 80, grpc, None),
        ];
        let manners = manners();
        for (host, port, change, expected) in table {
            let manner = manners.of(&checked(host, *port, change));
            let got = manner.map(|manner| (manner.version, manner.tls.is_some()));
            assert_eq!(got.as_ref().ok(), expected.as_ref(), "{host}:{port} {got:?}");
        }
    }
}
