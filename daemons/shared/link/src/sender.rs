//! The sending ends of all links to one kind of daemon: routes by bucket, one stream task per slot (`stream`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_rpc::TableWatch;
use wk_types::{Bucket, Daemon, Incarnation, InstanceName};

use crate::item::Kind;
use crate::quarantine::Quarantine;
use crate::ring::{Keep, Outgoing, Position, Ring, Then, Window};
use crate::routes::Routes;

mod moves;
mod stream;

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
    /// Hears of items that nobody will ever settle: their slot is gone for good, and they were meant for it alone. Without it they are done.
    pub on_lost: Option<OnDone>,
    /// Where items that two receivers died of are kept. `None`: nowhere.
    pub quarantine: Option<Quarantine>,
    /// Hears of these items, once they are kept: now they are refused.
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

/// An item that waits for an owner, and whether an owner that is gone may have seen it.
type Waiting = (Outgoing, Then, bool);

/// Read while an item is handed on, written while a table is taken over: no item slips past a move.
#[derive(Default)]
struct Ways {
    routes: Routes<Waiting>,
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
                return Some(link.push_routed(item, then, false));
            }
        }
        let mut ways = self.shared.ways.write();
        // It may have opened between the two locks.
        if let Some(link) = ways.routes.open_owner(bucket).and_then(|slot| ways.slots.get(&slot)) {
            return Some(link.push_routed(item, then, false));
        }
        ways.routes.wait(bucket, (item, then, false));
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

    fn push_routed(&self, item: Outgoing, then: Then, seen: bool) -> Ticket {
        let position = self.ring.lock().push_routed(item, then, seen);
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
            self.tasks.spawn(stream::run_slot(Arc::clone(self), Arc::clone(&link)));
            link
        });
        Arc::clone(link)
    }

    fn tell_done(&self, done: Vec<Then>) {
        self.tell(done, &self.hooks.on_done);
    }

    fn tell(&self, done: Vec<Then>, hook: &OnDone) {
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
            hook(&tokens);
        }
        self.tell_freed();
    }
}
