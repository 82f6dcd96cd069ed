//! The loop of a reactor: wait, take completions, commands and timers, then attend to every socket that was touched.
//!
//! A round handles input first and does its I/O at the end, so that everything for one connection leaves in one send.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::eventfd::EventFd;
use slab::Slab;
use wk_link::item::Encoder;
use wk_types::ConnId;

use super::accept::{Addresses, Listener};
use super::buffer::Pool;
use super::conn::{Conn, Cx, End, Stage};
use super::ids::Ids;
use super::slot::{Ending, GENERATION_MASK, Key, Receive, Sending, Slot, Target};
use super::sys::{Completion, Uring};
use super::timer::Wheel;
use super::{Common, peer_of};
use wk_rpc::clock::monotonic_ms;
use crate::exchange::{At, CloseReason, Command, Event, Mailbox, Transport};
use crate::limits::ACCEPT_PAUSE;

/// Key of the wheel for "arm accepting again"; no slot has it because slots stay far below.
const ACCEPT_TIMER: u64 = u64::MAX;

/// What tells a reactor from its neighbours.
pub(super) struct Place {
    pub(super) index: u16,
    /// Sub reactors: connection counters of a reactor are its index modulo this.
    pub(super) reactors: u16,
    pub(super) mailbox: Arc<Mailbox<Command>>,
    /// Written to when the mailbox is filled while the reactor sleeps.
    pub(super) event: Arc<EventFd>,
    /// Reactors that get the accepted sockets; empty: this one keeps them.
    pub(super) targets: Vec<Arc<Mailbox<Command>>>,
    pub(super) addresses: Arc<Addresses>,
}

/// One reactor.
pub(super) struct Reactor {
    ring: Uring,
    place: Place,
    common: Common,
    listeners: Vec<Listener>,
    /// Accepting is wanted.
    accepting: bool,
    /// [`Event::AcceptStopped`] is owed.
    stop_accept: bool,
    quiesced: bool,
    draining: bool,
    next_target: usize,
    slots: Slab<Slot>,
    generation: u32,
    next_conn: u64,
    wheel: Wheel,
    now_ms: u64,
    /// Slots to attend to at the end of the round.
    touched: Vec<usize>,
    /// Connections with SENDs held back for want of ids or a full link.
    starved: Vec<Key>,
    desk: Desk,
}

/// What connections work with; apart from the slots, so that both can be borrowed.
struct Desk {
    events: Vec<Event>,
    encoder: Encoder,
    ids: Ids,
    pool: Pool,
    scratch: Vec<u8>,
    unmasked: Vec<u8>,
}

impl Reactor {
    pub(super) fn new(ring: Uring, place: Place, listeners: Vec<(Transport, TcpListener)>, common: Common) -> Self {
        let now_ms = monotonic_ms();
        let listeners =
            listeners.into_iter().map(|(transport, socket)| Listener { transport, socket, armed: false }).collect();
        let desk = Desk {
            events: Vec::new(),
            encoder: Encoder::default(),
            ids: Ids::default(),
            pool: Pool::default(),
            scratch: Vec::new(),
            unmasked: Vec::new(),
        };
        Self {
            ring,
            common,
            listeners,
            accepting: false,
            stop_accept: false,
            quiesced: false,
            draining: false,
            next_target: 0,
            slots: Slab::new(),
            generation: 0,
            next_conn: 0,
            wheel: Wheel::new(now_ms),
            now_ms,
            touched: Vec::new(),
            starved: Vec::new(),
            desk,
            place,
        }
    }

    /// Runs until drained, or until the ring fails.
    pub(super) fn run(mut self) {
        let index = self.place.index;
        let hub = Arc::clone(&self.common.hub);
        match self.rounds() {
            Ok(()) => self.desk.events.push(Event::Drained(index)),
            Err(err) => {
                tracing::error!(reactor = index, %err, "reactor failed");
                self.desk.events.push(Event::Failed(index, err.to_string()));
            }
        }
        hub.post(&mut self.desk.events);
    }

    fn rounds(&mut self) -> io::Result<()> {
        let (mut completions, mut commands, mut due) = (Vec::new(), Vec::new(), Vec::new());
        self.ring.read_event(self.place.event.as_fd(), Target::Wake.token())?;
        loop {
            let wait = if self.place.mailbox.may_sleep() { self.time_to_timer() } else { Some(Duration::ZERO) };
            self.ring.enter(wait, &mut completions)?;
            self.place.mailbox.awake();
            self.now_ms = monotonic_ms();
            self.common.metrics.rounds.inc();
            for completion in completions.drain(..) {
                self.on_completion(completion)?;
            }
            self.place.mailbox.take(&mut commands);
            for command in commands.drain(..) {
                self.on_command(command)?;
            }
            self.wheel.expire(self.now_ms, &mut due);
            for key in due.drain(..) {
                self.on_timer(key)?;
            }
            self.attend_all()?;
            self.common.hub.post(&mut self.desk.events);
            if self.draining && self.slots.is_empty() && self.listeners.iter().all(|l| !l.armed) {
                return Ok(());
            }
        }
    }

    /// Time until a timer may be due; `None`: there is none.
    fn time_to_timer(&self) -> Option<Duration> {
        self.wheel.next_ms().map(|at| Duration::from_millis(at.saturating_sub(monotonic_ms())))
    }

    fn on_completion(&mut self, completion: Completion) -> io::Result<()> {
        match Target::of(completion.token) {
            Target::Accept(listener) => self.on_accept(listener, completion),
            Target::Receive(key) => {
                self.on_receive(key, &completion);
                if let Some(buffer) = completion.buffer {
                    self.ring.recycle(buffer);
                }
                Ok(())
            }
            Target::Send(key) => {
                self.on_sent(key, completion.result);
                Ok(())
            }
            Target::Wake => {
                self.ring.event_read();
                self.ring.read_event(self.place.event.as_fd(), Target::Wake.token())
            }
            Target::Cancel => Ok(()),
        }
    }

    fn on_command(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Admit => {
                self.accepting = true;
                self.arm_accepts()?;
            }
            Command::StopAccept => {
                self.stop_accept = true;
                self.cancel_accepts()?;
            }
            Command::Adopt(socket, transport) => self.adopt(socket, transport),
            Command::Connack(at, frame, true) => self.on_connack(at, &frame)?,
            Command::Connack(at, frame, false) => {
                self.with_conn(at, |conn, cx| {
                    conn.put(&frame, cx);
                    Err(End::after_flush(CloseReason::Refused))
                });
            }
            Command::Sendack(at, frame, cost) => {
                self.with_conn(at, |conn, cx| {
                    conn.put(&frame, cx);
                    conn.release(cost, cx)
                });
            }
            Command::Write(at, frame) => {
                self.common.shared.output.sub(frame.len());
                self.with_conn(at, |conn, cx| {
                    conn.put(&frame, cx);
                    Ok(())
                });
            }
            Command::Kick(at, frame, after_ms) => self.on_kick(at, &frame, after_ms),
            Command::Close(at, reason) => {
                self.with_conn(at, |_, _| Err(End::at_once(reason)));
            }
            Command::Ids(runs) => {
                self.desk.ids.add(runs);
                self.feed_starved();
            }
            Command::Resume => self.feed_starved(),
            Command::Quiesce => self.on_quiesce()?,
            Command::Drain => self.on_drain()?,
        }
        Ok(())
    }

    /// The connection at a place, if it is still the same one.
    fn find(&self, at: At) -> Option<usize> {
        let index = at.slot as usize;
        self.slots.get(index).filter(|slot| slot.conn.at.conn == at.conn).map(|_| index)
    }

    /// Lets a connection work, under guard: a panic ends this connection only. False when it is gone or on its end.
    fn with_conn(&mut self, at: At, work: impl FnOnce(&mut Conn, &mut Cx<'_>) -> Result<(), End>) -> bool {
        self.find(at).is_some_and(|index| self.work(index, work))
    }

    fn work(&mut self, index: usize, work: impl FnOnce(&mut Conn, &mut Cx<'_>) -> Result<(), End>) -> bool {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.ending.is_none()) else { return false };
        work_on(slot, &mut self.desk, &self.common, self.now_ms, self.quiesced, &mut self.starved, work);
        self.after_work(index);
        true
    }

    /// Puts a slot on the list of the round's end, and begins its end when it asked for that.
    fn after_work(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if !slot.touched {
            slot.touched = true;
            self.touched.push(index);
        }
        if let Some(ending) = slot.ending.filter(|_| slot.conn.stage != Stage::Ended) {
            let close_ms = self.now_ms + self.common.settings.handshake_ms;
            slot.conn.put_ws_close(self.draining, &mut slot.out);
            slot.conn.end(close_ms);
            if ending.end.flush {
                self.insert_timer(index, close_ms);
            }
        }
    }

    fn end(&mut self, index: usize, end: End) {
        if let Some(slot) = self.slots.get_mut(index) {
            set_end(slot, end);
        }
        self.after_work(index);
    }

    fn on_accept(&mut self, listener: usize, completion: Completion) -> io::Result<()> {
        let (more, cancelled) = (completion.more, completion.result == -libc::ECANCELED);
        let Some(transport) = self.listeners.get(listener).map(|l| l.transport) else { return Ok(()) };
        let mut pause = false;
        match completion.into_socket() {
            Ok(socket) => {
                self.common.metrics.accepted.inc();
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
            self.wheel.insert(self.now_ms + u64::try_from(ACCEPT_PAUSE.as_millis()).unwrap_or(100), ACCEPT_TIMER);
            return Ok(());
        }
        if self.accepting { self.arm_accepts() } else { self.tell_accept_stopped() }
    }

    /// Arms accepting wherever it is not; the kernel takes what waits in the queue at once.
    fn arm_accepts(&mut self) -> io::Result<()> {
        for (index, listener) in self.listeners.iter_mut().enumerate().filter(|(_, l)| !l.armed) {
            self.ring.accept(listener.socket.as_fd(), Target::Accept(index).token())?;
            listener.armed = true;
        }
        Ok(())
    }

    fn cancel_accepts(&mut self) -> io::Result<()> {
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
    fn adopt(&mut self, socket: OwnedFd, transport: Transport) {
        let peer = peer_of(&socket);
        if self.draining || !self.place.addresses.enter(peer.ip()) {
            let reason = if self.draining { CloseReason::Stopping } else { CloseReason::AddressLimit };
            self.common.metrics.closed.at(reason.index()).inc();
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
        let conn = Conn::new(at, transport, peer, settings, self.now_ms);
        let due = conn.due_ms(settings);
        entry.insert(Slot {
            socket,
            conn,
            generation: self.generation,
            out: Vec::new(),
            receive: Receive::Idle,
            sending: None,
            ending: None,
            touched: false,
            timers: 0,
            counted: 0,
            address: peer.ip(),
        });
        self.common.metrics.conns.inc();
        self.insert_timer(index, due);
        self.after_work(index);
    }

    fn on_receive(&mut self, key: Key, completion: &Completion) {
        let index = key.slot as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.generation == key.generation) else { return };
        if !completion.more {
            slot.receive = Receive::Idle;
        }
        let ending = slot.ending.is_some();
        match usize::try_from(completion.result) {
            Ok(0) => set_end(slot, End::at_once(CloseReason::Peer)),
            Ok(len) => {
                self.common.metrics.bytes_in.inc_by(len as u64);
                let bytes = completion.buffer.map_or(&[][..], |buffer| self.ring.received(buffer, len));
                if !ending {
                    let (desk, common) = (&mut self.desk, &self.common);
                    work_on(slot, desk, common, self.now_ms, self.quiesced, &mut self.starved, |conn, cx| conn.on_bytes(bytes, cx));
                }
            }
            Err(_) => match -completion.result {
                libc::ENOBUFS => self.common.metrics.buffers_dry.inc(),
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                _ => set_end(slot, End::at_once(CloseReason::Peer)),
            },
        }
        self.after_work(index);
    }

    fn on_sent(&mut self, key: Key, result: i32) {
        let index = key.slot as usize;
        let bytes = self.ring.sent(index);
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.generation == key.generation) else {
            return self.desk.pool.put(bytes);
        };
        let Some(sending) = slot.sending.take() else { return self.desk.pool.put(bytes) };
        match usize::try_from(result) {
            Ok(sent) => {
                self.common.metrics.bytes_out.inc_by(sent as u64);
                let from = sending.from + sent;
                if from < sending.len && slot.ending.is_none_or(|e| !e.cancelled) {
                    let token = Target::Send(key).token();
                    match self.ring.send(slot.socket.as_fd(), index, bytes, from, token) {
                        Ok(()) => slot.sending = Some(Sending { from, ..sending }),
                        Err(_) => set_end(slot, End::at_once(CloseReason::Peer)),
                    }
                } else {
                    self.desk.pool.put(bytes);
                }
            }
            Err(_) => {
                self.desk.pool.put(bytes);
                if !matches!(-result, libc::EINTR | libc::EAGAIN) {
                    set_end(slot, End::at_once(CloseReason::Peer));
                }
            }
        }
        self.after_work(index);
    }

    /// CONNACK in a send of its own: some clients lose what comes with it in one read (wire protocol §8.3).
    fn on_connack(&mut self, at: At, frame: &Bytes) -> io::Result<()> {
        let Some(index) = self.find(at) else { return Ok(()) };
        let waiting = self.slots.get(index).is_some_and(|s| s.conn.stage == Stage::Waiting);
        if waiting && self.work(index, |conn, cx| {
            conn.put(frame, cx);
            Ok(())
        }) {
            self.start_send(index)?;
            self.work(index, |conn, cx| conn.open(cx));
        }
        Ok(())
    }

    fn on_kick(&mut self, at: At, frame: &Bytes, after_ms: u32) {
        let Some(index) = self.find(at) else { return };
        let close_ms = self.now_ms + u64::from(after_ms);
        let worked = self.work(index, |conn, cx| {
            conn.put(frame, cx);
            if after_ms == 0 {
                return Err(End::after_flush(CloseReason::Kicked));
            }
            conn.kick(close_ms, cx.metrics);
            Ok(())
        });
        if worked && after_ms > 0 {
            self.insert_timer(index, close_ms);
        }
    }

    fn feed_starved(&mut self) {
        for key in std::mem::take(&mut self.starved) {
            let index = key.slot as usize;
            if self.slots.get(index).is_some_and(|s| s.generation == key.generation) {
                self.work(index, Conn::unpark);
            }
        }
    }

    /// No accepts, no more SENDs, and nobody new: connections that have not said who they are are closed.
    fn on_quiesce(&mut self) -> io::Result<()> {
        self.quiesced = true;
        let early = |s: &Slot| matches!(s.conn.stage, Stage::Start | Stage::Upgrade | Stage::Detect | Stage::Login);
        let strangers: Vec<usize> = self.slots.iter().filter(|(_, s)| early(s)).map(|(i, _)| i).collect();
        for index in strangers {
            self.end(index, End::at_once(CloseReason::Stopping));
        }
        self.cancel_accepts()
    }

    fn on_drain(&mut self) -> io::Result<()> {
        self.draining = true;
        let all: Vec<usize> = self.slots.iter().map(|(index, _)| index).collect();
        for index in all {
            self.end(index, End::after_flush(CloseReason::Stopping));
        }
        self.cancel_accepts()
    }

    fn on_timer(&mut self, key: u64) -> io::Result<()> {
        if key == ACCEPT_TIMER {
            return if self.accepting { self.arm_accepts() } else { Ok(()) };
        }
        let key = Key::unpack(key);
        let index = key.slot as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.generation == key.generation) else { return Ok(()) };
        slot.timers -= 1;
        let reading = slot.receive == Receive::Armed;
        let mut next = None;
        let (desk, common) = (&mut self.desk, &self.common);
        work_on(slot, desk, common, self.now_ms, self.quiesced, &mut self.starved, |conn, cx| {
            next = Some(conn.on_timer(reading, cx)?);
            Ok(())
        });
        // Another entry comes no later than this one would when the due time has only moved back.
        let insert = next.filter(|_| slot.timers == 0);
        self.after_work(index);
        if let Some(due) = insert {
            self.insert_timer(index, due);
        }
        Ok(())
    }

    fn insert_timer(&mut self, index: usize, due_ms: u64) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.timers += 1;
            let key = Key { slot: slot.conn.at.slot, generation: slot.generation };
            self.wheel.insert(due_ms, key.pack());
        }
    }

    fn attend_all(&mut self) -> io::Result<()> {
        let mut touched = std::mem::take(&mut self.touched);
        for index in touched.drain(..) {
            if let Some(slot) = self.slots.get_mut(index) {
                slot.touched = false;
                self.attend(index)?;
            }
        }
        if self.touched.is_empty() {
            self.touched = touched;
        }
        Ok(())
    }

    /// Brings a slot's requests in line with what its connection wants.
    fn attend(&mut self, index: usize) -> io::Result<()> {
        self.check_output(index);
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        let key = Key { slot: slot.conn.at.slot, generation: slot.generation };
        let Some(mut ending) = slot.ending else {
            self.start_send(index)?;
            return self.adjust_receive(index, key);
        };
        if ending.end.flush && !ending.half_closed {
            self.start_send(index)?;
            let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
            if slot.output() > 0 {
                return self.adjust_receive(index, key);
            }
            // Closing with unread input would reset the connection and lose the last bytes: half-close, then discard.
            let half = socket2::SockRef::from(&slot.socket).shutdown(std::net::Shutdown::Write);
            ending.half_closed = half.is_ok();
            ending.end.flush = half.is_ok();
            slot.conn.close_ms = self.now_ms + self.common.settings.linger_ms;
            slot.ending = Some(ending);
            let close_ms = slot.conn.close_ms;
            if half.is_ok() {
                self.insert_timer(index, close_ms);
                return self.adjust_receive(index, key);
            }
        }
        if ending.end.flush {
            return self.adjust_receive(index, key);
        }
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        if slot.is_quiet() {
            self.remove(index);
            return Ok(());
        }
        if !ending.cancelled {
            self.ring.cancel(slot.socket.as_fd(), Target::Cancel.token())?;
            slot.ending = Some(Ending { cancelled: true, ..ending });
        }
        Ok(())
    }

    /// Enforces the output bound and keeps the budget of the process.
    fn check_output(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.ending.is_none() && slot.output() > self.common.settings.output_bytes_max {
            set_end(slot, End::at_once(CloseReason::OutputFull));
            self.after_work(index);
        }
        let Some(slot) = self.slots.get_mut(index) else { return };
        let output = slot.output();
        if output > slot.counted {
            self.common.shared.output.add(output - slot.counted, u64::MAX);
        } else {
            self.common.shared.output.sub(slot.counted - output);
        }
        slot.counted = output;
    }

    /// Sends the output unless a send is under way.
    fn start_send(&mut self, index: usize) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.sending.is_none() && !s.out.is_empty()) else { return Ok(()) };
        let key = Key { slot: slot.conn.at.slot, generation: slot.generation };
        let bytes = std::mem::replace(&mut slot.out, Vec::new());
        slot.sending = Some(Sending { len: bytes.len(), from: 0 });
        self.common.metrics.sends.inc();
        self.ring.send(slot.socket.as_fd(), index, bytes, 0, Target::Send(key).token())
    }

    /// Arms or cancels the receive.
    fn adjust_receive(&mut self, index: usize, key: Key) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        let token = Target::Receive(key).token();
        match (slot.receive, slot.conn.wants_read(&self.common.settings)) {
            (Receive::Idle, true) => {
                self.ring.receive(slot.socket.as_fd(), token)?;
                slot.receive = Receive::Armed;
            }
            (Receive::Armed, false) => {
                self.common.metrics.reads_paused.inc();
                self.ring.cancel_one(token, Target::Cancel.token())?;
                slot.receive = Receive::Cancelled;
            }
            _ => {}
        }
        Ok(())
    }

    /// The last request has completed: the socket is closed and the connection forgotten.
    fn remove(&mut self, index: usize) {
        let slot = self.slots.remove(index);
        debug_assert!(slot.is_quiet(), "a socket with requests under way stays open");
        self.common.shared.output.sub(slot.counted);
        self.place.addresses.leave(slot.address);
        self.desk.pool.put(slot.out);
        let reason = slot.ending.map_or(CloseReason::Peer, |e| e.end.reason);
        self.common.metrics.closed.at(reason.index()).inc();
        self.common.metrics.conns.dec();
        if slot.conn.known {
            self.desk.events.push(Event::Closed(slot.conn.at, reason));
        }
    }
}

/// Lets the connection of a slot work, under guard.
fn work_on(
    slot: &mut Slot,
    desk: &mut Desk,
    common: &Common,
    now_ms: u64,
    quiesced: bool,
    starved: &mut Vec<Key>,
    work: impl FnOnce(&mut Conn, &mut Cx<'_>) -> Result<(), End>,
) {
    if slot.out.capacity() == 0 {
        slot.out = desk.pool.get();
    }
    let (was_starved, conn) = (slot.conn.starved, &mut slot.conn);
    let mut cx = Cx {
        out: &mut slot.out,
        events: &mut desk.events,
        encoder: &mut desk.encoder,
        ids: &mut desk.ids,
        settings: &common.settings,
        shared: &common.shared,
        metrics: &common.metrics,
        scratch: &mut desk.scratch,
        unmasked: &mut desk.unmasked,
        now_ms,
        quiesced,
    };
    let result = wk_lifecycle::guarded(|| work(conn, &mut cx));
    if slot.out.is_empty() {
        desk.pool.put(std::mem::take(&mut slot.out));
    }
    if slot.conn.starved && !was_starved {
        starved.push(Key { slot: slot.conn.at.slot, generation: slot.generation });
    }
    match result {
        Ok(Ok(())) => {}
        Ok(Err(end)) => set_end(slot, end),
        Err(_) => set_end(slot, End::at_once(CloseReason::Panicked)),
    }
}

/// Begins the end of a slot, or makes it a quick one. The first reason stays.
fn set_end(slot: &mut Slot, end: End) {
    match &mut slot.ending {
        Some(ending) => ending.end.flush &= end.flush,
        None => slot.ending = Some(Ending { end, half_closed: false, cancelled: false }),
    }
}
