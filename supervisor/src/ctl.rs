//! `wkctl`: a client of the supervisor's control socket.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use tonic::transport::Channel;
use wk_config::Env;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

mod find;
mod ops;
mod reexec;
mod status;

pub(crate) use find::replace;

/// All is well.
const EXIT_OK: u8 = 0;
/// Semantic misuse.
const EXIT_USAGE: u8 = 64;
/// The supervisor cannot be reached.
const EXIT_UNREACHABLE: u8 = 69;
/// Unexpected answer.
const EXIT_INTERNAL: u8 = 70;
/// Not permitted.
const EXIT_PERMISSION: u8 = 77;

/// Controls a WuKongIM node.
#[derive(Debug, Parser)]
#[command(name = "wkctl", version, about = "Controls a WuKongIM node", max_term_width = 100)]
pub struct Cli {
    /// Runtime folder of the node, or the folder above it.
    #[arg(long, global = true, value_name = "DIR")]
    runtime: Option<PathBuf>,
    /// Node id, when several nodes run on this machine.
    #[arg(long, global = true, value_name = "ID")]
    node: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// Stable schema, numbers.
    Json,
    /// Names of the instances.
    Name,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what runs. Exit code 0: all wanted is ready; 1: degraded; 3: nothing runs
    Status {
        /// Daemons or instances
        names: Vec<String>,
        /// Again after each change
        #[arg(short, long)]
        watch: bool,
        /// With the components of each daemon
        #[arg(long)]
        deep: bool,
        /// Form of the output
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Starts daemons, with all they need; everything without names
    Start {
        /// Daemons or instances
        names: Vec<String>,
        /// Leave what was started when a part fails
        #[arg(long, conflicts_with = "keep_going")]
        no_rollback: bool,
        /// Start everything that can be started
        #[arg(long)]
        keep_going: bool,
        /// Wait this long at most (exit code 9); the operation goes on
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Stops daemons; everything without names: quiesce, then reverse order
    Stop {
        /// Daemons or instances
        names: Vec<String>,
        /// Stop what needs them first
        #[arg(long)]
        cascade: bool,
        /// Deadlines of one second
        #[arg(long)]
        fast: bool,
        /// Kill
        #[arg(long)]
        now: bool,
        /// End the supervisor too
        #[arg(long)]
        supervisor: bool,
        /// Wait this long at most (exit code 9); the operation goes on
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Starts new generations, one after another; without names: stops and starts everything
    Restart {
        /// Daemons or instances
        names: Vec<String>,
        /// Wait this long at most (exit code 9); the operation goes on
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Changes the number of processes of a worker pool
    Scale {
        /// POOL=N, such as worker.channel=4
        #[arg(value_parser = parse_scale)]
        pool: (String, u32),
        /// Wait this long at most (exit code 9); the operation goes on
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Timing table of the last start
    Analyze,
    /// Puts the binary that lies at the supervisor's path now in its place; all daemons go on
    Reexec,
    /// Metrics of the supervisor and of all daemons, Prometheus text
    Metrics,
    /// Prints a completion script
    Completion {
        /// Shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Writes manual pages into a folder
    Man {
        /// Folder
        dir: PathBuf,
    },
}

fn parse_scale(text: &str) -> Result<(String, u32), String> {
    let (pool, count) = text.split_once('=').ok_or("expected POOL=N, such as worker.channel=4")?;
    Ok((pool.to_owned(), count.parse().map_err(|_| format!("{count:?} is not a number of processes"))?))
}

/// Why a command ended without doing its work.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let code = match status.code() {
            tonic::Code::PermissionDenied => EXIT_PERMISSION,
            tonic::Code::ResourceExhausted => 75,
            tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => EXIT_UNREACHABLE,
            _ => EXIT_INTERNAL,
        };
        Self::new(code, format!("the supervisor answered: {}", status.message()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(EXIT_INTERNAL, error.to_string())
    }
}

/// Runs one command. Returns the exit code of the table in `design/supervisor.md` §4.9.
#[must_use]
pub fn main(env: &Env) -> u8 {
    let cli = Cli::parse();
    let ran = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(cli, env)));
    match ran {
        Ok(code) => code,
        Err(failure) => {
            // Nobody is left to be told when standard error is closed.
            writeln!(io::stderr(), "wkctl: {failure}").unwrap_or_default();
            failure.code
        }
    }
}

async fn run(cli: Cli, env: &Env) -> Result<u8, Failure> {
    let (request, timeout) = match cli.command {
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wkctl", &mut io::stdout());
            return Ok(EXIT_OK);
        }
        Command::Man { dir } => return write_man(&dir),
        Command::Status { names, watch, deep, output } => {
            let client = connect(&cli.runtime, cli.node, env).await?;
            return status::run(client, status::Ask { names, watch, deep, output }, env).await;
        }
        Command::Analyze => return analyze(connect(&cli.runtime, cli.node, env).await?).await,
        Command::Reexec => {
            let dir = find::node_dir(cli.runtime.as_deref(), cli.node, env)?;
            return reexec::run(&dir).await;
        }
        Command::Metrics => {
            let mut client = connect(&cli.runtime, cli.node, env).await?;
            let page = client.metrics(pb::MetricsRequest {}).await?.into_inner().text;
            io::stdout().write_all(page.as_bytes())?;
            return Ok(EXIT_OK);
        }
        Command::Start { names, no_rollback, keep_going, timeout } => {
            (ops::Ask::Start(pb::OpRequest { names, no_rollback, keep_going, ..Default::default() }), timeout)
        }
        Command::Stop { names, cascade, fast, now, supervisor, timeout } => {
            if supervisor && !names.is_empty() {
                return Err(Failure::new(EXIT_USAGE, "--supervisor stops everything, so it takes no names"));
            }
            let request = pb::OpRequest { names, cascade, fast, now, supervisor_too: supervisor, ..Default::default() };
            (ops::Ask::Stop(request), timeout)
        }
        Command::Restart { names, timeout } => (ops::Ask::Restart(pb::OpRequest { names, ..Default::default() }), timeout),
        Command::Scale { pool: (daemon, replicas), timeout } => {
            (ops::Ask::Scale(pb::ScaleRequest { daemon, replicas, idempotency_key: String::new() }), timeout)
        }
    };
    let client = connect(&cli.runtime, cli.node, env).await?;
    ops::run(client, request, timeout).await
}

async fn connect(runtime: &Option<PathBuf>, node: Option<u16>, env: &Env) -> Result<SupervisorClient<Channel>, Failure> {
    let dir = find::node_dir(runtime.as_deref(), node, env)?;
    find::dial(&dir).await
}

async fn analyze(mut client: SupervisorClient<Channel>) -> Result<u8, Failure> {
    let snapshot = client.status(pb::StatusRequest::default()).await?.into_inner();
    match snapshot.timing {
        Some(timing) => {
            writeln!(io::stdout(), "{}", crate::report::timing_table(&timing))?;
            Ok(EXIT_OK)
        }
        None => Err(Failure::new(3, "no start has completed yet")),
    }
}

fn write_man(dir: &Path) -> Result<u8, Failure> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)?;
    Ok(EXIT_OK)
}
