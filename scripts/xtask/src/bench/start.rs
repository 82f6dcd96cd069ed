//! Benchmarks of starts: an empty node, one with a million messages, one with 1,024 slot groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Bench;
use super::messages::{Load, START_MESSAGES};
use super::node::BenchNode;
use super::proc::{cpu_of_all_ns, memory_bytes};
use super::report::{Series, as_f64, round};
use crate::steps::spinner;

/// Slot groups of `groups`.
const GROUPS: u16 = 1024;
/// How long an idle node is watched.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// After a start, before the watch: what a start leaves to do is not idleness.
const SETTLE: Duration = Duration::from_secs(2);

impl Bench {
    /// Folder of a node's data: new, in the target folder.
    fn folder(&self, name: &str) -> PathBuf {
        self.bin.join(format!("bench-{name}-{}", std::process::id()))
    }

    /// Runs `work` on a node of its own, which is stopped and removed afterwards.
    pub(super) fn on_node<T>(&self, name: &str, config: &str, work: impl FnOnce(&BenchNode) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let dir = self.folder(name);
        let node = BenchNode::start(&self.bin, &dir, config)?;
        let outcome = work(&node);
        let stopped = node.stop();
        remove(&dir)?;
        let outcome = outcome?;
        stopped?;
        Ok(outcome)
    }

    /// Cold start to ready: empty, the same with one daemon after the other, and after a clean stop with many messages.
    pub(super) fn start(&self) -> anyhow::Result<Vec<Value>> {
        let serially = format!("supervisor: {{startParallelism: 1}}\n{}", self.config);
        let once = |config: &str| self.on_node("start", config, |node| Ok(node.start.as_secs_f64() * 1e3));
        let (mut empty, mut serial) = (Series::new("start-empty"), Series::new("start-serial"));
        for _ in 0..self.runs {
            let (at_once, in_turn) = (once(&self.config)?, once(&serially)?);
            empty.add(json!({"start_ms": round(at_once)}))?;
            serial.add(json!({"start_ms": round(in_turn), "at_once_of_it": round(at_once / in_turn)}))?;
        }
        let dir = self.folder("start-full");
        let full = self.start_full(&dir);
        remove(&dir)?;
        Ok(vec![empty.finish()?, serial.finish()?, full?])
    }

    fn start_full(&self, dir: &Path) -> anyhow::Result<Value> {
        let node = BenchNode::start(&self.bin, dir, &self.config)?;
        let bar = spinner(&format!("store {START_MESSAGES} messages"));
        let report = self.load(&node, &Load::FILL, "full")?;
        bar.finish_and_clear();
        let stored = report.get("messages").and_then(Value::as_u64).unwrap_or(0);
        ensure!(stored >= START_MESSAGES, "only {stored} messages were stored");
        node.stop()?;
        self.series("start-full", |_| {
            let node = BenchNode::start(&self.bin, dir, &self.config)?;
            let line = started(&node);
            node.stop()?;
            Ok(line)
        })
    }

    /// 1,024 slot groups: the first start makes them, the measured ones find them.
    pub(super) fn groups(&self) -> anyhow::Result<Value> {
        let dir = self.folder("groups");
        let config = format!("cluster: {{addr: \"127.0.0.1:0\", slotGroupCount: {GROUPS}, slotCount: {GROUPS}}}\n{}", self.config);
        let outcome = self.series("groups", |n| {
            let node = BenchNode::start(&self.bin, &dir, &config)?;
            let line = watched(&node, n == 0)?;
            node.stop()?;
            Ok(line)
        });
        remove(&dir)?;
        outcome
    }
}

fn started(node: &BenchNode) -> Value {
    json!({"start_ms": round(node.start.as_secs_f64() * 1e3)})
}

/// Start, idle CPU in percent of one core, memory of `wk-cluster`.
fn watched(node: &BenchNode, fresh: bool) -> anyhow::Result<Value> {
    let pids = node.pids();
    let cluster = *pids.get("cluster@0").context("no cluster daemon")?;
    let bar = spinner("watch an idle node");
    wait(SETTLE);
    let (before, began) = (cpu_of_all_ns(&pids), Instant::now());
    wait(IDLE_TIME);
    let spent = Duration::from_nanos(cpu_of_all_ns(&pids).saturating_sub(before));
    let percent = round(spent.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0);
    bar.finish_and_clear();
    let memory_mb = round(as_f64(memory_bytes(cluster, "VmRSS")) / 1e6);
    Ok(json!({"start_ms": round(node.start.as_secs_f64() * 1e3), "idle_cpu_percent": percent, "cluster_mb": memory_mb, "fresh": fresh}))
}

#[expect(clippy::disallowed_methods, reason = "a tool without a runtime that watches a program for a stated time")]
pub(super) fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}
