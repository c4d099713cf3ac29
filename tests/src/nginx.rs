//! Debian's nginx as a service in the cluster: an unmodified web server that has never heard of us.
use std::{
    ffi::OsString,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use tokio::process::{Child, Command};

use crate::{pattern::Pattern, pki::write, wait::report};

/// What `/` answers with.
pub const HELLO: &str = "hello from the cluster\n";

/// Bytes of `/large.bin`: many windows and frames, and still quick.
pub const LARGE: u64 = 48 * 1024 * 1024 + 4321;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
    child: Child,
}

impl Nginx {
    /// Starts it in its own folder. What it serves:
    ///
    /// * `/`, `/large.bin`: files; `/missing`: 404
    /// * `/echo`: 200 with `method uri` and the body that came
    /// * `/fields`: the request fields that it saw, one a line
    /// * `/files/…`: `PUT` stores, `GET` gives back
    ///
    /// # Panics
    /// When nginx is not installed.
    pub fn start(parent: &Path) -> Self {
        let folder = parent.join("nginx");
        let web = folder.join("web");
        write(&web.join("index.html"), HELLO);
        std::fs::create_dir_all(web.join("files")).expect("a folder can be made in the test's own");
        std::fs::write(web.join("large.bin"), Pattern::new(LARGE).bytes()).expect("a file can be written there");
        // nginx takes over listening sockets that it is given by number in NGINX, as it does in its own upgrades. So the
        // kernel chooses the port, nobody else can take it, and connections wait in its queue until nginx is up.
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        write(&folder.join("nginx.conf"), &config(&folder, address));
        let child = Command::new("nginx")
            .args([OsString::from("-p"), folder.clone().into(), "-c".into(), folder.join("nginx.conf").into()])
            .args(["-e", "error.log"])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NGINX", "0;")
            .stdin(std::os::fd::OwnedFd::from(listener))
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is installed; `tests/run setup` does it");
        Self { address, folder, child }
    }

    /// The folder that it serves.
    pub fn web(&self) -> PathBuf {
        self.folder.join("web")
    }

    /// Its access log so far, one line a request: `method uri status`.
    pub fn accesses(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Asked to end, not killed: a killed master leaves its worker behind.
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
            let errors = std::fs::read_to_string(self.folder.join("error.log")).unwrap_or_default();
            report(format_args!("---- nginx\n{}\n{errors}", self.accesses().join("\n")));
        }
    }
}

/// In the foreground, every path in its own folder, which is private: so a worker of a master that runs as root stays
/// root (for anybody else `user` means nothing). A lone process without a master does not survive inherited sockets.
fn config(folder: &Path, address: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 1024; }}
http {{
  log_format lean '$request_method $request_uri $status';
  access_log {folder}/access.log lean;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  client_body_buffer_size 64k;
  keepalive_requests 1000000;
  types {{ text/html html; }}
  default_type application/octet-stream;
  server {{
    listen {address};
    root {folder}/web;
    location = /echo {{
      # A body is read only on its way to an upstream: this one is ourselves.
      proxy_pass http://{address}/echo-inner;
      proxy_set_header X-Body $request_body;
      proxy_set_header X-Request \"$request_method $request_uri\";
      proxy_set_body '';
      proxy_method GET;
    }}
    location = /echo-inner {{ return 200 \"$http_x_request\\n$http_x_body\\n\"; }}
    location = /fields {{
      return 200 \"host: $http_host\\nauthorization: $http_authorization\\ncauseway-authorization: $http_causeway_authorization\\ncauseway-anything: $http_causeway_anything\\nx-forwarded-for: $http_x_forwarded_for\\nconnection: $http_connection\\nx-application: $http_x_application\\n\";
    }}
    location /files/ {{ dav_methods PUT; }}
  }}
}}
"
    )
}
