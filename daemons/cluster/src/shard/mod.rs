//! Slot groups: users, devices, channel information, member lists, locks.
//!
//! [`ShardMachine`] is the deterministic state of one group; [`read`] answers from its rows; [`command`] is the format of the raft log and
//! [`keys`] lays out the rows.

pub mod command;
pub mod keys;
pub mod lock;
pub mod machine;
mod overlay;
pub mod read;
pub mod rows;

pub use machine::ShardMachine;
