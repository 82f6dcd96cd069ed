//! Descriptors that systemd hands to us: of a socket unit, or kept for us since an earlier life.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::sockopt;
use wk_config::Env;
use wk_types::InstanceName;

use crate::config::PublicAddr;
use crate::sys;

/// First passed descriptor. Source: sd_listen_fds(3).
const FIRST_FD: i32 = 3;
/// Bound of what is taken over.
const FDS_MAX: i32 = 1024;
/// Name of a public listener that we stored ourselves: `l.<name>`.
const LISTENER: &str = "l.";
/// Name of a child's pidfd: `p.<instance>`.
const CHILD: &str = "p.";

/// What was passed, by name. Names may occur several times: a socket unit gives one to all of its listeners.
#[derive(Debug, Default)]
pub struct Passed {
    fds: Vec<(String, OwnedFd)>,
}

impl Passed {
    /// Takes over what `LISTEN_FDS` names. To be called once, before anything else opens a descriptor.
    ///
    /// # Errors
    /// A descriptor of the contract is not open.
    pub fn take(env: &Env) -> io::Result<Self> {
        let ours = env.get("LISTEN_PID") == Some(std::process::id().to_string().as_str());
        let count = env.get("LISTEN_FDS").and_then(|n| n.parse::<i32>().ok()).filter(|n| ours && (0..=FDS_MAX).contains(n)).unwrap_or(0);
        let names = env.get("LISTEN_FDNAMES").unwrap_or_default().split(':').chain(std::iter::repeat("unknown"));
        let fds = (FIRST_FD..FIRST_FD + count).zip(names).map(|(number, name)| Ok((name.to_owned(), sys::inherited(number)?)));
        Ok(Self { fds: fds.collect::<io::Result<_>>()? })
    }

    /// Name under which a public listener is stored.
    #[must_use]
    pub fn listener_name(name: &str) -> String {
        format!("{LISTENER}{name}")
    }

    /// Name under which the pidfd of a child is stored.
    #[must_use]
    pub fn child_name(name: InstanceName) -> String {
        format!("{CHILD}{name}")
    }

    /// A public listener: that of a socket unit, by name or port, or the one we stored, when it still has the configured address.
    #[must_use]
    pub fn listener(&mut self, wanted: &PublicAddr) -> Option<TcpListener> {
        let stored = Self::listener_name(wanted.name);
        let fits = |(name, fd): &(String, OwnedFd)| match address(fd) {
            None => false,
            Some(_) if name == wanted.name => true,
            Some(addr) if *name == stored => addr.ip() == wanted.addr.ip() && [0, addr.port()].contains(&wanted.addr.port()),
            Some(addr) => !name.starts_with(LISTENER) && addr.port() == wanted.addr.port(),
        };
        let at = self.fds.iter().position(fits)?;
        Some(self.fds.remove(at).1.into())
    }

    /// The stored pidfds of children of an earlier life: their exit codes can be read even when they have ended meanwhile.
    #[must_use]
    pub fn children(&mut self) -> BTreeMap<InstanceName, OwnedFd> {
        let of = |name: &str| name.strip_prefix(CHILD).and_then(|n| n.parse::<InstanceName>().ok());
        let (children, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.fds).into_iter().partition(|(name, _)| of(name).is_some());
        self.fds = others;
        children.into_iter().filter_map(|(name, fd)| Some((of(&name)?, fd))).collect()
    }
}

/// Where a passed descriptor listens; `None` for anything that is not a TCP listener.
fn address(fd: &OwnedFd) -> Option<SocketAddr> {
    if !sockopt::socket_acceptconn(fd).unwrap_or(false) {
        return None;
    }
    rustix::net::getsockname(fd).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use wk_types::Daemon;

    use super::*;

    fn wanted(addr: &str) -> PublicAddr {
        PublicAddr { daemon: Daemon::Gateway, name: "tcp", label: "tcp", key: "addr", addr: addr.parse().unwrap() }
    }

    #[test]
    fn a_stored_listener_must_have_the_configured_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = || listener.as_fd().try_clone_to_owned().unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let passed = |name: &str, fd| Passed { fds: vec![(name.to_owned(), fd)] };
        assert!(passed("l.tcp", copy()).listener(&wanted(&addr)).is_some());
        assert!(passed("l.tcp", copy()).listener(&wanted("127.0.0.1:0")).is_some());
        assert!(passed("l.tcp", copy()).listener(&wanted("127.0.0.1:1")).is_none());
        assert!(passed("tcp", copy()).listener(&wanted("127.0.0.1:1")).is_some(), "a socket unit decides by itself");
        assert!(passed("public", copy()).listener(&wanted(&addr)).is_some(), "found by its port");
        assert!(passed("public", copy()).listener(&wanted("127.0.0.1:1")).is_none());
        let connected = std::net::TcpStream::connect(&addr).unwrap();
        assert!(passed("tcp", connected.into()).listener(&wanted(&addr)).is_none(), "not a listener");
    }

    #[test]
    fn children_are_found_by_name() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut passed = Passed { fds: vec![("p.cluster@0".into(), null()), ("p.what".into(), null()), ("l.tcp".into(), null())] };
        assert_eq!(passed.children().into_keys().map(|n| n.to_string()).collect::<Vec<_>>(), ["cluster@0"]);
        assert_eq!(passed.fds.len(), 2);
    }

    #[test]
    fn nothing_is_taken_that_is_meant_for_another_process() {
        let env = Env::from_pairs([("LISTEN_PID", "1"), ("LISTEN_FDS", "3")]);
        assert!(Passed::take(&env).unwrap().fds.is_empty());
    }
}
