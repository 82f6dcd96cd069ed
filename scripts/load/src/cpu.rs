//! What the scheduler charged to processes: user and system time of all threads, in nanoseconds.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// CPU time of a process so far: the sum over its threads in `/proc/<pid>/task/*/schedstat`. Unit: ns. 0 when it is gone.
pub(crate) fn process_ns(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks.flatten().map(|task| read_first(&task.path().join("schedstat"))).sum()
}

fn read_first(path: &std::path::Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|t| t.split_whitespace().next().and_then(|n| n.parse().ok())).unwrap_or(0)
}

/// Accounts of several processes at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Account(BTreeMap<String, u64>);

impl Account {
    /// Reads all of them now.
    pub(crate) fn read(pids: &[(String, u32)]) -> Self {
        Self(pids.iter().map(|(name, pid)| (name.clone(), process_ns(*pid))).collect())
    }

    /// CPU µs per message for each process since `before`.
    pub(crate) fn per_message(&self, before: &Self, messages: u64) -> BTreeMap<String, f64> {
        let messages = messages.max(1);
        self.0
            .iter()
            .map(|(name, ns)| {
                let spent = ns.saturating_sub(before.0.get(name).copied().unwrap_or(0));
                (name.clone(), round(micros(spent) / as_f64(messages)))
            })
            .collect()
    }
}

/// Share of two cores that two spinning threads obtain in a short while: 1.0 on a machine of our own.
pub(crate) fn share() -> f64 {
    let spin = || {
        let began = Instant::now();
        let before = read_first(std::path::Path::new("/proc/thread-self/schedstat"));
        let mut x = 0_u64;
        while began.elapsed() < Duration::from_millis(500) {
            x = std::hint::black_box(x.wrapping_add(1));
        }
        let got = read_first(std::path::Path::new("/proc/thread-self/schedstat")).saturating_sub(before);
        micros(got) / (began.elapsed().as_secs_f64() * 1e6)
    };
    let shares = std::thread::scope(|scope| {
        let threads = [scope.spawn(spin), scope.spawn(spin)];
        threads.map(|t| t.join().unwrap_or(0.0))
    });
    round(shares.iter().sum::<f64>() / 2.0)
}

/// Nanoseconds as microseconds.
fn micros(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark run are far below 2^52")]
pub(crate) fn as_f64(n: u64) -> f64 {
    n as f64
}

/// Three decimals: more would pretend precision.
pub(crate) fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}
