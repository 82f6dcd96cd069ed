//! The real `wk-api` process between neighbours that this test plays: node table, cluster, owners, a webhook backend.

mod drain;
mod neighbours;
mod process;
mod serve;
