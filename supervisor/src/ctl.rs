//! `wkctl`: a client of the supervisor's control socket.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use clap::{CommandFactory, Parser};
use wk_config::Env;
use wk_proto::supervisor::v1 as pb;

mod analyze;
mod cli;
mod complete;
mod events;
mod find;
pub mod graph;
mod json;
mod ops;
mod patient;
mod plan;
mod reexec;
mod screen;
mod status;
mod systemd;
mod table;
mod text;
mod why;

pub use cli::{Cli, GraphFormat};
use cli::{Command, OpCommand, Output, Waiting};
pub(crate) use find::replace;
use patient::{ANSWER_WITHIN, Client};

/// All is well.
const EXIT_OK: u8 = 0;
/// No such daemon or operation.
const EXIT_UNKNOWN: u8 = 4;
/// Semantic misuse.
const EXIT_USAGE: u8 = 64;
/// The supervisor cannot be reached.
const EXIT_UNREACHABLE: u8 = 69;
/// Unexpected answer.
const EXIT_INTERNAL: u8 = 70;
/// Not permitted.
const EXIT_PERMISSION: u8 = 77;

/// Why a command ended without doing its work.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
    /// Standard output was closed by its reader.
    unheard: bool,
    /// The supervisor is there and does not answer.
    silent: bool,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), unheard: false, silent: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        if patient::gave_up(&status) {
            return Self { silent: true, ..Self::new(EXIT_UNREACHABLE, format!("no answer within {} s", ANSWER_WITHIN.as_secs())) };
        }
        let code = match status.code() {
            tonic::Code::PermissionDenied => EXIT_PERMISSION,
            tonic::Code::ResourceExhausted => 75,
            tonic::Code::NotFound => return Self::new(EXIT_UNKNOWN, status.message()),
            tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => EXIT_UNREACHABLE,
            _ => EXIT_INTERNAL,
        };
        Self::new(code, format!("the supervisor answered: {}", status.message()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let unheard = error.kind() == io::ErrorKind::BrokenPipe;
        Self { unheard, ..Self::new(EXIT_INTERNAL, error.to_string()) }
    }
}

/// Runs one command. Returns the exit code of the table in `design/supervisor.md` §4.9.
#[must_use]
pub fn main(env: &Env) -> u8 {
    let cli = Cli::parse();
    let output = cli.output;
    let ran = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(run(cli, env)));
    match ran {
        Ok(code) => code,
        // A reader such as `head` has seen enough.
        Err(failure) if failure.unheard => EXIT_OK,
        Err(failure) => {
            let value = serde_json::json!({ "code": failure.code, "error": failure.message });
            let text = match output {
                Output::Json => value.to_string(),
                Output::Yaml => json::yaml(&value),
                Output::Table | Output::Name => format!("wkctl: {failure}"),
            };
            // Nobody is left to be told when standard error is closed.
            writeln!(io::stderr(), "{text}").unwrap_or_default();
            failure.code
        }
    }
}

async fn run(cli: Cli, env: &Env) -> Result<u8, Failure> {
    let Cli { runtime, node, output, command } = cli;
    match &command {
        Command::Quiesce => return systemd::quiesce::run(runtime.as_deref(), env).await,
        Command::Complete { breaks, line } => return complete::run(line, breaks.as_deref(), env).await,
        _ => {}
    }
    let of_a_node = !matches!(command, Command::Completion { .. } | Command::Man { .. });
    if of_a_node && systemd::applies(runtime.as_deref(), node, env) {
        return systemd::run(command, output, env).await;
    }
    match &command {
        Command::Completion { shell } => {
            write!(io::stdout(), "{}", complete::script(*shell))?;
            return Ok(EXIT_OK);
        }
        Command::Man { dir } => return write_man(&Cli::command(), dir),
        Command::Reexec => {
            let dir = find::node_dir(runtime.as_deref(), node, env)?;
            let done = reexec::run(&dir, output).await;
            return done.map_err(|failure| if failure.silent { patient::silent(&dir, &failure.message) } else { failure });
        }
        _ => {}
    }
    let (command, rest) = match as_operation(command)? {
        Ok((ask, waiting)) => (Some((ask, waiting)), None),
        Err(rest) => (None, Some(rest)),
    };
    let dir = find::node_dir(runtime.as_deref(), node, env)?;
    let client = find::dial(&dir, ANSWER_WITHIN).await?;
    let done = match (command, rest) {
        (Some((ask, waiting)), _) => ops::run(client, ask, &waiting, output).await,
        (None, Some(rest)) => look(client, rest, output, env).await,
        (None, None) => Ok(EXIT_OK),
    };
    done.map_err(|failure| if failure.silent { patient::silent(&dir, &failure.message) } else { failure })
}

/// Commands that begin an operation; the others come back.
fn as_operation(command: Command) -> Result<Result<(ops::Ask, Waiting), Command>, Failure> {
    Ok(Ok(match command {
        Command::Start { names, no_rollback, keep_going, waiting } => {
            (ops::Ask::Start(pb::OpRequest { names, no_rollback, keep_going, ..Default::default() }), waiting)
        }
        Command::Stop { names, cascade, force_alone, fast, now, supervisor, waiting } => {
            if supervisor && !names.is_empty() {
                return Err(Failure::new(EXIT_USAGE, "--supervisor stops everything, so it takes no names"));
            }
            let request = pb::OpRequest { names, cascade, force_alone, fast, now, supervisor_too: supervisor, ..Default::default() };
            (ops::Ask::Stop(request), waiting)
        }
        Command::Restart { names, cascade, fast, now, waiting } => {
            (ops::Ask::Restart(pb::OpRequest { names, cascade, fast, now, ..Default::default() }), waiting)
        }
        Command::Roll { names, max_unavailable, surge, canary, min_ready, waiting } => {
            let min_ready_ms = u64::try_from(min_ready.as_millis()).unwrap_or(u64::MAX).max(1);
            let max_unavailable = max_unavailable.unwrap_or(0);
            let request = pb::OpRequest { names, max_unavailable, surge, canary, min_ready_ms, ..Default::default() };
            (ops::Ask::Roll(request), waiting)
        }
        Command::Scale { pool: (daemon, replicas), waiting } => {
            (ops::Ask::Scale(pb::ScaleRequest { daemon, replicas, ..Default::default() }), waiting)
        }
        Command::Op { command: OpCommand::Wait { id, timeout } } => (ops::Ask::Wait(id), Waiting { timeout, ..Waiting::default() }),
        other => return Ok(Err(other)),
    }))
}

/// Commands that look, or are done at once.
async fn look(mut client: Client, command: Command, output: Output, env: &Env) -> Result<u8, Failure> {
    let paint = status::paint(env);
    match command {
        Command::Status { names, watch, deep, wide } => status::run(client, status::Ask { names, watch, deep, wide, output }, env).await,
        Command::Top => status::top(client, env).await,
        Command::Why { name } => why::run(client, name, output, paint).await,
        Command::Events { names, follow, since } => {
            let since_ms = since.map_or(0, |s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX));
            events::run(client, pb::EventsRequest { since_ms, follow, names }, output, paint).await
        }
        Command::Logs { names, follow, lines } => events::logs(client, pb::LogsRequest { names, lines, follow }, output).await,
        Command::Analyze { view } => analyze::run(client, view, output).await,
        Command::Graph { format, live } => {
            let graph = client.graph(pb::GraphRequest {}).await?.into_inner();
            let text = match output {
                Output::Table => graph::draw(&graph, format, live, paint),
                Output::Json => format!("{:#}", json::graph(&graph)),
                Output::Yaml => json::yaml(&json::graph(&graph)),
                Output::Name => graph.nodes.iter().map(|n| n.daemon.as_str()).collect::<Vec<_>>().join("\n"),
            };
            writeln!(io::stdout(), "{text}")?;
            Ok(EXIT_OK)
        }
        Command::Reload { apply, dry_run } => reload(client, apply, dry_run, output).await,
        Command::Hold { names } => done(&client.hold(pb::HoldRequest { names, on: true }).await?.into_inner(), output),
        Command::Unhold { names } => done(&client.hold(pb::HoldRequest { names, on: false }).await?.into_inner(), output),
        Command::Reset { names } => done(&client.reset(pb::NamesRequest { names }).await?.into_inner(), output),
        Command::Signal { name, signal } => {
            done(&client.signal(pb::SignalRequest { names: vec![name], signal }).await?.into_inner(), output)
        }
        Command::Op { command: OpCommand::Cancel { id } } => done(&client.cancel_op(pb::OpId { op: id }).await?.into_inner(), output),
        Command::Op { .. } => ops::list(client, output).await,
        Command::Metrics => {
            let page = client.metrics(pb::MetricsRequest {}).await?.into_inner().text;
            io::stdout().write_all(page.as_bytes())?;
            Ok(EXIT_OK)
        }
        _ => Ok(EXIT_OK),
    }
}

fn done(reply: &pb::CommandReply, output: Output) -> Result<u8, Failure> {
    if reply.code != 0 {
        return Err(Failure::new(u8::try_from(reply.code).unwrap_or(EXIT_INTERNAL), reply.message.clone()));
    }
    let value = serde_json::json!({ "code": 0, "message": reply.message });
    match output {
        Output::Json => writeln!(io::stdout(), "{value}")?,
        Output::Yaml => writeln!(io::stdout(), "{}", json::yaml(&value))?,
        Output::Table | Output::Name => writeln!(io::stdout(), "{}", reply.message)?,
    }
    Ok(EXIT_OK)
}

async fn reload(mut client: Client, apply: bool, dry_run: bool, output: Output) -> Result<u8, Failure> {
    let reply = client.reload(pb::ReloadRequest { apply, dry_run }).await?.into_inner();
    if reply.code != 0 {
        return Err(Failure::new(u8::try_from(reply.code).unwrap_or(EXIT_INTERNAL), reply.message));
    }
    let changes = reply.changes.iter().map(|c| serde_json::json!({ "key": c.key, "effect": c.effect, "daemons": c.daemons }));
    let value = serde_json::json!({ "code": 0, "message": reply.message, "changes": changes.collect::<Vec<_>>(), "op": reply.op });
    match output {
        Output::Json => writeln!(io::stdout(), "{value:#}")?,
        Output::Yaml => writeln!(io::stdout(), "{}", json::yaml(&value))?,
        Output::Name => writeln!(io::stdout(), "{}", reply.changes.iter().map(|c| c.key.as_str()).collect::<Vec<_>>().join("\n"))?,
        Output::Table => {
            if !reply.changes.is_empty() {
                let mut table = crate::report::plain_table(&["KEY", "HOLDS", "READ BY"], 3);
                for c in &reply.changes {
                    let holds = match c.effect.as_str() {
                        "live" => "at once",
                        "restart" => "with the next generation",
                        _ => "with the next supervisor",
                    };
                    let by = if c.daemons.is_empty() { "supervisor".to_owned() } else { c.daemons.join(", ") };
                    table.add_row(vec![c.key.clone(), holds.to_owned(), by]);
                }
                writeln!(io::stdout(), "{}", crate::report::render(&table))?;
            }
            writeln!(io::stdout(), "{}", reply.message)?;
        }
    }
    if reply.op == 0 {
        return Ok(EXIT_OK);
    }
    ops::run(client, ops::Ask::Wait(reply.op), &Waiting::default(), output).await
}

/// Writes the manual pages of a command line and its subcommands.
fn write_man(command: &clap::Command, dir: &Path) -> Result<u8, Failure> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command.clone(), dir)?;
    Ok(EXIT_OK)
}
