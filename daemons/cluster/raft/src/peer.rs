//! openraft's network traits over [`Network`], and the serving side: frames in, frames out.

use std::future::Future;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use futures_util::{Stream, StreamExt};
use openraft::RaftNetworkFactory;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use wk_store::GroupId;
use wk_types::NodeId;

use crate::adapter::{Adapter, Position, snapshot};
use crate::codec::{self, Reader};
use crate::network::{Frames, Network, NetworkError, Replies, RpcKind};
use crate::types::{Types, Vote, node_of};

type Raft = openraft::Raft<Types, Adapter>;
type AppendResult = Result<StreamAppendResult<Types>, RPCError<Types>>;

/// Entries one append frame may claim; more is a broken frame.
const ENTRIES_MAX: u32 = 1 << 20;

/// Makes clients for one group.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) group: GroupId,
    pub(crate) network: Arc<dyn Network>,
}

/// Client of one group on one node.
pub(crate) struct Peer {
    group: GroupId,
    target: Option<NodeId>,
    network: Arc<dyn Network>,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &()) -> Peer {
        Peer { group: self.group, target: node_of(target), network: Arc::clone(&self.network) }
    }
}

impl Peer {
    async fn call(&self, kind: RpcKind, frame: Bytes, option: &RPCOption) -> Result<Reader, NetworkError> {
        let target = self.target.ok_or(NetworkError::Unreachable)?;
        let reply = self.network.call(target, self.group, kind, frame, option.soft_ttl()).await?;
        let mut reader = Reader::new(reply);
        reader.version().ok_or(NetworkError::Refused)?;
        Ok(reader)
    }

    async fn ask_vote(&self, kind: RpcKind, rpc: &VoteRequest<Types>, option: &RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let reply = self.call(kind, vote_request(rpc), option).await.map_err(rpc_error)?;
        vote_reply_decode(reply).ok_or(NetworkError::Refused).map_err(rpc_error)
    }
}

/// A lost call is retried at once, an unreachable or refusing node after a pause.
fn rpc_error(error: NetworkError) -> RPCError<Types> {
    match error {
        NetworkError::Lost => RPCError::Network(openraft::errors::NetworkError::new(&error)),
        NetworkError::Unreachable | NetworkError::Refused => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

impl NetBackoff<Types> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetVote<Types> for Peer {
    async fn vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(RpcKind::Vote, &rpc, &option).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(RpcKind::PreVote, &rpc, &option).await
    }
}

impl NetStreamAppend<Types> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let target = self.target.ok_or(NetworkError::Unreachable).map_err(rpc_error)?;
            let frames: Frames = Box::pin(input.map(|request| append_request(&request)));
            let replies = self.network.append(target, self.group, frames, option.soft_ttl());
            let results = replies.map(|reply| {
                let reply = reply.map_err(rpc_error)?;
                append_reply_decode(reply).ok_or(NetworkError::Refused).map_err(rpc_error)
            });
            let results: BoxStream<'s, AppendResult> = Box::pin(results);
            Ok(results)
        })
    }
}

impl NetSnapshot<Types> for Peer {
    type SnapshotData = Bytes;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Bytes>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let frame = snapshot_request(&vote, &snapshot);
        tokio::select! {
            // Cancel safety: both ends of the call cope with a dropped call; the other node installs all or nothing.
            closed = cancel => Err(StreamingError::Closed(closed)),
            reply = self.call(RpcKind::Snapshot, frame, &option) => {
                let mut reply = reply.map_err(rpc_error)?;
                let vote = reply.vote().ok_or(NetworkError::Refused).map_err(rpc_error)?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }
}

impl NetTransferLeader<Types> for Peer {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let mut out = codec::record(64);
        codec::put_vote(&mut out, req.from_leader());
        out.put_u64(*req.to_node_id());
        codec::put_log_id(&mut out, req.last_log_id());
        let reply = self.call(RpcKind::Transfer, out.freeze(), &option).await.map_err(rpc_error)?;
        transfer_reply_decode(reply).ok_or(NetworkError::Refused).map_err(rpc_error)
    }
}

fn vote_request(rpc: &VoteRequest<Types>) -> Bytes {
    let mut out = codec::record(64);
    codec::put_vote(&mut out, &rpc.vote);
    codec::put_log_id(&mut out, rpc.last_log_id.as_ref());
    out.put_u8(u8::from(rpc.leadership_transfer));
    out.freeze()
}

fn vote_request_decode(mut reader: Reader) -> Option<VoteRequest<Types>> {
    let mut request = VoteRequest::new(reader.vote()?, reader.log_id()?);
    request.leadership_transfer = reader.flag()?;
    reader.end(request)
}

fn vote_reply(reply: &VoteResponse<Types>) -> Bytes {
    let mut out = codec::record(64);
    codec::put_vote(&mut out, &reply.vote);
    codec::put_log_id(&mut out, reply.last_log_id.as_ref());
    out.put_u8(u8::from(reply.vote_granted));
    out.freeze()
}

fn vote_reply_decode(mut reader: Reader) -> Option<VoteResponse<Types>> {
    let (vote, last, granted) = (reader.vote()?, reader.log_id()?, reader.flag()?);
    reader.end(VoteResponse::new(vote, last, granted))
}

fn append_request(request: &AppendEntriesRequest<Types>) -> Bytes {
    let mut out = codec::record(128);
    codec::put_vote(&mut out, &request.vote);
    codec::put_log_id(&mut out, request.prev_log_id.as_ref());
    codec::put_log_id(&mut out, request.leader_commit.as_ref());
    codec::put_length(&mut out, request.entries.len());
    for entry in &request.entries {
        codec::put_entry(&mut out, entry);
    }
    out.freeze()
}

fn append_request_decode(frame: Bytes) -> Option<AppendEntriesRequest<Types>> {
    let mut reader = Reader::new(frame);
    reader.version()?;
    let (vote, prev_log_id, leader_commit) = (reader.vote()?, reader.log_id()?, reader.log_id()?);
    let count = reader.u32()?;
    if count > ENTRIES_MAX {
        return None;
    }
    let entries = (0..count).map(|_| reader.entry()).collect::<Option<Vec<_>>>()?;
    reader.end(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

const APPENDED: u8 = 0;
const CONFLICT: u8 = 1;
const HIGHER_VOTE: u8 = 2;

fn append_reply(result: &StreamAppendResult<Types>) -> Bytes {
    let mut out = codec::record(32);
    match result {
        Ok(last) => {
            out.put_u8(APPENDED);
            codec::put_log_id(&mut out, last.as_ref());
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.put_u8(CONFLICT);
            codec::put_log_id(&mut out, Some(at));
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            out.put_u8(HIGHER_VOTE);
            codec::put_vote(&mut out, vote);
        }
    }
    out.freeze()
}

fn append_reply_decode(frame: Bytes) -> Option<StreamAppendResult<Types>> {
    let mut reader = Reader::new(frame);
    reader.version()?;
    let result = match reader.u8()? {
        APPENDED => Ok(reader.log_id()?),
        CONFLICT => Err(StreamAppendError::Conflict(reader.log_id()??)),
        HIGHER_VOTE => Err(StreamAppendError::HigherVote(reader.vote()?)),
        _ => return None,
    };
    reader.end(result)
}

fn snapshot_request(vote: &Vote, snapshot: &SnapshotOf<Types, Bytes>) -> Bytes {
    let mut out = codec::record(256 + snapshot.snapshot.len());
    codec::put_vote(&mut out, vote);
    codec::put_log_id(&mut out, snapshot.meta.last_log_id.as_ref());
    codec::put_stored_membership(&mut out, &snapshot.meta.last_membership);
    out.put_slice(&snapshot.snapshot);
    out.freeze()
}

fn snapshot_request_decode(mut reader: Reader) -> Option<(Vote, SnapshotOf<Types, Bytes>)> {
    let (vote, log_id, membership) = (reader.vote()?, reader.log_id()?, reader.stored_membership()?);
    Some((vote, snapshot(Position { log_id, membership }, reader.rest())))
}

fn transfer_reply_decode(mut reader: Reader) -> Option<TransferLeaderResponse<Types>> {
    let reply = match reader.u8()? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged { expected: reader.vote()?, actual: reader.vote()? }),
        2 => Err(TransferLeaderError::LogNotFlushed { expected: reader.log_id()?, actual: reader.log_id()? }),
        _ => return None,
    };
    reader.end(reply)
}

fn transfer_reply(reply: &TransferLeaderResponse<Types>) -> Bytes {
    let mut out = codec::record(64);
    match reply {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            codec::put_vote(&mut out, expected);
            codec::put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            codec::put_log_id(&mut out, expected.as_ref());
            codec::put_log_id(&mut out, actual.as_ref());
        }
    }
    out.freeze()
}

/// Answer a call of another node.
pub(crate) async fn serve(raft: &Raft, kind: RpcKind, frame: Bytes) -> Result<Bytes, NetworkError> {
    let mut reader = Reader::new(frame);
    reader.version().ok_or(NetworkError::Refused)?;
    let refused = |_| NetworkError::Refused;
    match kind {
        RpcKind::Vote => {
            let request = vote_request_decode(reader).ok_or(NetworkError::Refused)?;
            Ok(vote_reply(&raft.vote(request).await.map_err(|_| NetworkError::Refused)?))
        }
        RpcKind::PreVote => {
            let request = vote_request_decode(reader).ok_or(NetworkError::Refused)?;
            Ok(vote_reply(&raft.pre_vote(request).await.map_err(|_| NetworkError::Refused)?))
        }
        RpcKind::Snapshot => {
            let (vote, snapshot) = snapshot_request_decode(reader).ok_or(NetworkError::Refused)?;
            let reply = raft.install_full_snapshot(vote, snapshot).await.map_err(refused)?;
            let mut out = codec::record(32);
            codec::put_vote(&mut out, &reply.vote);
            Ok(out.freeze())
        }
        RpcKind::Transfer => {
            let request = transfer_request_decode(reader).ok_or(NetworkError::Refused)?;
            Ok(transfer_reply(&raft.handle_transfer_leader(request).await.map_err(refused)?))
        }
    }
}

fn transfer_request_decode(mut reader: Reader) -> Option<TransferLeaderRequest<Types>> {
    let request = TransferLeaderRequest::new(reader.vote()?, reader.u64()?, reader.log_id()?);
    reader.end(request)
}

/// Answer an append stream of another node. A frame nobody can read ends it.
pub(crate) fn serve_append(raft: &Raft, frames: Frames) -> Replies {
    let requests = frames.map(append_request_decode).take_while(|request| std::future::ready(request.is_some()));
    let requests = requests.filter_map(std::future::ready);
    let results = raft.stream_append(requests);
    Box::pin(results.map(|result| result.map(|result| append_reply(&result)).map_err(|_| NetworkError::Refused)))
}
