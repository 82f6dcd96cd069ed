//! The log of one group: openraft's storage traits over the shared backend and writer.
//!
//! Entries are readable the moment `append` returns, long before they are on the device: a tail of recent entries stays in memory until
//! it is both durable and applied. Votes, entries, truncations and purges of a group travel one queue, so their order on the device is the order
//! of the calls.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use wk_store::{Durability, GroupId, LogBackend, LogItem, LogWrite, LogWriter, MetaTag, StoreError};

use crate::codec;
use crate::limits::{READ_CHUNK_BYTES, TAIL_BYTES_MAX, TAIL_KEEP_BYTES, TAIL_KEEP_ENTRIES};
use crate::types::{LogId, RawEntry, Types, Vote};

#[derive(Debug, Default)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Whether `committed` is newer than what was handed to the writer.
    committed_dirty: bool,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Consecutive newest entries, ending at `last`.
    tail: VecDeque<(RawEntry, usize)>,
    tail_bytes: usize,
    /// First index that is not known to be durable.
    durable_end: u64,
    /// First index that is not applied.
    applied_end: u64,
    /// Counts truncations: a completion from before one says nothing about the entries after it.
    generation: u64,
    /// Last index that may be purged: everything up to it survives in the data database.
    flushed: Option<u64>,
}

impl State {
    /// INVARIANT: the tail is consecutive and ends at `last`.
    fn check(&self) {
        if let Some((newest, _)) = self.tail.back() {
            debug_assert_eq!(Some(newest.log_id), self.last, "tail must end at the last entry");
        }
        debug_assert!(self.purged <= self.last, "purge mark must not pass the log");
    }

    fn tail_start(&self) -> u64 {
        self.tail.front().map_or_else(|| next_index(self.last.as_ref()), |(entry, _)| entry.log_id.index)
    }

    /// Entries of `from..to` that are in the tail, up to `bytes_max` but at least one.
    fn newest(&self, from: u64, to: u64, bytes_max: usize) -> Vec<(RawEntry, usize)> {
        let offset = |index: u64| {
            let offset = usize::try_from(index.saturating_sub(self.tail_start())).unwrap_or(usize::MAX);
            offset.min(self.tail.len())
        };
        budget(self.tail.range(offset(from)..offset(to).max(offset(from))), bytes_max)
    }

    fn push(&mut self, entry: RawEntry, bytes: usize) {
        self.last = Some(entry.log_id);
        self.tail_bytes += bytes;
        self.tail.push_back((entry, bytes));
    }

    /// Forget tail entries that can be read from the backend: first those nobody will ask for soon.
    fn evict(&mut self) {
        while let Some((oldest, bytes)) = self.tail.front() {
            let index = oldest.log_id.index;
            let over = self.tail_bytes > TAIL_KEEP_BYTES || self.tail.len() > TAIL_KEEP_ENTRIES;
            let idle = index < self.applied_end && over;
            if index >= self.durable_end || !(idle || self.tail_bytes > TAIL_BYTES_MAX) {
                return;
            }
            self.tail_bytes -= bytes;
            self.tail.pop_front();
        }
    }
}

/// Index after a log id; zero for an empty log.
pub(crate) fn next_index(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

struct Shared {
    group: GroupId,
    backend: Arc<dyn LogBackend>,
    writer: LogWriter,
    state: Mutex<State>,
}

/// The log of one group. Clones share it.
#[derive(Clone)]
pub(crate) struct GroupLog {
    shared: Arc<Shared>,
}

impl GroupLog {
    /// Read what the backend knows about the group.
    pub(crate) fn open(group: GroupId, backend: Arc<dyn LogBackend>, writer: LogWriter) -> io::Result<Self> {
        let meta = |tag| backend.meta(group, tag).map_err(io::Error::other);
        let vote = decode(meta(MetaTag::Vote)?, codec::vote_decode, "vote")?;
        let committed = decode(meta(MetaTag::Committed)?, codec::log_id_decode, "committed id")?;
        let purged = decode(meta(MetaTag::Purged)?, codec::log_id_decode, "purged id")?;
        let start = next_index(purged.as_ref());
        let last = match backend.bounds(group, start).map_err(io::Error::other)? {
            None => purged,
            Some(bounds) if purged.is_some() && bounds.first != start => {
                return Err(io::Error::other(format!("log starts at {} instead of {start}", bounds.first)));
            }
            Some(bounds) => {
                let newest = backend.entries(group, bounds.last, bounds.last + 1, usize::MAX).map_err(io::Error::other)?;
                let (index, value) = newest.into_iter().next().ok_or_else(|| io::Error::other("last entry is missing"))?;
                Some(codec::entry_decode(index, value).ok_or_else(|| broken("entry", index))?.log_id)
            }
        };
        let state = State { vote, committed, purged, last, durable_end: next_index(last.as_ref()), ..State::default() };
        state.check();
        Ok(Self { shared: Arc::new(Shared { group, backend, writer, state: Mutex::new(state) }) })
    }

    /// Whether the group never voted and has no log: nothing was ever written.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.shared.state.lock();
        state.vote.is_none() && state.last.is_none()
    }

    /// The machine applied everything up to `index`.
    pub(crate) fn set_applied(&self, index: u64) {
        let mut state = self.shared.state.lock();
        state.applied_end = state.applied_end.max(index + 1);
        state.evict();
    }

    /// Everything up to `index` survives a crash in the data database, so the log up to there may go.
    pub(crate) fn set_flushed(&self, index: u64) {
        let mut state = self.shared.state.lock();
        state.flushed = state.flushed.max(Some(index));
    }

    /// Last index that may be purged.
    pub(crate) fn flushed(&self) -> Option<u64> {
        self.shared.state.lock().flushed
    }

    /// Last purged index.
    pub(crate) fn purged(&self) -> Option<u64> {
        self.shared.state.lock().purged.map(|id| id.index)
    }

    async fn submit(&self, item: LogItem) -> io::Result<()> {
        // Waiting is the only way to be full, so what is left is a stopped writer.
        self.shared.writer.submit(item).await.map_err(|_| io::Error::other(StoreError::Stopped))
    }

    /// Entries of `from..to` that exist, in order; stops after `bytes_max` but gives at least one.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<RawEntry>> {
        let (from, to, tail_start, mut newest) = {
            let state = self.shared.state.lock();
            let from = from.max(next_index(state.purged.as_ref()));
            let to = to.min(next_index(state.last.as_ref()));
            let tail_start = state.tail_start();
            let newest = state.newest(from, to, if from >= tail_start { bytes_max } else { usize::MAX });
            (from, to, tail_start, newest)
        };
        if from >= tail_start || from >= to {
            return Ok(newest.into_iter().map(|(entry, _)| entry).collect());
        }
        // An entry below the tail is durable and only a purge removes it, so the backend has it.
        let end = to.min(tail_start);
        let stored = self.shared.backend.entries(self.shared.group, from, end, bytes_max).map_err(io::Error::other)?;
        let mut entries = Vec::with_capacity(stored.len() + newest.len());
        let mut bytes = 0;
        for (index, value) in stored {
            bytes += value.len();
            entries.push(codec::entry_decode(index, value).ok_or_else(|| broken("entry", index))?);
        }
        // Nothing below the tail at all: the log starts with the tail.
        let complete = entries.last().is_none_or(|entry| entry.log_id.index + 1 == end);
        if complete && bytes < bytes_max {
            newest = budget(newest.iter(), bytes_max - bytes);
            entries.extend(newest.into_iter().map(|(entry, _)| entry));
        }
        Ok(entries)
    }
}

/// The first entries up to a number of bytes, at least one.
fn budget<'a>(entries: impl Iterator<Item = &'a (RawEntry, usize)>, bytes_max: usize) -> Vec<(RawEntry, usize)> {
    let mut bytes = 0;
    let mut first = true;
    let fits = |item: &&(RawEntry, usize)| {
        bytes = item.1.saturating_add(bytes);
        std::mem::take(&mut first) || bytes <= bytes_max
    };
    entries.take_while(fits).cloned().collect()
}

fn broken(what: &str, index: u64) -> io::Error {
    io::Error::other(format!("stored {what} {index} has an unknown shape"))
}

fn decode<T>(value: Option<bytes::Bytes>, decode: fn(bytes::Bytes) -> Option<T>, what: &str) -> io::Result<Option<T>> {
    value.map(|value| decode(value).ok_or_else(|| broken(what, 0))).transpose()
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RawEntry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RawEntry>, io::Error> {
        self.read(start, end, READ_CHUNK_BYTES)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<RawEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = bounds(&range);
        let log = self.clone();
        let chunks = futures_util::stream::try_unfold((log, from), move |(log, next)| async move {
            if next >= to {
                return Ok(None);
            }
            let chunk = log.read(next, to, READ_CHUNK_BYTES)?;
            let Some(last) = chunk.last().map(|entry| entry.log_id.index) else {
                return Ok(None);
            };
            Ok::<_, io::Error>(Some((chunk, (log, last + 1))))
        });
        chunks.map_ok(|chunk| futures_util::stream::iter(chunk).map(Ok)).try_flatten()
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut write = LogWrite::new(self.shared.group, Durability::Synced);
        write.meta.push((MetaTag::Vote, codec::vote_encode(vote)));
        self.shared.state.lock().vote = Some(*vote);
        let (done, wait) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(done.send(result)));
        self.submit(LogItem { write, done: Some(done) }).await?;
        wait.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    /// Kept in memory and written with the next entries: losing it costs replay, not data.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.shared.state.lock();
        if state.committed != committed {
            state.committed = committed;
            state.committed_dirty = true;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RawEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut write = LogWrite::new(self.shared.group, Durability::Synced);
        let (generation, end) = {
            let mut state = self.shared.state.lock();
            for entry in entries {
                let value = codec::entry_encode(&entry);
                // An empty log may start anywhere: openraft knows where the history it has ends.
                let expected = state.last.map_or(entry.log_id.index, |last| last.index + 1);
                if entry.log_id.index != expected {
                    return Err(io::Error::other(format!("append of {} leaves a hole after {expected}", entry.log_id.index)));
                }
                let bytes = value.len();
                write.entries.push((entry.log_id.index, value));
                state.push(entry, bytes);
            }
            if std::mem::take(&mut state.committed_dirty)
                && let Some(committed) = &state.committed
            {
                write.meta.push((MetaTag::Committed, codec::log_id_encode(committed)));
            }
            state.check();
            (state.generation, next_index(state.last.as_ref()))
        };
        let shared = Arc::clone(&self.shared);
        let done = Box::new(move |result: Result<(), StoreError>| {
            if result.is_ok() {
                let mut state = shared.state.lock();
                if state.generation == generation {
                    state.durable_end = state.durable_end.max(end);
                    state.evict();
                }
            }
            callback.io_completed(result.map_err(io::Error::other));
        });
        self.submit(LogItem { write, done: Some(done) }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut write = LogWrite::new(self.shared.group, Durability::Lazy);
        let start = next_index(last_log_id.as_ref());
        write.remove = Some(start..u64::MAX);
        {
            let mut state = self.shared.state.lock();
            while state.tail.back().is_some_and(|(entry, _)| entry.log_id.index >= start) {
                let bytes = state.tail.pop_back().map_or(0, |(_, bytes)| bytes);
                state.tail_bytes -= bytes;
            }
            if next_index(state.last.as_ref()) > start {
                state.last = last_log_id.max(state.purged);
            }
            state.durable_end = state.durable_end.min(start);
            state.generation += 1;
            state.check();
        }
        // Lazy is enough: the entries that replace the removed ones follow in the same queue and are synced with this.
        self.submit(LogItem { write, done: None }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut write = LogWrite::new(self.shared.group, Durability::Lazy);
        {
            let mut state = self.shared.state.lock();
            // INVARIANT: never past what the data database has flushed, or a crash loses acknowledged commands.
            if state.flushed < Some(log_id.index) {
                let detail = format!("purge up to {} with {:?} flushed", log_id.index, state.flushed);
                return Err(io::Error::other(detail));
            }
            let start = next_index(state.purged.as_ref());
            write.remove = Some(start..log_id.index + 1);
            write.meta.push((MetaTag::Purged, codec::log_id_encode(&log_id)));
            while state.tail.front().is_some_and(|(entry, _)| entry.log_id.index <= log_id.index) {
                let bytes = state.tail.pop_front().map_or(0, |(_, bytes)| bytes);
                state.tail_bytes -= bytes;
            }
            state.purged = state.purged.max(Some(log_id));
            if state.last < Some(log_id) {
                state.last = Some(log_id);
                state.durable_end = state.durable_end.max(log_id.index + 1);
            }
            state.check();
        }
        self.submit(LogItem { write, done: None }).await
    }
}

#[cfg(test)]
mod tests;
