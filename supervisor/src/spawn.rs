//! Makes a process of one generation: listeners, sealed configuration, lock, log, and the program in a child of ours.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::Pid;
use socket2::{Domain, SockAddr, Socket, Type};
use wk_types::{Daemon, InstanceName};

use crate::adopt::Marker;
use crate::cause::Cause;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::fence;
use crate::limits::LINK_BACKLOG;
use crate::listeners::Copies;
use crate::spec::{DaemonSpec, Orphans};
use crate::sys::{EXECUTE, LaunchError, Program};

/// A fresh process.
#[derive(Debug)]
pub struct Spawned {
    /// Its number; unreaped until we reap it.
    pub pid: Pid,
    /// Handle for signals and for its end.
    pub pidfd: OwnedFd,
    /// Where the lines of this generation begin in its log as it is now.
    pub log_offset: u64,
    /// From the birth of the child until its program runs.
    pub exec: Duration,
}

/// Which generation of what, and its public listeners.
#[derive(Debug)]
pub struct Order<'a> {
    /// Node.
    pub config: &'a Config,
    /// Its text, see [`sealed`].
    pub sealed: &'a OwnedFd,
    /// Who, and as whom it answers on its health socket.
    pub marker: &'a Marker,
    /// Slots of its pool.
    pub slots: u16,
    /// Somebody else killed the generation before: nothing that it was doing is to blame.
    pub killed: bool,
    /// Public listeners by name.
    pub public: Copies,
    /// Where its control group is made.
    pub cgroups: Option<&'a Cgroups>,
}

/// Starts a generation.
///
/// # Errors
/// [`Cause::Spawn`]: permanent for a binary that cannot be executed, passing for everything a retry may cure.
pub fn spawn(mut order: Order<'_>) -> Result<Spawned, Cause> {
    let (config, name, generation) = (order.config, order.marker.name, order.marker.generation);
    let spec = config.spec.daemons.get(&name.daemon).ok_or_else(|| permanent(format!("{name}: not part of this node")))?;
    let exe = config.bin_dir.join(spec.binary);
    let lock = take_lock(&config.runtime_dir.join("l").join(format!("{name}.lock")))?;
    let (health, _) = config.sockets(name, generation);
    let mut fds: Vec<(String, OwnedFd)> = vec![
        ("config".into(), reader(order.sealed).map_err(|e| passing("configuration descriptor", &e))?),
        ("health".into(), listener(&health).map_err(|e| passing(&health.display().to_string(), &e))?),
        ("lock".into(), lock.into()),
    ];
    for daemon in config.spec.housed(name.daemon) {
        let (_, link) = config.sockets(InstanceName { daemon, ..name }, generation);
        fds.push((link_name(spec, daemon), listener(&link).map_err(|e| passing(&link.display().to_string(), &e))?));
    }
    fds.extend(std::mem::take(&mut order.public).into_iter().map(|(n, fd)| (n.to_owned(), fd)));
    let (log, log_offset) = open_log(&config.log_path(name)).or_else(|e| our_log(name, &e)).map_err(|e| passing("log", &e))?;
    let errors = log.try_clone().map_err(|e| passing("log", &e))?;
    let null = File::open("/dev/null").map_err(|e| passing("/dev/null", &e))?;
    let group = order.cgroups.map(|c| c.make(&c.leaf(name), &spec.limits)).transpose().map_err(|e| passing("control group", &e))?;
    let words = std::iter::once(exe.as_os_str()).chain(spec.args.iter().map(OsStr::new));
    let program = Program {
        path: c_string(exe.as_os_str())?,
        args: words.map(c_string).collect::<Result<_, _>>()?,
        env: environment(&order, &fds).into_iter().map(|(key, value)| c_string(&pair(key, &value))).collect::<Result<_, _>>()?,
        fds: (0..).zip([null.into(), log.into(), errors.into()].into_iter().chain(fds.into_iter().map(|(_, fd)| fd))).collect(),
        group,
        fence: fence::of(config, name.daemon).map_err(|e| passing("rules for writing", &e))?,
        files_max: spec.files_max,
        oom_score: spec.oom_score,
        // This is the main thread: it lives as long as the process.
        dies_with: (spec.orphans == Orphans::Kill).then(rustix::process::getpid),
    };
    let began = Instant::now();
    let (pid, pidfd) = program.launch().map_err(|e| launch_error(&exe, &e))?;
    Ok(Spawned { pid, pidfd, log_offset, exec: began.elapsed() })
}

/// What is inherited, and what the contract with a daemon names.
fn environment<'a>(order: &Order<'a>, fds: &[(String, OwnedFd)]) -> Vec<(&'a str, OsString)> {
    let inherited = order.config.child_env.iter().map(|(k, v)| (k.as_str(), OsString::from(v)));
    let killed = order.killed.then(|| ("WK_LAST_END", "killed".into()));
    let names: Vec<&str> = fds.iter().map(|(n, _)| n.as_str()).collect();
    let own = [
        ("WK_INSTANCE", order.marker.identity().into()),
        ("WK_RUNTIME", order.config.runtime_dir.clone().into_os_string()),
        ("WK_SLOTS", order.slots.to_string().into()),
        ("WK_LISTEN_FDS", fds.len().to_string().into()),
        ("WK_LISTEN_FDNAMES", names.join(":").into()),
    ];
    inherited.chain(killed).chain(own).collect()
}

fn pair(key: &str, value: &OsStr) -> OsString {
    let mut pair = OsString::from(key);
    pair.push("=");
    pair.push(value);
    pair
}

fn c_string(text: &OsStr) -> Result<CString, Cause> {
    CString::new(text.as_bytes()).map_err(|_| permanent(format!("{} holds a zero byte", text.display())))
}

/// `link`, or `link.<pool>` in a process of several pools.
fn link_name(spec: &DaemonSpec, daemon: Daemon) -> String {
    match daemon {
        Daemon::Worker(pool) if !spec.hosts.is_empty() => format!("link.{}", pool.name()),
        _ => "link".into(),
    }
}

fn permanent(text: String) -> Cause {
    Cause::Spawn { text, permanent: true }
}

fn passing(step: &str, error: &io::Error) -> Cause {
    Cause::Spawn { text: format!("{step}: {error}"), permanent: false }
}

fn launch_error(exe: &Path, error: &LaunchError) -> Cause {
    use rustix::io::Errno;
    let (step, error) = (error.step, &error.source);
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let permanent = step == EXECUTE
        && matches!(errno, Some(Errno::NOENT | Errno::ACCESS | Errno::NOEXEC | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::LIBBAD));
    let text = match errno {
        Some(Errno::AGAIN) => format!("spawn:EAGAIN: no more processes (pids.max of the cgroup, RLIMIT_NPROC, kernel.pid_max): {error}"),
        Some(Errno::NOMEM) => format!("spawn:ENOMEM: no memory for a process (memory.max of the cgroup, overcommit): {error}"),
        Some(Errno::MFILE | Errno::NFILE) => format!("spawn:EMFILE: no more descriptors (RLIMIT_NOFILE, fs.file-max): {error}"),
        _ if step == EXECUTE => format!("cannot execute {}: {error}", exe.display()),
        _ => format!("{step}: {error}"),
    };
    Cause::Spawn { text, permanent }
}

/// The lock follows the child's life: it is released when the last process that inherited it is gone.
fn take_lock(path: &Path) -> Result<File, Cause> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| passing(&path.display().to_string(), &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Cause::Spawn { text: format!("{} is held by another process of this instance", path.display()), permanent: false })
        }
        Err(TryLockError::Error(e)) => Err(passing(&path.display().to_string(), &e)),
    }
}

/// Random identity of a spawn, never 0.
///
/// # Errors
/// The kernel has no random numbers.
pub fn nonce() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

/// A text that nobody can change any more, in memory.
///
/// # Errors
/// The kernel has no memory or no descriptor left.
pub fn sealed(text: &str) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("wk-config", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(text.as_bytes())?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// Each generation has its own file description of it: readers share no offset.
fn reader(sealed: &OwnedFd) -> io::Result<OwnedFd> {
    File::open(format!("/proc/self/fd/{}", sealed.as_raw_fd())).map(OwnedFd::from)
}

/// A socket that nobody else can answer: made for this generation, only the child accepts on it.
fn listener(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let addr = SockAddr::unix(path)?;
    match socket.bind(&addr) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            fs::remove_file(path)?;
            socket.bind(&addr)?;
        }
        bound => bound?,
    }
    socket.listen(LINK_BACKLOG)?;
    Ok(socket.into())
}

/// A daemon does not wait for its log folder: its lines go to ours.
fn our_log(name: InstanceName, error: &io::Error) -> io::Result<(File, u64)> {
    tracing::warn!(%name, err = error as &dyn std::error::Error, "log cannot be opened, its lines come here");
    Ok((File::from(rustix::io::dup(io::stderr())?), 0))
}

/// Appends. Also says where the new lines begin.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let offset = file.metadata()?.len();
    Ok((file, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(step: &'static str, errno: i32) -> Cause {
        launch_error(Path::new("/x/wk-api"), &LaunchError { step, source: io::Error::from_raw_os_error(errno) })
    }

    #[test]
    fn row_30_a_fork_that_fails_is_tried_again_and_names_the_limit() {
        let cause = |errno| failed("clone", errno);
        for (errno, name) in [(libc::EAGAIN, "spawn:EAGAIN"), (libc::ENOMEM, "spawn:ENOMEM"), (libc::EMFILE, "spawn:EMFILE")] {
            let cause = cause(errno);
            assert!(!cause.permanent() && cause.to_string().starts_with(name), "{cause}");
        }
        assert!(cause(libc::EAGAIN).to_string().contains("pids.max"), "{}", cause(libc::EAGAIN));
    }

    #[test]
    fn row_7_what_cannot_be_executed_is_not_tried_again() {
        for errno in [libc::ENOENT, libc::EACCES, libc::ENOEXEC, libc::ELIBBAD] {
            let cause = failed(EXECUTE, errno);
            assert!(cause.permanent() && cause.to_string().contains("/x/wk-api"), "{cause}");
        }
    }
}
