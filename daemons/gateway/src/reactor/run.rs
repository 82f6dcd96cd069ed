//! The loop of a reactor: wait, take completions, commands and timers, then attend to every socket that was touched.
//!
//! A round handles input first and does its I/O at the end, so that everything for one connection leaves in one send.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::eventfd::EventFd;
use slab::Slab;
use wk_link::item::Encoder;

use super::Common;
use super::accept::{Addresses, Listener};
use super::buffer::Pool;
use super::conn::{Conn, Cx, End, Stage};
use super::slot::{Ending, Key, Receive, Slot, Target};
use super::sys::{Completion, Uring};
use super::timer::Wheel;
use super::ws;
use crate::exchange::{At, CloseReason, Command, Event, Mailbox, Transport};
use wk_rpc::clock::monotonic_ms;
use wk_types::IdStock;

/// Key of the wheel for "arm accepting again"; no slot has it because slots stay far below.
pub(super) const ACCEPT_TIMER: u64 = u64::MAX;

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
    /// Set when nobody reads the mailbox any more.
    pub(super) ended: Arc<AtomicBool>,
}

/// One reactor.
pub(super) struct Reactor {
    pub(super) ring: Uring,
    pub(super) place: Place,
    pub(super) common: Common,
    pub(super) listeners: Vec<Listener>,
    /// Accepting is wanted.
    pub(super) accepting: bool,
    /// [`Event::AcceptStopped`] is owed.
    pub(super) stop_accept: bool,
    pub(super) draining: bool,
    pub(super) next_target: usize,
    pub(super) slots: Slab<Slot>,
    pub(super) generation: u32,
    pub(super) next_conn: u64,
    pub(super) wheel: Wheel,
    /// Slots to attend to at the end of the round.
    pub(super) touched: Vec<usize>,
    pub(super) desk: Desk,
}

/// What connections work with; apart from the slots, so that both can be borrowed.
pub(super) struct Desk {
    pub(super) events: Vec<Event>,
    pub(super) encoder: Encoder,
    pub(super) ids: IdStock,
    pub(super) pool: Pool,
    pub(super) scratch: Vec<u8>,
    pub(super) unmasked: Vec<u8>,
    /// Connections with SENDs held back for want of ids or a full link.
    pub(super) starved: Vec<Key>,
    /// Time of this round.
    pub(super) now_ms: u64,
    /// No SENDs are handed over any more.
    pub(super) quiesced: bool,
}

impl Reactor {
    pub(super) fn new(ring: Uring, place: Place, listeners: Vec<(Transport, TcpListener)>, common: Common) -> Self {
        let now_ms = monotonic_ms();
        let listeners = listeners.into_iter().map(|(transport, socket)| Listener { transport, socket, armed: false }).collect();
        let desk = Desk {
            events: Vec::new(),
            encoder: Encoder::default(),
            ids: IdStock::default(),
            pool: Pool::default(),
            scratch: Vec::new(),
            unmasked: Vec::new(),
            starved: Vec::new(),
            now_ms,
            quiesced: false,
        };
        Self {
            ring,
            common,
            listeners,
            accepting: false,
            stop_accept: false,
            draining: false,
            next_target: 0,
            slots: Slab::new(),
            generation: 0,
            next_conn: 0,
            wheel: Wheel::new(now_ms),
            touched: Vec::new(),
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
        self.place.ended.store(true, Ordering::Release);
    }

    fn rounds(&mut self) -> io::Result<()> {
        let (mut completions, mut commands, mut due) = (Vec::new(), Vec::new(), Vec::new());
        self.ring.read_event(self.place.event.as_fd(), Target::Wake.token())?;
        loop {
            let wait = if self.place.mailbox.may_sleep() { self.time_to_timer() } else { Some(Duration::ZERO) };
            self.ring.enter(wait, &mut completions)?;
            self.place.mailbox.awake();
            self.desk.now_ms = monotonic_ms();
            self.common.metrics.rounds.inc();
            for completion in completions.drain(..) {
                self.on_completion(completion)?;
            }
            self.place.mailbox.take(&mut commands);
            for command in commands.drain(..) {
                self.on_command(command)?;
            }
            self.wheel.expire(self.desk.now_ms, &mut due);
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
                    conn.recv(&frame, cx);
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
            // Who has asked may have gone.
            Command::Beat(tell) => drop(tell.send(())),
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
        work_on(slot, &mut self.desk, &self.common, work);
        self.after_work(index);
        true
    }

    /// Puts a slot on the list of the round's end, and begins its end when it asked for that.
    pub(super) fn after_work(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if !slot.touched {
            slot.touched = true;
            self.touched.push(index);
        }
        if let Some(mut ending) = slot.ending.filter(|_| slot.conn.stage != Stage::Ended) {
            let close_ms = self.desk.now_ms + self.common.settings.handshake_ms;
            if slot.conn.is_ws && ending.end.reason.is_told() {
                ws::put_close(&mut slot.out, ending.end.reason == CloseReason::Stopping);
                ending.end.flush = true;
                slot.ending = Some(ending);
            }
            if !slot.conn.known {
                self.common.shared.newcomer_left();
            }
            slot.conn.end(close_ms);
            if ending.end.flush {
                self.insert_timer(index, close_ms);
            }
        }
    }

    pub(super) fn end(&mut self, index: usize, end: End) {
        if let Some(slot) = self.slots.get_mut(index) {
            set_end(slot, end);
        }
        self.after_work(index);
    }

    /// CONNACK in a send of its own: some clients lose what comes with it in one read (wire protocol §8.3).
    fn on_connack(&mut self, at: At, frame: &Bytes) -> io::Result<()> {
        let Some(index) = self.find(at) else { return Ok(()) };
        let waiting = self.slots.get(index).is_some_and(|s| s.conn.stage == Stage::Waiting);
        if waiting
            && self.work(index, |conn, cx| {
                conn.put(frame, cx);
                Ok(())
            })
        {
            self.start_send(index)?;
            self.work(index, |conn, cx| conn.open(cx));
        }
        Ok(())
    }

    fn on_kick(&mut self, at: At, frame: &Bytes, after_ms: u32) {
        let Some(index) = self.find(at) else { return };
        let close_ms = self.desk.now_ms + u64::from(after_ms);
        // A client that is on its way out has been told why.
        let worked = self.work(index, |conn, cx| {
            if conn.stage != Stage::Kicked {
                conn.put(frame, cx);
            }
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
        for key in std::mem::take(&mut self.desk.starved) {
            let index = key.slot as usize;
            if let Some(slot) = self.slots.get_mut(index).filter(|s| s.generation == key.generation) {
                // It is off the list: if it still starves it puts itself on again.
                slot.conn.starved = false;
                self.work(index, Conn::unpark);
            }
        }
    }

    /// No accepts and no more SENDs. Who was accepted is served his handshake all the same: he would come again, but had been refused. Who does
    /// not even begin with it is let go soon.
    fn on_quiesce(&mut self) -> io::Result<()> {
        self.desk.quiesced = true;
        let settings = &self.common.settings;
        let silent: Vec<(usize, u64)> =
            self.slots.iter_mut().filter_map(|(index, slot)| Some((index, slot.conn.hurry(settings)?))).collect();
        for (index, due_ms) in silent {
            if due_ms <= self.desk.now_ms {
                self.end(index, End::at_once(CloseReason::Stopping));
            } else {
                self.insert_timer(index, due_ms);
            }
        }
        self.cancel_accepts()
    }

    fn on_drain(&mut self) -> io::Result<()> {
        self.draining = true;
        // Who has said nothing has been told nothing: there are no last bytes to wait for.
        let all: Vec<(usize, bool)> = self.slots.iter().map(|(index, slot)| (index, !slot.conn.is_silent())).collect();
        for (index, flush) in all {
            self.end(index, End { reason: CloseReason::Stopping, flush });
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
        let watched = slot.watch_ms > 0 && slot.watch_ms <= self.desk.now_ms;
        if watched {
            slot.watch_ms = 0;
        }
        let reading = slot.receive == Receive::Armed;
        let mut next = None;
        let (desk, common) = (&mut self.desk, &self.common);
        work_on(slot, desk, common, |conn, cx| {
            next = Some(conn.on_timer(reading, cx)?);
            Ok(())
        });
        // Another entry of the connection comes no later than this one would when the due time has only moved back.
        let insert = next.filter(|_| slot.timers == 0 || slot.watch_ms > 0);
        if watched {
            self.on_watch(index);
        }
        self.after_work(index);
        if let Some(due) = insert {
            self.insert_timer(index, due);
        }
        Ok(())
    }

    pub(super) fn insert_timer(&mut self, index: usize, due_ms: u64) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.timers += 1;
            let key = Key { slot: slot.conn.at.slot, generation: slot.generation };
            self.wheel.insert(due_ms, key.pack());
        }
    }
}

/// Lets the connection of a slot work, under guard.
pub(super) fn work_on(slot: &mut Slot, desk: &mut Desk, common: &Common, work: impl FnOnce(&mut Conn, &mut Cx<'_>) -> Result<(), End>) {
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
        now_ms: desk.now_ms,
        quiesced: desk.quiesced,
    };
    let result = wk_lifecycle::guarded(|| work(conn, &mut cx));
    if slot.out.is_empty() {
        desk.pool.put(std::mem::take(&mut slot.out));
    }
    if slot.conn.starved && !was_starved {
        desk.starved.push(Key { slot: slot.conn.at.slot, generation: slot.generation });
    }
    match result {
        Ok(Ok(())) => {}
        Ok(Err(end)) => set_end(slot, end),
        Err(_) => set_end(slot, End::at_once(CloseReason::Panicked)),
    }
}

/// Begins the end of a slot, or makes it a quick one. The first reason stays.
pub(super) fn set_end(slot: &mut Slot, end: End) {
    match &mut slot.ending {
        Some(ending) => ending.end.flush &= end.flush,
        None => slot.ending = Some(Ending { end, half_closed: false, cancelled: false }),
    }
}
