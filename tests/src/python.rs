//! Python's `websockets`, and what is written with it from the published protocol alone.
use std::path::Path;

use serde_json::{Value, json};

use crate::{driver::Driver, namespace::Namespace, process::Spec, programs::repository};

/// Runs one of the scripts in `tests/python`.
pub fn script(name: &str, script: &str, folder: &Path, options: &Value) -> Driver {
    Driver::start(spec(name, script, folder, options))
}

/// A WebSocket sender, dialling; `rest` is suffix and query.
pub fn sender(namespace: &Namespace, entity: &str, rest: &str, more: Value) -> Driver {
    let options = json!({
        "url": namespace.connect_url(entity, rest),
        "headers": { "ServiceBusAuthorization": namespace.send_token(entity) },
    });
    Driver::start(python("python sender", "sender.py", namespace, options, more))
}

/// A listener for both kinds of senders.
pub async fn listener(namespace: &Namespace, entity: &str) -> Driver {
    let options = json!({ "url": namespace.listen_url(entity), "token": namespace.listen_token(entity) });
    let mut driver = Driver::start(python("python listener", "listener.py", namespace, options, json!({})));
    driver.next("listening").await;
    driver
}

/// Asks for the description of a hybrid connection as a sender may.
pub fn describe(namespace: &Namespace, entity: &str) -> Driver {
    let options = json!({ "url": namespace.url(entity), "token": namespace.send_token(entity) });
    Driver::start(python("python description", "describe.py", namespace, options, json!({})))
}

fn python(name: &str, script: &str, namespace: &Namespace, mut options: Value, more: Value) -> Spec {
    options["ca"] = namespace.path().join("ca.pem").to_string_lossy().into();
    if let (Some(options), Value::Object(more)) = (options.as_object_mut(), more) {
        options.extend(more);
    }
    spec(name, script, namespace.path(), &options)
}

fn spec(name: &str, script: &str, folder: &Path, options: &Value) -> Spec {
    let program = repository().join("target/tools/python/bin/python");
    assert!(program.exists(), "{} is missing: run `tests/run setup`", program.display());
    Spec {
        name: name.to_owned(),
        program,
        args: vec![repository().join("tests/python").join(script).into_os_string(), options.to_string().into()],
        // No folder of compiled scripts in the repository.
        env: vec![("PYTHONDONTWRITEBYTECODE".to_owned(), "1".into())],
        directory: folder.to_owned(),
    }
}
