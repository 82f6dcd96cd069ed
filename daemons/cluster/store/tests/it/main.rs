//! Storage through its public surface.
#![expect(clippy::unwrap_used, reason = "a failing test stops at the unwrap")]

mod data;
mod faults;
mod log;
mod writer;
