//! What consensus needs from the transport between nodes, and an in-process network for tests.
//!
//! Frames are opaque: their codec lies in this crate. A transport carries them between nodes in order and hands incoming ones to
//! [`crate::Groups::serve`] and [`crate::Groups::serve_append`].

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::Stream;
use parking_lot::Mutex;
use wk_store::GroupId;
use wk_types::NodeId;

use crate::groups::Groups;

/// Kinds of unary calls between nodes. The numbers are on the wire: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RpcKind {
    /// Ask for a vote.
    Vote = 1,
    /// Ask whether a vote would be granted.
    PreVote = 2,
    /// Send a whole snapshot.
    Snapshot = 3,
    /// Tell a node to take over.
    Transfer = 4,
}

impl RpcKind {
    /// The kind of a number from the wire.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Vote, Self::PreVote, Self::Snapshot, Self::Transfer].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Frames of an append stream, in order.
pub type Frames = Pin<Box<dyn Stream<Item = Bytes> + Send>>;
/// Replies of an append stream, one per frame, in order; it ends after the first error.
pub type Replies = Pin<Box<dyn Stream<Item = Result<Bytes, NetworkError>> + Send>>;

/// A frame did not reach the other node, or its answer did not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No connection: consensus backs off before it tries again.
    #[error("node is unreachable")]
    Unreachable,
    /// The deadline passed or the connection broke during the call.
    #[error("call to the node was lost")]
    Lost,
    /// The other node does not serve the group (yet), or could not read the frame.
    #[error("node refused the call")]
    Refused,
}

/// Carries frames to other nodes.
pub trait Network: Send + Sync + 'static {
    /// One call: the frame of the answer.
    fn call(
        &self,
        target: NodeId,
        group: GroupId,
        kind: RpcKind,
        frame: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>>;

    /// A stream of append frames; answers come in the order of the frames. Dropping the replies ends the stream. `idle` is
    /// how long an answer may take.
    fn append(&self, target: NodeId, group: GroupId, frames: Frames, idle: Duration) -> Replies;
}

/// The network of a node without neighbours: every call fails as unreachable.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoNetwork;

impl Network for NoNetwork {
    fn call(&self, _: NodeId, _: GroupId, _: RpcKind, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        Box::pin(std::future::ready(Err(NetworkError::Unreachable)))
    }

    fn append(&self, _: NodeId, _: GroupId, _: Frames, _: Duration) -> Replies {
        Box::pin(futures_util::stream::iter([Err(NetworkError::Unreachable)]))
    }
}

/// Several nodes in one process, for tests. Clones share it.
#[derive(Clone, Default)]
pub struct Loopback {
    nodes: Arc<Mutex<HashMap<NodeId, Groups>>>,
}

impl Loopback {
    /// An empty network.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Make a node reachable.
    pub fn attach(&self, node: NodeId, groups: Groups) {
        self.nodes.lock().insert(node, groups);
    }

    /// Cut a node off: calls to it fail from now on.
    pub fn detach(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
    }

    fn find(&self, node: NodeId) -> Option<Groups> {
        self.nodes.lock().get(&node).cloned()
    }
}

impl std::fmt::Debug for Loopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loopback").finish_non_exhaustive()
    }
}

impl Network for Loopback {
    fn call(
        &self,
        target: NodeId,
        group: GroupId,
        kind: RpcKind,
        frame: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let Some(node) = self.find(target) else {
            return Box::pin(std::future::ready(Err(NetworkError::Unreachable)));
        };
        Box::pin(async move {
            match tokio::time::timeout(deadline, node.serve(group, kind, frame)).await {
                Ok(answer) => answer,
                Err(_) => Err(NetworkError::Lost),
            }
        })
    }

    fn append(&self, target: NodeId, group: GroupId, frames: Frames, _idle: Duration) -> Replies {
        match self.find(target) {
            Some(node) => node.serve_append(group, frames),
            None => Box::pin(futures_util::stream::iter([Err(NetworkError::Unreachable)])),
        }
    }
}
