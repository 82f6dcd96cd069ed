//! Entry point.

use std::process::ExitCode;

use clap::Parser;

/// WuKongIM api daemon: HTTP for applications and operators, webhooks.
#[derive(Debug, Parser)]
#[command(name = "wk-api", version)]
struct Cli {
    #[command(flatten)]
    args: wk_lifecycle::Args,
}

fn main() -> ExitCode {
    wk_lifecycle::with_cli(|cli: Cli| wk_lifecycle::run(wk_api::service::SPEC, &cli.args, wk_api::service::run))
}
