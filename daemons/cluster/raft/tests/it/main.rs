//! Consensus through its public surface.
#![expect(clippy::unwrap_used, reason = "a failing test stops at the unwrap")]

mod cluster;
mod crash;
mod machine;
mod single;
