//! The supervisor's own metrics, and one page out of those of all daemons.

use std::collections::BTreeMap;
use std::fmt::Write;

use wk_telemetry::{CounterVec, Histogram, IntCounter, Metrics};

use crate::cause::Cause;
use crate::table::Sig;

const CAUSES: [&str; 10] = ["exit", "signal", "unknown", "spawn", "start-timeout", "hang", "identity", "oom", "daemonised", "unready"];
const SIGNALS: [&str; 3] = ["term", "abort", "kill"];
const RESULTS: [&str; 2] = ["ok", "failed"];

/// Upper bounds of [`Counters::op_seconds`]. Unit: s.
const OP_BUCKETS_S: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Counters of the engine.
#[derive(Debug)]
pub struct Counters {
    page: Metrics,
    crashes: CounterVec,
    signals: CounterVec,
    ops: CounterVec,
    /// Reports of links without progress.
    pub stalls: IntCounter,
    /// Processes taken over from an earlier supervisor.
    pub adopted: IntCounter,
    /// Time of operations, from the command to the end.
    pub op_seconds: Histogram,
    /// Events that found the queue full.
    pub events_dropped: IntCounter,
    /// Events that are in memory but not in the file.
    pub events_unwritten: IntCounter,
}

impl Default for Counters {
    fn default() -> Self {
        let page = Metrics::new();
        Self {
            crashes: page.counter_vec("wk_supervisor_crashes_total", "Generations that ended on their own, by cause.", "cause", &CAUSES),
            signals: page.counter_vec("wk_supervisor_signals_total", "Signals sent to daemons.", "signal", &SIGNALS),
            ops: page.counter_vec("wk_supervisor_operations_total", "Operations, by result.", "result", &RESULTS),
            stalls: page.counter("wk_supervisor_stall_reports_total", "Links reported without progress."),
            adopted: page.counter("wk_supervisor_adopted_total", "Processes taken over from an earlier supervisor."),
            op_seconds: page.histogram("wk_supervisor_op_seconds", "Time of operations, waiting included.", &OP_BUCKETS_S),
            events_dropped: page.counter("wk_supervisor_events_dropped_total", "Events lost on their way to the control thread."),
            events_unwritten: page.counter("wk_supervisor_events_unwritten_total", "Events that are not in the event file."),
            page,
        }
    }
}

impl Counters {
    /// Counts a crash.
    pub fn crash(&self, cause: &Cause) {
        if let Some(index) = CAUSES.iter().position(|c| *c == cause.label()) {
            self.crashes.at(index).inc();
        }
    }

    /// Counts a signal.
    pub fn signal(&self, sig: Sig) {
        let index = match sig {
            Sig::Term => 0,
            Sig::Abort => 1,
            Sig::Kill => 2,
        };
        self.signals.at(index).inc();
    }

    /// Counts the end of an operation.
    pub fn op(&self, code: u32) {
        self.ops.at(usize::from(code != 0)).inc();
    }

    /// Own page.
    #[must_use]
    pub fn text(&self) -> String {
        self.page.gather()
    }
}

/// One page out of several: samples of a family stay together, each with the label `instance` of its process.
#[must_use]
pub fn merge(pages: &[(String, String)]) -> String {
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<String>)> = BTreeMap::new();
    for (instance, page) in pages {
        let mut family = "";
        for line in page.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                family = comment.split(' ').nth(1).unwrap_or_default();
                let (heads, _) = families.entry(family).or_default();
                let kind = comment.split(' ').next().unwrap_or_default();
                if !heads.iter().any(|h| h.strip_prefix("# ").is_some_and(|h| h.starts_with(kind))) {
                    heads.push(line);
                }
            } else if let Some(sample) = labelled(line, instance) {
                families.entry(family).or_default().1.push(sample);
            }
        }
    }
    let mut text = String::new();
    for (heads, samples) in families.values() {
        for line in heads.iter().copied().chain(samples.iter().map(String::as_str)) {
            // Writing to a string does not fail.
            writeln!(text, "{line}").unwrap_or_default();
        }
    }
    text
}

fn labelled(line: &str, instance: &str) -> Option<String> {
    match line.split_once('{') {
        Some((name, rest)) => Some(format!("{name}{{instance=\"{instance}\",{rest}")),
        None => line.split_once(' ').map(|(name, value)| format!("{name}{{instance=\"{instance}\"}} {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_all_processes_stay_together() {
        let page = |n: u32| format!("# HELP a Text.\n# TYPE a counter\na {n}\n# HELP b Text.\n# TYPE b gauge\nb{{x=\"y\"}} {n}\n");
        let merged = merge(&[("cluster@0".into(), page(1)), ("api@0".into(), page(2))]);
        assert_eq!(
            merged,
            "# HELP a Text.\n# TYPE a counter\na{instance=\"cluster@0\"} 1\na{instance=\"api@0\"} 2\n\
             # HELP b Text.\n# TYPE b gauge\nb{instance=\"cluster@0\",x=\"y\"} 1\nb{instance=\"api@0\",x=\"y\"} 2\n"
        );
    }
}
