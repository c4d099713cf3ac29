//! What a credential may do: the right that it is for, and, by trying, the ones that it should not have (SD-9). A try is
//! made so that it disturbs nobody: a sender asks for a listener that does not exist.
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use identity::jwt::unverified_is_for;
use proto::hybrid::{
    address::{connect_target, listen_target},
    new_id,
};
use tokio::time::timeout;

use super::{
    Code, Finding, Role, Stage, Status, Subject,
    channel::Channel,
    probe::{Answer, Probe, Refused, failure, only},
};
use crate::sender::{AZURE_AUDIENCE, Address, Minted, is_azure};

/// A fixed token that ends within this time is as good as ended: nobody comes by to renew it.
const ENDS_SOON: Duration = Duration::from_secs(24 * 3600);

/// For the answer to a try: a relay refuses at once.
const TRY: Duration = Duration::from_secs(5);

/// What is known of a credential.
pub(super) struct Judged {
    pub(super) token: Minted,
    /// A listener's first control channel.
    pub(super) channel: Option<Channel>,
}

/// Looks at a credential.
pub(super) async fn judge(probe: &Probe<'_>, subject: &Subject, found: &mut Vec<Finding>) -> Result<Judged, Finding> {
    let minted = subject.credential.mint(probe.address).await;
    let token = minted.map_err(|error| failure(Stage::Token, &error))?;
    let left = token.expires.duration_since(SystemTime::now()).unwrap_or_default();
    let is_fixed = subject.credential.is_fixed(probe.address);
    if is_fixed && left.is_zero() {
        return Err(Finding::fail(Stage::Token, Code::TokenEnds, "the token has ended"));
    }
    if !is_azure(&probe.address.host) && unverified_is_for(token.secret.expose(), AZURE_AUDIENCE) {
        found.push(Finding::warn(Stage::Token, Code::AzureToken, "it is for Azure Relay, and could be used there"));
    }
    let began = Instant::now();
    let channel = right(probe, subject.role, &token).await?;
    let more = excess(probe, subject, &token).await;
    let (right, path) = (subject.role.right(), &probe.address.path);
    let mut finding = match more.as_slice() {
        [] => Finding::ok(Stage::Token, format!("{right} on {path}, and nothing else; {} left", span(left))),
        more => {
            let more = more.join(" and ");
            Finding::warn(
                Stage::Token,
                Code::RightExcess,
                format!("{right} on {path}, and also {more}; {} left", span(left)),
            )
        }
    };
    if is_fixed && left < ENDS_SOON && finding.status == Status::Ok {
        finding.status = Status::Warn;
        finding.code = Some(Code::TokenEnds);
    }
    found.push(finding.after(began.elapsed()));
    Ok(Judged { token, channel })
}

/// The right that this side needs.
async fn right(probe: &Probe<'_>, role: Role, token: &Minted) -> Result<Option<Channel>, Finding> {
    match role {
        Role::Listener => listen(probe, token, Stage::Token).await.map(Some),
        Role::Sender => match probe.ask(&connect(probe.address), Some(token), only(&new_id())).await {
            Err(error) => Err(failure(Stage::Token, &error)),
            Ok(Answer::Refused(refused)) if !is_let_in(&refused) || refused.words.contains("does not exist") => {
                Err(refused.finding(Stage::Token))
            }
            Ok(_) => Ok(None),
        },
    }
}

/// Opens a control channel.
pub(super) async fn listen(probe: &Probe<'_>, token: &Minted, stage: Stage) -> Result<Channel, Finding> {
    let id = new_id();
    let target = listen_target(&probe.address.path, &id);
    match probe.ask(&target, Some(token), HeaderMap::new()).await {
        Ok(Answer::Open(open)) => Ok(Channel::new(id, *open)),
        Ok(Answer::Refused(refused)) => Err(refused.finding(stage)),
        Err(error) => Err(failure(stage, &error)),
    }
}

/// Rights that this side should not have. What cannot be found out is not one.
async fn excess(probe: &Probe<'_>, subject: &Subject, token: &Minted) -> Vec<&'static str> {
    let mut more = Vec::new();
    match subject.role {
        Role::Listener => {
            // Where anybody may send, a token is not what allows it.
            if may_connect(probe, Some(token)).await && !may_connect(probe, None).await {
                more.push("Send");
            }
        }
        Role::Sender => {
            if let Ok(channel) = listen(probe, token, Stage::Token).await {
                channel.close().await;
                more.push("Listen");
            }
        }
    }
    let elsewhere = Address { path: format!("causeway-check-{}", new_id()), ..probe.address.clone() };
    if let Some(token) = subject.credential.mint_elsewhere(probe.address, &elsewhere) {
        // A name that nobody has: a rule of one hybrid connection is unknown there, one of the namespace is not.
        let asked = probe.ask(&connect(&elsewhere), Some(&token), HeaderMap::new()).await;
        if matches!(asked, Ok(Answer::Refused(refused)) if matches!(refused.status, 403 | 404)) {
            more.push("every hybrid connection of the namespace");
        }
    }
    more
}

async fn may_connect(probe: &Probe<'_>, token: Option<&Minted>) -> bool {
    let target = connect(probe.address);
    match timeout(TRY, probe.ask(&target, token, only(&new_id()))).await {
        Ok(Ok(Answer::Open(_))) => true,
        Ok(Ok(Answer::Refused(refused))) => is_let_in(&refused),
        Ok(Err(_)) => false,
        // A relay that does not know the wish for one listener asks another, and waits for it: the token was good.
        Err(_) => true,
    }
}

/// Refused for want of a listener, or because only HTTP senders are taken: both come after the token was found good.
fn is_let_in(refused: &Refused) -> bool {
    matches!(refused.status, 404 | 501 | 502 | 504)
}

fn connect(address: &Address) -> String {
    connect_target(&address.path, &new_id())
}

/// A time as people say it.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_unit_that_fits() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (3599, "59 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
