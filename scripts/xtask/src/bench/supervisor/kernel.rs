//! What only the kernel knows: the clock of the stamps, ends of processes, memory, time used, and what runs below a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

use crate::bench::report::{as_f64, round};

/// How long the spinning threads of [`cpu_share`] spin.
const SPIN: Duration = Duration::from_millis(100);

/// `CLOCK_MONOTONIC`. Unit: ns.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn pid_of(pid: u32) -> anyhow::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is no process"))
}

/// Sends a signal.
pub(super) fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    kill_process(pid_of(pid)?, signal).with_context(|| format!("signal {pid}"))
}

/// Handle of a process, readable at its end.
pub(super) fn watch(pid: u32) -> anyhow::Result<OwnedFd> {
    pidfd_open(pid_of(pid)?, PidfdFlags::empty()).with_context(|| format!("watch {pid}"))
}

/// How many of these processes have ended.
pub(super) fn ended<'a>(handles: impl Iterator<Item = &'a OwnedFd>) -> anyhow::Result<usize> {
    let mut fds: Vec<PollFd<'_>> = handles.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?)
}

/// Waits until all of these processes have ended.
pub(super) fn all_ended<'a>(handles: impl Iterator<Item = &'a OwnedFd>, within: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + within;
    for handle in handles {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        let ended = poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left))?;
        ensure!(ended == 1, "a child does not end within {} s", within.as_secs());
    }
    Ok(())
}

/// Parent of each process.
fn parents() -> BTreeMap<u32, u32> {
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    processes().into_iter().filter_map(|pid| Some((pid, parent(&pid)?))).collect()
}

fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// A process and all it began, but none of `without`.
pub(super) fn tree(root: u32, without: &BTreeSet<u32>) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![root];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(pid, p)| **p == parent && !without.contains(pid)).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// Processes that execute this file.
pub(super) fn copies(exe: &Path) -> usize {
    processes().into_iter().filter(|pid| link(*pid, "exe").is_some_and(|e| e == exe)).count()
}

/// Kills what works or was begun below a folder: nothing of a measurement stays.
pub(super) fn sweep(folder: &Path) {
    for pid in processes().into_iter().filter(|pid| *pid != std::process::id()) {
        if ["exe", "cwd"].iter().any(|what| link(pid, what).is_some_and(|path| path.starts_with(folder))) {
            // It may have ended meanwhile.
            signal(pid, Signal::KILL).ok();
        }
    }
}

fn link(pid: u32, what: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/{what}")).ok()
}

/// Resident and proportional memory of processes. Unit: bytes.
pub(super) fn memory(pids: &[u32]) -> (u64, u64) {
    let field = |text: &str, name: &str| text.lines().find_map(|l| kilobytes(l, name)).unwrap_or(0);
    let texts = pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok());
    texts.fold((0, 0), |(rss, pss), text| (rss + field(&text, "Rss:"), pss + field(&text, "Pss:")))
}

fn kilobytes(line: &str, name: &str) -> Option<u64> {
    Some(line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What the resident memory of a process consists of. Unit: MB.
pub(super) fn memory_parts(pid: u32) -> BTreeMap<&'static str, f64> {
    let exe = link(pid, "exe").unwrap_or_default();
    let mut parts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut part = "other";
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default().lines() {
        if let Some(bytes) = kilobytes(line, "Rss:") {
            *parts.entry(part).or_default() += bytes;
        } else if let Some(name) = region(line, &exe) {
            part = name;
        }
    }
    parts.into_iter().map(|(name, bytes)| (name, round(as_f64(bytes) / 1e6))).collect()
}

/// The kind of mapping that a head line of `smaps` begins.
fn region(line: &str, exe: &Path) -> Option<&'static str> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    if !range.contains('-') || rights.len() != 4 {
        return None;
    }
    let path = words.nth(3).unwrap_or("");
    Some(match path {
        "[heap]" => "heap",
        "[stack]" => "stack",
        "" => "anonymous",
        own if Path::new(own) == exe && rights.contains('x') => "program_code",
        own if Path::new(own) == exe => "program_data",
        _ if path.starts_with('/') => "libraries",
        _ => "kernel",
    })
}

/// CPU time and context switches of processes so far. Unit of the time: ns.
pub(super) fn used(pids: &[u32]) -> (u64, u64) {
    let mut sum = (0, 0);
    for task in pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        sum.0 += read("schedstat").split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let switches = read("status");
        let counts = switches.lines().filter_map(|l| l.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok());
        sum.1 += counts.sum::<u64>();
    }
    sum
}

/// Part of all cores that spinning threads get: 1 on an idle machine.
pub(super) fn cpu_share() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spin = || {
        let began = Instant::now();
        let used = || fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = |text: String| text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let before = ns(used());
        while began.elapsed() < SPIN {
            std::hint::spin_loop();
        }
        as_f64(ns(used()).saturating_sub(before)) / began.elapsed().as_secs_f64() / 1e9
    };
    let threads: Vec<_> = (0..cores).map(|_| std::thread::spawn(spin)).collect();
    let shares: Vec<f64> = threads.into_iter().filter_map(|t| t.join().ok()).collect();
    round(shares.iter().sum::<f64>() / as_f64(shares.len().max(1) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself() {
        let me = std::process::id();
        assert!(tree(me, &BTreeSet::new()).contains(&me));
        let (rss, pss) = memory(&[me]);
        assert!(rss >= pss && pss > 100_000, "{rss} {pss}");
        assert!(memory_parts(me).get("program_code").is_some_and(|mb| *mb > 0.0));
        assert!(used(&[me]).0 > 0);
        assert_eq!(copies(Path::new("/no/such/file")), 0);
        assert_eq!(ended([watch(me).unwrap()].iter()).unwrap(), 0);
    }

    #[test]
    fn kinds_of_mappings() {
        let exe = Path::new("/bin/x");
        assert_eq!(region("00-01 r-xp 0 00:00 7 /bin/x", exe), Some("program_code"));
        assert_eq!(region("00-01 r--p 0 00:00 7 /lib/libc.so", exe), Some("libraries"));
        assert_eq!(region("00-01 rw-p 0 00:00 0 [heap]", exe), Some("heap"));
        assert_eq!(region("00-01 rw-p 0 00:00 0", exe), Some("anonymous"));
        assert_eq!(region("VmFlags: rd ex mr mw me", exe), None);
    }
}
