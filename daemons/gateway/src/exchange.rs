//! What reactors and hub say to each other, and the queues between their threads.
//!
//! A side collects what one round produced and hands it over as one batch; it wakes the other side only when that one sleeps. The queues are
//! bounded by what may be in them: events of a connection by its unsettled SENDs and the RECVs it has not acknowledged, commands by the output
//! budget ([`OutputBudget`]).

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use wk_types::{Bucket, ConnId, IdRun, MessageId};
use wk_wire::jsonrpc::{Dialect, Id};
use wk_wire::{Connect, Flags, Version};

/// Where a connection lives. The place alone may be reused; with the id it never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Connection.
    pub conn: ConnId,
    /// Its slot inside the reactor.
    pub slot: u32,
    /// Its reactor.
    pub reactor: u16,
}

/// Kind of a client listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// WebSocket over TCP.
    Ws,
}

/// A connection's CONNECT was understood.
#[derive(Debug)]
pub struct Login {
    /// Connection.
    pub at: At,
    /// The frame; its uid was checked.
    pub connect: Connect,
    /// Negotiated version.
    pub version: Version,
    /// True: JSON-RPC.
    pub json: bool,
    /// JSON-RPC: how keys are spelled.
    pub dialect: Dialect,
    /// JSON-RPC: id of the request.
    pub id: Option<Id>,
    /// Peer address for people.
    pub peer: String,
    /// Monotonic ms of the accept.
    pub accepted_ms: u64,
    /// Bucket of the uid.
    pub bucket: Bucket,
}

/// A SEND of an authenticated connection.
#[derive(Debug)]
pub struct Handover {
    /// Connection.
    pub at: At,
    /// Bucket of its uid.
    pub bucket: Bucket,
    /// Encoded `wk_link::item::Send`.
    pub body: Bytes,
    /// Id given to the message.
    pub message_id: MessageId,
    /// Echo of the answer.
    pub client_seq: u32,
    /// Flags of the frame, echo of the answer.
    pub flags: Flags,
    /// JSON-RPC: answer with this id.
    pub id: Option<Box<Id>>,
    /// What it takes of the connection's unsettled bytes; given back with [`Command::Sendack`]. Unit: bytes.
    pub cost: u32,
    /// Monotonic ms when it was accepted.
    pub accepted_ms: u64,
}

/// Why a connection ended. The label of `wk_gateway_conns_closed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed or reset.
    Peer,
    /// A DISCONNECT or WebSocket CLOSE of the client.
    Farewell,
    /// Bytes that are no frame, or a frame at the wrong time.
    Malformed,
    /// No CONNECT, or no answer to it, in time.
    Handshake,
    /// Nothing received for the idle time.
    Idle,
    /// The CONNECT was refused.
    Refused,
    /// A worker asked for it.
    Kicked,
    /// Too much output waits for it.
    OutputFull,
    /// Too much output waits for all connections, and much of it for this one.
    OutputBudget,
    /// Output waited, and the peer took nothing for too long.
    OutputStalled,
    /// Too many connections from its address.
    AddressLimit,
    /// The daemon stops.
    Stopping,
    /// A bug was caught while its bytes were handled.
    Panicked,
}

impl CloseReason {
    /// Label values in the order of the numbers.
    pub const NAMES: [&'static str; 13] = [
        "peer",
        "farewell",
        "malformed",
        "handshake",
        "idle",
        "refused",
        "kicked",
        "output_full",
        "output_budget",
        "output_stalled",
        "address_limit",
        "stopping",
        "panicked",
    ];

    /// A WebSocket client hears of it by CLOSE. Not one who has gone, who does not read, or whose output a bug may have left torn.
    #[must_use]
    pub fn is_told(self) -> bool {
        !matches!(self, Self::Peer | Self::OutputFull | Self::OutputBudget | Self::OutputStalled | Self::Panicked)
    }

    /// Index into [`CloseReason::NAMES`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self as u8)
    }
}

/// What a reactor tells the hub.
#[derive(Debug)]
pub enum Event {
    /// A CONNECT.
    Login(Box<Login>),
    /// A SEND.
    Send(Handover),
    /// A RECVACK: bucket of the uid, encoded `wk_link::item::Recvack`.
    Recvack(Bucket, Bytes),
    /// A connection whose CONNECT was handed over is gone. Always the last event of it.
    Closed(At, CloseReason),
    /// No accept is armed in this reactor any more.
    AcceptStopped(u16),
    /// This reactor has no connections any more, after [`Command::Drain`].
    Drained(u16),
    /// The reactor ended because its ring failed.
    Failed(u16, String),
}

/// What the hub tells a reactor.
#[derive(Debug)]
pub enum Command {
    /// Arm accepting on all listeners.
    Admit,
    /// Cancel accepting; answered by [`Event::AcceptStopped`].
    StopAccept,
    /// Take over an accepted socket (from the main reactor).
    Adopt(OwnedFd, Transport),
    /// Answer to a login: on success the connection is open once these bytes are written, else it is closed after them.
    Connack(At, Bytes, bool),
    /// Answer to a SEND: bytes (may be empty), and the cost given back.
    Sendack(At, Bytes, u32),
    /// A RECV for the client.
    Write(At, Bytes),
    /// A frame first (may be empty), then close after a while. Unit: ms.
    Kick(At, Bytes, u32),
    /// Close at once.
    Close(At, CloseReason),
    /// More message ids.
    Ids(Vec<IdRun>),
    /// SENDs may be handed over again, see [`Shared::hold`].
    Resume,
    /// Accept nobody and hand over no more SENDs, for good; who is here already may still log in.
    Quiesce,
    /// Answer that you turn.
    Beat(oneshot::Sender<()>),
    /// Half-close every connection after its last byte, then close; answered by [`Event::Drained`]. The reactor then ends.
    Drain,
}

/// A queue between two threads.
pub struct Mailbox<T> {
    queue: Mutex<Vec<T>>,
    /// The receiver sleeps, or is about to: it must be woken.
    asleep: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl<T> std::fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl<T> Mailbox<T> {
    /// An empty queue; `wake` wakes its sleeping receiver and may be called from any thread.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self { queue: Mutex::new(Vec::new()), asleep: AtomicBool::new(false), wake: Box::new(wake) }
    }

    /// Hands over a batch; `batch` is empty afterwards.
    pub fn post(&self, batch: &mut Vec<T>) {
        if batch.is_empty() {
            return;
        }
        {
            let mut queue = self.queue.lock();
            if queue.is_empty() {
                std::mem::swap(&mut *queue, batch);
            } else {
                queue.append(batch);
            }
        }
        self.wake();
    }

    /// Hands over one item.
    pub fn post_one(&self, item: T) {
        self.queue.lock().push(item);
        self.wake();
    }

    /// Takes everything into `into`, which must be empty.
    pub fn take(&self, into: &mut Vec<T>) {
        debug_assert!(into.is_empty(), "what was taken before has been handled");
        std::mem::swap(&mut *self.queue.lock(), into);
    }

    /// The receiver is going to sleep: false when it must not, because something has come in. It calls [`Mailbox::awake`] afterwards.
    pub fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let empty = self.queue.lock().is_empty();
        if !empty {
            self.awake();
        }
        empty
    }

    /// The receiver is awake.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Items that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            (self.wake)();
        }
    }
}

/// State of hub and reactors that both look at.
#[derive(Debug, Default)]
pub struct Shared {
    /// Hand over no SENDs for now: a link is full. [`Command::Resume`] follows when it is lifted.
    pub hold: AtomicBool,
    /// Output of the process that is not sent yet.
    pub output: OutputBudget,
    newcomers: AtomicU64,
    away: AwayBuckets,
}

impl Shared {
    /// True when a worker that a login of this bucket needs is not there: handshake timers stand still.
    #[must_use]
    pub fn is_away(&self, bucket: Bucket) -> bool {
        self.away.get(bucket)
    }

    /// Connections that were accepted and whose CONNECT the hub does not know.
    #[must_use]
    pub fn newcomers(&self) -> u64 {
        self.newcomers.load(Ordering::SeqCst)
    }

    /// A connection was accepted.
    pub fn newcomer_came(&self) {
        self.newcomers.fetch_add(1, Ordering::SeqCst);
    }

    /// The hub knows it now, or it ends without a CONNECT.
    pub fn newcomer_left(&self) {
        self.newcomers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Says of which buckets an owner is away.
    pub fn set_away(&self, away: impl Fn(Bucket) -> bool) {
        self.away.set(away);
    }
}

/// One bit per bucket.
#[derive(Debug)]
struct AwayBuckets([AtomicU64; AWAY_WORDS]);

const AWAY_WORDS: usize = wk_types::BUCKETS as usize / 64;

impl Default for AwayBuckets {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl AwayBuckets {
    fn get(&self, bucket: Bucket) -> bool {
        let index = usize::from(bucket.index());
        self.0.get(index / 64).is_some_and(|word| word.load(Ordering::Relaxed) >> (index % 64) & 1 == 1)
    }

    fn set(&self, away: impl Fn(Bucket) -> bool) {
        let mut buckets = Bucket::all();
        for word in &self.0 {
            let bits = (0..64).fold(0, |bits, bit| bits | u64::from(buckets.next().is_some_and(&away)) << bit);
            word.store(bits, Ordering::Relaxed);
        }
    }
}

/// Bytes of output that were taken from workers and are not sent yet, over all connections.
#[derive(Debug, Default)]
pub struct OutputBudget(AtomicU64);

impl OutputBudget {
    /// Adds.
    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Gives back.
    pub fn sub(&self, bytes: usize) {
        self.0.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn wakes_only_a_sleeper_and_once() {
        let wakes = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&wakes);
        let mailbox = Mailbox::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        mailbox.post(&mut vec![1]);
        assert_eq!(wakes.load(Ordering::SeqCst), 0);
        assert!(!mailbox.may_sleep(), "something waits");
        let mut got = Vec::new();
        mailbox.take(&mut got);
        assert!(mailbox.may_sleep());
        mailbox.post(&mut vec![2]);
        mailbox.post_one(3);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        got.clear();
        mailbox.take(&mut got);
        assert_eq!(got, [2, 3]);
    }

    #[test]
    fn away_bits_follow_the_buckets() {
        let shared = Shared::default();
        shared.set_away(|b| b.index() % 3 == 0);
        for bucket in Bucket::all() {
            assert_eq!(shared.is_away(bucket), bucket.index() % 3 == 0);
        }
    }

    #[test]
    fn budget_counts_both_ways() {
        let budget = OutputBudget::default();
        budget.add(10);
        budget.add(1);
        budget.sub(4);
        assert_eq!(budget.get(), 7);
    }
}
