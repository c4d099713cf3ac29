//! Which control channels are open, for whoever asks.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::listen::OpenChannel;

/// The open control channels of one hybrid connection.
#[derive(Debug, Default)]
pub(in crate::listen) struct Channels {
    open: Arc<Mutex<Vec<OpenChannel>>>,
}

/// One of them; leaves the board on drop.
#[derive(Debug)]
pub(super) struct Listed {
    open: Arc<Mutex<Vec<OpenChannel>>>,
    id: String,
}

impl Channels {
    pub(in crate::listen) fn open(&self) -> Vec<OpenChannel> {
        lock(&self.open).clone()
    }

    /// A channel is up.
    pub(super) fn list(&self, id: &str, since: SystemTime, token_expires: SystemTime) -> Listed {
        lock(&self.open).push(OpenChannel { id: id.to_owned(), since, token_expires, retiring: false });
        Listed { open: self.open.clone(), id: id.to_owned() }
    }
}

impl Listed {
    pub(super) fn renewed(&self, token_expires: SystemTime) {
        self.change(|channel| channel.token_expires = token_expires);
    }

    pub(super) fn retiring(&self) {
        self.change(|channel| channel.retiring = true);
    }

    fn change(&self, change: impl FnOnce(&mut OpenChannel)) {
        if let Some(channel) = lock(&self.open).iter_mut().find(|channel| channel.id == self.id) {
            change(channel);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.open).retain(|channel| channel.id != self.id);
    }
}

fn lock(open: &Mutex<Vec<OpenChannel>>) -> MutexGuard<'_, Vec<OpenChannel>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
