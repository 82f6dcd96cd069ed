//! Cluster daemon: message log, metadata, ids, locks.
//!
//! Planes: `rpc` (streams of requests), `append` (messages into the log), `channel` and `shard` (deterministic state machines and the reads of
//! their rows), `node` (identity, node group, slot table, opening of groups), `ids`, `engine` (all of it together), `service` (life of the
//! process), `host` (the node table below native systemd units). Consensus is the crate `wk-raft`, RocksDB the crate `wk-store`.
//!
//! Invariants:
//! - acknowledged means: in the synced log of a quorum and applied here;
//! - apply knows no clock, no randomness, no hash map order, and its results do not depend on where batches begin;
//! - channels of one request do not depend on each other;
//! - no task is started per message; every queue has a bound, an answer at the bound and a counter;
//! - a failed write or sync ends the process.
//!
//! Absent on purpose: transport between nodes, forwarding to other leaders, membership changes (issue of its own; group ids, layout and
//! state machines are made for them), rules about who may send (channel workers), retries (callers know what a second try means).

pub mod answer;
pub mod append;
pub mod channel;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
pub mod fault;
pub mod host;
pub mod ids;
pub mod limits;
pub mod metrics;
pub mod node;
pub mod readers;
pub mod rpc;
pub mod service;
pub mod shard;
pub mod upkeep;
