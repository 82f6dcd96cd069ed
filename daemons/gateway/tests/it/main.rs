//! Real reactors on loopback sockets with a hub played by the test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

mod bounds;
mod client;
mod drain;
mod pulse;
mod rig;
mod stream;
mod timers;
mod ws;
