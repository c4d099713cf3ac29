//! When a stream that was allowed must end before its time: the policy or the deny list changed and allows it no longer,
//! the tunnel's actor was renewed with less than it had, everything was suspended, or a token's end lies too far back
//! (SD-7, SD-18).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::tunnel::failure::{Code, Failure};

use super::caller::{Binding, Caller};
use crate::{policy::Ask, serve::gateway::Gateway};

/// Longest sleep before the tokens' ends are looked at again: the wall clock may step, and an actor may be renewed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Resolves when the stream must end, with the reason.
pub async fn revoked(
    gateway: &Arc<Gateway>,
    binding: &Binding,
    caller: &Caller,
    ask: Ask<'_>,
    external: bool,
) -> Failure {
    let mut policies = gateway.policies.clone();
    let mut actors = binding.changes();
    // It may have been renewed between the decision and now.
    if actors.borrow_and_update().as_ref().is_some_and(|bound| **bound != caller.actor) {
        actors.mark_changed();
    }
    loop {
        let left = match left(gateway, binding, caller) {
            Ok(left) => left.min(LOOK_AGAIN),
            Err(failure) => return failure,
        };
        tokio::select! {
            biased;
            changed = policies.changed() => {
                if changed.is_err() {
                    // Nobody follows the policy any more: the gateway is about to end.
                    return std::future::pending().await;
                }
                let now = caller.renewed(binding.actor().as_ref());
                if let Err(refusal) = gateway.still(&now, ask, external) {
                    let message = format!("the policy changed: {}", refusal.message);
                    return Failure::perhaps(refusal.code, message);
                }
            }
            // The binding lives as long as the tunnel, and so does its sender.
            Ok(()) = actors.changed() => {
                let now = caller.renewed(actors.borrow_and_update().as_ref());
                if let Err(refusal) = gateway.still(&now, ask, external) {
                    let message = format!("the tunnel's actor was renewed: {}", refusal.message);
                    return Failure::perhaps(refusal.code, message);
                }
            }
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// How long the stream may go on as far as its principals' proofs are concerned.
fn left(gateway: &Gateway, binding: &Binding, caller: &Caller) -> Result<Duration, Failure> {
    let now = gateway.context.clock.now();
    let after = gateway.limits.max_after_expiry.0;
    let of = |who: &dyn std::fmt::Display, expires: SystemTime| {
        (expires + after).duration_since(now).ok().filter(|left| !left.is_zero()).ok_or_else(|| {
            let message =
                format!("the token of {who} ended {} s or longer ago, and the stream with it", after.as_secs());
            Failure::perhaps(Code::TokenRefused, message)
        })
    };
    let mut left = Duration::MAX;
    if caller.own_subject {
        left = of(&caller.subject, caller.subject.expires())?;
    }
    // The bound actor renews its proof while its streams go on.
    if let Some(actor) = binding.actor() {
        left = left.min(of(&actor, actor.expires())?);
    }
    Ok(left)
}
