//! The HTTP face spoken to in HTTP/2: streams side by side, trailers, resets, slow clients, early and interim answers.
use std::future::poll_fn;

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use proto::tunnel::{
    failure::{Code, Failure},
    pb,
    receive::Part,
};

use super::*;
use crate::connect::fake::{answer, body, fail, head, opening_http};

async fn connect(setup: &Setup) -> SendRequest<Bytes> {
    let mut client = h2::client::Builder::new();
    // Else one stream that is not read would hold all there is.
    client.initial_connection_window_size(1 << 20);
    let (send, connection) = client.handshake(setup.client().await).await.unwrap();
    setup.bench.context.shutdown.spawn(async move { drop(connection.await) });
    send.ready().await.unwrap()
}

fn post(setup: &Setup, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://{}{path}", setup.address));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn collect(mut stream: RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = soon("the body goes on", stream.data()).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, stream.trailers().await?.unwrap_or_default()))
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

#[tokio::test]
async fn requests_with_bodies_and_trailers_run_side_by_side() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    let (mut answers, mut bodies) = (Vec::new(), Vec::new());
    for path in ["/a.B/One", "/a.B/Two"] {
        let (answer, body) = send.send_request(post(&setup, path, &[GRPC, ("te", "trailers")]), false).unwrap();
        answers.push(answer);
        bodies.push(body);
    }
    let mut calls = vec![setup.call().await, setup.call().await];
    let mut names = Vec::new();
    for call in &mut calls {
        let request = opening_http(call).await;
        assert!(!request.no_body && request.protocol.is_empty());
        names.push(request.path);
    }
    names.sort();
    assert_eq!(names, ["/a.B/One", "/a.B/Two"]);
    for mut body in bodies {
        body.send_data(Bytes::from_static(b"question"), false).unwrap();
        body.send_trailers(HeaderMap::from_iter([(::http::header::ETAG, "x".parse().unwrap())])).unwrap();
    }
    for mut call in calls {
        let (sent, trailers) = body(&mut call).await;
        assert_eq!((sent.as_slice(), trailers.len()), (&b"question"[..], 1));
        call.sender.message(head(200, &[GRPC])).await.unwrap();
        call.sender.data(Bytes::from_static(b"answer")).await.unwrap();
        let status = pb::Field { name: "grpc-status".to_owned(), value: Bytes::from_static(b"0") };
        call.sender.fin(pb::Fin { trailers: vec![status] }).await.unwrap();
        call.sender.finish();
    }
    for answer in answers {
        let (data, trailers) = collect(answer.await.unwrap().into_body()).await.unwrap();
        assert_eq!((data.as_slice(), &trailers["grpc-status"]), (&b"answer"[..], &"0".parse().unwrap()));
    }
}

#[tokio::test]
async fn a_status_in_the_head_ends_the_stream_with_it() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    let (response, _) = send.send_request(post(&setup, "/a.B/C", &[GRPC]), true).unwrap();
    let mut call = setup.call().await;
    opening_http(&mut call).await;
    call.sender.message(head(200, &[GRPC, ("grpc-status", "12")])).await.unwrap();
    call.sender.fin(pb::Fin::default()).await.unwrap();
    call.sender.finish();
    let response = soon("the answer arrives", response).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn a_failure_is_a_grpc_status_for_grpc_and_an_answer_of_ours_for_others() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    for (fields, status) in [(&[GRPC][..], 200), (&[][..], 403)] {
        let (response, _) = send.send_request(post(&setup, "/", fields), true).unwrap();
        fail(setup.call().await, &Failure::before_target(Code::PolicyDenied, "no rule"));
        let response = soon("the answer arrives", response).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["causeway-error"], "policy_denied");
        let grpc = response.headers().get("grpc-status").map(|status| status.to_str().unwrap());
        assert_eq!(grpc, (status == 200).then_some("7"));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_ends_in_a_status_for_grpc_and_in_a_reset_for_others() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    for fields in [&[GRPC][..], &[][..]] {
        let (response, _) = send.send_request(post(&setup, "/", fields), true).unwrap();
        let mut call = setup.call().await;
        call.sender.message(head(200, fields)).await.unwrap();
        call.sender.data(Bytes::from_static(b"half")).await.unwrap();
        let mut body = soon("the answer arrives", response).await.unwrap().into_body();
        assert_eq!(soon("half arrives", body.data()).await.unwrap().unwrap(), "half");
        fail(call, &Failure::after_target(Code::TargetBroken, "gone"));
        let ended = collect(body).await;
        match fields {
            [] => assert_eq!(ended.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR)),
            _ => assert_eq!(ended.unwrap().1["grpc-status"], "14"),
        }
    }
}

#[tokio::test]
async fn a_reset_cancels_the_stream_before_and_behind_the_answers_head() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    for answered in [false, true] {
        let (response, mut body) = send.send_request(post(&setup, "/", &[]), false).unwrap();
        let mut call = setup.call().await;
        let mut answer = None;
        if answered {
            call.sender.message(head(200, &[])).await.unwrap();
            answer = Some(soon("the answer arrives", response).await.unwrap());
        }
        body.send_reset(h2::Reason::CANCEL);
        soon("the stream is cancelled", call.sender.cancelled()).await;
        drop(answer);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_its_own_stream_alone() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    let (stalled, _) = send.send_request(post(&setup, "/stalled", &[]), true).unwrap();
    let mut call = setup.call().await;
    call.sender.message(head(200, &[])).await.unwrap();
    let stalled = soon("the answer arrives", stalled).await.unwrap();
    // More than every window on the way holds, so that this waits for ever.
    let feeding = setup
        .bench
        .context
        .shutdown
        .spawn(async move { while call.sender.data(Bytes::from_static(&[7; 64 * 1024])).await.is_ok() {} });
    let (response, _) = send.send_request(post(&setup, "/quick", &[]), true).unwrap();
    answer(setup.call().await, 200, &[], b"quick").await;
    let (data, _) = collect(soon("the answer arrives", response).await.unwrap().into_body()).await.unwrap();
    assert_eq!(data, b"quick");
    assert!(!feeding.is_finished());
    drop(stalled);
    soon("the stream is cancelled", feeding).await.unwrap();
}

#[tokio::test]
async fn interim_answers_and_the_word_to_go_on_arrive() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    let request = post(&setup, "/", &[("expect", "100-continue")]);
    let (mut response, mut upload) = send.send_request(request, false).unwrap();
    let mut call = setup.call().await;
    opening_http(&mut call).await;
    for status in [103, 100] {
        call.sender.message(head(status, &[])).await.unwrap();
        let interim = soon("an interim answer", poll_fn(|cx| response.poll_informational(cx))).await;
        assert_eq!(u32::from(interim.unwrap().unwrap().status().as_u16()), status);
    }
    upload.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(body(&mut call).await.0, b"body");
    answer(call, 200, &[], b"").await;
    assert_eq!(soon("the answer arrives", response).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_host_that_is_not_listed_is_refused_in_http2_too() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    let request = Request::get("http://evil.example/").header("host", setup.address.to_string()).body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    assert_eq!(soon("the answer arrives", response).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert!(setup.calls.try_recv().is_err());
}

#[tokio::test]
async fn an_upload_goes_on_behind_an_early_answer() {
    let mut setup = Setup::new("http", ", as: connector").await;
    let mut send = connect(&setup).await;
    let (response, mut upload) = send.send_request(post(&setup, "/", &[]), false).unwrap();
    let mut call = setup.call().await;
    opening_http(&mut call).await;
    call.sender.message(head(200, &[])).await.unwrap();
    call.sender.data(Bytes::from_static(b"early")).await.unwrap();
    let response = soon("the answer arrives", response).await.unwrap();
    upload.send_data(Bytes::from_static(b"late"), true).unwrap();
    let part = soon("the body arrives", call.receiver.next()).await;
    assert!(matches!(part, Some(Ok(Part::Data(data))) if data == "late"));
    call.sender.fin(pb::Fin::default()).await.unwrap();
    assert_eq!(collect(response.into_body()).await.unwrap().0, b"early");
}
