//! Consensus: the only user of openraft.
//!
//! A facade over one openraft instance per group (`design/cluster.md` §§0, 1, 3.2, 3.3). No openraft type leaves this crate: commands and
//! responses are bytes, members are node ids, errors are closed sets. All groups of a node share one log database and one writer thread;
//! each group owns a [`StateMachine`] whose rows lie in the data database.
//!
//! Planes: [`Groups`] opens groups and serves what other nodes send; [`Group`] proposes, reads and reports; the state machine is called
//! back in log order.
//!
//! Decision: apply runs inline on the runtime thread, inside openraft's state machine task. The runtime is current-thread; a memtable
//! write without a write-ahead log costs microseconds, while a wake of another thread and back costs about 25 µs, more than the batch
//! itself. The price is that a RocksDB write stall stalls the raft timers of this node; the buffers are sized so that stalls mean the disk is
//! broken (four write buffers per column family), and slot groups of a stalled node lose leadership, which is the wanted outcome.
//!
//! Invariants:
//! - an acknowledged proposal is on the log device of a quorum and applied on the leader;
//! - rows and the applied record of a group are written in one batch by its machine;
//! - the log is never purged past what the data database has flushed ([`Group::purge`]);
//! - a group with one voter has no ticks, no heartbeats and no election timeout.
//!
//! Absent on purpose: transport (a [`Network`] is handed in), hibernation, retries of proposals.

mod adapter;
mod codec;
mod error;
mod group;
mod groups;
mod limits;
mod log_store;
mod machine;
mod network;
mod options;
mod peer;
mod types;

pub use adapter::FatalHook;
pub use error::{GroupError, OpenError, ProposeError, ReadError};
pub use group::{Group, ProposeCallback, Proposed, Role, Status};
pub use groups::Groups;
pub use machine::{ApplyContext, Entry, MachineError, StateMachine};
pub use network::{Frames, Loopback, Network, NetworkError, NoNetwork, Replies, RpcKind};
pub use options::RaftOptions;
pub use wk_store::GroupId;
