//! Fields by which a target is told who calls (SD-13). Whatever the caller wrote under these names, in whatever spelling a
//! server could take for them, is gone before ours are put there, and is refused as a trailer.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::head;
use crate::serve::{config::IdentityHeaders, session::caller::Caller};

/// The names, checked.
#[derive(Debug, Clone, Default)]
pub struct Naming {
    subject: Option<HeaderName>,
    actor: Option<HeaderName>,
    groups: Option<HeaderName>,
}

impl Naming {
    /// From the config.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn new(config: &IdentityHeaders) -> Result<Self, (&'static str, String)> {
        let name = |key, name: &Option<String>| match name {
            None => Ok(None),
            Some(text) => match HeaderName::from_bytes(text.as_bytes()) {
                Ok(name) if head::is_free(&name) => Ok(Some(name)),
                Ok(_) => {
                    Err((key, format!("\"{text}\" has a meaning of its own in HTTP, or is written by the gateway")))
                }
                Err(_) => Err((key, format!("\"{text}\" is no name of a header field"))),
            },
        };
        let named = Self {
            subject: name("subject", &config.subject)?,
            actor: name("actor", &config.actor)?,
            groups: name("groups", &config.groups)?,
        };
        let names: Vec<&HeaderName> = named.names().collect();
        match (1..names.len()).any(|index| names[..index].contains(&names[index])) {
            true => Err(("subject", "two of the fields have one name".to_owned())),
            false => Ok(named),
        }
    }

    /// Says in a request's fields who calls.
    pub fn overwrite(&self, fields: &mut HeaderMap, caller: &Caller) {
        if self.names().next().is_none() {
            return;
        }
        let forged: Vec<HeaderName> = fields.keys().filter(|field| self.takes(field)).cloned().collect();
        for field in forged {
            fields.remove(field);
        }
        // A comma would make two groups of one.
        let groups: Vec<&str> =
            caller.subject.groups().iter().map(String::as_str).filter(|group| !group.contains(',')).collect();
        for (name, value) in [
            (&self.subject, caller.subject.to_string()),
            (&self.actor, caller.actor.to_string()),
            (&self.groups, groups.join(",")),
        ] {
            // What cannot stand in a field is left out, which tells the target nothing.
            if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
                fields.insert(name, value);
            }
        }
    }

    /// Whether a field would be read as one of them. Some servers read `_` as `-`.
    pub fn takes(&self, field: &HeaderName) -> bool {
        self.names().any(|name| field.as_str().replace('_', "-") == name.as_str().replace('_', "-"))
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.subject, &self.actor, &self.groups].into_iter().flatten()
    }
}
