//! Logs that grow while daemons write them: what is over the bound moves from the head of a log into `<name>.log.1`.
//!
//! A daemon has its log open for appending, so the file must stay and shrink. Where the file system can take blocks out of the head of a file
//! (ext4, XFS), no line is lost: what was copied is exactly what is taken out, what is written meanwhile stays behind it. Elsewhere the log is
//! copied to its end and emptied; lines that are written between these two steps are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, fallocate};
use tokio::time::{MissedTickBehavior, interval};
use wk_types::InstanceName;

use crate::limits::LOG_LOOK_EVERY;
use crate::metrics::Counters;

/// Copies of what a fast writer has added since the last one, before a log is emptied all the same.
const ROUNDS_MAX: u32 = 8;

/// Bytes that were taken from the head of each log. A position in a log is counted from its first byte ever, so it outlives a cut.
#[derive(Debug, Default)]
pub struct Cuts {
    removed: Mutex<BTreeMap<PathBuf, u64>>,
}

impl Cuts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, u64>> {
        // Every holder leaves the map whole.
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a log while nothing is cut: `read` gets the bytes that are gone.
    pub fn hold<T>(&self, path: &Path, read: impl FnOnce(u64) -> T) -> T {
        let removed = self.lock();
        read(removed.get(path).copied().unwrap_or(0))
    }
}

/// Keeps the logs of a folder below `max` bytes. Never returns.
pub async fn keep(dir: PathBuf, max: u64, cuts: Arc<Cuts>, counters: Arc<Counters>) {
    let mut look = interval(LOG_LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = BTreeSet::new();
    loop {
        look.tick().await;
        for path in over(&dir, max) {
            let (of, cuts) = (path.clone(), cuts.clone());
            let done = tokio::task::spawn_blocking(move || rotate(&of, max, &cuts)).await;
            match done.map_err(io::Error::other).and_then(|done| done) {
                Ok(()) => {
                    counters.log_rotations.inc();
                    failed.remove(&path);
                }
                // Once: the warning itself goes to a log.
                Err(err) if failed.insert(path.clone()) => tracing::warn!(%err, path = %path.display(), "log not rotated"),
                Err(_) => {}
            }
        }
    }
}

/// Logs of daemons and our own that are over the bound.
fn over(dir: &Path, max: u64) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".log"));
        name.is_some_and(|name| name == "supervisor" || name.parse::<InstanceName>().is_ok())
    };
    let list = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    list.filter(ours).filter(|path| fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() > max)).collect()
}

/// Moves the head of a log into `<name>.log.1`, at most `max` bytes of it; older ones go. A full disk gives up the old file first, then the copy.
///
/// # Errors
/// The log cannot be opened, read or cut.
pub fn rotate(path: &Path, max: u64, cuts: &Cuts) -> io::Result<()> {
    let log = File::options().read(true).write(true).open(path)?;
    let meta = log.metadata()?;
    // Whole blocks, and never all of them: the kernel takes nothing out that touches the end.
    let block = meta.blksize().max(1);
    let head = meta.len().saturating_sub(1) / block * block;
    if head == 0 {
        return Ok(());
    }
    let (old, new) = (beside(path, ".1"), beside(path, ".1.new"));
    let from = head.saturating_sub(max);
    let mut copied = copy(&log, from, head, &new);
    if copied.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::StorageFull) {
        // Neither need be there.
        drop((fs::remove_file(&old), fs::remove_file(&new)));
        copied = copy(&log, from, head, &new);
    }
    let kept = match copied {
        Ok(kept) => {
            fs::rename(&new, &old)?;
            Some(kept)
        }
        // A log that fills the disk is worse than lines that are lost.
        Err(err) if err.kind() == io::ErrorKind::StorageFull => {
            drop(fs::remove_file(&new));
            None
        }
        Err(err) => return Err(err),
    };
    let mut removed = cuts.lock();
    let gone = match fallocate(&log, FallocateFlags::COLLAPSE_RANGE, 0, head) {
        Ok(()) => head,
        Err(_) => empty(&log, head, kept)?,
    };
    *removed.entry(path.to_path_buf()).or_default() += gone;
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn copy(mut log: &File, from: u64, to: u64, into: &Path) -> io::Result<File> {
    let mut kept = File::options().create(true).truncate(true).write(true).open(into)?;
    kept.set_permissions(log.metadata()?.permissions())?;
    log.seek(SeekFrom::Start(from))?;
    io::copy(&mut log.take(to - from), &mut kept)?;
    Ok(kept)
}

/// Copies what came after `copied`, until nothing comes, and empties the log. Returns how much that was in all.
fn empty(mut log: &File, mut copied: u64, kept: Option<File>) -> io::Result<u64> {
    for _ in 0..ROUNDS_MAX {
        let len = log.metadata()?.len();
        if len == copied {
            break;
        }
        if let Some(mut kept) = kept.as_ref() {
            log.seek(SeekFrom::Start(copied))?;
            io::copy(&mut log.take(len - copied), &mut kept)?;
        }
        copied = len;
    }
    log.set_len(0)?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn append(path: &Path) -> File {
        File::options().create(true).append(true).open(path).unwrap()
    }

    fn numbers(text: &[u8]) -> Vec<u64> {
        String::from_utf8_lossy(text).lines().map(|l| l.trim_start_matches('0').parse().unwrap_or(0)).collect()
    }

    /// Where blocks can be taken out: a writer never stops, every line is in one of the two files, once and in order.
    #[test]
    fn no_line_of_a_log_that_is_being_written_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api@0.log");
        let (mut log, stop, cuts) = (append(&path), AtomicBool::new(false), Cuts::default());
        let (mut stream, mut cut) = (Vec::new(), 0);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) || n < 1000 {
                    writeln!(log, "{n:040}").unwrap();
                    n += 1;
                }
                n
            });
            for _ in 0..50 {
                let before = cuts.hold(&path, |gone| gone);
                while fs::metadata(&path).unwrap().len() < 16 << 10 {
                    std::thread::yield_now();
                }
                rotate(&path, 1 << 30, &cuts).unwrap();
                let moved = fs::read(dir.path().join("api@0.log.1")).unwrap();
                cut = cuts.hold(&path, |gone| gone);
                assert_eq!(moved.len() as u64, cut - before);
                stream.extend(moved);
            }
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        });
        stream.extend(fs::read(&path).unwrap());
        if numbers(&stream).len() as u64 != written && !collapses(dir.path()) {
            println!("skipped: this file system cannot take blocks out of a file");
            return;
        }
        assert_eq!(numbers(&stream), (0..written).collect::<Vec<_>>());
        assert!(cut > 0 && !dir.path().join("api@0.log.1.new").exists());
    }

    fn collapses(dir: &Path) -> bool {
        let file = File::options().create_new(true).read(true).write(true).open(dir.join("probe")).unwrap();
        file.set_len(1 << 20).unwrap();
        fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 64 << 10).is_ok()
    }

    /// tmpfs cannot take blocks out: the log is copied to its end and emptied, and goes on.
    #[test]
    fn elsewhere_the_log_is_copied_and_emptied() {
        let shm = Path::new("/dev/shm");
        let Ok(dir) = tempfile::tempdir_in(shm) else {
            println!("skipped: no /dev/shm");
            return;
        };
        assert!(!collapses(dir.path()), "/dev/shm is a tmpfs");
        let (path, cuts) = (dir.path().join("api@0.log"), Cuts::default());
        let mut log = append(&path);
        let text = "x".repeat(9_999) + "\n";
        log.write_all(text.as_bytes()).unwrap();
        rotate(&path, 1 << 20, &cuts).unwrap();
        log.write_all(b"after\n").unwrap();
        assert_eq!(
            (fs::read_to_string(dir.path().join("api@0.log.1")).unwrap(), fs::read_to_string(&path).unwrap().as_str()),
            (text, "after\n")
        );
        assert_eq!(cuts.hold(&path, |gone| gone), 10_000);
    }

    #[test]
    fn only_logs_over_the_bound_are_touched_and_the_old_file_is_bounded_too() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![b'a'; bytes]).unwrap();
        for (name, bytes) in [
            ("api@0.log", 100_000),
            ("gateway@0.log", 10),
            ("supervisor.log", 100_000),
            ("events.jsonl", 100_000),
            ("api@0.log.1", 100_000),
        ] {
            file(name, bytes);
        }
        let mut found = over(dir.path(), 50_000);
        found.sort();
        assert_eq!(found, [dir.path().join("api@0.log"), dir.path().join("supervisor.log")]);
        let cuts = Cuts::default();
        rotate(&found[0], 50_000, &cuts).unwrap();
        assert_eq!(fs::metadata(dir.path().join("api@0.log.1")).unwrap().len(), 50_000, "the newest of the head");
        assert!(
            over(dir.path(), 50_000).len() == 1
                && fs::metadata(&found[0]).unwrap().len() <= 4096.max(fs::metadata(&found[0]).unwrap().blksize())
        );
        rotate(&dir.path().join("gateway@0.log"), 1, &cuts).unwrap();
        assert_eq!(fs::metadata(dir.path().join("gateway@0.log")).unwrap().len(), 10, "less than a block stays");
    }
}
