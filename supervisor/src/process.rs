//! A child as the kernel sees it: wait, signal, reap; always through its pidfd.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid};

use crate::cause::Exit;
use crate::cgroup::Leaf;
use crate::limits::EXIT_STATUS_WAIT;
use crate::table::Sig;
use crate::{adopt, orphans, proc, sys};

/// A process of ours: a child that has not been reaped, or one begun by an earlier supervisor.
#[derive(Debug, Clone)]
pub struct Process {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    child: bool,
    /// Marker in its environment, which all it started carry too, unless they took it off.
    identity: Arc<str>,
    leaf: Option<Arc<Leaf>>,
}

/// What a process uses, read on demand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time. Unit: ms.
    pub cpu_ms: u64,
    /// Resident memory. Unit: bytes.
    pub memory_bytes: u64,
    /// Open descriptors.
    pub open_fds: u32,
}

impl Process {
    /// A child of ours; `identity` is its `WK_INSTANCE`.
    #[must_use]
    pub fn new(pid: Pid, pidfd: OwnedFd, identity: &str) -> Self {
        Self { pid, pidfd: Arc::new(pidfd), child: true, identity: identity.into(), leaf: None }
    }

    /// A process that is not our child.
    #[must_use]
    pub fn adopted(pid: Pid, pidfd: OwnedFd, identity: &str) -> Self {
        Self { child: false, ..Self::new(pid, pidfd, identity) }
    }

    /// In this control group.
    #[must_use]
    pub fn within(self, leaf: Option<Leaf>) -> Self {
        Self { leaf: leaf.map(Arc::new), ..self }
    }

    /// Its handle.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until it has ended. A child is a zombie then; of an adopted one the exit status is known, where it ever will be.
    ///
    /// # Errors
    /// The runtime refuses the descriptor.
    ///
    /// # Cancel safety
    /// Nothing is lost: the end stays visible until [`Self::bury`].
    pub async fn ended(&self) -> io::Result<()> {
        let watched = sys::readable(self.pidfd.as_fd())?;
        watched.readable().await.map(|mut guard| guard.retain_ready())?;
        let until = Instant::now() + EXIT_STATUS_WAIT;
        while !self.child && self.status_of_another().is_none() && Instant::now() < until {
            // Its parent has not taken the status yet, and nothing tells when it does.
            tokio::time::sleep(EXIT_STATUS_WAIT / 40).await;
        }
        Ok(())
    }

    /// Sends a signal. A process that is gone is not an error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, sig: Sig) -> io::Result<()> {
        match sig {
            Sig::Term => self.send(Signal::TERM).and_then(|()| self.send(Signal::CONT)),
            // One that is stopped takes no other signal but SIGKILL, which leaves no core.
            Sig::Abort => self.send(Signal::ABORT).and_then(|()| self.send(Signal::CONT)),
            Sig::Kill => {
                self.kill_group();
                self.send(Signal::KILL)
            }
        }
    }

    /// Sends any signal by its number, to this process alone. A process that is gone is not an error.
    ///
    /// # Errors
    /// There is no such signal, or the kernel refuses.
    pub fn deliver(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal).ok_or_else(|| io::Error::other(format!("there is no signal {signal}")))?;
        self.send(signal)
    }

    fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(e) if e != rustix::io::Errno::SRCH => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Its control group where there is one. Else: our own leader is unreaped (only [`Self::bury`] does that, and it consumes), so its number
    /// still names its own group and no other; the number of an adopted one may be another's, its processes are found by their marker.
    fn kill_group(&self) {
        if let Some(leaf) = &self.leaf {
            match leaf.kill() {
                Ok(()) => return,
                Err(err) => tracing::warn!(%err, identity = &*self.identity, "control group not killed"),
            }
        }
        if !self.child {
            let killed = adopt::kill_marked(&self.identity);
            tracing::info!(identity = &*self.identity, killed, "processes of an adopted instance killed");
            return;
        }
        match kill_process_group(self.pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(err) => tracing::warn!(pid = self.pid.as_raw_nonzero().get(), %err, "process group not killed"),
        }
    }

    /// Kills what it left behind, as far as control group, process group or marker tell; says how many there were where that can be counted.
    /// To be called after [`Self::ended`].
    #[must_use]
    pub fn sweep(&self) -> usize {
        if let Some(leaf) = self.leaf.as_ref().filter(|l| l.populated()) {
            let count = leaf.processes().max(1);
            self.kill_group();
            return count;
        }
        if !self.child {
            return adopt::kill_marked(&self.identity);
        }
        if self.leaf.is_none() {
            self.kill_group();
        }
        0
    }

    /// Kills those of `strangers` that it left behind, and says how many. They are our children that nobody watches, listed after
    /// [`Self::sweep`]. Only when both say 0 the slot is free.
    #[must_use]
    pub fn clear(&self, strangers: &[u32]) -> usize {
        if !self.child {
            return 0;
        }
        let left = orphans::left_by(self.number(), &self.identity, strangers);
        orphans::kill(&left);
        left.len()
    }

    /// The kernel reports a stop (SIGSTOP) since the last question.
    #[must_use]
    pub fn halted(&self) -> bool {
        let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        matches!(status, Ok(Some(status)) if status.stopped())
    }

    /// How it ended; its empty control group is removed. To be called after [`Self::clear`]. A child stays a zombie until [`Self::bury`].
    #[must_use]
    pub fn exit(&self) -> Exit {
        let exit = self.exit_status();
        let starved = self.leaf.as_ref().is_some_and(|leaf| leaf.oom_kills() > 0);
        if let Some(Err(err)) = self.leaf.as_ref().map(|leaf| leaf.remove()) {
            tracing::warn!(%err, identity = &*self.identity, "control group not removed");
        }
        named(exit, starved)
    }

    /// Lets go of its number. The kernel takes up to 50 µs to drop what it had cached of it: a successor need not wait for that.
    pub fn bury(self) {
        if self.child
            && let Err(err) = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        {
            tracing::debug!(%err, identity = &*self.identity, "buried by somebody else");
        }
    }

    fn exit_status(&self) -> Exit {
        if !self.child {
            return self.status_of_another().unwrap_or(Exit::Unknown);
        }
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal { signal, core: status.dumped() },
                (None, None) => Exit::Unknown,
            },
            _ => Exit::Unknown,
        }
    }

    /// The kernel keeps the status with the pidfd once the parent has taken it (Linux 6.15); until then the zombie shows it.
    fn status_of_another(&self) -> Option<Exit> {
        let status = sys::exit_status(self.pidfd.as_fd()).or_else(|| zombie_status(self.number()))?;
        Some(status.into())
    }
}

/// A kill for want of memory looks like anybody's SIGKILL, and of an adopted process an older kernel (before 6.15) says nothing at all.
fn named(exit: Exit, starved: bool) -> Exit {
    match exit {
        Exit::Signal { signal: 9, .. } | Exit::Unknown if starved => Exit::OutOfMemory,
        exit => exit,
    }
}

/// Exit status of a process that has ended and was not reaped.
fn zombie_status(pid: u32) -> Option<ExitStatus> {
    let stat = proc::text(pid, "stat").ok()?;
    let fields: Vec<&str> = stat_fields(&stat).collect();
    // Field 52 of the line; zero as well for those who may not see it, which is no status then.
    let status = fields.get(49)?.parse::<i32>().ok().filter(|_| fields.first() == Some(&"Z"))?;
    Some(ExitStatus::from_raw(status))
}

/// State letter of a process (`R`, `S`, `T`, `Z`, ...) and its session.
#[must_use]
pub fn state_and_session(pid: u32) -> Option<(char, u32)> {
    let stat = proc::text(pid, "stat").ok()?;
    let fields: Vec<&str> = stat_fields(&stat).collect();
    Some((fields.first()?.chars().next()?, fields.get(3)?.parse().ok()?))
}

/// Reads `/proc/<pid>`; zeros for what cannot be read.
#[must_use]
pub fn usage(pid: u32) -> Usage {
    let stat = proc::text(pid, "stat").unwrap_or_default();
    let fields: Vec<u64> = stat_fields(&stat).map(|f| f.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0);
    let folder = format!("/proc/{pid}/fd");
    // Since Linux 6.2 the size of the folder is their number; before, it is 0 and they are counted.
    let open_fds = match fs::metadata(&folder).map_or(0, |m| m.len()) {
        0 => fs::read_dir(folder).map_or(0, |d| d.count() as u64),
        count => count,
    };
    Usage {
        cpu_ms: ticks * 1000 / rustix::param::clock_ticks_per_second().max(1),
        memory_bytes: fields.get(21).copied().unwrap_or(0) * rustix::param::page_size() as u64,
        open_fds: u32::try_from(open_fds).unwrap_or(u32::MAX),
    }
}

/// What was seen of a process at work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// What it has done, in units of 1 ms of CPU or 64 KiB read or written. Only differences mean something.
    pub units: u64,
    /// One of its threads waits for the kernel, mostly for a disk: nothing else shows a process that syncs.
    pub waits: bool,
}

/// Reads how much a process has worked.
#[must_use]
pub fn work(pid: u32) -> Work {
    let io = proc::text(pid, "io").unwrap_or_default();
    let bytes = io.lines().filter(|l| l.starts_with("rchar: ") || l.starts_with("wchar: "));
    let bytes: u64 = bytes.filter_map(|l| l.split_once(' ')?.1.parse::<u64>().ok()).sum();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waits = threads.filter_map(|t| t.file_name().to_str()?.parse().ok()).any(|thread| waits(pid, thread));
    Work { units: usage(pid).cpu_ms + bytes / (64 << 10), waits }
}

fn waits(pid: u32, thread: u32) -> bool {
    proc::text(pid, &format!("task/{thread}/stat")).is_ok_and(|stat| stat_fields(&stat).next() == Some("D"))
}

/// Start time of a process in clock ticks since boot (field 22 of `stat`): tells a process from a later one with the same number.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = proc::text(pid, "stat").ok()?;
    stat_fields(&stat).nth(19)?.parse().ok()
}

/// Fields from the third on: the name in parentheses may hold anything.
fn stat_fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn shell(script: &CStr, group: Option<fs::File>) -> sys::Program {
        let (path, args) = (c"/bin/sh".into(), [c"sh", c"-c", script].map(CStr::to_owned).into());
        sys::Program { path, args, env: Vec::new(), fds: Vec::new(), group, fence: None, files_max: None, oom_score: 0, dies_with: None }
    }

    #[test]
    fn reads_our_own_numbers() {
        let me = usage(std::process::id());
        assert!(me.memory_bytes > 0 && me.open_fds > 0, "{me:?}");
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(usage(u32::MAX), Usage::default());
    }

    /// The parent of a birth waits in the same state as one that waits for a disk, here for a child that cannot enter its group.
    #[test]
    fn a_thread_that_waits_for_the_kernel_is_seen() {
        use std::io::Read;
        let (mut reader, writer) = std::io::pipe().unwrap();
        let room = rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        rustix::io::write(&writer, &vec![b'x'; room]).unwrap();
        let program = shell(c"exit 0", Some(OwnedFd::from(writer).into()));
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let bearer = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw().unsigned_abs()).unwrap();
            program.launch().map(|(_, handle)| handle)
        });
        let (me, thread) = (std::process::id(), told.recv().unwrap());
        let until = Instant::now() + std::time::Duration::from_secs(30);
        while !waits(me, thread) && Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(waits(me, thread) && work(me).waits);
        reader.read_exact(&mut vec![0; room]).unwrap();
        let handle = bearer.join().unwrap().unwrap();
        waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED).unwrap();
        assert!(!waits(me, thread), "it is gone");
    }

    #[test]
    fn its_number_is_its_own_until_it_is_buried() {
        let (pid, handle) = shell(c"exit 7", None).launch().unwrap();
        let process = Process::new(pid, handle, "api@0/1/1");
        waitid(WaitId::PidFd(process.pidfd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert_eq!([process.exit(), process.exit()], [Exit::Code(7); 2]);
        assert_eq!(state_and_session(process.number()).map(|(state, _)| state), Some('Z'));
        process.bury();
        assert_eq!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).unwrap_err(), rustix::io::Errno::CHILD);
    }

    #[test]
    fn name_with_parentheses_does_not_shift_fields() {
        assert_eq!(stat_fields("7 (a ) b) S 1").collect::<Vec<_>>(), ["S", "1"]);
    }

    #[test]
    fn row_6_a_kill_for_want_of_memory_is_told_from_others() {
        let killed = Exit::Signal { signal: 9, core: false };
        assert_eq!((named(killed, true), named(killed, false)), (Exit::OutOfMemory, killed));
        assert_eq!((named(Exit::Unknown, true), named(Exit::Unknown, false)), (Exit::OutOfMemory, Exit::Unknown));
        assert_eq!(named(Exit::Code(70), true), Exit::Code(70), "a helper of it was killed earlier");
    }
}
