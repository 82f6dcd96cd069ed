//! The way to the workers.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use wk_link::sender::Ticket;
use wk_link::{Delivery, Handler, Keep, Kind, LinkSet, Peer, PeerEvent, Preamble};
use wk_rpc::Table;
use wk_rpc::table::RowState;
use wk_types::{Bucket, Daemon, Pool};

use crate::hub::Hub;

/// Hands items to the workers. One implementation over links, one in tests.
pub trait Uplink: Send {
    /// To the user worker that owns the bucket; no ticket while the bucket moves to another one.
    fn user(&self, bucket: Bucket, kind: Kind, body: Bytes, keep: Keep, token: u64) -> Option<Ticket>;
    /// To the push worker that owns the bucket.
    fn push(&self, bucket: Bucket, kind: Kind, body: Bytes, keep: Keep, token: u64);
    /// An item for a user worker is done: its answer has come another way.
    fn settle_user(&self, ticket: Ticket);
    /// A link holds as much as it may: hand over no more SENDs.
    fn congested(&self) -> bool;
    /// Items that wait for settlement.
    fn unsettled(&self) -> u64;
}

/// Links to user and push workers.
#[derive(Debug, Clone)]
pub struct Links {
    /// To the user pool.
    pub user: LinkSet,
    /// To the push pool.
    pub push: LinkSet,
}

impl Uplink for Links {
    fn user(&self, bucket: Bucket, kind: Kind, body: Bytes, keep: Keep, token: u64) -> Option<Ticket> {
        self.user.push(bucket, kind, body, keep, token)
    }

    fn push(&self, bucket: Bucket, kind: Kind, body: Bytes, keep: Keep, token: u64) {
        self.push.push(bucket, kind, body, keep, token);
    }

    fn settle_user(&self, ticket: Ticket) {
        self.user.settle(ticket);
    }

    fn congested(&self) -> bool {
        self.user.congested() || self.push.congested()
    }

    fn unsettled(&self) -> u64 {
        self.user.unsettled() + self.push.unsettled()
    }
}

/// What a new worker hears first: the sessions of its share.
pub struct Snapshot {
    /// Where the sessions are.
    pub hub: Arc<Mutex<Hub>>,
    /// Pool the link goes to.
    pub pool: Pool,
    /// Node table: the share of a slot.
    pub table: wk_rpc::TableWatch,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Preamble for Snapshot {
    fn items(&self, slot: u16) -> Vec<(Kind, Bucket, Bytes)> {
        let (table, pool) = (self.table.get(), Daemon::Worker(self.pool));
        let slots = table.pool_slots(pool);
        let owned = |bucket| slots.is_empty() || wk_types::owner_slot(bucket, slots) == Some(slot);
        // Once nothing is sent of moving buckets any more their sessions stand still, and the next owner is told of them too.
        let next = |bucket| table.held(pool) && wk_types::owner_slot(bucket, table.next_slots(pool)) == Some(slot);
        self.hub.lock().snapshot(&|bucket| owned(bucket) || next(bucket))
    }

    fn moving(&self, slot: u16) -> Vec<(Kind, Bucket, Bytes)> {
        let (table, pool) = (self.table.get(), Daemon::Worker(self.pool));
        let gains = |bucket| table.moves(pool, bucket) && wk_types::owner_slot(bucket, table.next_slots(pool)) == Some(slot);
        self.hub.lock().sessions_of(&gains)
    }
}

/// What the workers send.
pub struct Downlink {
    /// Takes the items.
    pub hub: Arc<Mutex<Hub>>,
    /// Wakes the task that hands commands to the reactors.
    pub wake: Arc<tokio::sync::Notify>,
}

impl std::fmt::Debug for Downlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downlink").finish_non_exhaustive()
    }
}

impl Handler for Downlink {
    fn deliver(&self, peer: &Peer, items: Vec<Delivery>) {
        let mut hub = self.hub.lock();
        hub.on_batch(wk_rpc::clock::monotonic_ms());
        for item in items {
            hub.on_item(item.kind, &item.body);
            // The command is in our hands; a gateway that dies loses its sockets too, so there is nothing to keep for it.
            peer.settle(item.position);
        }
        drop(hub);
        self.wake.notify_one();
    }

    fn peer(&self, peer: &Peer, event: PeerEvent) {
        tracing::debug!(peer = peer.name(), incarnation = peer.incarnation(), ?event, "worker link");
    }
}

/// A CONNECT of this bucket may be answered soon: the user worker decides it, and CONNACK waits for the receipt of the push worker.
#[must_use]
pub fn answers_logins(table: &Table, bucket: Bucket) -> bool {
    [Pool::User, Pool::Push].into_iter().all(|pool| {
        let row = table.owner(Daemon::Worker(pool), bucket).and_then(|name| table.instance(name));
        // A suspect does not answer: it recovers, or is replaced.
        row.is_some_and(|row| matches!(row.state, RowState::Ready | RowState::Degraded | RowState::Draining))
    })
}

#[cfg(test)]
mod tests {
    use wk_proto::node::v1::{self as pb, State};

    use super::*;

    fn table(user: State, push: State) -> Table {
        let workers = [(Daemon::Worker(Pool::User), user), (Daemon::Worker(Pool::Push), push)];
        let instance = |(daemon, state): &(Daemon, State)| pb::Instance {
            name: wk_types::InstanceName { daemon: *daemon, slot: 0 }.to_string(),
            state: (*state).into(),
            ..pb::Instance::default()
        };
        let pool = |(daemon, _): &(Daemon, State)| pb::PoolSlots { daemon: daemon.to_string(), slots: vec![0], ..Default::default() };
        let (instances, pools) = (workers.iter().map(instance).collect(), workers.iter().map(pool).collect());
        Table::from(pb::Table { epoch: 1, node_id: 1, instances, pools, ..pb::Table::default() })
    }

    #[test]
    fn a_login_needs_both_workers() {
        let answers = |user, push| answers_logins(&table(user, push), Bucket::of("ann"));
        assert!(answers(State::Ready, State::Ready) && answers(State::Degraded, State::Draining));
        for away in [State::Backoff, State::Starting, State::Suspect, State::Exited] {
            assert!(!answers(away, State::Ready), "user worker {away:?}");
            assert!(!answers(State::Ready, away), "push worker {away:?}");
        }
        assert!(!answers_logins(&Table::default(), Bucket::of("ann")));
    }
}
