//! The only unsafe code of the supervisor.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::OnceLock;

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::limits::LOW_FDS;

/// A program to be executed in a child of ours. All of it is prepared beforehand: between its birth and its program the child shares our memory
/// and makes system calls only.
#[derive(Debug)]
pub(crate) struct Program {
    /// File and arguments, the name first.
    pub(crate) path: CString,
    pub(crate) args: Vec<CString>,
    /// `KEY=value`, all of it.
    pub(crate) env: Vec<CString>,
    /// What the child gets, by its number there.
    pub(crate) fds: Vec<(i32, OwnedFd)>,
    /// `cgroup.procs` of its leaf.
    pub(crate) group: Option<File>,
    /// Rules of Landlock for it and all that it starts.
    pub(crate) fence: Option<OwnedFd>,
    /// Limit of descriptors.
    pub(crate) files_max: Option<u64>,
    /// Who goes first when memory runs out. Raising needs no right; where lowering does, the score stays.
    pub(crate) oom_score: i16,
    /// Its parent: the kernel sends it a SIGTERM when the thread that bears it dies.
    pub(crate) dies_with: Option<Pid>,
}

/// A step on the way to the program that failed. Nothing lives then.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(crate) struct LaunchError {
    /// Which.
    pub(crate) step: &'static str,
    /// What the kernel says.
    #[source]
    pub(crate) source: io::Error,
}

/// The step that executes the program: what it says is about the file.
pub(crate) const EXECUTE: &str = "execve";

impl LaunchError {
    fn new(step: &'static str, source: impl Into<io::Error>) -> Self {
        Self { step, source: source.into() }
    }
}

impl Program {
    /// Executes it in a child: with a session of its own, so that the terminal's signals do not reach it and its group can be killed as a whole;
    /// in its control group before it can start anything; with bounded descriptors, all signals at their defaults, and no way to other
    /// privileges. Returns when the program runs. The handle comes with the child: there is no moment without it.
    ///
    /// Our memory is lent instead of copied (`CLONE_VM`), and this thread sleeps meanwhile (`CLONE_VFORK`): a copy of the tables costs more the
    /// larger we are.
    ///
    /// # Errors
    /// The first step that failed; no process is left of it.
    #[expect(unsafe_code, reason = "clone has no safe wrapper")]
    pub(crate) fn launch(mut self) -> Result<(Pid, OwnedFd), LaunchError> {
        for (_, fd) in self.fds.iter_mut().filter(|(_, fd)| fd.as_raw_fd() < LOW_FDS) {
            // Out of the way of the numbers that it or another is mapped onto.
            *fd = rustix::io::fcntl_dupfd_cloexec(&*fd, LOW_FDS).map_err(|e| LaunchError::new("descriptors", e))?;
        }
        let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
        let birth = Birth {
            args: pointers(&self.args),
            env: pointers(&self.env),
            score: self.oom_score.to_string(),
            program: &self,
            failed: OnceLock::new(),
        };
        // Not written to before the child does: what it does not need costs nothing.
        let mut stack = Vec::<u128>::with_capacity(STACK_BYTES / size_of::<u128>());
        let mut number: libc::c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // A handler that ran in the child would run on our memory.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(|e| LaunchError::new("signal mask", e))?;
        // SAFETY: `be_born` gets `birth`, of which nobody changes anything while the child runs on this memory, because this thread sleeps until the
        // child has executed a program or ended; the stack is aligned, lives as long, and is the child's alone; `number` is writable.
        let pid = unsafe {
            let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
            libc::clone(be_born, top.cast(), flags, (&raw const birth).cast_mut().cast(), &raw mut number)
        };
        let error = io::Error::last_os_error();
        mask.thread_set_mask().map_err(|e| LaunchError::new("signal mask", e))?;
        let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else { return Err(LaunchError::new("clone", error)) };
        // SAFETY: the kernel has just opened it for us, and told nobody else.
        let handle = unsafe { OwnedFd::from_raw_fd(number) };
        match birth.failed.into_inner() {
            None => Ok((pid, handle)),
            Some((step, errno)) => {
                let ended = waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED);
                ended.map_err(|e| LaunchError::new("waitid", e))?;
                Err(LaunchError::new(step, errno))
            }
        }
    }
}

/// Enough for the calls of [`Birth::prepare`].
const STACK_BYTES: usize = 32 << 10;

/// What the child works from, in the memory of its parent.
struct Birth<'a> {
    program: &'a Program,
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    score: String,
    failed: OnceLock<(&'static str, Errno)>,
}

/// First and only function of a child.
#[expect(unsafe_code, reason = "it runs on its parent's memory and ends without unwinding")]
extern "C" fn be_born(birth: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent passed a `Birth` that lives until we have left its memory.
    let birth = unsafe { &*birth.cast::<Birth<'_>>() };
    if let Err(failed) = birth.prepare() {
        birth.failed.set(failed).unwrap_or_default();
    }
    // SAFETY: ends this process alone, without a word to what the parent has registered for its own end.
    unsafe { libc::_exit(127) }
}

impl Birth<'_> {
    /// System calls only: neither allocates nor takes a lock. Returns only on failure.
    #[expect(unsafe_code, reason = "sigaction, dup2 and execve have no safe wrappers that do not allocate")]
    fn prepare(&self) -> Result<(), (&'static str, Errno)> {
        let at = |step: &'static str| move |e: Errno| (step, e);
        let last = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        for signal in 1..=libc::SIGRTMAX() {
            // SAFETY: the default action is valid for each; those that cannot be set (KILL, STOP, the library's own) stay as they are.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        rustix::process::setsid().map_err(at("setsid"))?;
        if let Some(group) = &self.program.group {
            rustix::io::write(group, b"0").map_err(at("control group"))?;
        }
        if let Ok(score) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            rustix::io::write(&score, self.score.as_bytes()).unwrap_or_default();
        }
        if let Some(max) = self.program.files_max {
            let limit = Rlimit { current: Some(max), maximum: Some(max) };
            rustix::process::setrlimit(Resource::Nofile, limit).map_err(at("limit of descriptors"))?;
        }
        if let Some(parent) = self.program.dies_with {
            let set = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM);
            set.map_err(|e| ("signal of the parent's death", Errno::from_raw_os_error(e as i32)))?;
            // It may have died before: then nobody sends anything any more.
            if rustix::process::getppid() != Some(parent) {
                return Err(("parent", Errno::SRCH));
            }
        }
        nix::sys::prctl::set_no_new_privs().map_err(|e| ("no_new_privs", Errno::from_raw_os_error(e as i32)))?;
        if let Some(fence) = &self.program.fence {
            // SAFETY: plain numbers; the kernel keeps what it needs of the descriptor.
            if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fence.as_raw_fd(), 0) } != 0 {
                return Err(("landlock", last()));
            }
        }
        rustix::process::chdir(c"/").map_err(at("chdir"))?;
        for (number, fd) in &self.program.fds {
            // SAFETY: the table of descriptors is the child's own, and no number that is replaced here is used after.
            if unsafe { libc::dup2(fd.as_raw_fd(), *number) } < 0 {
                return Err(("dup2", last()));
            }
        }
        SigSet::empty().thread_set_mask().map_err(|e| ("signal mask", Errno::from_raw_os_error(e as i32)))?;
        // SAFETY: both lists end with a null pointer and point to texts that live in the parent's memory.
        unsafe { libc::execve(self.program.path.as_ptr(), self.args.as_ptr(), self.env.as_ptr()) };
        Err((EXECUTE, last()))
    }
}

/// Gives memory back that was needed for what is over: free pages of the heap, and the pages of our own code, which the kernel has in its cache and
/// maps again where they are executed. Takes less than a millisecond.
#[expect(unsafe_code, reason = "malloc_trim and madvise have no safe wrappers")]
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
    for range in crate::proc::from("/proc/self/maps").iter().flat_map(|maps| code(&String::from_utf8_lossy(maps))) {
        // SAFETY: a private mapping of a file that nobody can write through: what is dropped is read from the same file again. One that is gone
        // meanwhile is an error.
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// Addresses of executable code of files, from the text of `/proc/<pid>/maps`.
fn code(maps: &str) -> Vec<Range<usize>> {
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let range = |line: &str| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let of_a_file = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
        of_a_file.then_some(address(from)?..address(to)?)
    };
    maps.lines().filter_map(range).collect()
}

/// Takes over a descriptor that the caller of this program opened for us (`--detach-notify-fd`), closed on exec.
///
/// # Errors
/// The number is not an open descriptor.
#[expect(unsafe_code, reason = "a number from the command line becomes an owned descriptor")]
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    if !std::path::Path::new(&format!("/proc/self/fd/{number}")).exists() || number < 3 {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    // SAFETY: it is open (just checked), it is not one of the standard three, and this runs before anything else opens or owns descriptors.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Closes every descriptor above 2 that we inherited when a child is executed: daemons get what the contract names, nothing else.
///
/// # Errors
/// The kernel refuses.
#[expect(unsafe_code, reason = "close_range has no safe wrapper")]
pub(crate) fn seal_inherited() -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed, a flag of open descriptors is set; the arguments are plain numbers.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Supplementary groups of the process at the other end of a Unix socket, as they were when it connected (`SO_PEERGROUPS`).
///
/// # Errors
/// The kernel refuses.
#[expect(unsafe_code, reason = "SO_PEERGROUPS has no safe wrapper")]
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(std::mem::size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        let buffer = groups.as_mut_ptr().cast::<libc::c_void>();
        // SAFETY: `buffer` points to `bytes` writable bytes that live until the call returns, and `bytes` is a valid length in and out.
        let done = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, buffer, &raw mut bytes) };
        let count = bytes as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small: the kernel has said how much it is.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The kernel has `pidfd_open`.
pub(crate) fn has_pidfd() -> bool {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).is_ok()
}

/// The kernel tells about a process through its pidfd.
#[expect(unsafe_code, reason = "PIDFD_GET_INFO has no safe wrapper")]
pub(crate) fn has_pidfd_info() -> bool {
    let Ok(own) = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()) else { return false };
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request carries the size of `info`, which lives until the call returns.
    let done = unsafe { libc::ioctl(own.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    done == 0
}

/// The kernel has `close_range` with the flag that only marks.
pub(crate) fn has_close_range() -> bool {
    seal_inherited().is_ok()
}

/// The kernel, and what stands between it and us, lets us make a ring.
#[expect(unsafe_code, reason = "io_uring_setup has no safe wrapper here")]
pub(crate) fn has_io_uring() -> bool {
    // SAFETY: with zero entries and no parameters the kernel makes nothing and refuses: with EINVAL or EFAULT where rings exist.
    let done = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, std::ptr::null_mut::<libc::c_void>()) };
    let errno = io::Error::last_os_error().raw_os_error();
    done >= 0 || matches!(errno, Some(libc::EINVAL | libc::EFAULT))
}

/// Lets the runtime wait until a descriptor (a pidfd) is readable.
///
/// # Errors
/// The runtime refuses it.
#[expect(unsafe_code, reason = "the runtime asks for a promise about the descriptor")]
pub(crate) fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the borrow keeps the descriptor open for the life of the result, and a `BorrowedFd` always gives the same number.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Exit status of a process that is not our child, after its parent has taken it. Linux 6.15 and later; `None`: not known (yet).
#[expect(unsafe_code, reason = "the request has no safe wrapper")]
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request number carries the size of `PidfdInfo`, which is laid out as the kernel's; it lives until the call returns.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
}

/// `struct pidfd_info` of `linux/pidfd.h`, first published size.
#[repr(C)]
#[derive(Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xFF << 8) | 11;
const _: () = assert!(size_of::<PidfdInfo>() == 64, "PIDFD_INFO_SIZE_VER0");

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn program(path: &str, args: &[&str]) -> (Program, File) {
        let text = |t: &str| CString::new(t).unwrap();
        let out = tempfile::tempfile().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let fds = vec![(0, null()), (1, out.try_clone().unwrap().into()), (2, null())];
        let args = std::iter::once(path).chain(args.iter().copied()).map(text).collect();
        (
            Program {
                path: text(path),
                args,
                env: vec![text("A=b")],
                fds,
                group: None,
                fence: None,
                files_max: Some(100),
                oom_score: 7,
                dies_with: None,
            },
            out,
        )
    }

    fn end(handle: &OwnedFd) -> Option<i32> {
        waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap().exit_status()
    }

    fn said(mut out: File) -> String {
        let mut text = String::new();
        out.rewind().unwrap();
        out.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_program_gets_what_it_is_given_and_nothing_of_ours() {
        // `exec`: the shell blocks signals for a moment while it makes a child.
        let script = "echo $A $$ $(cut -d' ' -f6 /proc/$$/stat) $(ulimit -n) $(cat /proc/$$/oom_score_adj) $PWD $HOME; \
                      [ /proc/$$/fd/3 -ef /proc/$$/fd/1 ] && echo passed; exec grep -E 'NoNewPrivs|SigBlk|SigIgn' /proc/self/status";
        let (mut program, out) = program("/bin/sh", &["-c", script]);
        // Numbers that cross: what is meant for 3 is what lies at the number of another.
        let low = rustix::io::fcntl_dupfd_cloexec(&out, 3).unwrap();
        program.fds.push((3, low));
        let (pid, handle) = program.launch().unwrap();
        assert_eq!(end(&handle), Some(0));
        let text = said(out);
        let number = pid.as_raw_nonzero();
        assert!(text.starts_with(&format!("b {number} {number} 100 7 /\npassed\n")), "{text}");
        let field = |name: &str| u64::from_str_radix(text.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim(), 16).unwrap();
        let pipe = 1 << (libc::SIGPIPE - 1);
        assert_eq!((field("NoNewPrivs:"), field("SigBlk:"), field("SigIgn:") & pipe), (1, 0, 0), "{text}");
    }

    #[test]
    fn a_step_that_fails_leaves_no_process_and_is_named() {
        let (nowhere, _out) = program("/nowhere/at/all", &[]);
        let failed = nowhere.launch().unwrap_err();
        assert_eq!((failed.step, failed.source.raw_os_error()), (EXECUTE, Some(libc::ENOENT)));
        let (mut grouped, _out) = program("/bin/true", &[]);
        grouped.group = Some(File::open("/dev/null").unwrap());
        assert_eq!(grouped.launch().unwrap_err().step, "control group", "not open for writing");
    }

    #[test]
    fn a_program_writes_only_where_it_may_and_so_does_what_it_starts() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let script = "sh -c 'echo a > $0/sub/a && mv $0/sub/a $0/b && echo moved' $0; echo a > $1/a || echo outside; \
                      mv $0/b $1/b || echo kept; cat $0/b; ls -d $1; echo gone > /dev/null && echo null";
        let paths = [inside.path(), outside.path()].map(|p| p.to_str().unwrap());
        let (mut program, out) = program("/bin/sh", &["-c", script, paths[0], paths[1]]);
        program.fence = crate::fence::fence(&[inside.path().join("sub"), inside.path().to_owned()], &["/dev/null".as_ref()]).unwrap();
        if program.fence.is_none() {
            return eprintln!("skipped: this kernel has no Landlock");
        }
        let (_, handle) = program.launch().unwrap();
        assert_eq!(end(&handle), Some(0));
        assert_eq!(said(out), format!("moved\noutside\nkept\na\n{}\nnull\n", paths[1]));
    }

    #[test]
    fn only_code_is_given_back() {
        let maps = "55e0-55f0 r--p 00000000 00:1b 99 /usr/bin/wksupervisor\n55f0-5600 r-xp 00001000 00:1b 99 /usr/bin/wksupervisor\n\
                    5600-5610 rw-p 00003000 00:1b 99 /usr/bin/wksupervisor\n5700-5800 rwxp 00000000 00:1b 99 /tmp/a b\n\
                    7f00-7f10 r-xp 00000000 00:00 0 \n7f20-7f30 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code(maps), vec![0x55f0..0x5600; 1]);
        let resident = || crate::process::usage(std::process::id()).memory_bytes;
        let big: Vec<Vec<u8>> = (0..1_000).map(|_| vec![1; 10_000]).collect();
        let before = resident();
        drop(big);
        give_back();
        assert!(resident() < before - 5_000_000, "{before}, then {}", resident());
    }

    #[test]
    fn row_31_the_handle_comes_with_the_child() {
        let (sleeper, _out) = program("/bin/sleep", &["1000"]);
        let (_, handle) = sleeper.launch().unwrap();
        rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL).unwrap();
        assert_eq!(
            waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap().terminating_signal(),
            Some(libc::SIGKILL)
        );
    }

    #[test]
    fn row_41_a_bound_child_hears_of_the_end_of_the_thread_that_bore_it() {
        let own = rustix::process::getpid();
        let (program, _out) = program("/bin/sleep", &["1000"]);
        let born = std::thread::spawn(move || Program { dies_with: Some(own), ..program }.launch().unwrap());
        let (_, handle) = born.join().unwrap();
        let end = waitid(WaitId::PidFd(handle.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
        assert_eq!(end.terminating_signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn row_41_a_child_whose_parent_is_gone_already_does_not_begin() {
        let (program, _out) = program("/bin/sleep", &["1000"]);
        let failed = Program { dies_with: Some(Pid::INIT), ..program }.launch().unwrap_err();
        assert_eq!((failed.step, failed.source.raw_os_error()), ("parent", Some(libc::ESRCH)));
    }
}
