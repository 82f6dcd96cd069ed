//! Folders, the supervisor's own locks, and the epoch of the node table.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wk_node::EpochFile;

use crate::limits::BIRTH_WAIT;
use crate::process::state_and_session;

/// The record of our children.
const LEDGER: &str = "state";

/// The folders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A step on a path failed.
    #[error("{step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another supervisor runs here.
    #[error("another supervisor runs this node: {holder} ({} is locked)", path.display())]
    Held {
        /// Lock file.
        path: PathBuf,
        /// What it wrote: its pid.
        holder: String,
    },
    /// A folder that others could have made.
    #[error("{} belongs to another user", .0.display())]
    Owner(PathBuf),
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_path_buf();
    move |source| RuntimeError::Io { step, path, source }
}

/// The node's folders, held for the supervisor's life.
#[derive(Debug)]
pub struct Runtime {
    dir: PathBuf,
    epoch: EpochFile,
    /// Dropped last: whoever gets them may unlink and bind what we made.
    locks: [File; 2],
}

impl Runtime {
    /// Makes the folders and takes the locks: one beside the sockets, one beside the data.
    ///
    /// # Errors
    /// [`RuntimeError::Held`] names the other supervisor.
    pub fn open(dir: &Path, data: &Path, logs: &Path) -> Result<Self, RuntimeError> {
        let own = data.join("supervisor");
        Self::make_folders(dir)?;
        for path in [&own, logs] {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
        }
        let owner = fs::metadata(dir).map_err(io_error("look at", dir))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(RuntimeError::Owner(dir.to_path_buf()));
        }
        let locks = [take_lock(&dir.join("lock"))?, take_lock(&own.join("lock"))?];
        Ok(Self { dir: dir.to_path_buf(), epoch: EpochFile::of(data), locks })
    }

    /// Makes the folders of the sockets and instance locks.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn make_folders(dir: &Path) -> Result<(), RuntimeError> {
        // The base may hold nodes of others: its mode is nobody's secret. What lies below is ours alone.
        if let Some(base) = dir.parent() {
            fs::create_dir_all(base).map_err(io_error("create", base))?;
        }
        let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path));
        [dir, &dir.join("h"), &dir.join("s"), &dir.join("l")].into_iter().try_for_each(make)
    }

    /// The same folders after an exec, with the locks that were never let go.
    #[must_use]
    pub fn inherit(dir: &Path, data: &Path, locks: [File; 2]) -> Self {
        Self { dir: dir.to_path_buf(), epoch: EpochFile::of(data), locks }
    }

    /// The locks.
    #[must_use]
    pub fn locks(&self) -> [BorrowedFd<'_>; 2] {
        self.locks.each_ref().map(AsFd::as_fd)
    }

    /// Removes the sockets of earlier generations, all but those in `keep`. None of their processes may be left.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn clean(&self, keep: &[PathBuf]) -> Result<(), RuntimeError> {
        for folder in ["h", "s"] {
            let path = self.dir.join(folder);
            for entry in fs::read_dir(&path).map_err(io_error("read", &path))?.flatten() {
                if !keep.contains(&entry.path()) {
                    fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
                }
            }
        }
        Ok(())
    }

    /// Folder of the sockets.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// File of the record of our children.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.dir.join(LEDGER)
    }

    /// A record of children lies in this folder.
    #[must_use]
    pub fn has_ledger(dir: &Path) -> bool {
        dir.join(LEDGER).try_exists().is_ok_and(|there| there)
    }

    /// A supervisor that lives holds the lock of this folder; the child of a dead one may hold it for a moment.
    #[must_use]
    pub fn is_held(dir: &Path) -> bool {
        let Ok(mut lock) = OpenOptions::new().read(true).write(true).open(dir.join("lock")) else { return false };
        matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) && holder(&mut lock).is_none_or(lives)
    }

    /// The last epoch that was published; 0: none.
    ///
    /// # Errors
    /// The file is there and cannot be read as a number: a lower epoch would be refused by the cluster, so this is not guessed.
    pub fn epoch(&self) -> Result<u64, RuntimeError> {
        self.epoch.last().map_err(io_error("read", self.epoch.path()))
    }

    /// The epoch to begin with: above every one that was ever published.
    ///
    /// # Errors
    /// As [`Self::epoch`], or the data folder cannot be written.
    pub fn next_epoch(&self) -> Result<u64, RuntimeError> {
        self.epoch.next().map_err(io_error("use", self.epoch.path()))
    }

    /// Makes an epoch durable; to be called before it is published.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn save_epoch(&self, epoch: u64) -> Result<(), RuntimeError> {
        self.epoch.save(epoch).map_err(io_error("replace", self.epoch.path()))
    }
}

fn take_lock(path: &Path) -> Result<File, RuntimeError> {
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io_error("open", path))?;
    let until = Instant::now() + BIRTH_WAIT;
    loop {
        let holder = match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => holder(&mut file),
            Err(TryLockError::Error(e)) => return Err(io_error("lock", path)(e)),
        };
        // A supervisor that is killed between a fork and an exec leaves its lock to the child, which lets go of it in a moment.
        if holder.is_none_or(lives) || Instant::now() >= until {
            let holder = holder.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"));
            return Err(RuntimeError::Held { path: path.to_path_buf(), holder });
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    file.set_len(0).map_err(io_error("write", path))?;
    file.rewind().map_err(io_error("write", path))?;
    writeln!(file, "pid {}", std::process::id()).map_err(io_error("write", path))?;
    Ok(file)
}

/// Who wrote into a lock file that it has the lock.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
    text.trim().strip_prefix("pid ")?.parse().ok()
}

fn lives(pid: u32) -> bool {
    state_and_session(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_supervisor_is_refused_with_the_pid_of_the_first() {
        let base = tempfile::tempdir().unwrap();
        let (run, data, logs) = (base.path().join("run"), base.path().join("data"), base.path().join("logs"));
        let first = Runtime::open(&run, &data, &logs).unwrap();
        let error = Runtime::open(&run, &data, &logs).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        let other_dir = Runtime::open(&base.path().join("other"), &data, &logs).unwrap_err();
        assert!(matches!(other_dir, RuntimeError::Held { .. }), "same data, other sockets: {other_dir}");
        drop(first);
        Runtime::open(&run, &data, &logs).unwrap();
    }

    #[test]
    fn the_lock_of_a_dead_supervisor_is_waited_for() {
        let base = tempfile::tempdir().unwrap();
        let open = || Runtime::open(&base.path().join("run"), &base.path().join("data"), &base.path().join("logs"));
        let first = open().unwrap();
        // As a child of it does that has not executed its program yet.
        let child = first.locks().map(|lock| lock.try_clone_to_owned().unwrap());
        for path in ["run/lock", "data/supervisor/lock"] {
            fs::write(base.path().join(path), format!("pid {}", u32::MAX)).unwrap();
        }
        assert!(!Runtime::is_held(&base.path().join("run")));
        drop(first);
        let executes = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(30));
            drop(child);
        });
        open().unwrap();
        executes.join().unwrap();
        let locks = [base.path().join("run/lock"), base.path().join("data/supervisor/lock")].map(|p| fs::read_to_string(p).unwrap());
        assert_eq!(locks, [format!("pid {}\n", std::process::id()), format!("pid {}\n", std::process::id())]);
    }

    #[test]
    fn epoch_never_falls() {
        let base = tempfile::tempdir().unwrap();
        let open = || Runtime::open(&base.path().join("run"), &base.path().join("data"), &base.path().join("logs")).unwrap();
        let runtime = open();
        assert_eq!(runtime.next_epoch().unwrap(), 1);
        runtime.save_epoch(7).unwrap();
        drop(runtime);
        assert_eq!(open().next_epoch().unwrap(), 8);
        fs::write(base.path().join("data/supervisor/epoch"), "seven").unwrap();
        assert!(open().next_epoch().is_err());
    }
}
