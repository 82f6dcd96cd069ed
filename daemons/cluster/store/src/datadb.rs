//! The state machine database: write-ahead log off, atomic flush.
//!
//! Every call blocks for a memtable insert or a read; a write may block for longer when RocksDB stalls writers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rocksdb::{FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use crate::batch::{Batch, BatchSink};
use crate::cf::Cf;
use crate::engine::{self, Db};
use crate::error::{OpenError, StoreError};
use crate::fault::{Faults, IoPoint};
use crate::keys;
use crate::options::Options;

/// Order in which [`DataDb::range`] returns rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Largest key first.
    Backward,
}

/// Sizes of the data database, for metrics. All bytes are estimates of the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataStats {
    /// Bytes in live files.
    pub files_bytes: u64,
    /// Bytes in memtables, flushed or not.
    pub memtables_bytes: u64,
    /// Keys, estimated.
    pub keys: u64,
    /// Bytes waiting for compaction.
    pub compaction_pending_bytes: u64,
    /// Bytes written since the last finished flush.
    pub unflushed_bytes: u64,
}

struct Inner {
    db: Db,
    path: PathBuf,
    faults: Arc<dyn Faults>,
    write: WriteOptions,
    unflushed: AtomicU64,
}

/// The open data database of a node. Cheap to clone; the files close with the last clone.
#[derive(Clone)]
pub struct DataDb {
    inner: Arc<Inner>,
}

impl DataDb {
    /// Open or create the database in folder `path`.
    ///
    /// # Errors
    /// [`OpenError`]: folder, lock, corruption, or a key format of another version.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        std::fs::create_dir_all(path).map_err(|source| OpenError::Folder { path: path.into(), source })?;
        let db = Db::open_cf_descriptors(&engine::data_options(options, path), path, engine::data_families(options))
            .map_err(|error| OpenError::Engine { path: path.into(), source: error.into() })?;
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        let inner = Inner { db, path: path.into(), faults: Arc::clone(&options.faults), write, unflushed: AtomicU64::new(0) };
        let this = Self { inner: Arc::new(inner) };
        this.check_format()?;
        Ok(this)
    }

    /// Compare the format row with this program's; a fresh database gets one with its first flush.
    fn check_format(&self) -> Result<(), OpenError> {
        let engine = |error: StoreError| OpenError::Engine {
            path: self.inner.path.clone(),
            source: std::io::Error::other(error.to_string()).into(),
        };
        let key = keys::format();
        match self.get(Cf::Sys, key).map_err(engine)? {
            None => {
                let mut batch = Batch::new();
                batch.put(Cf::Sys, key, keys::FORMAT_VERSION.to_be_bytes());
                self.write(&batch).map_err(engine)
            }
            Some(value) => {
                let found = value.as_ref().try_into().map(u32::from_be_bytes).unwrap_or(0);
                if found == keys::FORMAT_VERSION {
                    return Ok(());
                }
                Err(OpenError::Format { path: self.inner.path.clone(), found, known: keys::FORMAT_VERSION })
            }
        }
    }

    /// The row under `key`, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn get(&self, cf: Cf, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let row = self.inner.db.get_pinned_cf(self.family(cf), key).map_err(|e| StoreError::Read(e.into()))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// The rows under `keys`, in the order of the keys; all of one column family. Cheaper than single reads.
    ///
    /// # Errors
    /// [`StoreError::Read`] when any of them failed.
    pub fn multi_get<K: AsRef<[u8]>>(&self, cf: Cf, keys: &[K]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let rows = self.inner.db.batched_multi_get_cf(self.family(cf), keys.iter().map(AsRef::as_ref), false);
        let read = |row: Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>| match row {
            Ok(row) => Ok(row.map(|row| Bytes::copy_from_slice(&row))),
            Err(error) => Err(StoreError::Read(error.into())),
        };
        rows.into_iter().map(read).collect()
    }

    /// At most `limit` rows with `from <= key < to`, nearest to the start of the direction first.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn range(
        &self,
        cf: Cf,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.visit(cf, from.as_ref(), to.as_ref(), direction, |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            rows.len() < limit
        })?;
        Ok(rows)
    }

    /// Hand each row with `from <= key < to` to `row` until it returns `false`. The rows are of one moment: writes that
    /// start later are not seen.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn visit(
        &self,
        cf: Cf,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        mut row: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        if from >= to {
            return Ok(());
        }
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(from);
        read.set_iterate_upper_bound(to);
        // Ranges may span several prefixes of `msg`; without this RocksDB only promises order inside one prefix.
        read.set_total_order_seek(true);
        let mut rows = self.inner.db.raw_iterator_cf_opt(self.family(cf), read);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            if !row(key, value) {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        rows.status().map_err(|error| StoreError::Read(error.into()))
    }

    /// Write all changes of `batch` at once. They are visible on return and durable after the next [`DataDb::flush`].
    ///
    /// # Errors
    /// [`StoreError::Write`]; then none of the changes is visible.
    pub fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        self.fault(IoPoint::DataWrite, StoreError::Write)?;
        let mut sink = Sink { db: self, batch: WriteBatch::with_capacity_bytes(batch.bytes() + 16 * batch.len()) };
        batch.replay(&mut sink);
        self.inner.db.write_opt(sink.batch, &self.inner.write).map_err(|error| StoreError::Write(error.into()))?;
        self.inner.unflushed.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Make everything written before the call durable, all column families together. Blocks for the device.
    ///
    /// # Errors
    /// [`StoreError::Flush`]; then the durable state is still a consistent older one.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.fault(IoPoint::DataFlush, StoreError::Flush)?;
        let before = self.inner.unflushed.load(Ordering::Relaxed);
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<_> = Cf::ALL.into_iter().map(|cf| self.family(cf)).collect();
        self.inner.db.flush_cfs_opt(&families, &options).map_err(|error| StoreError::Flush(error.into()))?;
        self.inner.unflushed.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of keys and values written since the last finished flush: the timer of the flusher reads it.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        self.inner.unflushed.load(Ordering::Relaxed)
    }

    /// Sizes, for metrics. A property the engine does not answer counts as zero.
    #[must_use]
    pub fn stats(&self) -> DataStats {
        let sum = |name: &str| {
            let one = |cf| self.inner.db.property_int_value_cf(self.family(cf), name).ok().flatten().unwrap_or(0);
            Cf::ALL.into_iter().map(one).sum()
        };
        DataStats {
            files_bytes: sum("rocksdb.live-sst-files-size"),
            memtables_bytes: sum("rocksdb.cur-size-all-mem-tables"),
            keys: sum("rocksdb.estimate-num-keys"),
            compaction_pending_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
            unflushed_bytes: self.unflushed_bytes(),
        }
    }

    /// Bytes in files between two keys, estimated; rows still in memtables do not count.
    #[must_use]
    pub fn range_bytes(&self, cf: Cf, from: &[u8], to: &[u8]) -> u64 {
        self.inner.db.get_approximate_sizes_cf(self.family(cf), &[rocksdb::Range::new(from, to)]).into_iter().sum()
    }

    /// Folder of the database.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn family(&self, cf: Cf) -> &rocksdb::ColumnFamily {
        self.inner.db.cf_handle(cf.name()).expect("open creates every family of Cf::ALL")
    }

    fn fault(&self, point: IoPoint, wrap: fn(crate::EngineError) -> StoreError) -> Result<(), StoreError> {
        self.inner.faults.check(point).map_err(|error| wrap(error.into()))
    }
}

impl std::fmt::Debug for DataDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDb").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

struct Sink<'a> {
    db: &'a DataDb,
    batch: WriteBatch,
}

impl BatchSink for Sink<'_> {
    fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) {
        self.batch.put_cf(self.db.family(cf), key, value);
    }

    fn delete(&mut self, cf: Cf, key: &[u8]) {
        self.batch.delete_cf(self.db.family(cf), key);
    }

    fn delete_range(&mut self, cf: Cf, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(self.db.family(cf), from, to);
    }
}
