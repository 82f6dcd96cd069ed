//! What the routes need of the rest of the node: reads of the cluster, writes through owners, message ids, sends.

use bytes::Bytes;
use tokio::time::timeout;
use wk_link::{Keep, Kind, LinkSet, Outgoing};
use wk_proto::cluster::v1 as cluster;
use wk_proto::worker::v1 as worker;
use wk_rpc::{CallError, ClusterData};
use wk_types::{Bucket, MessageId};

use crate::ids::Ids;
use crate::limits::SEND_DEADLINE;
use crate::owners::{OwnerError, Owners};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The cluster did not answer as it should.
    #[error("cluster")]
    Cluster(#[from] CallError),
    /// The owner of the key did not answer as it should.
    #[error("owner")]
    Owner(#[from] OwnerError),
    /// The message was handed over and is not settled in time: it may still be stored.
    #[error("message is not settled within {SEND_DEADLINE:?}")]
    SendDeadline,
    /// Two channel workers died of this message.
    #[error("message was given up")]
    SendPoisoned,
    /// Too many messages wait for their channel workers.
    #[error("too many messages under way")]
    Congested,
    /// No message id in time.
    #[error("no message id")]
    NoId,
}

/// The rest of the node. A trait so that tests of routes can make it fail.
#[tonic::async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Point reads; answers in the order of the queries.
    async fn lookup(&self, queries: Vec<cluster::Query>) -> Result<Vec<cluster::Answer>, BackendError>;
    /// Messages of a channel.
    async fn read(&self, request: cluster::ReadRequest) -> Result<cluster::ReadReply, BackendError>;
    /// Members of a list.
    async fn scan(&self, request: cluster::ScanRequest) -> Result<cluster::ScanReply, BackendError>;
    /// Stores a token with the owner of the uid; 200 or the reason that refuses.
    async fn set_token(&self, request: worker::SetTokenRequest) -> Result<u32, BackendError>;
    /// Clears tokens and kicks, at the owner of the uid.
    async fn quit(&self, request: worker::QuitRequest) -> Result<(), BackendError>;
    /// Live connections of all these users, from their owners.
    async fn online(&self, uids: Vec<String>) -> Result<Vec<worker::OnlineConn>, BackendError>;
    /// Changes rows and lists of (uid, 1) at the owner of the uid.
    async fn change_user(&self, uid: &str, commands: Vec<cluster::Command>) -> Result<(), BackendError>;
    /// Changes rows and lists of a channel at its owner. `routing_id` is the base id.
    async fn change_channel(&self, routing_id: &str, commands: Vec<cluster::Command>) -> Result<(), BackendError>;
    /// A fresh message id.
    async fn message_id(&self) -> Result<MessageId, BackendError>;
    /// Hands an encoded `ChannelSend` to the owner of the bucket; returns when it is settled: stored or refused.
    async fn send(&self, bucket: Bucket, body: Bytes) -> Result<(), BackendError>;
}

/// The real one.
#[derive(Clone)]
pub struct Node {
    /// Reads.
    pub data: ClusterData,
    /// Control calls.
    pub owners: Owners,
    /// Message ids.
    pub ids: Ids,
    /// Sends to channel workers.
    pub links: LinkSet,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl Backend for Node {
    async fn lookup(&self, queries: Vec<cluster::Query>) -> Result<Vec<cluster::Answer>, BackendError> {
        Ok(self.data.lookup(queries).await?)
    }

    async fn read(&self, request: cluster::ReadRequest) -> Result<cluster::ReadReply, BackendError> {
        Ok(self.data.read(request).await?)
    }

    async fn scan(&self, request: cluster::ScanRequest) -> Result<cluster::ScanReply, BackendError> {
        Ok(self.data.scan(request).await?)
    }

    async fn set_token(&self, request: worker::SetTokenRequest) -> Result<u32, BackendError> {
        Ok(self.owners.set_token(request).await?)
    }

    async fn quit(&self, request: worker::QuitRequest) -> Result<(), BackendError> {
        Ok(self.owners.quit(request).await?)
    }

    async fn online(&self, uids: Vec<String>) -> Result<Vec<worker::OnlineConn>, BackendError> {
        Ok(self.owners.online(uids).await?)
    }

    async fn change_user(&self, uid: &str, commands: Vec<cluster::Command>) -> Result<(), BackendError> {
        Ok(self.owners.change_user(uid, commands).await?)
    }

    async fn change_channel(&self, routing_id: &str, commands: Vec<cluster::Command>) -> Result<(), BackendError> {
        Ok(self.owners.change_channel(routing_id, commands).await?)
    }

    async fn message_id(&self) -> Result<MessageId, BackendError> {
        self.ids.take().await.ok_or(BackendError::NoId)
    }

    async fn send(&self, bucket: Bucket, body: Bytes) -> Result<(), BackendError> {
        if self.links.congested() {
            return Err(BackendError::Congested);
        }
        let settled = self.links.push_owner_wait(Outgoing { bucket, kind: Kind::ChannelSend, body, keep: Keep::UntilSettled });
        match timeout(SEND_DEADLINE, settled).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(BackendError::SendPoisoned),
            Err(_) => Err(BackendError::SendDeadline),
        }
    }
}
