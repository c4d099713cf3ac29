//! Bulk kept off the tunnels that somebody waits on. A stream is bulk when its face or route says so, when its request says
//! that it brings so much, or when the last one to the same target moved so much. What turns out to be bulk on its way
//! stays where it is, and others keep away from its tunnel as long as there is another.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{target::Target, tunnels::Tunnel};

/// A stream that moves as much is bulk: more than a page or an answer has, a second's worth on a slow line.
pub(crate) const BULK: u64 = 8 << 20;

/// A target whose last stream moved less than this is not expected to move [`BULK`] again.
const SMALL: u64 = 1 << 20;

/// Targets remembered at once. Clients of proxy faces can name any; those beyond it are not remembered.
const TARGETS_MAX: usize = 1024;

/// Targets whose last streams were bulk. Cheap to clone; clones are the same memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<HashSet<Arc<Target>>>>);

impl Memory {
    /// Whether a stream to this target is expected to be bulk.
    pub(crate) fn expects(&self, target: &Arc<Target>) -> bool {
        self.targets().contains(target)
    }

    fn was_bulk(&self, target: &Arc<Target>) {
        let mut targets = self.targets();
        if targets.len() < TARGETS_MAX {
            targets.insert(Arc::clone(target));
        }
    }

    fn was_small(&self, target: &Arc<Target>) {
        self.targets().remove(target);
    }

    fn targets(&self) -> MutexGuard<'_, HashSet<Arc<Target>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches one stream: how much it moves, both ways together.
#[derive(Debug)]
pub(crate) struct Watched {
    tunnel: Arc<Tunnel>,
    moved: AtomicU64,
    /// Where its end is remembered; requests of one target differ too much for that.
    memory: Option<(Memory, Arc<Target>)>,
}

impl Watched {
    /// A stream that begins.
    pub(crate) fn new(tunnel: &Arc<Tunnel>, memory: Option<(Memory, Arc<Target>)>) -> Self {
        Self { tunnel: Arc::clone(tunnel), moved: AtomicU64::new(0), memory }
    }

    /// It has moved so much more.
    pub(crate) fn moved(&self, bytes: usize) {
        let before = self.moved.fetch_add(bytes as u64, Relaxed);
        if before < BULK && before + bytes as u64 >= BULK {
            self.tunnel.bulk_begins();
            if let Some((memory, target)) = &self.memory {
                memory.was_bulk(target);
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let moved = *self.moved.get_mut();
        if moved >= BULK {
            self.tunnel.bulk_ends();
        } else if moved < SMALL
            && let Some((memory, target)) = &self.memory
        {
            memory.was_small(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::fake::{Bench, Gateway, tcp_open};

    fn target(host: &str) -> Arc<Target> {
        Arc::new(Target::within("factory-a", &format!("{host}:1")).unwrap())
    }

    async fn tunnel() -> (Bench, Arc<Tunnel>) {
        let bench = Bench::new();
        let (gateway, _calls) = Gateway::new(&bench.context);
        bench.connect(&gateway).await;
        let tunnel = bench.tunnels.open(tcp_open).await.unwrap().tunnel;
        (bench, tunnel)
    }

    #[tokio::test]
    async fn a_target_is_bulk_from_the_byte_on_that_makes_it_so_until_a_small_stream() {
        let (_bench, tunnel) = tunnel().await;
        let (memory, store, other) = (Memory::default(), target("store"), target("other"));
        let watched = Watched::new(&tunnel, Some((memory.clone(), Arc::clone(&store))));
        watched.moved(BULK as usize - 1);
        assert!(!memory.expects(&store));
        watched.moved(1);
        assert!(memory.expects(&store) && !memory.expects(&other) && tunnel.carries_bulk());
        drop(watched);
        assert!(memory.expects(&store) && !tunnel.carries_bulk());
        for (moved, expected) in [(SMALL, true), (SMALL - 1, false)] {
            let watched = Watched::new(&tunnel, Some((memory.clone(), Arc::clone(&store))));
            watched.moved(moved as usize);
            drop(watched);
            assert_eq!(memory.expects(&store), expected, "after {moved}");
        }
    }

    #[tokio::test]
    async fn no_more_targets_are_remembered_than_there_is_room_for() {
        let memory = Memory::default();
        let targets: Vec<_> = (0..=TARGETS_MAX).map(|index| target(&format!("t{index}"))).collect();
        targets.iter().for_each(|target| memory.was_bulk(target));
        assert!(memory.expects(&targets[TARGETS_MAX - 1]) && !memory.expects(&targets[TARGETS_MAX]));
        memory.was_small(&targets[0]);
        memory.was_bulk(&targets[TARGETS_MAX]);
        assert!(memory.expects(&targets[TARGETS_MAX]));
    }
}
