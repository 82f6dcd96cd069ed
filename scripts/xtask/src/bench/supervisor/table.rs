//! The table of `bench supervisor`: ours beside the goals and beside the others.

use std::io::Write;

use comfy_table::{Cell, Color, Table, presets};
use serde_json::Value;

use super::rival::Rival;
use crate::bench::report::{commit, machine, round};

/// Name, field, unit, goal. Source: issue 4, "What must be shown" (starts and stops: of trivial children). No goal: shown for comparison.
const MEASURES: [(&str, &str, &str, Option<f64>); 29] = [
    ("kill -9 to first instruction, p50", "restart_p50_ms", "ms", Some(1.5)),
    ("the same, p95", "restart_p95_ms", "ms", Some(3.0)),
    ("kill -9 to Ready, gRPC daemon, p50", "restart_ready_p50_ms", "ms", Some(5.0)),
    ("memory (RSS), 10 children", "rss_10_mb", "MB", Some(8.0)),
    ("memory (RSS), 100 children", "rss_100_mb", "MB", Some(12.0)),
    ("its own share of memory (PSS), 10 children", "pss_10_mb", "MB", None),
    ("the same, 100 children", "pss_100_mb", "MB", None),
    ("idle CPU", "idle_us_per_s", "µs/s", Some(200.0)),
    ("idle context switches", "idle_switches_per_s", "/s", Some(5.0)),
    ("start of 10 trivial children, first instructions", "trivial_cold_start_10_ms", "ms", Some(10.0)),
    ("start of 100 trivial children, first instructions", "trivial_cold_start_100_ms", "ms", Some(50.0)),
    ("start of 10 trivial children by a resident supervisor", "trivial_start_10_ms", "ms", Some(10.0)),
    ("start of 100 trivial children by a resident supervisor", "trivial_start_100_ms", "ms", Some(50.0)),
    ("stop of 10 trivial children", "trivial_stop_10_ms", "ms", Some(2.0)),
    ("stop of 100 trivial children", "trivial_stop_100_ms", "ms", Some(10.0)),
    ("start of a node of 10 gRPC daemons, first instructions", "start_10_ms", "ms", None),
    ("start of a node of 100 gRPC daemons, first instructions", "start_100_ms", "ms", None),
    ("start of 10 gRPC workers by a resident supervisor", "pools_start_10_ms", "ms", None),
    ("start of 100 gRPC workers by a resident supervisor", "pools_start_100_ms", "ms", None),
    ("start of 10, all Ready", "start_ready_10_ms", "ms", None),
    ("start of 100, all Ready", "start_ready_100_ms", "ms", None),
    ("stop of 10 gRPC workers, no order among them", "pools_stop_10_ms", "ms", None),
    ("stop of 100 gRPC workers, no order among them", "pools_stop_100_ms", "ms", None),
    ("stop of a node of 10: clients first, then in order", "stop_10_ms", "ms", None),
    ("stop of a node of 100: clients first, then in order", "stop_100_ms", "ms", None),
    ("readiness lag, p95", "ready_lag_p95_ms", "ms", Some(1.0)),
    ("status with 100 instances, p99", "status_p99_ms", "ms", Some(2.0)),
    ("copies after kill -9 of the supervisor", "copies_after_kill", "x", Some(1.0)),
    ("kill -9 of the supervisor to control again, p50", "control_p50_ms", "ms", Some(1000.0)),
];

/// Prints what was measured: ours, the goal, the others as multiples of ours.
pub(super) fn print(medians: &[Value]) -> anyhow::Result<()> {
    let line = |name: &str| medians.iter().find(|l| l.get("bench").and_then(Value::as_str) == Some(name));
    let others: Vec<(Rival, &Value)> =
        Rival::ALL.into_iter().skip(1).filter_map(|r| Some((r, line(&format!("supervisor-{}", r.name()))?))).collect();
    let mut table = Table::new();
    let head = ["Measure", "ours", "goal", ""].map(str::to_owned).into_iter().chain(others.iter().map(|(r, _)| r.name().to_owned()));
    table.load_style(presets::ASCII_MARKDOWN).set_header(head);
    for (name, field, unit, goal) in MEASURES {
        let of = |l: Option<&Value>| l?.get(field)?.as_f64();
        let Some(ours) = of(line("supervisor-wksupervisor")).or_else(|| of(line("supervisor-adopt"))) else { continue };
        let (word, color) = verdict(ours, goal);
        let row = [name.to_owned(), format!("{} {unit}", round(ours)), goal.map(|g| format!("{g} {unit}")).unwrap_or_default()];
        let cells = row.into_iter().map(Cell::new).chain([Cell::new(word).fg(color)]);
        table.add_row(cells.chain(others.iter().map(|(_, l)| Cell::new(beside(of(Some(l)), ours)))));
    }
    writeln!(std::io::stdout(), "\n{table}\n\ncommit {}, {}", commit(), machine())?;
    Ok(())
}

fn verdict(value: f64, goal: Option<f64>) -> (&'static str, Color) {
    match goal {
        None => ("", Color::Reset),
        Some(goal) if value <= goal => ("goal", Color::Green),
        Some(_) => ("MISSED", Color::Red),
    }
}

/// Another's number, and how many times ours it is.
fn beside(other: Option<f64>, ours: f64) -> String {
    match other {
        None => String::new(),
        Some(other) if ours > 0.0 => format!("{} (x {:.2})", round(other), other / ours),
        Some(other) => round(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_and_ratios() {
        assert_eq!([verdict(1.0, Some(1.0)).0, verdict(1.1, Some(1.0)).0, verdict(9.0, None).0], ["goal", "MISSED", ""]);
        assert_eq!([beside(Some(3.0), 2.0), beside(Some(3.0), 0.0), beside(None, 1.0)], ["3 (x 1.50)", "3", ""]);
    }
}
