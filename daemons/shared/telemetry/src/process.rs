//! Metrics of the process itself, read from `/proc` when the page is asked for.

use std::fmt::Write as _;
use std::fs;

/// Ticks per second of the times in `/proc/<pid>/stat`: fixed by the kernel's user interface (`USER_HZ`) on every platform we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Unit: bytes. Page size of x86-64 and of the arm64 kernels we run on.
const PAGE_BYTES: u64 = 4096;

/// Appends what can be read; what cannot is left out.
pub(crate) fn append(page: &mut String) {
    if let Some((cpu_s, threads)) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat) {
        line(page, "process_cpu_seconds_total", "counter", "User and system CPU time. Unit: s.", format_args!("{cpu_s:.2}"));
        line(page, "process_threads", "gauge", "Threads.", format_args!("{threads}"));
    }
    if let Some((virtual_bytes, resident_bytes)) = fs::read_to_string("/proc/self/statm").ok().as_deref().and_then(statm) {
        line(page, "process_virtual_memory_bytes", "gauge", "Virtual memory. Unit: bytes.", format_args!("{virtual_bytes}"));
        line(page, "process_resident_memory_bytes", "gauge", "Resident memory. Unit: bytes.", format_args!("{resident_bytes}"));
    }
    if let Ok(dir) = fs::read_dir("/proc/self/fd") {
        // The directory handle itself is one of the entries.
        let open = dir.count().saturating_sub(1);
        line(page, "process_open_fds", "gauge", "Open file descriptors.", format_args!("{open}"));
    }
    if let Some(max) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(max_fds) {
        line(page, "process_max_fds", "gauge", "Limit of open file descriptors.", format_args!("{max}"));
    }
}

fn line(page: &mut String, name: &str, kind: &str, help: &str, value: std::fmt::Arguments<'_>) {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}").expect("writing to a string cannot fail");
}

/// (CPU seconds, threads) of a `/proc/<pid>/stat` line. Fields are counted after the command name, which may hold anything.
fn stat(text: &str) -> Option<(f64, u64)> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let user: u32 = fields.get(11)?.parse().ok()?;
    let system: u32 = fields.get(12)?.parse().ok()?;
    let threads = fields.get(17)?.parse().ok()?;
    Some(((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND, threads))
}

/// (virtual bytes, resident bytes) of a `/proc/<pid>/statm` line.
fn statm(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace().map(|f| f.parse::<u64>().ok());
    Some((fields.next()?? * PAGE_BYTES, fields.next()?? * PAGE_BYTES))
}

/// Soft limit of open files in `/proc/<pid>/limits`.
fn max_fds(text: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix("Max open files"))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_an_awkward_name() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 99 1 1";
        assert_eq!(stat(line), Some((2.0, 3)));
        assert_eq!(statm("10 2 1 1 0 1 0"), Some((40960, 8192)));
        assert_eq!(max_fds("Max open files            1024                 4096                 files"), Some(1024));
        assert_eq!(stat("garbage"), None);
    }
}
