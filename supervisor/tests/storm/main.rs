//! Storms: real processes are killed and stopped under load while independent recorders watch; a checker compares all records with the log.
//! Run by `cargo xtask storm [--seed N] [--rounds N] [--scenario NAME]`, which builds the binaries and sets `WK_BIN_DIR`, `WK_STORM_SEED`,
//! `WK_STORM_ROUNDS` and `WK_STORM_SCENARIO`. Without them each scenario makes its bounded number of rounds with seed 1.
//!
//! Planes: the plan (who is there, from the seed), sources (connections and backends that record what they see), the field (the records),
//! faults, the checker (pure), the report. Absent on purpose: any look into the daemons; only what clients, backends and operators can see counts.

mod bugs;
mod check;
mod churn;
mod faults;
mod field;
mod plan;
mod poison;
mod record;
mod report;
mod scenarios;
mod source;
mod storm;

use tokio::sync::Mutex;
use wk_config::Env;

use crate::scenarios::Run;

/// One storm at a time: each needs the whole machine.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A number from the environment, or `default`.
fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    match Env::process().get(name) {
        Some(text) => text.parse().map_err(|e| anyhow::anyhow!("{name} is {text}: {e}")),
        None => Ok(default),
    }
}

/// The run of a scenario, or `None` when another was asked for.
fn run(scenario: &'static str, rounds: usize) -> anyhow::Result<Option<Run>> {
    if Env::process().get("WK_STORM_SCENARIO").is_some_and(|wanted| !wanted.is_empty() && wanted != scenario) {
        return Ok(None);
    }
    let rounds = usize::try_from(number("WK_STORM_ROUNDS", rounds as u64)?)?;
    Ok(Some(Run { scenario, seed: number("WK_STORM_SEED", 1)?, rounds }))
}

macro_rules! scenario {
    ($name:ident, $rounds:expr) => {
        #[tokio::test]
        async fn $name() -> anyhow::Result<()> {
            let Some(run) = run(stringify!($name), $rounds)? else { return Ok(()) };
            let _alone = ALONE.lock().await;
            run.$name().await.map_err(|e| e.context(format!("repeat with: {}", run.command())))
        }
    };
}

scenario!(kills, 20);
scenario!(hangs, 6);
scenario!(doubles, 8);
scenario!(shares, 6);
scenario!(scale, 9);
scenario!(churn, 6);
scenario!(poison, 1);
scenario!(slow_receiver, 6);
scenario!(slow_writes, 4);
scenario!(bugs, 1);
scenario!(hanging_sink, 4);
