//! One channel group of this node: its queue, its task, its consensus group once it is open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
use wk_link::codec::Reader;
use wk_proto::cluster::v1 as pb;
use wk_raft::{Group, ProposeError, Proposed};

use super::pending::PendingAppend;
use super::queue::{Entry, Item, Owner, Queue};
use crate::channel::command::ChannelResult;
use crate::channel::machine::GroupPlace;
use crate::clock::Clock;
use crate::error::Refusal;
use crate::limits::ENTRIES_IN_FLIGHT;
use crate::metrics::{Metrics, Refused};

/// A channel group: exists for every shard from the start, is opened with its first work or at boot when it has data.
#[derive(Debug)]
pub struct ChannelGroup {
    place: GroupPlace,
    clock: Clock,
    metrics: Metrics,
    state: Mutex<State>,
    /// Wakes the task: something waits, an entry ended, or the end.
    wake: Notify,
    /// Entries under way.
    in_flight: AtomicUsize,
    group: OnceLock<Group>,
    /// Told when `group` is set.
    opened: Notify,
    /// Newest journal index that can be read; long polls wait on it.
    journal: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// The task was started.
    started: bool,
    /// No more work is taken.
    closed: bool,
}

impl ChannelGroup {
    /// A group that is not open.
    #[must_use]
    pub fn new(place: GroupPlace, clock: Clock, metrics: Metrics) -> Self {
        Self {
            place,
            clock,
            metrics,
            state: Mutex::default(),
            wake: Notify::new(),
            in_flight: AtomicUsize::new(0),
            group: OnceLock::new(),
            opened: Notify::new(),
            journal: watch::channel(0).0,
        }
    }

    /// Which group this is.
    #[must_use]
    pub fn place(&self) -> GroupPlace {
        self.place
    }

    /// The end of the journal that readers can see.
    #[must_use]
    pub fn journal(&self) -> &watch::Sender<u64> {
        &self.journal
    }

    /// The consensus group, once it is open.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.group.get()
    }

    /// Waits until the group is open.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_open(&self) -> Group {
        loop {
            let opened = self.opened.notified();
            if let Some(group) = self.group.get() {
                return group.clone();
            }
            opened.await;
        }
    }

    /// Last applied index; 0 while the group is closed.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.group.get().and_then(|group| group.status().applied).unwrap_or(0)
    }

    /// Whether the group was wanted in this life. One that was not has no data, and nothing waits for it: groups with data are opened at boot.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.state.lock().started
    }

    /// Marks the group as wanted. True exactly once: the caller starts the task.
    #[must_use]
    pub fn claim_start(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().started, true)
    }

    /// Proposes a command behind everything that was queued before, and waits for its answer.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// # Cancel safety
    /// Dropped early, the command may still be applied.
    pub async fn in_order(&self, command: Bytes) -> Result<Proposed, Refusal> {
        let (done, wait) = oneshot::channel();
        self.push(Item { frame: command, messages: 0, owner: Owner::Command(done) });
        wait.await.unwrap_or_else(|_| Err(Refusal::unknown("the group ended before the command")))
    }

    /// Queues one item, or answers it with a refusal.
    pub(super) fn push(&self, item: Item) {
        let messages = item.messages;
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return refuse(item, &Refusal::not_ready("cluster daemon is stopping"));
        }
        match state.queue.push(item) {
            Ok(()) => {
                drop(state);
                self.metrics.queue_messages.add(i64::try_from(messages).unwrap_or(0));
                self.wake.notify_one();
            }
            Err(item) => {
                drop(state);
                self.metrics.refuse(Refused::Queue);
                refuse(item, &Refusal::overloaded("queue of the channel group is full"));
            }
        }
    }

    /// Packs and proposes until `stop`, then until nothing waits. The group was opened by the caller.
    pub async fn run(self: Arc<Self>, group: Group, stop: CancellationToken) {
        if self.group.set(group.clone()).is_err() {
            return;
        }
        self.opened.notify_waiters();
        self.metrics.channel_active.inc();
        self.wake.notify_one();
        loop {
            // Cancel-safe: a notification that comes between two rounds is kept.
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => self.state.lock().closed = true,
            }
            while self.in_flight.load(Ordering::Relaxed) < ENTRIES_IN_FLIGHT {
                let Some(entry) = self.next_entry() else { break };
                self.propose(&group, entry);
            }
            let idle = {
                let state = self.state.lock();
                state.closed && state.queue.is_empty() && self.in_flight.load(Ordering::Relaxed) == 0
            };
            if idle {
                break;
            }
            if stop.is_cancelled() {
                self.wake.notified().await;
                self.wake.notify_one();
            }
        }
        self.metrics.channel_active.dec();
    }

    /// The group could not be opened: everything that waits is refused, and the next work tries again.
    pub fn open_failed(&self, refusal: &Refusal) {
        let items: Vec<Item> = {
            let mut state = self.state.lock();
            state.started = false;
            state.queue.drain().collect()
        };
        for item in items {
            self.metrics.queue_messages.sub(i64::try_from(item.messages).unwrap_or(0));
            refuse(item, refusal);
        }
    }

    fn next_entry(&self) -> Option<Entry> {
        let now_ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let entry = self.state.lock().queue.next_entry(now_ms)?;
        self.metrics.queue_messages.sub(i64::try_from(entry.messages).unwrap_or(0));
        Some(entry)
    }

    fn propose(self: &Arc<Self>, group: &Group, entry: Entry) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.metrics.entry_messages.observe(f64::from(u32::try_from(entry.messages).unwrap_or(u32::MAX)));
        let (this, items, began) = (Arc::clone(self), entry.items, Instant::now());
        let done = Box::new(move |outcome: Result<Proposed, ProposeError>| {
            this.metrics.channel_propose.ended(began.elapsed(), outcome.is_ok());
            this.answer(items, outcome);
            this.in_flight.fetch_sub(1, Ordering::Relaxed);
            this.wake.notify_one();
        });
        group.propose_many(std::iter::once((entry.command, done as wk_raft::ProposeCallback)));
    }

    /// Hands the results of one entry to its requests.
    fn answer(&self, items: Vec<Item>, outcome: Result<Proposed, ProposeError>) {
        let proposed = match outcome {
            Ok(proposed) => proposed,
            Err(error) => {
                let refusal = Refusal::from(error);
                items.into_iter().for_each(|item| refuse(item, &refusal));
                return;
            }
        };
        let mut r = Reader::new(&proposed.response);
        for item in items {
            let (pending, at) = match item.owner {
                Owner::Append(pending, at) => (pending, at),
                Owner::Command(done) => {
                    // Who has given up does not hear it.
                    drop(done.send(Ok(proposed)));
                    return;
                }
            };
            // A missing result means that the machine did not understand the entry: the rest of it was not stored.
            let result = ChannelResult::read(&mut r).unwrap_or_else(|_| ChannelResult::Refused(Refusal::rejected("frame has no result")));
            self.complete(&pending, at, result, proposed.index);
        }
    }

    fn complete(&self, pending: &PendingAppend, at: usize, result: ChannelResult, index: u64) {
        match result {
            ChannelResult::Refused(refusal) => pending.refuse(at, &refusal),
            ChannelResult::Stored { timestamp_s, messages } => {
                let duplicates = messages.iter().filter(|message| message.duplicate).count();
                self.metrics.duplicates.inc_by(duplicates as u64);
                self.metrics.messages.inc_by((messages.len() - duplicates) as u64);
                let appended = pb::ChannelAppended {
                    error: None,
                    message_ids: messages.iter().map(|message| message.message_id).collect(),
                    message_seqs: messages.iter().map(|message| message.seq).collect(),
                    duplicates: messages.iter().map(|message| message.duplicate).collect(),
                    group: u32::from(self.place.shard),
                    index,
                    timestamp: timestamp_s,
                };
                pending.complete(at, appended);
            }
        }
    }
}

fn refuse(item: Item, refusal: &Refusal) {
    match item.owner {
        Owner::Append(pending, at) => pending.refuse(at, refusal),
        // Who has given up does not hear it.
        Owner::Command(done) => drop(done.send(Err(refusal.clone()))),
    }
}
