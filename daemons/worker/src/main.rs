//! Entry point.

use std::process::ExitCode;

use clap::Parser;
use wk_types::Pool;
use wk_worker::service;

/// Worker of a WuKongIM node: one pool, or several in one process.
#[derive(Debug, Parser)]
#[command(name = "wk-worker", version)]
struct Cli {
    /// Pools of this process: user, channel, push. The first one names the process.
    #[arg(long, required = true, value_delimiter = ',', value_parser = pool)]
    pool: Vec<Pool>,
    #[command(flatten)]
    args: wk_lifecycle::Args,
}

fn pool(name: &str) -> Result<Pool, String> {
    name.parse().map_err(|e| format!("{e}"))
}

fn main() -> ExitCode {
    wk_lifecycle::with_cli(|cli: Cli| {
        let pools = service::distinct(&cli.pool);
        wk_lifecycle::run(service::spec(&pools), &cli.args, |context| service::run(context, pools))
    })
}
