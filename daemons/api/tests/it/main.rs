//! The real `wk-api` process between neighbours that this test plays: node table, cluster, owners, a webhook backend.

#![expect(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

mod drain;
mod neighbours;
mod process;
mod serve;
