//! What a client must see of nginx, whatever lies between: the same for every way that leads there.
use std::path::Path;

use causeway_tests::{
    curl::Curl,
    nginx,
    pattern::{Pattern, hex},
};
use serde_json::Value;
use tokio::process::Command;

/// What an answer to HEAD says about the length that GET would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadLength {
    /// What the service says.
    Said,
    /// Nothing: listeners of a hybrid connection say no lengths.
    Unsaid,
}

/// Everything that curl must see, whatever lies between; `request` makes a request for a path of the service.
pub(crate) async fn curl_sees_the_service(
    request: impl Fn(&str) -> Curl,
    length: HeadLength,
    web: &Path,
    folder: &Path,
) {
    let hello = request("/").run().await;
    assert_eq!((hello.status, hello.text().as_str()), (200, nginx::HELLO), "{}", hello.complaint);
    assert_eq!(hello.fields["content-type"], "text/html");

    let head = request("/").head().run().await;
    assert_eq!((head.exit, head.status), (0, 200), "{}", head.complaint);
    let said = (length == HeadLength::Said).then(|| nginx::HELLO.len().to_string());
    assert_eq!(head.fields.get("content-length"), said.as_ref());

    let missing = request("/missing").run().await;
    assert_eq!(missing.status, 404, "{}", missing.complaint);
    assert!(missing.text().contains("nginx"), "the 404 is the target's own: {}", missing.text());

    let echo = request("/echo?q=1").post("a body").run().await;
    assert_eq!((echo.status, echo.text().as_str()), (200, "POST /echo?q=1\na body\n"), "{}", echo.complaint);

    // Up with a known length and chunked, and down again.
    let upload = folder.join("upload.bin");
    let payload = Pattern::new(5 * 1024 * 1024 + 7).bytes();
    std::fs::write(&upload, &payload).unwrap();
    for (path, chunked) in [("/files/sized.bin", false), ("/files/chunked.bin", true)] {
        let mut put = request(path).upload(&upload);
        if chunked {
            put = put.header("Transfer-Encoding: chunked");
        }
        let answer = put.run().await;
        assert!(matches!(answer.status, 201 | 204), "{path}: {answer:?}");
        assert_eq!(std::fs::read(web.join(&path[1..])).unwrap(), payload, "{path}");
    }

    let large = folder.join("large.bin");
    let answer = request("/large.bin").output(&large).run().await;
    assert_eq!((answer.exit, answer.status), (0, 200), "{}", answer.complaint);
    assert_eq!(hex(&digest_of(&large)), hex(Pattern::new(nginx::LARGE).digest().as_ref()));

    // One curl process, one hundred requests, one connection.
    let answer = request("/echo?n=[1-100]").args(["--write-out", "%{num_connects}\n"]).run().await;
    assert_eq!(answer.exit, 0, "{}", answer.complaint);
    let text = answer.text();
    let connections: u32 =
        text.lines().filter_map(|line| line.strip_prefix("1").filter(|rest| rest.is_empty())).map(|_| 1).sum();
    assert_eq!(connections, 1, "connections are kept: {text}");
}

fn digest_of(file: &Path) -> Vec<u8> {
    let bytes = std::fs::read(file).unwrap();
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes).as_ref().to_vec()
}

/// Everything that Node's fetch must see behind `base`, with these fields in each request and perhaps a CA of its own.
pub(crate) async fn fetch_sees_the_service(base: &str, length: HeadLength, fields: &Value, ca: Option<&Path>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/fetch.mjs");
    let digest = hex(Pattern::new(nginx::LARGE).digest().as_ref());
    let output = Command::new("node")
        .args([script, base, &fields.to_string(), &digest, if length == HeadLength::Said { "said" } else { "unsaid" }])
        .envs(ca.map(|ca| ("NODE_EXTRA_CA_CERTS", ca)))
        .kill_on_drop(true)
        .output()
        .await
        .expect("node is installed; `tests/run setup` does it");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
