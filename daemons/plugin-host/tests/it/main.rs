//! The real binary: ready without a supervisor, answers on its sockets, drains on SIGTERM.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod drain;
mod launch;
