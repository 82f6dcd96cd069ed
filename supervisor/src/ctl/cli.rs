//! The command line of `wkctl`: help, manual pages and completions come from these definitions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes:
  0  done; status: everything wanted is ready
  1  status: something wanted is not ready
  2  wrong command line          64  not possible like this
  3  nothing runs                69  no supervisor answers (within 5 s)
  4  no such daemon or operation 70  internal error, or a process that cannot be killed
  5  failed, left as it is       75  another operation is in the way, try later
  6  start failed, rolled back   77  not permitted
  7  cancelled or superseded     78  configuration refused
  8  roll stopped at a failure
  9  --timeout passed; the operation goes on";

/// Controls a WuKongIM node.
#[derive(Debug, Parser)]
#[command(name = "wkctl", version, about = "Controls a WuKongIM node", max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// Runtime folder of the node, or the folder above it
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) runtime: Option<PathBuf>,
    /// Node id, when several nodes run on this machine
    #[arg(long, global = true, value_name = "ID")]
    pub(super) node: Option<u16>,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(super) output: Output,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// Stable schema, numbers; what goes on (-f, -w, operations, events, logs): one object a line
    Json,
    /// The same as YAML; what goes on: one document each, of an operation its end
    Yaml,
    /// Names only
    Name,
}

/// How long to wait, and what for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Waiting {
    /// Wait this long at most (exit code 9); the operation goes on
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// Refuse (exit code 75) when another operation is in the way, instead of waiting for it
    #[arg(long)]
    pub(super) no_wait: bool,
    /// End the operation when this command ends
    #[arg(long)]
    pub(super) cancel_on_disconnect: bool,
    /// Idempotency key: the same key again joins the same operation, also after its end
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) key: String,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows what runs. Exit code 0: all wanted is ready; 1: degraded; 3: nothing runs
    Status {
        /// Daemons or instances
        names: Vec<String>,
        /// Redraw after each change
        #[arg(short, long)]
        watch: bool,
        /// With the components of each daemon
        #[arg(long)]
        deep: bool,
        /// All columns, however wide; descriptors against their limit, generations
        #[arg(long)]
        wide: bool,
    },
    /// Live view: processes by use of the processor, operations, last events
    Top,
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
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Stops daemons; everything without names: quiesce, then reverse order
    Stop {
        /// Daemons or instances
        names: Vec<String>,
        /// Stop what needs them first
        #[arg(long, conflicts_with = "force_alone")]
        cascade: bool,
        /// Leave what needs them running
        #[arg(long)]
        force_alone: bool,
        /// Deadlines of one second
        #[arg(long)]
        fast: bool,
        /// Kill
        #[arg(long)]
        now: bool,
        /// End the supervisor too
        #[arg(long)]
        supervisor: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Starts new generations, one after another; without names: stops and starts everything
    Restart {
        /// Daemons or instances
        names: Vec<String>,
        /// What needs them too: stopped first, started again behind them
        #[arg(long)]
        cascade: bool,
        /// Deadlines of one second
        #[arg(long)]
        fast: bool,
        /// Kill
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Replaces generations a few at a time, each proved before the next; stops at the first bad one (exit code 8)
    Roll {
        /// Daemons or instances
        names: Vec<String>,
        /// Instances of one daemon that may be away at a time; default: 1, or as many as --surge adds
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        max_unavailable: Option<u32>,
        /// Add N slots to each worker pool for the time of its roll: never less is ready than the configured number
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(0..=63))]
        surge: u32,
        /// End after the first N; the output says how to go on
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        canary: u32,
        /// Ready for this long before the next one
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
        min_ready: Duration,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Changes the number of processes of a worker pool; kept until it equals the configuration again
    Scale {
        /// POOL=N, such as worker.channel=4
        #[arg(value_parser = parse_scale)]
        pool: (String, u32),
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Explains the state of an instance: chain, last end, log, pauses
    Why {
        /// Daemon or instance
        name: String,
    },
    /// What happened
    Events {
        /// Daemons or instances
        names: Vec<String>,
        /// Go on with what happens
        #[arg(short, long)]
        follow: bool,
        /// Only events younger than this
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        since: Option<Duration>,
    },
    /// Last lines of the logs; `supervisor` is a name too
    Logs {
        /// Daemons or instances; all without names
        names: Vec<String>,
        /// Go on with what is added
        #[arg(short, long)]
        follow: bool,
        /// Lines of each
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u32,
    },
    /// Where the time of the last start went
    Analyze {
        /// Table of all phases; slowest first; the chain that decided; bars
        #[arg(value_enum, default_value = "table")]
        view: AnalyzeView,
    },
    /// Who requires whom
    Graph {
        /// Form
        #[arg(long, value_enum, default_value = "tree")]
        format: GraphFormat,
        /// With the present states
        #[arg(long)]
        live: bool,
    },
    /// Reads the configuration again: policies, deadlines and pool sizes hold at once, the rest with the next generation
    Reload {
        /// Also roll the daemons that read a changed key
        #[arg(long)]
        apply: bool,
        /// Only say what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Leaves instances alone: no restart, no kill for a hang, no part in rolls
    Hold {
        /// Daemons or instances
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Takes `hold` back
    Unhold {
        /// Daemons or instances
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Forgets crashes: what waits or was given up is started at once
    Reset {
        /// Daemons or instances
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Sends a signal
    Signal {
        /// Daemon or instance
        name: String,
        /// Name or number: USR1, SIGUSR1, 10
        #[arg(value_parser = parse_signal)]
        signal: i32,
    },
    /// Operations
    Op {
        #[command(subcommand)]
        command: OpCommand,
    },
    /// Puts the binary that lies at the supervisor's path now in its place; all daemons go on
    Reexec,
    /// Quiesces a node of systemd units before its stop: nothing new is taken, what was accepted is finished. Run by wk-quiesce.service
    #[command(hide = true)]
    Quiesce,
    /// Metrics of the supervisor and of all daemons, Prometheus text
    Metrics,
    /// Prints a completion script
    Completion {
        /// Shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Prints what may stand at the end of a command line; asked by the completion scripts
    #[command(hide = true)]
    Complete {
        /// Word breaks of bash
        #[arg(long)]
        breaks: Option<String>,
        /// The command line up to the cursor
        line: String,
    },
    /// Writes manual pages into a folder
    Man {
        /// Folder
        dir: PathBuf,
    },
}

/// Shells with completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shell {
    /// Source it, or put it into /usr/share/bash-completion/completions/wkctl
    Bash,
    /// Put it as _wkctl into a folder of $fpath
    Zsh,
    /// Put it into ~/.config/fish/completions/wkctl.fish
    Fish,
}

/// Commands about operations.
#[derive(Debug, Subcommand)]
pub(super) enum OpCommand {
    /// Lists those under way, waiting and lately ended
    Ls,
    /// Shows what one said so far and waits for its end, with its exit code
    Wait {
        /// Number
        id: u64,
        /// Wait this long at most (exit code 9)
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
    /// Takes one back: a start is rolled back, a roll ends where it is
    Cancel {
        /// Number
        id: u64,
    },
}

/// Views of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum AnalyzeView {
    /// All phases of each component
    Table,
    /// Own time of each, slowest first
    Blame,
    /// The chain that decided the total
    CriticalChain,
    /// Bars over time
    Plot,
}

/// Forms of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GraphFormat {
    /// For people
    Tree,
    /// Graphviz
    Dot,
    /// For documents
    Mermaid,
}

fn parse_scale(text: &str) -> Result<(String, u32), String> {
    let (pool, count) = text.split_once('=').ok_or("expected POOL=N, such as worker.channel=4")?;
    Ok((pool.to_owned(), count.parse().map_err(|_| format!("{count:?} is not a number of processes"))?))
}

fn parse_signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err("signals are 1 to 64".into()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let signal: nix::sys::signal::Signal = name.parse().map_err(|_| format!("there is no signal {text:?}"))?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!([parse_signal("usr1"), parse_signal("SIGUSR1"), parse_signal("10")], [Ok(10), Ok(10), Ok(10)]);
        assert!(parse_signal("nothing").is_err() && parse_signal("99").is_err());
    }
}
