//! Benchmarks of connections that say nothing: what one costs, how many there can be.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Bench;
use super::node::BenchNode;
use super::proc::user_memory;
use super::report::{as_f64, round};
use crate::steps::{say, spinner};

/// Idle connections of a run of `idle`.
const IDLE: usize = 9_000;
/// Connections before the first look, so that what exists once is not charged to connections.
const WARM: usize = 100;
/// Connections one client process holds: below its own descriptor limit of 20,000.
const PER_PROCESS: usize = 18_000;
/// `connections` stops here: above the goal of 50,000.
const CONNECTIONS_MAX: usize = 54_000;

/// Client processes that hold connections. A drop ends them.
struct Silent(Vec<Child>);

impl Drop for Silent {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Bench {
    /// User memory per idle connection: binary TCP, then WebSocket.
    pub(super) fn idle(&self) -> anyhow::Result<Vec<Value>> {
        ["tcp", "ws"].into_iter().map(|kind| self.idle_of(kind)).collect()
    }

    /// A node for each run: memory that was once used is not given back.
    fn idle_of(&self, kind: &str) -> anyhow::Result<Value> {
        let name = format!("idle-{kind}");
        self.series(&name, |_| {
            self.on_node(&name, &self.config, |node| {
                let bar = spinner(&format!("{name}: {IDLE} connections"));
                let mut clients = Silent(Vec::new());
                self.hold(node, kind, 0, WARM, &mut clients)?;
                let before = user_memory(&node.pids());
                let held = self.hold(node, kind, WARM, IDLE, &mut clients)?;
                ensure!(held == IDLE, "only {held} connections");
                let after = user_memory(&node.pids());
                bar.finish_and_clear();
                let per = |name: &String, bytes: &u64| {
                    let grown = bytes.saturating_sub(before.get(name).copied().unwrap_or(0));
                    (name.clone(), round(as_f64(grown) / as_f64(IDLE as u64)))
                };
                let parts: std::collections::BTreeMap<String, f64> = after.iter().map(|(name, bytes)| per(name, bytes)).collect();
                let all = round(parts.values().sum());
                Ok(json!({"connections_held": IDLE, "bytes_per_connection": all, "bytes_per_process": parts}))
            })
        })
    }

    /// Connections until one is refused.
    pub(super) fn connections(&self) -> anyhow::Result<Value> {
        self.series("connections", |_| {
            self.on_node("connections", &self.config, |node| {
                let bar = spinner("connections");
                let mut clients = Silent(Vec::new());
                let mut held = 0;
                while held < CONNECTIONS_MAX {
                    let more = self.hold(node, "tcp", held, PER_PROCESS, &mut clients)?;
                    held += more;
                    bar.set_message(format!("{held} connections"));
                    if more < PER_PROCESS {
                        break;
                    }
                }
                bar.finish_and_clear();
                Ok(json!({"connections": held}))
            })
        })
    }

    /// One more client process with up to `count` connections; how many it got.
    fn hold(&self, node: &BenchNode, kind: &str, first: usize, count: usize, clients: &mut Silent) -> anyhow::Result<usize> {
        let mut command = Command::new(self.bin.join("wk-load"));
        command.args(["idle", "--addr", &node.address(kind)?, "--prefix", "idle", "--first", &first.to_string()]);
        command.args(["--connections", &count.to_string(), "--hold"]);
        if kind == "ws" {
            command.arg("--web-socket");
        }
        // It holds its connections until its input ends, which is when we end it.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("run wk-load")?;
        let out = child.stdout.take().context("wk-load has no output")?;
        clients.0.push(child);
        let mut line = String::new();
        BufReader::new(out.take(4096)).read_line(&mut line).context("read from wk-load")?;
        let (held, why) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        if !why.is_empty() {
            say(&format!("  after {held} connections: {why}"));
        }
        held.parse().with_context(|| format!("wk-load held no connection: {line}"))
    }
}
