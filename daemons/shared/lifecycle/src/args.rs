//! Command line that every daemon understands.

use std::path::PathBuf;

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
