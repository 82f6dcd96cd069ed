//! The result line of one run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cpu::{Account, as_f64, round};

/// Result of one run. Rates per second, times in ms, CPU in µs per message.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: &'static str,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) messages: u64,
    pub(crate) refused: u64,
    pub(crate) received: u64,
    pub(crate) rate_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us_per_msg: BTreeMap<String, f64>,
    pub(crate) server_cpu_us: f64,
    pub(crate) client_cpu_us: f64,
    pub(crate) cpu_share: f64,
}

/// What a run counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) refused: u64,
    /// RECVs, each answered with a RECVACK.
    pub(crate) received: u64,
    /// Unit: µs.
    pub(crate) latencies: Vec<u32>,
}

/// Accounts at the borders of the measured time.
#[derive(Debug)]
pub(crate) struct Borders {
    pub(crate) before: Account,
    pub(crate) after: Account,
    pub(crate) client_ns: u64,
    pub(crate) elapsed: Duration,
    pub(crate) cpu_share: f64,
}

impl Report {
    pub(crate) fn new(bench: &'static str, connections: usize, in_flight: usize, mut counts: Counts, borders: &Borders) -> Self {
        let cpu = borders.after.per_message(&borders.before, counts.messages);
        counts.latencies.sort_unstable();
        Self {
            bench,
            connections,
            in_flight,
            messages: counts.messages,
            refused: counts.refused,
            received: counts.received,
            rate_per_s: round(as_f64(counts.messages) / borders.elapsed.as_secs_f64()),
            p50_ms: percentile(&counts.latencies, 50),
            p99_ms: percentile(&counts.latencies, 99),
            server_cpu_us: round(cpu.values().sum()),
            cpu_us_per_msg: cpu,
            client_cpu_us: round(as_f64(borders.client_ns) / 1e3 / as_f64(counts.messages.max(1))),
            cpu_share: borders.cpu_share,
        }
    }
}

/// Percentile of sorted µs, in ms; 0 without samples.
fn percentile(sorted: &[u32], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    round(f64::from(sorted.get(at).copied().unwrap_or(0)) / 1e3)
}
