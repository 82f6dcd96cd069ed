//! Supervisor of a node.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use wk_config::Env;
use wk_supervisor::config::Source;
use wk_supervisor::reap;
use wk_supervisor::service::{self, Options, ServiceError};

/// Runs a WuKongIM node: starts, watches, restarts and stops its daemons.
#[derive(Debug, Parser)]
#[command(name = "wksupervisor", version, about = "Runs a WuKongIM node", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the node and stays in the foreground
    Run {
        #[command(flatten)]
        source: SourceArgs,
        /// End a resident supervisor of this node first when all its daemons are down
        #[arg(long)]
        replace: bool,
        /// Descriptor that gets a copy of the output, then `exit CODE` when the start is over
        #[arg(long, value_name = "N", hide = true)]
        detach_notify_fd: Option<i32>,
    },
    /// Validates the configuration and the binaries, starts nothing
    Check {
        #[command(flatten)]
        source: SourceArgs,
        /// Unknown keys are errors
        #[arg(long)]
        strict: bool,
    },
    /// Writes manual pages into a folder
    #[command(hide = true)]
    Man {
        /// Folder
        dir: PathBuf,
    },
    /// Reads the state of a running supervisor on standard input: exit code 0 when this binary could go on with it
    #[command(hide = true)]
    ReexecTrial,
    /// Ends the daemons that a supervisor left; for ExecStopPost= of a systemd unit, whose variables say whether to
    Reap {
        #[command(flatten)]
        source: SourceArgs,
    },
}

#[derive(Debug, clap::Args)]
struct SourceArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for data and logs; overrides rootDir and dataDir
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Base of the runtime folder; overrides supervisor.runtimeDir
    #[arg(long, value_name = "DIR")]
    runtime: Option<PathBuf>,
}

fn main() -> ExitCode {
    let env = Env::process();
    let ran = match Cli::parse().command {
        Command::Run { source: SourceArgs { config, data, runtime }, replace, detach_notify_fd } => {
            let source = Source { file: config, data, runtime, strict: false };
            service::run(Options { source, replace, notify_fd: detach_notify_fd }, &env)
        }
        Command::Check { source: SourceArgs { config, data, runtime }, strict } => {
            service::check(&Source { file: config, data, runtime, strict }, &env).map(|config| service::describe(&config))
        }
        Command::Man { dir } => {
            let written = std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir));
            written.map(|()| 0).map_err(|source| ServiceError::Io { what: dir.display().to_string(), source })
        }
        Command::ReexecTrial => service::trial(),
        Command::Reap { source: SourceArgs { config, data, runtime } } => {
            reap::run(&Source { file: config, data, runtime, strict: false }, &env).map(|ended| tell(&ended))
        }
    };
    match ran {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody is left to be told when standard error is closed.
            writeln!(io::stderr(), "wksupervisor: {}", service::chain(&error)).unwrap_or_default();
            ExitCode::from(error.exit())
        }
    }
}

/// Exit code 0: whoever was left is gone.
fn tell(ended: &[String]) -> u8 {
    if !ended.is_empty() {
        writeln!(io::stdout(), "ended what the supervisor left: {}", ended.join(", ")).unwrap_or_default();
    }
    0
}
