//! What `docs/hybrid-connections.md` tells its readers to do is done here, with its own files.
use std::{path::Path, time::Duration};

use causeway_tests::{
    curl::Curl,
    log::Entry,
    namespace::Namespace,
    process::{Process, Spec},
    programs::{self, repository},
    wait::{named, within},
};

const LIMIT: Duration = Duration::from_secs(90);

/// The block of the page whose first line names this file.
fn file(name: &str) -> String {
    let page = std::fs::read_to_string(repository().join("docs/hybrid-connections.md")).unwrap();
    let begins = [format!("```js\n// {name}\n"), format!("```yaml\n# {name}\n")];
    let start = begins.iter().find_map(|begin| page.find(begin)).unwrap_or_else(|| panic!("the page has no {name}"));
    let block = &page[start..];
    let block = &block[block.find('\n').unwrap() + 1..];
    block[..block.find("```").unwrap()].to_owned()
}

fn node(script: &str, folder: &Path, env: &[(&str, &str)]) -> Process {
    std::fs::write(folder.join(script), file(script)).unwrap();
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
            let config = file("relay.yaml").replace("0.0.0.0:443", &format!("{ip}:0"));
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
