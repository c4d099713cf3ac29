//! Configuration as people write it, and as they get it wrong.
use std::{collections::BTreeMap, fs};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Relay {
    /// Name of it all.
    namespace: String,
    /// Where it listens.
    #[serde(default)]
    listen: Vec<Listen>,
    /// By name.
    #[serde(default)]
    entities: BTreeMap<String, Entity>,
    /// Most of everything; default 64Mi.
    #[serde(default = "memory")]
    memory: Size,
    /// How a thing is proven.
    credential: Option<Credential>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listen {
    /// Address.
    address: std::net::SocketAddr,
    /// Key.
    key: Option<SecretRef>,
    /// How many wait; default 128.
    #[serde(default)]
    backlog: u16,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entity {
    /// Which senders.
    kind: EntityKind,
    /// Keys of it.
    #[serde(default)]
    keys: Vec<SecretRef>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum EntityKind {
    /// WebSocket alone.
    Websocket,
    /// Both of them.
    Both,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Credential {
    /// A key.
    Sas { rule: String, key: SecretRef },
    /// A token.
    Entra { source: String },
}

fn memory() -> Size {
    Size(64 << 20)
}

impl Validate for Relay {
    fn validate(&self) -> Result<(), (String, String)> {
        match self.entities.iter().find(|(_, entity)| entity.keys.len() > 2) {
            Some((name, _)) => Err((format!("entities.{name}.keys"), "at most two".to_owned())),
            None => Ok(()),
        }
    }
}

fn read_text(text: &str) -> Result<Relay, String> {
    parse(text, Path::new("relay.yaml")).map_err(|error| error.to_string())
}

fn refusal(text: &str) -> String {
    read_text(text).expect_err("this must be refused")
}

#[test]
fn a_file_becomes_typed_values() {
    let relay = read_text(
        "namespace: 0123\nlisten: [{ address: 127.0.0.1:0, key: { file: tls.key } }]\nentities:\n  factory-a: { kind: both }\nmemory: 1Gi\ncredential: { sas: { rule: send, key: { env: KEY } } }\n",
    )
    .unwrap();
    assert_eq!(relay.namespace, "0123", "a plain scalar is a text where a text is wanted");
    assert_eq!(relay.listen[0].key, Some(SecretRef::File("tls.key".into())));
    assert_eq!(relay.entities["factory-a"].kind, EntityKind::Both);
    assert_eq!(relay.memory, Size(1 << 30));
    let key = SecretRef::Env("KEY".to_owned());
    assert_eq!(relay.credential, Some(Credential::Sas { rule: "send".to_owned(), key }));
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
    let text = "namespace: a\nentities:\n  factory-a:\n    kid: both\n";
    assert_eq!(
        refusal(text),
        "relay.yaml:4:5: entities.factory-a.kid: unknown key; did you mean `kind`? (known: kind, keys)"
    );
    assert!(refusal("namespace: a\nxyzzy: 1\n").starts_with("relay.yaml:2:1: xyzzy: unknown key (known: namespace, "));
}

#[test]
fn an_unknown_key_inside_of_a_choice_is_found() {
    let text = "namespace: a\ncredential:\n  sas:\n    rule: send\n    kex: { env: A }\n";
    assert_eq!(
        refusal(text),
        "relay.yaml:5:5: credential.sas.kex: unknown key; did you mean `key`? (known: rule, key)"
    );
}

#[test]
fn a_wrong_type_is_named_with_its_place() {
    for (text, message) in [
        ("namespace: []\n", "relay.yaml:1:12: namespace: expected a text, found a list"),
        ("namespace:\n", "relay.yaml:1:10: namespace: expected a text, found nothing"),
        ("namespace: a\nentities: 3\n", "relay.yaml:2:11: entities: expected a map, found the number 3"),
        ("namespace: a\nlisten:\n- 7\n", "relay.yaml:3:3: listen[0]: expected a map, found the number 7"),
        (
            "namespace: a\nlisten: [{ address: 1.2.3.4:5, backlog: 70000 }]\n",
            "relay.yaml:2:41: listen[0].backlog: expected u16, found the number 70000",
        ),
        (
            "namespace: a\nlisten: [{ address: here }]\n",
            "relay.yaml:2:21: listen[0].address: invalid socket address syntax",
        ),
        ("namespace: a\nmemory: 64MB\n", "relay.yaml:2:9: memory: sizes are binary here: write Ki, Mi, Gi or Ti"),
        (
            "namespace: a\nentities: { b: { kind: bath } }\n",
            "relay.yaml:2:24: entities.b.kind: `bath` is not known here; did you mean `both`? (known: websocket, both)",
        ),
        (
            "namespace: a\ncredential: { entra: [x] }\n",
            "relay.yaml:2:22: credential.entra: expected a map, found a list",
        ),
        ("- a\n", "relay.yaml:1:1: expected a map, found a list"),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn a_missing_key_is_named_with_its_map() {
    assert_eq!(refusal("memory: 1Mi\n"), "relay.yaml:1:1: namespace: this key is missing");
    assert_eq!(
        refusal("namespace: a\nlisten:\n  - backlog: 1\n"),
        "relay.yaml:3:5: listen[0].address: this key is missing"
    );
    assert_eq!(refusal(""), "relay.yaml:1:1: namespace: this key is missing");
}

#[test]
fn a_failed_validation_is_located() {
    let text = "namespace: a\nentities:\n  b.c:\n    kind: both\n    keys: [{env: A}, {env: B}, {env: C}]\n";
    assert_eq!(refusal(text), "relay.yaml:5:5: entities.b.c.keys: at most two");
}

#[test]
fn malformed_yaml_is_located() {
    for text in
        ["namespace: a\n  memory: b\n", "namespace: [a\n", "a: 'b\n", "namespace: a\n\tmemory: b\n", "a: *nowhere\n"]
    {
        let refused = refusal(text);
        assert!(refused.starts_with("relay.yaml:") && refused.contains("not valid YAML"), "{text:?}: {refused}");
    }
}

#[test]
fn what_yaml_allows_but_surprises_is_refused() {
    for (text, reason) in [
        ("namespace: a\nnamespace: b\n", "relay.yaml:2:1: namespace: this key is there twice (first in line 1)"),
        ("namespace: a\n---\nnamespace: b\n", "a second document"),
        ("base: &b { x: 1 }\nlisten: { <<: *b }\n", "merge keys"),
        ("namespace: !!str a\n", "tags"),
        ("? [a]\n: b\n", "a key must be one word"),
        ("a: &x [*x]\n", "an alias inside of what it stands for"),
    ] {
        let refused = refusal(text);
        assert!(refused.contains(reason), "{text:?}: {refused}");
    }
}

#[test]
fn alias_bombs_are_refused() {
    let mut values = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        values.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
    }
    assert!(refusal(&values).contains("NODES_MAX"));
    let long = "x".repeat(100_000);
    let text = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 100].join(", "));
    assert!(refusal(&text).contains("TEXT_MAX"));
}

#[test]
fn too_deep_nesting_is_refused_whichever_way_it_is_written() {
    let flow = "[".repeat(1000);
    let block = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    let indentless = "- ".repeat(1000);
    for text in [flow, block, indentless] {
        assert!(read_text(&text).is_err());
    }
    let mut aliased = format!("a0: &a0 {}x{}\n", "[".repeat(20), "]".repeat(20));
    for level in 1..5 {
        aliased.push_str(&format!("a{level}: &a{level} {}*a{}{}\n", "[".repeat(20), level - 1, "]".repeat(20)));
    }
    assert!(refusal(&aliased).contains("DEPTH_MAX"));
}

#[test]
fn files_that_are_too_large_absent_or_not_text_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.yaml");
    let refusal = || load::<Relay>(&path, &[]).unwrap_err().to_string();
    assert!(refusal().contains("relay.yaml"));
    fs::write(&path, format!("namespace: a\n#{}\n", "x".repeat(FILE_MAX as usize))).unwrap();
    assert!(refusal().contains("FILE_MAX"));
    fs::write(&path, b"namespace: \xff\n").unwrap();
    assert!(refusal().contains("not UTF-8 (byte 11)"));
}

fn laid_over(text: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Relay, String> {
    let path = Path::new("relay.yaml");
    let lay = || {
        let mut tree = yaml::parse(text, path)?;
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Overrides::from_environment(environment)?.and_flags(&flags)?.lay_over(&mut tree, path)?;
        typed_and_valid(&tree, path, &[])
    };
    lay().map_err(|error: ConfigError| error.to_string())
}

const BASE: &str = "namespace: a\nlisten: [{ address: 127.0.0.1:1 }]\nentities: { b: { kind: both } }\n";

#[test]
fn flags_win_over_environment_which_wins_over_the_file() {
    let environment =
        [("CAUSEWAY_CONFIG__NAMESPACE", "b"), ("CAUSEWAY_CONFIG__MEMORY", "2Mi"), ("CAUSEWAY_GATEWAY_PORT", "x")];
    let relay = laid_over(BASE, &environment, &["namespace=c"]).unwrap();
    assert_eq!((relay.namespace.as_str(), relay.memory), ("c", Size(2 << 20)));
    assert_eq!(laid_over(BASE, &[], &["namespace=b", "namespace=c"]).unwrap().namespace, "c");
}

#[test]
fn maps_merge_lists_replace_and_items_can_be_reached() {
    let relay = laid_over(BASE, &[], &["entities={ c: { kind: websocket } }", "entities.b.keys=[{ env: K }]"]).unwrap();
    assert_eq!(relay.entities.keys().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!((&relay.entities["b"].kind, relay.entities["b"].keys.len()), (&EntityKind::Both, 1));
    let relay = laid_over(BASE, &[], &["listen=[{ address: 127.0.0.1:2 }, { address: 127.0.0.1:3 }]"]).unwrap();
    assert_eq!(relay.listen.len(), 2);
    let relay = laid_over(BASE, &[], &["listen.0.address=[::1]:8443"]).unwrap();
    assert_eq!(relay.listen[0].address, "[::1]:8443".parse().unwrap());
    let relay = laid_over(BASE, &[], &[r#"entities."x.y".kind=both"#]).unwrap();
    assert!(relay.entities.contains_key("x.y"));
}

#[test]
fn a_refused_override_names_the_variable_or_flag() {
    for (environment, flag, message) in [
        (
            Some("CAUSEWAY_CONFIG__NAMESPAC"),
            None,
            "environment variable CAUSEWAY_CONFIG__NAMESPAC: namespac: unknown key; did you mean `namespace`?",
        ),
        (
            Some("CAUSEWAY_CONFIG__A____B"),
            None,
            "environment variable CAUSEWAY_CONFIG__A____B: write CAUSEWAY_CONFIG__KEY",
        ),
        (None, Some("memory=lots"), "--set memory: memory: not a size"),
        (
            None,
            Some("listen.7.address=x"),
            "--set listen.7.address: listen.7.address: this is a list of 1; 7 is no item",
        ),
        (None, Some("namespace.a=x"), "--set namespace.a: namespace.a: there is a single value above a"),
        (None, Some("novalue"), "--set: write KEY=VALUE"),
        (None, Some("a..b=x"), "--set a..b: not a key"),
    ] {
        let environment: Vec<_> = environment.map(|name| (name, "x")).into_iter().collect();
        let refused = laid_over(BASE, &environment, &flag.into_iter().collect::<Vec<_>>()).unwrap_err();
        assert!(refused.starts_with(message), "{refused}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_refused_without_being_repeated() {
    for text in [
        "namespace: a\nlisten: [{ address: 127.0.0.1:1, key: hunter2secret }]\n",
        "namespace: a\nlisten: [{ address: 127.0.0.1:1, key: [hunter2secret] }]\n",
        "namespace: a\nentities: { b: { kind: both, keys: [hunter2secret] } }\n",
        "namespace: a\nentities: { b: { kind: hunter2secret } }\n",
        "namespace: a\nentities: hunter2secret\n",
        "namespace: a\ncredential: hunter2secret\n",
        "namespace: a\ncredential: { sas: hunter2secret }\n",
        "namespace: a\nmemory: hunter2secret\n",
        "namespace: a\nlisten: hunter2secret: x\n",
    ] {
        let refused = refusal(text);
        assert!(!refused.contains("hunter2secret"), "{refused}");
    }
    for value in ["hunter2secret", "'hunter2secret'", "123456", "true", "1.5"] {
        let refused = refusal(&format!("namespace: a\nlisten: [{{ address: 127.0.0.1:1, key: {value} }}]\n"));
        assert!(refused.contains("listen[0].key: a secret is never written here"), "{refused}");
    }
    let refused = laid_over(BASE, &[("CAUSEWAY_CONFIG__LISTEN", "hunter2secret")], &[]).unwrap_err();
    assert!(!refused.contains("hunter2secret"), "{refused}");
}

fn program(text: &str, flags: &[&str]) -> Result<LoadedProgram<Relay>, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.yaml");
    fs::write(&path, text).unwrap();
    let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    load_program(&path, &Overrides::default().and_flags(&flags)?)
}

#[test]
fn a_program_file_has_the_common_sections_beside_its_own_keys() {
    let loaded = program("namespace: a\ngrace: 5s\nlog: { format: human }\n", &["log.level=debug"]).unwrap();
    assert_eq!(loaded.loaded.values.namespace, "a");
    assert_eq!(loaded.settings.grace, Span(std::time::Duration::from_secs(5)));
    assert_eq!(loaded.settings.log.level, crate::log::Level::Debug);
    assert_eq!(loaded.loaded.resolve(Path::new("x")), loaded.loaded.base.join("x"));
    let refused = program("namespace: a\nadmn: {}\n", &[]).unwrap_err().to_string();
    assert!(refused.contains("did you mean `admin`?"), "{refused}");
    let refused = program("namespace: a\nlog: { levle: debug }\n", &[]).unwrap_err().to_string();
    assert!(refused.contains("relay.yaml:2:8: log.levle: unknown key; did you mean `level`?"), "{refused}");
}

#[test]
fn the_common_keys_are_those_of_the_settings() {
    let schema = schemars::schema_for!(Settings);
    let named: std::collections::BTreeSet<_> = schema.get("properties").unwrap().as_object().unwrap().keys().collect();
    assert_eq!(named, Settings::KEYS.map(str::to_owned).iter().collect());
}

#[test]
fn the_effective_configuration_says_where_each_value_came_from() {
    let text =
        "namespace: a\nlisten:\n  - address: 127.0.0.1:1\n    key: { file: keys/listen }\nlog: { level: warn }\n";
    let shown = program(text, &["memory=1Mi"]).unwrap().effective();
    for (value, origin) in [
        ("namespace: a", "relay.yaml:1:12"),
        ("    address: 127.0.0.1:1", "relay.yaml:3:14"),
        ("    key: (set)", "relay.yaml:4:10, file keys/listen"),
        ("    backlog: 0", "default"),
        ("  level: warn", "relay.yaml:5:15"),
        ("  format: \"json\"", "default"),
        ("memory: 1Mi", "--set memory"),
        ("grace: \"30s\"", "default"),
        ("# entities:", "not set"),
        ("# credential:", "not set"),
    ] {
        let found = shown.lines().any(|line| line.starts_with(&format!("{value} ")) && line.ends_with(origin));
        assert!(found, "{value} # {origin} in\n{shown}");
    }
}

#[test]
fn the_effective_configuration_is_itself_valid_yaml() {
    let text = "namespace: 'a: \"b\" # c'\nlisten: [{ address: \"127.0.0.1:1\" }]\nentities: { '- x': { kind: both }, 'é': { kind: both, keys: [] } }\n";
    let loaded = program(text, &[]).unwrap();
    let again = yaml::parse(&loaded.effective(), Path::new("again")).unwrap();
    let (_, own) = again.split(&Settings::KEYS);
    assert_eq!(typed_and_valid::<Relay>(&own, Path::new("again"), &[]).unwrap(), loaded.loaded.values);
}

#[test]
fn no_printed_form_of_a_configuration_holds_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("key"), "hunter2secret\n").unwrap();
    let path = folder.path().join("relay.yaml");
    let text = "namespace: 'https://user:hunter2secret@proxy.example/a?sig=hunter2secret'\nlisten: [{ address: 127.0.0.1:1, key: { file_readable_by_others: key } }]\n";
    fs::write(&path, text).unwrap();
    let loaded = load_program::<Relay>(&path, &Overrides::default()).unwrap();
    let key = loaded.loaded.values.listen[0].key.clone().unwrap();
    let secret = key.read(&loaded.loaded.base).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&secret), "hunter2secret");
    let shown = loaded.effective();
    assert!(shown.contains("https://(set)@proxy.example/a?(set)"), "{shown}");
    let listen = &loaded.loaded.values.listen;
    for printed in [shown, format!("{listen:?}"), format!("{secret:?}"), format!("{key}")] {
        assert!(!printed.contains("hunter2secret"), "{printed}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_its_file(text in "[-a-z:{}\\[\\]&*!|>'\"#%@,? \n\t0-9.]{0,80}") {
        if let Err(refused) = read_text(&text) {
            prop_assert!(refused.starts_with("relay.yaml:"), "{}", refused);
        }
    }
}
