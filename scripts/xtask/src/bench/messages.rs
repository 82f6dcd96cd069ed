//! Benchmarks with messages: wk-load runs against a node and reports.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Bench;
use super::node::BenchNode;
use super::report::Series;
use crate::steps::spinner;

/// Messages of `start`, in [`START_CHANNELS`] channels.
pub(super) const START_MESSAGES: u64 = 1_000_000;
/// Channels of `start`.
pub(super) const START_CHANNELS: usize = 10_000;
/// In flight in all runs of `sizes` that vary the channels: the same work waits everywhere.
const SIZES_IN_FLIGHT: usize = 1000;

/// Fewest messages of a run that only makes channels: wk-load compares sent and received, and few are all under way at its end.
const MAKING_MIN: u64 = 20_000;

/// What one run of wk-load does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Subcommand of wk-load.
    pub(super) what: &'static str,
    pub(super) connections: usize,
    /// Connections that send; 0: all.
    pub(super) senders: usize,
    /// Messages under way per sender.
    pub(super) in_flight: usize,
    /// Peers on each side that a sender writes to in turn; 0: its partner only.
    pub(super) peers: usize,
    pub(super) payload: usize,
    /// Ends after so many messages; 0: by time.
    pub(super) messages: u64,
}

impl Load {
    /// Pairs at 1,000 connections, one in flight each.
    pub(super) const SEND: Self = Self { what: "send", connections: 1000, senders: 0, in_flight: 1, peers: 0, payload: 128, messages: 0 };
    /// One sender in a group of 1,000.
    pub(super) const FANOUT: Self = Self { what: "fanout", ..Self::SEND };
    /// PING and PONG on 1,000 connections.
    pub(super) const ECHO: Self = Self { what: "echo", ..Self::SEND };

    /// 1,000,000 messages in 10,000 channels.
    pub(super) const FILL: Self =
        Self { in_flight: 4, peers: START_CHANNELS / Self::SEND.connections, messages: START_MESSAGES, ..Self::SEND };

    /// Senders and peers so that `channels` person channels are written to by 1,000 connections with 1,000 messages under way.
    fn of_channels(channels: usize) -> Self {
        let all = Self::SEND.connections;
        let senders = (2 * channels).min(all);
        Self { senders, in_flight: SIZES_IN_FLIGHT / senders, peers: if channels < all { 0 } else { channels / all }, ..Self::SEND }
    }
}

impl Bench {
    /// One benchmark of messages on a node of its own.
    pub(super) fn messages(&self, name: &str, load: &Load) -> anyhow::Result<Value> {
        let medians = self.on_node(name, &self.config, |node| {
            self.series(name, |n| {
                let prefix = format!("b{n}x");
                if load.what == "fanout" {
                    node.make_group(&prefix, load.connections)?;
                }
                let bar = spinner(&format!("{name} run {} of {}", n + 1, self.runs));
                let report = self.load(node, load, &prefix);
                bar.finish_and_clear();
                report
            })
        })?;
        Ok(medians)
    }

    /// A lone message, and 64 in flight.
    pub(super) fn latency(&self) -> anyhow::Result<Vec<Value>> {
        let lone = self.messages("latency-1", &Load { connections: 2, senders: 1, ..Load::SEND })?;
        let busy = self.messages("latency-64", &Load { connections: 64, ..Load::SEND })?;
        Ok(vec![lone, busy])
    }

    /// The price of many processes: each pool in its own against all three in one. Runs alternate, each on a fresh node.
    pub(super) fn pools(&self) -> anyhow::Result<Vec<Value>> {
        let together = format!("{}\nworkers: {{oneProcess: true}}", self.config);
        let mut series = [("pools-apart", &self.config), ("pools-together", &together)].map(|(name, config)| (Series::new(name), config));
        for _ in 0..self.runs {
            for (series, config) in &mut series {
                series.add(self.on_node("pools", config, |node| self.load(node, &Load::SEND, "pools"))?)?;
            }
        }
        series.into_iter().map(|(series, _)| series.finish()).collect()
    }

    /// CPU per message against connections and channels.
    pub(super) fn sizes(&self) -> anyhow::Result<Vec<Value>> {
        let mut medians = Vec::new();
        for connections in [100, 1000, 9000] {
            // The same number under way, as far as one per connection allows.
            let in_flight = (SIZES_IN_FLIGHT / connections).max(1);
            let load = Load { connections, in_flight, ..Load::SEND };
            medians.push(self.messages(&format!("sizes-connections-{connections}"), &load)?);
        }
        for channels in [100, 10_000, 100_000] {
            medians.push(self.channels(channels)?);
        }
        Ok(medians)
    }

    /// CPU per message with so many channels that exist and were written to: making them is not measured.
    fn channels(&self, channels: usize) -> anyhow::Result<Value> {
        let name = format!("sizes-channels-{channels}");
        let load = Load::of_channels(channels);
        self.on_node(&name, &self.config, |node| {
            let bar = spinner(&format!("make {channels} channels"));
            let made = self.load(node, &Load { messages: (2 * channels as u64).max(MAKING_MIN), ..load }, "made");
            bar.finish_and_clear();
            made?;
            self.series(&name, |n| {
                let bar = spinner(&format!("{name} run {} of {}", n + 1, self.runs));
                let report = self.load(node, &load, "made");
                bar.finish_and_clear();
                report
            })
        })
    }

    /// Runs wk-load once and returns its report.
    pub(super) fn load(&self, node: &BenchNode, load: &Load, prefix: &str) -> anyhow::Result<Value> {
        let mut command = Command::new(self.bin.join("wk-load"));
        command.arg(load.what).args(["--addr", &node.address("tcp")?, "--prefix", prefix, "--group", prefix]);
        let numbers = [
            ("--connections", load.connections),
            ("--senders", load.senders),
            ("--in-flight", load.in_flight),
            ("--peers", load.peers),
            ("--payload", load.payload),
        ];
        for (flag, number) in numbers {
            command.args([flag, &number.to_string()]);
        }
        command.args(["--messages", &load.messages.to_string(), "--seconds", &self.seconds.to_string()]);
        for (name, pid) in node.pids() {
            command.args(["--pid", &format!("{name}={pid}")]);
        }
        let output = command.stderr(Stdio::inherit()).output().context("run wk-load")?;
        ensure!(output.status.success(), "wk-load ended with {}", output.status);
        let mut report: Value = serde_json::from_slice(&output.stdout).context("read the report of wk-load")?;
        if let Some(fields) = report.as_object_mut() {
            fields.insert("payload".into(), json!(load.payload));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_become_senders_and_peers() {
        let shape = |channels| {
            let load = Load::of_channels(channels);
            (load.senders, load.in_flight, load.peers)
        };
        assert_eq!(shape(100), (200, 5, 0));
        assert_eq!(shape(10_000), (1000, 1, 10));
        assert_eq!(shape(100_000), (1000, 1, 100));
        assert_eq!(Load::FILL.peers, 10);
    }
}
