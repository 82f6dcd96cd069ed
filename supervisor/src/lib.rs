//! Starts, watches, restarts and stops the daemons of one node, and the control tool that talks to it.
//!
//! Planes: the *engine* (main thread, current-thread runtime) owns the [`table::Table`], every fork, pidfd, timer and health watch; the
//! *control* thread serves `control.sock` and `node.sock` from published snapshots and hands commands to the engine through one bounded
//! queue, so that no client can hold the engine up.
//!
//! Invariants: the table decides, the edge modules act; at most one live process per instance; no signal without a pidfd (or an unreaped
//! leader, for its group); no pipe between the supervisor and a child's output, so that neither can block the other.
//!
//! Deliberately absent: consensus, storage, message handling. This is the smallest program of the node.

pub mod adopt;
pub mod backoff;
mod calls;
pub mod cause;
pub mod cgroup;
pub mod check;
pub mod config;
pub mod console;
pub mod control;
pub mod ctl;
pub mod engine;
pub mod events;
mod fence;
pub mod generate;
pub mod heritage;
pub mod installed;
pub mod kept;
pub mod ledger;
pub mod leftovers;
pub mod limits;
pub mod listeners;
pub mod logs;
pub mod mend;
pub mod metrics;
pub mod names;
pub mod notify;
pub mod orphans;
pub mod overrides;
pub mod panic;
mod proc;
pub mod process;
mod ready;
pub mod reap;
pub mod reexec;
pub mod reload;
pub mod report;
pub mod roles;
mod rounds;
pub mod runtime;
pub mod sample;
pub mod service;
pub mod spawn;
pub mod spec;
pub mod starts;
mod sys;
pub mod table;
pub mod timing;
