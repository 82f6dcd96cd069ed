//! Accepting: listeners of a reactor, the sockets that come from them, and the bound of connections per address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use wk_types::ConnId;

use super::conn::Conn;
use super::peer_of;
use super::run::{ACCEPT_TIMER, Reactor};
use super::slot::{GENERATION_MASK, Receive, Slot, Target};
use super::sys::Completion;
use crate::exchange::{At, CloseReason, Command, Event, Transport};
use crate::limits::ACCEPT_PAUSE;

/// A client listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) transport: Transport,
    pub(super) socket: TcpListener,
    /// A multishot accept is under way.
    pub(super) armed: bool,
}

/// Connections per address, over all reactors. Costs nothing without a bound.
#[derive(Debug)]
pub struct Addresses {
    max: u32,
    open: Mutex<HashMap<IpAddr, u32>>,
}

impl Addresses {
    /// At most `max` connections from one address; 0: no bound.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, open: Mutex::default() }
    }

    /// Counts a connection; false when it is one too many, then it is not counted.
    pub fn enter(&self, ip: IpAddr) -> bool {
        if self.max == 0 {
            return true;
        }
        let mut open = self.open.lock();
        let count = open.entry(ip).or_insert(0);
        let fits = *count < self.max;
        if fits {
            *count += 1;
        }
        fits
    }

    /// A counted connection has ended.
    pub fn leave(&self, ip: IpAddr) {
        if self.max == 0 {
            return;
        }
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&ip);
            }
        }
    }
}

impl Reactor {
    pub(super) fn on_accept(&mut self, listener: usize, completion: Completion) -> io::Result<()> {
        let (more, cancelled) = (completion.more, completion.result == -libc::ECANCELED);
        let Some(transport) = self.listeners.get(listener).map(|l| l.transport) else { return Ok(()) };
        let mut pause = false;
        match completion.into_socket() {
            Ok(socket) => {
                self.common.metrics.accepted.inc();
                self.common.shared.newcomer_came();
                match self.place.targets.get(self.next_target) {
                    Some(target) => {
                        target.post_one(Command::Adopt(socket, transport));
                        self.next_target = (self.next_target + 1) % self.place.targets.len();
                    }
                    None => self.adopt(socket, transport),
                }
            }
            Err(_) if cancelled => {}
            Err(err) => {
                self.common.metrics.accept_errors.inc();
                // A connection that was gone before it was accepted is no reason to wait; a lack of descriptors or memory is.
                pause = !matches!(err.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO));
                tracing::debug!(%err, "accept failed");
            }
        }
        if more {
            return Ok(());
        }
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.armed = false;
        }
        if self.accepting && pause {
            self.wheel.insert(self.desk.now_ms + u64::try_from(ACCEPT_PAUSE.as_millis()).unwrap_or(100), ACCEPT_TIMER);
            return Ok(());
        }
        if self.accepting { self.arm_accepts() } else { self.tell_accept_stopped() }
    }

    /// Arms accepting wherever it is not; the kernel takes what waits in the queue at once.
    pub(super) fn arm_accepts(&mut self) -> io::Result<()> {
        for (index, listener) in self.listeners.iter_mut().enumerate().filter(|(_, l)| !l.armed) {
            self.ring.accept(listener.socket.as_fd(), Target::Accept(index).token())?;
            listener.armed = true;
        }
        Ok(())
    }

    pub(super) fn cancel_accepts(&mut self) -> io::Result<()> {
        self.accepting = false;
        for (index, _) in self.listeners.iter().enumerate().filter(|(_, l)| l.armed) {
            self.ring.cancel_one(Target::Accept(index).token(), Target::Cancel.token())?;
        }
        self.tell_accept_stopped()
    }

    fn tell_accept_stopped(&mut self) -> io::Result<()> {
        if self.stop_accept && !self.accepting && self.listeners.iter().all(|l| !l.armed) {
            self.stop_accept = false;
            self.desk.events.push(Event::AcceptStopped(self.place.index));
        }
        Ok(())
    }

    /// Takes a socket over: a connection begins.
    pub(super) fn adopt(&mut self, socket: OwnedFd, transport: Transport) {
        let peer = peer_of(&socket);
        if self.draining || !self.place.addresses.enter(peer.ip()) {
            let reason = if self.draining { CloseReason::Stopping } else { CloseReason::AddressLimit };
            self.common.metrics.closed.at(reason.index()).inc();
            self.common.shared.newcomer_left();
            return;
        }
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        let settings = &self.common.settings;
        // The counter starts at a random place that depends on our life, and steps so that reactors never meet.
        let counter = settings.incarnation.wrapping_add(self.next_conn.wrapping_mul(u64::from(self.place.reactors.max(1))));
        let counter = counter.wrapping_add(u64::from(self.place.index)) & ConnId::COUNTER_MAX;
        self.next_conn += 1;
        let conn = ConnId::new(settings.node, settings.slot, counter);
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        let at = At { conn, slot: u32::try_from(index).unwrap_or(u32::MAX), reactor: self.place.index };
        let mut conn = Conn::new(at, transport, peer, settings, self.desk.now_ms);
        if self.desk.quiesced {
            conn.hurry(settings);
        }
        let due = conn.due_ms(settings);
        entry.insert(Slot {
            socket,
            conn,
            generation: self.generation,
            out: Vec::new(),
            receive: Receive::Idle,
            sending: None,
            ending: None,
            eof: false,
            touched: false,
            timers: 0,
            watch_ms: 0,
            counted: 0,
            address: peer.ip(),
        });
        self.common.metrics.conns.inc();
        self.insert_timer(index, due);
        self.after_work(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_each_address_alone() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let addresses = Addresses::new(2);
        assert!(addresses.enter(a) && addresses.enter(a) && !addresses.enter(a) && addresses.enter(b));
        addresses.leave(a);
        assert!(addresses.enter(a) && !addresses.enter(a));
        assert!(Addresses::new(0).enter(a));
    }
}
