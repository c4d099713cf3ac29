//! The other contenders: rathole over TLS WebSocket, two chained nginx over TLS, and one HAProxy as a plain TCP hop.
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use causeway_tests::{
    pki::{Pki, write},
    site::Site,
    wait::until,
};

use super::world::{Path_, Targets, start};

/// Where `cargo install` was told to put rathole.
const RATHOLE: &str = "target/bench-tools/bin/rathole";

/// A port that was free just now, for programs that take no socket.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn listens(what: &str, address: SocketAddr) {
    until(format_args!("{what} to listen"), async || tokio::net::TcpStream::connect(address).await.ok()).await;
}

/// rathole 0.5.0, if it was installed.
pub(crate) async fn rathole(site: &Site, targets: Targets) -> anyhow::Result<Option<Path_>> {
    let program = causeway_tests::programs::repository().join(RATHOLE);
    if !program.exists() {
        return Ok(None);
    }
    let folder = site.path();
    let pki = Pki::new();
    pki.write_server_named(folder, &["127.0.0.1"]);
    write(&folder.join("rathole-ca.pem"), pki.certificate());
    let packed = Command::new("openssl")
        .args(["pkcs12", "-export", "-in", "tls.crt", "-inkey", "tls.key", "-out", "rathole.pfx"])
        .args(["-passout", "pass:bench"])
        .current_dir(folder)
        .output()
        .context("openssl")?;
    ensure!(packed.status.success(), "openssl pkcs12: {}", String::from_utf8_lossy(&packed.stderr));
    let (door, bulk, echo, web) = (free()?, free()?, free()?, free()?);
    let service =
        |name: &str, key: &str, address: SocketAddr| format!("[{name}]\n{key} = \"{address}\"\nnodelay = true\n");
    let server = format!(
        "[server]\nbind_addr = \"{door}\"\ndefault_token = \"bench\"\n[server.transport]\ntype = \"websocket\"\n\
         [server.transport.tcp]\nnodelay = true\n[server.transport.websocket]\ntls = true\n[server.transport.tls]\n\
         pkcs12 = \"rathole.pfx\"\npkcs12_password = \"bench\"\n{}{}{}",
        service("server.services.bulk", "bind_addr", bulk),
        service("server.services.echo", "bind_addr", echo),
        service("server.services.web", "bind_addr", web),
    );
    let client = format!(
        "[client]\nremote_addr = \"localhost:{}\"\ndefault_token = \"bench\"\n[client.transport]\ntype = \"websocket\"\n\
         [client.transport.tcp]\nnodelay = true\n[client.transport.websocket]\ntls = true\n[client.transport.tls]\n\
         trusted_root = \"rathole-ca.pem\"\nhostname = \"localhost\"\n{}{}{}",
        door.port(),
        service("client.services.bulk", "local_addr", targets.sink),
        service("client.services.echo", "local_addr", targets.echo),
        service("client.services.web", "local_addr", site.nginx.address),
    );
    write(&folder.join("rathole-server.toml"), &server);
    write(&folder.join("rathole-client.toml"), &client);
    let (server, _) = start("rathole-server", program.clone(), folder, &["--server", "rathole-server.toml"]);
    listens("rathole's server", door).await;
    let (client, _) = start("rathole-client", program, folder, &["--client", "rathole-client.toml"]);
    for address in [bulk, echo, web] {
        listens("rathole's service", address).await;
    }
    Ok(Some(Path_ { name: "rathole", bulk, echo, tcp: Some(web), http: None, processes: vec![server, client] }))
}

/// Two nginx in a chain with TLS between them, each logging a line for each request as ours do.
pub(crate) async fn nginx_chain(site: &Site) -> anyhow::Result<Path_> {
    let (folder, web) = (site.path(), site.nginx.address);
    let (near, far) = (free()?, free()?);
    site.pki.write_server_named(folder, &["127.0.0.1"]);
    let upstream = |scheme: &str, to: SocketAddr| {
        format!(
            "proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
             proxy_set_header Host web.test:{}; proxy_ssl_verify off; }} }}\n  upstream next {{ server {to}; keepalive 64; }}",
            web.port()
        )
    };
    let near_config = format!("server {{ listen {near}; location / {{ {}", upstream("https", far));
    let far_config = format!(
        "server {{ listen {far} ssl; ssl_certificate {0}/tls.crt; ssl_certificate_key {0}/tls.key; location / {{ {1}",
        folder.display(),
        upstream("http", web)
    );
    let mut processes = Vec::new();
    for (name, address, server) in [("far", far, far_config), ("near", near, near_config)] {
        let own = folder.join(format!("chain-{name}"));
        std::fs::create_dir_all(&own)?;
        write(&own.join("nginx.conf"), &chained(&own, &server));
        let config = own.join("nginx.conf").display().to_string();
        // Alone and without a master, so that its CPU time is the process's.
        let (process, _) = start(name, PathBuf::from("/usr/sbin/nginx"), &own, &["-c", &config, "-e", "error.log"]);
        listens("nginx", address).await;
        processes.push(process);
    }
    Ok(Path_ { name: "nginx chain", bulk: web, echo: web, tcp: None, http: Some(near), processes })
}

fn chained(folder: &Path, server: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  {server}
}}
"
    )
}

/// One HAProxy as a plain TCP hop before the web server, if it is there.
pub(crate) async fn haproxy(site: &Site) -> anyhow::Result<Option<Path_>> {
    let program = PathBuf::from("/usr/sbin/haproxy");
    if !program.exists() {
        return Ok(None);
    }
    let (address, web) = (free()?, site.nginx.address);
    let config = format!(
        "global\n  maxconn 1000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         frontend front\n  bind {address}\n  default_backend back\nbackend back\n  server target {web}\n"
    );
    write(&site.file("haproxy.cfg"), &config);
    let (process, _) = start("haproxy", program, site.path(), &["-db", "-f", "haproxy.cfg"]);
    listens("haproxy", address).await;
    Ok(Some(Path_ {
        name: "one HAProxy hop",
        bulk: address,
        echo: address,
        tcp: Some(address),
        http: None,
        processes: vec![process],
    }))
}
