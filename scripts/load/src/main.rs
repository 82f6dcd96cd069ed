//! Load generator: many clients of the binary protocol on one thread, and the scheduler's account of what the server spent.
//!
//! One run, one JSON line on standard output. `cargo xtask bench` starts a node, calls this several times and prints medians.

mod client;
mod cpu;
mod echo;
mod fanout;
mod idle;
mod report;
mod send;
mod ws;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Load generator of the WuKongIM benchmarks.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pairs of users: SEND, SENDACK, RECV, RECVACK.
    Send(Load),
    /// PING and PONG only.
    Echo(Load),
    /// One group; one member sends, all others receive.
    Fanout(Load),
    /// Connections that log in and stay silent.
    Idle(Load),
}

/// What to do and whom to charge.
#[derive(Debug, Clone, Args)]
struct Load {
    /// TCP address of the gateway.
    #[arg(long)]
    addr: SocketAddr,
    /// Connections.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Number of the first connection: several processes share a prefix and the source addresses.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Connections that send; 0: all.
    #[arg(long, default_value_t = 0)]
    senders: usize,
    /// Peers on each side that a sender writes to in turn; 0: its partner only.
    #[arg(long, default_value_t = 0)]
    peers: usize,
    /// Messages under way per sending connection.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Plain payload. Unit: bytes.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// End after so many messages; 0: by time.
    #[arg(long, default_value_t = 0)]
    messages: u64,
    /// `idle`: print the number of connections and hold them until standard input ends.
    #[arg(long)]
    hold: bool,
    /// `idle`: the address is that of the WebSocket listener.
    #[arg(long)]
    web_socket: bool,
    /// Measured time. Unit: seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Server processes to charge, `name=pid`, repeated.
    #[arg(long = "pid", value_parser = parse_pid)]
    pids: Vec<(String, u32)>,
    /// Prefix of uids, so that runs do not share channels.
    #[arg(long, default_value = "load")]
    prefix: String,
    /// Group for `fanout`; it must exist with members `<prefix>0..<prefix>N`.
    #[arg(long, default_value = "bench")]
    group: String,
}

impl Load {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn parse_pid(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("expected name=pid")?;
    Ok((name.to_owned(), pid.parse().map_err(|e| format!("{pid}: {e}"))?))
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        match &cli.command {
            Command::Send(load) => send::run(load).await.map(Some),
            Command::Echo(load) => echo::run(load).await.map(Some),
            Command::Fanout(load) => fanout::run(load).await.map(Some),
            Command::Idle(load) if load.hold => idle::hold(load).await.map(|()| None),
            Command::Idle(load) => idle::run(load).await.map(Some),
        }
    })?;
    if let Some(report) = report {
        say(&serde_json::to_string(&report)?);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result of this tool")]
fn say(line: &str) {
    println!("{line}");
}
