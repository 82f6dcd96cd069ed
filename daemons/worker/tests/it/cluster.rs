//! A cluster daemon in memory: rows, lists, log, journal, cursors, behind the real `Data` stream.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use wk_link::codec::Reader;
use wk_link::record::{ChannelBatch, Message, Stored, encode_row};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::data_server::{Data, DataServer};
use wk_proto::cluster::v1::reply::Result as Answered;
use wk_proto::cluster::v1::request::Op;

type Key = (String, u32);

/// Channel, sequences, senders and names of a journal entry.
type Row = (Key, Vec<u64>, Vec<u64>, Vec<String>);

/// Everything the cluster remembers.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) rows: BTreeMap<(i32, String, u32), Vec<u8>>,
    /// (list, channel id, type) → members.
    pub(crate) lists: BTreeMap<(i32, String, u32), BTreeSet<String>>,
    /// Rows of each channel in order.
    pub(crate) log: BTreeMap<Key, Vec<(i64, Vec<u8>)>>,
    /// (group, index) → what the entry stored.
    pub(crate) journal: BTreeMap<(u32, u64), Row>,
    pub(crate) applied: [u64; GROUPS],
    pub(crate) cursors: BTreeMap<(String, u32, u32), u64>,
    pub(crate) lookups: u64,
    /// Appends are stored, but nobody hears of it.
    pub(crate) swallow_appends: bool,
}

const GROUPS: usize = 4;

#[derive(Clone, Default)]
pub(crate) struct Cluster(pub(crate) Arc<Mutex<State>>);

impl Cluster {
    pub(crate) fn serve(&self, socket: &Path) {
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let routes = Routes::new(DataServer::new(self.clone()));
        tokio::spawn(wk_rpc::serve(listener, routes, wk_rpc::ServeOptions::default(), std::future::pending()));
    }

    /// Message ids of a channel in the order of the log.
    pub(crate) fn ids(&self, id: &str, kind: u32) -> Vec<i64> {
        self.0.lock().log.get(&(id.to_owned(), kind)).map(|rows| rows.iter().map(|r| r.0).collect()).unwrap_or_default()
    }
}

impl State {
    fn query(&self, q: pb::Query) -> pb::Answer {
        use pb::query::Of;
        match q.of.unwrap() {
            Of::Row(key) => pb::Answer { value: self.rows.get(&(key.table, key.id, key.sub)).cloned(), ..pb::Answer::default() },
            Of::Contains(m) => {
                let has = self.list(&m.list.unwrap()).is_some_and(|set| set.contains(&m.member));
                pb::Answer { number: u64::from(has), ..pb::Answer::default() }
            }
            Of::Count(list) => {
                pb::Answer { number: self.list(&list).map_or(0, |s| u64::try_from(s.len()).unwrap()), ..pb::Answer::default() }
            }
            Of::Stored(key) => {
                let channel = key.channel.unwrap();
                let seq = self.seq(&(channel.id, channel.r#type), key.message_id).unwrap_or(0);
                pb::Answer { number: seq, message_id: key.message_id, ..pb::Answer::default() }
            }
            Of::LastSeq(_) => pb::Answer::default(),
        }
    }

    fn list(&self, key: &pb::ListKey) -> Option<&BTreeSet<String>> {
        let channel = key.channel.clone().unwrap();
        self.lists.get(&(key.list, channel.id, channel.r#type))
    }

    fn seq(&self, channel: &Key, id: i64) -> Option<u64> {
        let rows = self.log.get(channel)?;
        rows.iter().position(|r| r.0 == id).map(|p| u64::try_from(p).unwrap() + 1)
    }

    fn append(&mut self, request: &pb::AppendRequest) -> pb::AppendReply {
        let mut r = Reader::new(&request.batches);
        let mut channels = Vec::new();
        while !r.is_empty() {
            let batch = ChannelBatch::read(&mut r).unwrap();
            let key = (batch.channel_id.to_owned(), u32::from(batch.channel_type.0));
            let bucket = wk_types::ChannelKey::new(batch.channel_id, batch.channel_type).bucket();
            let group = usize::from(bucket.index()) % GROUPS;
            self.applied[group] += 1;
            let index = self.applied[group];
            let mut done =
                pb::ChannelAppended { group: u32::try_from(group).unwrap(), index, timestamp: 1_700_000_000, ..Default::default() };
            let (mut seqs, mut senders, mut names) = (Vec::new(), Vec::new(), Vec::new());
            for (bytes, (conn, named)) in batch.messages().zip(batch.senders()) {
                let bytes = bytes.unwrap();
                let id = Message::decode(bytes).unwrap().message_id;
                let before = self.seq(&key, id);
                if before.is_none() {
                    self.log.entry(key.clone()).or_default().push((id, bytes.to_vec()));
                    seqs.push(self.seq(&key, id).unwrap());
                    senders.push(conn.0);
                    names.push(named.to_owned());
                }
                done.message_ids.push(id);
                done.message_seqs.push(self.seq(&key, id).unwrap());
                done.duplicates.push(before.is_some());
            }
            if !seqs.is_empty() {
                self.journal.insert((u32::try_from(group).unwrap(), index), (key, seqs, senders, names));
            }
            channels.push(done);
        }
        pb::AppendReply { channels }
    }

    fn propose(&mut self, commands: Vec<pb::Command>) {
        use pb::command::Change;
        let key = |l: pb::ListKey| {
            let channel = l.channel.unwrap();
            (l.list, channel.id, channel.r#type)
        };
        for command in commands {
            match command.change.unwrap() {
                Change::Put(put) => {
                    let k = put.key.unwrap();
                    self.rows.insert((k.table, k.id, k.sub), put.value);
                }
                Change::Delete(k) => drop(self.rows.remove(&(k.table, k.id, k.sub))),
                Change::Add(change) => self.lists.entry(key(change.list.unwrap())).or_default().extend(change.members),
                Change::Remove(change) => {
                    let set = self.lists.entry(key(change.list.unwrap())).or_default();
                    set.retain(|m| !change.members.contains(m));
                }
                Change::Clear(list) => drop(self.lists.remove(&key(list))),
            }
        }
    }

    fn journal(&self, r: &pb::JournalRequest) -> pb::JournalReply {
        let rows = self.journal.range((r.group, r.after + 1)..(r.group + 1, 0)).filter(|((_, index), (key, ..))| {
            let kind = wk_types::ChannelType(u8::try_from(key.1).unwrap());
            let bucket = wk_types::ChannelKey::new(key.0.as_str(), kind).bucket();
            let at = r.buckets.iter().position(|b| *b == u32::from(bucket.index()));
            r.buckets.is_empty() || at.is_some_and(|at| r.after_each.get(at).is_none_or(|after| index > after))
        });
        let entries = rows.map(|((_, index), (key, seqs, senders, names))| {
            let mut records = BytesMut::new();
            for seq in seqs {
                let bytes = &self.log[key][usize::try_from(*seq).unwrap() - 1].1;
                Stored::encode_from_row(&mut records, *seq, &encode_row(1_700_000_000, bytes));
            }
            let channel = Some(pb::ChannelRef { id: key.0.clone(), r#type: key.1 });
            let (count, senders, named) = (u32::try_from(seqs.len()).unwrap(), senders.clone(), names.clone());
            pb::JournalEntry { index: *index, channel, count, records: records.freeze(), senders, named }
        });
        let upto = self.applied[usize::try_from(r.group).unwrap()];
        pb::JournalReply { entries: entries.collect(), upto, groups: u32::try_from(GROUPS).unwrap() }
    }

    /// The answer to a request; `None`: nobody hears of it.
    fn answer(&mut self, op: Op) -> Option<Answered> {
        Some(match op {
            Op::Append(r) => {
                let reply = self.append(&r);
                if self.swallow_appends {
                    return None;
                }
                Answered::Append(reply)
            }
            Op::Lookup(r) => {
                self.lookups += 1;
                Answered::Lookup(pb::LookupReply { answers: r.queries.into_iter().map(|q| self.query(q)).collect() })
            }
            Op::Propose(r) => {
                self.propose(r.commands);
                Answered::Propose(pb::ProposeReply { index: 1 })
            }
            Op::Journal(r) => Answered::Journal(self.journal(&r)),
            Op::SaveCursors(r) => {
                for c in r.cursors {
                    self.cursors.insert((c.consumer, c.group, c.bucket), c.index);
                }
                let applied = if r.owner.is_some() { self.applied.to_vec() } else { Vec::new() };
                Answered::SaveCursors(pb::SaveCursorsReply { applied })
            }
            Op::LoadCursors(r) => {
                let mine = self.cursors.iter().filter(|((consumer, ..), _)| *consumer == r.consumer);
                let cursors = mine.map(|((consumer, group, bucket), index)| pb::Cursor {
                    consumer: consumer.clone(),
                    group: *group,
                    bucket: *bucket,
                    index: *index,
                    remove: false,
                });
                Answered::LoadCursors(pb::LoadCursorsReply { cursors: cursors.collect(), applied: self.applied.to_vec() })
            }
            Op::Scan(r) => {
                let set = self.list(&r.list.unwrap()).cloned().unwrap_or_default();
                let members = set.into_iter().filter(|m| *m > r.after).map(|uid| pb::Member { uid, ..pb::Member::default() }).collect();
                Answered::Scan(pb::ScanReply { members, more: false })
            }
            Op::AllocIds(_) | Op::Read(_) => return None,
        })
    }
}

type Replies = Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::Reply, Status>> + Send>>;

#[tonic::async_trait]
impl Data for Cluster {
    type OpenStream = Replies;

    async fn open(&self, request: Request<Streaming<pb::Request>>) -> Result<Response<Replies>, Status> {
        let mut requests = request.into_inner();
        let (replies, out) = mpsc::channel(64);
        let state = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let result = state.lock().answer(request.op.unwrap());
                if result.is_some() {
                    let reply = pb::Reply { id: request.id, error: None, result };
                    if replies.send(Ok(reply)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}
