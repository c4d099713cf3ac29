//! The gRPC face: programs speak the tunnel's own contract here, without having to hold a tunnel. `Forward` becomes a
//! stream on one of the cluster's tunnels, `Describe` and `Watch` are passed on; reflection is this face's own.
//!
//! Of a program's metadata only its token, its trace and its deadline go further: names that begin with `causeway-` are the
//! connector's (SD-13), so no program becomes another actor. A browser cannot come here, since it speaks no HTTP/2 in the
//! clear.
mod forward;
mod service;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use proto::tunnel::{
    failure::{Code, Failure},
    server::{self, Call},
    settings::Settings,
};
use tokio::task::JoinSet;

use super::{Face, head, refusal::Refusal, socket::Socket};
use crate::connect::{actor, config::Speaks};

/// A client must have said HTTP/2's preface within this time.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);
/// Calls at once on one connection, as a gateway takes on one tunnel.
const CALLS_MAX: u32 = 1000;

/// Metadata that goes further beside the token: W3C trace context, and how long the caller waits.
const PASSED: [HeaderName; 3] = [
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("grpc-timeout"),
];

/// Serves one client connection.
pub(super) async fn serve(face: Arc<Face>, client: Socket) {
    let settings = Settings { max_streams: CALLS_MAX, ..Settings::default() };
    let accepted = tokio::select! {
        biased;
        // Who has asked for nothing yet can be let go.
        () = face.shutdown.draining() => return,
        accepted = tokio::time::timeout(PREFACE_DEADLINE, server::accept(client, settings)) => accepted,
    };
    let Ok(Ok(mut server)) = accepted else { return };
    let mut calls = JoinSet::new();
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = face.shutdown.forced() => return,
            () = face.shutdown.draining(), if !draining => {
                draining = true;
                server.drain();
            }
            Some(_) = calls.join_next() => {}
            call = server.next() => match call {
                Some(Ok(Call::Forward(call))) => {
                    calls.spawn(forward::serve(Arc::clone(&face), call));
                }
                Some(Ok(Call::Other(call))) => {
                    calls.spawn(service::serve(Arc::clone(&face), call));
                }
                Some(Err(error)) => {
                    return tracing::debug!(address = %face.address, %error, "client connection ended early");
                }
                None => return,
            },
        }
    }
}

/// What of a program's metadata goes to the gateway.
fn passed(face: &Face, metadata: &HeaderMap) -> Result<HeaderMap, Box<Refusal>> {
    let mut further = HeaderMap::with_capacity(8);
    if face.speaks == Speaks::Caller {
        let mut tokens = metadata.get_all(header::AUTHORIZATION).iter();
        let (token, more) = (tokens.next(), tokens.next());
        let token = token.and_then(|token| token.to_str().ok()).and_then(head::bearer_of).and_then(actor::bearer);
        match (token, more) {
            (Some(token), None) => further.insert(header::AUTHORIZATION, token),
            _ => {
                let text =
                    "this port needs the caller's own token with each call: `authorization: Bearer <token>`, once";
                return Err(Box::new(Refusal::ours(Failure::before_target(Code::Unauthenticated, text))));
            }
        };
    }
    for name in PASSED {
        for value in metadata.get_all(&name) {
            further.append(&name, HeaderValue::clone(value));
        }
    }
    Ok(further)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_token_trace_and_deadline_go_further() {
        let face = Face::for_tests("{ grpc: 127.0.0.1:0, to: factory-a }");
        let mut metadata = HeaderMap::new();
        for (name, value) in [
            ("authorization", "bearer a.b.c"),
            ("causeway-actor", "Bearer forged"),
            ("causeway-stream-id", "forged"),
            ("traceparent", "00-1"),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
            ("grpc-timeout", "1S"),
            ("te", "trailers"),
            ("x-other", "1"),
        ] {
            metadata.append(name, HeaderValue::from_static(value));
        }
        let further = passed(&face, &metadata).unwrap();
        let mut names: Vec<_> = further.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "grpc-timeout", "traceparent", "tracestate", "tracestate"]);
        assert!(further["authorization"].is_sensitive());
        metadata.append("authorization", HeaderValue::from_static("Bearer second"));
        assert!(passed(&face, &metadata).is_err());
        metadata.remove("authorization");
        assert!(passed(&face, &metadata).is_err());
    }

    #[test]
    fn as_connector_no_token_is_taken() {
        let face = Face::for_tests("{ grpc: 127.0.0.1:0, to: factory-a, as: connector }");
        let metadata = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"))]);
        assert!(passed(&face, &metadata).unwrap().is_empty());
    }
}
