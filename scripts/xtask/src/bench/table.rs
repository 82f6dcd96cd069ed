//! The table of `bench all`: what was measured beside what is required and what is the goal.

use std::io::Write;

use comfy_table::{Cell, Color, Table, presets};
use serde_json::Value;

use super::report::{commit, machine, round};

/// Which side of a bound is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    /// Not above.
    Low,
    /// Not below.
    High,
}

/// One line: a value of a benchmark and its bounds. Source: issue 3, "Numbers".
struct Measure {
    name: &'static str,
    bench: &'static str,
    /// Field of the line, or the sum of a group of numbers.
    field: &'static str,
    unit: &'static str,
    good: Good,
    required: f64,
    goal: f64,
}

const fn low(name: &'static str, (bench, field): (&'static str, &'static str), unit: &'static str, required: f64, goal: f64) -> Measure {
    Measure { name, bench, field, unit, good: Good::Low, required, goal }
}

const fn high(name: &'static str, (bench, field): (&'static str, &'static str), unit: &'static str, required: f64, goal: f64) -> Measure {
    Measure { name, bench, field, unit, good: Good::High, required, goal }
}

const MEASURES: [Measure; 20] = [
    low("durable message, 1,000 connections: server CPU", ("send", "server_cpu_us"), "µs", 35.0, 22.0),
    high("the same: messages a second", ("send", "rate_per_s"), "/s", 15_000.0, 30_000.0),
    low("64 in flight: SENDACK p50", ("latency-64", "p50_ms"), "ms", 5.0, 1.5),
    low("64 in flight: SENDACK p99", ("latency-64", "p99_ms"), "ms", 50.0, 10.0),
    high("fan-out, 1,000 members: deliveries a second", ("fanout", "rate_per_s"), "/s", 80_000.0, 150_000.0),
    low("the same: server CPU per delivery", ("fanout", "server_cpu_us"), "µs", 10.0, 6.0),
    low("PING/PONG in the gateway: CPU", ("echo", "server_cpu_us"), "µs", 9.0, 7.0),
    low("user memory of an idle connection, binary TCP", ("idle-tcp", "bytes_per_connection"), "B", 10_240.0, 6_144.0),
    low("user memory of an idle connection, WebSocket", ("idle-ws", "bytes_per_connection"), "B", 10_240.0, 6_144.0),
    high("idle connections at a descriptor limit of 20,000", ("connections", "connections"), "", 18_000.0, 50_000.0),
    low("cold start, empty", ("start-empty", "start_ms"), "ms", 500.0, 120.0),
    low("the same against one daemon after the other", ("start-serial", "at_once_of_it"), "x", 0.7, 0.7),
    low("cold start, 1,000,000 messages in 10,000 channels", ("start-full", "start_ms"), "ms", 500.0, 250.0),
    low("1,024 slot groups: start to all leaders", ("groups", "start_ms"), "ms", 2_000.0, 500.0),
    low("the same: idle CPU of the node", ("groups", "idle_cpu_percent"), "%", 30.0, 2.0),
    low("the same: memory of wk-cluster", ("groups", "cluster_mb"), "MB", 300.0, 200.0),
    low("lone message: SENDACK p50", ("latency-1", "p50_ms"), "ms", 2.0, 0.6),
    low("CPU of pools in their own processes against one", ("pools-apart", "of:pools-together"), "x", 1.35, 1.35),
    low("CPU of 9,000 against 1,000 connections", ("sizes-connections-9000", "of:sizes-connections-1000"), "x", 1.25, 1.25),
    low("CPU of 100,000 against 10,000 channels", ("sizes-channels-100000", "of:sizes-channels-10000"), "x", 1.25, 1.25),
];

/// Prints the table for what was measured.
pub(super) fn print(medians: &[Value]) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["Measure", "measured", "spread", "required", "goal", ""]);
    for measure in &MEASURES {
        let Some(value) = measure.value(medians) else { continue };
        let (word, color) = measure.verdict(value);
        let row = [
            measure.name.to_owned(),
            measure.show(value),
            measure.spread(medians),
            measure.show(measure.required),
            measure.show(measure.goal),
        ];
        table.add_row(row.into_iter().map(Cell::new).chain([Cell::new(word).fg(color)]));
    }
    writeln!(std::io::stdout(), "\n{table}\n\ncommit {}, {}", commit(), machine())?;
    Ok(())
}

impl Measure {
    fn value(&self, medians: &[Value]) -> Option<f64> {
        let line = |name: &str| medians.iter().find(|line| line.get("bench").and_then(Value::as_str) == Some(name));
        let measured = line(self.bench)?;
        match self.field.strip_prefix("of:") {
            Some(base) => Some(round(cpu(measured)? / cpu(line(base)?)?)),
            None => measured.get(self.field)?.as_f64(),
        }
    }

    /// Lowest and highest run, where the spread is that of this field.
    fn spread(&self, medians: &[Value]) -> String {
        let main = ["rate_per_s", "bytes_per_connection", "connections", "start_ms"].contains(&self.field);
        let line = medians.iter().find(|line| line.get("bench").and_then(Value::as_str) == Some(self.bench)).filter(|_| main);
        let ends = line.and_then(|line| Some((line.get("spread")?.get(0)?.as_f64()?, line.get("spread")?.get(1)?.as_f64()?)));
        ends.map(|(low, high)| format!("{}–{}", number(low), number(high))).unwrap_or_default()
    }

    fn verdict(&self, value: f64) -> (&'static str, Color) {
        let meets = |bound: f64| if self.good == Good::Low { value <= bound } else { value >= bound };
        match (meets(self.goal), meets(self.required)) {
            (true, _) => ("goal", Color::Green),
            (false, true) => ("ok", Color::Yellow),
            (false, false) => ("MISSED", Color::Red),
        }
    }

    fn show(&self, value: f64) -> String {
        format!("{} {}", number(value), self.unit).trim_end().to_owned()
    }
}

fn cpu(line: &Value) -> Option<f64> {
    line.get("server_cpu_us")?.as_f64()
}

/// Large numbers without fraction and with separators, small ones with up to two decimals.
fn number(value: f64) -> String {
    if value < 1000.0 {
        return round(value).to_string();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts_and_numbers() {
        let [cpu, rate, ..] = &MEASURES;
        assert_eq!([cpu.verdict(22.0).0, cpu.verdict(35.0).0, cpu.verdict(35.1).0], ["goal", "ok", "MISSED"]);
        assert_eq!([rate.verdict(30_000.0).0, rate.verdict(15_000.0).0, rate.verdict(14_999.0).0], ["goal", "ok", "MISSED"]);
        assert_eq!([number(1.234), number(999.0), number(1_234_567.8)], ["1.23", "999", "1,234,568"]);
    }

    #[test]
    fn ratios_and_spreads() {
        let medians = [
            json!({"bench": "sizes-connections-1000", "server_cpu_us": 30.0}),
            json!({"bench": "sizes-connections-9000", "server_cpu_us": 36.0}),
            json!({"bench": "send", "rate_per_s": 2000.0, "spread": [1000.0, 3000.9]}),
        ];
        let find = |name: &str| MEASURES.iter().find(|m| m.bench == name).expect("known");
        assert_eq!(find("sizes-connections-9000").value(&medians), Some(1.2));
        assert_eq!(MEASURES[1].spread(&medians), "1,000–3,001");
        assert_eq!(find("echo").value(&medians), None);
    }
}
