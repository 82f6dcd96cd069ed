//! The log database: raft entries, votes and marks of all groups.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use crate::engine::{self, Db};
use crate::error::{OpenError, StoreError};
use crate::fault::{Faults, IoPoint};
use crate::keys::{self, GroupId};
use crate::log::{Durability, LogBackend, LogBounds, LogWrite, MetaTag};
use crate::options::Options;

/// Sizes of the log database, for metrics. Estimates of the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes in live files.
    pub files_bytes: u64,
    /// Bytes in memtables.
    pub memtables_bytes: u64,
}

struct Inner {
    db: Db,
    path: PathBuf,
    faults: Arc<dyn Faults>,
}

/// The open log database of a node. Cheap to clone; the files close with the last clone.
#[derive(Clone)]
pub struct RaftDb {
    inner: Arc<Inner>,
}

impl RaftDb {
    /// Open or create the database in folder `path`. Replays the write-ahead log of the last run.
    ///
    /// # Errors
    /// [`OpenError`]: folder, lock or corruption.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        std::fs::create_dir_all(path).map_err(|source| OpenError::Folder { path: path.into(), source })?;
        let db = Db::open_cf_descriptors(&engine::raft_options(options, path), path, engine::raft_families())
            .map_err(|error| OpenError::Engine { path: path.into(), source: error.into() })?;
        Ok(Self { inner: Arc::new(Inner { db, path: path.into(), faults: Arc::clone(&options.faults) }) })
    }

    /// Groups that have a vote, a purge mark or a committed id, ascending: the groups with data on this node.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn groups(&self) -> Result<Vec<GroupId>, StoreError> {
        let mut groups = Vec::new();
        let mut rows = self.inner.db.raw_iterator_cf(self.family(engine::RMETA));
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let (group, _) = keys::rmeta_decode(key).ok_or(StoreError::Shape { what: "raft meta key" })?;
            if groups.last() != Some(&group) {
                groups.push(group);
            }
            rows.next();
        }
        rows.status().map_err(|error| StoreError::Read(error.into()))?;
        Ok(groups)
    }

    /// Moves what is in memtables into files, so that the next open has no write-ahead log to replay. Blocks for the device.
    ///
    /// # Errors
    /// [`StoreError::Flush`]; the write-ahead log still has everything then.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = [self.family(engine::LOG), self.family(engine::RMETA)];
        self.inner.db.flush_cfs_opt(&families, &options).map_err(|error| StoreError::Flush(error.into()))
    }

    /// Sizes, for metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let one = |family: &str, name: &str| self.inner.db.property_int_value_cf(self.family(family), name).ok().flatten().unwrap_or(0);
        let sum = |name: &str| one(engine::LOG, name) + one(engine::RMETA, name);
        LogStats { files_bytes: sum("rocksdb.live-sst-files-size"), memtables_bytes: sum("rocksdb.cur-size-all-mem-tables") }
    }

    fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.inner.db.cf_handle(name).expect("open creates both families")
    }

    fn fault(&self, point: IoPoint, wrap: fn(crate::EngineError) -> StoreError) -> Result<(), StoreError> {
        self.inner.faults.check(point).map_err(|error| wrap(error.into()))
    }

    fn range_options(group: GroupId, from: u64, to: u64) -> ReadOptions {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(keys::log(group, from));
        read.set_iterate_upper_bound(keys::log(group, to));
        read
    }
}

impl LogBackend for RaftDb {
    fn write(&self, writes: &[&LogWrite], durability: Durability) -> Result<(), StoreError> {
        self.fault(IoPoint::LogWrite, StoreError::Write)?;
        let bytes: usize = writes.iter().map(|write| write.bytes()).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes + 16 * writes.len());
        let log = self.family(engine::LOG);
        let rmeta = self.family(engine::RMETA);
        for write in writes {
            if let Some(range) = &write.remove {
                batch.delete_range_cf(log, keys::log(write.group, range.start), keys::log(write.group, range.end));
            }
            for (index, value) in &write.entries {
                batch.put_cf(log, keys::log(write.group, *index), value);
            }
            for (tag, value) in &write.meta {
                batch.put_cf(rmeta, keys::rmeta(write.group, *tag as u8), value);
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.inner.db.write_opt(batch, &options).map_err(|error| StoreError::Write(error.into()))?;
        match durability {
            Durability::Synced => self.fault(IoPoint::LogSync, StoreError::Sync),
            Durability::Lazy => Ok(()),
        }
    }

    fn entries(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let mut entries = Vec::new();
        if from >= to {
            return Ok(entries);
        }
        let mut rows = self.inner.db.raw_iterator_cf_opt(self.family(engine::LOG), Self::range_options(group, from, to));
        rows.seek_to_first();
        let mut bytes = 0;
        while let Some((key, value)) = rows.item() {
            let (_, index) = keys::log_decode(key).ok_or(StoreError::Shape { what: "raft log key" })?;
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push((index, Bytes::copy_from_slice(value)));
            rows.next();
        }
        rows.status().map_err(|error| StoreError::Read(error.into()))?;
        Ok(entries)
    }

    fn bounds(&self, group: GroupId, from: u64) -> Result<Option<LogBounds>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let read = Self::range_options(group, from, u64::MAX);
        let mut rows = self.inner.db.raw_iterator_cf_opt(self.family(engine::LOG), read);
        rows.seek_to_first();
        let first = rows.key().and_then(keys::log_decode).map(|(_, index)| index);
        let last = first.and_then(|_| {
            rows.seek_to_last();
            rows.key().and_then(keys::log_decode).map(|(_, index)| index)
        });
        rows.status().map_err(|error| StoreError::Read(error.into()))?;
        Ok(first.zip(last).map(|(first, last)| LogBounds { first, last }))
    }

    fn meta(&self, group: GroupId, tag: MetaTag) -> Result<Option<Bytes>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let row = self.inner.db.get_pinned_cf(self.family(engine::RMETA), keys::rmeta(group, tag as u8));
        let row = row.map_err(|error| StoreError::Read(error.into()))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }
}

impl std::fmt::Debug for RaftDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftDb").field("path", &self.inner.path).finish_non_exhaustive()
    }
}
