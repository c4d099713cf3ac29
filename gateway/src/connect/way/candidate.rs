//! One way of a cluster with everything that taking it needs. A reload that leaves a way as it was keeps the very same
//! candidate, and with it the tunnels that took it.
use std::{fmt, pin::Pin, sync::Arc};

use super::{Opened, Opener, Way, error::WayError};
use crate::connect::actor::Actor;

/// The ways of a cluster, the best one first.
pub(crate) type Ways = Arc<[Arc<Candidate>]>;

/// An attempt to take a way.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Opened, WayError>> + Send>>;

/// A way that can be taken.
pub(crate) struct Candidate {
    /// The kind, as in logs.
    pub(crate) kind: &'static str,
    /// The address, as in logs.
    pub(crate) address: String,
    /// The connector's own proof to whoever is at the end of it.
    pub(crate) actor: Actor,
    open: Box<dyn Fn() -> Opening + Send + Sync>,
}

impl Candidate {
    /// A configured way.
    pub(crate) fn new(opener: Arc<Opener>, way: Way) -> Self {
        let (kind, address, actor) = (way.kind(), way.to_string(), opener.actor.clone());
        let way = Arc::new(way);
        let open = move || -> Opening {
            let (opener, way) = (Arc::clone(&opener), Arc::clone(&way));
            Box::pin(async move { opener.open(&way).await })
        };
        Self::with(kind, address, actor, open)
    }

    /// A way of any making.
    pub(crate) fn with(
        kind: &'static str,
        address: String,
        actor: Actor,
        open: impl Fn() -> Opening + Send + Sync + 'static,
    ) -> Self {
        Self { kind, address, actor, open: Box::new(open) }
    }

    /// Takes it to its end.
    pub(crate) fn open(&self) -> Opening {
        (self.open)()
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("kind", &self.kind).field("address", &self.address).finish_non_exhaustive()
    }
}
