//! Channel groups: the message log.
//!
//! [`ChannelMachine`] is the deterministic state of one group; [`read`] answers from its rows; [`command`] and [`rows`] are the formats of
//! the raft log and of the database. Nothing here knows sockets or clocks.

pub mod cache;
pub mod command;
pub mod cursors;
pub mod machine;
pub mod read;
pub mod rows;
mod store;

pub use machine::ChannelMachine;
