//! Slots, shards and their groups on this node.

use std::sync::{Arc, OnceLock};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wk_raft::{Group, GroupError, Groups, OpenError, StateMachine};
use wk_store::{DataDb, GroupId, StoreError};
use wk_types::{Bucket, NodeId};

use super::machine::Layout;
use super::{channel_group, slot_group};
use crate::append::ChannelGroup;
use crate::channel::ChannelMachine;
use crate::channel::machine::GroupPlace;
use crate::clock::Clock;
use crate::error::Refusal;
use crate::limits::{LEADER_DEADLINE, OPEN_AT_ONCE};
use crate::metrics::Metrics;
use crate::shard::{ShardMachine, machine as shard_machine};

/// Why the groups of a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// A group did not open.
    #[error("open group {group}")]
    Open {
        /// The group.
        group: GroupId,
        /// What failed.
        #[source]
        source: OpenError,
    },
    /// A group did not get its first members or its leader.
    #[error("start group {group}")]
    Start {
        /// The group.
        group: GroupId,
        /// What failed.
        #[source]
        source: GroupError,
    },
    /// A row of the group could not be read.
    #[error("read the state of group {group}")]
    Read {
        /// The group.
        group: GroupId,
        /// What failed.
        #[source]
        source: StoreError,
    },
}

/// An open slot group.
#[derive(Debug, Clone)]
pub struct SlotGroup {
    /// Its consensus group.
    pub group: Group,
    /// The lock clock where this leader took over. Unit: ms.
    lock_base_ms: i64,
    since: Clock,
}

impl SlotGroup {
    /// Lock clock of this leader: continues where the group's last lock command stood, and runs only while the leader does. Unit: ms.
    #[must_use]
    pub fn lock_now_ms(&self) -> i64 {
        self.lock_base_ms.saturating_add_unsigned(self.since.elapsed_ms())
    }
}

/// What groups are opened with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Consensus.
    pub groups: Groups,
    /// State machine database.
    pub db: DataDb,
    /// First members of a fresh group.
    pub members: Vec<NodeId>,
    /// Clock of the node.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
    /// `chan` rows each channel group keeps in memory.
    pub cache_rows: usize,
    /// Owner of the tasks of channel groups.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    parts: Parts,
    layout: Layout,
    slots: Vec<OnceLock<SlotGroup>>,
    channels: Vec<Arc<ChannelGroup>>,
}

/// The groups of this node by shard. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shards {
    inner: Arc<Inner>,
}

/// Opens a group, makes it when it is fresh, waits for its leader.
///
/// # Errors
/// [`GroupsError`].
pub async fn open_group(parts: &Parts, id: GroupId, machine: Box<dyn StateMachine>) -> Result<Group, GroupsError> {
    let group = parts.groups.open(id, machine).await.map_err(|source| GroupsError::Open { group: id, source })?;
    let failed = |source| GroupsError::Start { group: id, source };
    match group.initialize(&parts.members).await {
        Ok(()) | Err(GroupError::AlreadyInitialized) => {}
        Err(source) => return Err(failed(source)),
    }
    group.wait_leader(LEADER_DEADLINE).await.map_err(failed)?;
    Ok(group)
}

impl Shards {
    /// All groups of a layout, none of them open.
    #[must_use]
    pub fn new(parts: Parts, layout: Layout) -> Self {
        let shards = layout.shards;
        let channel = |shard| {
            let place = GroupPlace { group: channel_group(shard), shard, shards };
            Arc::new(ChannelGroup::new(place, parts.clock, parts.metrics.clone()))
        };
        let channels = (0..shards).map(channel).collect();
        let slots = (0..shards).map(|_| OnceLock::new()).collect();
        Self { inner: Arc::new(Inner { parts, layout, slots, channels }) }
    }

    /// Layout of the cluster.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Number of shards.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.inner.layout.shards
    }

    /// Data database of the node.
    #[must_use]
    pub fn db(&self) -> &DataDb {
        &self.inner.parts.db
    }

    /// Consensus of the node.
    #[must_use]
    pub fn groups(&self) -> &Groups {
        &self.inner.parts.groups
    }

    /// Opens all slot groups.
    ///
    /// # Errors
    /// The first failure.
    pub async fn open_slots(&self) -> Result<(), GroupsError> {
        let mut opening = stream::iter(0..self.count()).map(|shard| self.open_slot(shard)).buffer_unordered(OPEN_AT_ONCE);
        while let Some(opened) = opening.next().await {
            opened?;
        }
        Ok(())
    }

    async fn open_slot(&self, shard: u16) -> Result<(), GroupsError> {
        let parts = &self.inner.parts;
        let place = GroupPlace { group: slot_group(shard), shard, shards: self.count() };
        let machine = ShardMachine::new(place, parts.db.clone(), parts.metrics.slot_apply.clone());
        let group = open_group(parts, place.group, Box::new(machine)).await?;
        let lock_base_ms = shard_machine::clock(&parts.db, place).map_err(|source| GroupsError::Read { group: place.group, source })?;
        if let Some(slot) = self.inner.slots.get(usize::from(shard)) {
            // Opened once: a second opening was refused above.
            drop(slot.set(SlotGroup { group, lock_base_ms, since: Clock::anchored() }));
        }
        Ok(())
    }

    /// Opens the channel groups among `with_data`.
    ///
    /// # Errors
    /// The first failure.
    pub async fn open_channels(&self, with_data: &[GroupId]) -> Result<(), GroupsError> {
        let wanted = self.inner.channels.iter().filter(|channel| with_data.contains(&channel.place().group));
        let claimed: Vec<_> = wanted.filter(|channel| channel.claim_start()).cloned().collect();
        let mut opening = stream::iter(claimed).map(|channel| self.open_channel(channel)).buffer_unordered(OPEN_AT_ONCE);
        while let Some(opened) = opening.next().await {
            let (channel, group) = opened?;
            self.inner.parts.tasks.spawn(channel.run(group, self.inner.parts.stop.clone()));
        }
        Ok(())
    }

    async fn open_channel(&self, channel: Arc<ChannelGroup>) -> Result<(Arc<ChannelGroup>, Group), GroupsError> {
        let parts = &self.inner.parts;
        let place = channel.place();
        let machine =
            ChannelMachine::new(place, parts.db.clone(), parts.cache_rows, channel.journal().clone(), parts.metrics.channel_apply.clone());
        let group = open_group(parts, place.group, Box::new(machine)).await?;
        Ok((channel, group))
    }

    /// Slot group of a slot.
    ///
    /// # Errors
    /// It is not open yet.
    pub fn slot(&self, slot: Bucket) -> Result<&SlotGroup, Refusal> {
        let shard = self.inner.layout.shard_of(slot.index());
        let group = self.inner.slots.get(usize::from(shard)).and_then(OnceLock::get);
        group.ok_or_else(|| Refusal::not_ready("slot group is not open"))
    }

    /// Channel group of a slot; it may be closed.
    ///
    /// # Panics
    /// Never: a layout has a channel group for every shard.
    #[must_use]
    pub fn channel(&self, slot: Bucket) -> &Arc<ChannelGroup> {
        let shard = self.inner.layout.shard_of(slot.index());
        self.inner.channels.get(usize::from(shard)).expect("a layout has a channel group for every shard")
    }

    /// Channel group of a shard number from outside.
    #[must_use]
    pub fn channel_of_shard(&self, shard: u32) -> Option<&Arc<ChannelGroup>> {
        self.inner.channels.get(usize::try_from(shard).ok()?)
    }

    /// All channel groups, by shard.
    #[must_use]
    pub fn channels(&self) -> &[Arc<ChannelGroup>] {
        &self.inner.channels
    }

    /// Channel group of a slot; a closed one is being opened from now on, and what is queued meanwhile waits.
    #[must_use]
    pub fn channel_started(&self, slot: Bucket) -> &Arc<ChannelGroup> {
        let channel = self.channel(slot);
        self.start(channel);
        channel
    }

    /// Begins to open a channel group unless that was done before.
    pub fn start(&self, channel: &Arc<ChannelGroup>) {
        if channel.group().is_some() || !channel.claim_start() {
            return;
        }
        let (this, channel) = (self.clone(), Arc::clone(channel));
        let stop = self.inner.parts.stop.clone();
        self.inner.parts.tasks.spawn(async move {
            match this.open_channel(Arc::clone(&channel)).await {
                Ok((channel, group)) => channel.run(group, stop).await,
                Err(error) => {
                    tracing::error!(group = channel.place().group.0, err = %error, "channel group cannot be opened");
                    channel.open_failed(&Refusal::not_ready("channel group cannot be opened"));
                }
            }
        });
    }

    /// Waits until a channel group is open, starting it when needed.
    ///
    /// # Errors
    /// It did not open in time.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn opened(&self, channel: &Arc<ChannelGroup>) -> Result<Group, Refusal> {
        self.start(channel);
        match tokio::time::timeout(LEADER_DEADLINE, channel.wait_open()).await {
            Ok(group) => Ok(group),
            Err(_) => Err(Refusal::not_ready("channel group is not open")),
        }
    }
}
