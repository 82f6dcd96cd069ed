//! gRPC over Unix sockets: dialling, serving, peer checks, the node table.
//!
//! Every process of a node talks to every other through this crate, so windows, frame sizes and peer checks are the same everywhere. What
//! is deliberately absent: TCP (only the cluster daemon speaks to other nodes, with TLS), retries of calls (the caller knows what a second
//! try means) and the message path's items (crate `wk-link`).

pub mod backoff;
pub mod client;
pub mod clock;
pub mod dial;
mod epochs;
pub mod limits;
pub mod serve;
pub mod status;
pub mod table;

pub use client::{CallError, ClusterData, Op};
pub use dial::{dial, dial_lazy};
pub use epochs::Part;
pub use serve::{ServeOptions, serve, serve_incoming};
pub use table::{Row, RowState, Table, TableWatch};
