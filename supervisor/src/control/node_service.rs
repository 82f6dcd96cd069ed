//! `node.sock`: the node table for the daemons.

use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request as Rq, Response, Status};
use wk_proto::node::v1 as node;
use wk_proto::node::v1::node_table_server::NodeTable;

use super::{BoxStream, Shared};
use crate::engine::Command;

/// Service of `node.sock`.
#[derive(Debug)]
pub struct NodeService(pub Shared);

#[tonic::async_trait]
impl NodeTable for NodeService {
    type WatchStream = BoxStream<node::Table>;

    async fn watch(&self, request: Rq<node::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        tracing::debug!(instance = request.get_ref().instance, "node table watched");
        // Before the first turn of the engine the table is empty (epoch 0): nobody may act on that.
        let stream = WatchStream::new(self.0.nodes.clone()).filter(|t| t.epoch > 0).map(|t| Ok((*t).clone()));
        Ok(Response::new(Box::pin(stream)))
    }

    type JoinStream = BoxStream<node::Table>;

    async fn join(&self, _: Rq<tonic::Streaming<node::JoinReport>>) -> Result<Response<Self::JoinStream>, Status> {
        Err(Status::unimplemented("the supervisor starts the daemons of this node itself"))
    }

    async fn report_stall(&self, request: Rq<node::StallReport>) -> Result<Response<node::StallReply>, Status> {
        let report = request.into_inner();
        let name = report.instance.parse().map_err(|_| Status::invalid_argument("unknown instance"))?;
        tracing::warn!(reporter = report.reporter, %name, stalled_ms = report.stalled_ms, "link without progress reported");
        let command = Command::Stall { name, incarnation: report.incarnation };
        self.0.commands.try_send(command).map_err(|_| Status::resource_exhausted("too many commands are waiting"))?;
        Ok(Response::new(node::StallReply {}))
    }

    async fn report_epoch(&self, request: Rq<node::EpochReport>) -> Result<Response<node::EpochReply>, Status> {
        let report = request.into_inner();
        let name = report.instance.parse().map_err(|_| Status::invalid_argument("unknown instance"))?;
        let command = Command::Met { name, incarnation: report.incarnation, epoch: report.epoch };
        self.0.commands.try_send(command).map_err(|_| Status::resource_exhausted("too many commands are waiting"))?;
        Ok(Response::new(node::EpochReply {}))
    }
}
