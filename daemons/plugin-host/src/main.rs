//! Entry point.

use std::process::ExitCode;

use clap::Parser;
use wk_plugin_host::service;

/// Plugin host of a WuKongIM node.
#[derive(Debug, Parser)]
#[command(name = "wk-plugin-host", version)]
struct Cli {
    #[command(flatten)]
    args: wk_lifecycle::Args,
}

fn main() -> ExitCode {
    wk_lifecycle::with_cli(|cli: Cli| wk_lifecycle::run(service::SPEC, &cli.args, service::run))
}
