//! `cargo xtask bench supervisor`: ours beside what is installed of s6, runit, supervisord and dinit (issue 4, "What must be shown").
//!
//! All run the same child program, whose first act is a stamp of the time. Under ours it is a daemon that gets ready; under the others,
//! which know nothing of that, it is a process that waits. What the issue asks of "trivial children" is also measured with a program that
//! does nothing but wait, as `design/supervisor.md` did ([`trivial`]). Runs alternate between the supervisors, so that a busy machine is busy for all.
//! Start: from the exec of the supervisor to the first instruction of the last child. Stop: from the signal to the supervisor until no child
//! lives. Memory and CPU: all processes of the supervisor, without the children.
//!
//! On a machine with other work, run it with `chrt -f 10`: everything it starts is then ahead of that work, and `cpu_share` is near 1.

mod field;
mod kernel;
mod ledger;
mod rival;
mod table;
mod trivial;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::report::{Series, as_f64, round};
use super::start::wait;
use crate::steps::{loud, spinner};
use field::{Field, Restart};
use rival::{Rival, Shape};

/// Children of the small and of the large measurement. Source: issue 4.
const SIZES: [usize; 2] = [10, 100];
/// Restarts that one run collects, unless the supervisor is slow.
const RESTARTS: usize = 40;
/// How long they may take: several supervisors wait a second before each.
const RESTARTS_WITHIN: Duration = Duration::from_secs(8);
/// Starts and stops with many children, or by a supervisor that stays, in one run.
const LARGE_STARTS: usize = 3;
/// Several supervisors treat what lived shorter than a second as a failed start.
const SETTLE: Duration = Duration::from_millis(1_200);
/// How long an idle supervisor is watched, after as long a time without being watched: twice the period of our liveness checks, and what a start
/// leaves behind (memory that was given back and is touched again) is over.
const IDLE: Duration = Duration::from_secs(20);
/// Within this time a new supervisor that begins second copies has begun one.
const COPIES_WITHIN: Duration = Duration::from_secs(10);
/// Status calls of one run.
const STATUS_CALLS: usize = 2_000;

#[derive(Debug, Clone, Args)]
pub(crate) struct SupervisorOptions {
    /// Times that our supervisor is killed and begun anew
    #[arg(long, default_value_t = 1_000)]
    rounds: u32,
    /// Only ours
    #[arg(long)]
    alone: bool,
}

/// Measures and prints. `bin`: folder of our programs.
pub(super) fn run(options: &SupervisorOptions, bin: &Path, runs: u32) -> anyhow::Result<()> {
    let child = bin.join("wk-bench-child");
    let mut series = Vec::new();
    for rival in Rival::ALL.into_iter().filter(|r| *r == Rival::Ours || !options.alone) {
        match rival.find(bin) {
            Some(program) => series.push((rival, program, Series::new(&format!("supervisor-{}", rival.name())))),
            None => writeln!(std::io::stdout(), "{}", json!({"bench": format!("supervisor-{}", rival.name()), "skipped": "not found"}))?,
        }
    }
    for n in 0..runs {
        for (rival, program, series) in &mut series {
            let bar = spinner(&format!("{} run {} of {runs}", rival.name(), n + 1));
            let line = measure(*rival, program, &child).with_context(|| format!("measure {}", rival.name()));
            bar.finish_and_clear();
            series.add(line?)?;
        }
    }
    let mut medians = series.into_iter().map(|(_, _, series)| series.finish()).collect::<anyhow::Result<Vec<Value>>>()?;
    if options.rounds > 0 {
        medians.push(adopt(&Rival::Ours.find(bin).context("no supervisor")?, &child, options.rounds)?);
    }
    table::print(&medians)
}

/// Builds what is measured, without the daemons and what they need; returns the folder it lies in. The child is one static piece: what a
/// dynamic loader or the C library does before `main` (0.4 ms each) is not the supervisors' doing.
pub(super) fn programs(root: &Path) -> anyhow::Result<PathBuf> {
    let cargo = |words: &[&str]| {
        let mut command = Command::new("cargo");
        command.current_dir(root).args(words);
        loud(&mut command)
    };
    cargo(&["build", "--release", "--package", "wk-supervisor", "--bins"])?;
    let first = format!("link-arg={}", root.join("scripts/bench-child/first.S").display());
    let mut whole = vec!["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
    if cfg!(target_arch = "x86_64") {
        whole.extend(["-C", &first, "-C", "link-arg=-Wl,--entry=first"]);
    }
    cargo(&[&["rustc", "--release", "--package", "wk-bench-child", "--"][..], &whole[..]].concat())?;
    let bin = crate::build::folder(root, true);
    trivial::build(root, &bin)?;
    Ok(bin)
}

/// Everything about one supervisor, once.
fn measure(rival: Rival, program: &Path, child: &Path) -> anyhow::Result<Value> {
    let mut line = Map::new();
    line.insert("cpu_share".into(), json!(kernel::cpu_share()));
    let [small, large] = SIZES;
    few(rival, (program, child), small, &mut line)?;
    many(rival, (program, child), large, &mut line)?;
    if rival == Rival::Ours {
        for count in SIZES {
            pools((program, child), count, &mut line)?;
            trivial::measure((program, child), count, &mut line)?;
        }
    }
    Ok(Value::Object(line))
}

fn put(line: &mut Map<String, Value>, name: &str, value: f64) {
    line.insert(name.into(), json!(round(value)));
}

/// Restarts, memory, idleness, and what a new supervisor makes of the children of a killed one.
fn few(rival: Rival, programs: (&Path, &Path), count: usize, line: &mut Map<String, Value>) -> anyhow::Result<()> {
    let (mut starts, mut readies, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    let mut restarts: Vec<Restart> = Vec::new();
    let until = Instant::now() + RESTARTS_WITHIN;
    while restarts.is_empty() || (restarts.len() < RESTARTS && Instant::now() < until) {
        let mut field = Field::start(rival, programs, Shape::Node(count))?;
        let (start, ready) = field.start_ms()?;
        starts.push(start);
        readies.extend(ready);
        wait(SETTLE);
        let names: Vec<String> = field.children.keys().cloned().collect();
        for name in names {
            restarts.push(field.restart(&name)?);
            if Instant::now() > until {
                break;
            }
        }
        stops.push(field.stop()?);
    }
    let firsts = || restarts.iter().map(|r| r.first).collect();
    put(line, "restart_p50_ms", percentile(firsts(), 50));
    put(line, "restart_p95_ms", percentile(firsts(), 95));
    let known: Vec<(f64, f64)> = restarts.iter().filter_map(|r| r.ready).collect();
    if !known.is_empty() {
        put(line, "restart_ready_p50_ms", percentile(known.iter().map(|k| k.0).collect(), 50));
        put(line, "ready_lag_p50_ms", percentile(known.iter().map(|k| k.1).collect(), 50));
        put(line, "ready_lag_p95_ms", percentile(known.iter().map(|k| k.1).collect(), 95));
        put(line, &format!("start_ready_{count}_ms"), percentile(readies, 50));
    }
    put(line, &format!("start_{count}_ms"), percentile(starts, 50));
    put(line, &format!("stop_{count}_ms"), percentile(stops, 50));

    let mut field = Field::start(rival, programs, Shape::Node(count))?;
    wait(SETTLE);
    resident(&field, count, line);
    idle(&field, line);
    if rival == Rival::Ours {
        line.insert("memory_parts_mb".into(), json!(kernel::memory_parts(field.own().first().copied().unwrap_or(0))));
        return field.stop().map(drop);
    }
    field.replace_killed()?;
    let until = Instant::now() + COPIES_WITHIN;
    while field.copies() <= count && Instant::now() < until {
        wait(SETTLE);
    }
    // The others follow the first.
    wait(SETTLE);
    put(line, "copies_after_kill", as_f64(field.copies() as u64) / as_f64(count as u64));
    Ok(())
}

/// Starts and stops, memory, and under ours the price of a status.
fn many(rival: Rival, programs: (&Path, &Path), count: usize, line: &mut Map<String, Value>) -> anyhow::Result<()> {
    let (mut starts, mut readies, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..LARGE_STARTS {
        let field = Field::start(rival, programs, Shape::Node(count))?;
        let (start, ready) = field.start_ms()?;
        starts.push(start);
        readies.extend(ready);
        wait(SETTLE);
        if n == 0 {
            resident(&field, count, line);
            if rival == Rival::Ours {
                let calls = status(programs.1, &field.dir.join("r/1001/control.sock"))?;
                put(line, "status_p50_ms", percentile(calls.clone(), 50));
                put(line, "status_p99_ms", percentile(calls, 99));
            }
        }
        stops.push(field.stop()?);
    }
    put(line, &format!("start_{count}_ms"), percentile(starts, 50));
    put(line, &format!("stop_{count}_ms"), percentile(stops, 50));
    if !readies.is_empty() {
        put(line, &format!("start_ready_{count}_ms"), percentile(readies, 50));
    }
    Ok(())
}

/// Workers that depend on nobody in the measurement are ended and begun by a supervisor that stays: what is left without the order of the
/// daemons and without the rest that a stop of the node gives to its clients.
fn pools(programs: (&Path, &Path), count: usize, line: &mut Map<String, Value>) -> anyhow::Result<()> {
    let mut field = Field::start(Rival::Ours, programs, Shape::Pools(count))?;
    field::asked(field.order("stop", &["plugin-host"])?)?;
    field.children.remove("plugin-host@0");
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..LARGE_STARTS {
        let (stop, start) = field.bounce(&["worker.user", "worker.push"])?;
        stops.push(stop);
        starts.push(start);
    }
    put(line, &format!("pools_stop_{count}_ms"), percentile(stops, 50));
    put(line, &format!("pools_start_{count}_ms"), percentile(starts, 50));
    Ok(())
}

fn resident(field: &Field, count: usize, line: &mut Map<String, Value>) {
    let own = field.own();
    let (rss, pss) = kernel::memory(&own);
    put(line, &format!("rss_{count}_mb"), as_f64(rss) / 1e6);
    put(line, &format!("pss_{count}_mb"), as_f64(pss) / 1e6);
    line.insert(format!("processes_{count}"), json!(own.len()));
}

fn idle(field: &Field, line: &mut Map<String, Value>) {
    wait(IDLE);
    let own = field.own();
    let (before, began) = (kernel::used(&own), Instant::now());
    wait(IDLE);
    let (after, seconds) = (kernel::used(&own), began.elapsed().as_secs_f64());
    put(line, "idle_us_per_s", as_f64(after.0.saturating_sub(before.0)) / 1e3 / seconds);
    put(line, "idle_switches_per_s", as_f64(after.1.saturating_sub(before.1)) / seconds);
}

/// Latencies of status calls. Unit: ms.
fn status(child: &Path, socket: &Path) -> anyhow::Result<Vec<f64>> {
    let output = Command::new(child).arg("status").arg(socket).arg(STATUS_CALLS.to_string()).output().context("run the status calls")?;
    anyhow::ensure!(output.status.success(), "status calls: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|l| l.parse::<f64>().ok()).map(|ns| ns / 1e6).collect())
}

/// Kills our supervisor and begins it anew, many times: every child stays, none is doubled.
fn adopt(program: &Path, child: &Path, rounds: u32) -> anyhow::Result<Value> {
    let [count, _] = SIZES;
    let mut field = Field::start(Rival::Ours, (program, child), Shape::Node(count))?;
    let (mut times, mut copies) = (Vec::new(), Vec::new());
    let bar = spinner(&format!("kill the supervisor {rounds} times"));
    for round in 1..=rounds {
        times.push(field.adopted()?);
        copies.push(field.copies());
        anyhow::ensure!(field.undisturbed()?, "round {round}: a child was started or has ended\n{}", field.story());
        bar.set_message(format!("killed the supervisor {round} times"));
    }
    bar.finish_and_clear();
    let (fewest, most) = (copies.iter().min().copied().unwrap_or(0), copies.iter().max().copied().unwrap_or(0));
    anyhow::ensure!(fewest == count && most == count, "between {fewest} and {most} copies of {count} children");
    let line = json!({
        "rounds": rounds, "children": count, "copies_after_kill": 1.0,
        "control_p50_ms": round(percentile(times.clone(), 50)),
        "control_p95_ms": round(percentile(times.clone(), 95)),
        "control_max_ms": round(percentile(times, 100)),
    });
    field.stop()?;
    let mut series = Series::new("supervisor-adopt");
    series.add(line)?;
    series.finish()
}

/// The value that so many percent do not exceed (nearest rank).
fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_rank() {
        let values = || (1..=20).map(f64::from).rev().collect();
        assert_eq!([50, 95, 99, 100].map(|p| percentile(values(), p).to_string()), ["10", "19", "20", "20"]);
        assert_eq!(percentile(Vec::new(), 50).to_string(), "0");
    }
}
