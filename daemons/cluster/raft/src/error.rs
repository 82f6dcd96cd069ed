//! Errors that cross the border of this crate: closed sets.

use wk_store::GroupId;
use wk_types::NodeId;

/// A proposal was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads; nothing was written.
    #[error("another node leads the group")]
    NotLeader {
        /// The leader, when known.
        hint: Option<NodeId>,
    },
    /// No node leads, or the lease of this leader expired; nothing was written. Retry after an election timeout.
    #[error("the group has no leader")]
    NoLeader,
    /// Too many commands in flight, or a command above the size limit; nothing was written.
    #[error("the group is overloaded")]
    Overloaded,
    /// The group stopped after a storage failure; the process is about to end.
    #[error("the group failed")]
    Fatal,
    /// The command may or may not be applied, now or later: leadership was lost or the group closed while it was under way. Retry only what
    /// is idempotent.
    #[error("the outcome is unknown")]
    UnknownOutcome,
}

/// A linearizable read is not possible here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another node leads.
    #[error("another node leads the group")]
    NotLeader {
        /// The leader, when known.
        hint: Option<NodeId>,
    },
    /// No node leads, or the lease of this leader expired.
    #[error("the group has no leader")]
    NoLeader,
    /// The group stopped.
    #[error("the group failed")]
    Fatal,
}

/// A group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The group is open already.
    #[error("group {0} is open already")]
    AlreadyOpen(GroupId),
    /// The options do not fit together.
    #[error("raft options are invalid: {0}")]
    Options(String),
    /// Stored consensus state could not be read.
    #[error("group {group} cannot read its stored state: {detail}")]
    State {
        /// The group.
        group: GroupId,
        /// What failed, with its causes.
        detail: String,
    },
}

/// A management operation on a group failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The group has members already. Harmless when initialisation is repeated.
    #[error("the group is initialised already")]
    AlreadyInitialized,
    /// The member list is empty or lacks this node.
    #[error("the member list is invalid")]
    Members,
    /// Not the leader.
    #[error("another node leads the group")]
    NotLeader {
        /// The leader, when known.
        hint: Option<NodeId>,
    },
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// The log cannot be cut there: the entries are not flushed into the data database or not applied.
    #[error("entries above {safe} are still needed")]
    NotFlushed {
        /// Largest index that may be purged.
        safe: u64,
    },
    /// Another change of the members is under way.
    #[error("a membership change is under way")]
    Busy,
    /// The group stopped.
    #[error("the group failed")]
    Fatal,
}
