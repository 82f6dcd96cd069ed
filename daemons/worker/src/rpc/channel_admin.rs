//! `wk.worker.v1.ChannelAdmin`: changes of rows and lists of the channels this worker owns.

use std::sync::Arc;

use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use wk_proto::worker::v1::channel_admin_server::ChannelAdmin;
use wk_proto::worker::v1::{ChangeReply, ChangeRequest};
use wk_rpc::{ClusterData, TableWatch};
use wk_types::InstanceName;
use wk_types::channel::base_id;

use super::calls::Calls;
use super::{channel_of, ended, propose, routing_id};
use crate::channel::events::Ask;
use crate::inbox::{Event, Inbox};

/// The service.
#[derive(Debug, Clone)]
pub struct ChannelAdminService {
    /// Our name.
    pub me: InstanceName,
    /// The pool.
    pub inbox: Arc<Inbox<Ask>>,
    /// Rows.
    pub cluster: ClusterData,
    /// Who owns what.
    pub table: TableWatch,
    /// Changes under way.
    pub calls: Calls,
}

#[tonic::async_trait]
impl ChannelAdmin for ChannelAdminService {
    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let commands = request.into_inner().commands;
        let _change = self.calls.begin(&self.table, self.me, routing_id(&commands)?)?;
        let mut channels: Vec<_> = commands.iter().filter_map(channel_of).map(|(id, kind)| (base_id(&id).to_owned(), kind)).collect();
        channels.sort_unstable();
        channels.dedup();
        let stored = propose(&self.cluster, commands).await;
        // Also after a failure: nobody knows what was applied, so nothing cached may be trusted.
        let (reply, heard) = oneshot::channel();
        self.inbox.push(Event::Ask(Ask::Changed(channels, reply)));
        heard.await.map_err(|_| ended())?;
        Ok(Response::new(ChangeReply { index: stored? }))
    }
}
