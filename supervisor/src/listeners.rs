//! Public listeners: bound once, passed to every generation.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};
use wk_types::Daemon;

use crate::adopt::socket_inode;
use crate::config::PublicAddr;
use crate::ledger::ListenerRecord;
use crate::limits::LISTEN_BACKLOG;
use crate::notify::Passed;

/// Copies of listeners, by name.
pub type Copies = Vec<(&'static str, OwnedFd)>;

/// The open listeners of the node.
#[derive(Debug, Default)]
pub struct Listeners {
    /// `None`: only the daemon that accepts on it has it; bound again when that one is gone.
    open: Vec<(PublicAddr, Option<TcpListener>)>,
}

/// An address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {} = {} cannot be used: {source}{}", .wanted.daemon, .wanted.key, .wanted.addr, holder_text(.holder))]
pub struct BindError {
    /// Which.
    pub wanted: PublicAddr,
    /// What the kernel says.
    #[source]
    pub source: io::Error,
    /// Process that has the port, when it is known.
    pub holder: Option<String>,
}

fn holder_text(holder: &Option<String>) -> String {
    holder.as_ref().map_or_else(String::new, |h| format!(" (held by {h})"))
}

impl Listeners {
    /// Takes over those that systemd passed and binds the others, or none.
    ///
    /// # Errors
    /// The first address that cannot be used, with its key and who holds it.
    pub fn open(wanted: &[PublicAddr], passed: &mut Passed) -> Result<Self, BindError> {
        let mut open = Vec::with_capacity(wanted.len());
        for addr in wanted {
            let ready = passed.listener(addr).map(|l| l.set_nonblocking(true).map(|()| l));
            let listener = ready.unwrap_or_else(|| bind(addr.addr)).map_err(|source| {
                let holder = (source.kind() == io::ErrorKind::AddrInUse).then(|| holder(addr.addr)).flatten();
                BindError { wanted: *addr, source, holder }
            })?;
            open.push((*addr, Some(listener)));
        }
        Ok(Self { open })
    }

    /// Follows a changed list: what stays the same stays open, what is new is bound, what is left over is closed. All of it, or nothing.
    ///
    /// # Errors
    /// The first address that cannot be used.
    pub fn follow(&mut self, wanted: &[PublicAddr]) -> Result<(), BindError> {
        let same = |open: &PublicAddr| wanted.contains(open);
        let new: Vec<PublicAddr> = wanted.iter().filter(|w| self.open.iter().all(|(a, _)| a != *w)).copied().collect();
        let opened = Self::open(&new, &mut Passed::default())?;
        self.open.retain(|(a, _)| same(a));
        self.open.extend(opened.open);
        self.open.sort_by_key(|(a, _)| wanted.iter().position(|w| w == a));
        Ok(())
    }

    /// True after [`Self::close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.open.is_empty()
    }

    /// Calls `act` with each listener and its name.
    pub fn each(&self, mut act: impl FnMut(&'static str, &TcpListener)) {
        self.open.iter().filter_map(|(addr, l)| Some((addr.name, l.as_ref()?))).for_each(|(name, listener)| act(name, listener));
    }

    /// Closes our copies.
    pub fn close(&mut self) {
        self.open.clear();
    }

    /// Takes over the listeners of a predecessor: what systemd kept, or what `copy` gets, by the number of the socket, out of a process of the
    /// daemon. `held` says that one lives: a socket that cannot be had stays there; without a daemon the address is bound anew.
    #[must_use]
    pub fn regain(
        wanted: &[PublicAddr],
        records: &[ListenerRecord],
        passed: &mut Passed,
        copy: impl Fn(Daemon, u64) -> Option<OwnedFd>,
        held: impl Fn(Daemon) -> bool,
    ) -> Self {
        if records.is_empty() {
            return Self::default();
        }
        let mut regain = |addr: &PublicAddr| {
            let record = records.iter().find(|r| r.key == addr.key && r.wanted == addr.addr.to_string());
            let kept = passed.listener(addr).filter(|l| record.is_none_or(|r| socket_inode(l) == Some(r.inode)));
            let copied = || copy(addr.daemon, record?.inode).map(TcpListener::from);
            let fresh = || if held(addr.daemon) { None } else { bind(addr.addr).ok() };
            kept.or_else(copied).or_else(fresh)
        };
        Self { open: wanted.iter().map(|addr| (*addr, regain(addr))).collect() }
    }

    /// After an exec: what stayed open. Addresses that are new in the file are bound.
    #[must_use]
    pub fn inherit(wanted: &[PublicAddr], mut kept: BTreeMap<String, TcpListener>) -> Self {
        if kept.is_empty() {
            return Self::default();
        }
        Self { open: wanted.iter().map(|addr| (*addr, kept.remove(addr.key).or_else(|| bind(addr.addr).ok()))).collect() }
    }

    /// Our copies by key.
    pub fn by_key(&self) -> impl Iterator<Item = (&'static str, &TcpListener)> {
        self.open.iter().filter_map(|(addr, l)| Some((addr.key, l.as_ref()?)))
    }

    /// Names of the listeners that only their daemon holds.
    #[must_use]
    pub fn away(&self) -> Vec<&'static str> {
        self.open.iter().filter(|(_, l)| l.is_none()).map(|(a, _)| a.label).collect()
    }

    /// For a successor.
    #[must_use]
    pub fn records(&self) -> Vec<ListenerRecord> {
        let record = |(addr, listener): &(PublicAddr, Option<TcpListener>)| {
            let inode = listener.as_ref().and_then(socket_inode)?;
            Some(ListenerRecord { key: addr.key.to_owned(), wanted: addr.addr.to_string(), inode })
        };
        self.open.iter().filter_map(record).collect()
    }

    /// Copies for one daemon, of which no process is left.
    ///
    /// # Errors
    /// No descriptor is left, or an address that its last process held cannot be bound.
    pub fn copies(&mut self, daemon: Daemon) -> io::Result<Copies> {
        let mut copies = Vec::new();
        for (addr, listener) in self.open.iter_mut().filter(|(a, _)| a.daemon == daemon) {
            let listener = match listener {
                Some(listener) => listener,
                none => none.insert(bind(addr.addr)?),
            };
            copies.push((addr.name, OwnedFd::from(listener.try_clone()?)));
        }
        Ok(copies)
    }

    /// Addresses for people, with the port the kernel chose: "tcp 0.0.0.0:5100".
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let shown = |a: &PublicAddr, l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok()).unwrap_or(a.addr);
        self.open.iter().map(|(a, l)| format!("{} {}", a.label, shown(a, l))).collect()
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Finds the process that listens on a port, from `/proc`. Needs the right to see its descriptors.
fn holder(addr: SocketAddr) -> Option<String> {
    let inode =
        ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, addr.port()))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        if fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy() == wanted)) {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("pid {pid}, {}", comm.trim()));
        }
    }
    None
}

/// Inode of the socket in state LISTEN on `port`, from the text of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, hex) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(hex, 16).ok()? == port;
        listens.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_who_holds_a_port() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let wanted = PublicAddr { daemon: Daemon::Gateway, name: "tcp", label: "tcp", key: "addr", addr };
        let text = Listeners::open(&[wanted], &mut Passed::default()).unwrap_err().to_string();
        assert!(text.starts_with(&format!("gateway: addr = {addr} cannot be used")), "{text}");
        assert!(text.contains(&format!("held by pid {}", std::process::id())), "{text}");
    }

    #[test]
    fn tells_the_port_that_the_kernel_chose() {
        let any = PublicAddr { daemon: Daemon::Api, name: "http", label: "api", key: "httpAddr", addr: "127.0.0.1:0".parse().unwrap() };
        let mut listeners = Listeners::open(&[any], &mut Passed::default()).unwrap();
        assert!(!listeners.addresses()[0].ends_with(":0"));
        assert_eq!(listeners.copies(Daemon::Api).unwrap().len(), 1);
        assert!(listeners.copies(Daemon::Gateway).unwrap().is_empty());
        listeners.close();
        assert!(listeners.is_closed());
    }
}
