//! The node: its identity, the node group, and which group serves which slot.

pub mod identity;
pub mod machine;
pub mod shards;
pub mod snapshot;

pub use identity::{DataLock, Identity, IdentityError};
pub use machine::{Layout, NodeMachine};
pub use shards::{Shards, SlotGroup};

use wk_store::GroupId;

/// The node group.
pub const NODE_GROUP: GroupId = GroupId(0);

/// Slot group of a shard. Source: `design/cluster.md` §8.2.
#[must_use]
pub fn slot_group(shard: u16) -> GroupId {
    GroupId(1 + 2 * u32::from(shard))
}

/// Channel group of a shard. Source: `design/cluster.md` §8.2.
#[must_use]
pub fn channel_group(shard: u16) -> GroupId {
    GroupId(2 + 2 * u32::from(shard))
}
