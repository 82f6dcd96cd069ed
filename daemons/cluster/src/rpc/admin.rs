//! `wk.cluster.v1.Admin`.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::admin_server::Admin;

use super::Dispatch;
use crate::node::Shards;

/// The service.
#[derive(Debug, Clone)]
pub struct AdminService {
    dispatch: Arc<Dispatch>,
}

impl AdminService {
    /// A service over `dispatch`.
    #[must_use]
    pub fn new(dispatch: Arc<Dispatch>) -> Self {
        Self { dispatch }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        Ok(Response::new(status(&self.dispatch.shards)))
    }
}

/// State of every group: open ones with their terms and positions, closed channel groups by number only.
#[must_use]
pub fn status(shards: &Shards) -> pb::StatusReply {
    let mut groups: Vec<pb::Group> = shards
        .groups()
        .list()
        .iter()
        .map(|group| {
            let status = group.status();
            pb::Group {
                id: u64::from(status.group.0),
                kind: kind(status.group.0).into(),
                term: status.term,
                leader: status.leader.map_or(0, |node| u64::from(node.0)),
                last_log: status.last_index.unwrap_or(0),
                applied: status.applied.unwrap_or(0),
                open: true,
            }
        })
        .collect();
    for channel in shards.channels().iter().filter(|channel| channel.group().is_none()) {
        let id = u64::from(channel.place().group.0);
        groups.push(pb::Group { id, kind: "channel".into(), ..pb::Group::default() });
    }
    groups.sort_by_key(|group| group.id);
    pb::StatusReply { node_id: u32::from(shards.groups().node().0), slot_groups: u32::from(shards.count()), groups }
}

/// Kind of a group by its number.
pub(crate) fn kind(group: u32) -> &'static str {
    match group {
        0 => "node",
        odd if odd % 2 == 1 => "slot",
        _ => "channel",
    }
}
