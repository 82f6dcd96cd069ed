//! Build, check and test driver: `cargo xtask check | fix | e2e | bench | storm | deb | boot`.
//!
//! `check` only reads, `fix` writes. Everything a person waits for shows what it is doing. Rules of our own live in `rules`, one per file.

mod bench;
mod boot;
mod build;
mod check;
mod deb;
mod e2e;
mod rules;
mod steps;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Build, check and test driver")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Format, lints, documentation, layers, unsafe code, licences, duplicates, file lengths, metrics
    Check {
        /// Only the rules that need no compiler
        #[arg(long)]
        quick: bool,
        /// Run the tests too
        #[arg(long)]
        tests: bool,
    },
    /// Formats and applies what clippy can fix
    Fix,
    /// Whole-system tests with the real binaries (development profile) and the published SDKs
    E2e(e2e::Options),
    /// Storms: processes are killed and stopped under load while recorders watch
    Storm(e2e::StormOptions),
    /// Boots the Debian package in a container or a virtual machine, both ways
    Boot(boot::Options),
    /// Builds the Debian package (release profile)
    Deb(deb::Options),
    /// Measures a node (release profile) and prints JSON lines
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check { quick, tests } => check::check(quick, tests),
        Command::Fix => check::fix(),
        Command::E2e(options) => e2e::run(&options),
        Command::Storm(options) => e2e::storm(&options),
        Command::Boot(options) => boot::run(&options),
        Command::Deb(options) => deb::run(&options),
        Command::Bench(options) => bench::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            steps::say(&format!("error: {err:#}"));
            ExitCode::FAILURE
        }
    }
}
