//! In-memory twin of the log database for tests: it forgets what was not synced.
//!
//! Reads see everything written. [`MemoryLog::crash`] gives the log a restarted process would find: everything synced,
//! plus the first batches of the unsynced tail, as many as the caller likes, because a real device keeps a prefix.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::fault::{Faults, IoPoint, NoFaults};
use crate::keys::GroupId;
use crate::log::{Durability, LogBackend, LogBounds, LogWrite, MetaTag};

#[derive(Debug, Default, Clone)]
struct State {
    entries: BTreeMap<(GroupId, u64), Bytes>,
    meta: BTreeMap<(GroupId, MetaTag), Bytes>,
}

impl State {
    fn apply(&mut self, write: &LogWrite) {
        if let Some(range) = &write.remove {
            let keys: Vec<_> = self.entries.range((write.group, range.start)..(write.group, range.end)).map(|(key, _)| *key).collect();
            for key in keys {
                self.entries.remove(&key);
            }
        }
        for (index, value) in &write.entries {
            self.entries.insert((write.group, *index), value.clone());
        }
        for (tag, value) in &write.meta {
            self.meta.insert((write.group, *tag), value.clone());
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    durable: State,
    visible: State,
    unsynced: Vec<Vec<LogWrite>>,
    syncs: u64,
}

/// A log in memory with the crash semantics of a write-ahead log. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
    faults: Arc<dyn Faults>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new(Arc::new(NoFaults))
    }
}

impl MemoryLog {
    /// An empty log with faults.
    #[must_use]
    pub fn new(faults: Arc<dyn Faults>) -> Self {
        Self { inner: Arc::default(), faults }
    }

    /// Batches that were written and not synced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.inner.lock().unsynced.len()
    }

    /// Synced writes so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// What a restart finds: the synced state and the first `keep` unsynced batches. The old log stays as it is.
    #[must_use]
    pub fn crash(&self, keep: usize) -> Self {
        let inner = self.inner.lock();
        let mut state = inner.durable.clone();
        for write in inner.unsynced.iter().take(keep).flatten() {
            state.apply(write);
        }
        let inner = Inner { durable: state.clone(), visible: state, unsynced: Vec::new(), syncs: 0 };
        Self { inner: Arc::new(Mutex::new(inner)), faults: Arc::new(NoFaults) }
    }

    fn fault(&self, point: IoPoint, wrap: fn(crate::EngineError) -> StoreError) -> Result<(), StoreError> {
        self.faults.check(point).map_err(|error| wrap(error.into()))
    }
}

impl LogBackend for MemoryLog {
    fn write(&self, writes: &[&LogWrite], durability: Durability) -> Result<(), StoreError> {
        self.fault(IoPoint::LogWrite, StoreError::Write)?;
        let mut inner = self.inner.lock();
        for write in writes {
            inner.visible.apply(write);
        }
        inner.unsynced.push(writes.iter().map(|write| (*write).clone()).collect());
        if durability == Durability::Synced {
            self.fault(IoPoint::LogSync, StoreError::Sync)?;
            inner.durable = inner.visible.clone();
            inner.unsynced.clear();
            inner.syncs += 1;
        }
        Ok(())
    }

    fn entries(&self, group: GroupId, from: u64, to: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let mut entries = Vec::new();
        if from >= to {
            return Ok(entries);
        }
        let inner = self.inner.lock();
        let mut bytes = 0;
        for ((_, index), value) in inner.visible.entries.range((group, from)..(group, to)) {
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push((*index, value.clone()));
        }
        Ok(entries)
    }

    fn bounds(&self, group: GroupId, from: u64) -> Result<Option<LogBounds>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        let inner = self.inner.lock();
        let mut range = inner.visible.entries.range((group, from)..(group, u64::MAX)).map(|((_, index), _)| *index);
        let first = range.next();
        Ok(first.map(|first| LogBounds { first, last: range.next_back().unwrap_or(first) }))
    }

    fn meta(&self, group: GroupId, tag: MetaTag) -> Result<Option<Bytes>, StoreError> {
        self.fault(IoPoint::Read, StoreError::Read)?;
        Ok(self.inner.lock().visible.meta.get(&(group, tag)).cloned())
    }
}
