//! `cargo xtask bench`: measures a node on the release binaries (issue 3, "Numbers"; how: `design/machine-limits.md`).
//!
//! Each benchmark prints one JSON line for each run and a last one with the medians and the spread. Every benchmark starts a node of its own in a
//! fresh folder. CPU is what the scheduler charged to each process; `cpu_share` is what two spinning threads got of two cores before the run.

mod messages;
mod node;
mod proc;
mod report;
mod silent;
mod start;
mod supervisor;
mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::build::programs;
use crate::workspace::root;
use report::Series;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
    /// Runs of each benchmark; the last line has their medians
    #[arg(long, default_value_t = 5, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Measured time of a run with messages. Unit: seconds
    #[arg(long, default_value_t = 5, global = true)]
    seconds: u64,
    /// Lines added to the node's configuration
    #[arg(long, default_value = "", global = true)]
    config: String,
    /// Use the binaries that are there, build nothing
    #[arg(long, global = true)]
    no_build: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Durable SEND, SENDACK, RECV, RECVACK between pairs
    Send {
        /// Connections
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        /// Messages under way per connection
        #[arg(long, default_value_t = 1)]
        in_flight: usize,
        /// Plain payload. Unit: bytes
        #[arg(long, default_value_t = 128)]
        payload: usize,
    },
    /// A lone message, then 64 in flight on 64 connections
    Latency,
    /// One group of 1,000 online members
    Fanout,
    /// PING and PONG in the gateway
    Echo,
    /// User memory of an idle connection, binary TCP and WebSocket
    Idle,
    /// Idle connections one gateway holds at a descriptor limit of 20,000
    Connections,
    /// Cold start to ready: empty, and with 1,000,000 messages in 10,000 channels after a clean stop
    Start,
    /// 1,024 slot groups: start, idle CPU, memory
    Groups,
    /// CPU per message against the number of connections and of channels
    Sizes,
    /// CPU per message with the pools in processes of their own against all in one
    Pools,
    /// Our supervisor beside those that are installed: restarts, memory, idleness, starts, stops, adoption
    Supervisor(supervisor::SupervisorOptions),
    /// Everything but `sizes` and `supervisor`, then a table beside the goals
    All {
        /// `sizes` too
        #[arg(long)]
        long: bool,
    },
}

/// What the benchmarks share.
#[derive(Debug)]
struct Bench {
    /// Folder of the programs.
    bin: PathBuf,
    runs: u32,
    seconds: u64,
    config: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let root = root();
    let bin = match &options.what {
        _ if options.no_build => crate::build::folder(&root, true),
        What::Supervisor(_) => supervisor::programs(&root)?,
        _ => programs(&root, true, &["wk-load"])?,
    };
    let bench = Bench { bin, runs: options.runs, seconds: options.seconds, config: options.config.clone() };
    match &options.what {
        What::Send { connections, in_flight, payload } => {
            let load = messages::Load { connections: *connections, in_flight: *in_flight, payload: *payload, ..messages::Load::SEND };
            bench.messages("send", &load).map(drop)
        }
        What::Latency => bench.latency().map(drop),
        What::Fanout => bench.messages("fanout", &messages::Load::FANOUT).map(drop),
        What::Echo => bench.messages("echo", &messages::Load::ECHO).map(drop),
        What::Idle => bench.idle().map(drop),
        What::Connections => bench.connections().map(drop),
        What::Start => bench.start().map(drop),
        What::Groups => bench.groups().map(drop),
        What::Sizes => bench.sizes().map(drop),
        What::Pools => bench.pools().map(drop),
        What::Supervisor(what) => supervisor::run(what, &bench.bin, bench.runs),
        What::All { long } => bench.all(*long),
    }
}

impl Bench {
    /// Everything, then the table.
    fn all(&self, long: bool) -> anyhow::Result<()> {
        let mut medians = vec![self.messages("send", &messages::Load::SEND)?];
        medians.extend(self.latency()?);
        medians.push(self.messages("fanout", &messages::Load::FANOUT)?);
        medians.push(self.messages("echo", &messages::Load::ECHO)?);
        medians.extend(self.idle()?);
        medians.push(self.connections()?);
        medians.extend(self.start()?);
        medians.push(self.groups()?);
        medians.extend(self.pools()?);
        if long {
            medians.extend(self.sizes()?);
        }
        table::print(&medians)
    }

    /// Repeats `run`, prints its lines and the medians, and returns the medians.
    fn series(&self, name: &str, mut run: impl FnMut(u32) -> anyhow::Result<Value>) -> anyhow::Result<Value> {
        let mut series = Series::new(name);
        for n in 0..self.runs {
            series.add(run(n)?)?;
        }
        series.finish()
    }
}
