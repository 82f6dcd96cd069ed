//! The supervisor's own metrics, and one page out of those of all daemons.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use wk_telemetry::{CounterGrid, CounterVec, Histogram, HistogramGrid, HistogramVec, IntCounter, LATENCY_BUCKETS_S, Metrics};
use wk_types::Daemon;

use crate::cause::Cause;
use crate::table::{Kind, Measure, Sig};
use crate::timing::{PHASES, phases};

const CAUSES: [&str; 10] = ["exit", "signal", "unknown", "spawn", "start-timeout", "hang", "identity", "oom", "daemonised", "unready"];
const SIGNALS: [&str; 3] = ["term", "abort", "kill"];
const OPS: [&str; 5] = ["start", "stop", "restart", "roll", "scale"];
const RESULTS: [&str; 3] = ["ok", "cancelled", "failed"];

/// Upper bounds of operations and stops. Unit: s.
const OP_BUCKETS_S: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];
/// Upper bounds of the phases of a start: exec is about a millisecond, a long replay takes minutes. Unit: s.
const START_BUCKETS_S: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

/// Counters of the supervisor.
#[derive(Debug)]
pub struct Counters {
    page: Metrics,
    crashes: CounterVec,
    restarts: CounterGrid,
    signals: CounterVec,
    escalations: CounterVec,
    misses: CounterVec,
    loops: CounterVec,
    start_seconds: HistogramGrid,
    stop_seconds: HistogramVec,
    op_seconds: HistogramGrid,
    /// Round trip of liveness checks that were answered.
    pub health_rtt: Histogram,
    /// How late the engine's thread came to liveness checks that were due.
    pub engine_lag: Histogram,
    /// Reports of links without progress.
    pub stalls: IntCounter,
    /// Processes taken over from an earlier supervisor.
    pub adopted: IntCounter,
    /// Events that found the queue full.
    pub events_dropped: IntCounter,
    /// Events of crash loops that were held back, to be told as one.
    pub events_folded: IntCounter,
    /// Events that are in memory but not in the file.
    pub events_unwritten: IntCounter,
    /// Events that the systemd journal did not take.
    pub journal_dropped: IntCounter,
    /// Logs that were over their bound and were cut.
    pub log_rotations: IntCounter,
}

impl Default for Counters {
    fn default() -> Self {
        let page = Metrics::new();
        let names = Daemon::ALL.map(Daemon::name);
        let daemon = ("daemon", names.as_slice());
        let of_daemons = |name, help| page.counter_vec(name, help, daemon.0, daemon.1);
        let start = "Phases of starts: exec, init (to the first health answer), wait (for edges), handshake (from activation), total.";
        Self {
            crashes: page.counter_vec("wk_supervisor_crashes_total", "Generations that ended on their own, by cause.", "cause", &CAUSES),
            restarts: page.counter_grid(
                "wk_supervisor_restarts_total",
                "Generations started after a crash, by its cause.",
                daemon,
                ("cause", &CAUSES),
            ),
            signals: page.counter_vec("wk_supervisor_signals_total", "Signals sent to daemons.", "signal", &SIGNALS),
            escalations: of_daemons("wk_supervisor_kill_escalations_total", "SIGKILLs after a milder signal did not end a daemon in time."),
            misses: of_daemons("wk_supervisor_health_misses_total", "Liveness checks and probes that were not answered."),
            loops: of_daemons("wk_supervisor_crash_loops_total", "Instances that entered a crash loop."),
            start_seconds: page.histogram_grid("wk_supervisor_start_seconds", start, &START_BUCKETS_S, daemon, ("phase", &PHASES)),
            stop_seconds: page.histogram_vec("wk_supervisor_stop_seconds", "Ordered ends, first signal to exit.", &OP_BUCKETS_S, daemon),
            op_seconds: page.histogram_grid(
                "wk_supervisor_op_seconds",
                "Time of operations, waiting included.",
                &OP_BUCKETS_S,
                ("op", &OPS),
                ("result", &RESULTS),
            ),
            health_rtt: page.histogram("wk_supervisor_health_rtt_seconds", "Round trip of liveness checks.", LATENCY_BUCKETS_S),
            engine_lag: page.histogram("wk_supervisor_engine_lag_seconds", "Lateness of the engine's timers.", LATENCY_BUCKETS_S),
            stalls: page.counter("wk_supervisor_stall_reports_total", "Links reported without progress."),
            adopted: page.counter("wk_supervisor_adopted_total", "Processes taken over from an earlier supervisor."),
            events_dropped: page.counter("wk_supervisor_events_dropped_total", "Events lost on their way to the control thread."),
            events_folded: page
                .counter("wk_supervisor_events_folded_total", "Events of crash loops that were held back, to be told as one."),
            events_unwritten: page.counter("wk_supervisor_events_unwritten_total", "Events that are not in the event file."),
            log_rotations: page.counter("wk_supervisor_log_rotations_total", "Logs that were over their bound and were cut."),
            journal_dropped: page.counter("wk_supervisor_journal_dropped_total", "Events that the systemd journal did not take."),
            page,
        }
    }
}

fn index(daemon: Daemon) -> usize {
    Daemon::ALL.iter().position(|d| *d == daemon).expect("every daemon is in the list of all")
}

fn index_of(cause: &Cause) -> usize {
    CAUSES.iter().position(|c| *c == cause.label()).expect("every label is in the list of causes")
}

impl Counters {
    /// Counts a crash.
    pub fn crash(&self, cause: &Cause) {
        self.crashes.at(index_of(cause)).inc();
    }

    /// Counts an instance that entered a crash loop.
    pub fn crash_loop(&self, daemon: Daemon) {
        self.loops.at(index(daemon)).inc();
    }

    /// Counts what the table has measured.
    pub fn measure(&self, daemon: Daemon, measure: &Measure) {
        let row = index(daemon);
        match measure {
            Measure::Restarted(cause) => self.restarts.at(row, index_of(cause)).inc(),
            Measure::Started(times) => {
                for (column, time) in phases(times).into_iter().flatten().enumerate() {
                    self.start_seconds.at(row, column).observe(time.as_secs_f64());
                }
            }
            Measure::Stopped(time) => self.stop_seconds.at(row).observe(time.as_secs_f64()),
            Measure::Escalated => self.escalations.at(row).inc(),
            Measure::Missed => self.misses.at(row).inc(),
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
    pub fn op(&self, kind: Kind, code: u32, age: Duration) {
        let row = match kind {
            Kind::Start => 0,
            Kind::Stop => 1,
            Kind::Restart => 2,
            Kind::Roll => 3,
            Kind::Scale(..) => 4,
        };
        let column = match code {
            0 => 0,
            7 => 1,
            _ => 2,
        };
        self.op_seconds.at(row, column).observe(age.as_secs_f64());
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
    use crate::cause::Exit;

    #[test]
    fn every_word_of_the_closed_sets_has_its_place() {
        let counters = Counters::default();
        for daemon in Daemon::ALL {
            counters.measure(daemon, &Measure::Missed);
        }
        for kind in [Kind::Start, Kind::Stop, Kind::Restart, Kind::Roll, Kind::Scale(Daemon::Api, 1)] {
            counters.op(kind, 7, Duration::from_secs(1));
        }
        let causes = [
            Cause::Exit(Exit::Code(1)),
            Cause::Exit(Exit::Signal { signal: 9, core: false }),
            Cause::Exit(Exit::OutOfMemory),
            Cause::Exit(Exit::Unknown),
            Cause::Spawn { text: String::new(), permanent: false },
            Cause::StartTimeout,
            Cause::Hang("".into()),
            Cause::Identity(String::new()),
            Cause::Daemonised,
            Cause::Unready,
        ];
        for cause in causes {
            counters.crash(&cause);
            counters.measure(Daemon::Api, &Measure::Restarted(cause));
        }
        let page = counters.text();
        let ones = |family: &str| page.lines().filter(|l| l.starts_with(family) && l.ends_with(" 1")).count();
        assert_eq!((ones("wk_supervisor_crashes_total"), ones("wk_supervisor_restarts_total")), (10, 10), "{page}");
        assert_eq!((ones("wk_supervisor_health_misses_total"), ones("wk_supervisor_op_seconds_count")), (7, 5), "{page}");
    }

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
