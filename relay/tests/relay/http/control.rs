//! Requests and answers over the control channel.
use futures_util::SinkExt as _;
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::support::{Client, relay, request, respond, serve_one};

#[tokio::test]
async fn a_request_and_its_answer_go_over_the_control_channel() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.with_body("POST /e/sub?x=1", &["Content-Type: text/plain"], b"question").await;
    let asked = request(&mut control.0).await;
    assert_eq!(asked.body.as_deref(), Some(&b"question"[..]));
    let message = &asked.message;
    assert_eq!(message["requestTarget"], "/e/sub?x=1");
    assert_eq!((&message["method"], &message["body"]), (&"POST".into(), &true.into()));
    assert_eq!(message["remoteEndpoint"]["address"], "127.0.0.1");
    assert!(message["remoteEndpoint"]["port"].as_u64().unwrap() > 0);
    assert!(proto::hybrid::is_traceable(asked.id()), "{}", asked.id());
    let address =
        format!("ws://{}/$hc/e?sb-hc-action=request&sb-hc-id={}&sb-hc-rendezvous=", relay.address, asked.id());
    assert!(asked.address().starts_with(&address), "{}", asked.address());
    respond(
        &mut control.0,
        json!({
            "requestId": asked.id(), "statusCode": 201, "statusDescription": "Made",
            "responseHeaders": { "Content-Type": "text/x", "X-Own": "1" }, "body": true,
        }),
        Some(b"answer"),
    )
    .await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.reason.as_str(), &reply.body[..]), (201, "Made", &b"answer"[..]));
    assert_eq!(reply.one("Content-Type"), Some("text/x"));
    assert_eq!(reply.one("X-Own"), Some("1"));
    assert_eq!(reply.one("Content-Length"), Some("6"));
    assert_eq!(reply.one("Via"), Some("1.1 127.0.0.1"));
}

#[tokio::test]
async fn absent_fields_of_a_response_and_a_status_as_text_are_taken() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for (status, body) in [(json!("202"), true), (json!(202), false), (json!(" 202 "), false)] {
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        assert_eq!(asked.message["body"], false);
        let mut response = json!({ "requestId": asked.id(), "statusCode": status });
        if body {
            response["body"] = true.into();
        }
        respond(&mut control.0, response, body.then_some(&b"x"[..])).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.reason.as_str()), (202, "Accepted"));
        assert_eq!(reply.body, if body { &b"x"[..] } else { b"" });
    }
}

#[tokio::test]
async fn an_empty_binary_behind_an_answer_without_body_is_ignored() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    for _ in 0..2 {
        client.head("GET /e", &[]).await;
        let asked = request(&mut control.0).await;
        respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 204, "body": false }), Some(b"")).await;
        assert_eq!(client.reply().await.status, 204);
    }
}

#[tokio::test]
async fn a_body_of_no_bytes_is_an_empty_binary_message() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("POST /e", &["Transfer-Encoding: chunked"]).await;
    client.chunk(b"").await;
    let asked = serve_one(&mut control.0, b"").await;
    assert_eq!(asked.body.as_deref(), Some(&b""[..]));
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_body_in_many_frames_is_one_body() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), None).await;
    let parts: [&[u8]; 4] = [b"one ", b"", b"body", b""];
    for (number, part) in parts.into_iter().enumerate() {
        let code = OpCode::Data(if number == 0 { Data::Binary } else { Data::Continue });
        let frame = Frame::message(part.to_vec(), code, number + 1 == parts.len());
        control.0.send(Message::Frame(frame)).await.unwrap();
        // Within a message there may be control frames.
        control.0.send(Message::Ping(Vec::new().into())).await.unwrap();
    }
    let reply = client.reply().await;
    assert_eq!((&reply.body[..], reply.one("Content-Length")), (&b"one body"[..], Some("8")));
}

#[tokio::test]
async fn forty_requests_at_once_find_their_answers_in_any_order() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut clients = Vec::new();
    let mut asked = Vec::new();
    for number in 0..40 {
        let mut client = Client::new(&relay).await;
        client.with_body(&format!("PUT /e/{number}"), &[], format!("body {number}").as_bytes()).await;
        clients.push(client);
        asked.push(request(&mut control.0).await);
    }
    // Every third first, then the rest backwards.
    let (mut order, rest): (Vec<usize>, Vec<usize>) = (0..40).partition(|number| number % 3 == 0);
    order.extend(rest.into_iter().rev());
    for number in order {
        let asked = &asked[number];
        let target = asked.message["requestTarget"].as_str().unwrap().to_owned();
        let body = [target.as_bytes(), b" ", asked.body.as_deref().unwrap()].concat();
        respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), Some(&body)).await;
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.reply().await;
        assert_eq!(String::from_utf8(reply.body).unwrap(), format!("/e/{number} body {number}"));
    }
}

#[tokio::test]
async fn nobody_answers_a_request_of_another_and_nobody_twice() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    // The thief knows the id, by whatever means.
    let mut thief = relay.listener_as("thief").await;
    let answer = |status: u16| json!({ "requestId": asked.id(), "statusCode": status, "body": true });
    respond(&mut thief.0, answer(404), Some(b"stolen")).await;
    respond(&mut thief.0, json!({ "requestId": "made-up", "statusCode": 200, "body": true }), Some(b"stolen")).await;
    // Once its Ping is answered, all that it said before was read.
    thief.0.send(Message::Ping(Vec::new().into())).await.unwrap();
    assert!(matches!(futures_util::StreamExt::next(&mut thief.0).await, Some(Ok(Message::Pong(_)))));
    drop(thief);
    respond(&mut control.0, answer(200), Some(b"first")).await;
    respond(&mut control.0, answer(500), Some(b"second")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, &reply.body[..]), (200, &b"first"[..]));
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, b"next").await;
    assert_eq!(client.reply().await.body, b"next");
}

#[tokio::test]
async fn an_answers_body_of_65536_bytes_fits_and_one_byte_more_ends_the_channel() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    let body = vec![7; 65_537];
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, &body[..65_536]).await;
    assert!(client.reply().await.body == body[..65_536]);
    client.head("GET /e", &[]).await;
    serve_one(&mut control.0, &body).await;
    assert_eq!(client.reply().await.status, 502, "at once, since nobody is left to answer");
    assert_eq!(u16::from(control.close().await.unwrap().code), 1009);
}

#[tokio::test]
async fn what_comes_in_place_of_an_announced_body_ends_the_channel() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let response = json!({ "requestId": "x", "statusCode": 200, "body": true });
    respond(&mut control.0, response.clone(), None).await;
    respond(&mut control.0, response, None).await;
    let close = control.close().await.unwrap();
    assert_eq!(u16::from(close.code), 1002, "{close}");
}

#[tokio::test]
async fn a_renewal_between_a_response_and_its_body_does_no_harm() {
    let relay = relay().await;
    let mut control = relay.listener().await;
    let mut client = Client::new(&relay).await;
    client.head("GET /e", &[]).await;
    let asked = request(&mut control.0).await;
    respond(&mut control.0, json!({ "requestId": asked.id(), "statusCode": 200, "body": true }), None).await;
    let renewal = json!({ "renewToken": { "token": relay.listen_token() } }).to_string();
    control.send_text(&renewal).await;
    control.0.send(Message::binary(b"body".to_vec())).await.unwrap();
    assert_eq!(client.reply().await.body, b"body");
}
