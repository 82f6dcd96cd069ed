//! What `/proc` says about the processes of a node.

use std::collections::BTreeMap;
use std::fs;

/// Processes by name.
pub(super) type Pids = BTreeMap<String, u64>;

/// CPU time of all threads of a process so far. Unit: ns. 0 when it is gone.
fn cpu_ns(pid: u64) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let first = |text: String| text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    tasks.flatten().filter_map(|task| first(fs::read_to_string(task.path().join("schedstat")).ok()?)).sum()
}

/// CPU time of all processes so far. Unit: ns.
pub(super) fn cpu_of_all_ns(pids: &Pids) -> u64 {
    pids.values().map(|pid| cpu_ns(*pid)).sum()
}

/// A field of `/proc/<pid>/status` in kB, as bytes: `RssAnon` is the user memory of a process that no file backs, `VmRSS` all it has in memory.
pub(super) fn memory_bytes(pid: u64, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// User memory of each process. Unit: bytes.
pub(super) fn user_memory(pids: &Pids) -> BTreeMap<String, u64> {
    pids.iter().map(|(name, pid)| (name.clone(), memory_bytes(*pid, "RssAnon") + memory_bytes(*pid, "RssShmem"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let me = u64::from(std::process::id());
        let pids = Pids::from([("me".to_owned(), me)]);
        assert!(cpu_of_all_ns(&pids) > 0 && memory_bytes(me, "VmRSS") > 100_000);
        assert!(user_memory(&pids).get("me").is_some_and(|bytes| *bytes > 0));
        assert_eq!((cpu_ns(0), memory_bytes(0, "VmRSS")), (0, 0));
    }
}
