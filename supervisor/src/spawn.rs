//! Makes a process of one generation: listeners, sealed configuration, lock, log, fork, exec, pidfd.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, PidfdFlags};
use wk_types::{Daemon, InstanceName};

use crate::adopt::Marker;
use crate::cause::Cause;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::limits::LOG_BYTES_MAX;
use crate::spec::DaemonSpec;
use crate::sys::{self, Prelude};

/// First descriptor number of what is passed.
const FIRST_FD: i32 = 3;

/// A fresh process.
#[derive(Debug)]
pub struct Spawned {
    /// Its number; unreaped until we reap it.
    pub pid: Pid,
    /// Handle for signals and for its end.
    pub pidfd: OwnedFd,
    /// Where the lines of this generation begin in its log.
    pub log_offset: u64,
    /// Fork to exec done.
    pub exec: Duration,
}

/// Which generation of what, and its public listeners.
#[derive(Debug)]
pub struct Order<'a> {
    /// Node.
    pub config: &'a Config,
    /// Who, and as whom it answers on its health socket.
    pub marker: &'a Marker,
    /// Slots of its pool.
    pub slots: u16,
    /// Somebody else killed the generation before: nothing that it was doing is to blame.
    pub killed: bool,
    /// Public listeners by name.
    pub public: Vec<(&'static str, OwnedFd)>,
    /// Where its control group is made.
    pub cgroups: Option<&'a Cgroups>,
}

/// Starts a generation.
///
/// # Errors
/// [`Cause::Spawn`]: permanent for a binary that cannot be executed, passing for everything a retry may cure.
pub fn spawn(order: Order<'_>) -> Result<Spawned, Cause> {
    let (config, name, generation) = (order.config, order.marker.name, order.marker.generation);
    let spec = config.spec.daemons.get(&name.daemon).ok_or_else(|| permanent(format!("{name}: not part of this node")))?;
    let exe = config.bin_dir.join(spec.binary);
    let lock = take_lock(&config.runtime_dir.join("l").join(format!("{name}.lock")))?;
    let (health, _) = config.sockets(name, generation);
    let mut fds: Vec<(String, OwnedFd)> = vec![
        ("config".into(), sealed(&config.json).map_err(|e| passing("configuration descriptor", &e))?),
        ("health".into(), listener(&health).map_err(|e| passing(&health.display().to_string(), &e))?),
        ("lock".into(), lock.into()),
    ];
    for daemon in config.spec.housed(name.daemon) {
        let (_, link) = config.sockets(InstanceName { daemon, ..name }, generation);
        fds.push((link_name(spec, daemon), listener(&link).map_err(|e| passing(&link.display().to_string(), &e))?));
    }
    fds.extend(order.public.into_iter().map(|(n, fd)| (n.to_owned(), fd)));
    let (log, log_offset) = open_log(&config.log_path(name)).or_else(|e| our_log(name, &e)).map_err(|e| passing("log", &e))?;
    let mut command = Command::new(&exe);
    command.args(&spec.args).env_clear().envs(config.child_env.iter().map(|(k, v)| (k, v)));
    if order.killed {
        command.env("WK_LAST_END", "killed");
    }
    command.env("WK_INSTANCE", order.marker.identity()).env("WK_RUNTIME", &config.runtime_dir).env("WK_SLOTS", order.slots.to_string());
    command.env("WK_LISTEN_FDS", fds.len().to_string());
    command.env("WK_LISTEN_FDNAMES", fds.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(":"));
    let errors = log.try_clone().map_err(|e| passing("log", &e))?;
    command.stdin(Stdio::null()).stdout(Stdio::from(log)).stderr(Stdio::from(errors)).current_dir("/");
    let group = order.cgroups.map(|c| c.make(&c.leaf(name), &spec.limits)).transpose().map_err(|e| passing("control group", &e))?;
    sys::before_exec(&mut command, Prelude { group, files_max: spec.files_max });
    let mappings = (FIRST_FD..).zip(fds).map(|(child_fd, (_, parent_fd))| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).map_err(|e| permanent(e.to_string()))?;
    let began = Instant::now();
    // A handle of the standard library would reap on its own terms; from here the pidfd alone speaks for the process.
    let child = command.spawn().map_err(|e| exec_error(&exe, &e))?;
    let exec = began.elapsed();
    drop(command);
    let pid = Pid::from_child(&child);
    sacrifice(child.id(), spec.oom_score);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| unwatched(child, e.into()))?;
    Ok(Spawned { pid, pidfd, log_offset, exec })
}

/// Says who goes first when memory runs out. Raising needs no right; where lowering does, the score stays.
fn sacrifice(pid: u32, score: i16) {
    if let Err(err) = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
        tracing::debug!(pid, score, %err, "OOM score not set");
    }
}

/// `link`, or `link.<pool>` in a process of several pools.
fn link_name(spec: &DaemonSpec, daemon: Daemon) -> String {
    match daemon {
        Daemon::Worker(pool) if !spec.hosts.is_empty() => format!("link.{}", pool.name()),
        _ => "link".into(),
    }
}

/// No process without a pidfd: the fresh child is killed by its number, which is still unreaped and therefore its own.
fn unwatched(mut child: std::process::Child, error: io::Error) -> Cause {
    let killed = child.kill().and_then(|()| child.wait());
    passing(if killed.is_ok() { "pidfd_open" } else { "pidfd_open, and the process could not be killed" }, &error)
}

fn permanent(text: String) -> Cause {
    Cause::Spawn { text, permanent: true }
}

fn passing(step: &str, error: &io::Error) -> Cause {
    Cause::Spawn { text: format!("{step}: {error}"), permanent: false }
}

fn exec_error(exe: &Path, error: &io::Error) -> Cause {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let permanent =
        matches!(errno, Some(Errno::NOENT | Errno::ACCESS | Errno::NOEXEC | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::LIBBAD));
    let text = match errno {
        Some(Errno::AGAIN) => format!("spawn:EAGAIN: no more processes (pids.max of the cgroup, RLIMIT_NPROC, kernel.pid_max): {error}"),
        Some(Errno::NOMEM) => format!("spawn:ENOMEM: no memory for a process (memory.max of the cgroup, overcommit): {error}"),
        Some(Errno::MFILE | Errno::NFILE) => format!("spawn:EMFILE: no more descriptors (RLIMIT_NOFILE, fs.file-max): {error}"),
        _ => format!("cannot execute {}: {error}", exe.display()),
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

/// Each generation has its own file description: readers share no offset.
fn sealed(text: &str) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("wk-config", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(text.as_bytes())?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

/// A socket that nobody else can answer: made for this generation, only the child accepts on it.
fn listener(path: &PathBuf) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

/// A daemon does not wait for its log folder: its lines go to ours.
fn our_log(name: InstanceName, error: &io::Error) -> io::Result<(File, u64)> {
    tracing::warn!(%name, err = error as &dyn std::error::Error, "log cannot be opened, its lines come here");
    Ok((File::from(rustix::io::dup(io::stderr())?), 0))
}

/// Appends; a log over [`LOG_BYTES_MAX`] makes room first. Also says where the new lines begin.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        let mut old = OsString::from(path);
        old.push(".1");
        fs::rename(path, old)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let offset = file.metadata()?.len();
    Ok((file, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_31_a_child_without_a_handle_is_killed() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let cause = unwatched(child, io::Error::from_raw_os_error(libc::EMFILE));
        assert!(!cause.permanent() && cause.to_string().starts_with("pidfd_open: "), "{cause}");
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "killed and reaped");
    }

    #[test]
    fn row_30_a_fork_that_fails_is_tried_again_and_names_the_limit() {
        let cause = |errno| exec_error(Path::new("/x/wk-api"), &io::Error::from_raw_os_error(errno));
        for (errno, name) in [(libc::EAGAIN, "spawn:EAGAIN"), (libc::ENOMEM, "spawn:ENOMEM"), (libc::EMFILE, "spawn:EMFILE")] {
            let cause = cause(errno);
            assert!(!cause.permanent() && cause.to_string().starts_with(name), "{cause}");
        }
        assert!(cause(libc::EAGAIN).to_string().contains("pids.max"), "{}", cause(libc::EAGAIN));
    }

    #[test]
    fn row_7_what_cannot_be_executed_is_not_tried_again() {
        for errno in [libc::ENOENT, libc::EACCES, libc::ENOEXEC, libc::ELIBBAD] {
            let cause = exec_error(Path::new("/x/wk-api"), &io::Error::from_raw_os_error(errno));
            assert!(cause.permanent() && cause.to_string().contains("/x/wk-api"), "{cause}");
        }
    }
}
