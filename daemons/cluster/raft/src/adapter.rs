//! openraft's state machine trait over the daemon's [`StateMachine`].
//!
//! Commits are drained: one call of the machine gets everything that is committed, up to a bound, so that it writes one batch.
//! The applied position lives here and travels to the machine as a record for the same batch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wk_store::GroupId;

use crate::codec;
use crate::limits::{APPLY_BYTES_MAX, APPLY_ENTRIES_MAX};
use crate::log_store::GroupLog;
use crate::machine::{ApplyContext, Entry, MachineError, StateMachine};
use crate::types::{LogId, RawEntry, StoredMembership, Types};

/// Called when a machine fails: the process must end.
pub type FatalHook = Arc<dyn Fn(GroupId, &MachineError) + Send + Sync>;

/// A position in the log with the membership in force there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

/// What the adapter shows the rest of the group.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Last applied position. In the data database's memtables, not necessarily on its device.
    pub(crate) applied: Mutex<Position>,
    /// Last position that survives a crash.
    pub(crate) flushed: Mutex<Position>,
    /// Whether recovery ended and the group runs.
    pub(crate) running: AtomicBool,
    /// Closed when the adapter is gone: from then on nothing of this group is applied any more.
    pub(crate) gone: Semaphore,
}

impl Default for Progress {
    fn default() -> Self {
        Self { applied: Mutex::default(), flushed: Mutex::default(), running: AtomicBool::new(false), gone: Semaphore::new(0) }
    }
}

pub(crate) struct Adapter {
    pub(crate) group: GroupId,
    // Only `get_mut`, never locked: openraft wants `Sync`, machines are only `Send`.
    pub(crate) machine: Mutex<Box<dyn StateMachine>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) log: GroupLog,
    pub(crate) fatal: FatalHook,
    /// Whether the first position the machine reports is on the device already.
    pub(crate) trust_applied: bool,
}

/// One call of the machine in the making.
#[derive(Default)]
struct Chunk {
    entries: Vec<Entry>,
    /// For each log entry in order: whether it has a command, and who waits for it.
    answers: Vec<(bool, Option<ApplyResponder<Types>>)>,
    bytes: usize,
}

impl Chunk {
    fn push(&mut self, entry: RawEntry, responder: Option<ApplyResponder<Types>>, position: &mut Position) {
        position.log_id = Some(entry.log_id);
        let command = match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(command) => Some(command.0),
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership);
                None
            }
        };
        self.answers.push((command.is_some(), responder));
        if let Some(command) = command {
            self.bytes += command.len();
            self.entries.push(Entry { index: entry.log_id.index, term: entry.log_id.leader_id.term, command });
        }
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= APPLY_ENTRIES_MAX || self.bytes >= APPLY_BYTES_MAX
    }
}

impl Adapter {
    fn fail(&self, error: MachineError) -> io::Error {
        (self.fatal)(self.group, &error);
        io::Error::other(error)
    }

    fn context(&self, position: &Position) -> ApplyContext {
        ApplyContext {
            record: codec::applied_encode(position.log_id.as_ref(), &position.membership),
            index: position.log_id.map_or(0, |id| id.index),
            replay: !self.progress.running.load(Ordering::Relaxed),
        }
    }

    fn apply_chunk(&mut self, chunk: Chunk, position: &Position) -> io::Result<()> {
        let context = self.context(position);
        let commands = chunk.entries.len();
        let responses = self.machine.get_mut().apply(&context, chunk.entries);
        let responses = responses.map_err(|error| self.fail(error))?;
        if responses.len() != commands {
            return Err(self.fail(MachineError { what: "machine answered another number of commands", source: None }));
        }
        *self.progress.applied.lock() = position.clone();
        self.log.set_applied(context.index);
        let mut responses = responses.into_iter();
        for (command, responder) in chunk.answers {
            let response = if command { responses.next().unwrap_or_default() } else { Bytes::new() };
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.progress.gone.close();
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Bytes;
    type SnapshotBuilder = FlushedPosition;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let record = self.machine.get_mut().applied();
        let Some(record) = record.map_err(|error| self.fail(error))? else {
            return Ok((None, StoredMembership::default()));
        };
        let Some((log_id, membership)) = codec::applied_decode(record) else {
            return Err(self.fail(MachineError { what: "applied record has an unknown shape", source: None }));
        };
        let position = Position { log_id, membership: membership.clone() };
        *self.progress.applied.lock() = position.clone();
        if let Some(id) = log_id {
            self.log.set_applied(id.index);
            // Only the first report: recovery asks again after it applied what lay between.
            if self.trust_applied {
                self.log.set_flushed(id.index);
                *self.progress.flushed.lock() = position;
            }
        }
        self.trust_applied = false;
        Ok((log_id, membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut position = self.progress.applied.lock().clone();
        let mut chunk = Chunk::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            chunk.push(entry, responder, &mut position);
            if chunk.is_full() {
                self.apply_chunk(std::mem::take(&mut chunk), &position)?;
            }
        }
        if !chunk.answers.is_empty() {
            self.apply_chunk(chunk, &position)?;
        }
        Ok(())
    }

    /// A snapshot for openraft's own bookkeeping is only a position: the state is in the database already. What a follower gets
    /// is made by [`Self::get_current_snapshot`] when it is needed.
    /// Not forced, it is the flusher asking: only what it flushed counts. Forced, at recovery, it is where the machine stands;
    /// the log store itself refuses to purge past the flush.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<FlushedPosition> {
        let position = if force { &self.progress.applied } else { &self.progress.flushed };
        Some(FlushedPosition { position: position.lock().clone() })
    }

    async fn get_snapshot_builder(&mut self) -> FlushedPosition {
        FlushedPosition { position: self.progress.flushed.lock().clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, snapshot: Bytes) -> Result<(), io::Error> {
        let position = Position { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        let context = self.context(&position);
        let installed = self.machine.get_mut().install(&context, snapshot);
        installed.map_err(|error| self.fail(error))?;
        *self.progress.applied.lock() = position.clone();
        *self.progress.flushed.lock() = position;
        self.log.set_applied(context.index);
        self.log.set_flushed(context.index);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, Bytes>>, io::Error> {
        if !self.progress.running.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let position = self.progress.applied.lock().clone();
        if position.log_id.is_none() {
            return Ok(None);
        }
        let data = self.machine.get_mut().snapshot();
        let data = data.map_err(|error| self.fail(error))?;
        Ok(Some(snapshot(position, data)))
    }
}

/// Builds the position-only snapshot.
pub(crate) struct FlushedPosition {
    position: Position,
}

impl RaftSnapshotBuilder<Types> for FlushedPosition {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, Bytes>, io::Error> {
        Ok(snapshot(self.position.clone(), Bytes::new()))
    }
}

pub(crate) fn snapshot(position: Position, data: Bytes) -> SnapshotOf<Types, Bytes> {
    let meta = SnapshotMetaOf::<Types> { last_log_id: position.log_id, last_membership: position.membership };
    Snapshot { meta, snapshot: data }
}
