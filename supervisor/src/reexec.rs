//! Another binary in the place of this process: same number, same children, nobody refused (`design/supervisor.md`, row 52).
//!
//! What the successor needs lies in a memfd: the record of [`crate::ledger`] and the numbers of the descriptors that stay open. A trial run of
//! the new binary reads it first, so that one that cannot go on is not put in our place.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use serde::{Deserialize, Serialize};
use wk_config::Env;

use crate::config::Source;
use crate::ledger::{Saved, boot_id};
use crate::sys;

/// Variable with the number of the memfd.
const VARIABLE: &str = "WK_REEXEC";
/// Version of [`Carried`].
const VERSION: u32 = 1;
/// Largest state. Unit: bytes.
const STATE_BYTES_MAX: u64 = 16 << 20;

/// How this process was started, taken before anything changed it.
#[derive(Debug, Clone)]
pub struct Origin {
    binary: PathBuf,
    args: Vec<OsString>,
    vars: Vec<(OsString, OsString)>,
}

impl Origin {
    /// Of this process.
    ///
    /// # Errors
    /// Our own binary is unknown.
    #[expect(clippy::disallowed_methods, reason = "the environment is handed on as it is, not read")]
    pub fn here() -> io::Result<Self> {
        let args: Vec<OsString> = std::env::args_os().collect();
        // By the path that was given: a link that points to another version now is the way to upgrade.
        let given = args.first().map(PathBuf::from).filter(|p| p.components().count() > 1);
        let binary = match given {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        let stale = |name: &OsString| name == VARIABLE || name.to_string_lossy().starts_with("LISTEN_");
        Ok(Self { binary, args, vars: std::env::vars_os().filter(|(name, _)| !stale(name)).collect() })
    }

    /// A run of the binary that only reads the state and the configuration and ends: 0, when it could go on with them.
    #[must_use]
    pub fn trial(&self, state: File, source: &Source) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("reexec-trial");
        for (flag, path) in [("--config", &source.file), ("--data", &source.data), ("--runtime", &source.runtime)] {
            command.args(path.iter().flat_map(|path| [OsStr::new(flag), path.as_os_str()]));
        }
        command.env_clear().envs(self.vars.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::from(state)).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// Descriptors by number.
#[derive(Debug, Serialize, Deserialize)]
struct Carried {
    version: u32,
    record: String,
    #[serde(default)]
    own: BTreeMap<String, String>,
    #[serde(default)]
    config: String,
    locks: [i32; 2],
    control: i32,
    nodes: i32,
    /// Public listeners by key.
    listeners: BTreeMap<String, i32>,
    /// pidfds by instance.
    children: BTreeMap<String, i32>,
}

/// What stays open, borrowed from its owners until the exec.
#[derive(Debug)]
pub struct Kept<'a> {
    /// Text of the record.
    pub record: String,
    /// Keys that wait for the next start of the supervisor, as they hold: this is none.
    pub own: BTreeMap<String, String>,
    /// The configuration that holds.
    pub config: String,
    /// Locks of the folders.
    pub locks: [BorrowedFd<'a>; 2],
    /// Socket for `wkctl`.
    pub control: BorrowedFd<'a>,
    /// Socket for the daemons.
    pub nodes: BorrowedFd<'a>,
    /// Public listeners by key.
    pub listeners: Vec<(String, BorrowedFd<'a>)>,
    /// pidfds by instance.
    pub children: Vec<(String, BorrowedFd<'a>)>,
}

impl Kept<'_> {
    /// Writes it down.
    ///
    /// # Errors
    /// No memory.
    pub fn state(&self) -> io::Result<File> {
        let number = |fd: &BorrowedFd<'_>| fd.as_raw_fd();
        let carried = Carried {
            version: VERSION,
            record: self.record.clone(),
            own: self.own.clone(),
            config: self.config.clone(),
            locks: self.locks.each_ref().map(number),
            control: number(&self.control),
            nodes: number(&self.nodes),
            listeners: self.listeners.iter().map(|(key, fd)| (key.clone(), number(fd))).collect(),
            children: self.children.iter().map(|(name, fd)| (name.clone(), number(fd))).collect(),
        };
        let mut file = File::from(rustix::fs::memfd_create("wk-state", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&carried)?)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// Becomes the new binary. Returns only when that fails; everything is as before then.
    pub fn exec(&self, origin: &Origin, state: &File) -> io::Error {
        let mut fds = vec![self.control, self.nodes];
        fds.extend(self.locks);
        fds.extend(self.listeners.iter().map(|(_, fd)| *fd));
        fds.extend(self.children.iter().map(|(_, fd)| *fd));
        let keep = |flags: FdFlags| {
            let all = fds.iter().try_for_each(|fd| rustix::io::fcntl_setfd(fd, flags));
            all.and_then(|()| rustix::io::fcntl_setfd(state, flags)).map_err(io::Error::from)
        };
        // Signals wait for the handlers of the successor: the mask outlives the exec, handlers do not.
        let failed = SigSet::all().thread_block().map_err(io::Error::from).and_then(|()| keep(FdFlags::empty()));
        let error = failed.and_then(|()| become_it(origin, state.as_raw_fd())).err().unwrap_or_else(|| io::Error::other("exec returned"));
        for undone in [keep(FdFlags::CLOEXEC), unblock_signals()] {
            if let Err(err) = undone {
                tracing::error!(%err, "after a failed exec");
            }
        }
        error
    }
}

fn become_it(origin: &Origin, state: i32) -> io::Result<()> {
    let text = |s: OsString| CString::new(s.into_vec()).map_err(io::Error::other);
    let args = origin.args.iter().cloned().map(text).collect::<io::Result<Vec<_>>>()?;
    let mut vars: Vec<OsString> =
        origin.vars.iter().map(|(k, v)| [k.as_os_str(), "=".as_ref(), v.as_os_str()].into_iter().collect()).collect();
    vars.push(format!("{VARIABLE}={state}").into());
    let vars = vars.into_iter().map(text).collect::<io::Result<Vec<_>>>()?;
    match nix::unistd::execve(&text(origin.binary.clone().into_os_string())?, &args, &vars) {
        Err(error) => Err(error.into()),
        Ok(never) => match never {},
    }
}

/// What asks something of a running supervisor does not end one that is about to be: it waits until the handlers are installed. What asks it to
/// end may end it until then.
///
/// # Errors
/// The kernel refuses.
pub fn hold_signals() -> io::Result<()> {
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect::<SigSet>().thread_block().map_err(Into::into)
}

/// To be called when the handlers are installed.
///
/// # Errors
/// The kernel refuses.
pub fn unblock_signals() -> io::Result<()> {
    SigSet::all().thread_unblock().map_err(Into::into)
}

/// What the predecessor in this process left open.
#[derive(Debug)]
pub struct Taken {
    /// Its record.
    pub saved: Saved,
    /// What it held of the configuration, of the keys that wait for the next start.
    pub own: BTreeMap<String, String>,
    /// The configuration that it held.
    pub config: String,
    /// Locks of the folders.
    pub locks: [File; 2],
    /// Socket for `wkctl`.
    pub control: UnixListener,
    /// Socket for the daemons.
    pub nodes: UnixListener,
    /// Public listeners by key.
    pub listeners: BTreeMap<String, TcpListener>,
    /// pidfds by instance.
    pub children: BTreeMap<String, OwnedFd>,
}

/// Reads what a predecessor left in this process; `None`: there was none. To be called once, before anything else opens a descriptor.
///
/// # Errors
/// It cannot be understood: the next supervisor adopts the processes.
pub fn take(env: &Env) -> io::Result<Option<Taken>> {
    let Some(number) = env.get(VARIABLE) else { return Ok(None) };
    let state = sys::inherited(number.parse().map_err(io::Error::other)?)?;
    let (carried, saved) = read(File::from(state))?;
    let [first, second] = carried.locks;
    let mut listeners = BTreeMap::new();
    for (key, number) in carried.listeners {
        listeners.insert(key, sys::inherited(number)?.into());
    }
    let mut children = BTreeMap::new();
    for (name, number) in carried.children {
        children.insert(name, sys::inherited(number)?);
    }
    Ok(Some(Taken {
        saved,
        own: carried.own,
        config: carried.config,
        locks: [sys::inherited(first)?.into(), sys::inherited(second)?.into()],
        control: sys::inherited(carried.control)?.into(),
        nodes: sys::inherited(carried.nodes)?.into(),
        listeners,
        children,
    }))
}

/// The trial run: reads the state on standard input. Returns the keys that wait for another supervisor than this process.
///
/// # Errors
/// This binary could not go on with it.
pub fn trial() -> io::Result<BTreeMap<String, String>> {
    let stdin = rustix::io::dup(io::stdin())?;
    read(File::from(stdin)).map(|(carried, _)| carried.own)
}

fn read(mut file: File) -> io::Result<(Carried, Saved)> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(STATE_BYTES_MAX).read_to_string(&mut text)?;
    let carried: Carried = serde_json::from_str(&text)?;
    if carried.version != VERSION {
        return Err(io::Error::other(format!("state of version {}, this binary reads {VERSION}", carried.version)));
    }
    let saved = Saved::parse(&carried.record, &boot_id()).ok_or_else(|| io::Error::other("the record cannot be read"))?;
    Ok((carried, saved))
}
