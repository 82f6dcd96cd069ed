//! Entry point.

use std::process::ExitCode;

use clap::Parser;
use wk_gateway::service;

/// Gateway of a WuKongIM node: client connections.
#[derive(Debug, Parser)]
#[command(name = "wk-gateway", version)]
struct Cli {
    #[command(flatten)]
    args: wk_lifecycle::Args,
}

fn main() -> ExitCode {
    wk_lifecycle::with_cli(|cli: Cli| wk_lifecycle::run(service::SPEC, &cli.args, service::run))
}
