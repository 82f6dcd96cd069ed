//! Logs and metrics, set up the same way in every daemon.
//!
//! Logs go to standard error, one line per event; whoever starts the process decides where that ends. Metrics live in a [`Metrics`] of the
//! process and leave it as Prometheus text. This crate opens no socket and starts no thread.

mod limited;
mod log;
mod metrics;
mod process;

pub use limited::RateLimited;
pub use log::{FilterError, Format, InitError, LogHandle, init};
pub use metrics::{CounterGrid, CounterVec, GaugeVec, Grid, HistogramGrid, HistogramVec, LATENCY_BUCKETS_S, Label, Metrics};
pub use prometheus::{Histogram, IntCounter, IntGauge};
