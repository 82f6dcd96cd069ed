//! One open group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::{RaftMetrics, ReadPolicy, ServerState};
use wk_store::GroupId;
use wk_types::NodeId;

use crate::adapter::{Adapter, Position, Progress};
use crate::error::{GroupError, ProposeError, ReadError};
use crate::limits::{FOLLOWER_LAG_ENTRIES_MAX, LEAD_WAIT, PURGE_WAIT};
use crate::log_store::GroupLog;
use crate::options::RaftOptions;
use crate::types::{Answer, Command, InFlight, Membership, Types, forward_hint, node_of, raw_node};

pub(crate) type Raft = openraft::Raft<Types, Adapter>;

/// An applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Log index of the entry.
    pub index: u64,
    /// What the state machine answered.
    pub response: Bytes,
}

/// Runs once with the outcome of a proposal, on the runtime thread, inside a consensus task: it must not block, and it may run before
/// the call that proposed returns.
pub type ProposeCallback = Box<dyn FnOnce(Result<Proposed, ProposeError>) + Send>;

/// What this node is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Has no vote.
    Learner,
    /// Follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped.
    Stopped,
}

/// State of a group, for status pages and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// Role of this node.
    pub role: Role,
    /// Term.
    pub term: u64,
    /// Leader, when known.
    pub leader: Option<NodeId>,
    /// Last log index.
    pub last_index: Option<u64>,
    /// Last applied index.
    pub applied: Option<u64>,
    /// Last index that survives a crash in the data database.
    pub flushed: Option<u64>,
    /// Last purged index.
    pub purged: Option<u64>,
    /// Voters, ascending.
    pub voters: Vec<NodeId>,
    /// Learners, ascending.
    pub learners: Vec<NodeId>,
    /// Proposals under way.
    pub in_flight: usize,
}

pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) log: GroupLog,
    pub(crate) progress: Arc<Progress>,
    pub(crate) options: Arc<RaftOptions>,
    pub(crate) in_flight: Arc<InFlight>,
    /// Whether this node is the only member: no ticks run and reads need no quorum.
    pub(crate) alone: AtomicBool,
    pub(crate) closed: AtomicBool,
}

/// An open group. Clones share it.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

/// Whether `node` is the only member.
pub(crate) fn is_alone(membership: &Membership, node: NodeId) -> bool {
    let me = BTreeSet::from([raw_node(node)]);
    let configs = membership.get_joint_config();
    !configs.is_empty() && configs.iter().all(|config| *config == me) && membership.nodes().count() == 1
}

impl Group {
    /// Number of the group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Whether the group has no members yet and waits for [`Group::initialize`] or for a leader that adds this node.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        self.inner.log.is_pristine()
    }

    /// Make a fresh group of `members`, all voters. All members may call it with the same list. A group whose only voter is this node leads
    /// when this returns.
    ///
    /// # Errors
    /// [`GroupError::AlreadyInitialized`], [`GroupError::Members`], [`GroupError::Deadline`], [`GroupError::Fatal`].
    pub async fn initialize(&self, members: &[NodeId]) -> Result<(), GroupError> {
        let nodes: BTreeMap<u64, ()> = members.iter().map(|node| (raw_node(*node), ())).collect();
        if !members.contains(&self.inner.node) {
            return Err(GroupError::Members);
        }
        self.inner.raft.initialize(nodes).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => GroupError::AlreadyInitialized,
            RaftError::APIError(InitializeError::NotInMembers(_)) => GroupError::Members,
            RaftError::Fatal(_) => GroupError::Fatal,
        })?;
        if members.iter().all(|node| *node == self.inner.node) { self.lead_alone().await } else { Ok(()) }
    }

    /// The only member needs no clock: it elects itself at once and its lease never ends.
    pub(crate) async fn lead_alone(&self) -> Result<(), GroupError> {
        let raft = &self.inner.raft;
        raft.runtime_config().tick(false);
        self.inner.alone.store(true, Ordering::Relaxed);
        raft.trigger().elect(false).await.map_err(|_| GroupError::Fatal)?;
        self.wait(LEAD_WAIT, |metrics| metrics.state.is_leader()).await?;
        // Everything in the log is committed and applied once the first entry of the new term is.
        match raft.ensure_linearizable(ReadPolicy::LeaseRead).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(_)) => Err(GroupError::NotLeader { hint: self.leader() }),
            Err(RaftError::Fatal(_)) => Err(GroupError::Fatal),
        }
    }

    /// Whether this node leads, as far as it knows. Costs a lock without contention.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.raft.is_leader()
    }

    /// The leader, when known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.raft.metrics().borrow_watched().current_leader.and_then(node_of)
    }

    /// Wait until some node leads and this one knows it; the leader.
    ///
    /// # Errors
    /// [`GroupError::Deadline`], [`GroupError::Fatal`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_leader(&self, deadline: Duration) -> Result<NodeId, GroupError> {
        let metrics = self.wait(deadline, |metrics| metrics.current_leader.is_some()).await?;
        metrics.current_leader.and_then(node_of).ok_or(GroupError::Deadline)
    }

    async fn wait(
        &self,
        deadline: Duration,
        condition: impl Fn(&RaftMetrics<Types>) -> bool + Send,
    ) -> Result<RaftMetrics<Types>, GroupError> {
        let wait = self.inner.raft.wait(Some(deadline));
        let metrics = wait.metrics(move |metrics| metrics.running_state.is_err() || condition(metrics), "condition").await;
        match metrics {
            Ok(metrics) if metrics.running_state.is_err() => Err(GroupError::Fatal),
            Ok(metrics) => Ok(metrics),
            Err(_) if self.inner.closed.load(Ordering::Relaxed) => Err(GroupError::Fatal),
            Err(_) => Err(GroupError::Deadline),
        }
    }

    /// Propose one command and wait until it is applied here.
    ///
    /// # Errors
    /// [`ProposeError`].
    ///
    /// # Cancel safety
    /// Dropped early, the command may still be applied.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.propose_with(command, Box::new(move |outcome| drop(done.send(outcome))));
        wait.await.unwrap_or(Err(ProposeError::UnknownOutcome))
    }

    /// Propose one command; `done` runs once with the outcome, at the latest when the group stops. Nothing is spawned and nothing waits: above
    /// the bounds of [`RaftOptions`] the command is refused with [`ProposeError::Overloaded`]. Commands of one caller enter the log in the order
    /// of the calls.
    pub fn propose_with(&self, command: Bytes, done: ProposeCallback) {
        let inner = &self.inner;
        if inner.closed.load(Ordering::Relaxed) {
            done(Err(ProposeError::Fatal));
            return;
        }
        let options = &inner.options;
        let permit = if command.len() <= options.command_bytes_max {
            inner.in_flight.enter(command.len(), options.proposals_in_flight_max, options.proposal_bytes_in_flight_max)
        } else {
            None
        };
        let Some(permit) = permit else {
            done(Err(ProposeError::Overloaded));
            return;
        };
        let send = inner.raft.client_write_ff(Command(command), Some(Answer::new(done, permit)));
        // The core's channel has room for every permit and some more, so the first poll sends; `unconstrained` keeps tokio's
        // cooperative budget from making it wait. Should it wait or fail all the same, the answer is dropped and says so itself.
        if !matches!(tokio::task::unconstrained(send).now_or_never(), Some(Ok(()))) {
            tracing::debug!(group = inner.id.0, "proposal not taken by the consensus core");
        }
    }

    /// Propose a batch: [`Group::propose_with`] for each command, in order. Commands above the bounds are refused, the ones before them are not.
    pub fn propose_many(&self, commands: impl IntoIterator<Item = (Bytes, ProposeCallback)>) {
        for (command, done) in commands {
            self.propose_with(command, done);
        }
    }

    /// Wait until everything acknowledged before the call is applied here, and this node still leads: reads of the machine's rows that start
    /// afterwards are linearizable. The only voter answers at once; otherwise the leader's lease decides, without a message to anyone.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        // Alone, nobody can take over, and answers are given after apply.
        if self.inner.alone.load(Ordering::Relaxed) && self.is_leader() {
            return Ok(());
        }
        match self.inner.raft.ensure_linearizable(ReadPolicy::LeaseRead).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => Err(match forward_hint(&forward) {
                Some(hint) => ReadError::NotLeader { hint },
                None => ReadError::NoLeader,
            }),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadError::NoLeader),
            Err(RaftError::Fatal(_)) => Err(ReadError::Fatal),
        }
    }

    /// State of the group now.
    #[must_use]
    pub fn status(&self) -> Status {
        let watched = self.inner.raft.metrics();
        let metrics = watched.borrow_watched();
        let role = match metrics.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        };
        let membership = metrics.membership_config.membership();
        Status {
            group: self.inner.id,
            role: if metrics.running_state.is_err() { Role::Stopped } else { role },
            term: metrics.current_term,
            leader: metrics.current_leader.and_then(node_of),
            last_index: metrics.last_log_index,
            applied: self.inner.progress.applied.lock().log_id.map(|id| id.index),
            flushed: self.inner.log.flushed(),
            purged: self.inner.log.purged(),
            voters: membership.voter_ids().filter_map(node_of).collect(),
            learners: membership.learner_ids().filter_map(node_of).collect(),
            in_flight: self.inner.in_flight.count(),
        }
    }

    /// Add a node without a vote; it catches up in the background.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), GroupError> {
        self.leave_solitude();
        self.inner.raft.add_learner(raw_node(node), (), false).await.map(drop).map_err(|error| self.member_error(&error))
    }

    /// Make `voters` the voters; each must be a learner or a voter already. Others leave the group.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn change_voters(&self, voters: &[NodeId]) -> Result<(), GroupError> {
        self.leave_solitude();
        let voters: BTreeSet<u64> = voters.iter().map(|node| raw_node(*node)).collect();
        self.inner.raft.change_membership(voters, false).await.map(drop).map_err(|error| self.member_error(&error))
    }

    /// Hand leadership to `node`; it leads a few milliseconds later, when its log is complete.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`], [`GroupError::Fatal`].
    pub async fn transfer_leader(&self, node: NodeId) -> Result<(), GroupError> {
        if !self.is_leader() {
            return Err(GroupError::NotLeader { hint: self.leader() });
        }
        self.inner.raft.trigger().transfer_leader(raw_node(node)).await.map_err(|_| GroupError::Fatal)
    }

    /// From now on timers are needed.
    pub(crate) fn leave_solitude(&self) {
        self.inner.alone.store(false, Ordering::Relaxed);
        self.inner.raft.runtime_config().tick(true);
    }

    fn member_error(&self, error: &RaftError<Types, ClientWriteError<Types>>) -> GroupError {
        match error {
            RaftError::Fatal(_) => GroupError::Fatal,
            RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_)) => {
                GroupError::NotLeader { hint: self.leader() }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))) => GroupError::Busy,
            RaftError::APIError(_) => GroupError::Members,
        }
    }

    /// Whether the group stopped although nobody closed it.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.inner.closed.load(Ordering::Relaxed) && self.inner.raft.metrics().borrow_watched().running_state.is_err()
    }

    /// Position that a flush starting now makes durable.
    pub(crate) fn position(&self) -> Position {
        self.inner.progress.applied.lock().clone()
    }

    /// A flush that started after [`Group::position`] gave `position` has ended.
    pub(crate) fn mark_flushed(&self, position: Position) {
        let Some(id) = position.log_id else { return };
        let mut flushed = self.inner.progress.flushed.lock();
        if flushed.log_id < position.log_id {
            *flushed = position;
        }
        drop(flushed);
        self.inner.log.set_flushed(id.index);
    }

    /// Cut the log up to what is flushed, but not what a live follower still lacks. Steps below
    /// `step_entries` are left for later: each is a range tombstone.
    ///
    /// # Errors
    /// [`GroupError::Deadline`]: tried again with the next call. [`GroupError::Fatal`].
    pub async fn purge(&self, step_entries: u64) -> Result<(), GroupError> {
        let Some(mut safe) = self.inner.log.flushed() else {
            return Ok(());
        };
        if let Some(followers) = &self.inner.raft.metrics().borrow_watched().replication {
            let last = safe;
            let matched = followers.values().map(|matched| matched.as_ref().map_or(0, |id| id.index));
            let live = matched.filter(|matched| last.saturating_sub(*matched) <= FOLLOWER_LAG_ENTRIES_MAX);
            safe = live.fold(safe, u64::min);
        }
        let start = self.inner.log.purged().map_or(0, |index| index + 1);
        if (safe + 1).saturating_sub(start) < step_entries {
            return Ok(());
        }
        let fatal = |_| GroupError::Fatal;
        let covered = move |metrics: &RaftMetrics<Types>| metrics.snapshot.is_some_and(|id| id.index >= safe);
        self.inner.raft.trigger().snapshot().await.map_err(fatal)?;
        self.wait(PURGE_WAIT, covered).await?;
        self.inner.raft.trigger().purge_log(safe).await.map_err(fatal)?;
        self.wait(PURGE_WAIT, move |metrics| metrics.purged.is_some_and(|id| id.index >= safe)).await.map(drop)
    }

    /// Stop the group. Proposals under way end with an answer or an unknown outcome. Rows stay as they are.
    pub async fn shutdown(&self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(group = self.inner.id.0, err = %error, "group did not stop cleanly");
        }
        // The state machine task may still hold committed entries; a group opened again must not race it.
        if self.inner.progress.gone.acquire().await.is_ok() {
            tracing::error!(group = self.inner.id.0, "closing mark of a state machine gave a permit");
        }
        self.inner.progress.running.store(false, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("id", &self.inner.id).field("node", &self.inner.node).finish_non_exhaustive()
    }
}
