//! Everything but `Forward`: `Describe`, `Watch`, gRPC health and reflection. All of it needs a principal and a
//! `describe` rule, and ends when either is lost.

use std::{fmt, fmt::Display, future::ready, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use proto::tunnel::{
    DESCRIPTORS, deadline,
    failure::{Code, Failure},
    pb::{
        DescribeRequest, DescribeResponse, Drain, ForwardRequest, ForwardResponse, Kubernetes, WatchEvent,
        WatchRequest,
        tunnel_server::{self, TunnelServer},
        watch_event,
    },
    server::Other,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Request, Response, Status, Streaming, codegen::Service};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{Tunnel, caller::Caller, forward, record::Record};
use crate::{
    policy::Ask,
    serve::{audit, gateway::Gateway},
};

/// How long a service has to say itself that the deadline has passed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Largest message that they take: a request is empty, or one name.
const MESSAGE_MAX: usize = 4 * 1024;

/// Calls other than `Forward` at once on one tunnel. A connector has three: `Watch`, `Describe`, and one check of its health.
/// They do not count among the streams of anybody, so that an actor that has no stream left can renew its proof.
pub(super) const CALLS_MAX: usize = 16;

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;
type Handler = Box<dyn Fn(Other) -> Served + Send + Sync>;

/// The services, by the first part of a call's path.
pub struct Services {
    tunnel: Handler,
    health: Handler,
    reflection: Handler,
    reflection_alpha: Handler,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

impl Services {
    /// Sets them up; health says that it is not serving once draining begins.
    pub async fn start(gateway: &Arc<Gateway>) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        set_health(&reporter, ServingStatus::Serving).await;
        let shutdown = gateway.context.shutdown.clone();
        gateway.context.shutdown.spawn(async move {
            shutdown.draining().await;
            set_health(&reporter, ServingStatus::NotServing).await;
        });
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let built = "the descriptors were made by the compiler of the same build";
        Self {
            tunnel: handler(
                TunnelServer::new(About { gateway: Arc::clone(gateway) }).max_decoding_message_size(MESSAGE_MAX),
            ),
            health: handler(health.max_decoding_message_size(MESSAGE_MAX)),
            reflection: handler(described().build_v1().expect(built).max_decoding_message_size(MESSAGE_MAX)),
            reflection_alpha: handler(described().build_v1alpha().expect(built).max_decoding_message_size(MESSAGE_MAX)),
        }
    }

    fn find(&self, path: &str) -> (&'static str, Option<&Handler>) {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        match (service, method) {
            ("causeway.tunnel.v1.Tunnel", "Describe") => ("describe", Some(&self.tunnel)),
            ("causeway.tunnel.v1.Tunnel", "Watch") => ("watch", Some(&self.tunnel)),
            ("grpc.health.v1.Health", _) => ("health", Some(&self.health)),
            ("grpc.reflection.v1.ServerReflection", _) => ("reflection", Some(&self.reflection)),
            ("grpc.reflection.v1alpha.ServerReflection", _) => ("reflection", Some(&self.reflection_alpha)),
            _ => ("unknown", None),
        }
    }
}

async fn set_health(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    reporter.set_service_status("causeway.tunnel.v1.Tunnel", status).await;
}

fn handler<S>(service: S) -> Handler
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    S::Error: Display + Send,
{
    Box::new(move |other| Box::pin(other.serve(service.clone())))
}

/// Serves one call to its end.
pub(super) async fn serve(mut other: Other, tunnel: Arc<Tunnel>) {
    let place = tunnel.calls.try_acquire();
    let metadata = &other.head.headers;
    let (kind, handler) = tunnel.services.find(other.head.uri.path());
    let mut record = Record::open(&tunnel.facts, &tunnel.gateway.metrics, kind, forward::stream_id(metadata));
    forward::follow(metadata, &tunnel, &mut record);
    let admitted = match &place {
        Ok(_) => admit(&other, kind, &tunnel, &mut record).await,
        Err(_) => {
            let message = format!("this tunnel has {CALLS_MAX} calls other than Forward already; retry after 1 s");
            Err(Failure::before_target(Code::LimitReached, message))
        }
    };
    let outcome = match admitted {
        Ok(caller) => match handler {
            Some(handler) => {
                other.head.extensions.insert(Arc::clone(&caller));
                // `Watch` says itself that the caller's deadline has passed; anything else is just cut off then.
                let wait = deadline::read(&other.head.headers).unwrap_or_default().unwrap_or(Duration::MAX);
                let serving = handler(other);
                let work = async {
                    let late = |_| Failure::perhaps(Code::DeadlineExceeded, "the caller's deadline has passed");
                    timeout(wait.saturating_add(LAST_WORDS), serving).await.map_err(late)
                };
                tunnel.unless_ended(work, &caller, Ask::Describe, false).await
            }
            None => refuse(other, Failure::before_target(Code::Unsupported, "there is no such method here")),
        },
        Err(failure) => refuse(other, failure),
    };
    if let Err(failure) = &outcome {
        audit::refused(&tunnel.gateway.journal, &record, failure);
    }
    record.close(outcome);
}

fn refuse(other: Other, failure: Failure) -> Result<(), Failure> {
    other.fail(&failure);
    Err(failure)
}

async fn admit(other: &Other, kind: &str, tunnel: &Tunnel, record: &mut Record) -> Result<Arc<Caller>, Failure> {
    let metadata = &other.head.headers;
    if kind == "describe"
        && let Err(failure) = tunnel.binding.bind(metadata, &tunnel.gateway.authenticators).await
    {
        tunnel.strike();
        return Err(failure);
    }
    let caller = tunnel.authenticate(metadata, record).await?;
    record.rule = Some(tunnel.gateway.decide(&caller, Ask::Describe, false)?);
    audit::granted(&tunnel.gateway.journal, record).await?;
    Ok(Arc::new(caller))
}

/// The generated service's implementation.
#[derive(Debug)]
struct About {
    gateway: Arc<Gateway>,
}

impl About {
    fn state<T>(&self, request: &Request<T>) -> Result<DescribeResponse, Status> {
        let caller = request.extensions().get::<Arc<Caller>>();
        let caller = caller.ok_or_else(|| Status::internal("the call came past authentication"))?;
        Ok(self.gateway.describe(caller))
    }
}

/// The same events, and the status that says so when the caller's deadline comes first.
fn until<T: Send + 'static>(limit: Option<Duration>, events: Events<T>) -> Events<T> {
    let Some(limit) = limit else { return events };
    let late = stream::once(async move {
        sleep(limit).await;
        Some(Err(Failure::perhaps(Code::DeadlineExceeded, "the caller's deadline has passed").into()))
    });
    let events = events.map(Some).chain(stream::once(async { None }));
    let first_end = stream::select(events, late.boxed()).take_while(|event| ready(event.is_some()));
    first_end.filter_map(ready).boxed()
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl tunnel_server::Tunnel for About {
    type ForwardStream = Events<ForwardResponse>;

    async fn forward(&self, _: Request<Streaming<ForwardRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::unimplemented("Forward is served without this adapter"))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        self.state(&request).map(Response::new)
    }

    type WatchStream = Events<WatchEvent>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = request.extensions().get::<Arc<Caller>>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("the call came past authentication"))?;
        let gateway = Arc::clone(&self.gateway);
        // Before the first state, so that no change falls between the two.
        let facts = gateway.kubernetes.as_ref().map(|api| api.facts());
        let mut anchors = gateway.shown.follow_anchors();
        // The first state goes out at once.
        anchors.mark_changed();
        let watching = Some((gateway, caller, anchors, facts));
        let events = stream::unfold(watching, |watching| async move {
            let (gateway, caller, mut anchors, mut facts) = watching?;
            let shutdown = gateway.context.shutdown.clone();
            let (event, next) = tokio::select! {
                biased;
                Ok(()) = anchors.changed() => {
                    let state = gateway.describe(&caller);
                    (watch_event::Event::State(state), Some((gateway, caller, anchors, facts)))
                }
                () = shutdown.draining() => {
                    let within_ms = u32::try_from(daemon::process::GRACE.as_millis()).unwrap_or(u32::MAX);
                    (watch_event::Event::Drain(Drain { within_ms }), None)
                }
                kubernetes = changed(&mut facts) => {
                    let capacity = gateway.capacity(kubernetes);
                    (watch_event::Event::Capacity(capacity), Some((gateway, caller, anchors, facts)))
                }
            };
            Some((Ok(WatchEvent { event: Some(event) }), next))
        });
        let limit = deadline::read(request.metadata().as_ref()).map_err(Status::from)?;
        Ok(Response::new(until(limit, events.boxed())))
    }
}

/// What is newly known of the cluster; never, where nobody asks.
async fn changed(facts: &mut Option<watch::Receiver<Option<Kubernetes>>>) -> Option<Kubernetes> {
    if let Some(facts) = facts
        && facts.changed().await.is_ok()
    {
        return facts.borrow_and_update().clone();
    }
    std::future::pending().await
}
