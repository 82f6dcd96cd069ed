//! The node table as it is published.

use wk_proto::node::v1 as pb;
use wk_types::Daemon;

/// What a table says of the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Never falls; grows with each change of the pools' slots.
    pub epoch: u64,
    /// Cluster node id.
    pub node_id: u32,
    /// Clients are admitted.
    pub admitted: bool,
    /// A stop is under way.
    pub quiescing: bool,
}

/// Who owns the buckets of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Pool.
    pub daemon: Daemon,
    /// Its slots.
    pub slots: Vec<u16>,
    /// Its slots after the move that is under way; empty: none is.
    pub next: Vec<u16>,
    /// Second step of the move.
    pub held: bool,
}

impl Share {
    /// The share of these slots, without a move.
    #[must_use]
    pub fn of(daemon: Daemon, slots: Vec<u16>) -> Self {
        Self { daemon, slots, next: Vec::new(), held: false }
    }
}

/// Builds the table: rows sorted by name, the slots of each pool.
#[must_use]
pub fn build(head: Head, rows: impl IntoIterator<Item = pb::Instance>, pools: impl IntoIterator<Item = Share>) -> pb::Table {
    let mut instances: Vec<pb::Instance> = rows.into_iter().collect();
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    let numbers = |mut slots: Vec<u16>| {
        slots.sort_unstable();
        slots.into_iter().map(u32::from).collect()
    };
    let pools = pools.into_iter().map(|share| pb::PoolSlots {
        daemon: share.daemon.name().into(),
        slots: numbers(share.slots),
        next: numbers(share.next),
        held: share.held,
    });
    pb::Table {
        epoch: head.epoch,
        node_id: head.node_id,
        admitted: head.admitted,
        quiescing: head.quiescing,
        instances,
        pools: pools.collect(),
    }
}
