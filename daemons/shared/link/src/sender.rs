//! The sending ends of all links to one kind of daemon: routes by bucket, one stream task per slot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_proto::link::v1 as pb;
use wk_proto::link::v1::link_client::LinkClient;
use wk_rpc::{Row, TableWatch};
use wk_types::limits::LINK_STALL;
use wk_types::{Bucket, Daemon, Incarnation, InstanceName};

use crate::item::Kind;
use crate::ring::{Batch, Keep, Meets, Outgoing, PoisonedItem, Position, Ring, Then, Window, put_item};
use crate::routes::Routes;

mod moves;

/// Messages that wait for HTTP/2; the ring's window bounds what is inside them.
const STREAM_QUEUE: usize = 4;
/// A receiver that does not answer a Hello within this is dialled again.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval of the stall check and of pings.
const TICK: Duration = Duration::from_millis(500);
/// Pause before a failed dial is repeated; a table change ends it early.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);
/// Items in one preamble batch.
const PREAMBLE_ITEMS: usize = 1024;

/// What a new incarnation of a receiver must hear before the ring's items.
pub trait Preamble: Send + Sync {
    /// Items for this slot, in order. Called when its stream is up, before anything else is sent.
    fn items(&self, slot: u16) -> Vec<(Kind, Bucket, Bytes)>;
    /// Items that this slot must have before it becomes the owner of buckets that are moving to it. Called when nothing is sent of them any more.
    fn moving(&self, slot: u16) -> Vec<(Kind, Bucket, Bytes)> {
        let _ = slot;
        Vec::new()
    }
}

/// Hears the tokens of items that are done.
pub type OnDone = Arc<dyn Fn(&[u64]) + Send + Sync>;
/// Hears of items that two receivers died of.
pub type OnPoison = Arc<dyn Fn(Poisoned) + Send + Sync>;

/// What the owner of the links says to new receivers and hears of its items.
#[derive(Clone)]
pub struct LinkHooks {
    /// Greeting of each new incarnation of a receiver.
    pub preamble: Option<Arc<dyn Preamble>>,
    /// Hears of items that are done.
    pub on_done: OnDone,
    /// Hears of items that two receivers died of.
    pub on_poison: OnPoison,
}

impl std::fmt::Debug for LinkHooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkHooks").field("preamble", &self.preamble.is_some()).finish_non_exhaustive()
    }
}

/// An item that has been taken out of its ring because two receivers died holding it.
#[derive(Debug)]
pub struct Poisoned {
    /// Slot it was meant for.
    pub slot: u16,
    /// What it is.
    pub kind: Kind,
    /// Its bucket.
    pub bucket: Bucket,
    /// Its body.
    pub body: Bytes,
    /// Token given to push; 0 without.
    pub token: u64,
}

/// Where a pushed item lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Slot.
    pub slot: u16,
    /// Position on the link to that slot.
    pub position: Position,
}

/// How to reach one kind of daemon.
#[derive(Debug, Clone)]
pub struct LinkSetConfig {
    /// Receivers.
    pub target: Daemon,
    /// Our name.
    pub me: InstanceName,
    /// Our incarnation.
    pub incarnation: Incarnation,
    /// Items in one ring from which [`LinkSet::congested`] is true.
    pub ring_items: usize,
    /// Bytes in one ring from which [`LinkSet::congested`] is true.
    pub ring_bytes: usize,
    /// Credit of each link.
    pub window: Window,
}

impl LinkSetConfig {
    /// Usual bounds: 65,536 items or 64 MiB a slot.
    #[must_use]
    pub fn new(target: Daemon, me: InstanceName, incarnation: Incarnation) -> Self {
        Self { target, me, incarnation, ring_items: 65_536, ring_bytes: 64 << 20, window: Window::default() }
    }
}

/// Links to all slots of one kind of daemon. Cheap to clone; nothing here waits.
#[derive(Clone)]
pub struct LinkSet {
    shared: Arc<Shared>,
}

struct Shared {
    config: LinkSetConfig,
    ways: RwLock<Ways>,
    table: TableWatch,
    hooks: LinkHooks,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Buckets are held: whoever frees an item says so.
    moving: AtomicBool,
    /// Something was done while buckets are held.
    freed: Notify,
}

/// Read while an item is handed on, written while a table is taken over: no item slips past a move.
#[derive(Default)]
struct Ways {
    routes: Routes<(Outgoing, Then)>,
    slots: BTreeMap<u16, Arc<Slot>>,
}

struct Slot {
    name: InstanceName,
    ring: Mutex<Ring>,
    wake: Notify,
}

impl std::fmt::Debug for LinkSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSet").field("target", &self.shared.config.target).finish_non_exhaustive()
    }
}

impl LinkSet {
    /// Starts to follow the table and to dial every slot of the target. Must be called inside a tokio runtime; the tasks end with `stop`.
    #[must_use]
    pub fn start(config: LinkSetConfig, table: TableWatch, hooks: LinkHooks, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (ways, tasks_of) = (RwLock::default(), tasks.clone());
        let (moving, freed) = (AtomicBool::new(false), Notify::new());
        let shared = Arc::new(Shared { config, ways, table, hooks, tasks: tasks_of, stop, moving, freed });
        shared.apply_table();
        tasks.spawn(moves::follow_table(Arc::clone(&shared)));
        Self { shared }
    }

    /// Hands an item to the owner of `bucket`, now or, while the bucket moves, when it is there; then there is no ticket. `token`: comes back
    /// through the done callback, 0 for none.
    pub fn push(&self, bucket: Bucket, kind: Kind, body: Bytes, keep: Keep, token: u64) -> Option<Ticket> {
        let then = if token == 0 { Then::Silence } else { Then::Token(token) };
        self.push_owner(Outgoing { bucket, kind, body, keep }, then)
    }

    /// As [`LinkSet::push`]; the receiver resolves when the item is done, and fails when it never will be.
    pub fn push_owner_wait(&self, item: Outgoing) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.push_owner(item, Then::Waiter(sender));
        receiver
    }

    fn push_owner(&self, item: Outgoing, then: Then) -> Option<Ticket> {
        let bucket = item.bucket;
        {
            let ways = self.shared.ways.read();
            if let Some(link) = ways.routes.open_owner(bucket).and_then(|slot| ways.slots.get(&slot)) {
                return Some(link.push(item, then));
            }
        }
        let mut ways = self.shared.ways.write();
        // It may have opened between the two locks.
        if let Some(link) = ways.routes.open_owner(bucket).and_then(|slot| ways.slots.get(&slot)) {
            return Some(link.push(item, then));
        }
        ways.routes.wait(bucket, (item, then));
        None
    }

    /// Hands an item to a slot.
    pub fn push_slot(&self, slot: u16, item: Outgoing, token: u64) -> Ticket {
        let then = if token == 0 { Then::Silence } else { Then::Token(token) };
        self.push_then(slot, item, then)
    }

    /// Hands an item to a slot; the receiver resolves when it is done, and fails when it never will be.
    pub fn push_wait(&self, slot: u16, item: Outgoing) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.push_then(slot, item, Then::Waiter(sender));
        receiver
    }

    fn push_then(&self, slot: u16, item: Outgoing, then: Then) -> Ticket {
        self.shared.slot(slot).push(item, then)
    }

    /// The owner itself knows that an item is done: it is not sent again. True when it was still owed. The done callback is not called.
    pub fn settle(&self, ticket: Ticket) -> bool {
        let link = self.shared.ways.read().slots.get(&ticket.slot).cloned();
        link.is_some_and(|link| {
            let owed = link.ring.lock().settle(ticket.position);
            if owed {
                link.wake.notify_one();
                self.shared.tell_freed();
            }
            owed
        })
    }

    /// Slots the target has now, and those it is about to get.
    #[must_use]
    pub fn slots(&self) -> Vec<u16> {
        let (table, target) = (self.shared.table.get(), self.shared.config.target);
        let mut slots = [table.pool_slots(target), table.next_slots(target)].concat();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Slot that owns a bucket; `None` before the first table.
    #[must_use]
    pub fn owner(&self, bucket: Bucket) -> Option<u16> {
        self.shared.ways.read().routes.owner(bucket)
    }

    /// True when some ring is at its bound: take no more from the source.
    #[must_use]
    pub fn congested(&self) -> bool {
        let config = &self.shared.config;
        let ways = self.shared.ways.read();
        ways.routes.waiting() >= config.ring_items
            || ways.slots.values().any(|link| {
                let ring = link.ring.lock();
                ring.len() >= config.ring_items || ring.bytes() >= config.ring_bytes
            })
    }

    /// Items that the present life of a slot's process has confirmed and not settled.
    #[must_use]
    pub fn received(&self, slot: u16) -> u64 {
        self.shared.ways.read().slots.get(&slot).map_or(0, |link| link.ring.lock().held())
    }

    /// Items of all slots that wait for settlement, and those that are kept back.
    #[must_use]
    pub fn unsettled(&self) -> u64 {
        let ways = self.shared.ways.read();
        ways.slots.values().map(|link| link.ring.lock().unsettled()).sum::<u64>() + ways.routes.waiting() as u64
    }

    /// Items of all slots that are not done, soft ones and those that are kept back included.
    #[must_use]
    pub fn owed(&self) -> usize {
        let ways = self.shared.ways.read();
        ways.slots.values().map(|link| link.ring.lock().len()).sum::<usize>() + ways.routes.waiting()
    }
}

impl Slot {
    fn push(&self, item: Outgoing, then: Then) -> Ticket {
        let position = self.ring.lock().push(item, then);
        self.wake.notify_one();
        Ticket { slot: self.name.slot, position }
    }
}

impl Shared {
    /// The link to a slot; made when it is new, so that items may be pushed before the first table.
    fn slot(self: &Arc<Self>, slot: u16) -> Arc<Slot> {
        if let Some(link) = self.ways.read().slots.get(&slot) {
            return Arc::clone(link);
        }
        let mut ways = self.ways.write();
        let link = ways.slots.entry(slot).or_insert_with(|| {
            let name = InstanceName { daemon: self.config.target, slot };
            let link = Arc::new(Slot { name, ring: Mutex::new(Ring::new(self.config.window)), wake: Notify::new() });
            self.tasks.spawn(run_slot(Arc::clone(self), Arc::clone(&link)));
            link
        });
        Arc::clone(link)
    }

    fn tell_done(&self, done: Vec<Then>) {
        let mut tokens = Vec::with_capacity(done.len());
        for then in done {
            match then {
                Then::Silence => {}
                Then::Token(token) => tokens.push(token),
                // The waiter may have gone away; then nobody is interested.
                Then::Waiter(waiter) => drop(waiter.send(())),
            }
        }
        if !tokens.is_empty() {
            (self.hooks.on_done)(&tokens);
        }
        self.tell_freed();
    }
}

/// Keeps one slot connected for the life of the set.
async fn run_slot(shared: Arc<Shared>, link: Arc<Slot>) {
    let mut table = shared.table.clone();
    let mut met = Met::default();
    loop {
        let row = tokio::select! {
            row = table.wait_for(|t| t.instance(link.name).filter(|row| row.dialable()).cloned()) => row,
            () = shared.stop.cancelled() => return,
        };
        let end = tokio::select! {
            end = run_stream(&shared, &link, &row, &mut met) => end,
            () = shared.stop.cancelled() => return,
        };
        if let Err(err) = end {
            tracing::debug!(receiver = %link.name, incarnation = row.incarnation, %err, "link stream ended");
        }
        tokio::select! {
            _ = table.changed() => {}
            () = tokio::time::sleep(REDIAL_PAUSE) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Dial(#[from] wk_rpc::dial::DialError),
    #[error(transparent)]
    Status(#[from] Box<tonic::Status>),
    #[error("receiver did not welcome us in time")]
    NoWelcome,
    #[error("receiver closed the stream")]
    Closed,
    #[error("the table names another incarnation")]
    Replaced,
}

/// The life of the receiver that was last connected.
#[derive(Debug, Default)]
struct Met {
    incarnation: Incarnation,
    /// It has the whole preamble.
    greeted: bool,
}

/// One stream, from dial to end. `met` is what was last connected.
async fn run_stream(shared: &Shared, link: &Slot, row: &Row, met: &mut Met) -> Result<(), StreamError> {
    let (up, outgoing) = mpsc::channel(STREAM_QUEUE);
    let hello = pb::Hello {
        sender: shared.config.me.to_string(),
        sender_incarnation: shared.config.incarnation,
        receiver: link.name.to_string(),
        receiver_incarnation: row.incarnation,
        first_position: link.ring.lock().first(),
    };
    send(&up, pb::up::Message::Hello(hello)).await?;
    let channel = wk_rpc::dial(row.link_socket.clone()).await?;
    let mut client = LinkClient::new(channel);
    let open = async {
        let mut down = client.open(ReceiverStream::new(outgoing)).await.map_err(Box::new)?.into_inner();
        match down.message().await.map_err(Box::new)?.and_then(|m| m.message) {
            Some(pb::down::Message::Welcome(welcome)) => Ok((down, welcome)),
            _ => Err(StreamError::Closed),
        }
    };
    let (mut down, welcome) = tokio::time::timeout(WELCOME_TIMEOUT, open).await.map_err(|_| StreamError::NoWelcome)??;
    let meets = match met.incarnation != row.incarnation {
        false => Meets::Same,
        true if welcome.blameless => Meets::Blameless,
        true => Meets::AfterDeath(Some(welcome.died_handling).filter(|position| *position > 0)),
    };
    let poisoned = link.ring.lock().on_stream(welcome.received, meets);
    *met = Met { incarnation: row.incarnation, greeted: met.greeted && meets == Meets::Same };
    if let Some(item) = poisoned {
        tell_poisoned(shared, link, item);
    }
    if !met.greeted {
        send_preamble(shared, link, &up).await?;
        // Its answer tells that all before it has arrived. Without one the next stream greets again.
        send(&up, pb::up::Message::Ping(pb::Ping { nonce: row.incarnation })).await?;
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::new(link);
    let mut complaint: Option<JoinHandle<()>> = None;
    let mut table = shared.table.clone();
    loop {
        loop {
            let batch = link.ring.lock().next_batch();
            let Some(batch) = batch else { break };
            send(&up, pb::up::Message::Batch(to_proto(batch))).await?;
        }
        tokio::select! {
            // Cancel safe: all keep their state outside the future.
            () = link.wake.notified() => {}
            now = table.changed() => if now.instance(link.name).is_none_or(|r| r.incarnation != row.incarnation) {
                return Err(StreamError::Replaced);
            },
            message = down.message() => match message.map_err(Box::new)?.ok_or(StreamError::Closed)?.message {
                Some(pb::down::Message::Report(report)) => on_report(shared, link, &report),
                Some(pb::down::Message::Pong(_)) => met.greeted = true,
                Some(pb::down::Message::Welcome(_)) | None => {}
            },
            _ = tick.tick() => if let Some(stalled) = progress.stalled_for(link).filter(|_| complaint.as_ref().is_none_or(JoinHandle::is_finished)) {
                // Beside the stream: a supervisor that does not answer must not stop a link that moves again.
                let (table, name, incarnation) = (shared.table.clone(), link.name, row.incarnation);
                complaint = Some(shared.tasks.spawn(async move { table.report_stall(name, incarnation, stalled).await }));
            },
        }
    }
}

fn on_report(shared: &Shared, link: &Slot, report: &pb::Report) {
    let settled: Vec<(Position, u64)> = report
        .settled
        .chunks_exact(2)
        .filter_map(|pair| match pair {
            [first, count] => Some((*first, *count)),
            _ => None,
        })
        .collect();
    let mut done = Vec::new();
    link.ring.lock().on_report(report.received, &settled, &mut done);
    shared.tell_done(done);
}

fn tell_poisoned(shared: &Shared, link: &Slot, item: PoisonedItem) {
    tracing::error!(receiver = %link.name, kind = ?item.kind, "receivers died of this item, it is refused");
    (shared.hooks.on_poison)(Poisoned { slot: link.name.slot, kind: item.kind, bucket: item.bucket, body: item.body, token: item.token });
}

async fn send_preamble(shared: &Shared, link: &Slot, up: &mpsc::Sender<pb::Up>) -> Result<(), StreamError> {
    let Some(preamble) = &shared.hooks.preamble else { return Ok(()) };
    for chunk in preamble.items(link.name.slot).chunks(PREAMBLE_ITEMS) {
        let mut items = bytes::BytesMut::new();
        for (kind, bucket, body) in chunk {
            put_item(&mut items, *kind as u8, 0, *bucket, body);
        }
        let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        send(up, pb::up::Message::Batch(pb::Batch { first: 0, count, items: items.freeze() })).await?;
    }
    Ok(())
}

async fn send(up: &mpsc::Sender<pb::Up>, message: pb::up::Message) -> Result<(), StreamError> {
    up.send(pb::Up { message: Some(message) }).await.map_err(|_| StreamError::Closed)
}

fn to_proto(batch: Batch) -> pb::Batch {
    pb::Batch { first: batch.first, count: batch.count, items: batch.items }
}

/// Watches whether a link that owes something moves.
struct Progress {
    first: Position,
    unsettled: u64,
    since: Instant,
}

impl Progress {
    fn new(link: &Slot) -> Self {
        let ring = link.ring.lock();
        Self { first: ring.first(), unsettled: ring.unsettled(), since: Instant::now() }
    }

    /// Time without any item done while something is owed, once it is too long.
    fn stalled_for(&mut self, link: &Slot) -> Option<Duration> {
        let ring = link.ring.lock();
        let now = (ring.first(), ring.unsettled());
        if ring.is_empty() || now.0 != self.first || now.1 < self.unsettled {
            *self = Self { first: now.0, unsettled: now.1, since: Instant::now() };
            return None;
        }
        self.unsettled = now.1;
        Some(self.since.elapsed()).filter(|t| *t >= LINK_STALL)
    }
}
