//! Storage: the only user of RocksDB.
//!
//! Two databases per node (design: `design/cluster.md` §3). [`RaftDb`] holds the raft logs of all groups; every write
//! of it goes through one [`LogWriter`] thread, which turns whatever is queued into one synced batch. [`DataDb`] holds
//! the state machines; it has no write-ahead log of its own, because the raft log already is one: after a crash its
//! state is exactly "applied up to the last flush" and consensus replays from there.
//!
//! Planes: [`keys`] (pure: every key of both databases), [`DataDb`] / [`RaftDb`] (blocking calls, a memtable insert or
//! a point read), [`LogWriter`] (one thread; callers hand over an item and get a callback).
//!
//! Invariants:
//! - rows of one `Batch` become visible and durable together, across column families (atomic flush);
//! - log items of one group reach the device in the order they were queued, votes included;
//! - a callback with `Ok` runs only after the bytes are on the device;
//! - after the first failed write or sync of the log nothing more is written: the fatal handler ends the process.
//!
//! Absent on purpose: knowledge of raft (entries and votes are opaque bytes here), schema of the rows (the state
//! machines own it), retries of failed writes (a failed sync may have dropped dirty pages).

mod batch;
mod cf;
mod datadb;
mod engine;
mod error;
mod fault;
pub mod keys;
pub mod limits;
mod log;
mod memory;
mod options;
mod raftdb;
mod writer;

pub use batch::Batch;
pub use cf::Cf;
pub use datadb::{DataDb, DataStats, Direction};
pub use error::{EngineError, OpenError, StoreError};
pub use fault::{Faults, IoPoint, NoFaults};
pub use keys::{ChannelNumber, GroupId};
pub use log::{Durability, LogBackend, LogBounds, LogDone, LogItem, LogWrite, MetaTag};
pub use memory::MemoryLog;
pub use options::Options;
pub use raftdb::{LogStats, RaftDb};
pub use writer::{FatalHandler, LogWriter, SubmitError, WriterOptions, WriterStats, abort_process};
