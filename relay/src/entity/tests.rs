//! Commands on files, with no relay running: what lies where afterwards, and what was said.
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use clap::Parser;
use daemon::config::{Overrides, load_again};
use tempfile::TempDir;

use super::*;
use crate::{
    sender::{Join, JoinLogin},
    serve::plan_of_files,
};

const CONFIG: &str = "listen: [{ address: 0.0.0.0:8443, tls: { cert: tls.crt, key: { file: tls.key } } }]
namespace: relay.example.com
admin: { address: 127.0.0.1:0 }
entities_from: entities.d
";

#[derive(Parser)]
enum Typed {
    #[command(subcommand)]
    Entity(EntityCommand),
    #[command(subcommand)]
    Key(KeyCommand),
}

/// A folder with a relay.yaml.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("relay.yaml"), config).unwrap();
        Self { folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// A command as it is typed; what it says, or why it failed.
    fn run(&self, line: &str) -> Result<String, OwnerError> {
        let config = self.path("relay.yaml");
        let words = ["relay"].into_iter().chain(line.split(' ')).chain(["-c", config.to_str().unwrap()]);
        let mut out = Vec::new();
        match Typed::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")) {
            Typed::Entity(EntityCommand::Add(args)) => add::run(&args, &mut out),
            Typed::Entity(EntityCommand::Remove(args)) => remove::run(&args, &mut out),
            Typed::Entity(EntityCommand::List(args)) => list::run(&args, &mut out),
            Typed::Key(KeyCommand::Rotate(args)) => rotate::run(&args, &mut out),
        }?;
        let said = String::from_utf8(out).unwrap();
        for secret in self.files("keys").iter().filter(|file| !file.ends_with(".join")) {
            let secret = self.read(&format!("keys/{secret}"));
            assert!(!said.contains(secret.trim()), "a key is printed: {said}");
        }
        Ok(said)
    }

    fn refused(&self, line: &str) -> String {
        explain(&self.run(line).expect_err(line))
    }

    fn files(&self, folder: &str) -> BTreeSet<String> {
        let Ok(entries) = self.path(folder).read_dir() else { return BTreeSet::new() };
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Names that a relay would serve with these files.
    fn served(&self) -> Vec<String> {
        let loaded = load_again(&self.path("relay.yaml"), &Overrides::default()).unwrap();
        plan_of_files(&loaded).unwrap()
    }

    fn join(&self, file: &str) -> (String, String, String) {
        let join = Join::parse(self.read(file).trim()).unwrap();
        let JoinLogin::Key { rule, key } = join.login else { panic!("no key in {file}") };
        (join.address.to_string(), rule, key.expose().to_owned())
    }
}

#[test]
fn add_makes_two_rules_with_one_right_each_their_keys_and_a_join_string_for_each_side() {
    let site = Site::new(CONFIG);
    let said = site.run("entity add factory-a").unwrap();
    assert!(
        said.starts_with(
            "wrote entities.d/factory-a.yaml, keys/factory-a-listen-{1,2}, keys/factory-a-send-{1,2} (0600), join strings \
             to sb://relay.example.com:8443/factory-a; "
        ),
        "{said}"
    );
    assert!(
        said.ends_with(
            "give the cluster:   keys/factory-a-listen.join      give the connector: keys/factory-a-send.join\n"
        ),
        "{said}"
    );
    assert_eq!(site.served(), ["factory-a: factory-a-listen [listen], factory-a-send [send]"]);
    let mut seen = BTreeSet::new();
    for side in ["listen", "send"] {
        for number in [1, 2] {
            let key = site.read(&format!("keys/factory-a-{side}-{number}"));
            assert_eq!(key.trim().len(), 44, "256 bits in base64");
            assert!(seen.insert(key), "each is another");
        }
        let (address, rule, key) = site.join(&format!("keys/factory-a-{side}.join"));
        assert_eq!(address, "sb://relay.example.com:8443/factory-a");
        assert_eq!(rule, format!("factory-a-{side}"));
        assert_eq!(key, site.read(&format!("keys/factory-a-{side}-1")).trim(), "the primary");
    }
    for file in site.files("keys") {
        let mode = site.path("keys").join(&file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(site.path("keys").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(site.files("entities.d").len(), 1, "no draft is left");
}

#[test]
fn add_may_be_typed_again_and_makes_only_what_is_missing() {
    let site = Site::new(CONFIG);
    site.run("entity add factory-a").unwrap();
    let content =
        |site: &Site| site.files("keys").iter().map(|file| site.read(&format!("keys/{file}"))).collect::<Vec<_>>();
    let before = content(&site);
    let said = site.run("entity add FACTORY-A").unwrap_or_else(|error| panic!("{error}"));
    assert!(said.contains("is there already"), "{said}");
    let said = site.run("entity add factory-a").unwrap();
    assert_eq!(said, "factory-a is there already, in entities.d/factory-a.yaml; nothing was changed\n");
    assert_eq!(content(&site), before);
    fs::remove_file(site.path("keys/factory-a-send.join")).unwrap();
    assert!(site.run("entity add factory-a").unwrap().contains("is there again"));
    assert_eq!(content(&site), before);
}

/// They may be those of a hybrid connection that was taken away, and whoever was shut out with it still has them.
#[test]
fn keys_that_were_left_behind_open_nothing_when_the_name_comes_back() {
    let site = Site::new(CONFIG);
    site.run("entity add factory-a").unwrap();
    let content = || site.files("keys").iter().map(|file| site.read(&format!("keys/{file}"))).collect::<BTreeSet<_>>();
    let before = content();
    fs::remove_file(site.path("entities.d/factory-a.yaml")).unwrap();
    assert!(site.run("entity add factory-a").unwrap().starts_with("wrote entities.d/factory-a.yaml"));
    assert_eq!(content().len(), 6);
    assert!(content().is_disjoint(&before), "each is another");
    for side in ["listen", "send"] {
        let key = site.join(&format!("keys/factory-a-{side}.join")).2;
        assert_eq!(key, site.read(&format!("keys/factory-a-{side}-1")).trim());
    }
    // Whoever names one of them by hand keeps it.
    let taken = site.read("keys/factory-a-send-2");
    let text = site.read("entities.d/factory-a.yaml");
    fs::remove_file(site.path("entities.d/factory-a.yaml")).unwrap();
    fs::write(site.path("entities.d/b.yaml"), text).unwrap();
    let said = site.refused("entity add factory-a");
    assert!(said.contains("keys/factory-a-listen-1 is the key of another rule"), "{said}");
    assert_eq!(site.read("keys/factory-a-send-2"), taken);
}

#[test]
fn names_with_slashes_get_files_of_their_own() {
    let site = Site::new(CONFIG);
    for name in ["ms.hc/machines/1", "ms.hc-machines-1"] {
        site.run(&format!("entity add {name}")).unwrap();
    }
    let files = ["ms.hc-machines-1.yaml", "ms.hc~machines~1.yaml"].map(str::to_owned);
    assert_eq!(site.files("entities.d"), BTreeSet::from(files));
    assert!(site.served()[0].starts_with("ms.hc/machines/1: ms.hc.machines.1-listen [listen]"), "{:?}", site.served());
    assert_eq!(site.join("keys/ms.hc~machines~1-send.join").0, "sb://relay.example.com:8443/ms.hc/machines/1");
    let wrong = site.refused(&format!("entity add {}", "x".repeat(201)));
    assert!(wrong.contains("too long for a file"), "{wrong}");
    for name in ["..", "a/../b", "-a", "a b"] {
        let config = site.path("relay.yaml");
        let words = ["relay", "entity", "add", "-c", config.to_str().unwrap(), "--", name];
        let Typed::Entity(EntityCommand::Add(args)) = Typed::try_parse_from(words).unwrap_or_else(|e| panic!("{e}"))
        else {
            panic!("not an add")
        };
        assert_eq!(add::run(&args, &mut Vec::new()).unwrap_err().code(), 64, "{name}");
    }
    assert_eq!(site.served().len(), 2);
}

#[test]
fn add_says_what_is_to_be_done_first() {
    let site = Site::new(&CONFIG.replace("entities_from: entities.d\n", "entities: { inline: {} }\n"));
    let said = site.refused("entity add factory-a");
    assert!(
        said.contains("relay.yaml: there is no `entities_from`; add the line `entities_from: entities.d`"),
        "{said}"
    );
    assert!(site.files("keys").is_empty());
    let site = Site::new(&format!("{CONFIG}entities: {{ inline: {{}} }}\n"));
    let said = site.run("entity add inline").unwrap();
    assert!(said.contains("relay.yaml: entities.inline; nothing was changed"), "{said}");
    assert!(site.refused("entity add factory-a --kind udp").contains("kind"));
    let said = site.refused("entity add factory-a --endpoint https://relay");
    assert!(said.contains("--endpoint https://relay: "), "{said}");
    assert!(site.files("keys").is_empty() && site.files("entities.d").is_empty(), "nothing was made");
}

#[test]
fn join_strings_lead_where_the_relay_can_be_reached() {
    for (listen, namespace, flag, address) in [
        (
            "address: 0.0.0.0:443, tls: { cert: c, key: { file: k } }",
            "relay.example.com",
            "",
            "sb://relay.example.com/e",
        ),
        (
            "address: 0.0.0.0:443, tls: { cert: c, key: { file: k } }",
            "relay.example.com",
            " --endpoint sb://r.test:99/",
            "sb://r.test:99/e",
        ),
        ("address: 127.0.0.1:9443", "localhost", "", "ws://localhost:9443/e"),
        ("address: 127.0.0.1:9443", "relay.example.com", "", "sb://relay.example.com/e"),
    ] {
        let site = Site::new(&format!(
            "listen: [{{ {listen} }}]\nnamespace: {namespace}\nadmin: {{ address: 127.0.0.1:0 }}\nentities_from: entities.d\n"
        ));
        site.run(&format!("entity add e{flag}")).unwrap();
        assert_eq!(site.join("keys/e-listen.join").0, address);
    }
    let site = Site::new(&CONFIG.replace(":8443", ":0"));
    assert!(site.refused("entity add e").contains("--endpoint sb://host:port"));
}

#[test]
fn remove_takes_its_own_files_and_no_others() {
    let site = Site::new(&format!("{CONFIG}entities: {{ inline: {{}} }}\n"));
    for name in ["a", "b"] {
        site.run(&format!("entity add {name}")).unwrap();
    }
    // One key is used by the other, too, and one lies elsewhere.
    fs::rename(site.path("keys/a-send-2"), site.path("elsewhere")).unwrap();
    let edit = |file: &str, old: &str, new: &str| {
        let text = site.read(file);
        assert!(text.contains(old), "{text}");
        fs::write(site.path(file), text.replace(old, new)).unwrap();
    };
    edit("entities.d/a.yaml", "../keys/a-send-2", "../elsewhere");
    edit("entities.d/b.yaml", "../keys/b-send-2", "../keys/a-send-1");
    let said = site.run("entity remove a").unwrap();
    assert!(
        said.starts_with("removed entities.d/a.yaml, keys/a-listen.join, keys/a-listen-1, keys/a-listen-2; "),
        "{said}"
    );
    assert_eq!(site.served().len(), 2, "the other one, and that of relay.yaml");
    assert!(site.path("elsewhere").exists() && site.path("keys/a-send-1").exists());
    assert_eq!(site.run("entity remove a").unwrap(), "a is not there; nothing was changed\n");
    let said = site.refused("entity remove inline");
    assert!(
        said.contains("inline is written in") && said.contains("relay.yaml: entities.inline: take it out there"),
        "{said}"
    );
}

#[test]
fn list_names_rules_and_files() {
    let site = Site::new(&format!("{CONFIG}entities: {{ inline: {{ enabled: false }} }}\n"));
    site.run("entity add factory-a").unwrap();
    let said = site.run("entity list").unwrap();
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(lines[0], ["NAME", "RULES", "LISTENERS", "SENDERS", "FILE"]);
    assert_eq!(lines[1], ["factory-a", "factory-a-listen, factory-a-send", "-", "-", "entities.d/factory-a.yaml"]);
    assert_eq!(lines[2], ["inline (disabled)", "-", "-", "relay.yaml"]);
    assert!(lines[3][0].contains("127.0.0.1:0"), "whether a relay runs: {said}");
}

#[test]
fn rotate_makes_a_new_primary_and_the_one_before_the_secondary() {
    let site = Site::new(CONFIG);
    site.run("entity add factory-a --endpoint sb://public.example.com:4443").unwrap();
    let keys = || (site.read("keys/factory-a-listen-1"), site.read("keys/factory-a-listen-2"));
    let (send, file) = (site.read("keys/factory-a-send.join"), site.read("entities.d/factory-a.yaml"));
    let (first, _) = keys();
    let said = site.run("key rotate factory-a-listen").unwrap();
    assert!(said.starts_with("factory-a-listen: the new key is in keys/factory-a-listen-1, the one before goes on in keys/factory-a-listen-2, and older ones have ended; "), "{said}");
    assert!(said.ends_with("give the cluster:   keys/factory-a-listen.join\n"), "{said}");
    let (second, previous) = keys();
    assert_eq!(previous, first);
    assert_ne!(second, first);
    assert_eq!(site.join("keys/factory-a-listen.join").2, second.trim());
    assert_eq!(site.join("keys/factory-a-listen.join").0, "sb://public.example.com:4443/factory-a", "as it was");
    site.run("key rotate factory-a-listen").unwrap();
    let (third, previous) = keys();
    assert_eq!(previous, second);
    assert!(third != second && third != first, "the oldest is gone");
    assert_eq!(site.read("keys/factory-a-send.join"), send);
    assert_eq!(site.read("entities.d/factory-a.yaml"), file, "the configuration is what it was");
    assert_eq!(site.files("keys").len(), 6, "no draft is left");
}

#[test]
fn a_rotation_that_was_interrupted_is_completed_and_shuts_nobody_out() {
    let site = Site::new(CONFIG);
    site.run("entity add e").unwrap();
    let (one, two, join) = ("keys/e-send-1", "keys/e-send-2", "keys/e-send.join");
    // After its first step both files hold the primary.
    let held = site.read(one);
    fs::write(site.path(two), &held).unwrap();
    assert!(site.run("key rotate e-send").unwrap().starts_with("e-send: the new key is in"));
    assert_eq!(site.read(two), held);
    // After its second step the join string is still that of the key before.
    let old_join = site.read(join);
    fs::write(site.path(two), site.read(one)).unwrap();
    fs::write(site.path(one), "bmV3LWtleS1vZi1hdC1sZWFzdC0xMjgtYml0cy0tLS0=\n").unwrap();
    assert!(old_join.contains(site.read(two).trim()));
    let said = site.run("key rotate e-send").unwrap();
    assert!(said.starts_with("e-send: the last rotation was interrupted, and is complete now"), "{said}");
    assert_eq!(site.join(join).2, "bmV3LWtleS1vZi1hdC1sZWFzdC0xMjgtYml0cy0tLS0=");
    assert_eq!(site.read(one).trim(), "bmV3LWtleS1vZi1hdC1sZWFzdC0xMjgtYml0cy0tLS0=", "not rotated again");
    // A join string that its owner deleted after handing it out is made anew.
    fs::remove_file(site.path(join)).unwrap();
    site.run("key rotate e-send").unwrap();
    assert_eq!(site.join(join).2, site.read(one).trim());
}

#[test]
fn rotate_keeps_who_may_read_a_key() {
    let site = Site::new(CONFIG);
    site.run("entity add e").unwrap();
    for number in [1, 2] {
        let key = site.path(&format!("keys/e-send-{number}"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
    }
    site.run("key rotate e-send").unwrap();
    for number in [1, 2] {
        let mode = site.path(&format!("keys/e-send-{number}")).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "a relay of the group reads it");
    }
}

#[test]
fn what_cannot_be_rotated_says_why() {
    let site = Site::new(&format!(
        "{CONFIG}rules:
  common: {{ rights: [listen, send], keys: [{{ file: one }}, {{ file: two }}] }}
entities:
  a: {{ rules: {{ twice: {{ rights: [send], keys: [{{ file: one }}, {{ file: two }}] }} }} }}
  b:
    rules:
      twice: {{ rights: [send], keys: [{{ file: one }}, {{ file: two }}] }}
      single: {{ rights: [send], keys: [{{ file: one }}] }}
      variable: {{ rights: [send], keys: [{{ env: A }}, {{ env: B }}] }}
"
    ));
    fs::create_dir(site.path("entities.d")).unwrap();
    for (rule, why) in [
        ("nobody", "there is no rule nobody; `relay entity list`"),
        ("twice --entity c", "there is no rule twice in c"),
        ("twice", "several hybrid connections have a rule twice; say which one with --entity"),
        ("single", "rule single cannot be rotated: it has one key; add a second file"),
        ("variable", "rule variable cannot be rotated: a key of it comes from the environment"),
        ("twice --entity A", "one: No such file"),
    ] {
        let said = site.refused(&format!("key rotate {rule}"));
        assert!(said.contains(why), "{said}");
    }
    for (file, key) in [("one", "b25lLW9uZS1vbmUtb25lLW9uZS1vbmU="), ("two", "dHdvLXR3by10d28tdHdvLXR3by10d28=")] {
        fs::write(site.path(file), key).unwrap();
        fs::set_permissions(site.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let said = site.run("key rotate common").unwrap();
    assert!(said.ends_with("give its holders:   one\n"), "no join string is for a whole namespace: {said}");
    assert_eq!(site.read("two"), "b25lLW9uZS1vbmUtb25lLW9uZS1vbmU=\n");
    assert!(!site.path("one.join").exists());
}

#[test]
fn two_commands_do_not_change_the_same_files_at_once() {
    let site = Site::new(CONFIG);
    let which = Which { config: site.path("relay.yaml") };
    let held = home::Home::open(&which).unwrap();
    assert!(matches!(site.run("entity add e"), Err(OwnerError::Busy(_))));
    drop(held);
    site.run("entity add e").unwrap();
}
