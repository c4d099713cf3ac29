use std::time::Duration;

use proto::tunnel::{
    failure::{Code, Failure},
    pb,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::connect::fake::{body, connected, fail, opening};

const HELLO: &[u8] = &[5, 1, 0];

fn request(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 3, u8::try_from(host.len()).unwrap()];
    bytes.extend_from_slice(host.as_bytes());
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes
}

fn reply(code: u8) -> Vec<u8> {
    vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

async fn expect(client: &mut TcpStream, expected: &[u8]) {
    let mut answer = vec![0; expected.len()];
    soon("an answer", client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, expected);
}

/// A face with a login whose password lies in a file of its own.
async fn with_login() -> (tempfile::NamedTempFile, Setup) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "open sesame").unwrap();
    let settings = format!(", login: {{ user: alice, password: {{ file: \"{}\" }} }}", file.path().display());
    let setup = Setup::new("socks5", &settings).await;
    (file, setup)
}

#[tokio::test]
async fn a_name_leads_to_its_cluster_and_bytes_go_both_ways() {
    let mut setup = Setup::new("socks5", "").await;
    let mut client = setup.client().await;
    client.write_all(HELLO).await.unwrap();
    expect(&mut client, &[5, 0]).await;
    client.write_all(&request("db.models.factory-a", 5432)).await.unwrap();
    let mut call = setup.call().await;
    let target = pb::TcpTarget { host: "db.models.svc".to_owned(), port: 5432 };
    assert_eq!(opening(&mut call).await.target, Some(pb::open::Target::Tcp(target)));
    call.sender.message(connected()).await.unwrap();
    expect(&mut client, &reply(0)).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(body(&mut call).await.0, b"question");
    call.sender.data("answer".into()).await.unwrap();
    call.sender.fin(pb::Fin::default()).await.unwrap();
    call.sender.finish();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_hasty_client_may_say_everything_at_once_or_byte_by_byte() {
    let mut setup = Setup::new("socks5", "").await;
    let all = [HELLO, &request("db.models.svc.factory-a", 1), b"first"].concat();
    let mut client = setup.client().await;
    client.write_all(&all).await.unwrap();
    let mut slow = setup.client().await;
    slow.set_nodelay(true).unwrap();
    for byte in &all {
        slow.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    for client in [&mut client, &mut slow] {
        let mut call = setup.call().await;
        opening(&mut call).await;
        call.sender.message(connected()).await.unwrap();
        expect(client, &[&[5, 0], reply(0).as_slice()].concat()).await;
        client.shutdown().await.unwrap();
        assert_eq!(body(&mut call).await.0, b"first");
    }
}

#[tokio::test]
async fn what_is_not_served_is_answered_as_the_protocol_wants_it() {
    let setup = Setup::without_tunnel("socks5", "").await;
    let greeted = |rest: &[u8]| [&[5, 0], rest].concat();
    let asked = |message: &[u8]| [HELLO, message].concat();
    for (said, expected) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![]),
        (vec![4, 1, 0, 80, 10, 0, 0, 1, 0], vec![]),
        (vec![5, 0], vec![5, 0xff]),
        (vec![5, 2, 1, 2], vec![5, 0xff]),
        (asked(&[5, 2, 0, 1, 10, 0, 0, 1, 0, 80]), greeted(&reply(7))),
        (asked(&[5, 3, 0, 1, 10, 0, 0, 1, 0, 80]), greeted(&reply(7))),
        (asked(&[5, 1, 0, 9]), greeted(&reply(8))),
        (asked(&[5, 1, 7, 1]), greeted(&reply(1))),
        (asked(&[4]), greeted(&[])),
        // An address names no cluster, nor does a name that ends with none.
        (asked(&[5, 1, 0, 1, 10, 0, 0, 1, 0, 80]), greeted(&reply(2))),
        (asked(&request("169.254.169.254", 80)), greeted(&reply(2))),
        (asked(&request("db.models.factory-b", 80)), greeted(&reply(2))),
        (asked(&request("db.models.factory-a", 0)), greeted(&reply(2))),
        (asked(&request("db models.factory-a", 80)), greeted(&reply(1))),
    ] {
        assert_eq!(setup.say(&said).await, expected, "{}", said.escape_ascii());
    }
}

#[tokio::test]
async fn a_client_that_ends_at_any_byte_leaves_nothing_behind() {
    let setup = Setup::without_tunnel("socks5", "").await;
    let all = [HELLO, &request("db.models.factory-a", 1)].concat();
    for cut in 0..all.len() {
        let mut client = setup.client().await;
        client.write_all(&all[..cut]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // What was sent may be lost by the reset.
        let _ = soon("it ends", client.read_to_end(&mut answer)).await;
        assert!(answer.len() <= 2, "{cut}: {answer:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_request_is_let_go() {
    let setup = Setup::without_tunnel("socks5", "").await;
    let mut client = setup.client().await;
    client.write_all(HELLO).await.unwrap();
    expect(&mut client, &[5, 0]).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let _ = client.read(&mut [0]).await;
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test]
async fn failures_have_the_nearest_answer_that_there_is() {
    let mut setup = Setup::new("socks5", ", to: factory-a").await;
    for (code, expected) in [
        (Code::PolicyDenied, 2),
        (Code::AddressRefused, 2),
        (Code::TargetUnresolved, 4),
        (Code::TargetRefused, 5),
        (Code::TargetTimeout, 6),
        (Code::Internal, 1),
    ] {
        let mut client = setup.client().await;
        client.write_all(&[HELLO, &[5, 1, 0, 1, 10, 0, 0, 1, 0, 80]].concat()).await.unwrap();
        let mut call = setup.call().await;
        let target = pb::TcpTarget { host: "10.0.0.1".to_owned(), port: 80 };
        assert_eq!(opening(&mut call).await.target, Some(pb::open::Target::Tcp(target)));
        fail(call, &Failure::before_target(code, "no"));
        expect(&mut client, &[&[5, 0], reply(expected).as_slice()].concat()).await;
    }
}

#[tokio::test]
async fn a_login_is_asked_for_and_checked() {
    let (_file, mut setup) = with_login().await;
    let login = |password: &[u8]| {
        let length = u8::try_from(password.len()).unwrap();
        [&[5, 2, 0, 2, 1, 5], b"alice".as_slice(), &[length], password].concat()
    };
    assert_eq!(setup.say(HELLO).await, [5, 0xff]);
    for password in [b"".as_slice(), b"open", b"open sesame!", &[0xff; 255]] {
        assert_eq!(setup.say(&login(password)).await, [5, 2, 1, 1]);
    }
    let mut client = setup.client().await;
    client.write_all(&[login(b"open sesame"), request("db.models.factory-a", 1)].concat()).await.unwrap();
    let mut call = setup.call().await;
    opening(&mut call).await;
    call.sender.message(connected()).await.unwrap();
    expect(&mut client, &[&[5, 2, 1, 0], reply(0).as_slice()].concat()).await;
}
