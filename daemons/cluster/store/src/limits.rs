//! Bounds of the storage layer.

use std::time::Duration;

/// Bytes of values one synced log batch takes. Source: `design/cluster.md` §3.2.
pub const WRITER_BATCH_BYTES_MAX: usize = 4 << 20;
/// Items one synced log batch takes. Source: `design/cluster.md` §3.2.
pub const WRITER_BATCH_ITEMS_MAX: usize = 8_192;
/// Items waiting for the log writer. At the bound `try_submit` refuses and `submit` waits.
pub const WRITER_QUEUE_ITEMS_MAX: usize = 65_536;
/// Bytes waiting for the log writer. At the bound `try_submit` refuses and `submit` waits.
pub const WRITER_QUEUE_BYTES_MAX: usize = 64 << 20;
/// How long a log item may stay unsynced when nothing that needs a sync follows it (committed ids, purges).
pub const WRITER_LAZY_MAX: Duration = Duration::from_secs(5);

/// Entries one purge step removes at least; each step is one range tombstone. Source: `design/cluster.md` §3.3.
pub const PURGE_STEP_ENTRIES_MIN: u64 = 4_096;

/// Write buffer of `raftdb`, bytes. Purged entries die in it. Source: `design/cluster.md` §3.4.
pub const RAFT_WRITE_BUFFER_BYTES: usize = 128 << 20;
/// Write buffers of `raftdb` before writes stall.
pub const RAFT_WRITE_BUFFERS: i32 = 3;
/// Write buffer per column family of `datadb`, bytes.
pub const DATA_WRITE_BUFFER_BYTES: usize = 64 << 20;
/// Write buffers per column family of `datadb` before writes stall.
pub const DATA_WRITE_BUFFERS: i32 = 4;
/// Write buffers of both databases together, bytes: above it RocksDB flushes early.
pub const WRITE_BUFFERS_BYTES: usize = 768 << 20;
/// Live write-ahead log of `raftdb`, bytes: above it RocksDB flushes.
pub const RAFT_WAL_BYTES_MAX: u64 = 512 << 20;
/// Block cache of `raftdb`, bytes.
pub const RAFT_CACHE_BYTES: usize = 32 << 20;
/// Table files per thread that opens them at a start.
pub const FILES_PER_OPENING_THREAD: usize = 32;
/// Threads that open table files, at most. Source: the engine's own default.
pub const OPENING_THREADS_MAX: i32 = 16;
/// Rate of flushes and compactions of `datadb`, bytes per second.
pub const BACKGROUND_BYTES_PER_S: i64 = 64 << 20;
/// Flush of `datadb` is asked for after this many bytes written to it.
pub const FLUSH_BYTES: u64 = 64 << 20;
/// Flush of `datadb` is asked for after this long.
pub const FLUSH_EVERY: Duration = Duration::from_secs(30);

const _: () = assert!(WRITER_BATCH_BYTES_MAX <= WRITER_QUEUE_BYTES_MAX, "a full batch must fit the queue");
const _: () = assert!(WRITER_BATCH_ITEMS_MAX <= WRITER_QUEUE_ITEMS_MAX, "a full batch must fit the queue");
const _: () = assert!(WRITER_QUEUE_BYTES_MAX < RAFT_WRITE_BUFFER_BYTES, "one queue must fit one write buffer");
