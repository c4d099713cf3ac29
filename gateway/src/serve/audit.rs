//! What the gateway writes into its audit stream (SD-17): each stream that was let through and by which rule, each that
//! was refused, every change of the policy, each use and end of break-glass, and every new key.

use daemon::audit::{Journal, Unwritten, fields};
use proto::tunnel::failure::{Code, Failure};
use serde_json::Value;

use super::session::record::{Fault, Record};
use crate::policy::{Policy, Rule};

/// Writes down that a stream is let through, before anything is done for it.
///
/// # Errors
/// `AuditUnavailable`, when the owner requires the line and it cannot be written.
pub async fn granted(journal: &Journal, record: &Record) -> Result<(), Failure> {
    if !journal.is_kept() {
        return Ok(());
    }
    let fields = about(record, [("rule", record.rule.as_deref().map(Value::from))]);
    journal
        .confirm("granted", fields)
        .await
        .map_err(|error: Unwritten| Failure::before_target(Code::AuditUnavailable, error.to_string()))
}

/// Writes down that a stream was refused, or ended because it is allowed no longer; other failures are none of the
/// audit's business.
pub fn refused(journal: &Journal, record: &Record, failure: &Failure) {
    let credentials = matches!(failure.code, Code::Unauthenticated | Code::TokenRefused | Code::AmbiguousPath);
    if credentials || Fault::of(failure.code) == Fault::Policy {
        let reason = [("code", Some(failure.code.name().into())), ("reason", Some(failure.message.as_str().into()))];
        journal.tell("refused", about(record, reason));
    }
}

fn about<const N: usize>(record: &Record, more: [(&str, Option<Value>); N]) -> serde_json::Map<String, Value> {
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    let mut all = fields([
        ("stream", Some(record.stream.as_str().into())),
        ("tunnel", Some(record.tunnel().id.as_str().into())),
        ("peer", Some(record.tunnel().peer.to_string().into())),
        ("actor", record.actor.as_ref().map(|actor| actor.to_string().into())),
        ("subject", record.subject.as_ref().map(|subject| subject.to_string().into())),
        ("asked", Some(record.kind.into())),
        ("target", text(&record.target)),
        ("method", text(&record.method)),
        ("path", text(&record.path)),
        ("as_user", text(&record.as_user)),
    ]);
    all.extend(fields(more));
    all
}

/// Writes down which policy is in force now, and what it grants that the one before did not.
pub fn policy(journal: &Journal, policy: &Policy, granted: &[&Rule], revoked: &[&Rule]) {
    let names = |rules: &[&Rule]| rules.iter().map(|rule| &**rule.name()).collect::<Vec<_>>().join(", ");
    let about = fields([
        ("rules", Some(policy.rules().len().into())),
        ("suspended", Some(policy.is_suspended().into())),
        ("denied", Some(policy.deny().len().into())),
        ("granted", Some(names(granted).into())),
        ("revoked", Some(names(revoked).into())),
    ]);
    journal.tell("policy", about);
    for (kind, rules) in [("grant_removed", revoked), ("grant_added", granted)] {
        for rule in rules {
            journal.tell(kind, fields([("grant", Some(rule.to_string().into()))]));
        }
    }
}

/// Writes down something that befell one rule.
pub fn rule(journal: &Journal, kind: &'static str, rule: &str, reason: &str) {
    journal.tell(kind, fields([("rule", Some(rule.into())), ("reason", Some(reason.into()))]));
}
