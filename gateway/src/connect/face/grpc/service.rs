//! The contract's other calls, by way of the service that tonic generates: `Describe` and `Watch` are passed on to the
//! cluster's gateway as the program asked for them, reflection tells what the contract is.
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use proto::tunnel::{
    DESCRIPTORS, deadline,
    failure::{Code, Failure},
    pb::{
        DescribeRequest, DescribeResponse, ForwardRequest, ForwardResponse, WatchEvent, WatchRequest,
        tunnel_server::{self, TunnelServer},
    },
    server::Other,
};
use tonic::{Request, Response, Status, Streaming};

use super::passed;
use crate::connect::{
    access::Access,
    clusters::Reach,
    face::{Face, refusal::Refusal},
};

/// How a call ended that did not end well.
type Told = Arc<Mutex<Option<Failure>>>;

/// Serves one call to its end.
pub(super) async fn serve(face: Arc<Face>, call: Other) {
    let mut access = face.access_of(&call.head.headers);
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => Err(Refusal::ours(Failure::perhaps(Code::Draining, "the connector ends"))),
        ended = Box::pin(answer(&face, call, &mut access)) => ended,
    };
    match ended {
        Ok(()) => access.completed(),
        Err(refusal) => access.failed(&refusal.failure, refusal.by),
    }
}

async fn answer(face: &Face, call: Other, access: &mut Access) -> Result<(), Refusal> {
    let path = call.head.uri.path().trim_start_matches('/');
    let (service, method) = path.split_once('/').unwrap_or_default();
    let (metadata, reach) = match passed(face, &call.head.headers).map_err(|refusal| *refusal).and_then(|metadata| {
        let reach = face.reach()?;
        Ok((metadata, reach))
    }) {
        Ok(found) => found,
        Err(refusal) => return refuse(call, refusal),
    };
    match (service, method) {
        ("causeway.tunnel.v1.Tunnel", "Describe" | "Watch") => {
            access.leads(&reach, method.to_ascii_lowercase());
            let told = Told::default();
            call.serve(TunnelServer::new(Passing { reach, metadata, told: Arc::clone(&told) })).await;
            let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
            told.map_or(Ok(()), |failure| Err(Refusal::from(failure)))
        }
        ("grpc.reflection.v1.ServerReflection", _) => {
            access.leads(&reach, "reflection".to_owned());
            let described =
                tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
            match described.build_v1() {
                Ok(reflection) => {
                    call.serve(reflection).await;
                    Ok(())
                }
                Err(error) => {
                    let text = format!("the contract cannot be described: {error}");
                    refuse(call, Refusal::ours(Failure::before_target(Code::Internal, text)))
                }
            }
        }
        _ => {
            let text = "there is no such method here: this port serves causeway.tunnel.v1 and reflection";
            refuse(call, Refusal::ours(Failure::before_target(Code::Unsupported, text)))
        }
    }
}

fn refuse(call: Other, refusal: Refusal) -> Result<(), Refusal> {
    call.fail(&refusal.failure);
    Err(refusal)
}

/// One call on its way to the gateway.
struct Passing {
    reach: Reach,
    metadata: HeaderMap,
    told: Told,
}

impl Passing {
    fn tell(told: &Told, failure: Failure) -> Status {
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
        failure.into()
    }
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl tunnel_server::Tunnel for Passing {
    type ForwardStream = Events<ForwardResponse>;

    async fn forward(&self, _: Request<Streaming<ForwardRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::unimplemented("Forward is served without this adapter"))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        let described = deadline::within(&self.metadata, self.reach.tunnels.describe(&self.metadata)).await;
        described.map(Response::new).map_err(|failure| Self::tell(&self.told, failure))
    }

    type WatchStream = Events<WatchEvent>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watch = deadline::within(&self.metadata, self.reach.tunnels.watch(&self.metadata)).await;
        let watch = watch.map_err(|failure| Self::tell(&self.told, failure))?;
        let told = Arc::clone(&self.told);
        // The gateway ends it when the deadline comes.
        let events = stream::unfold(watch, move |mut watch| {
            let told = Arc::clone(&told);
            async move {
                let event = watch.next().await?.map_err(|failure| Self::tell(&told, failure));
                Some((event, watch))
            }
        });
        Ok(Response::new(events.boxed()))
    }
}
