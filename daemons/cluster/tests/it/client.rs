//! A plain client of the data stream, and helpers to make requests.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wk_link::record::{ChannelBatch, Message, encode_message};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::data_client::DataClient;
use wk_proto::cluster::v1::reply::Result as ReplyResult;
use wk_proto::cluster::v1::request::Op;
use wk_types::ChannelType;

/// How long anything may take on the busiest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Client {
    requests: mpsc::Sender<pb::Request>,
    replies: Streaming<pb::Reply>,
    next: u64,
    early: HashMap<u64, pb::Reply>,
}

impl Client {
    pub(crate) async fn connect(socket: &Path) -> Self {
        let open = async {
            let channel = wk_rpc::dial(socket).await.expect("the socket is there");
            let (requests, stream) = mpsc::channel(4096);
            let mut client = DataClient::new(channel).max_decoding_message_size(16 << 20).max_encoding_message_size(16 << 20);
            let replies = client.open(ReceiverStream::new(stream)).await.expect("a stream").into_inner();
            Self { requests, replies, next: 0, early: HashMap::new() }
        };
        tokio::time::timeout(PATIENCE, open).await.expect("the daemon answers")
    }

    pub(crate) async fn send(&mut self, op: Op) -> u64 {
        self.next += 1;
        // The daemon may have been killed: the caller sees it in `reply`.
        let _gone = self.requests.send(pb::Request { id: self.next, op: Some(op) }).await;
        self.next
    }

    /// The next reply, or nothing when the stream has ended.
    pub(crate) async fn reply(&mut self) -> Option<pb::Reply> {
        tokio::time::timeout(PATIENCE, self.replies.message()).await.expect("a reply comes in time").ok().flatten()
    }

    pub(crate) async fn call(&mut self, op: Op) -> Result<ReplyResult, pb::Error> {
        let id = self.send(op).await;
        loop {
            let reply = match self.early.remove(&id) {
                Some(reply) => reply,
                None => self.reply().await.expect("the stream is open"),
            };
            if reply.id != id {
                self.early.insert(reply.id, reply);
                continue;
            }
            return match reply.error {
                Some(error) => Err(error),
                None => Ok(reply.result.expect("a result or an error")),
            };
        }
    }

    pub(crate) async fn append(&mut self, request: pb::AppendRequest) -> Result<Vec<pb::ChannelAppended>, pb::Error> {
        match self.call(Op::Append(request)).await? {
            ReplyResult::Append(reply) => Ok(reply.channels),
            other => unreachable!("not an append reply: {other:?}"),
        }
    }

    pub(crate) async fn read(&mut self, request: pb::ReadRequest) -> pb::ReadReply {
        match self.call(Op::Read(request)).await {
            Ok(ReplyResult::Read(reply)) => reply,
            other => unreachable!("not a read reply: {other:?}"),
        }
    }

    pub(crate) async fn lookup(&mut self, of: pb::query::Of) -> pb::Answer {
        let request = pb::LookupRequest { queries: vec![pb::Query { of: Some(of) }] };
        match self.call(Op::Lookup(request)).await {
            Ok(ReplyResult::Lookup(reply)) => reply.answers.into_iter().next().expect("one answer"),
            other => unreachable!("not a lookup reply: {other:?}"),
        }
    }

    pub(crate) async fn journal(&mut self, request: pb::JournalRequest) -> pb::JournalReply {
        match self.call(Op::Journal(request)).await {
            Ok(ReplyResult::Journal(reply)) => reply,
            other => unreachable!("not a journal reply: {other:?}"),
        }
    }

    pub(crate) async fn cursors(&mut self) -> pb::LoadCursorsReply {
        match self.call(Op::LoadCursors(pb::LoadCursorsRequest { consumer: "dispatch".into() })).await {
            Ok(ReplyResult::LoadCursors(reply)) => reply,
            other => unreachable!("not cursors: {other:?}"),
        }
    }

    pub(crate) async fn alloc(&mut self, count: u32) -> Vec<i64> {
        match self.call(Op::AllocIds(pb::AllocIdsRequest { count })).await {
            Ok(ReplyResult::AllocIds(reply)) => reply.runs.iter().flat_map(|run| run.first..run.first + i64::from(run.count)).collect(),
            other => unreachable!("not ids: {other:?}"),
        }
    }
}

/// One message as tests make them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) id: i64,
    pub(crate) from: String,
    pub(crate) no: String,
    pub(crate) payload: Vec<u8>,
}

impl Text {
    pub(crate) fn new(id: i64, from: &str, no: &str, payload: &[u8]) -> Self {
        Self { id, from: from.into(), no: no.into(), payload: payload.into() }
    }

    pub(crate) fn encode(&self) -> Bytes {
        encode_message(&Message {
            message_id: self.id,
            flags: 2,
            setting: 0,
            expire: 0,
            client_seq: 1,
            from_uid: &self.from,
            client_msg_no: &self.no,
            topic: "",
            stream_no: "",
            payload: &self.payload,
        })
    }
}

/// Frames of several channels, all of type 2.
pub(crate) fn frames(channels: &[(&str, Vec<Text>)]) -> Bytes {
    let mut out = BytesMut::new();
    for (channel, messages) in channels {
        let messages: Vec<Bytes> = messages.iter().map(Text::encode).collect();
        ChannelBatch::encode(&mut out, channel, ChannelType::GROUP, messages.iter().map(|bytes| &bytes[..]));
    }
    out.freeze()
}

pub(crate) fn append(channels: &[(&str, Vec<Text>)]) -> pb::AppendRequest {
    pb::AppendRequest { channels: u32::try_from(channels.len()).expect("few"), batches: frames(channels), owner: None }
}

pub(crate) fn group(id: &str) -> pb::ChannelRef {
    pb::ChannelRef { id: id.into(), r#type: 2 }
}
