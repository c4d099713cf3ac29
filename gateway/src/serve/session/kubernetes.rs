//! One request to the API server: read as the API server will read it, judged, signed with the gateway's own credential
//! and the user that the caller becomes, and carried like any HTTP request.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use proto::tunnel::{
    failure::{Code, Failure},
    pb::{ForwardRequest, KubernetesRequest},
    receive::Receiver,
    server::Sender,
};
use tokio::time::Instant;

use super::{Tunnel, caller::Caller, record::Record};
use crate::{
    policy::{Ask, kubernetes::Request},
    serve::{
        audit,
        target::{
            http::Exchange,
            kubernetes::{
                Api,
                head::{self, Speaker},
            },
            route::Route,
        },
    },
};

/// A watch or a followed log may say nothing for as long as nothing happens: as good as no deadline.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Serves one request to its end.
pub(super) async fn serve(
    request: KubernetesRequest,
    trace: Option<HeaderValue>,
    receiver: Receiver<ForwardRequest>,
    sender: &mut Sender,
    tunnel: &Tunnel,
    caller: &Caller,
    record: &mut Record,
) -> Result<(), Failure> {
    record.kind = "kubernetes";
    let gateway = &tunnel.gateway;
    let api = gateway.kubernetes.as_deref().ok_or_else(|| {
        Failure::before_target(
            Code::Unsupported,
            "the API server is no target of this gateway: its config has no `kubernetes`",
        )
    })?;
    let mut checked = head::check(request, api)?;
    record.method = Some(checked.method.to_string());
    record.path = Some(checked.path.path().to_owned());
    let wanted = Request::read(checked.method.as_str(), checked.path.as_str(), checked.upgrade.is_some())
        .map_err(|error| Failure::before_target(Code::AmbiguousPath, format!("ambiguous request: {error}")))?;
    let ours = wanted.touches_ours(&api.namespace);
    let ask = |identity| Ask::Kubernetes { request: &wanted, ours, identity };
    let (rule, identity) = gateway.impersonate(caller, ask(None))?;
    record.rule = Some(rule);
    record.as_user = Some(identity.user.clone());
    audit::granted(&gateway.journal, record).await?;

    let credential = api.credential();
    let (actor, subject) = (caller.actor.to_string(), caller.subject.to_string());
    let speaker = Speaker { identity: &identity, stream: &record.stream, actor: &actor, subject: &subject };
    head::sign(&mut checked, &credential, speaker)?;
    let addresses = api.addresses(Instant::now() + gateway.limits.connect.0).await?;
    let route = Route::to_api(gateway, api, addresses, &checked, Api::manner(&credential, &checked));
    let traffic = Arc::clone(&record.traffic);
    let exchange = Exchange {
        checked: &checked,
        peer: tunnel.facts.peer.ip(),
        trace,
        pool: &gateway.pools.here().single,
        first_byte: if wanted.lasts() { FOR_EVER } else { gateway.limits.first_byte.0 },
        traffic: Arc::clone(&traffic),
        hold: receiver.hold(),
        naming: &gateway.naming,
    };
    let work = exchange.run(receiver, sender, route.open(&traffic), || route.dial(&traffic));
    tunnel.unless_ended(work, caller, ask(Some(&identity)), false).await
}
