//! A rule for paths means the same to every server: no way of writing a path leads out of what the rule grants.
use std::{fs, net::SocketAddr, path::Path};

use causeway_tests::{nginx::Nginx, python, wait::within};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{LIMIT, Mode, Plan, World, face};

const OPEN: &str = "in the open";
const SECRET: &str = "not for everybody";

/// Ways to write a path that begins with `/open/` and that some server reads as `/closed/file`.
const TRICKS: [&str; 23] = [
    "/open/../closed/file",
    "/open/./../closed/file",
    "/open/../closed/./file",
    "/open/../closed/file?x=/open/",
    "/open/a/../../closed/file",
    "/open/..//closed/file",
    "/open//../closed/file",
    "/open//../../closed/file",
    "/open/%2e%2e/closed/file",
    "/open/%2E%2E/closed/file",
    "/open/.%2e/closed/file",
    "/open/%2e./closed/file",
    "/open/..%2fclosed/file",
    "/open/..%2Fclosed%2ffile",
    "/open/%2e%2e%2fclosed/file",
    "/open/%252e%252e/closed/file",
    "/open/..%252fclosed/file",
    "/open/..%5cclosed/file",
    "/open/..\\closed\\file",
    "/open/..;/closed/file",
    "/open/%00/../../closed/file",
    "/open/%c0%ae%c0%ae/closed/file",
    "/open/..#/../closed/file",
];

/// So many of them work on each server when nobody stands before it; else the tricks are none.
const FOOLED: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_leads_out_of_what_a_rule_grants() {
    within(LIMIT, async {
        let folder = tempfile::tempdir().unwrap();
        let nginx = Nginx::start(folder.path());
        fill(&nginx.web());
        let mut files = python::script("python files", "files.py", folder.path(), &json!({ "folder": nginx.web() }));
        let servers = [("nginx.test", nginx.address), ("python.test", files.process().address("http").await)];
        let plan = Plan {
            targets: servers.to_vec(),
            paths: Some("/open/**"),
            faces: servers.map(|(name, address)| face("http", name, address)).to_vec(),
            ..Plan::default()
        };
        let world = World::new(Mode::Direct, plan).await;
        for ((name, straight), face) in servers.into_iter().zip(&world.faces) {
            let plain = ask(*face, "/open/file").await;
            assert!(plain.starts_with("HTTP/1.1 200") && plain.ends_with(OPEN), "{name}: {plain}");
            let closed = ask(*face, "/closed/file").await;
            assert!(closed.starts_with("HTTP/1.1 403"), "{name}: {closed}");
            let mut fooled = 0;
            for trick in TRICKS {
                fooled += usize::from(ask(straight, trick).await.contains(SECRET));
                let answer = ask(*face, trick).await;
                assert!(answer.starts_with("HTTP/1.1 4") && !answer.contains(SECRET), "{name}, {trick}: {answer}");
            }
            assert!(fooled >= FOOLED, "{fooled} of the tricks fool {name}");
        }
    })
    .await;
}

fn fill(web: &Path) {
    for (name, text) in [("open", OPEN), ("closed", SECRET)] {
        fs::create_dir_all(web.join(name)).unwrap();
        fs::write(web.join(name).join("file"), text).unwrap();
    }
}

/// The whole answer to a request whose path is written as it is: clients that tidy paths up spoil tricks.
async fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // An answer may end with a reset, when a server does not like what it was sent.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
