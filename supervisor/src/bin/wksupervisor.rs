//! Supervisor of a node.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use wk_config::Env;
use wk_supervisor::check;
use wk_supervisor::config::Source;
use wk_supervisor::console::Paint;
use wk_supervisor::ctl::{GraphFormat, graph};
use wk_supervisor::generate::{self, GenerateError};
use wk_supervisor::installed::FOLDERS;
use wk_supervisor::reap::{self, Reaped};
use wk_supervisor::report;
use wk_supervisor::service::{self, Options};

const EXIT_CODES: &str = "Exit codes:
  0    clean stop; check: nothing would keep the node from running
  64   wrong command line
  70   internal error, or processes that could not be killed
  75   another supervisor has this node
  77   not permitted
  78   configuration refused; check: something would keep the node from running
  100  the first start failed and was rolled back
  101  a crash loop lasted for supervisor.daemons.<name>.escalateAfter";

/// Runs a WuKongIM node: starts, watches, restarts and stops its daemons.
#[derive(Debug, Parser)]
#[command(name = "wksupervisor", version, about = "Runs a WuKongIM node", max_term_width = 100, after_help = EXIT_CODES)]
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
    /// Looks for everything that would keep the node from running, all at once, each with the next step; starts and makes nothing
    ///
    /// A configuration that the installed unit names is judged as that unit runs it: with its user, limits, sandbox and delegation. Prints who
    /// requires whom first.
    Check {
        #[command(flatten)]
        source: SourceArgs,
        /// Unknown keys are errors
        #[arg(long)]
        strict: bool,
    },
    /// Prints who requires whom
    Graph {
        #[command(flatten)]
        source: SourceArgs,
        /// Form
        #[arg(long, value_enum, default_value = "tree")]
        format: GraphFormat,
    },
    /// Prints what a start would do, and when by the experience of the last ones
    Plan {
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Writes manual pages into a folder
    Man {
        /// Folder
        dir: PathBuf,
    },
    /// Prints a completion script
    Completion {
        /// Shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Writes drop-ins of the units that follow from the configuration, for systemd.generator(7)
    #[command(hide = true)]
    Generator {
        /// Folders of the three priorities; the first is used
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Reads the state of a running supervisor on standard input, and the configuration: exit code 0 when this binary could go on with them
    #[command(hide = true)]
    ReexecTrial {
        #[command(flatten)]
        source: SourceArgs,
    },
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

impl SourceArgs {
    fn source(self) -> Source {
        Source { file: self.config, data: self.data, runtime: self.runtime, strict: false }
    }
}

/// Prints a text. A reader that has gone has seen enough.
fn say(text: &str) -> u8 {
    writeln!(io::stdout(), "{text}").map_or(0, |()| 0)
}

fn main() -> ExitCode {
    let env = Env::process();
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(message) => {
            // Nobody is left to be told when the stream is closed. Help and version, when asked for, are no mistake.
            message.print().unwrap_or_default();
            return ExitCode::from(if message.use_stderr() { service::EXIT_USAGE } else { 0 });
        }
    };
    let ran = match command {
        Command::Run { source: SourceArgs { config, data, runtime }, replace, detach_notify_fd } => {
            let source = Source { file: config, data, runtime, strict: false };
            service::run(Options { source, replace, notify_fd: detach_notify_fd }, &env)
        }
        Command::Check { source: SourceArgs { config, data, runtime }, strict } => {
            let (found, config) = check::run(&Source { file: config, data, runtime, strict }, &env, &FOLDERS.map(Path::new));
            let (text, code) = check::report(&found);
            let tree = config.map(|config| graph::draw(&service::graph_of(&config), GraphFormat::Tree, false, Paint { on: false }));
            Ok(say(&format!("{}{}", tree.map_or_else(String::new, |tree| format!("{tree}\n\n")), text.trim_end())).max(code))
        }
        Command::Graph { source, format } => {
            service::graph(&source.source(), &env).map(|g| say(&graph::draw(&g, format, false, Paint { on: false })))
        }
        Command::Plan { source } => service::plan(&source.source(), &env).map(|plan| say(&report::plan_table(&plan))),
        Command::Man { dir } => service::write_man(Cli::command(), &dir),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wksupervisor", &mut io::stdout());
            Ok(0)
        }
        Command::Generator { dirs } => return generated(generate::run(dirs.first().map_or(Path::new(""), PathBuf::as_path))),
        Command::ReexecTrial { source } => service::trial(&source.source(), &env),
        Command::Reap { source: SourceArgs { config, data, runtime } } => {
            reap::run(&Source { file: config, data, runtime, strict: false }, &env).map(|reaped| tell(&reaped))
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

/// systemd waits for its generators and goes on without what one could not make; the reason is in the kernel's log or the journal.
fn generated(made: Result<(), GenerateError>) -> ExitCode {
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "wukongim-generator: {}", service::chain(&error)).unwrap_or_default();
            ExitCode::from(service::EXIT_CONFIG)
        }
    }
}

/// Exit code 0: whoever was left is gone.
fn tell(Reaped { ended, blocked }: &Reaped) -> u8 {
    if let Some(err) = blocked {
        writeln!(io::stderr(), "wksupervisor: controllers of the delegated group not taken back: {err}").unwrap_or_default();
    }
    if !ended.is_empty() {
        writeln!(io::stdout(), "ended what the supervisor left: {}", ended.join(", ")).unwrap_or_default();
    }
    0
}
