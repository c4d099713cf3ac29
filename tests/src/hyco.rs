//! Microsoft's Node packages for Azure Relay, unmodified: `hyco-ws` and `hyco-https`, each role a process of its own.
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    driver::Driver,
    namespace::{LISTEN, Namespace, SEND},
    process::Spec,
    programs::repository,
};

/// A listener that accepts WebSockets, by `hyco-ws`; it echoes each message. `more` are settings of the script.
pub async fn ws_listener(namespace: &Namespace, entity: &str, more: Value) -> Driver {
    let mut driver = ws_listener_refused(namespace, entity, more);
    driver.next("listening").await;
    driver
}

/// The same, started without waiting until it listens.
pub fn ws_listener_refused(namespace: &Namespace, entity: &str, more: Value) -> Driver {
    let options = json!({ "url": namespace.listen_url(entity), "rule": LISTEN, "key": namespace.listen_key });
    Driver::start(node("hyco-ws listener", "ws-listener.cjs", namespace, options, more))
}

/// A sender by `hyco-ws`, dialling; `rest` is suffix and query.
pub fn ws_sender(namespace: &Namespace, entity: &str, rest: &str, more: Value) -> Driver {
    let options = json!({ "url": namespace.connect_url(entity, rest), "rule": SEND, "key": namespace.send_key });
    Driver::start(node("hyco-ws sender", "ws-sender.cjs", namespace, options, more))
}

/// A listener that answers HTTP requests, by `hyco-https`; what it answers, `https-listener.cjs` says.
pub async fn https_listener(namespace: &Namespace, entity: &str, more: Value) -> Driver {
    let options = json!({ "url": namespace.listen_url(entity), "rule": LISTEN, "key": namespace.listen_key });
    let mut driver = Driver::start(node("hyco-https listener", "https-listener.cjs", namespace, options, more));
    driver.next("listening").await;
    driver
}

/// An HTTP sender: Node's own client with the addresses and tokens that `hyco-https` makes.
pub async fn https_sender(namespace: &Namespace, entity: &str) -> Driver {
    let options = json!({
        "namespace": namespace.address.to_string(), "entity": entity, "rule": SEND, "key": namespace.send_key,
    });
    let mut driver = Driver::start(node("https sender", "https-sender.cjs", namespace, options, json!({})));
    driver.next("ready").await;
    driver
}

/// A script of `tests/node` under Node, which trusts the namespace's CA.
fn node(name: &str, script: &str, namespace: &Namespace, mut options: Value, more: Value) -> Spec {
    let scripts = repository().join("tests/node");
    let packages = repository().join("target/tools/node/node_modules");
    assert!(packages.exists(), "{} is missing: run `tests/run setup`", packages.display());
    let mut args = Vec::new();
    if let (Some(options), Value::Object(more)) = (options.as_object_mut(), more) {
        for (key, value) in more {
            // Not an option of the script: the hour of its renewal timer passes at once.
            if key == "sooner" {
                args.extend(["--require".into(), scripts.join("sooner.cjs").into_os_string()]);
            } else {
                options.insert(key, value);
            }
        }
    }
    args.push(scripts.join(script).into_os_string());
    args.push(options.to_string().into());
    Spec {
        name: name.to_owned(),
        program: PathBuf::from("node"),
        args,
        env: vec![
            ("NODE_PATH".to_owned(), packages.into_os_string()),
            ("NODE_EXTRA_CA_CERTS".to_owned(), namespace.path().join("ca.pem").into_os_string()),
            // Old packages, new Node: what they use is on its way out, and no test is about that.
            ("NODE_NO_WARNINGS".to_owned(), "1".into()),
        ],
        directory: namespace.path().to_owned(),
    }
}
