//! The push pool's task: drains what came in, lets [`Push`] decide.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use wk_link::PeerEvent;
use wk_rpc::{Part, Table, TableWatch};
use wk_types::{Bucket, InstanceName};

use super::handle::Push;
use super::out::Links;
use super::retry::Policy;
use crate::clock::now;
use crate::fault::{Bug, Fault};
use crate::inbox::{Event, Inbox};
use crate::limits::{DRAIN_MAX, TICK};
use crate::metrics::PushMetrics;
use crate::origin::Origin;
use crate::state::State;

/// Everything the task owns. No control call asks anything of this pool.
#[derive(Debug)]
pub struct PushPool {
    /// Our name.
    pub me: InstanceName,
    /// What moves of buckets ask of this pool.
    pub part: Part,
    /// What comes in.
    pub inbox: Arc<Inbox<()>>,
    /// Decisions.
    pub push: Push,
    /// What goes out.
    pub links: Links,
    /// Node table.
    pub table: TableWatch,
    /// Rules of the resends.
    pub policy: Policy,
    /// Readiness and counts for the process.
    pub state: Arc<State>,
    /// Metrics.
    pub metrics: PushMetrics,
    /// Test switch.
    pub fault: Fault,
    /// Test switch.
    pub bug: Option<Bug>,
    /// Set by the drain: when it ends at the latest. `None` at first.
    pub draining: Option<Instant>,
    /// Ticks so far.
    pub ticks: u64,
}

/// Ticks between two counts of the frames that wait for a RECVACK.
const COUNT_EVERY: u64 = 10;

impl PushPool {
    /// Runs until `stop`, then until the gateways have what was made. What is not done then stays unsettled and is replayed to the next life.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut events = Vec::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let jitter = RandomState::new();
        let mut taken = self.take_table(&Table::default());
        loop {
            // Cancel safe: waiting takes nothing out of any queue.
            tokio::select! {
                () = self.inbox.wait() => {}
                _ = tick.tick() => self.tick(&jitter),
                _ = self.table.changed() => taken = self.take_table(&taken),
                () = stop.cancelled(), if self.draining.is_none() => self.draining = Some(Instant::now() + DRAIN_MAX),
            }
            self.inbox.take(&mut events);
            for event in events.drain(..) {
                self.event(event);
            }
            self.push.run(now(), &mut self.links);
            self.state.set_ready(self.push.complete());
            self.meet(&taken);
            if self.drained() {
                break;
            }
        }
        self.links.peers.drained();
    }

    fn take_table(&mut self, before: &Table) -> Arc<Table> {
        let (table, pool) = (self.table.get(), self.me.daemon);
        self.push.table(&table);
        let changed = table.pool_slots(pool) != before.pool_slots(pool);
        if table.next_slots(pool).is_empty() && (changed || !before.next_slots(pool).is_empty()) {
            // What moved away, or was on its way here when the move was called off.
            self.push.keep(|uid| table.owner(pool, Bucket::of(uid)).is_none_or(|owner| owner == self.me));
        }
        table
    }

    /// Says what has been done about a move of buckets: in the end nothing is being delivered, and their sessions are known.
    fn meet(&self, table: &Table) {
        if !table.held(self.me.daemon) || (self.push.complete() && self.push.waiting() == (0, 0)) {
            self.part.meet(table.epoch);
        }
    }

    fn event(&mut self, event: Event<()>) {
        match event {
            // While draining nothing new is taken: it is replayed to the next life, in order.
            Event::Items(..) if self.draining.is_some() => {}
            Event::Items(peer, items) => {
                let sender = self.links.peers.meet(&peer);
                self.metrics.items.inc_by(u64::try_from(items.len()).unwrap_or(0));
                for item in items {
                    let origin = Origin::new(sender.id, item.position);
                    self.links.peers.begin(origin, item.replay);
                    self.fault.check(&item.body);
                    self.push.deliver(sender, item, &mut self.links);
                    if self.bug == Some(Bug::EarlySettlement) {
                        self.links.peers.settle(origin);
                    }
                }
                self.links.peers.rest();
            }
            Event::Peer(peer, PeerEvent::Up { fresh: true }) => {
                let sender = self.links.peers.meet(&peer);
                self.push.met(sender);
            }
            Event::Peer(peer, PeerEvent::Gone) => self.links.peers.gone(&peer),
            Event::Peer(..) | Event::Ask(()) => {}
            Event::Done(tokens) | Event::Lost(tokens) => self.push.done(&tokens, &mut self.links),
            Event::Poisoned(item) => {
                // A frame that two gateways died of: its Deliver goes on without it.
                self.metrics.poisoned.inc();
                self.push.done(&[item.token], &mut self.links);
            }
        }
    }

    /// True when a drain is over: the gateways have what was made, or its time has passed.
    fn drained(&self) -> bool {
        self.draining.is_some_and(|until| {
            let waiting = self.push.waiting();
            (waiting == (0, 0) && self.links.gateways.owed() == 0) || Instant::now() >= until
        })
    }

    fn tick(&mut self, jitter: &RandomState) {
        let at = now();
        let mut hasher = jitter.build_hasher();
        hasher.write_u64(at.mono_ms);
        let jitter_ms = hasher.finish() % self.policy.scan_ms.max(1);
        self.push.tick(at, jitter_ms, &mut self.links);
        let unsettled = self.links.peers.unsettled();
        self.ticks += 1;
        if self.ticks.is_multiple_of(COUNT_EVERY) {
            let retry = u64::try_from(self.push.unacked()).unwrap_or(0);
            self.state.retry_entries.store(retry, Ordering::Relaxed);
        }
        self.state.connections.store(u64::try_from(self.push.sessions().len()).unwrap_or(0), Ordering::Relaxed);
        self.metrics.update(&self.push, unsettled, self.state.retry_entries.load(Ordering::Relaxed));
    }
}
