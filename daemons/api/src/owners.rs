//! Control calls on the workers that own a key.
//!
//! The owner is found in the node table at each attempt. A call that an owner refuses because it is not the owner any more, or that does not
//! reach it, is made again after the next change of the table (or a short pause) until the deadline. Every call here can be repeated: it sets
//! rows, it never adds to them.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code as GrpcCode, Response, Status};
use wk_proto::cluster::v1::{Code, Command};
use wk_proto::worker::v1 as pb;
use wk_proto::worker::v1::channel_admin_client::ChannelAdminClient;
use wk_proto::worker::v1::user_admin_client::UserAdminClient;
use wk_rpc::limits::MESSAGE_BYTES_MAX;
use wk_rpc::status::{code_of, retryable};
use wk_rpc::{TableWatch, dial_lazy};
use wk_telemetry::IntCounter;
use wk_types::{Bucket, Daemon, Incarnation, InstanceName, Pool};

use crate::limits::{OWNER_DEADLINE, OWNER_RETRY_PAUSE};

/// Why an owner did not do it.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// No owner answered in time; the change may have been made.
    #[error("owner of bucket {bucket} is out of reach: {detail}")]
    OutOfReach {
        /// Bucket of the key.
        bucket: u16,
        /// Last attempt, for the log.
        detail: String,
    },
    /// The owner refused for good.
    #[error("owner {instance} refused")]
    Refused {
        /// Who.
        instance: InstanceName,
        /// What it said.
        #[source]
        status: Box<Status>,
    },
}

/// Clients of all owners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Owners {
    table: TableWatch,
    /// One connection per instance, replaced with its incarnation. Locked for a few instructions only.
    channels: Arc<Mutex<HashMap<InstanceName, (Incarnation, Channel)>>>,
    retries: IntCounter,
}

/// Why one attempt gave no answer.
enum Failed {
    /// It may be made again; what happened, for the log.
    Again(String),
    /// The owner refused for good.
    Refused(OwnerError),
}

/// An owner that can be called.
struct Owner {
    name: InstanceName,
    channel: Channel,
}

impl Owners {
    /// Finds owners in `table`; counts repeated calls in `retries`.
    #[must_use]
    pub fn new(table: TableWatch, retries: IntCounter) -> Self {
        Self { table, channels: Arc::default(), retries }
    }

    /// See the proto.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub async fn set_token(&self, request: pb::SetTokenRequest) -> Result<u32, OwnerError> {
        let bucket = Bucket::of(&request.uid);
        let call = |channel| {
            let request = request.clone();
            async move { user_client(channel).set_token(request).await }
        };
        Ok(self.call(Pool::User, bucket, call).await?.status)
    }

    /// See the proto.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub async fn quit(&self, request: pb::QuitRequest) -> Result<(), OwnerError> {
        let bucket = Bucket::of(&request.uid);
        let call = |channel| {
            let request = request.clone();
            async move { user_client(channel).quit(request).await }
        };
        self.call(Pool::User, bucket, call).await.map(drop)
    }

    /// Connections of all these users: one call per owner, all at once; what an owner refuses because its share has moved is asked of the new
    /// owners. The order within one owner is its own.
    ///
    /// # Errors
    /// [`OwnerError`] of an owner that refuses, or when the deadline has passed before every owner has answered.
    pub async fn online(&self, uids: Vec<String>) -> Result<Vec<pb::OnlineConn>, OwnerError> {
        let until = Instant::now() + OWNER_DEADLINE;
        let mut table = self.table.clone();
        let (mut wanted, mut conns) = (uids, Vec::new());
        loop {
            let asked = join_all(self.by_owner(wanted).into_iter().map(|uids| self.ask_online(uids, until))).await;
            let mut failed = None;
            wanted = Vec::new();
            for (uids, answer) in asked {
                match answer {
                    Ok(reply) => conns.extend(reply.conns),
                    Err(Failed::Refused(err)) => return Err(err),
                    Err(Failed::Again(detail)) => {
                        failed = Some((bucket_of(&uids), detail));
                        wanted.extend(uids);
                    }
                }
            }
            let Some((bucket, detail)) = failed else { return Ok(conns) };
            self.pause(&mut table, until, bucket, detail).await?;
        }
    }

    /// Users by the owner that the table names now.
    fn by_owner(&self, uids: Vec<String>) -> Vec<Vec<String>> {
        let table = self.table.get();
        let mut shares: BTreeMap<Option<InstanceName>, Vec<String>> = BTreeMap::new();
        for uid in uids {
            shares.entry(table.owner(Daemon::Worker(Pool::User), Bucket::of(&uid))).or_default().push(uid);
        }
        shares.into_values().collect()
    }

    /// Asks the owner of these users once.
    async fn ask_online(&self, uids: Vec<String>, until: Instant) -> (Vec<String>, Result<pb::OnlineReply, Failed>) {
        let request = pb::OnlineRequest { uids: uids.clone() };
        let call = |channel| async move { user_client(channel).online(request).await };
        let answer = self.attempt(Pool::User, bucket_of(&uids), until, call).await;
        (uids, answer)
    }

    /// Changes rows of (uid, 1).
    ///
    /// # Errors
    /// [`OwnerError`].
    pub async fn change_user(&self, uid: &str, commands: Vec<Command>) -> Result<(), OwnerError> {
        let request = pb::ChangeRequest { commands };
        let call = |channel| {
            let request = request.clone();
            async move { user_client(channel).change(request).await }
        };
        self.call(Pool::User, Bucket::of(uid), call).await.map(drop)
    }

    /// Changes rows of a channel; `routing_id` is its base id.
    ///
    /// # Errors
    /// [`OwnerError`].
    pub async fn change_channel(&self, routing_id: &str, commands: Vec<Command>) -> Result<(), OwnerError> {
        let request = pb::ChangeRequest { commands };
        let call = |channel| {
            let request = request.clone();
            async move { channel_client(channel).change(request).await }
        };
        self.call(Pool::Channel, Bucket::of(routing_id), call).await.map(drop)
    }

    /// Calls the owner of `bucket` until it answers, refuses for good, or the deadline passes.
    async fn call<T, F>(&self, pool: Pool, bucket: Bucket, call: impl Fn(Channel) -> F) -> Result<T, OwnerError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let until = Instant::now() + OWNER_DEADLINE;
        let mut table = self.table.clone();
        loop {
            match self.attempt(pool, bucket, until, &call).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Refused(err)) => return Err(err),
                Err(Failed::Again(detail)) => self.pause(&mut table, until, bucket, detail).await?,
            }
        }
    }

    /// Calls the owner of `bucket` once.
    async fn attempt<T, F>(&self, pool: Pool, bucket: Bucket, until: Instant, call: impl FnOnce(Channel) -> F) -> Result<T, Failed>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let Some(owner) = self.owner(pool, bucket) else { return Err(Failed::Again("no owner in the node table".to_owned())) };
        match timeout_at(until, call(owner.channel)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if repeatable(&status) => Err(Failed::Again(format!("{}: {}", owner.name, status.message()))),
            Ok(Err(status)) => Err(Failed::Refused(OwnerError::Refused { instance: owner.name, status: Box::new(status) })),
            Err(_) => Err(Failed::Again(format!("{}: no answer in time", owner.name))),
        }
    }

    /// Waits for the next change of the table, or a short while; an error when there is no time for another attempt.
    async fn pause(&self, table: &mut TableWatch, until: Instant, bucket: Bucket, detail: String) -> Result<(), OwnerError> {
        if Instant::now() + OWNER_RETRY_PAUSE >= until {
            return Err(OwnerError::OutOfReach { bucket: bucket.index(), detail });
        }
        self.retries.inc();
        // Both ends of this wait lead to the next attempt; cancelling it loses nothing.
        drop(timeout(OWNER_RETRY_PAUSE, table.changed()).await);
        Ok(())
    }

    /// Owner of a bucket by the current table, with a connection to its current life.
    fn owner(&self, pool: Pool, bucket: Bucket) -> Option<Owner> {
        let table = self.table.get();
        let name = table.owner(Daemon::Worker(pool), bucket)?;
        let row = table.instance(name).filter(|row| row.dialable())?;
        let mut channels = self.channels.lock();
        let channel = match channels.get(&name) {
            Some((incarnation, channel)) if *incarnation == row.incarnation => channel.clone(),
            _ => {
                let channel = dial_lazy(&row.link_socket);
                channels.insert(name, (row.incarnation, channel.clone()));
                channel
            }
        };
        Some(Owner { name, channel })
    }
}

/// Bucket that stands for users of one owner.
fn bucket_of(uids: &[String]) -> Bucket {
    Bucket::of(uids.first().map_or("", String::as_str))
}

/// True when the call may be made again: the owner is another one by now, or it could not be reached or finish.
fn repeatable(status: &Status) -> bool {
    // A connection that breaks under a call shows as Unknown without a code of ours.
    let broken = code_of(status).is_none() && matches!(status.code(), GrpcCode::Unknown | GrpcCode::Internal);
    retryable(status) || broken || code_of(status) == Some(Code::Fenced)
}

fn user_client(channel: Channel) -> UserAdminClient<Channel> {
    UserAdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

fn channel_client(channel: Channel) -> ChannelAdminClient<Channel> {
    ChannelAdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[cfg(test)]
mod tests;
