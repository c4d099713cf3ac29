//! Where `tests/kubernetes/build` fetches from: this machine's own mirrors, however its sources are written.
use std::{path::Path, process::Output};

use causeway_tests::pki::write;

const LINES: &str = "# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian  bookworm contrib main # note
deb http://one.example/debian bookworm-updates main
deb cdrom:[Debian]/ bookworm main
deb-src http://two.example/debian bookworm main
deb https://other.example/linux bookworm stable
";

const STANZAS: &str = "Types: deb
# A comment in the middle
URIs: http://three.example/debian
 http://four.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Architectures: amd64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ==

types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
";

/// Runs the script as on a machine that has these sources.
fn run(folder: &Path, lines: &str, stanzas: &str, mirror: Option<&str>) -> Output {
    std::fs::create_dir_all(folder.join("parts.d")).unwrap();
    write(&folder.join("own.list"), lines);
    write(&folder.join("parts.d/debian.sources"), stanzas);
    let here = folder.display();
    let config = format!(
        "Dir::Etc::sourcelist \"{here}/own.list\";\nDir::Etc::sourceparts \"{here}/parts.d/\";\nDir::Etc::parts \"/dev/null\";\n"
    );
    write(&folder.join("apt.conf"), &config);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes/sources");
    let mut command = std::process::Command::new(script);
    command.arg(folder.join("out")).env("APT_CONFIG", folder.join("apt.conf")).env_remove("DEBIAN_MIRROR");
    command.envs(mirror.map(|mirror| ("DEBIAN_MIRROR", mirror)));
    command.output().unwrap()
}

fn read(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join("out").join(file)).unwrap_or_default()
}

#[test]
fn lines_and_stanzas_keep_mirror_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(folder.path(), LINES, STANZAS, None);
    assert!(ran.status.success(), "{ran:?}");
    let line = "deb-src [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main\n";
    assert_eq!(read(folder.path(), "sources.list"), line);
    let stanza = "Types: deb-src\nSuites: bookworm\nComponents: main\nURIs: http://three.example/debian\n \
                  http://four.example/debian\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n\n";
    assert_eq!(read(folder.path(), "sources.list.d/own.sources"), stanza);
}

#[test]
fn a_mirror_that_is_named_is_taken_alone() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), LINES, STANZAS, None);
    assert!(run(folder.path(), LINES, STANZAS, Some("http://mine.example/debian")).status.success());
    let line =
        "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mine.example/debian bookworm main\n";
    assert_eq!(read(folder.path(), "sources.list"), line);
    assert_eq!(read(folder.path(), "sources.list.d/own.sources"), "");
}

#[test]
fn a_machine_without_a_fitting_source_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(folder.path(), "deb http://one.example/debian trixie main\n", "", None);
    assert!(!ran.status.success());
    assert!(String::from_utf8_lossy(&ran.stderr).contains("DEBIAN_MIRROR="), "{ran:?}");
}
