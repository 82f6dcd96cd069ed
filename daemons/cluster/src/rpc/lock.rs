//! `wk.cluster.v1.Lock`.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::lock_server::Lock;
use wk_types::Bucket;

use super::Dispatch;
use crate::error::Refusal;
use crate::shard::command::{Change, Command, check_lock, read_answer};
use crate::shard::{keys, read};

/// The service.
#[derive(Debug, Clone)]
pub struct LockService {
    dispatch: Arc<Dispatch>,
}

impl LockService {
    /// A service over `dispatch`.
    #[must_use]
    pub fn new(dispatch: Arc<Dispatch>) -> Self {
        Self { dispatch }
    }

    async fn propose(&self, name: &str, change: Change) -> Result<Response<pb::LockReply>, Status> {
        let reply = async {
            let group = self.dispatch.shards.slot(Bucket::of(name))?;
            let command = Command { now_ms: group.lock_now_ms(), change }.encode();
            let proposed = group.group.propose(command).await?;
            let body = read_answer(&proposed.response)?;
            pb::LockReply::decode(body).map_err(|_| Refusal::unknown("answer of the state machine is broken"))
        };
        reply.await.map(Response::new).map_err(|refusal: Refusal| refusal.to_status())
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn acquire(&self, request: Request<pb::AcquireRequest>) -> Result<Response<pb::LockReply>, Status> {
        let request = request.into_inner();
        check_lock(&request.name, &request.owner, Some(request.ttl_ms)).map_err(|refusal| refusal.to_status())?;
        let name = request.name.clone();
        self.propose(&name, Change::Acquire(request)).await
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::LockReply>, Status> {
        let request = request.into_inner();
        check_lock(&request.name, &request.owner, Some(request.ttl_ms)).map_err(|refusal| refusal.to_status())?;
        let name = request.name.clone();
        self.propose(&name, Change::Renew(request)).await
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Result<Response<pb::LockReply>, Status> {
        let request = request.into_inner();
        check_lock(&request.name, &request.owner, None).map_err(|refusal| refusal.to_status())?;
        let name = request.name.clone();
        self.propose(&name, Change::Release(request)).await
    }

    async fn inspect(&self, request: Request<pb::InspectRequest>) -> Result<Response<pb::LockReply>, Status> {
        let name = request.into_inner().name;
        let reply = keys::lock(&name).and_then(|_| {
            let group = self.dispatch.shards.slot(Bucket::of(&name))?;
            read::inspect(self.dispatch.shards.db(), &name, group.lock_now_ms())
        });
        reply.map(Response::new).map_err(|refusal| refusal.to_status())
    }
}
