//! The way of messages into the log: one request → checked frames → one queue per channel group → entries → answers.
//!
//! No task is started per message or request: each open channel group has one task that packs what waits, and answers are given from the
//! callbacks of consensus.

pub mod fence;
pub mod front;
pub mod group;
mod pending;
mod queue;

pub use front::Front;
pub use group::ChannelGroup;
