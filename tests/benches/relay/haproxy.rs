//! Debian's haproxy as the other contender: TCP mode, TLS on both legs, everything else as it comes.
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
};

use anyhow::Context as _;
use causeway_tests::{
    pki::write,
    process::{Process, Spec},
    wait::until,
};

use super::world::on_its_core;

/// Starts it in front of `target` with the certificate in `folder`.
pub(crate) async fn start(folder: &Path, target: SocketAddr) -> anyhow::Result<(Process, SocketAddr)> {
    // haproxy takes no socket that is bound already; the port is free because it was just now.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).with_context(|| name.to_owned());
    write(&folder.join("haproxy.pem"), &(read("tls.crt")? + &read("tls.key")?));
    write(&folder.join("haproxy.cfg"), &config(address, target));
    let process = Process::start(on_its_core(Spec {
        name: "haproxy".to_owned(),
        program: "/usr/sbin/haproxy".into(),
        args: vec!["-db".into(), "-f".into(), "haproxy.cfg".into()],
        env: Vec::new(),
        directory: folder.to_owned(),
    }));
    until("haproxy to listen", async || tokio::net::TcpStream::connect(address).await.ok()).await;
    Ok((process, address))
}

fn config(address: SocketAddr, target: SocketAddr) -> String {
    format!(
        "global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend front
  bind {address} ssl crt haproxy.pem ssl-min-ver TLSv1.3
  default_backend back
backend back
  server target {target} ssl verify none ssl-min-ver TLSv1.3
"
    )
}
