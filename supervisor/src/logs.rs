//! Logs of the daemons and our own: their last lines, and their bound.

mod rotate;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

pub use rotate::{Cuts, keep, rotate};

use crate::limits::{LOG_LAST_BYTES, LOG_LINES_MAX, LOG_TAIL_BYTES, LOG_TAIL_LINES};

/// The last [`LOG_TAIL_LINES`] lines that were written after `from` bytes, counted from the first byte ever. Empty when the file cannot be read.
#[must_use]
pub fn tail(path: &Path, from: u64, cuts: &Cuts) -> Vec<String> {
    cuts.hold(path, |gone| read_last(path, from.saturating_sub(gone), LOG_TAIL_LINES, LOG_TAIL_BYTES)).unwrap_or_default()
}

/// The last `lines` lines, at most [`LOG_LINES_MAX`]. Empty when the file cannot be read.
#[must_use]
pub fn last(path: &Path, lines: usize) -> Vec<String> {
    read_last(path, 0, lines.min(LOG_LINES_MAX), LOG_LAST_BYTES).unwrap_or_default()
}

/// Control characters of a daemon must not reach the terminal of who reads this.
#[must_use]
pub fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

fn read_last(path: &Path, from: u64, lines: usize, bytes_max: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let start = from.max(len.saturating_sub(bytes_max)).min(len);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let skip = all.len().saturating_sub(lines);
    Ok(all.into_iter().skip(skip).map(printable).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn gives_the_last_lines_of_this_generation_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let old = "old\n".repeat(3);
        let new: String = (0..50).map(|n| format!("line {n}\x1b[0m\n")).collect();
        fs::write(&path, format!("{old}{new}")).unwrap();
        let cuts = Cuts::default();
        let lines = tail(&path, old.len() as u64, &cuts);
        assert_eq!(lines.len(), LOG_TAIL_LINES);
        assert_eq!(lines[19], "line 49[0m");
        assert_eq!(tail(&path, old.len() as u64 + new.len() as u64 + 100, &cuts), Vec::<String>::new());
        assert_eq!(tail(&dir.path().join("none"), 0, &cuts), Vec::<String>::new());
    }

    #[test]
    fn a_generation_begins_where_it_began_when_the_head_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cuts) = (dir.path().join("a.log"), Cuts::default());
        let old = "an old line\n".repeat(1000);
        fs::write(&path, &old).unwrap();
        rotate(&path, 1 << 20, &cuts).unwrap();
        let mut log = fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut log, b"new 1\nnew 2\n").unwrap();
        assert_eq!(tail(&path, old.len() as u64, &cuts), ["new 1", "new 2"]);
    }
}
