//! Folders, the supervisor's own lock, the record of its children, and what a killed supervisor left behind.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use wk_types::{Daemon, InstanceName};

use crate::limits::{LEFTOVER_DEADLINE, LEFTOVER_DEADLINE_CLUSTER};

/// Version of the record file.
const STATE_VERSION: u32 = 1;

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
    state: PathBuf,
    epoch: PathBuf,
    /// Dropped last: whoever gets them may unlink and bind what we made.
    _locks: [File; 2],
}

/// One child, as written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Instance.
    pub name: String,
    /// Spawn counter.
    pub generation: u64,
    /// Process.
    pub pid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// Random identity.
    pub incarnation: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    version: u32,
    boot_id: String,
    children: Vec<Record>,
}

impl Runtime {
    /// Makes the folders and takes the locks: one beside the sockets, one beside the data.
    ///
    /// # Errors
    /// [`RuntimeError::Held`] names the other supervisor.
    pub fn open(dir: &Path, data: &Path, logs: &Path) -> Result<Self, RuntimeError> {
        let own = data.join("supervisor");
        for path in [dir, &dir.join("h"), &dir.join("s"), &dir.join("l"), &own, logs] {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
        }
        let owner = fs::metadata(dir).map_err(io_error("look at", dir))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(RuntimeError::Owner(dir.to_path_buf()));
        }
        let locks = [take_lock(&dir.join("lock"))?, take_lock(&own.join("lock"))?];
        Ok(Self { dir: dir.to_path_buf(), state: dir.join("state"), epoch: own.join("epoch"), _locks: locks })
    }

    /// Removes the sockets of earlier generations. To be called when none of their processes is left.
    ///
    /// # Errors
    /// A folder cannot be read or a file not removed.
    pub fn clean(&self) -> Result<(), RuntimeError> {
        for folder in ["h", "s"] {
            let path = self.dir.join(folder);
            for entry in fs::read_dir(&path).map_err(io_error("read", &path))?.flatten() {
                fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// Writes down who runs, atomically.
    ///
    /// # Errors
    /// The runtime folder cannot be written.
    pub fn save(&self, children: Vec<Record>) -> Result<(), RuntimeError> {
        let state = State { version: STATE_VERSION, boot_id: boot_id(), children };
        let text = serde_json::to_vec(&state).map_err(|e| io_error("encode", &self.state)(e.into()))?;
        // Not synced: it is void after a reboot anyway.
        replace(&self.state, &text, false)
    }

    /// The epoch to begin with: above every one that was ever published.
    ///
    /// # Errors
    /// The file is there and cannot be read as a number: a lower epoch would be refused by the cluster, so this is not guessed.
    pub fn next_epoch(&self) -> Result<u64, RuntimeError> {
        let last = match fs::read_to_string(&self.epoch) {
            Ok(text) => text.trim().parse::<u64>().map_err(|e| io_error("understand", &self.epoch)(io::Error::other(e)))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(io_error("read", &self.epoch)(e)),
        };
        self.save_epoch(last + 1)?;
        Ok(last + 1)
    }

    /// Makes an epoch durable; to be called before it is published.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn save_epoch(&self, epoch: u64) -> Result<(), RuntimeError> {
        replace(&self.epoch, format!("{epoch}\n").as_bytes(), true)
    }

    /// Ends what a killed supervisor of this node left running, workers first, the store last. Returns who was ended.
    #[must_use]
    pub fn end_leftovers(&self) -> Vec<String> {
        let found = leftovers(&self.dir, &self.recorded());
        let cluster = |l: &&Leftover| l.name.daemon == Daemon::Cluster;
        end_all(found.iter().filter(|l| !cluster(l)), LEFTOVER_DEADLINE);
        end_all(found.iter().filter(cluster), LEFTOVER_DEADLINE_CLUSTER);
        found.iter().map(|l| format!("{} (pid {})", l.name, l.pid)).collect()
    }

    /// Children of the record that are still the same processes; nothing of another boot or version.
    fn recorded(&self) -> Vec<Record> {
        let state = fs::read(&self.state).ok().and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let state = state.filter(|s| s.version == STATE_VERSION && s.boot_id == boot_id());
        let same = |r: &Record| crate::process::start_time(r.pid) == Some(r.start_time);
        state.map_or_else(Vec::new, |s| s.children.into_iter().filter(same).collect())
    }
}

fn take_lock(path: &Path) -> Result<File, RuntimeError> {
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io_error("open", path))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).map_err(io_error("write", path))?;
            writeln!(file, "pid {}", std::process::id()).map_err(io_error("write", path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = if read.is_ok() && !holder.trim().is_empty() { holder.trim().to_owned() } else { "pid unknown".to_owned() };
            Err(RuntimeError::Held { path: path.to_path_buf(), holder })
        }
        Err(TryLockError::Error(e)) => Err(io_error("lock", path)(e)),
    }
}

fn replace(path: &Path, bytes: &[u8], sync: bool) -> Result<(), RuntimeError> {
    let next = path.with_extension("new");
    let mut file = File::create(&next).map_err(io_error("create", &next))?;
    file.write_all(bytes).and_then(|()| if sync { file.sync_all() } else { Ok(()) }).map_err(io_error("write", &next))?;
    fs::rename(&next, path).map_err(io_error("replace", path))?;
    if !sync {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|f| f.sync_all()).map_err(io_error("sync", folder))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

struct Leftover {
    name: InstanceName,
    pid: u32,
}

/// Processes that carry this node's marker in their environment, or stand in the record.
fn leftovers(dir: &Path, recorded: &[Record]) -> Vec<Leftover> {
    let marker = format!("WK_RUNTIME={}", dir.display());
    let mut found: Vec<Leftover> = recorded.iter().filter_map(|r| Some(Leftover { name: r.name.parse().ok()?, pid: r.pid })).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(environ) = fs::read(process.path().join("environ")) else { continue };
        let vars: Vec<&[u8]> = environ.split(|b| *b == 0).collect();
        let instance = vars.iter().find_map(|v| v.strip_prefix(b"WK_INSTANCE=")).and_then(|v| std::str::from_utf8(v).ok());
        let name = instance.and_then(|i| i.split('/').next()).and_then(|n| n.parse::<InstanceName>().ok());
        if let Some(name) = name.filter(|_| vars.contains(&marker.as_bytes()) && found.iter().all(|f| f.pid != pid)) {
            found.push(Leftover { name, pid });
        }
    }
    found
}

/// SIGTERM, a deadline, SIGKILL to the group. Not our children: their end is seen through the pidfd.
fn end_all<'a>(leftovers: impl Iterator<Item = &'a Leftover>, within: Duration) {
    let until = Instant::now() + within;
    let mut open = Vec::new();
    for leftover in leftovers {
        let Some(pid) = i32::try_from(leftover.pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // CONT as well, so that a stopped one can act on TERM. One that is gone meanwhile needs neither.
        if [Signal::TERM, Signal::CONT].into_iter().all(|s| pidfd_send_signal(&pidfd, s).is_ok()) {
            open.push((pid, pidfd));
        }
    }
    for (pid, pidfd) in open {
        if !wait_gone(&pidfd, until.saturating_duration_since(Instant::now())) {
            // The leader still lives, so its number names its own group.
            let group = kill_process_group(pid, Signal::KILL);
            let leader = pidfd_send_signal(&pidfd, Signal::KILL);
            tracing::warn!(pid = pid.as_raw_nonzero().get(), killed = group.is_ok() || leader.is_ok(), "leftover killed at its deadline");
            wait_gone(&pidfd, LEFTOVER_DEADLINE);
        }
    }
}

fn wait_gone(pidfd: &impl std::os::fd::AsFd, within: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, timeout), Ok(n) if n > 0)
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

    #[test]
    fn record_of_another_boot_or_process_is_void() {
        let base = tempfile::tempdir().unwrap();
        let runtime = Runtime::open(&base.path().join("run"), &base.path().join("data"), &base.path().join("logs")).unwrap();
        let record = Record { name: "cluster@0".into(), generation: 1, pid: std::process::id(), start_time: 1, incarnation: 5 };
        runtime.save(vec![record.clone()]).unwrap();
        assert!(runtime.recorded().is_empty(), "start time differs");
        let start_time = crate::process::start_time(std::process::id()).unwrap();
        runtime.save(vec![Record { start_time, ..record }]).unwrap();
        assert_eq!(runtime.recorded().len(), 1);
        fs::write(base.path().join("run/state"), "{").unwrap();
        assert!(runtime.recorded().is_empty(), "torn file");
    }
}
