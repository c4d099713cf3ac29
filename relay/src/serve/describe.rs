//! The description of a hybrid connection, with how many listen on it: what .NET's runtime-information call asks for, with a
//! GET on the plain path and `X-PROCESS-AT: ServiceBus`, and what `relay check` reads.
//!
//! A request with that field never reaches a listener, whatever its method. It is answered to whoever has a token with any
//! right on the whole hybrid connection, on anonymous ones too. Nothing of the request stands in the answer.
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};

use super::{
    access::Line,
    authorize::{Ask, Need, carried, check},
    body::Body,
    door::Visitor,
    entities::{Entity, compared},
    refusal::Refusal,
    route::{Asked, Denied},
};

/// Who should process a request: the service itself, instead of a listener.
const PROCESS_AT: &str = "x-process-at";
const SERVICE: &str = "ServiceBus";

/// What .NET takes for a hybrid connection; with `type=feed` it would take it for none.
const ENTRY: &str = "application/atom+xml;type=entry;charset=utf-8";

/// Whether a request is for the relay itself.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get_all(PROCESS_AT).into_iter().any(|value| value.as_bytes().eq_ignore_ascii_case(SERVICE.as_bytes()))
}

/// Describes a hybrid connection to its own.
pub(crate) async fn describe(
    visitor: &Arc<Visitor>,
    asked: Asked,
    mut line: Box<Line>,
) -> Result<Response<Body>, (Denied, Box<Line>)> {
    line.kind = "management";
    match described(visitor, &asked, &mut line).await {
        Ok(response) => {
            line.end("described", "none");
            line.answers(response.status().as_u16());
            Ok(response)
        }
        Err(denied) => Err((denied, line)),
    }
}

async fn described(visitor: &Visitor, asked: &Asked, line: &mut Line) -> Result<Response<Body>, Denied> {
    if asked.request.method() != Method::GET {
        return Err(Refusal::ManagementMethod.into());
    }
    if visitor.relay.shutdown.is_draining() {
        return Err(Refusal::Draining.into());
    }
    let (namespace, path) = (visitor.relay.namespace(), asked.target.path());
    // The name alone is meant: below it are the sender's own paths, and nothing to describe.
    let entity = namespace.find(path).filter(|entity| compared(path) == compared(&entity.name));
    let token = carried(&asked.target, asked.request.headers()).map(|carried| carried.token);
    let ask = Ask { peer: visitor.peer.ip(), path, token, need: Need::Describe };
    let grant = check(&visitor.relay, entity.map(Arc::as_ref), ask).await?;
    let entity = entity.ok_or(Refusal::EntityUnknown)?;
    visitor.proven();
    line.path.clone_from(&entity.name);
    line.held_by(&grant);
    if let Some(excess) = visitor.excess {
        return Err(Denied::Over(Refusal::TooManyConnections, excess));
    }
    let mut response = Response::new(Body::from(Bytes::from(entry(&namespace.host, entity))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ENTRY));
    Ok(response)
}

/// An Atom entry. Host and name have no character that XML would need escaped: the configuration allows none. .NET reads
/// the fields in this order, and does without those that are not here: when it was made and changed, and notes.
fn entry(host: &str, entity: &Entity) -> String {
    let (name, listeners) = (&entity.name, entity.listeners.live().len());
    let needs_token = !entity.settings().anonymous_senders;
    format!(
        "<entry xmlns=\"http://www.w3.org/2005/Atom\"><id>https://{host}/{name}</id><title type=\"text\">{name}</title>\
         <content type=\"application/xml\"><HybridConnectionDescription \
         xmlns=\"http://schemas.microsoft.com/netservices/2010/10/servicebus/connect\">\
         <RequiresClientAuthorization>{needs_token}</RequiresClientAuthorization><ListenerCount>{listeners}\
         </ListenerCount></HybridConnectionDescription></content></entry>"
    )
}
