//! What the processes use, read when somebody asks and remembered for a moment, so that many askers cost no more than one.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::proc;
use crate::process::{Usage, usage};

/// A reading is good for this long.
const FRESH: Duration = Duration::from_millis(500);
/// Readings kept; older ones go when there are more.
const KEPT_MAX: usize = 1024;

/// One reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Time, memory, descriptors.
    pub usage: Usage,
    /// Limit of descriptors; 0: unknown.
    pub fds_max: u64,
    /// The file of its program is another one now.
    pub binary_changed: bool,
}

/// Remembers readings by process and life.
#[derive(Debug, Default)]
pub struct Sampler {
    kept: Mutex<HashMap<(u32, u64), (Instant, Sample)>>,
}

impl Sampler {
    /// Reads a process; nothing for pid 0. `incarnation` tells lives of one number apart.
    #[must_use]
    pub fn of(&self, pid: u32, incarnation: u64, exe: &Path) -> Sample {
        if pid == 0 {
            return Sample::default();
        }
        let Ok(mut kept) = self.kept.lock() else { return read(pid, exe) };
        match kept.get(&(pid, incarnation)) {
            Some((at, sample)) if at.elapsed() < FRESH => *sample,
            _ => {
                if kept.len() >= KEPT_MAX {
                    kept.retain(|_, (at, _)| at.elapsed() < FRESH);
                }
                let sample = read(pid, exe);
                kept.insert((pid, incarnation), (Instant::now(), sample));
                sample
            }
        }
    }
}

fn read(pid: u32, exe: &Path) -> Sample {
    let file = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let (running, installed) = (file(Path::new(&format!("/proc/{pid}/exe"))), file(exe));
    // Unreadable is not changed: a process may be ending.
    let binary_changed = running.is_some() && installed.is_some() && running != installed;
    Sample { usage: usage(pid), fds_max: fds_max(pid), binary_changed }
}

/// Soft limit of descriptors.
fn fds_max(pid: u32) -> u64 {
    let limits = proc::text(pid, "limits").unwrap_or_default();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_replaced_program_and_remembers() {
        let me = std::process::id();
        let own = fs::read_link("/proc/self/exe").unwrap();
        let sampler = Sampler::default();
        assert!(!sampler.of(me, 1, &own).binary_changed);
        assert!(sampler.of(me, 2, Path::new("/bin/sh")).binary_changed);
        assert!(!sampler.of(me, 1, Path::new("/bin/sh")).binary_changed, "still fresh");
        assert!(sampler.of(me, 1, &own).fds_max > 0);
    }
}
