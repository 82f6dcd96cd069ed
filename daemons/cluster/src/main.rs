//! Entry of `wk-cluster`.

use std::process::ExitCode;

use clap::Parser;

/// Cluster daemon: message log, metadata, ids, locks.
#[derive(Debug, Parser)]
#[command(name = "wk-cluster", version)]
struct Cli {
    #[command(flatten)]
    args: wk_lifecycle::Args,
}

fn main() -> ExitCode {
    wk_lifecycle::with_cli(|cli: Cli| wk_lifecycle::run(wk_cluster::service::SPEC, &cli.args, wk_cluster::service::run))
}
