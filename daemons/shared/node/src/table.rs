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

/// Builds the table: rows sorted by name, the wanted slots of each pool.
#[must_use]
pub fn build(head: Head, rows: impl IntoIterator<Item = pb::Instance>, pools: impl IntoIterator<Item = (Daemon, Vec<u16>)>) -> pb::Table {
    let mut instances: Vec<pb::Instance> = rows.into_iter().collect();
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    let pools = pools.into_iter().map(|(daemon, mut slots)| {
        slots.sort_unstable();
        pb::PoolSlots { daemon: daemon.name().into(), slots: slots.into_iter().map(u32::from).collect() }
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
