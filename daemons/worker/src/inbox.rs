//! What comes into a pool: the one queue between the links, the control calls and the pool's own task.
//!
//! Everything runs on one thread; the lock is never contended. The queue is bounded by the rings of the senders: they hold every item that is
//! in here until it is settled.

use parking_lot::Mutex;
use tokio::sync::Notify;
use wk_link::sender::Poisoned;
use wk_link::{Delivery, Handler, Peer, PeerEvent};

/// One event of a pool. `A`: what control calls ask of it.
#[derive(Debug)]
pub enum Event<A> {
    /// Items of a sender, in order.
    Items(Peer, Vec<Delivery>),
    /// A sender came or went.
    Peer(Peer, PeerEvent),
    /// Tokens of outgoing items that are done.
    Done(Vec<u64>),
    /// Tokens of outgoing items whose receiver is gone for good.
    Lost(Vec<u64>),
    /// Two receivers died holding this.
    Poisoned(Poisoned),
    /// A control call.
    Ask(A),
}

/// The queue of a pool.
#[derive(Debug)]
pub struct Inbox<A> {
    events: Mutex<Vec<Event<A>>>,
    wake: Notify,
}

impl<A> Default for Inbox<A> {
    fn default() -> Self {
        Self { events: Mutex::new(Vec::new()), wake: Notify::new() }
    }
}

impl<A> Inbox<A> {
    /// Adds an event and wakes the pool.
    pub fn push(&self, event: Event<A>) {
        self.events.lock().push(event);
        self.wake.notify_one();
    }

    /// Adds tokens of items that are done.
    pub fn done(&self, tokens: &[u64]) {
        let mut events = self.events.lock();
        if let Some(Event::Done(list)) = events.last_mut() {
            list.extend_from_slice(tokens);
        } else {
            events.push(Event::Done(tokens.to_vec()));
        }
        drop(events);
        self.wake.notify_one();
    }

    /// Waits until there may be something.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Takes everything that is there into `events`, which must be empty; its memory is used for what comes next.
    pub fn take(&self, events: &mut Vec<Event<A>>) {
        debug_assert!(events.is_empty(), "a drain handles everything");
        std::mem::swap(&mut *self.events.lock(), events);
    }

    /// Events that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<A: Send + 'static> Handler for Inbox<A> {
    fn deliver(&self, peer: &Peer, items: Vec<Delivery>) {
        self.push(Event::Items(peer.clone(), items));
    }

    fn peer(&self, peer: &Peer, event: PeerEvent) {
        self.push(Event::Peer(peer.clone(), event));
    }
}
