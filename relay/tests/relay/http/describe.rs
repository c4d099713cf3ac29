//! What the relay says of a hybrid connection, and to whom.
use serde_json::json;

use super::support::{Client, Reply, relay, request, respond};
use crate::support::{LISTEN_KEY, NAMESPACE_KEY, Relay, SECOND_KEY, SEND_KEY};

/// .NET's call, with a token where .NET puts it.
async fn asked(relay: &Relay, method: &str, path: &str, token: Option<&str>) -> Reply {
    let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
    let mut client = Client::new(relay).await;
    let line = format!("{method} /{path}?api-version=2016-07 HTTP/1.1\r\nHost: relay.test\r\n");
    client.raw(format!("{line}X-PROCESS-AT: ServiceBus\r\n{token}Content-Length: 0\r\n\r\n").as_bytes()).await;
    client.reply().await
}

fn text(reply: &Reply) -> String {
    String::from_utf8(reply.body.clone()).unwrap()
}

#[tokio::test]
async fn any_right_on_a_hybrid_connection_reads_how_many_listen_on_it() {
    let relay = relay().await;
    let tokens = [("listen", LISTEN_KEY), ("send", SEND_KEY)].map(|(rule, key)| relay.token(rule, key, "e"));
    let everywhere = relay.token("all", NAMESPACE_KEY, "");
    let mut listeners = Vec::new();
    for count in 0..3 {
        for token in tokens.iter().chain([&everywhere]) {
            let reply = asked(&relay, "GET", "e", Some(token)).await;
            assert_eq!((reply.status, reply.one("Via")), (200, None));
            assert_eq!(reply.one("Content-Type"), Some("application/atom+xml;type=entry;charset=utf-8"));
            let expected = format!(
                "<entry xmlns=\"http://www.w3.org/2005/Atom\"><id>https://127.0.0.1/e</id><title type=\"text\">e</title>\
                 <content type=\"application/xml\"><HybridConnectionDescription \
                 xmlns=\"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect\">\
                 <RequiresClientAuthorization>true</RequiresClientAuthorization><ListenerCount>{count}</ListenerCount>\
                 </HybridConnectionDescription></content></entry>"
            );
            assert_eq!(text(&reply), expected);
        }
        listeners.push(relay.listener_as(&format!("l{count}")).await);
    }
}

#[tokio::test]
async fn a_name_is_described_whatever_its_case_and_whoever_may_send() {
    let relay = relay().await;
    let token = relay.token("send", SEND_KEY, "Deep/Name");
    let reply = asked(&relay, "GET", "deep/NAME/", Some(&token)).await;
    assert!(reply.status == 200 && text(&reply).contains("<title type=\"text\">Deep/Name</title>"), "{reply:?}");
    let token = relay.token("send", SEND_KEY, "open");
    let reply = asked(&relay, "GET", "open", Some(&token)).await;
    assert!(text(&reply).contains("<RequiresClientAuthorization>false</RequiresClientAuthorization>"), "{reply:?}");
}

#[tokio::test]
async fn who_has_no_right_learns_nothing() {
    let relay = relay().await;
    // Where senders need no token, this still does.
    for path in ["e", "open", "nobody"] {
        assert_eq!(asked(&relay, "GET", path, None).await.status, 401, "{path}");
    }
    let theirs = relay.token("listen", SECOND_KEY, "other");
    let forged = relay.token("listen", SECOND_KEY, "e");
    // Its own suffix is all that this one is for.
    let narrow = relay.token("send", SEND_KEY, "e/below");
    let ours = relay.token("send", SEND_KEY, "e");
    for (path, token) in
        [("e", &theirs), ("nobody", &theirs), ("e", &forged), ("nobody", &ours), ("e/below", &narrow), ("e", &narrow)]
    {
        let reply = asked(&relay, "GET", path, Some(token)).await;
        assert_eq!(reply.status, 401, "{path}: {reply:?}");
        assert!(!text(&reply).contains("Listener"), "{reply:?}");
    }
    // Who may see the whole namespace is told that there is no such name.
    let all = relay.token("all", NAMESPACE_KEY, "");
    for path in ["nobody", "e/below", ""] {
        assert_eq!(asked(&relay, "GET", path, Some(&all)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn nothing_for_the_relay_itself_reaches_a_listener() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let token = relay.send_token();
    for method in ["PUT", "POST", "DELETE", "HEAD", "PATCH"] {
        let mut client = Client::new(&relay).await;
        client.raw(format!("{method} /e HTTP/1.1\r\nHost: h\r\nx-process-at: servicebus\r\n\r\n").as_bytes()).await;
        let reply = client.reply_to(method == "HEAD").await;
        assert_eq!((reply.status, reply.one("Allow")), (405, Some("GET")), "{method}");
    }
    assert_eq!(asked(&relay, "GET", "e", Some(&token)).await.status, 200);
    // Another value is the application's own.
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &["X-PROCESS-AT: Elsewhere"]).await;
    let first = request(&mut control.0).await;
    assert_eq!(first.message["requestHeaders"]["X-Process-At"], "Elsewhere", "{first:?}");
    respond(&mut control.0, json!({ "requestId": first.id(), "statusCode": 204 }), None).await;
    assert_eq!(client.reply().await.status, 204);
}

#[tokio::test]
async fn a_kept_connection_may_ask_and_then_send() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    let asked = client.ask("GET /e", &["X-PROCESS-AT: ServiceBus"]).await;
    assert!(text(&asked).contains("<ListenerCount>1<"), "{asked:?}");
    client.head("GET /e", &[]).await;
    super::support::serve_one(&mut control.0, b"answer").await;
    assert_eq!(client.reply().await.body, b"answer");
}
