//! What HTTP senders hold while they wait, and what others keep; listeners that do not come for a large request.
use serde_json::json;
use tokio::task::JoinSet;

use super::support::{Client, listener_on, relay_with, request, respond, serve_one};
use crate::support::{dial_address, refused, until};

#[tokio::test]
async fn a_request_that_a_listener_thinks_about_takes_no_place_from_those_who_wait_for_one() {
    let relay = relay_with("", "rendezvous: 4").await;
    let mut control = relay.listener().await;
    let mut asked = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        asked.push(request(&mut control.0).await);
        clients.push(client);
    }
    for asked in &asked {
        respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 204 }), None).await;
    }
    for client in &mut clients {
        assert_eq!(client.reply().await.status, 204);
    }
}

#[tokio::test]
async fn bodies_that_come_slowly_leave_a_quarter_of_the_places_to_others() {
    let relay = relay_with("", "rendezvous: 8").await;
    let _control = relay.listener().await;
    let mut other = listener_on(&relay, "open").await;
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut client = Client::new(&relay).await;
        client.head("POST /e", &["Content-Length: 10"]).await;
        client.raw(b"x").await;
        slow.push(client);
    }
    // Six wait with their bodies, and the others were told at once.
    let mut told = 0;
    while told < 6 {
        let mut client = slow.remove(0);
        match tokio::time::timeout(std::time::Duration::from_millis(200), client.reply_head()).await {
            Ok(reply) => {
                assert_eq!((reply.status, reply.one("Retry-After")), (503, Some("5")), "{}", reply.reason);
                told += 1;
            }
            Err(_) => slow.push(client),
        }
    }
    let mut client = Client::new(&relay).await;
    client.head("GET /open", &[]).await;
    serve_one(&mut other.0, b"there was room").await;
    assert_eq!(client.reply().await.body, b"there was room");
}

#[tokio::test]
async fn a_large_request_goes_to_another_listener_when_the_first_does_not_dial_for_it() {
    // A listener has a sixth of the window for itself.
    let relay = relay_with("", "accept_timeout: 6s").await;
    let mut silent = relay.listener_as("silent").await;
    let mut answering = relay.listener_as("answering").await;
    let body = vec![7; 70_000];
    while relay.shown_listener("silent")["failed"] != 1 {
        let mut client = Client::new(&relay).await;
        client.with_body("POST /e", &[], &body).await;
        let invited = request(&mut answering.0).await;
        let mut rendezvous = dial_address(invited.address(), &[]).await.unwrap();
        assert_eq!(serve_one(&mut rendezvous, b"got it").await.body.unwrap().len(), body.len());
        assert_eq!(client.reply().await.body, b"got it");
    }
    // The first finds its address withdrawn, so nobody gets a request twice.
    let late = request(&mut silent.0).await;
    assert_eq!(refused(dial_address(late.address(), &[]).await), 403);
}

#[tokio::test]
async fn a_listener_that_answers_no_request_in_time_is_passed_over() {
    let relay = relay_with("response_timeout: 300ms", "").await;
    let _silent = relay.listener_as("silent").await;
    for _ in 0..3 {
        assert_eq!(Client::new(&relay).await.ask("GET /e", &[]).await.status, 504);
    }
    until("it is known for that", || relay.shown_listener("silent")["answers"] == false).await;
    let mut answering = relay.listener_as("answering").await;
    for _ in 0..10 {
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        serve_one(&mut answering.0, b"").await;
        assert_eq!(client.reply().await.status, 200);
    }
}

#[tokio::test]
async fn requests_on_kept_connections_keep_to_the_limits_of_their_hybrid_connection() {
    let relay = relay_with("", "").await;
    let mut control = relay.listener().await;
    let mut waiting = JoinSet::new();
    // `e` takes a hundred senders at a time.
    for _ in 0..100 {
        let mut client = Client::new(&relay).await;
        client.head("GET /e", &[]).await;
        request(&mut control.0).await;
        waiting.spawn(async move {
            let _ = client.reply().await;
        });
    }
    let mut client = Client::new(&relay).await;
    for _ in 0..3 {
        let reply = client.ask("GET /e", &[]).await;
        assert_eq!(reply.status, 503, "{}", reply.reason);
        assert!(reply.reason.starts_with("MaximumSendersPerEndpoint"), "{}", reply.reason);
        assert!(reply.one("Retry-After").is_some());
    }
}

#[tokio::test]
async fn a_listener_may_answer_all_whose_senders_have_just_left() {
    let relay = relay_with("", "").await;
    let mut control = relay.listener().await;
    // Together more than of messages that nobody asked for.
    for _ in 0..2 {
        let (mut asked, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..90 {
            let mut client = Client::new(&relay).await;
            client.head("GET /e", &[]).await;
            asked.push(request(&mut control.0).await);
            clients.push(client);
        }
        drop(clients);
        until("all senders have left", || relay.context.status.status()()["relay"]["waiting_senders"] == 0).await;
        for asked in &asked {
            respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 204 }), None).await;
        }
    }
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"still here").await;
    assert_eq!(client.reply().await.body, b"still here");
}
