//! One open group.

use std::time::Duration;

use bytes::Bytes;
use wk_store::GroupId;
use wk_types::NodeId;

use crate::error::{GroupError, ProposeError, ReadError};

/// An applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Log index of the entry.
    pub index: u64,
    /// What the state machine answered.
    pub response: Bytes,
}

/// Runs once with the outcome of a proposal, on the runtime thread, inside the consensus task: it must not block.
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

/// An open group. Clones share it.
#[derive(Debug, Clone)]
pub struct Group {
    id: GroupId,
}

impl Group {
    /// Number of the group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Make a fresh group of `members`, all voters. All members may call it with the same list. A group whose only voter is this node leads
    /// when this returns.
    ///
    /// # Errors
    /// [`GroupError::AlreadyInitialized`], [`GroupError::Members`], [`GroupError::Fatal`].
    pub async fn initialize(&self, members: &[NodeId]) -> Result<(), GroupError> {
        let _ = members;
        Err(GroupError::Fatal)
    }

    /// Whether this node leads, as far as it knows. Costs a load.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        false
    }

    /// Wait until some node leads and this one knows it; the leader.
    ///
    /// # Errors
    /// [`GroupError::Deadline`], [`GroupError::Fatal`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_leader(&self, deadline: Duration) -> Result<NodeId, GroupError> {
        let _ = deadline;
        Err(GroupError::Fatal)
    }

    /// Propose one command and wait until it is applied here.
    ///
    /// # Errors
    /// [`ProposeError`].
    ///
    /// # Cancel safety
    /// Dropped early, the command may still be applied.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        let _ = command;
        Err(ProposeError::Fatal)
    }

    /// Propose a batch; `done` runs once for each command, in any order, at the latest when the group stops. Nothing is spawned. Never waits: a batch that does not fit the
    /// bounds is refused whole with [`ProposeError::Overloaded`] through the callbacks.
    pub fn propose_many(&self, commands: impl IntoIterator<Item = (Bytes, ProposeCallback)>) {
        for (_, done) in commands {
            done(Err(ProposeError::Fatal));
        }
    }

    /// Wait until everything acknowledged before the call is applied here, and this node still leads: reads of the machine's rows that start
    /// afterwards are linearizable. With one voter it costs nothing but the wait for applies under way.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        Err(ReadError::Fatal)
    }
}
