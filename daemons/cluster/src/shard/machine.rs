//! The deterministic state of one slot group.

use bytes::Bytes;
use prost::Message;
use wk_proto::cluster::v1 as pb;
use wk_raft::{ApplyContext, Entry, MachineError, StateMachine};
use wk_store::keys::{SysKind, sys};
use wk_store::{Cf, DataDb, StoreError};

use super::command::{self, Change, Command};
use super::keys::{self, ListPlace};
use super::lock::{self, RowChange};
use super::overlay::Overlay;
use super::rows::{LockRow, MemberRow, decode_number, encode_number};
use crate::channel::command::Misread;
use crate::channel::machine::GroupPlace;
use crate::error::Refusal;
use crate::metrics::ApplyMetrics;

/// State machine of one slot group.
#[derive(Debug)]
pub struct ShardMachine {
    place: GroupPlace,
    db: DataDb,
    overlay: Overlay,
    /// The group's lock clock; read at first use. Unit: ms.
    clock_ms: Option<i64>,
    metrics: ApplyMetrics,
}

/// Why a command has no effect: it makes no sense, or the database failed.
enum Fault {
    Refused(Refusal),
    Store(StoreError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl ShardMachine {
    /// A machine over `db`.
    #[must_use]
    pub fn new(place: GroupPlace, db: DataDb, metrics: ApplyMetrics) -> Self {
        Self { place, db, overlay: Overlay::default(), clock_ms: None, metrics }
    }

    fn run(&mut self, context: &ApplyContext, entries: &[Entry]) -> Result<Vec<Bytes>, MachineError> {
        self.overlay.begin();
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let answer = match Command::decode(&entry.command) {
                Ok(command) => self.one(entry.index, command),
                Err(Misread::Broken) => Err(Refusal::rejected("command is broken").into()),
                Err(Misread::Version(_)) => {
                    return Err(MachineError { what: "command of a newer version: this node must be upgraded", source: None });
                }
            };
            answers.push(match answer {
                Ok(body) => command::answer_done(&body),
                Err(Fault::Refused(refusal)) => command::answer_refused(&refusal),
                Err(Fault::Store(error)) => return Err(MachineError::new("read rows of a slot group", error)),
            });
        }
        let record = sys(SysKind::Applied, self.place.group);
        let batch = self.overlay.batch();
        batch.put(Cf::Sys, record, &context.record);
        let bytes = batch.bytes();
        self.db.write(self.overlay.batch()).map_err(|error| MachineError::new("write the batch of a slot group", error))?;
        self.metrics.applied(entries.len(), bytes);
        Ok(answers)
    }

    fn one(&mut self, index: u64, command: Command) -> Result<Vec<u8>, Fault> {
        match command.change {
            Change::Propose(request) => {
                let slot = command::check_propose(&request)?;
                self.check_shard(slot.index())?;
                for change in request.commands.into_iter().filter_map(|command| command.change) {
                    self.change(change, command.now_ms)?;
                }
                Ok(Vec::new())
            }
            Change::Acquire(request) => {
                command::check_lock(&request.name, &request.owner, Some(request.ttl_ms))?;
                self.lock(&request.name, command.now_ms, |row, now| lock::acquire(row, &request, now, index))
            }
            Change::Renew(request) => {
                command::check_lock(&request.name, &request.owner, Some(request.ttl_ms))?;
                self.lock(&request.name, command.now_ms, |row, now| lock::renew(row, &request, now))
            }
            Change::Release(request) => {
                command::check_lock(&request.name, &request.owner, None)?;
                self.lock(&request.name, command.now_ms, |row, now| lock::release(row, &request, now))
            }
        }
    }

    fn check_shard(&self, slot: u16) -> Result<(), Refusal> {
        let own = slot % self.place.shards == self.place.shard;
        if own { Ok(()) } else { Err(Refusal::rejected("routing id belongs to another shard")) }
    }

    fn change(&mut self, change: pb::command::Change, now_ms: i64) -> Result<(), Fault> {
        use pb::command::Change as C;
        match change {
            C::Put(put) => self.overlay.put(keys::row(&put.key.unwrap_or_default())?, &put.value),
            C::Delete(key) => self.overlay.delete(keys::row(&key)?),
            C::Add(change) => self.add(&ListPlace::of(&change.list.unwrap_or_default())?, &change.members, now_ms)?,
            C::Remove(change) => self.remove(&ListPlace::of(&change.list.unwrap_or_default())?, &change.members)?,
            C::Clear(key) => {
                let place = ListPlace::of(&key)?;
                self.overlay.clear(place.members());
                self.overlay.delete(place.count());
            }
        }
        Ok(())
    }

    fn add(&mut self, place: &ListPlace, members: &[String], now_ms: i64) -> Result<(), Fault> {
        let mut added = 0;
        for uid in members {
            let key = place.member(uid)?;
            let old = self.overlay.get(&self.db, &key)?.map(|value| MemberRow::decode(&value)).transpose()?;
            added += u64::from(old.is_none());
            let created_at_ms = old.map_or(now_ms, |row| row.created_at_ms);
            self.overlay.put(key, &MemberRow { created_at_ms, updated_at_ms: now_ms }.encode());
        }
        self.count(place, |count| count.saturating_add(added))
    }

    fn remove(&mut self, place: &ListPlace, members: &[String]) -> Result<(), Fault> {
        let mut removed = 0;
        for uid in members {
            let key = place.member(uid)?;
            if self.overlay.get(&self.db, &key)?.is_some() {
                removed += 1;
                self.overlay.delete(key);
            }
        }
        self.count(place, |count| count.saturating_sub(removed))
    }

    fn count(&mut self, place: &ListPlace, change: impl FnOnce(u64) -> u64) -> Result<(), Fault> {
        let key = place.count();
        let old = self.overlay.get(&self.db, &key)?.map_or(Ok(0), |value| decode_number(&value))?;
        match change(old) {
            new if new == old => {}
            0 => self.overlay.delete(key),
            new => self.overlay.put(key, &encode_number(new)),
        }
        Ok(())
    }

    fn lock(
        &mut self,
        name: &str,
        asked_ms: i64,
        decide: impl FnOnce(Option<LockRow>, i64) -> (RowChange, pb::LockReply),
    ) -> Result<Vec<u8>, Fault> {
        let key = keys::lock(name)?;
        self.check_shard(wk_types::Bucket::of(name).index())?;
        let clock = match self.clock_ms {
            Some(clock) => clock,
            None => self::clock(&self.db, self.place)?,
        };
        let now_ms = clock.max(asked_ms);
        self.clock_ms = Some(now_ms);
        let allocator = sys(SysKind::Allocator, self.place.group);
        self.overlay.batch().put(Cf::Sys, allocator, encode_number(now_ms.cast_unsigned()));
        let row = self.overlay.get(&self.db, &key)?.map(|value| LockRow::decode(&value)).transpose()?;
        let (change, reply) = decide(row, now_ms);
        match change {
            RowChange::Keep => {}
            RowChange::Put(row) => self.overlay.put(key, &row.encode()),
            RowChange::Delete => self.overlay.delete(key),
        }
        Ok(reply.encode_to_vec())
    }
}

/// The lock clock of a group as its last lock command left it. Unit: ms.
///
/// # Errors
/// [`StoreError`].
pub fn clock(db: &DataDb, place: GroupPlace) -> Result<i64, StoreError> {
    match db.get(Cf::Sys, sys(SysKind::Allocator, place.group))? {
        Some(value) => decode_number(&value).map(u64::cast_signed),
        None => Ok(0),
    }
}

impl StateMachine for ShardMachine {
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError> {
        let record = self.db.get(Cf::Sys, sys(SysKind::Applied, self.place.group));
        record.map_err(|error| MachineError::new("read the applied record of a slot group", error))
    }

    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError> {
        self.run(context, &entries)
    }

    fn snapshot(&mut self) -> Result<Bytes, MachineError> {
        crate::node::snapshot::export(&self.db, self.place, crate::node::snapshot::Rows::Metadata)
    }

    fn install(&mut self, context: &ApplyContext, snapshot: Bytes) -> Result<(), MachineError> {
        self.clock_ms = None;
        crate::node::snapshot::install(&self.db, self.place, crate::node::snapshot::Rows::Metadata, &snapshot, &context.record)
    }
}
