//! What a killed supervisor left running: found, checked, taken over or ended.
//!
//! A number in a record is believed only when the process behind it, held by a pidfd, has the start time of the record and carries the
//! marker (`WK_INSTANCE`, `WK_RUNTIME`) in its environment. Its health socket confirms it once more, by the nonce.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use wk_types::{Daemon, InstanceName};

use crate::cause::Exit;
use crate::ledger::{Intent, Saved};
use crate::leftovers::{Patience, end_all};
use crate::limits::INTENT_WAIT;
use crate::process::{Process, start_time, state_and_session};
use crate::{proc, sys};

/// The marker in a process's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Instance.
    pub name: InstanceName,
    /// Spawn counter.
    pub generation: u64,
    /// Random identity.
    pub incarnation: u64,
}

impl Marker {
    /// The text of `WK_INSTANCE`.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}/{}/{:016x}", self.name, self.generation, self.incarnation)
    }

    /// Reads the text of `WK_INSTANCE`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let marker = Self {
            name: parts.next()?.parse().ok()?,
            generation: parts.next()?.parse().ok()?,
            incarnation: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(marker)
    }
}

/// A process that was taken over.
#[derive(Debug)]
pub struct Found {
    /// Who it is.
    pub marker: Marker,
    /// Number.
    pub pid: u32,
    /// Clock ticks since boot; 0: not asked for yet.
    pub start_time: u64,
    /// Handle.
    pub process: Process,
    /// In the record. False: found by its marker alone.
    pub recorded: bool,
}

/// What became of a predecessor's processes.
#[derive(Debug, Default)]
pub struct Survey {
    /// Alive and ours.
    pub alive: Vec<Found>,
    /// Recorded, but dead by now.
    pub dead: Vec<(InstanceName, Exit)>,
    /// What was ended because it belongs to nobody, in words.
    pub ended: Vec<String>,
}

/// A process that carries the marker of a node.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) marker: Marker,
    /// Runtime folder of its node.
    home: PathBuf,
    /// Leads its session: a daemon, no helper of one.
    pub(crate) leads: bool,
}

/// What a daemon's process executes.
#[derive(Debug, Clone)]
pub struct Program {
    /// Path.
    pub binary: PathBuf,
    /// Arguments after it.
    pub args: Vec<String>,
}

/// All processes of the machine that carry a marker, as far as we may see them: each environment costs 15 µs, so one look serves all who ask.
#[derive(Debug)]
pub struct Census(Vec<Seen>);

impl Census {
    /// Looks.
    #[must_use]
    pub fn take() -> Self {
        let seen = |pid| {
            let vars = environment(pid).ok()?;
            let home = PathBuf::from(OsStr::from_bytes(vars.value("WK_RUNTIME")?));
            Some(Seen { pid, marker: vars.marker()?, home, leads: state_and_session(pid)?.1 == pid })
        };
        Self(processes().filter_map(seen).collect())
    }

    /// Runtime folders of the nodes they belong to.
    #[must_use]
    pub fn homes(&self) -> BTreeSet<&Path> {
        self.0.iter().map(|s| s.home.as_path()).collect()
    }

    fn of(self, dir: &Path) -> impl Iterator<Item = Seen> {
        self.0.into_iter().filter(move |s| s.home == dir)
    }
}

/// Finds the processes of the node whose runtime folder is `dir`: by record, then by marker. One that no daemon of `programs` would be is
/// ended: the configuration has changed meanwhile. `census`: a look since which nobody can have begun a process of this node. `kept`: handles
/// that systemd kept, which know the exit status of the dead.
#[must_use]
pub fn survey(
    dir: &Path,
    census: Option<Census>,
    saved: Option<&Saved>,
    programs: &BTreeMap<Daemon, Program>,
    kept: &BTreeMap<InstanceName, OwnedFd>,
    patience: &Patience<'_>,
) -> Survey {
    let mut survey = Survey::default();
    if let Some(saved) = saved {
        await_intents(dir, &saved.intents);
        for (instance, started) in saved.instances.values() {
            let Some(run) = &instance.run else { continue };
            let marker = Marker { name: instance.name, generation: instance.generation, incarnation: run.incarnation };
            match verify(dir, &marker, run.pid, Some(*started)) {
                Ok(_) if !programs.get(&instance.name.daemon).is_some_and(|p| has_args(run.pid, &p.args)) => {
                    survey.dead.push((instance.name, Exit::Unknown));
                }
                Ok(process) => {
                    survey.alive.push(Found { marker, pid: run.pid, start_time: *started, process, recorded: true });
                }
                Err(Exit::Unknown) => {
                    let status = kept.get(&instance.name).and_then(|fd| sys::exit_status(fd.as_fd()));
                    survey.dead.push((instance.name, status.map_or(Exit::Unknown, Exit::from)));
                }
                Err(exit) => survey.dead.push((instance.name, exit)),
            }
        }
    }
    let marked = census.unwrap_or_else(Census::take).of(dir);
    let mut strays: Vec<Seen> = marked.filter(|s| survey.alive.iter().all(|a| a.marker != s.marker)).collect();
    // Of two generations without a record the newer one is what the predecessor wanted.
    strays.sort_by_key(|s| (s.marker.name, std::cmp::Reverse(s.marker.generation)));
    let mut left = Vec::new();
    for stray in strays {
        let free = survey.alive.iter().all(|a| a.marker.name != stray.marker.name);
        let plausible = stray.leads
            && free
            && programs.get(&stray.marker.name.daemon).is_some_and(|p| runs(stray.pid, &p.binary) && has_args(stray.pid, &p.args));
        match verify(dir, &stray.marker, stray.pid, None) {
            Ok(process) if plausible => {
                let start_time = start_time(stray.pid).unwrap_or(0);
                survey.alive.push(Found { marker: stray.marker, pid: stray.pid, start_time, process, recorded: false });
            }
            Ok(process) => left.push((stray, process)),
            Err(_) => {}
        }
    }
    survey.ended = end_all(left, patience);
    survey.dead.retain(|(name, _)| survey.alive.iter().all(|a| a.marker.name != *name));
    survey
}

/// Ends every process of the node whose runtime folder is `dir`. Returns who was ended, in words.
#[must_use]
pub fn end_leftovers(dir: &Path, patience: &Patience<'_>) -> Vec<String> {
    let handled = |s: Seen| verify(dir, &s.marker, s.pid, None).ok().map(|process| (s, process));
    end_all(Census::take().of(dir).filter_map(handled).collect(), patience)
}

/// Takes the handle first: only then do number, start time and marker speak of one and the same process.
fn verify(dir: &Path, marker: &Marker, pid: u32, started: Option<u64>) -> Result<Process, Exit> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Exit::Unknown)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|_| Exit::Unknown)?;
    if started.is_some_and(|s| start_time(pid) != Some(s)) {
        return Err(Exit::Unknown);
    }
    let process = Process::adopted(raw, pidfd, &marker.identity());
    if matches!(state_and_session(pid), None | Some(('Z' | 'X', _))) {
        return Err(process.exit());
    }
    let same = match environment(pid) {
        Ok(vars) => vars.belongs_to(dir) && vars.marker().as_ref() == Some(marker),
        // Start time and boot agree; what hides its environment is asked for the nonce on its health socket anyway.
        Err(e) => started.is_some() && e.kind() == std::io::ErrorKind::PermissionDenied,
    };
    if same { Ok(process) } else { Err(Exit::Unknown) }
}

struct Environment(Vec<u8>);

impl Environment {
    fn value(&self, key: &str) -> Option<&[u8]> {
        self.0.split(|b| *b == 0).find_map(|v| v.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    fn belongs_to(&self, dir: &Path) -> bool {
        self.value("WK_RUNTIME") == Some(dir.as_os_str().as_encoded_bytes())
    }

    fn marker(&self) -> Option<Marker> {
        Marker::parse(std::str::from_utf8(self.value("WK_INSTANCE")?).ok()?)
    }
}

fn environment(pid: u32) -> std::io::Result<Environment> {
    proc::read(pid, "environ").map(Environment)
}

/// Numbers of all processes.
fn processes() -> impl Iterator<Item = u32> {
    let list = fs::read_dir("/proc").into_iter().flatten().flatten();
    list.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok())
}

/// True when `pid` executes this binary, or the one that lay there before an upgrade.
fn runs(pid: u32, binary: &Path) -> bool {
    let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let exe = exe.to_string_lossy();
    let wanted = fs::canonicalize(binary).unwrap_or_else(|_| binary.to_path_buf());
    Path::new(exe.strip_suffix(" (deleted)").unwrap_or(&exe)) == wanted
}

fn has_args(pid: u32, args: &[String]) -> bool {
    let line = proc::read(pid, "cmdline").unwrap_or_default();
    let text = String::from_utf8_lossy(&line);
    text.trim_end_matches('\0').split('\0').skip(1).eq(args.iter().map(String::as_str))
}

/// A fork that was begun and not written down has not executed its binary yet, and shows no marker: its lock tells that it is there.
fn await_intents(dir: &Path, intents: &[Intent]) {
    let until = Instant::now() + INTENT_WAIT;
    for intent in intents {
        let shown =
            || Census::take().of(dir).any(|s| s.marker.name.to_string() == intent.name && s.marker.incarnation == intent.incarnation);
        while lock_is_held(&dir.join("l").join(format!("{}.lock", intent.name))) && !shown() && Instant::now() < until {
            std::thread::park_timeout(INTENT_WAIT / 100);
        }
    }
}

fn lock_is_held(path: &Path) -> bool {
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { return false };
    matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock))
}

/// Kills every process with this marker, each through a handle. Returns how many.
#[must_use]
pub fn kill_marked(identity: &str) -> usize {
    processes().filter(|pid| carries(*pid, identity) && kill(*pid, || carries(*pid, identity))).count()
}

/// True when the process has this marker.
#[must_use]
pub fn carries(pid: u32, identity: &str) -> bool {
    environment(pid).is_ok_and(|v| v.value("WK_INSTANCE") == Some(identity.as_bytes()))
}

/// SIGKILL, if it is still the process that was meant.
fn kill(pid: u32, still: impl Fn() -> bool) -> bool {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    pidfd_open(raw, PidfdFlags::empty()).is_ok_and(|pidfd| still() && pidfd_send_signal(&pidfd, Signal::KILL).is_ok())
}

/// A copy of the socket number `inode` out of one of these processes. Needs the right to trace it (same user, and no stricter rule of the
/// system); `None` leaves the socket where it is.
#[must_use]
pub fn socket_of<'a>(holders: impl Iterator<Item = &'a Found>, inode: u64) -> Option<OwnedFd> {
    let wanted = format!("socket:[{inode}]");
    holders.into_iter().find_map(|found| {
        let fds = fs::read_dir(format!("/proc/{}/fd", found.pid)).ok()?.flatten();
        let named = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy() == wanted));
        let numbers = named.filter_map(|fd| fd.file_name().to_str()?.parse::<i32>().ok());
        let mut copies = numbers.filter_map(|n| match pidfd_getfd(found.process.pidfd(), n, PidfdGetfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(err) => {
                tracing::warn!(pid = found.pid, %err, "listener cannot be copied from its daemon");
                None
            }
        });
        // The number may name another file by now: only the socket itself says who it is.
        copies.find(|fd| socket_inode(fd) == Some(inode))
    })
}

/// Number of a socket, as `/proc/<pid>/fd` shows it.
#[must_use]
pub fn socket_inode(fd: &impl AsFd) -> Option<u64> {
    rustix::fs::fstat(fd).ok().map(|stat| stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_back_and_nothing_else_does() {
        let marker = Marker { name: "worker.user@3".parse().unwrap(), generation: 7, incarnation: 0xab };
        assert_eq!(Marker::parse(&marker.identity()), Some(marker));
        for text in ["", "worker.user@3", "worker.user@3/7", "worker.user@3/7/xyz", "x@1/1/1", "api@0/1/1/1"] {
            assert_eq!(Marker::parse(text), None, "{text}");
        }
    }

    /// systemd keeps the handle; the process was reaped by somebody else while nobody of us lived.
    #[test]
    fn row_43_a_kept_handle_tells_how_a_daemon_died_meanwhile() {
        use crate::table::{Instance, Run};
        if !sys::has_pidfd_info() {
            return;
        }
        let mut child =
            std::process::Command::new("sh").args(["-c", "read line; exit 42"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let (pid, started) = (child.id(), start_time(child.id()).unwrap());
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(42));
        let name: InstanceName = "api@0".parse().unwrap();
        let run = Some(Run::new(pid, 1, std::time::Duration::ZERO, std::time::Duration::ZERO));
        let mut saved = Saved::default();
        saved.instances.insert(name, (Instance { generation: 1, run, ..Instance::new(name) }, started));
        let dir = tempfile::tempdir().unwrap();
        let patience = Patience { hard: BTreeMap::new(), working: &|| {} };
        let dead = |kept| survey(dir.path(), None, Some(&saved), &BTreeMap::new(), &kept, &patience).dead;
        assert_eq!(dead(BTreeMap::from([(name, handle)])), [(name, Exit::Code(42))]);
        assert_eq!(dead(BTreeMap::new()), [(name, Exit::Unknown)], "without it nobody knows");
    }

    #[test]
    fn row_36_a_number_alone_proves_nothing() {
        let marker = Marker { name: "api@0".parse().unwrap(), generation: 1, incarnation: 1 };
        let me = std::process::id();
        let dir = Path::new("/nowhere");
        assert_eq!(verify(dir, &marker, me, Some(1)).err(), Some(Exit::Unknown), "start time");
        assert_eq!(verify(dir, &marker, me, start_time(me)).err(), Some(Exit::Unknown), "marker");
        assert_eq!(verify(dir, &marker, u32::MAX, None).err(), Some(Exit::Unknown), "number");
    }

    #[test]
    fn copies_a_listener_out_of_a_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = socket_inode(&listener).unwrap();
        let pid = std::process::id();
        let raw = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let marker = Marker { name: "api@0".parse().unwrap(), generation: 1, incarnation: 1 };
        let process = Process::adopted(raw, pidfd_open(raw, PidfdFlags::empty()).unwrap(), "");
        let me = [Found { marker, pid, start_time: 0, process, recorded: true }];
        let copy = std::net::TcpListener::from(socket_of(me.iter(), inode).unwrap());
        assert_eq!(copy.local_addr().unwrap(), listener.local_addr().unwrap());
        assert!(socket_of(me.iter(), u64::MAX).is_none());
    }
}
