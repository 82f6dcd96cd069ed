//! The one openraft configuration of all groups, and how a proposal's outcome travels back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::alias::{LogIdOf, StoredMembershipOf, VoteOf};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::impls::leader_id_std;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use wk_types::NodeId;

use crate::error::ProposeError;
use crate::group::{ProposeCallback, Proposed};

/// A command as openraft carries it: opaque bytes. Its text form shows only the length.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Types of all groups. One leader per term, so a log id is term and index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = Bytes;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = Answer<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = VoteOf<Types>;
pub(crate) type RawEntry = openraft::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = StoredMembershipOf<Types>;

/// openraft's number of a node.
pub(crate) fn raw_node(node: NodeId) -> u64 {
    u64::from(node.0)
}

/// Our number of an openraft node; nothing when it cannot be one of ours.
pub(crate) fn node_of(raw: u64) -> Option<NodeId> {
    u16::try_from(raw).ok().map(NodeId)
}

/// Proposals of a group that are under way, by count and bytes.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl InFlight {
    /// Room for one more command, or nothing when a bound is reached. The permit gives the room back when dropped.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize, count_max: usize, bytes_max: usize) -> Option<Permit> {
        // Callers run on the one runtime thread; the counters are atomic because permits may be dropped elsewhere.
        let count = self.count.load(Ordering::Relaxed);
        let held = self.bytes.load(Ordering::Relaxed);
        if count >= count_max || (count > 0 && held + bytes > bytes_max) {
            return None;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Permit { owner: Arc::clone(self), bytes })
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Room of one proposal under way.
pub(crate) struct Permit {
    owner: Arc<InFlight>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.owner.count.fetch_sub(1, Ordering::Relaxed);
        self.owner.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Carries the outcome of a proposal to its callback. Dropped without one (the group stopped), the outcome is unknown.
pub(crate) struct Answer<T> {
    done: Option<ProposeCallback>,
    convert: fn(T) -> Result<Proposed, ProposeError>,
    _permit: Permit,
}

impl Answer<ClientWriteResult<Types>> {
    pub(crate) fn new(done: ProposeCallback, permit: Permit) -> Self {
        Self { done: Some(done), convert: outcome, _permit: permit }
    }
}

impl<T: Send + 'static> Responder<Types, T> for Answer<T> {
    fn on_complete(mut self, result: T) {
        if let Some(done) = self.done.take() {
            done((self.convert)(result));
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(ProposeError::UnknownOutcome));
        }
    }
}

fn outcome(result: ClientWriteResult<Types>) -> Result<Proposed, ProposeError> {
    match result {
        Ok(written) => Ok(Proposed { index: written.log_id.index, response: written.data }),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(match forward_hint(&forward) {
            Some(hint) => ProposeError::NotLeader { hint },
            None => ProposeError::NoLeader,
        }),
        Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ProposeError::UnknownOutcome),
        // Only membership changes and conditional writes can end so, and neither goes through an answer.
        Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => Err(ProposeError::UnknownOutcome),
    }
}

/// Where to go: nothing when nobody leads, otherwise the leader when it is known.
pub(crate) fn forward_hint(forward: &ForwardToLeader<Types>) -> Option<Option<NodeId>> {
    match (forward.reason, forward.leader_id) {
        (ForwardReason::LeaseExpired, _) | (_, None) => None,
        (_, Some(leader)) => Some(node_of(leader)),
    }
}
