//! Descriptors handed to this process by name. The only unsafe code of this crate.
#![expect(unsafe_code, reason = "taking over inherited descriptors has no safe form")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::socket::{SockaddrIn, SockaddrIn6, SockaddrStorage};

/// First passed descriptor, as with systemd.
const FIRST_FD: RawFd = 3;
/// Most descriptors one launch may pass.
const FDS_MAX: usize = 64;
/// Largest sealed configuration. Unit: bytes.
const SEALED_BYTES_MAX: usize = 4 << 20;

/// Why the passed descriptors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FdError {
    /// Count and names disagree, a name is empty or doubled, or there are too many.
    #[error("descriptor names {names:?} do not fit the count {count:?}")]
    Names {
        /// As given.
        names: String,
        /// As given.
        count: String,
    },
    /// A descriptor of the contract is not open.
    #[error("descriptor {fd} ({name}) is not usable")]
    NotOpen {
        /// Number.
        fd: RawFd,
        /// Name.
        name: String,
        /// Answer of the kernel.
        #[source]
        source: nix::Error,
    },
    /// They were taken before: a descriptor has one owner.
    #[error("passed descriptors were taken twice")]
    Twice,
    /// The configuration's descriptor is not sealed against writing.
    #[error("descriptor {0} is not sealed")]
    NotSealed(String),
    /// Reading it failed.
    #[error("read the sealed text")]
    Read(#[source] io::Error),
    /// It is too large or not UTF-8.
    #[error("sealed text is too large or not UTF-8")]
    Text,
}

/// Owned descriptors by name.
#[derive(Debug, Default)]
pub struct NamedFds {
    fds: BTreeMap<String, OwnedFd>,
}

impl NamedFds {
    /// Takes over the descriptors 3.. that `count` and `names` (colon separated) describe, sets close-on-exec on them and closes every other
    /// inherited descriptor above 2. Call once, before anything opens a descriptor and before a second thread exists.
    ///
    /// # Errors
    /// [`FdError`]; nothing is taken then.
    pub fn inherit(count: &str, names: &str) -> Result<Self, FdError> {
        let list = parse(count, names)?;
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(FdError::Twice);
        }
        let numbers = || (FIRST_FD..).zip(&list);
        for (fd, name) in numbers() {
            set_cloexec(fd).map_err(|source| FdError::NotOpen { fd, name: name.clone(), source })?;
        }
        let ours: BTreeSet<RawFd> = numbers().map(|(fd, _)| fd).collect();
        close_others(&ours);
        // SAFETY: `set_cloexec` has just shown that the number is open; the contract of the launch gives it to us, and `TAKEN` makes sure that
        // no second owner is made.
        let fds = numbers().map(|(fd, name)| (name.clone(), unsafe { OwnedFd::from_raw_fd(fd) })).collect();
        Ok(Self { fds })
    }

    /// Adds a descriptor under a name; the one that had it is closed.
    pub fn insert(&mut self, name: &str, fd: impl Into<OwnedFd>) {
        self.fds.insert(name.to_owned(), fd.into());
    }

    /// Takes a descriptor out.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.fds.remove(name)
    }

    /// Name of the listener on this TCP port.
    #[must_use]
    pub fn listening_on(&self, port: u16) -> Option<String> {
        self.fds.iter().find(|(_, fd)| local_port(fd) == Some(port)).map(|(name, _)| name.clone())
    }

    /// True when the name is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.fds.contains_key(name)
    }
}

/// Reads the whole text of a sealed memfd from its start, whatever the shared offset is.
///
/// # Errors
/// [`FdError`] when it is not sealed against writes, too large or not UTF-8.
pub fn sealed_text(fd: OwnedFd, name: &str) -> Result<String, FdError> {
    let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| FdError::NotSealed(name.to_owned()))?;
    if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE) {
        return Err(FdError::NotSealed(name.to_owned()));
    }
    let file = File::from(fd);
    let size = file.metadata().map_err(FdError::Read)?.len();
    let size = usize::try_from(size).ok().filter(|s| *s <= SEALED_BYTES_MAX).ok_or(FdError::Text)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0).map_err(FdError::Read)?;
    String::from_utf8(bytes).map_err(|_| FdError::Text)
}

fn local_port(fd: &OwnedFd) -> Option<u16> {
    let addr = nix::sys::socket::getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    addr.as_sockaddr_in().map(SockaddrIn::port).or_else(|| addr.as_sockaddr_in6().map(SockaddrIn6::port))
}

fn parse(count: &str, names: &str) -> Result<Vec<String>, FdError> {
    let bad = || FdError::Names { names: names.to_owned(), count: count.to_owned() };
    let list: Vec<String> = if names.is_empty() { Vec::new() } else { names.split(':').map(str::to_owned).collect() };
    let distinct: BTreeSet<&String> = list.iter().collect();
    let count: usize = count.parse().map_err(|_| bad())?;
    if count != list.len() || count > FDS_MAX || distinct.len() != count || list.iter().any(String::is_empty) {
        return Err(bad());
    }
    Ok(list)
}

fn set_cloexec(fd: RawFd) -> nix::Result<()> {
    // SAFETY: the borrow lives for one call that fails on a number that is not open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// Closes what the parent leaked. Best effort: a process without /proc keeps them.
fn close_others(ours: &BTreeSet<RawFd>) {
    let Ok(dir) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> = dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !ours.contains(fd)) {
        // The directory handle of the listing is among them and already closed: asked for before it is taken.
        if set_cloexec(fd).is_ok() {
            // SAFETY: the number is open, outside the contract, and nothing in this process has opened a descriptor yet.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

/// Number of a descriptor, for logs.
impl NamedFds {
    /// (name, number) of each descriptor.
    #[must_use]
    pub fn numbers(&self) -> Vec<(&str, RawFd)> {
        self.fds.iter().map(|(n, fd)| (n.as_str(), fd.as_raw_fd())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_fit_the_count() {
        assert_eq!(parse("2", "a:b").unwrap(), ["a", "b"]);
        assert_eq!(parse("0", "").unwrap().len(), 0);
        for (count, names) in [("1", "a:b"), ("2", "a:a"), ("x", "a"), ("2", "a:"), ("-1", "")] {
            assert!(parse(count, names).is_err(), "{count} {names}");
        }
        assert!(parse("65", &vec!["n"; 65].join(":")).is_err());
    }

    #[test]
    fn only_sealed_text_is_read() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
        use std::io::Write;
        let memfd = |seal: bool| {
            let fd = memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
            let mut file = File::from(fd);
            file.write_all(b"hello").unwrap();
            if seal {
                fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
            }
            OwnedFd::from(file)
        };
        assert_eq!(sealed_text(memfd(true), "config").unwrap(), "hello");
        assert!(matches!(sealed_text(memfd(false), "config"), Err(FdError::NotSealed(_))));
    }
}
