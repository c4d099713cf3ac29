//! What `docs/hybrid-connections.md` and `docs/owning-a-relay.md` tell their readers to do is done here, with their own files
//! and commands.
use std::{path::Path, time::Duration};

use causeway_tests::{
    curl::Curl,
    log::Entry,
    namespace::Namespace,
    pki::write,
    process::{Process, Spec},
    programs::{self, repository},
    targets::Target,
    topology::ready,
    wait::{named, within},
};

const LIMIT: Duration = Duration::from_secs(90);

const CLIENTS: &str = "docs/hybrid-connections.md";
const OWNING: &str = "docs/owning-a-relay.md";

/// The block of a page whose first line names this file.
fn file(page: &str, name: &str) -> String {
    let page = std::fs::read_to_string(repository().join(page)).unwrap();
    let begins = [format!("```js\n// {name}\n"), format!("```yaml\n# {name}\n")];
    let start = begins.iter().find_map(|begin| page.find(begin)).unwrap_or_else(|| panic!("the page has no {name}"));
    let block = &page[start..];
    let block = &block[block.find('\n').unwrap() + 1..];
    block[..block.find("```").unwrap()].to_owned()
}

fn node(script: &str, folder: &Path, env: &[(&str, &str)]) -> Process {
    std::fs::write(folder.join(script), file(CLIENTS, script)).unwrap();
    let packages = repository().join("target/tools/node/node_modules");
    let mut env: Vec<(String, std::ffi::OsString)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    env.push(("NODE_PATH".to_owned(), packages.into()));
    env.push(("NODE_EXTRA_CA_CERTS".to_owned(), folder.join("ca.pem").into()));
    let (name, args) = (script.to_owned(), vec![script.into()]);
    Process::start(Spec { name, program: "node".into(), args, env, directory: folder.to_owned() })
}

async fn says(process: &Process, line: &str) {
    let find = |entries: &[Entry]| entries.iter().any(|entry| entry.line == line).then_some(());
    named(line, process.log().wait(find)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_how_to_for_azures_clients_works_as_it_is_written() {
    within(LIMIT, async {
        let namespace = Namespace::prepare(|ip| {
            let config = file(CLIENTS, "relay.yaml").replace("0.0.0.0:443", &format!("{ip}:0"));
            format!("{}admin: {{ address: 127.0.0.1:0 }}\n", config.replace("relay.example.com", &ip.to_string()))
        })
        .await;
        let (folder, address) = (namespace.path(), namespace.address.to_string());
        let key = ("LISTEN_KEY", namespace.listen_key.as_str());

        let listener = node("listener.js", folder, &[("RELAY", &address), key]);
        says(&listener, "listening").await;
        let mut sender = node("sender.js", folder, &[("RELAY", &address), ("SEND_KEY", &namespace.send_key)]);
        says(&sender, "hello, world").await;
        assert!(sender.ended().await.success());

        let web = node("web.js", folder, &[("RELAY", &address), key]);
        says(&web, "listening").await;
        let minted = tokio::process::Command::new(programs::program("relay"))
            .args(["token", "--url", &format!("sb://{address}/web"), "--rule", "send", "--key-file", "send.key"])
            .current_dir(folder)
            .output()
            .await
            .unwrap();
        let token = String::from_utf8(minted.stdout).unwrap();
        let answer = Curl::new(format!("https://{address}/web/a/page"))
            .args(["--cacert".into(), folder.join("ca.pem").into_os_string()])
            .header(format!("ServiceBusAuthorization: {}", token.trim()))
            .run()
            .await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "you asked for /web/a/page\n"), "{answer:?}");
    })
    .await;
}

/// What a page's reader types that begins so, whole.
fn typed(page: &str, begins: &str) -> String {
    let page = std::fs::read_to_string(repository().join(page)).unwrap();
    let mut lines = page.lines().skip_while(|line| !line.starts_with(&format!("$ {begins}")));
    let mut command = lines.next().unwrap_or_else(|| panic!("the page has no {begins}"))[2..].to_owned();
    while let Some(begun) = command.strip_suffix('\\') {
        command = format!("{begun}{}", lines.next().unwrap().trim_start());
    }
    command
}

/// Types it in a shell that finds our programs; gives what it prints.
async fn run(folder: &Path, admin: Option<std::net::SocketAddr>, command: &str) -> String {
    let programs = programs::program("relay").parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", command]).current_dir(folder).env("PATH", path).kill_on_drop(true);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        shell.env_remove(name);
    }
    shell.envs(admin.map(|admin| ("CAUSEWAY_CONFIG__ADMIN__ADDRESS", admin.to_string())));
    let output = shell.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_with_tls_comes_from_nothing_as_it_is_written() {
    within(LIMIT, async {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let admin = "admin: { address: 127.0.0.1:0 }\nlog: { format: json }\n";
        run(folder, None, &typed(OWNING, "openssl req -x509")).await;
        let relay_file = file(OWNING, "relay.yaml");
        write(&folder.join("relay.yaml"), &format!("{}{admin}", relay_file.replace("127.0.0.1:9443", "127.0.0.1:0")));
        run(folder, None, &typed(OWNING, "mkdir entities.d")).await;
        let mut relay = programs::start("relay", "relay", folder, ["serve", "-c", "relay.yaml"]);
        let (address, relays_admin) = (relay.address("relay").await, relay.address("admin").await);
        // The port that it got, in place of the one on the page.
        let settled = format!("{}{admin}", relay_file.replace("127.0.0.1:9443", &address.to_string()));
        write(&folder.join("relay.yaml"), &settled);
        let added = run(folder, Some(relays_admin), &typed(OWNING, "relay entity add greeter")).await;
        assert!(added.contains("relay reloaded: 1 entity added"), "{added}");

        let target = Target::echo().await;
        let listener = file(OWNING, "listener.yaml").replace("127.0.0.1:7007", &target.address.to_string());
        write(&folder.join("listener.yaml"), &format!("{listener}proxy: none\n{admin}"));
        let mut listener = programs::start("listener", "relay", folder, ["listen", "-c", "listener.yaml"]);
        ready("listener", listener.address("admin").await).await;
        let checked = run(folder, None, &typed(OWNING, "relay check -c listener.yaml")).await;
        assert!(checked.contains(" through a rendezvous, joined in "), "{checked}");
        assert!(checked.contains("2 listeners are connected besides this check"), "{checked}");
        assert_eq!(run(folder, None, &typed(OWNING, "echo hello | relay send")).await, "hello\n");
    })
    .await;
}
