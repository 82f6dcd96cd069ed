//! Message ids: snowflakes (`design/cluster.md` §5).
//!
//! [`Generator`] is pure; [`IdService`] keeps its persisted ceiling ahead of it.

mod generator;
mod service;

pub use generator::{CEILING_AHEAD_MS, EPOCH_MS, Generator, LEAD_MS_MAX};
pub use service::{Ceiling, IdService};
