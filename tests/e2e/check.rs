//! `relay check` as it is typed: what it prints, and its exit code.
use std::time::Duration;

use causeway_tests::{
    programs,
    site::{CLUSTER, Site},
    topology::ready,
    wait::within,
};
use serde_json::Value;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(90);

struct Checked {
    code: Option<i32>,
    out: String,
    complaint: String,
}

impl Checked {
    /// Status and stage of each line that has them.
    fn lines(&self) -> Vec<(&str, &str)> {
        self.out
            .lines()
            .filter(|line| !line.starts_with(' '))
            .map(|line| (line[..5].trim_end(), line[6..16].trim_end()))
            .collect()
    }
}

/// The sender's join string, as the owner of a relay hands it out.
fn write_join(site: &Site, relay: std::net::SocketAddr) {
    let key = std::fs::read_to_string(site.file("send.key")).unwrap();
    let login = format!("SharedAccessKeyName={CLUSTER}-send;SharedAccessKey={}", key.trim());
    site.write("send.join", &format!("Endpoint=sb://{relay}/;{login};EntityPath={CLUSTER}"));
}

async fn check(site: &Site, args: &[&str]) -> Checked {
    let output = Command::new(programs::program("relay"))
        .arg("check")
        .args(args)
        .current_dir(site.path())
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .env_remove("ALL_PROXY")
        .env_remove("all_proxy")
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let checked = Checked { code: output.status.code(), out: told(&output.stdout), complaint: told(&output.stderr) };
    for key in ["listen.key", "send.key"] {
        let key = std::fs::read_to_string(site.file(key)).unwrap();
        assert!(!checked.out.contains(key.trim()) && !checked.complaint.contains(key.trim()));
    }
    checked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listeners_file_is_checked_line_by_line_and_as_one_document() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (_relay, address) = site.relay().await;
        site.write_listener(address, site.refusing.address);
        let checked = check(&site, &["-c", "listener.yaml"]).await;
        assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.complaint);
        let lines = checked.lines();
        let known = ["dns", "tcp", "tls", "upgrade", "clock", "token", "round trip"];
        assert!(known.iter().all(|stage| lines.contains(&("ok", stage))), "{}", checked.out);
        let nothing_else = format!("Listen on {CLUSTER}, and nothing else; 59 min left");
        assert!(checked.out.contains(&nothing_else), "{}", checked.out);

        write_join(&site, address);
        let checked = check(&site, &["-c", "listener.yaml", "--join", "send.join", "--output", "json"]).await;
        assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.complaint);
        let document: Value = serde_json::from_str(&checked.out).unwrap();
        assert_eq!((&document[0]["ok"], &document[0]["as"]), (&true.into(), &"Listen".into()));
        let findings = document[0]["findings"].as_array().unwrap();
        let trip = findings.iter().find(|finding| finding["stage"] == "round trip").unwrap();
        assert!(trip["text"].as_str().unwrap().contains(" through a rendezvous, ") && trip["ms"].is_number(), "{trip}");

        // The sender's string alone: nobody listens.
        let checked = check(&site, &["--join", "send.join", "--ca", "ca.pem"]).await;
        assert_eq!(checked.code, Some(1), "{}{}", checked.out, checked.complaint);
        assert!(checked.out.contains("R118: start the listener"), "{}", checked.out);
        // Its authority is private, and so are the system's roots trusted: that is named.
        assert!(checked.out.contains("R104: "), "{}", checked.out);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_ends_with_1_and_what_cannot_be_read_with_64() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (_relay, address) = site.relay().await;
        site.write_listener(address, site.refusing.address);
        site.edit("listener.yaml", "listen.key", "send.key");
        let checked = check(&site, &["-c", "listener.yaml"]).await;
        assert_eq!(checked.code, Some(1), "{}{}", checked.out, checked.complaint);
        assert!(checked.out.contains("fail  token") && checked.out.contains("R112: "), "{}", checked.out);
        for args in [
            &["-c", "no-such.yaml"][..],
            &["-c", "relay.yaml"],
            &["--join", "send.key"],
            &["-c", "listener.yaml", "--join", "other.join"],
        ] {
            let other = "Endpoint=sb://other.invalid/;SharedAccessKeyName=r;\
                         SharedAccessKey=bm8ta2V5LW9mLWFueWJvZHktYXQtYWxsLS0tLS0tLS0=;EntityPath=e";
            site.write("other.join", other);
            let checked = check(&site, args).await;
            assert_eq!(checked.code, Some(64), "{args:?} {}{}", checked.out, checked.complaint);
            assert!(checked.out.is_empty() && checked.complaint.starts_with("relay check: "), "{}", checked.complaint);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_into_send_comes_out_at_the_target_and_back() {
    within(LIMIT, async {
        let site = Site::new().await;
        let (_relay, address) = site.relay().await;
        write_join(&site, address);
        let sent = async |input: &str| {
            site.write("input", input);
            let output = Command::new(programs::program("relay"))
                .args(["send", "--join", "send.join", "--ca", "ca.pem"])
                .current_dir(site.path())
                .env_remove("HTTPS_PROXY")
                .env_remove("https_proxy")
                .env_remove("ALL_PROXY")
                .env_remove("all_proxy")
                .stdin(std::fs::File::open(site.file("input")).unwrap())
                .kill_on_drop(true)
                .output()
                .await
                .unwrap();
            let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), told(&output.stdout), told(&output.stderr))
        };
        let (code, out, said) = sent("nobody hears").await;
        assert!(code == Some(1) && out.is_empty() && said.contains("404 There are no listeners"), "{said}");

        site.write_listener(address, site.echo.address);
        let mut listener = programs::start("listener", "relay", site.path(), ["listen", "-c", "listener.yaml"]);
        let admin = listener.address("admin").await;
        ready("listener", admin).await;
        let (code, out, said) = sent("hello there").await;
        assert_eq!((code, out.as_str()), (Some(0), "hello there"), "{said}");
        assert!(said.contains("joined with "), "{said}");
    })
    .await;
}
