//! Requests of sockets: what has completed, and which are made at the end of a round.

use std::io;
use std::os::fd::AsFd;

use super::conn::End;
use super::run::{Reactor, set_end, work_on};
use super::slot::{AfterSend, Ending, Key, Receive, Sending, Slot, Target};
use super::sys::Completion;
use crate::exchange::{CloseReason, Event};
use crate::limits::OUTPUT_CROWDED_BYTES_MAX;

impl Reactor {
    pub(super) fn on_receive(&mut self, key: Key, completion: &Completion) {
        let index = key.slot as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.generation == key.generation) else { return };
        if !completion.more {
            slot.receive = Receive::Idle;
        }
        let ending = slot.ending.is_some();
        match usize::try_from(completion.result) {
            Ok(0) => end_of_input(slot),
            Ok(len) => {
                self.common.metrics.bytes_in.inc_by(len as u64);
                let bytes = completion.buffer.map_or(&[][..], |buffer| self.ring.received(buffer, len));
                if !ending {
                    let (desk, common) = (&mut self.desk, &self.common);
                    work_on(slot, desk, common, |conn, cx| conn.on_bytes(bytes, cx));
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

    pub(super) fn on_sent(&mut self, key: Key, result: i32) {
        let index = key.slot as usize;
        let bytes = self.ring.sent(index);
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.generation == key.generation) else {
            return self.desk.pool.put(bytes);
        };
        let Some(sending) = slot.sending.take() else { return self.desk.pool.put(bytes) };
        let after = sending.after(result, self.desk.now_ms);
        if let AfterSend::Done | AfterSend::Rest(_) = after {
            self.common.metrics.bytes_out.inc_by(u64::try_from(result).unwrap_or(0));
        }
        match after {
            AfterSend::Rest(rest) if slot.ending.is_none_or(|e| !e.cancelled) => {
                match self.ring.send(slot.socket.as_fd(), index, bytes, rest.from, Target::Send(key).token()) {
                    Ok(()) => slot.sending = Some(rest),
                    Err(_) => set_end(slot, End::at_once(CloseReason::Peer)),
                }
            }
            AfterSend::Done | AfterSend::Rest(_) => self.desk.pool.put(bytes),
            AfterSend::Failed => {
                self.desk.pool.put(bytes);
                set_end(slot, End::at_once(CloseReason::Peer));
            }
        }
        self.after_work(index);
    }

    pub(super) fn attend_all(&mut self) -> io::Result<()> {
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
            // Closing with unread input would reset the connection and lose the last bytes: half-close, then discard up to the end of stream.
            let half = !slot.eof && socket2::SockRef::from(&slot.socket).shutdown(std::net::Shutdown::Write).is_ok();
            ending.half_closed = half;
            ending.end.flush = half;
            slot.conn.close_ms = self.desk.now_ms + self.common.settings.linger_ms;
            slot.ending = Some(ending);
            let close_ms = slot.conn.close_ms;
            if half {
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

    /// Keeps the budget of the process and enforces the output bounds, on the connections the output waits for.
    fn check_output(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let (settings, budget) = (&self.common.settings, &self.common.shared.output);
        let output = slot.output();
        if output > slot.counted {
            budget.add(output - slot.counted);
        } else {
            budget.sub(slot.counted - output);
        }
        slot.counted = output;
        let reason = match output {
            _ if slot.ending.is_some() => return,
            _ if output > settings.output_bytes_max => CloseReason::OutputFull,
            _ if output > OUTPUT_CROWDED_BYTES_MAX && budget.get() > settings.output_total_bytes_max => CloseReason::OutputBudget,
            _ => return,
        };
        self.end(index, End::at_once(reason));
    }

    /// Sends the output; behind a send that is under way it waits.
    pub(super) fn start_send(&mut self, index: usize) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(index).filter(|s| !s.out.is_empty()) else { return Ok(()) };
        if slot.sending.is_some() {
            self.watch_send(index);
            return Ok(());
        }
        let key = Key { slot: slot.conn.at.slot, generation: slot.generation };
        let bytes = std::mem::take(&mut slot.out);
        slot.sending = Some(Sending { len: bytes.len(), from: 0, since_ms: self.desk.now_ms });
        self.common.metrics.sends.inc();
        self.ring.send(slot.socket.as_fd(), index, bytes, 0, Target::Send(key).token())
    }

    /// Output waits behind a send: a timer looks whether this lasts. One at a time per slot.
    fn watch_send(&mut self, index: usize) {
        let stall_ms = self.common.settings.stall_ms;
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.watch_ms == 0) else { return };
        if let Some(due_ms) = slot.stalled_ms(stall_ms) {
            slot.watch_ms = due_ms;
            self.insert_timer(index, due_ms);
        }
    }

    /// The timer of [`Reactor::watch_send`] came.
    pub(super) fn on_watch(&mut self, index: usize) {
        let (now_ms, stall_ms) = (self.desk.now_ms, self.common.settings.stall_ms);
        match self.slots.get(index).and_then(|slot| slot.stalled_ms(stall_ms)) {
            Some(due_ms) if due_ms <= now_ms => self.end(index, End::at_once(CloseReason::OutputStalled)),
            Some(_) => self.watch_send(index),
            None => {}
        }
    }

    /// Arms or cancels the receive.
    fn adjust_receive(&mut self, index: usize, key: Key) -> io::Result<()> {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| !slot.eof) else { return Ok(()) };
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

/// The peer has said everything. What waits for it is still sent, with a bound on the time; then there is nothing to linger for.
fn end_of_input(slot: &mut Slot) {
    slot.eof = true;
    let unsent = match slot.ending {
        Some(ending) => !ending.half_closed,
        None => slot.output() > 0,
    };
    set_end(slot, if unsent { End::after_flush(CloseReason::Peer) } else { End::at_once(CloseReason::Peer) });
}
