//! How a set of links follows the node table: owners of buckets, and the steps of a move (`ARCHITECTURE.md`, life of a move).
//!
//! An owner without a row is gone for good (its death is its release): in a move away from it what it owes is taken back and goes to the next
//! owners, before anything newer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wk_rpc::Table;
use wk_types::InstanceName;

use super::{Shared, Ways};
use crate::ring::{Keep, Outgoing, Then};

impl Shared {
    /// Takes over the table's slots and owners. Also what has no share yet is dialled: it wants to hear what it has to know first.
    pub(super) fn apply_table(self: &Arc<Self>) -> Arc<Table> {
        let table = self.table.get();
        let (target, mut now) = (self.config.target, Vec::new());
        let (slots, next) = (table.pool_slots(target), table.next_slots(target));
        for slot in table.instances_of(target).map(|row| row.name.slot).chain(slots.iter().chain(next).copied()) {
            self.slot(slot);
            now.push(slot);
        }
        let mut ways = self.ways.write();
        self.moving.store(!next.is_empty(), Ordering::Relaxed);
        let Ways { routes, slots: links } = &mut *ways;
        for (slot, (item, then, seen)) in routes.take(slots, next) {
            if let Some(link) = links.get(&slot) {
                link.push_routed(item, then, seen);
            }
        }
        let gone =
            |slot: &u16| !next.is_empty() && !next.contains(slot) && table.instance(InstanceName { daemon: target, slot: *slot }).is_none();
        let mut lost = Vec::new();
        for link in slots.iter().filter(|slot| gone(slot)).filter_map(|slot| links.get(slot)) {
            let mut ring = link.ring.lock();
            routes.wait_first(ring.take_back().into_iter().map(|waiting| (waiting.0.bucket, waiting)));
            // The rest was meant for it alone.
            lost.extend(ring.clear());
        }
        // Nothing is owed to a slot that has left: its buckets moved away settled. A rule that changed meanwhile concerns its cache alone.
        let mut done = Vec::new();
        if !slots.is_empty() {
            for (_, link) in links.iter().filter(|(slot, _)| !now.contains(slot)) {
                done.extend(link.ring.lock().clear());
            }
        }
        drop(ways);
        if !done.is_empty() {
            self.tell_done(done);
        }
        if !lost.is_empty() {
            self.tell(lost, self.hooks.on_lost.as_ref().unwrap_or(&self.hooks.on_done));
        }
        table
    }

    /// True when nothing of the buckets that move is on its way any more.
    fn has_let_go(&self) -> bool {
        let ways = self.ways.read();
        let held = ways.routes.held();
        held.is_empty() || !ways.slots.values().any(|link| link.ring.lock().owes(held))
    }

    /// Tells the next owners what they must know before they get a bucket.
    fn tell_next_owners(&self, next: &[u16]) {
        let Some(preamble) = &self.hooks.preamble else { return };
        for slot in next {
            let items = preamble.moving(*slot);
            if let Some(link) = self.ways.read().slots.get(slot) {
                for (kind, bucket, body) in items {
                    link.push(Outgoing { bucket, kind, body, keep: Keep::UntilReceived }, Then::Silence);
                }
            }
        }
    }

    pub(super) fn tell_freed(&self) {
        if self.moving.load(Ordering::Relaxed) {
            self.freed.notify_one();
        }
    }
}

/// Takes over tables, and meets their epochs: at once, or in a move when nothing of the moving buckets is on its way any more.
pub(super) async fn follow_table(shared: Arc<Shared>) {
    let mut watch = shared.table.clone();
    let part = shared.table.part();
    let mut told = 0;
    loop {
        // Whatever comes later wakes this loop once more.
        let table = shared.apply_table();
        if table.held(shared.config.target) && told < table.epoch {
            told = table.epoch;
            shared.tell_next_owners(table.next_slots(shared.config.target));
        }
        let mut met = false;
        loop {
            if !met && shared.has_let_go() {
                met = true;
                part.meet(table.epoch);
            }
            tokio::select! {
                _ = watch.changed() => break,
                () = shared.freed.notified() => {}
                () = shared.stop.cancelled() => return,
            }
        }
    }
}
