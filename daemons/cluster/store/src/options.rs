//! What a caller may choose when it opens the databases of one node.

use std::sync::Arc;

use rocksdb::{Cache, WriteBufferManager};

use crate::fault::{Faults, NoFaults};
use crate::limits::{BACKGROUND_BYTES_PER_S, WRITE_BUFFERS_BYTES};

/// Options shared by both databases of one node. Clones share the block cache and the write buffer budget.
#[derive(Clone)]
pub struct Options {
    /// Threads for flushes and compactions, 2 to 4.
    pub background_jobs: i32,
    /// Ceiling of flush and compaction writes of `datadb`, bytes per second.
    pub background_bytes_per_s: i64,
    /// Fault injection; [`NoFaults`] outside tests.
    pub faults: Arc<dyn Faults>,
    pub(crate) cache: Cache,
    pub(crate) buffers: WriteBufferManager,
}

impl Options {
    /// Options with a block cache of `cache_bytes` for `datadb`.
    #[must_use]
    pub fn new(cache_bytes: usize) -> Self {
        Self {
            background_jobs: 2,
            background_bytes_per_s: BACKGROUND_BYTES_PER_S,
            faults: Arc::new(NoFaults),
            cache: Cache::new_lru_cache(cache_bytes),
            buffers: WriteBufferManager::new_write_buffer_manager(WRITE_BUFFERS_BYTES, false),
        }
    }

    /// The same options with faults.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = faults;
        self
    }
}

impl Default for Options {
    /// A cache of 64 MiB, no faults.
    fn default() -> Self {
        Self::new(64 << 20)
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("background_jobs", &self.background_jobs)
            .field("background_bytes_per_s", &self.background_bytes_per_s)
            .field("cache_bytes_used", &self.cache.get_usage())
            .finish_non_exhaustive()
    }
}
