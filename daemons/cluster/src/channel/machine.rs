//! The deterministic state of one channel group.

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use wk_raft::{ApplyContext, Entry, MachineError, StateMachine};
use wk_store::keys::{self, SysKind};
use wk_store::{Batch, Cf, DataDb, Direction, GroupId, StoreError};

use super::cache::ChanCache;
use super::command::{self, ChannelResult, Command, CursorChange, Misread};
use super::cursors::Cursors;
use super::rows::{CursorsRow, decode_allocator, decode_journal, encode_allocator, encode_journal};
use super::store::{Overlay, Store};
pub(crate) use super::store::{check_channel, check_messages};
use crate::error::Refusal;
use crate::limits::CONSUMER_BYTES_MAX;
use crate::metrics::ApplyMetrics;

/// First channel number of a group; 0 means "no number yet".
const FIRST_NUMBER: u64 = 1;

/// Which group a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPlace {
    /// Raft group.
    pub group: GroupId,
    /// Shard it serves.
    pub shard: u16,
    /// Number of shards of the cluster.
    pub shards: u16,
}

/// State machine of one channel group: messages, indexes, journal, cursors.
///
/// INVARIANT: the result of a command depends on the commands before it, never on where batches begin; what is cached is either written or
/// part of the batch under construction.
#[derive(Debug)]
pub struct ChannelMachine {
    place: GroupPlace,
    db: DataDb,
    state: Option<State>,
    cache: ChanCache,
    overlay: Overlay,
    batch: Batch,
    /// Newest journal index that readers can see.
    journal: watch::Sender<u64>,
    metrics: ApplyMetrics,
}

/// Small rows of the group, read once.
#[derive(Debug)]
struct State {
    next_number: u64,
    number_dirty: bool,
    cursors: Cursors,
}

impl ChannelMachine {
    /// A machine over `db`. `journal` is told the index of each journal row once it can be read.
    #[must_use]
    pub fn new(place: GroupPlace, db: DataDb, cache_rows: usize, journal: watch::Sender<u64>, metrics: ApplyMetrics) -> Self {
        let cache = ChanCache::new(cache_rows);
        Self { place, db, state: None, cache, overlay: Overlay::default(), batch: Batch::new(), journal, metrics }
    }

    /// The state, read from its rows at first use.
    fn load(&mut self) -> Result<State, StoreError> {
        if let Some(state) = self.state.take() {
            return Ok(state);
        }
        let group = self.place.group;
        let next_number = match self.db.get(Cf::Sys, keys::sys(SysKind::Allocator, group))? {
            Some(value) => decode_allocator(&value)?,
            None => FIRST_NUMBER,
        };
        let row = match self.db.get(Cf::Sys, keys::sys(SysKind::Cursors, group))? {
            Some(value) => CursorsRow::decode(&value)?,
            None => CursorsRow::default(),
        };
        let mut cursors = Cursors::load(row);
        let (from, to) = (keys::jrnl(group, cursors.cut() + 1), keys::jrnl(group, u64::MAX));
        let mut fault = Ok(());
        let mut newest = 0;
        self.db.visit(Cf::Jrnl, &from, &to, Direction::Forward, |key, value| {
            fault = seen(&mut cursors, key, value).map(|index| newest = index);
            fault.is_ok()
        })?;
        fault?;
        self.journal.send_replace(newest);
        Ok(State { next_number, number_dirty: false, cursors })
    }

    fn run(&mut self, context: &ApplyContext, entries: &[Entry]) -> Result<Vec<Bytes>, MachineError> {
        let failed = |what| move |error: StoreError| MachineError::new(what, error);
        let mut state = self.load().map_err(failed("load the state of a channel group"))?;
        self.batch.clear();
        self.overlay.clear();
        let mut answers = Vec::with_capacity(entries.len());
        let mut newest = None;
        for entry in entries {
            match command::decode(&entry.command) {
                Ok(Command::Append { now_ms, frames }) => {
                    let (answer, journal) =
                        self.append(&mut state, entry, now_ms, frames).map_err(failed("read rows while applying an append"))?;
                    answers.push(answer);
                    newest = if journal { Some(entry.index) } else { newest };
                }
                Ok(Command::SaveCursors(changes)) => answers.push(self.save_cursors(&mut state, entry.index, &changes)),
                Err(Misread::Broken) => answers.push(refuse("command is broken")),
                Err(Misread::Version(_)) => {
                    return Err(MachineError { what: "command of a newer version: this node must be upgraded", source: None });
                }
            }
        }
        self.finish(&mut state, context);
        self.db.write(&self.batch).map_err(failed("write the batch of a channel group"))?;
        self.metrics.applied(entries.len(), self.batch.bytes());
        self.state = Some(state);
        self.cache.trim();
        if let Some(index) = newest {
            self.journal.send_replace(index);
        }
        Ok(answers)
    }

    /// Stores the frames of one entry and its journal row.
    fn append(&mut self, state: &mut State, entry: &Entry, now_ms: i64, frames: &[u8]) -> Result<(Bytes, bool), StoreError> {
        let mut store = Store {
            db: &self.db,
            batch: &mut self.batch,
            overlay: &mut self.overlay,
            cache: &mut self.cache,
            next_number: &mut state.next_number,
            shard: (self.place.shard, self.place.shards),
            command: &entry.command,
            now_ms,
        };
        let (accepted, whole) = store.read(frames);
        store.look_up(&accepted)?;
        let first_number = *store.next_number;
        let mut answer = BytesMut::new();
        let mut journal = Vec::new();
        for frame in &accepted {
            let (result, item) = store.frame(frame)?;
            result.encode(&mut answer);
            journal.extend(item);
        }
        if !whole {
            // Frames behind a broken one have no result: the answer simply ends.
            ChannelResult::Refused(Refusal::rejected("frame is broken")).encode(&mut answer);
        }
        state.number_dirty |= *store.next_number != first_number;
        for item in &journal {
            state.cursors.written(item.slot, entry.index);
        }
        if !journal.is_empty() {
            self.batch.put(Cf::Jrnl, keys::jrnl(self.place.group, entry.index), encode_journal(&journal));
        }
        Ok((answer.freeze(), !journal.is_empty()))
    }

    fn save_cursors(&mut self, state: &mut State, index: u64, changes: &[CursorChange<'_>]) -> Bytes {
        let named = |change: &CursorChange<'_>| !change.consumer.is_empty() && change.consumer.len() <= CONSUMER_BYTES_MAX;
        if !changes.iter().all(named) {
            return refuse("consumer has no name or a long one");
        }
        // Every change is tried: one without room must not stop the others.
        let full = changes.iter().filter(|change| !state.cursors.change(change, index)).count() > 0;
        if let Some((from, to)) = state.cursors.take_cut() {
            let group = self.place.group;
            self.batch.delete_range(Cf::Jrnl, keys::jrnl(group, from), keys::jrnl(group, to + 1));
        }
        if full { refuse("group has too many cursors") } else { Bytes::new() }
    }

    /// Adds the small rows and the applied record to the batch.
    fn finish(&mut self, state: &mut State, context: &ApplyContext) {
        let group = self.place.group;
        if std::mem::take(&mut state.number_dirty) {
            self.batch.put(Cf::Sys, keys::sys(SysKind::Allocator, group), encode_allocator(state.next_number));
        }
        if let Some(row) = state.cursors.take_row() {
            self.batch.put(Cf::Sys, keys::sys(SysKind::Cursors, group), row.encode());
        }
        self.batch.put(Cf::Sys, keys::sys(SysKind::Applied, group), &context.record);
    }
}

/// Reports one stored journal row.
fn seen(cursors: &mut Cursors, key: &[u8], value: &[u8]) -> Result<u64, StoreError> {
    let (_, index) = keys::jrnl_decode(key).ok_or(StoreError::Shape { what: "journal key" })?;
    for item in decode_journal(value)? {
        cursors.seen(item.slot, index);
    }
    Ok(index)
}

fn refuse(detail: &'static str) -> Bytes {
    let mut out = BytesMut::new();
    ChannelResult::Refused(Refusal::rejected(detail)).encode(&mut out);
    out.freeze()
}

impl StateMachine for ChannelMachine {
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError> {
        let failed = |error: StoreError| MachineError::new("read the applied record of a channel group", error);
        let state = self.load().map_err(failed)?;
        self.state = Some(state);
        self.db.get(Cf::Sys, keys::sys(SysKind::Applied, self.place.group)).map_err(failed)
    }

    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError> {
        self.run(context, &entries)
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineError> {
        crate::node::snapshot::export(&self.db, self.place, crate::node::snapshot::Rows::Messages)
    }

    fn install(&mut self, context: &ApplyContext, snapshot: Bytes) -> Result<(), MachineError> {
        self.state = None;
        self.cache.clear();
        crate::node::snapshot::install(&self.db, self.place, crate::node::snapshot::Rows::Messages, &snapshot, &context.record)
    }
}
