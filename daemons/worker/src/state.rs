//! What a pool tells its process: readiness and work under way. Written by the pool's task, read by lifecycle calls.

use std::sync::atomic::AtomicU64;

use tokio::sync::watch;

/// State of one pool.
#[derive(Debug)]
pub struct State {
    /// The pool may be used: see the pool's module for what that means.
    ready: watch::Sender<bool>,
    /// Work under way that no link counts.
    pub unsettled: AtomicU64,
    /// Frames that wait for a RECVACK.
    pub retry_entries: AtomicU64,
    /// Connections known.
    pub connections: AtomicU64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            ready: watch::channel(false).0,
            unsettled: AtomicU64::new(0),
            retry_entries: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

impl State {
    /// Says whether the pool may be used.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_if_modified(|r| std::mem::replace(r, ready) != ready);
    }

    /// Follows the readiness.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}
