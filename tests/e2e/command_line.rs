//! What a person meets before anything runs: help, and mistakes in files.
use std::time::Duration;

use causeway_tests::{programs, site::Site, wait::within};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

/// Every subcommand that reads a config file.
const SUBCOMMANDS: [(&str, &[&str]); 5] = [
    ("relay", &["serve"]),
    ("relay", &["listen"]),
    ("gateway", &["serve"]),
    ("gateway", &["connect"]),
    ("identity", &["sidecar"]),
];

struct Ran {
    code: Option<i32>,
    out: String,
    complaint: String,
}

async fn run(site: &Site, program: &str, args: &[&str]) -> Ran {
    let output = Command::new(programs::program(program))
        .args(args)
        .current_dir(site.path())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Words that would name a flag taking a secret's value; a flag that names a *file* of one ends otherwise.
const SECRET_FLAGS: [&str; 8] =
    ["--token ", "--token=", "--key ", "--secret", "--password", "--client-secret", "--sas ", "--bearer"];

#[tokio::test(flavor = "multi_thread")]
async fn no_program_takes_a_secret_on_its_command_line() {
    within(LIMIT, async {
        let site = Site::new().await;
        for program in ["relay", "gateway", "identity"] {
            let help = run(&site, program, &["--help"]).await;
            assert_eq!(help.code, Some(0), "{program}: {}", help.complaint);
            let commands = help.out.split("Commands:").nth(1).unwrap_or_default();
            let commands = commands.split("Options:").next().unwrap_or_default();
            let mut texts = vec![(program.to_owned(), help.out.clone())];
            for name in commands.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
                if name.is_empty() || name == "help" {
                    continue;
                }
                let help = run(&site, program, &[name, "--help"]).await;
                assert_eq!(help.code, Some(0), "{program} {name}: {}", help.complaint);
                texts.push((format!("{program} {name}"), help.out));
            }
            assert!(texts.len() > 1, "{program} has subcommands");
            for (name, text) in texts {
                for flag in SECRET_FLAGS {
                    assert!(!text.contains(flag), "{name} --help has `{flag}`:\n{text}");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_ends_with_64_and_names_the_nearest() {
    within(LIMIT, async {
        let site = Site::new().await;
        site.prepare_all().await;
        // In each file, one key with two letters swapped.
        for ((program, subcommand), (file, right, wrong)) in SUBCOMMANDS.into_iter().zip([
            ("relay.yaml", "entities:", "entitise:"),
            ("listener.yaml", "hybrid_connections:", "hybrid_conections:"),
            ("gateway.yaml", "authenticators:", "autenticators:"),
            ("connector.yaml", "clusters:", "clutsers:"),
            ("sidecar.yaml", "faces:", "faecs:"),
        ]) {
            let good = run(&site, program, &[subcommand[0], "-c", file, "--print-config"]).await;
            assert_eq!(good.code, Some(0), "{file} as it is: {}", good.complaint);
            site.edit(file, right, wrong);
            let bad = run(&site, program, &[subcommand[0], "-c", file]).await;
            assert_eq!(bad.code, Some(64), "{file}: {}", bad.complaint);
            let text = std::fs::read_to_string(site.file(file)).unwrap();
            let line = text.lines().position(|line| line.starts_with(wrong)).unwrap() + 1;
            for part in [&format!("{file}:{line}:"), wrong.trim_end_matches(':'), right.trim_end_matches(':')] {
                assert!(bad.complaint.contains(part), "{file}: `{part}` is not named in: {}", bad.complaint);
            }
            site.edit(file, wrong, right);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_ends_with_64() {
    within(LIMIT, async {
        let site = Site::new().await;
        for (program, subcommand) in SUBCOMMANDS {
            let ran = run(&site, program, &[subcommand[0], "-c", "absent.yaml"]).await;
            assert_eq!(ran.code, Some(64), "{program} {}: {}", subcommand[0], ran.complaint);
            assert!(ran.complaint.contains("absent.yaml"), "{}", ran.complaint);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_effective_configuration_holds_no_secret() {
    within(LIMIT, async {
        let site = Site::new().await;
        site.prepare_all().await;
        let secrets = ["listen.key", "send.key", "connector.token", "client.secret"]
            .map(|file| std::fs::read_to_string(site.file(file)).unwrap());
        for ((program, subcommand), file) in SUBCOMMANDS.into_iter().zip([
            "relay.yaml",
            "listener.yaml",
            "gateway.yaml",
            "connector.yaml",
            "sidecar.yaml",
        ]) {
            let ran = run(&site, program, &[subcommand[0], "-c", file, "--print-config"]).await;
            assert_eq!(ran.code, Some(0), "{file}: {}", ran.complaint);
            assert!(!ran.out.is_empty(), "{file}");
            for secret in &secrets {
                assert!(!ran.out.contains(secret) && !ran.complaint.contains(secret), "{file}: {}", ran.out);
            }
        }
    })
    .await;
}
