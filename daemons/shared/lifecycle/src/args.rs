//! Command line that every daemon understands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::exit::Exit;

/// Options of a daemon. Under the supervisor none is needed: the environment and the passed descriptors say everything.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Configuration file (without a supervisor).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on with defaults when the file does not exist.
    #[arg(short = 'i', long)]
    pub ignore_missing_config: bool,
    /// Data folder; overrides dataDir.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Runtime folder of the node; overrides the derived one.
    #[arg(long, value_name = "DIR")]
    pub runtime: Option<PathBuf>,
    /// Slot of this instance (without a supervisor).
    #[arg(long, default_value_t = 0)]
    pub slot: u16,
    /// Validate the configuration and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Called by systemd after the end of this instance (`ExecStopPost=`): tells its next life whether somebody else killed it.
    #[arg(long, hide = true)]
    pub ended: bool,
}

/// Reads the command line of this process and goes on with it. A wrong one ends with [`Exit::Usage`], which nobody restarts; clap's own code
/// for it would count as a crash.
pub fn with_cli<C: Parser>(main: impl FnOnce(C) -> ExitCode) -> ExitCode {
    match parsed(std::env::args_os()) {
        Ok(cli) => main(cli),
        Err(exit) => exit.into(),
    }
}

/// Help and version, when asked for, are no mistake.
fn parsed<C: Parser>(args: impl Iterator<Item = OsString>) -> Result<C, Exit> {
    C::try_parse_from(args).map_err(|message| {
        // Nobody is left to be told when the stream is closed.
        drop(message.print());
        if message.use_stderr() { Exit::Usage } else { Exit::Done }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(version)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_wrong_command_line_is_a_usage_error() {
        let end = |word: &str| parsed::<Cli>(["wk-x", word].map(OsString::from).into_iter()).map(|cli| cli.args.slot);
        assert_eq!([end("--nonsense"), end("word"), end("--slot=x")], [Err(Exit::Usage); 3]);
        assert_eq!([end("--help"), end("--version"), end("--slot=3")], [Err(Exit::Done), Err(Exit::Done), Ok(3)]);
    }
}
