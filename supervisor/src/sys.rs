//! The only unsafe code of the supervisor.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use rustix::process::{Resource, Rlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::limits::LOW_FDS;

/// What a child does to itself between fork and exec.
#[derive(Debug)]
pub(crate) struct Prelude {
    /// `cgroup.procs` of its leaf.
    pub(crate) group: Option<File>,
    /// Limit of descriptors.
    pub(crate) files_max: Option<u64>,
}

/// Lets the child lead its own session, so that the terminal's signals do not reach it and its group can be killed as a whole; puts it into
/// its control group before it can start anything; bounds its descriptors; takes the way to other privileges from it.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec")]
pub(crate) fn before_exec(command: &mut Command, prelude: Prelude) {
    let hook = move || {
        rustix::process::setsid()?;
        if let Some(group) = &prelude.group {
            (&mut &*group).write_all(b"0")?;
        }
        if prelude.files_max.is_some() {
            let limit = Rlimit { current: prelude.files_max, maximum: prelude.files_max };
            rustix::process::setrlimit(Resource::Nofile, limit)?;
        }
        nix::sys::prctl::set_no_new_privs().map_err(io::Error::from)
    };
    // SAFETY: the hook makes four system calls at most and neither allocates nor takes locks, so it may run in the child of a process with
    // threads.
    unsafe { command.pre_exec(hook) };
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

/// Occupies every free descriptor below [`LOW_FDS`], for the life of the result: nothing that matters, such as the pipe through which the
/// standard library reports a failed exec, can then have a number that a child's passed descriptors are mapped onto.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub(crate) fn reserve_low_fds() -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    loop {
        let fd = OwnedFd::from(std::fs::File::open("/dev/null")?);
        if fd.as_raw_fd() >= LOW_FDS {
            return Ok(kept);
        }
        kept.push(fd);
    }
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
