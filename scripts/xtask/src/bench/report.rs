//! The lines: one for each run, a last one with medians.

use std::fs;
use std::io::Write;
use std::process::Command;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::workspace::root;

/// Runs of one benchmark.
#[derive(Debug)]
pub(super) struct Series {
    name: String,
    runs: Vec<Value>,
}

impl Series {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), runs: Vec::new() }
    }

    /// Prints the line of one run: the fields of `run`, and which benchmark and commit it is.
    pub(super) fn add(&mut self, run: Value) -> anyhow::Result<()> {
        let line = self.line(run.as_object().cloned().unwrap_or_default());
        writeln!(std::io::stdout(), "{line}")?;
        self.runs.push(line);
        Ok(())
    }

    /// Prints and returns the medians.
    pub(super) fn finish(self) -> anyhow::Result<Value> {
        let first = self.runs.first().and_then(Value::as_object).context("no run")?;
        let mut medians: Map<String, Value> = first.iter().map(|(key, value)| (key.clone(), median_of(&self.runs, key, value))).collect();
        let main = ["rate_per_s", "bytes_per_connection", "connections", "start_ms"].into_iter().find(|key| first.contains_key(*key));
        if let Some(key) = main {
            let values = self.runs.iter().filter_map(|run| run.get(key)?.as_f64());
            let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
            medians.insert("spread".into(), json!([low, high]));
        }
        medians.insert("runs".into(), json!(self.runs.len()));
        medians.insert("machine".into(), json!(machine()));
        let line = self.line(medians);
        writeln!(std::io::stdout(), "{line}")?;
        Ok(line)
    }

    fn line(&self, mut fields: Map<String, Value>) -> Value {
        fields.insert("bench".into(), json!(self.name));
        fields.insert("commit".into(), json!(commit()));
        Value::Object(fields)
    }
}

/// Median of a number over all runs, of each number of a group of numbers; anything else as the first run has it.
fn median_of(runs: &[Value], key: &str, first: &Value) -> Value {
    match first {
        Value::Number(_) => json!(median(runs.iter().filter_map(|run| run.get(key)?.as_f64()).collect())),
        Value::Object(parts) => {
            let part = |name: &String| {
                let values = runs.iter().filter_map(|run| run.get(key)?.get(name)?.as_f64()).collect();
                (name.clone(), json!(median(values)))
            };
            Value::Object(parts.keys().map(part).collect())
        }
        other => other.clone(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Two decimals: more would pretend precision.
pub(super) fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
pub(super) fn as_f64(n: u64) -> f64 {
    n as f64
}

/// Cores, model and kernel.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ").map(|(_, m)| m.to_owned()));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} x {}, Linux {}", model.unwrap_or_default(), kernel.trim())
}

/// Commit of the tree.
pub(super) fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root()).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_by_key() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_string(), "2");
        let runs = [1, 5, 2].map(|n| json!({"rate_per_s": n, "cpu": {"a": n * 2}, "unit": "x"}));
        assert_eq!(median_of(&runs, "rate_per_s", &json!(1)), json!(2.0));
        assert_eq!(median_of(&runs, "cpu", &json!({"a": 2})), json!({"a": 4.0}));
        assert_eq!(median_of(&runs, "unit", &json!("x")), json!("x"));
    }
}
