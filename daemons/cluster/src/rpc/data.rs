//! `wk.cluster.v1.Data/Open`: batched requests, answered in any order.
//!
//! One task per stream. A request holds one place of the stream's answer channel from the moment it is read: a client that does not take its
//! answers is not read on. Appends, proposals and reads answer from callbacks; only long polls and calls over several groups are futures,
//! and those live in the stream's own task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::data_server::Data;
use wk_proto::cluster::v1::reply::Result as ReplyResult;
use wk_proto::cluster::v1::request::Op;
use wk_raft::{ProposeError, Proposed};
use wk_types::Bucket;

use super::reads;
use crate::answer::{Answer, StreamItem};
use crate::append::Front;
use crate::channel::command::{CursorChange, encode_cursors};
use crate::channel::{command as channel_command, read as messages};
use crate::clock::Clock;
use crate::error::Refusal;
use crate::ids::IdService;
use crate::limits::{CONSUMER_BYTES_MAX, CURSORS_MAX, JOURNAL_WAIT_MS_MAX, QUERIES_INLINE, REQUESTS_IN_FLIGHT};
use crate::metrics::{Metrics, REQUEST_KINDS, Refused};
use crate::node::Shards;
use crate::readers::Readers;
use crate::shard::command::{Change, Command, check_propose, read_answer};
use crate::shard::read as metadata;

/// Everything a request may need.
#[derive(Debug)]
pub struct Dispatch {
    /// Groups by shard.
    pub shards: Shards,
    /// Entrance of appends.
    pub front: Front,
    /// Message ids.
    pub ids: IdService,
    /// Threads for long reads.
    pub readers: Readers,
    /// Clock of the node.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Metrics,
}

/// Work that is not finished when the request has been looked at.
type Later = BoxFuture<'static, ()>;

/// The service.
#[derive(Debug, Clone)]
pub struct DataService {
    dispatch: Arc<Dispatch>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl DataService {
    /// A service over `dispatch`; its streams run in `tasks` and end with `stop`.
    #[must_use]
    pub fn new(dispatch: Arc<Dispatch>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { dispatch, tasks, stop }
    }
}

#[tonic::async_trait]
impl Data for DataService {
    type OpenStream = ReceiverStream<StreamItem>;

    async fn open(&self, request: Request<Streaming<pb::Request>>) -> Result<Response<Self::OpenStream>, Status> {
        let (answers, stream) = mpsc::channel(REQUESTS_IN_FLIGHT);
        let serve = serve(Arc::clone(&self.dispatch), request.into_inner(), answers, self.stop.clone());
        self.tasks.spawn(serve);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Reads one stream to its end.
async fn serve(dispatch: Arc<Dispatch>, mut requests: Streaming<pb::Request>, answers: mpsc::Sender<StreamItem>, stop: CancellationToken) {
    let mut later: FuturesUnordered<Later> = FuturesUnordered::new();
    loop {
        // Cancel-safe: a reservation that is dropped gives its place back, and a message is taken whole or not at all.
        let next = async {
            let place = answers.clone().reserve_owned().await.ok()?;
            // A broken stream ends like a closed one: its client asks again on the next.
            let request = requests.message().await.ok().flatten()?;
            Some((place, request))
        };
        tokio::select! {
            next = next => match next {
                Some((place, request)) => later.extend(dispatch.request(request, place)),
                None => break,
            },
            Some(()) = later.next(), if !later.is_empty() => {}
            () = stop.cancelled() => break,
        }
    }
}

impl Dispatch {
    /// Carries out one request, or begins to.
    fn request(self: &Arc<Self>, request: pb::Request, place: mpsc::OwnedPermit<StreamItem>) -> Option<Later> {
        let open = match &request.op {
            Some(Op::Append(_) | Op::Propose(_)) => self.metrics.writes_open(),
            _ => self.metrics.others_open(),
        };
        let answer = Answer::new(request.id, place, open.clone());
        let Some(op) = request.op else {
            answer.refuse(&Refusal::rejected("request is empty"));
            return None;
        };
        self.metrics.requests.at(kind(&op)).inc();
        match op {
            Op::Append(request) => self.front.append(&request, answer),
            Op::Lookup(request) if request.queries.len() <= QUERIES_INLINE => {
                answer.finish(reads::lookup(self.shards.db(), &request).map(ReplyResult::Lookup));
            }
            Op::Lookup(request) => self.read(answer, move |db| reads::lookup(db, &request).map(ReplyResult::Lookup)),
            Op::Read(request) => self.read(answer, move |db| messages::range(db, &request).map(ReplyResult::Read)),
            Op::Scan(request) => self.read(answer, move |db| metadata::scan(db, &request).map(ReplyResult::Scan)),
            Op::LoadCursors(request) => self.load_cursors(answer, request.consumer),
            Op::Propose(request) => self.propose(answer, request),
            Op::AllocIds(request) => return Some(Arc::clone(self).alloc_ids(answer, request.count).boxed()),
            Op::Journal(request) => return Some(Arc::clone(self).journal(answer, request).boxed()),
            Op::SaveCursors(request) => return Some(Arc::clone(self).save_cursors(answer, request).boxed()),
        }
        None
    }

    /// Runs a read on a reader thread.
    fn read(&self, answer: Answer, read: impl FnOnce(&wk_store::DataDb) -> Result<ReplyResult, Refusal> + Send + 'static) {
        let db = self.shards.db().clone();
        // Kept outside the job, so that a full queue still has an answer to give.
        let answer = Arc::new(parking_lot::Mutex::new(Some(answer)));
        let later = Arc::clone(&answer);
        let job = move || {
            if let Some(answer) = later.lock().take() {
                answer.finish(read(&db));
            }
        };
        if let Err(refusal) = self.readers.submit(job) {
            self.metrics.refuse(Refused::Reader);
            if let Some(answer) = answer.lock().take() {
                answer.refuse(&refusal);
            }
        }
    }

    fn propose(self: &Arc<Self>, answer: Answer, request: pb::ProposeRequest) {
        let group = check_propose(&request)
            .and_then(|slot| if self.front.disk_full() { Err(Refusal::overloaded("disk is nearly full")) } else { self.shards.slot(slot) });
        let group = match group {
            Ok(group) => group,
            Err(refusal) => {
                self.metrics.refuse(Refused::Invalid);
                return answer.refuse(&refusal);
            }
        };
        let now_ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let command = Command { now_ms, change: Change::Propose(request) }.encode();
        let (this, began) = (Arc::clone(self), Instant::now());
        let done = Box::new(move |outcome: Result<Proposed, ProposeError>| {
            this.metrics.slot_propose.ended(began.elapsed(), outcome.is_ok());
            let applied = outcome.map_err(Refusal::from).and_then(|proposed| read_answer(&proposed.response).map(|_| proposed.index));
            answer.finish(applied.map(|index| ReplyResult::Propose(pb::ProposeReply { index })));
        });
        group.group.propose_many(std::iter::once((command, done as wk_raft::ProposeCallback)));
    }

    async fn alloc_ids(self: Arc<Self>, answer: Answer, count: u32) {
        let runs = self.ids.alloc(count).await;
        if let Ok(runs) = &runs {
            self.metrics.ids.inc_by(runs.iter().map(|run| u64::from(run.count)).sum());
        }
        answer.finish(runs.map(|runs| ReplyResult::AllocIds(pb::AllocIdsReply { runs })));
    }

    async fn journal(self: Arc<Self>, answer: Answer, request: pb::JournalRequest) {
        let outcome = self.journal_rows(request).await;
        answer.finish(outcome.map(ReplyResult::Journal));
    }

    async fn journal_rows(&self, request: pb::JournalRequest) -> Result<pb::JournalReply, Refusal> {
        let channel = self.shards.channel_of_shard(request.group).ok_or_else(|| Refusal::rejected("no such group"))?;
        if !request.after_each.is_empty() && request.after_each.len() != request.buckets.len() {
            return Err(Refusal::rejected("not every bucket has its index"));
        }
        let after_each = request.after_each.iter().copied().chain(std::iter::repeat(0));
        let slots = request.buckets.iter().zip(after_each).filter_map(|(bucket, after)| Some((u16::try_from(*bucket).ok()?, after)));
        let mut slots: Vec<(u16, u64)> = slots.collect();
        slots.sort_unstable();
        let wait = Duration::from_millis(request.wait_ms.min(JOURNAL_WAIT_MS_MAX));
        let until = tokio::time::Instant::now() + wait;
        let mut journal = channel.journal().subscribe();
        let mut query = messages::JournalQuery { group: channel.place().group, after: request.after, limit: request.limit, slots };
        loop {
            // Read before the rows: whatever it covers is visible to the read.
            let applied = channel.applied();
            let (db, asked) = (self.shards.db().clone(), query.clone());
            let (entries, upto) = self.readers.read(move || messages::journal(&db, &asked, applied)).await?;
            query.after = upto;
            let newer = journal.wait_for(|index| *index > upto);
            if !entries.is_empty() || tokio::time::timeout_at(until, newer).await.is_err() {
                return Ok(pb::JournalReply { entries, upto, groups: u32::from(self.shards.count()) });
            }
        }
    }

    async fn save_cursors(self: Arc<Self>, answer: Answer, request: pb::SaveCursorsRequest) {
        let outcome = self.save_all(&request.cursors, request.owner.as_ref()).await;
        let reply = |applied| ReplyResult::SaveCursors(pb::SaveCursorsReply { applied });
        answer.finish(outcome.map(reply));
    }

    /// Saves group by group; all of them are under way together. With an owner the saves go through the queues of the groups, behind every
    /// append that was taken before: when they are applied, so is what older owners have left.
    async fn save_all(&self, cursors: &[pb::Cursor], owner: Option<&pb::Owner>) -> Result<Vec<u64>, Refusal> {
        if cursors.len() > CURSORS_MAX {
            return Err(Refusal::too_large("too many cursors"));
        }
        let mut by_group: std::collections::BTreeMap<u32, Vec<CursorChange<'_>>> = std::collections::BTreeMap::new();
        for cursor in cursors {
            if cursor.consumer.is_empty() || cursor.consumer.len() > CONSUMER_BYTES_MAX {
                return Err(Refusal::rejected("consumer has no name or a long one"));
            }
            let bucket = u16::try_from(cursor.bucket).map_err(|_| Refusal::rejected("bucket is out of range"))?;
            if let Some(owner) = owner {
                let bucket = Bucket::from_index(bucket).ok_or_else(|| Refusal::rejected("bucket is out of range"))?;
                self.front.take_over(bucket, owner)?;
            }
            let change = CursorChange { consumer: &cursor.consumer, bucket, index: cursor.index, remove: cursor.remove };
            by_group.entry(cursor.group).or_default().push(change);
        }
        let mut saving = FuturesUnordered::new();
        for (shard, changes) in by_group {
            let channel = self.shards.channel_of_shard(shard).ok_or_else(|| Refusal::rejected("no such group"))?;
            // A group without data has no append of an older owner, and a bucket gets its cursor with its first message: the group stays closed.
            let empty = owner.is_some() && !channel.is_started() && changes.iter().all(|change| change.index == 0);
            if empty || channel.group().is_none() && changes.iter().all(|change| change.remove) {
                continue;
            }
            let command = encode_cursors(changes.into_iter());
            saving.push(async move {
                let group = self.shards.opened(channel).await?;
                let proposed = if owner.is_some() { channel.in_order(command).await? } else { group.propose(command).await? };
                if proposed.response.is_empty() {
                    return Ok((shard, proposed.index));
                }
                match channel_command::ChannelResult::read(&mut wk_link::codec::Reader::new(&proposed.response)) {
                    Ok(channel_command::ChannelResult::Refused(refusal)) => Err(refusal),
                    _ => Err(Refusal::unknown("answer of the state machine is broken")),
                }
            });
        }
        let mut applied = vec![0; if owner.is_some() { usize::from(self.shards.count()) } else { 0 }];
        while let Some(saved) = saving.next().await {
            let (shard, index) = saved?;
            if let Some(applied) = usize::try_from(shard).ok().and_then(|shard| applied.get_mut(shard)) {
                *applied = index;
            }
        }
        Ok(applied)
    }

    fn load_cursors(self: &Arc<Self>, answer: Answer, consumer: String) {
        let applied: Vec<u64> = self.shards.channels().iter().map(|channel| channel.applied()).collect();
        let places: Vec<_> = self.shards.channels().iter().map(|channel| channel.place()).collect();
        self.read(answer, move |db| {
            let mut cursors = Vec::new();
            for place in places {
                cursors.extend(messages::cursors(db, place.group, place.shard, &consumer)?);
            }
            Ok(ReplyResult::LoadCursors(pb::LoadCursorsReply { cursors, applied }))
        });
    }
}

/// Index of a request's kind in [`REQUEST_KINDS`].
fn kind(op: &Op) -> usize {
    let index = match op {
        Op::Append(_) => 0,
        Op::Lookup(_) => 1,
        Op::Read(_) => 2,
        Op::Propose(_) => 3,
        Op::AllocIds(_) => 4,
        Op::Journal(_) => 5,
        Op::SaveCursors(_) => 6,
        Op::Scan(_) => 7,
        Op::LoadCursors(_) => 8,
    };
    debug_assert!(index < REQUEST_KINDS.len(), "every kind has a series");
    index
}
