//! The contract is its `.proto` file: a Python client made from that alone opens streams, at a gateway's own port and at
//! the connector's gRPC face.
use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use causeway_tests::{
    driver::Driver, log::Entry, pattern::Pattern, programs::repository, python, site::CLUSTER, targets::Target,
    tokens::SUBJECT, wait::within,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use super::{LIMIT, Mode, Plan, World, plain_service};

/// A gateway with a connector before it, and services behind it.
struct Setup {
    world: World,
    service: Driver,
    echo: Target,
    port: u16,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn new(mode: Mode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (service, address) = plain_service(folder.path(), "http").await;
        let echo = Target::echo().await;
        let socket = folder.path().join("app.sock");
        let who = format!("who: {{ authenticator: tests, subjects: [{SUBJECT}] }}");
        let plan = Plan {
            targets: vec![("app.test", address), ("back.test", echo.address)],
            faces: vec![("grpc", format!("to: {CLUSTER}"))],
            gateway: format!("unix: {{ app: {} }}\n", socket.display()),
            rules: format!(
                "  - {{ name: describe, {who}, describe: {{}} }}\n  - {{ name: app, {who}, unix: {{ names: [app] }} }}\n"
            ),
            ..Plan::default()
        };
        Self { world: World::new(mode, plan).await, service, echo, port: address.port(), socket, folder }
    }

    /// A client of the connector's gRPC face.
    async fn at_the_face(&self) -> Driver {
        self.client(json!({ "target": self.world.faces[0].to_string() })).await
    }

    /// A client of the gateway's own port, which trusts the cluster's CA.
    async fn at_the_gateway(&self) -> Driver {
        let ca = self.folder.path().join("cluster.pem");
        std::fs::write(&ca, self.world.site.cluster_ca()).unwrap();
        self.client(json!({ "target": self.world.gateway_address.to_string(), "ca": ca })).await
    }

    async fn client(&self, mut options: Value) -> Driver {
        options["protos"] = repository().join("proto/proto").display().to_string().into();
        options["token"] = self.world.site.issuer.valid().into();
        let mut client = python::script("contract client", "contract.py", self.world.site.path(), &options);
        client.next("ready").await;
        client
    }

    async fn all_kinds_of_calls(&mut self, client: &mut Driver) {
        let described = ask(client, json!({ "do": "describe" }), "describe").await;
        assert_eq!(described.field("cluster").unwrap(), CLUSTER, "{}", described.line);
        let event = ask(client, json!({ "do": "watch", "timeout": 5 }), "event").await;
        assert_eq!(
            (event.field("kind").unwrap().as_str(), event.field("cluster").unwrap().as_str()),
            ("state", CLUSTER)
        );
        assert_eq!(client.next("watch").await.field("code").unwrap(), "DEADLINE_EXCEEDED");

        let upload = Pattern::new(500_000).bytes();
        let command = json!({
            "do": "forward", "kind": "http", "method": "POST", "host": "app.test", "port": self.port,
            "path": "/trailers", "body": BASE64.encode(&upload),
        });
        let told = ask(client, command, "forward").await;
        assert_eq!((told.field("code").unwrap().as_str(), told.field("head").unwrap().as_str()), ("OK", "200"));
        assert!(BASE64.decode(told.field("data").unwrap()).unwrap() == upload);
        let sum = told.value("trailers").unwrap()["x-sum"].as_str().map(str::trim);
        assert_eq!(sum, Some("500000"), "{}", told.line);
        assert_eq!(told.field("fin").unwrap(), "true");

        let port = self.echo.address.port();
        let body = BASE64.encode(&upload);
        let command = json!({ "do": "forward", "kind": "tcp", "host": "back.test", "port": port, "body": body });
        let told = ask(client, command, "forward").await;
        assert_eq!(told.field("code").unwrap(), "OK", "{}", told.line);
        assert_eq!(told.field("connected").unwrap(), self.echo.address.to_string());
        assert!(BASE64.decode(told.field("data").unwrap()).unwrap() == upload);

        let listener = UnixListener::bind(&self.socket).unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.unwrap();
            stream.write_all(b"heard ").await.unwrap();
            stream.write_all(&heard).await.unwrap();
        };
        let command = json!({ "do": "forward", "kind": "unix", "name": "app", "body": BASE64.encode("words") });
        let (told, ()) = tokio::join!(ask(client, command, "forward"), answering);
        assert_eq!(told.field("code").unwrap(), "OK", "{}", told.line);
        assert_eq!(BASE64.decode(told.field("data").unwrap()).unwrap(), b"heard words");
        std::fs::remove_file(&self.socket).unwrap();
    }

    /// What fails says why, whose doing it was, and whether the target saw anything.
    async fn failures_are_typed(&mut self, client: &mut Driver) {
        let denied = json!({ "do": "forward", "kind": "http", "host": "denied.test", "port": 80 });
        let told = ask(client, denied, "forward").await;
        assert_eq!(told.field("code").unwrap(), "PERMISSION_DENIED", "{}", told.line);
        let said = ["reason", "domain", "reached"].map(|name| told.field(name).unwrap());
        assert_eq!(said, ["policy_denied", "causeway.dev", "no"]);
        let anonymous = json!({ "do": "describe", "token": "" });
        assert_eq!(ask(client, anonymous, "describe").await.field("code").unwrap(), "UNAUTHENTICATED");
        let forged = json!({ "do": "describe", "token": "a.b.c" });
        let told = ask(client, forged, "describe").await;
        assert_eq!(told.field("reason").unwrap(), "token_refused", "{}", told.line);
    }

    async fn deadlines_and_cancellations(&mut self, client: &mut Driver) {
        let wait = json!({
            "do": "forward", "kind": "http", "host": "app.test", "port": self.port, "path": "/wait", "timeout": 5,
        });
        let told = ask(client, wait, "forward").await;
        assert_eq!(told.field("code").unwrap(), "DEADLINE_EXCEEDED", "{}", told.line);
        self.service.next("waiting").await;
        self.service.next("given up").await;
        let endless =
            json!({ "do": "cancel", "kind": "http", "host": "app.test", "port": self.port, "path": "/endless" });
        let told = ask(client, endless, "cancelled").await;
        assert_eq!(told.field("code").unwrap(), "CANCELLED");
        assert_eq!(self.service.next("closed").await.field("finished").unwrap(), "false");
    }
}

async fn ask(client: &mut Driver, command: Value, event: &str) -> Entry {
    client.tell(&command).await;
    client.next(event).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_made_from_the_proto_file_uses_a_gateway_directly() {
    within(LIMIT, async {
        let mut setup = Setup::new(Mode::Direct).await;
        let mut client = setup.at_the_gateway().await;
        setup.all_kinds_of_calls(&mut client).await;
        setup.failures_are_typed(&mut client).await;
        setup.deadlines_and_cancellations(&mut client).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_uses_the_contract_at_the_connectors_face_in_direct_mode() {
    within(LIMIT, async {
        let mut setup = Setup::new(Mode::Direct).await;
        let mut client = setup.at_the_face().await;
        setup.all_kinds_of_calls(&mut client).await;
        setup.failures_are_typed(&mut client).await;
        setup.deadlines_and_cancellations(&mut client).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_uses_the_contract_at_the_connectors_face_through_a_relay() {
    within(LIMIT, async {
        let mut setup = Setup::new(Mode::Relay).await;
        let mut client = setup.at_the_face().await;
        setup.all_kinds_of_calls(&mut client).await;
        setup.deadlines_and_cancellations(&mut client).await;
    })
    .await;
}

/// Names that are ours cannot be brought along: nobody becomes another actor or names another's stream (SD-13).
#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_ours_ends_at_the_face() {
    within(LIMIT, async {
        let setup = Setup::new(Mode::Direct).await;
        let mut client = setup.at_the_face().await;
        let token = setup.world.site.issuer.subject(SUBJECT);
        let metadata = json!([["causeway-actor", format!("Bearer {token}")], ["causeway-stream-id", "forged"]]);
        let told = ask(&mut client, json!({ "do": "describe", "metadata": metadata }), "describe").await;
        // Not refused as another actor's, and the tunnel still belongs to the connector.
        assert_eq!(told.field("actor").unwrap(), "tests/connector", "{}", told.line);
        let port = setup.port;
        let command =
            json!({ "do": "forward", "kind": "http", "host": "app.test", "port": port, "metadata": metadata });
        assert_eq!(ask(&mut client, command, "forward").await.field("code").unwrap(), "OK");
        let line = setup.world.gateway.log().entry("the access line", 0, |entry| entry.stream("http").is_some()).await;
        let stream = line.stream("http").unwrap();
        assert_ne!(stream, "forged");
        assert_eq!(line.field("subject").unwrap(), format!("tests/{SUBJECT}"));
        let ours = setup.world.connector.log().access(&stream).await;
        assert_eq!(
            (ours.field("kind").unwrap().as_str(), ours.field("target_host").unwrap()),
            ("grpc", format!("app.test:{port}"))
        );
    })
    .await;
}
