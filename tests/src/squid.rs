//! Debian's squid as the proxy that everything has to leave through: it alone knows the addresses of the names behind it,
//! and what it forwards comes from an address of its own.
use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
};

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::wait::{private_loopback, report, until};

/// Who may use a proxy that asks.
pub const USER: &str = "cause";

/// The password of [`USER`].
pub const PASSWORD: &str = "a-proxy-password-that-must-not-be-logged";

/// [`PASSWORD`] as squid's own helper reads it (`openssl passwd -apr1`).
const HASH: &str = "$apr1$causeway$HsAYd5VJcfji6V43gFv2c/";

/// Squid's own place; its address is nobody else's, so the usual port is free.
const PORT: u16 = 3128;

/// A running squid.
#[derive(Debug)]
pub struct Squid {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its connections to destinations come from.
    pub outgoing: IpAddr,
    child: Child,
    // Last, so that it outlives what runs in it.
    folder: TempDir,
}

impl Squid {
    /// Starts one that lets everybody through to these names.
    pub async fn open(hosts: &[(&str, IpAddr)]) -> Self {
        Self::start(hosts, "http_access allow CONNECT").await
    }

    /// Starts one that lets [`USER`] through to these names.
    pub async fn asking(hosts: &[(&str, IpAddr)]) -> Self {
        Self::start(hosts, "http_access allow CONNECT known").await
    }

    async fn start(hosts: &[(&str, IpAddr)], access: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        // As root it becomes another user, who has to write here.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("the folder is ours");
        let (address, outgoing) = (SocketAddr::new(private_loopback(), PORT), private_loopback());
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("it can be written");
        let names: String = hosts.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        write("hosts", names);
        write("users", format!("{USER}:{HASH}\n"));
        let place = folder.path().display();
        write(
            "squid.conf",
            format!(
                "http_port {address}
visible_hostname proxy.test
pid_filename none
cache deny all
hosts_file {place}/hosts
dns_nameservers 127.0.0.1
tcp_outgoing_address {outgoing}
shutdown_lifetime 0 seconds
logformat lean %rm %ru %>Hs %un
access_log stdio:{place}/access.log lean
cache_log {place}/cache.log
coredump_dir none
auth_param basic program /usr/lib/squid/basic_ncsa_auth {place}/users
auth_param basic children 1 startup=1
auth_param basic realm proxy
acl known proxy_auth REQUIRED
{access}
http_access deny all
"
            ),
        );
        let child = Command::new("squid")
            .arg("-N")
            .arg("-f")
            .arg(folder.path().join("squid.conf"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .kill_on_drop(true)
            .spawn()
            .expect("squid is installed; `tests/run setup` does it");
        let mut squid = Self { address, outgoing, child, folder };
        until("squid to listen", async || {
            let ended = squid.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "squid ended ({ended:?}) instead of listening");
            TcpStream::connect(address).ok()
        })
        .await;
        squid
    }

    /// What it was asked for so far, one line a tunnel: `CONNECT host:port status user`. A line comes when a tunnel ends.
    pub fn accesses(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file("access.log")).unwrap_or_default();
        // Whoever only looks whether it listens asks for nothing.
        text.lines().filter(|line| !line.starts_with("- ")).map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        // Asked to end, not killed: a killed squid leaves its helper behind.
        if let Some(id) = self.child.id() {
            let asked = std::process::Command::new("sh").arg("-c").arg(format!("kill -TERM {id}")).status();
            for _ in 0..200 {
                if asked.is_err() || !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.file("cache.log")).unwrap_or_default();
            report(format_args!("---- squid\n{}\n{log}", self.accesses().join("\n")));
        }
    }
}
