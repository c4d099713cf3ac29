use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use proto::tunnel::{
    failure::{Code, Failure},
    pb,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::connect::fake::{body, connected, fail, opening};

const GOOD: &str = "CONNECT db.models.factory-a:5432 HTTP/1.1\r\nHost: db.models.factory-a:5432\r\n\r\n";

async fn answer(setup: &Setup, said: &str) -> String {
    String::from_utf8(setup.say(said.as_bytes()).await).unwrap()
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn a_name_leads_to_its_cluster_and_what_follows_the_head_belongs_to_the_stream() {
    let mut setup = Setup::new("connect", "").await;
    let mut client = setup.client().await;
    client.write_all(format!("{GOOD}first").as_bytes()).await.unwrap();
    let mut call = setup.call().await;
    assert!(!call.metadata.contains_key("authorization"));
    let target = pb::TcpTarget { host: "db.models.svc".to_owned(), port: 5432 };
    assert_eq!(opening(&mut call).await.target, Some(pb::open::Target::Tcp(target)));
    call.sender.message(connected()).await.unwrap();
    let mut head = [0; 39];
    soon("the answer", client.read_exact(&mut head)).await.unwrap();
    assert_eq!(std::str::from_utf8(&head).unwrap(), "HTTP/1.1 200 Connection established\r\n\r\n");
    client.write_all(b", second").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(body(&mut call).await.0, b"first, second");
}

#[tokio::test]
async fn a_forwarding_request_is_refused_with_a_text_that_says_what_to_do() {
    let setup = Setup::without_tunnel("connect", "").await;
    let text =
        answer(&setup, "GET http://scorer.models.factory-a/ HTTP/1.1\r\nHost: scorer.models.factory-a\r\n\r\n").await;
    assert_eq!(status(&text), "501");
    assert!(text.contains("--proxytunnel") && text.contains("causeway-error: unsupported"), "{text}");
}

#[tokio::test]
async fn whatever_is_ambiguous_or_malformed_is_refused() {
    let setup = Setup::without_tunnel("connect", "").await;
    let host = "Host: db.models.factory-a:5432\r\n";
    for (said, expected) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), "400"),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n".to_owned(), "403"),
        ("CONNECT / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT http://db.models.factory-a:5432 HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT db.models.factory-a HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT db.models.factory-a: HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT db.models.factory-a:0 HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT user@db.models.factory-a:5432 HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT db.models.factory-b:80 HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("CONNECT db.models.factory-a:5432 HTTP/1.1\r\nHost: other.models.factory-a:5432\r\n\r\n".to_owned(), "400"),
        ("CONNECT db.models.factory-a:5432 HTTP/1.1\r\nHost: db.models.factory-a:80\r\n\r\n".to_owned(), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/1.1\r\n{host}{host}\r\n"), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/1.1\r\n{host}Content-Length: 4\r\n\r\n"), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n"), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/1.1\n{host}\r\n"), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/1.1\r\n{host}bad name: x\r\n\r\n"), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/2.0\r\n{host}\r\n"), "400"),
        (format!("CONNECT db.models.factory-a:5432 HTTP/1.1\r\n{host}Sec-Fetch-Site: cross-site\r\n\r\n"), "403"),
        ("\x05\x01\x00\n".to_owned(), "400"),
    ] {
        assert_eq!(status(&answer(&setup, &said).await), expected, "{said}");
    }
}

#[tokio::test]
async fn a_head_has_a_limit() {
    let setup = Setup::without_tunnel("connect", ", as: caller").await;
    let head = |len: usize| {
        let start = "CONNECT db.models.factory-a:1 HTTP/1.1\r\nx: ";
        format!("{start}{}\r\n\r\n", "a".repeat(len - start.len() - 4))
    };
    assert_eq!(status(&answer(&setup, &head(16 * 1024)).await), "407");
    assert_eq!(status(&answer(&setup, &head(16 * 1024 + 1)).await), "431");
}

#[tokio::test]
async fn a_client_that_ends_at_any_byte_leaves_nothing_behind() {
    let setup = Setup::without_tunnel("connect", "").await;
    for cut in 0..GOOD.len() {
        let mut client = setup.client().await;
        client.write_all(&GOOD.as_bytes()[..cut]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("it ends", client.read_to_end(&mut answer)).await;
        assert!(answer.is_empty(), "{cut}: {}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_request_is_told_so() {
    let setup = Setup::without_tunnel("connect", "").await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert_eq!(status(&answer(&setup, "CONNECT db").await), "408");
    assert!(began.elapsed() <= Duration::from_secs(12));
}

#[tokio::test]
async fn a_caller_shows_its_own_token_to_the_proxy() {
    let mut setup = Setup::new("connect", ", as: caller").await;
    let refused = answer(&setup, GOOD).await;
    assert_eq!(status(&refused), "407");
    assert!(refused.contains("proxy-authenticate: Bearer"), "{refused}");
    let mut client = setup.client().await;
    let said = GOOD.replace("\r\n\r\n", "\r\nProxy-Authorization: bearer  its-token\r\n\r\n");
    client.write_all(said.as_bytes()).await.unwrap();
    let call = setup.call().await;
    assert_eq!(call.metadata["authorization"], "Bearer its-token");
}

#[tokio::test]
async fn a_login_is_asked_for_and_checked() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "open sesame").unwrap();
    let settings = format!(", login: {{ user: alice, password: {{ file: \"{}\" }} }}", file.path().display());
    let mut setup = Setup::new("connect", &settings).await;
    let with = |login: &str| {
        let login = STANDARD.encode(login);
        GOOD.replace("\r\n\r\n", &format!("\r\nProxy-Authorization: Basic {login}\r\n\r\n"))
    };
    let refused = answer(&setup, GOOD).await;
    assert!(refused.contains("proxy-authenticate: Basic"), "{refused}");
    assert_eq!(status(&answer(&setup, &with("alice:open")).await), "407");
    let mut client = setup.client().await;
    client.write_all(with("alice:open sesame").as_bytes()).await.unwrap();
    assert!(!setup.call().await.metadata.contains_key("authorization"));
}

#[tokio::test]
async fn a_failure_says_who_decided() {
    let mut setup = Setup::new("connect", "").await;
    let mut client = setup.client().await;
    client.write_all(GOOD.as_bytes()).await.unwrap();
    let mut call = setup.call().await;
    opening(&mut call).await;
    fail(call, &Failure::before_target(Code::PolicyDenied, "no rule"));
    let mut text = String::new();
    soon("an answer", client.read_to_string(&mut text)).await.unwrap();
    assert_eq!(status(&text), "403");
    assert!(text.contains("gateway factory-a") && text.contains("policy_denied"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_refused_or_waited_for(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let setup = Setup::without_tunnel("connect", "").await;
            let mut client = setup.client().await;
            client.write_all(&bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = soon("it ends", client.read_to_end(&mut answer)).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.1 501"));
        });
    }
}
