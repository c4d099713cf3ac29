//! The config files of a site, as a person would write them, and where the connector's faces lead.
use std::net::SocketAddr;

use super::{CLUSTER, CONNECTOR, IDENTITY_HEADER, Site};
use crate::{
    token_endpoint::{CLIENT_ID, CLIENT_SECRET, TENANT},
    tokens::{ISSUER, SUBJECT},
};

/// Local ports of the connector, in the order of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// HTTP as the caller, to nginx.
    Caller,
    /// HTTP as the connector, to nginx.
    Web,
    /// HTTP to a host that no rule names.
    Denied,
    /// HTTP to a host that a rule names and nothing resolves.
    Unresolvable,
    /// HTTP to a port on which nobody listens.
    Refused,
    /// TCP to the echo service.
    Echo,
    /// TCP to the checksum service.
    Checksum,
    /// TCP to a host that no rule names.
    DeniedTcp,
}

/// Every face, in the order of the file.
pub(crate) const FACES: [(Face, &str, &str); 8] = [
    (Face::Caller, "http", "caller"),
    (Face::Web, "http", "connector"),
    (Face::Denied, "http", "connector"),
    (Face::Unresolvable, "http", "connector"),
    (Face::Refused, "http", "connector"),
    (Face::Echo, "tcp", "connector"),
    (Face::Checksum, "tcp", "connector"),
    (Face::DeniedTcp, "tcp", "connector"),
];

impl Site {
    /// Where a face leads, by names that only the gateway can resolve.
    pub fn target(&self, face: Face) -> String {
        match face {
            Face::Caller | Face::Web => format!("web.test:{}", self.nginx.address.port()),
            Face::Denied => format!("denied.test:{}", self.nginx.address.port()),
            Face::Unresolvable => format!("nowhere.test:{}", self.nginx.address.port()),
            Face::Refused => format!("refusing.test:{}", self.refusing.address.port()),
            Face::Echo => format!("echo.test:{}", self.echo.address.port()),
            Face::Checksum => format!("checksum.test:{}", self.checksum.address.port()),
            Face::DeniedTcp => format!("denied.test:{}", self.echo.address.port()),
        }
    }

    /// Writes `listener.yaml` without starting anything.
    pub fn write_listener(&self, relay: SocketAddr, gateway: SocketAddr) {
        self.write(
            "listener.yaml",
            &format!(
                "hybrid_connections:
  - url: sb://{relay}/{CLUSTER}
    credential: {{ sas: {{ rule: {CLUSTER}-listen, key: {{ file: listen.key }} }} }}
    forward: {{ tunnel: \"{gateway}\" }}
trust: {{ system: false, files: [ca.pem] }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
"
            ),
        );
    }

    pub(super) fn write_connector(&self, way: &str) {
        let mut config = format!(
            "clusters:
  {CLUSTER}:
    trust: {{ file: {CLUSTER}.trust.yaml }}
    ways:
      - {way}
    token: {{ source: file, path: connector.token }}
trust: {{ system: false, files: [ca.pem] }}
faces:
"
        );
        for (face, kind, speaks) in FACES {
            let target = self.target(face);
            config.push_str(&format!("  - {{ {kind}: 127.0.0.1:0, to: {CLUSTER}/{target}, as: {speaks} }}\n"));
        }
        config.push_str("admin: { address: 127.0.0.1:0 }\nlog: { level: debug }\n");
        self.write("connector.yaml", &config);
    }

    pub(super) fn write_sidecar(&self, endpoint: SocketAddr) {
        self.write("client.secret", CLIENT_SECRET);
        self.write("header.secret", IDENTITY_HEADER);
        self.write(
            "sidecar.yaml",
            &format!(
                "listen: 127.0.0.1:0
source:
  source: client_secret
  authority: https://{endpoint}
  tenant: {TENANT}
  client_id: {CLIENT_ID}
  client_secret: {{ file: client.secret }}
  ca: ca.pem
faces: {{ app_service: {{ header: {{ file: header.secret }} }} }}
allow: [https://storage.azure.com]
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
"
            ),
        );
    }

    pub(super) fn gateway_config(&self) -> String {
        let mut exceptions = Vec::new();
        for target in [self.nginx.address, self.echo.address, self.checksum.address, self.refusing.address] {
            exceptions.push(format!("\"{target}\""));
        }
        format!(
            "cluster: {CLUSTER}
listen: {{ address: {ip}:0, names: [\"{ip}\"] }}
identity: {{ directory: identity }}
networks:
  hosts: {{ web.test: 127.0.0.1, echo.test: 127.0.0.1, checksum.test: 127.0.0.1, refusing.test: 127.0.0.1, denied.test: 127.0.0.1 }}
  exceptions: [{exceptions}]
authenticators:
  tests: {{ issuer: {ISSUER}, audience: \"causeway://{CLUSTER}\", jwks: {{ file: jwks.json }} }}
policy: policy.yaml
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
            ip = self.gateway_ip,
            exceptions = exceptions.join(", "),
        )
    }

    pub(super) fn policy(&self) -> String {
        format!(
            "rules:
  - name: hold-a-tunnel
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    describe: {{}}
  - name: web
    who: {{ authenticator: tests, subjects: [{SUBJECT}, {CONNECTOR}] }}
    http: {{ hosts: [web.test, nowhere.test], ports: [{web}] }}
  - name: refusing
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    http: {{ hosts: [refusing.test], ports: [{refusing}] }}
  - name: bytes
    who: {{ authenticator: tests, subjects: [{CONNECTOR}] }}
    tcp: {{ hosts: [echo.test, checksum.test], ports: [{echo}, {checksum}] }}
",
            web = self.nginx.address.port(),
            refusing = self.refusing.address.port(),
            echo = self.echo.address.port(),
            checksum = self.checksum.address.port(),
        )
    }

    pub(super) fn relay_config(&self) -> String {
        format!(
            "listen:
  - address: {ip}:0
    tls: {{ cert: tls.crt, key: {{ file: tls.key }} }}
namespace: {ip}
entities:
  {CLUSTER}:
    kind: websocket
    rules:
      {CLUSTER}-listen: {{ rights: [listen], keys: [{{ file: listen.key }}] }}
      {CLUSTER}-send: {{ rights: [send], keys: [{{ file: send.key }}] }}
admin: {{ address: 127.0.0.1:0 }}
log: {{ level: debug }}
",
            ip = self.relay_ip,
        )
    }
}

/// The way straight to a gateway.
pub fn direct_way(gateway: SocketAddr) -> String {
    format!("direct: wss://{gateway}")
}

/// The way through a hybrid connection of a relay.
pub fn relay_way(relay: SocketAddr, path: &str) -> String {
    format!(
        "hybrid_connection: sb://{relay}/{path}
        credential: {{ sas: {{ rule: {CLUSTER}-send, key: {{ file: send.key }} }} }}"
    )
}
