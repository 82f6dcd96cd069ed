//! Starts and stops of children that only wait: what the supervisor and the kernel cost, with nothing of the child's own.
//!
//! They are the workers of a node whose other daemons are real; they never get ready, so a start is not waited for to its end, and they are
//! ended before the supervisor misses their answers.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Map, Value};

use super::field::{self, Field, PATIENCE, ms};
use super::kernel::{self, now_ns};
use super::rival::{Rival, Shape};
use super::{LARGE_STARTS, percentile, put};
use crate::steps::loud;

/// File name of the child.
pub(super) const PROGRAM: &str = "wk-bench-trivial";
/// Abstract address that they tell their beginning to.
const STAMPS: &str = "wk-bench-trivial";
/// Pools that are measured.
const POOLS: [&str; 2] = ["worker.user", "worker.push"];

/// Assembles the child: one static piece of 9 KB without a C library.
pub(super) fn build(root: &Path, bin: &Path) -> anyhow::Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let mut command = Command::new("cc");
    command.args(["-nostdlib", "-static", "-o"]).arg(bin.join(PROGRAM)).arg(root.join("scripts/bench-child/trivial.S"));
    loud(&mut command)
}

/// One that lives.
struct Waiting {
    handle: OwnedFd,
    began_ns: u64,
}

/// Measures with `count` of them; nothing where the child is not there (another architecture).
pub(super) fn measure((program, child): (&Path, &Path), count: usize, line: &mut Map<String, Value>) -> anyhow::Result<()> {
    let trivial = child.with_file_name(PROGRAM);
    if !trivial.is_file() {
        return Ok(());
    }
    let stamps = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(STAMPS)?).context("bind the address of the stamps")?;
    stamps.set_read_timeout(Some(PATIENCE))?;
    let (mut cold, mut starts, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LARGE_STARTS {
        let field = Field::begin(Rival::Ours, (program, child), Shape::Waiting(count))?;
        let mut children = hear(&stamps, count).with_context(|| field.story())?;
        cold.push(ms(field.began_ns, last(&children)));
        for round in 0..LARGE_STARTS {
            // Who needs them goes once; that stop is another one and does not count.
            let with = if round == 0 { &["plugin-host"][..] } else { &[] };
            let stop = field.order("stop", &[&POOLS[..], with].concat())?;
            kernel::all_ended(children.iter().map(|c| &c.handle), PATIENCE)?;
            let ended = now_ns();
            let asked = field::asked(stop)?;
            if round > 0 {
                stops.push(ms(asked, ended));
            }
            let start = field.order("start", &POOLS)?;
            children = hear(&stamps, count).with_context(|| field.story())?;
            starts.push(ms(field::heard(start)?, last(&children)));
        }
        drop(field);
    }
    put(line, &format!("trivial_cold_start_{count}_ms"), percentile(cold, 50));
    put(line, &format!("trivial_start_{count}_ms"), percentile(starts, 50));
    put(line, &format!("trivial_stop_{count}_ms"), percentile(stops, 50));
    Ok(())
}

fn last(children: &[Waiting]) -> u64 {
    children.iter().map(|c| c.began_ns).max().unwrap_or(0)
}

/// Waits until so many of the measured pools have begun.
fn hear(stamps: &UnixDatagram, count: usize) -> anyhow::Result<Vec<Waiting>> {
    let mut children = Vec::with_capacity(count);
    while children.len() < count {
        let mut words = [0; 24];
        let length = stamps.recv(&mut words).context("no child begins")?;
        ensure!(length == words.len(), "a stamp has three words");
        let word = |n: usize| words.get(n * 8..).and_then(|w| w.first_chunk()).map_or(0, |w| u64::from_ne_bytes(*w));
        // Whoever has ended since is none of those that are waited for.
        let alive = |pid: u32| Some((kernel::watch(pid).ok()?, pool(pid)?));
        if let Some((handle, pool)) = alive(u32::try_from(word(0))?)
            && POOLS.contains(&pool.as_str())
        {
            children.push(Waiting { handle, began_ns: word(1) * 1_000_000_000 + word(2) });
        }
    }
    Ok(children)
}

/// Pool of a worker, by its environment.
fn pool(pid: u32) -> Option<String> {
    let environ = fs::read_to_string(format!("/proc/{pid}/environ")).ok()?;
    let instance = environ.split('\0').find_map(|v| v.strip_prefix("WK_INSTANCE="))?;
    Some(instance.split('@').next().unwrap_or_default().to_owned())
}
