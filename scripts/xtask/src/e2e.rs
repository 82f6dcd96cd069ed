//! Whole-system tests: build the programs once, prepare the SDKs, run the test with both in the environment.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::build::programs;
use crate::steps::{cargo, loud, spinner};
use crate::workspace::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only tests whose names contain this
    filter: Option<String>,
    /// Release profile
    #[arg(long)]
    release: bool,
    /// Without preparing the published SDKs: tests that need them fail
    #[arg(long)]
    no_sdks: bool,
    /// Tests at a time
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StormOptions {
    /// Seed of the plan; a failing storm prints its own
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds of each scenario; default: the scenario's own number
    #[arg(long)]
    rounds: Option<u64>,
    /// Only this scenario
    #[arg(long)]
    scenario: Option<String>,
    /// Release profile
    #[arg(long)]
    release: bool,
}

/// Runs the whole-system tests once.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let root = root();
    let bin_dir = programs(&root, options.release, &[])?;
    let mut command = test(&root, "e2e", options.release)?;
    command.env("WK_BIN_DIR", bin_dir);
    if !options.no_sdks {
        command.env("WK_SDK_DIR", sdks(&root)?);
    }
    command.arg(format!("--test-threads={}", options.threads)).args(&options.filter);
    loud(&mut command)
}

/// Runs the storms; the names of the variables are those of `supervisor/tests/storm/main.rs`.
pub(crate) fn storm(options: &StormOptions) -> anyhow::Result<()> {
    let root = root();
    let bin_dir = programs(&root, options.release, &[])?;
    let mut command = test(&root, "storm", options.release)?;
    command.env("WK_BIN_DIR", bin_dir);
    let numbers = [("WK_STORM_SEED", options.seed), ("WK_STORM_ROUNDS", options.rounds)];
    command.envs(numbers.into_iter().filter_map(|(name, n)| Some((name, n?.to_string()))));
    command.envs(options.scenario.as_ref().map(|s| ("WK_STORM_SCENARIO", s)));
    command.args(["--test-threads=1", "--nocapture"]);
    loud(&mut command)
}

/// `cargo test` of one test program of the supervisor, up to the arguments of the program itself. For the whole workspace, so that its
/// dependencies have the features of `cargo test --workspace` and are not built again.
fn test(root: &Path, name: &str, release: bool) -> anyhow::Result<Command> {
    let mut command = cargo(root)?;
    command.args(["test", "--workspace", "--test", name, "--features", "wk-supervisor/e2e"]);
    if release {
        command.arg("--release");
    }
    command.arg("--");
    Ok(command)
}

/// Folder of the prepared SDKs: the last line of `scripts/sdks` says it.
fn sdks(root: &Path) -> anyhow::Result<String> {
    let bar = spinner("client SDKs (scripts/sdks)");
    let output = Command::new(root.join("scripts/sdks")).stderr(Stdio::inherit()).output().context("run scripts/sdks")?;
    bar.finish_and_clear();
    if !output.status.success() {
        bail!("scripts/sdks ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let dir = text.lines().rev().find_map(|l| l.strip_prefix("export WK_SDK_DIR=")).context("scripts/sdks names no folder")?;
    Ok(dir.to_owned())
}
