//! All open groups of this node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use wk_store::{GroupId, LogBackend, LogWriter};
use wk_types::NodeId;

use crate::adapter::{Adapter, FatalHook, Position, Progress};
use crate::error::{GroupError, OpenError};
use crate::group::{Group, Inner, Raft, is_alone};
use crate::limits::{CORE_CHANNEL_SPARE, LAST_PURGE_STEP_ENTRIES, OPEN_CONCURRENCY};
use crate::log_store::GroupLog;
use crate::machine::{MachineError, StateMachine};
use crate::network::{Frames, Network, NetworkError, Replies, RpcKind};
use crate::options::RaftOptions;
use crate::peer::{self, Peers};
use crate::types::raw_node;

/// State of one group number in this process.
enum Slot {
    Opening,
    Open(Group),
    /// Closed; what is known to survive a crash. A group opened again must not take its applied position for durable.
    Closed(Position),
}

struct Shared {
    node: NodeId,
    backend: Arc<dyn LogBackend>,
    writer: LogWriter,
    network: Arc<dyn Network>,
    options: Arc<RaftOptions>,
    config: Arc<Config>,
    fatal: FatalHook,
    slots: Mutex<BTreeMap<GroupId, Slot>>,
}

/// All open groups of this node. Clones share them. Lives inside one current-thread tokio runtime.
#[derive(Clone)]
pub struct Groups {
    shared: Arc<Shared>,
}

/// Log the failure and abort: half a node is worse than none.
fn abort(group: GroupId, error: &MachineError) {
    let cause = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
    tracing::error!(group = group.0, err = %error, %cause, "state machine failed, aborting");
    std::process::abort();
}

impl Groups {
    /// No group is open yet. A failing state machine aborts the process.
    ///
    /// # Errors
    /// [`OpenError::Options`].
    pub fn new(
        node: NodeId,
        log: Arc<dyn LogBackend>,
        writer: LogWriter,
        network: Arc<dyn Network>,
        options: &RaftOptions,
    ) -> Result<Self, OpenError> {
        Self::with_fatal(node, log, writer, network, options, Arc::new(abort))
    }

    /// The same with another reaction to a failing state machine; it must end the process outside tests.
    ///
    /// # Errors
    /// [`OpenError::Options`].
    pub fn with_fatal(
        node: NodeId,
        log: Arc<dyn LogBackend>,
        writer: LogWriter,
        network: Arc<dyn Network>,
        options: &RaftOptions,
        fatal: FatalHook,
    ) -> Result<Self, OpenError> {
        let config = engine_config(options)?;
        let shared = Shared {
            node,
            backend: log,
            writer,
            network,
            options: Arc::new(options.clone()),
            config: Arc::new(config),
            fatal,
            slots: Mutex::new(BTreeMap::new()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Open a group: recover its log, replay what the machine lost, start it. A group whose only voter is this node leads when this returns.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Cancel safety
    /// Dropped early, the group stays unusable in this process: finish it.
    pub async fn open(&self, id: GroupId, machine: Box<dyn StateMachine>) -> Result<Group, OpenError> {
        let before = self.reserve(id)?;
        let opened = self.build(id, machine, before.clone()).await;
        let slot = match (&opened, before) {
            (Ok(group), _) => Some(Slot::Open(group.clone())),
            (Err(_), Some(flushed)) => Some(Slot::Closed(flushed)),
            (Err(_), None) => None,
        };
        let mut slots = self.shared.slots.lock();
        match slot {
            Some(slot) => slots.insert(id, slot),
            None => slots.remove(&id),
        };
        drop(slots);
        opened
    }

    /// Mark the number as being opened; what is known to survive a crash when it was open before.
    fn reserve(&self, id: GroupId) -> Result<Option<Position>, OpenError> {
        let mut slots = self.shared.slots.lock();
        let before = match slots.get(&id) {
            None => None,
            Some(Slot::Closed(flushed)) => Some(flushed.clone()),
            Some(Slot::Opening | Slot::Open(_)) => return Err(OpenError::AlreadyOpen(id)),
        };
        slots.insert(id, Slot::Opening);
        Ok(before)
    }

    async fn build(&self, id: GroupId, machine: Box<dyn StateMachine>, before: Option<Position>) -> Result<Group, OpenError> {
        let shared = &self.shared;
        let state = |detail: &dyn std::fmt::Display| OpenError::State { group: id, detail: detail.to_string() };
        let log = GroupLog::open(id, Arc::clone(&shared.backend), shared.writer.clone()).map_err(|error| state(&error))?;
        let progress = Arc::new(Progress::default());
        let adapter = Adapter {
            group: id,
            machine: Mutex::new(machine),
            progress: Arc::clone(&progress),
            log: log.clone(),
            fatal: Arc::clone(&shared.fatal),
            // What a fresh process reads back came from the device: it is flushed.
            trust_applied: before.is_none(),
        };
        if let Some(flushed) = before {
            if let Some(id) = flushed.log_id {
                log.set_flushed(id.index);
            }
            *progress.flushed.lock() = flushed;
        }
        let peers = Peers { group: id, network: Arc::clone(&shared.network) };
        let config = Arc::clone(&shared.config);
        let raft = Box::pin(Raft::build(raw_node(shared.node), config, peers, log.clone(), adapter)).await;
        let raft = raft.map_err(|error| state(&error))?;
        progress.running.store(true, Ordering::Relaxed);
        raft.run();
        let node = shared.node;
        let alone = raft.with_raft_state(move |state| is_alone(state.membership_state.effective().membership(), node)).await;
        let inner = Inner {
            id,
            node,
            raft,
            log,
            progress,
            options: Arc::clone(&shared.options),
            in_flight: Arc::default(),
            alone: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        let group = Group { inner: Arc::new(inner) };
        if alone.map_err(|error| state(&error))? {
            group.lead_alone().await.map_err(|error| state(&error))?;
        } else {
            group.leave_solitude();
        }
        Ok(group)
    }

    /// Open many groups, 64 at a time; the groups in the order of the list. Ends with the first failure.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_all(&self, list: impl IntoIterator<Item = (GroupId, Box<dyn StateMachine>)>) -> Result<Vec<Group>, OpenError> {
        let opens = list.into_iter().map(|(id, machine)| self.open(id, machine));
        futures_util::stream::iter(opens).buffered(OPEN_CONCURRENCY).try_collect().await
    }

    /// An open group.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<Group> {
        match self.shared.slots.lock().get(&id) {
            Some(Slot::Open(group)) => Some(group.clone()),
            _ => None,
        }
    }

    /// All open groups, by number.
    #[must_use]
    pub fn list(&self) -> Vec<Group> {
        let slots = self.shared.slots.lock();
        let open = slots.values().filter_map(|slot| match slot {
            Slot::Open(group) => Some(group.clone()),
            Slot::Opening | Slot::Closed(_) => None,
        });
        open.collect()
    }

    /// First group that stopped by itself: a storage failure or a bug of consensus. The process must end then; ask on a timer.
    #[must_use]
    pub fn first_failure(&self) -> Option<GroupId> {
        self.list().into_iter().find(Group::has_failed).map(|group| group.id())
    }

    /// Serve a call of another node.
    ///
    /// # Errors
    /// [`NetworkError::Refused`]: the group is not open here, or the frame is broken.
    pub async fn serve(&self, group: GroupId, kind: RpcKind, frame: Bytes) -> Result<Bytes, NetworkError> {
        let group = self.get(group).ok_or(NetworkError::Refused)?;
        peer::serve(&group.inner.raft, kind, frame).await
    }

    /// Serve an append stream of another node.
    #[must_use]
    pub fn serve_append(&self, group: GroupId, frames: Frames) -> Replies {
        match self.get(group) {
            Some(group) => peer::serve_append(&group.inner.raft, frames),
            None => Box::pin(futures_util::stream::iter([Err(NetworkError::Refused)])),
        }
    }

    /// Flush the data database through `flush`, then let every group purge what the flush made durable. The flusher calls this when
    /// enough was written or enough time passed, and at shutdown; one call at a time.
    ///
    /// # Errors
    /// What `flush` said; then nothing is purged.
    ///
    /// # Cancel safety
    /// Safe: what was not purged is purged by a later call.
    pub async fn flush_and_purge<E, F: Future<Output = Result<(), E>>>(&self, flush: impl FnOnce() -> F) -> Result<(), E> {
        self.flush_and_purge_from(self.shared.options.purge_step_entries, flush).await
    }

    /// The same, for the end of the process: shorter steps, so that little of the log is left for the next start to read.
    ///
    /// # Errors
    /// As [`Groups::flush_and_purge`].
    ///
    /// # Cancel safety
    /// As [`Groups::flush_and_purge`].
    pub async fn flush_and_purge_last<E, F: Future<Output = Result<(), E>>>(&self, flush: impl FnOnce() -> F) -> Result<(), E> {
        self.flush_and_purge_from(self.shared.options.purge_step_entries.min(LAST_PURGE_STEP_ENTRIES), flush).await
    }

    async fn flush_and_purge_from<E, F: Future<Output = Result<(), E>>>(
        &self,
        step_entries: u64,
        flush: impl FnOnce() -> F,
    ) -> Result<(), E> {
        let marks: Vec<(Group, Position)> = self.list().into_iter().map(|group| (group.clone(), group.position())).collect();
        flush().await?;
        for (group, position) in &marks {
            group.mark_flushed(position.clone());
        }
        let purges = marks.into_iter().map(|(group, _)| async move {
            match group.purge(step_entries).await {
                Ok(()) => {}
                // A stopped group is reported by `first_failure`; a slow one is purged by the next call.
                Err(GroupError::Fatal | GroupError::Deadline) => tracing::debug!(group = group.id().0, "log not purged this time"),
                Err(error) => tracing::warn!(group = group.id().0, err = %error, "log not purged"),
            }
        });
        futures_util::stream::iter(purges).buffer_unordered(OPEN_CONCURRENCY).collect::<()>().await;
        Ok(())
    }

    /// Close one group; nothing happens when it is not open.
    pub async fn close(&self, id: GroupId) {
        let Some(group) = self.get(id) else { return };
        group.shutdown().await;
        let flushed = group.inner.progress.flushed.lock().clone();
        self.shared.slots.lock().insert(id, Slot::Closed(flushed));
    }

    /// Stop all groups: proposals under way end with an answer or an unknown outcome. Flush first.
    pub async fn shutdown(&self) {
        let closes = self.list().into_iter().map(|group| self.close(group.id()));
        futures_util::stream::iter(closes).buffer_unordered(OPEN_CONCURRENCY).collect::<()>().await;
    }
}

fn engine_config(options: &RaftOptions) -> Result<Config, OpenError> {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "wukongim".into(),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: millis(options.election_min),
        election_timeout_max: millis(options.election_max),
        enable_pre_vote: Some(options.pre_vote),
        max_payload_entries: options.append_entries_max,
        api_channel_size: Some((options.proposals_in_flight_max + CORE_CHANNEL_SPARE) as u64),
        // Snapshots and purges are driven by the flusher alone.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // A restarted leader asks for votes again, so that it learns what is committed before it serves.
        enable_leader_restore: Some(false),
        // Switched on for every group with more than one member.
        enable_tick: false,
        ..Config::default()
    };
    config.validate().map_err(|error| OpenError::Options(error.to_string()))
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("node", &self.shared.node).finish_non_exhaustive()
    }
}
