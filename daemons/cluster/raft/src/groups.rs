//! All open groups of this node.

use std::sync::Arc;

use bytes::Bytes;
use wk_store::{GroupId, LogBackend, LogWriter};
use wk_types::NodeId;

use crate::error::OpenError;
use crate::group::Group;
use crate::machine::StateMachine;
use crate::network::{Frames, Network, NetworkError, Replies, RpcKind};
use crate::options::RaftOptions;

/// All open groups of this node. Clones share them.
#[derive(Clone)]
pub struct Groups {
    node: NodeId,
}

impl Groups {
    /// No group is open yet. Must be called, like everything here, inside a tokio runtime.
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
        let _ = (log, writer, network, options);
        Ok(Self { node })
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Open a group: recover its log, replay what the machine lost, start it. A group whose only voter is this node leads when this returns.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, id: GroupId, machine: Box<dyn StateMachine>) -> Result<Group, OpenError> {
        let _ = machine;
        Err(OpenError::AlreadyOpen(id))
    }

    /// An open group.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<Group> {
        let _ = id;
        None
    }

    /// All open groups, by number.
    #[must_use]
    pub fn list(&self) -> Vec<Group> {
        Vec::new()
    }

    /// Serve a call of another node.
    ///
    /// # Errors
    /// [`NetworkError::Refused`].
    pub async fn serve(&self, group: GroupId, kind: RpcKind, frame: Bytes) -> Result<Bytes, NetworkError> {
        let _ = (group, kind, frame);
        Err(NetworkError::Refused)
    }

    /// Serve an append stream of another node.
    #[must_use]
    pub fn serve_append(&self, group: GroupId, frames: Frames) -> Replies {
        let _ = (group, frames);
        Box::pin(futures_util::stream::iter([Err(NetworkError::Refused)]))
    }

    /// Flush the data database through `flush`, then let every group purge what the flush made durable.
    ///
    /// # Errors
    /// What `flush` said.
    pub async fn flush_and_purge<E>(&self, flush: impl AsyncFnOnce() -> Result<(), E>) -> Result<(), E> {
        flush().await
    }

    /// Stop all groups: proposals under way end with an unknown outcome or an answer.
    pub async fn shutdown(&self) {}
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("node", &self.node).finish_non_exhaustive()
    }
}
