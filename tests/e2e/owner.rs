//! The owner of a relay at work: hybrid connections and keys come and go by commands, while the relay runs and is used.
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use causeway_tests::{
    process::Process,
    programs,
    targets::Target,
    wait::{until, within},
};
use identity::tls::{self, Trust};
use relay::{
    dial::{Dialer, ProxyConfig},
    sender::{DialError, Join, Request, Sender},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

const LIMIT: Duration = Duration::from_secs(90);

/// A relay that its owner keeps in a folder, with no hybrid connection yet.
struct Owner {
    folder: TempDir,
    relay: Process,
    admin: SocketAddr,
    address: SocketAddr,
}

struct Ran {
    code: Option<i32>,
    out: String,
    complaint: String,
}

impl Owner {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("entities.d")).unwrap();
        let config = "listen: [{ address: 127.0.0.1:0 }]
namespace: 127.0.0.1
entities_from: entities.d
admin: { address: 127.0.0.1:0 }
log: { format: json }
";
        fs::write(folder.path().join("relay.yaml"), config).unwrap();
        let mut relay = programs::start("relay", "relay", folder.path(), ["serve", "-c", "relay.yaml"]);
        let (admin, address) = (relay.address("admin").await, relay.address("relay").await);
        Self { folder, relay, admin, address }
    }

    /// A command, which asks the relay at its real port.
    async fn run(&self, line: &str) -> Ran {
        let output = Command::new(programs::program("relay"))
            .args(line.split(' '))
            .args(["-c", "relay.yaml"])
            .env("CAUSEWAY_CONFIG__ADMIN__ADDRESS", self.admin.to_string())
            .current_dir(self.folder.path())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Ran { code: output.status.code(), out: told(&output.stdout), complaint: told(&output.stderr) };
        self.assert_no_secret(&format!("{}{}", ran.out, ran.complaint));
        ran
    }

    async fn done(&self, line: &str) -> String {
        let ran = self.run(line).await;
        assert_eq!(ran.code, Some(0), "{line}: {}{}", ran.out, ran.complaint);
        ran.out
    }

    async fn add(&self, name: &str) -> String {
        self.done(&format!("entity add {name} --endpoint ws://{}", self.address)).await
    }

    fn assert_no_secret(&self, text: &str) {
        for key in self.folder.path().join("keys").read_dir().into_iter().flatten() {
            let key = fs::read_to_string(key.unwrap().path()).unwrap();
            assert!(!text.contains(key.trim()), "a secret is told: {text}");
        }
    }

    /// `relay listen` with nothing but the join string of its side, forwarding to `target`.
    fn listener(&self, name: &str, target: SocketAddr) -> Process {
        let config = format!(
            "hybrid_connections: [{{ join: {{ file: keys/{name}-listen.join }}, channels: 1, forward: {{ tcp: \"{target}\" }} }}]
proxy: none
admin: {{ address: 127.0.0.1:0 }}
log: {{ format: json }}
"
        );
        fs::write(self.folder.path().join("listener.yaml"), config).unwrap();
        programs::start("listener", "relay", self.folder.path(), ["listen", "-c", "listener.yaml"])
    }

    /// A sender with nothing but the join string of its side; sends a word and gives what comes back.
    async fn send(&self, name: &str, word: &str) -> Result<String, Box<DialError>> {
        let join = fs::read_to_string(self.folder.path().join(format!("keys/{name}-send.join"))).unwrap();
        self.send_with(&join, word).await
    }

    async fn send_with(&self, join: &str, word: &str) -> Result<String, Box<DialError>> {
        let join = Join::parse(join.trim()).unwrap();
        let (here, trust) = (Path::new("."), Trust::default());
        let dialer = Dialer::open(&ProxyConfig::None, &trust, here).unwrap();
        let sender = Sender::new(dialer, tls::client(tls::roots(&trust, here).unwrap(), &[b"http/1.1"]));
        let mut stream = sender.dial(&join.address, &join.login.into(), Request::default()).await?.stream;
        stream.write_all(word.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        Ok(answer)
    }

    /// Waits until a sender gets through.
    async fn answers(&self, name: &str) {
        until(format_args!("{name} to answer"), async || {
            let answer = self.send(name, "hello").await.ok()?;
            (answer == "hello").then_some(())
        })
        .await;
    }

    /// How a dial with this join string is refused.
    async fn refusal(&self, join: &str) -> u16 {
        let error = self.send_with(join, "hello").await.expect_err("the join string is not good any more");
        error.refusal().unwrap_or_else(|| panic!("{error:?}")).0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hybrid_connection_is_made_used_rotated_and_removed_while_the_relay_runs() {
    within(LIMIT, async {
        let owner = Owner::new().await;
        let echo = Target::echo().await;
        let said = owner.add("factory-a").await;
        assert!(said.contains("keys/factory-a-send-{1,2} (0600)"), "{said}");
        assert!(said.contains("; relay reloaded: 1 entity added\n"), "{said}");
        assert!(said.contains("give the cluster:   keys/factory-a-listen.join"), "{said}");

        let listener = owner.listener("factory-a", echo.address);
        owner.answers("factory-a").await;
        let listed = owner.done("entity list").await;
        let row = listed.lines().find(|line| line.starts_with("factory-a ")).unwrap();
        assert_eq!(row.split_whitespace().nth(3), Some("1"), "one listener: {listed}");

        // The first rotation drops nobody, and both join strings go on.
        let before = fs::read_to_string(owner.folder.path().join("keys/factory-a-send.join")).unwrap();
        let mark = listener.log().mark();
        for rule in ["factory-a-listen", "factory-a-send"] {
            let said = owner.done(&format!("key rotate {rule}")).await;
            assert!(said.contains("; relay reloaded: the new key is in force\n"), "{said}");
        }
        let after = fs::read_to_string(owner.folder.path().join("keys/factory-a-send.join")).unwrap();
        assert_ne!(before, after);
        for join in [&before, &after] {
            assert_eq!(owner.send_with(join, "on it goes").await.unwrap(), "on it goes");
        }
        let disturbed =
            |entry: &causeway_tests::log::Entry| entry.line.contains("\"WARN\"") || entry.line.contains("\"ERROR\"");
        assert!(!listener.log().since(mark).iter().any(disturbed), "the listener noticed nothing");

        // The second ends the oldest key; the listener comes back with what its join string says now.
        for rule in ["factory-a-listen", "factory-a-send"] {
            owner.done(&format!("key rotate {rule}")).await;
        }
        assert_eq!(owner.refusal(&before).await, 401);
        owner.answers("factory-a").await;

        let join = fs::read_to_string(owner.folder.path().join("keys/factory-a-send.join")).unwrap();
        let said = owner.done("entity remove factory-a").await;
        assert!(said.starts_with("removed entities.d/factory-a.yaml, keys/factory-a-listen.join, "), "{said}");
        assert!(said.ends_with("; relay reloaded: 1 entity removed\n"), "{said}");
        assert!(owner.folder.path().join("keys").read_dir().unwrap().next().is_none(), "no key is left behind");
        let entry = owner.relay.log().entry("the listener is closed", 0, |entry| {
            entry.message() == "listener disconnected" && entry.field("reason").as_deref() == Some("entity_removed")
        });
        entry.await;
        assert_eq!(owner.refusal(&join).await, 401);
        for line in owner.relay.log().lines() {
            owner.assert_no_secret(&line);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_the_running_relay_thinks_of_a_change() {
    within(LIMIT, async {
        let owner = Owner::new().await;
        owner.add("good").await;
        // Something else is broken meanwhile: the relay refuses all of it, and so says the command.
        fs::write(owner.folder.path().join("entities.d/broken.yaml"), "kind: [\n").unwrap();
        let ran = owner.run("key rotate good-send").await;
        assert_eq!(ran.code, Some(64), "what is there cannot be read: {}", ran.complaint);
        assert!(ran.complaint.contains("entities.d/broken.yaml:1:"), "{}", ran.complaint);
        fs::remove_file(owner.folder.path().join("entities.d/broken.yaml")).unwrap();

        // A key of somebody else, which the command leaves alone and the relay refuses.
        let key = owner.folder.path().join("keys/good-send-2");
        fs::remove_file(&key).unwrap();
        fs::write(&key, "too short").unwrap();
        fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let ran = owner.run("entity add other --endpoint sb://relay.example.com").await;
        assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.complaint);
        assert!(
            ran.complaint.contains("the running relay refused the change, and goes on as before"),
            "{}",
            ran.complaint
        );
        assert!(
            ran.complaint.contains("good.yaml: rules.good-send.keys: key 2 holds fewer than 128 bits"),
            "{}",
            ran.complaint
        );
        let listed = owner.done("entity list").await;
        assert!(listed.contains("the running relay refused the last change: "), "{listed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_running_relay_a_command_says_so_and_its_work_counts_at_the_next_start() {
    within(LIMIT, async {
        let mut owner = Owner::new().await;
        assert_eq!(owner.relay.stop().await, Some(0));
        let said = owner.add("factory-a").await;
        assert!(
            said.contains(&format!("; no relay runs at {}; it counts from the next start\n", owner.admin)),
            "{said}"
        );
        owner.relay.start_again();
        owner.address = owner.relay.addresses("relay", 2).await[1];
        let join = fs::read_to_string(owner.folder.path().join("keys/factory-a-send.join")).unwrap();
        let (_, rest) = join.split_once(";").unwrap();
        assert_eq!(owner.refusal(&format!("Endpoint=ws://{}/;{rest}", owner.address)).await, 404, "nobody listens yet");
        // And one that runs elsewhere with another file is not taken for ours.
        let other = Owner::new().await;
        owner.admin = other.admin;
        let said = owner.add("factory-b").await;
        assert!(said.contains(&format!("the relay at {} runs with ", other.admin)), "{said}");
    })
    .await;
}
