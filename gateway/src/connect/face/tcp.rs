//! The TCP face: one connection, one stream to the one target there is. What a web page could have sent is not carried.
use std::sync::Arc;

use bytes::BytesMut;
use proto::tunnel::failure::{Code, Failure};

use super::{
    Face,
    carry::{Carrier, Cut},
    farewell::farewell,
    refusal::By,
    socket::Socket,
    vet::Vet,
};
use crate::connect::access::Access;

/// Carries one connection to its end.
pub(super) async fn serve(face: Arc<Face>, mut client: Socket) {
    let mut access = face.access();
    let ended = tokio::select! {
        biased;
        () = face.shutdown.forced() => Err(Cut::Stream(Failure::perhaps(Code::Cancelled, "the connector ends"))),
        ended = Box::pin(carry(&face, &mut client, &mut access)) => ended,
    };
    match ended {
        Ok(()) => access.completed(),
        Err(Cut::Client) => client.break_off(),
        Err(Cut::Stream(failure)) => {
            access.failed(&failure, By::of(&failure));
            client.break_off();
        }
        Err(Cut::Refused(refusal)) => {
            access.failed(&refusal.failure, refusal.by);
            farewell(&mut client, &refusal.plain(access.stream, access.cluster())).await;
        }
    }
}

async fn carry(face: &Face, client: &mut Socket, access: &mut Access) -> Result<(), Cut> {
    let Some(target) = face.wiring.only() else {
        return Err(Failure::before_target(Code::Internal, "the face leads nowhere").into());
    };
    let lead = face.lead_to(target)?;
    access.leads_to(&lead);
    // No page can reach a Unix socket.
    let vet = (!face.allow_http && face.address.port().is_some()).then(|| Vet::new(&face.guard));
    let mut carrier = Carrier::new(client, lead, BytesMut::new(), vet);
    let joined = carrier.connect(None, access).await?;
    carrier.pump(joined, &face.clusters.memory, access).await
}
