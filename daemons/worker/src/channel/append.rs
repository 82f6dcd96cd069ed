//! Appends: batches of channels that are ready, replies, repetition of what is unknown.
//!
//! Never a timer: what is there leaves as soon as fewer than [`APPENDS_IN_FLIGHT`] requests are open; what comes meanwhile forms the next one.

use bytes::{Bytes, BytesMut};
use wk_link::record::ChannelBatch;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_types::Reason;
use wk_types::limits::APPEND_CHANNELS_MAX;

use super::cache::{Chan, Decided, Flight, Verdict};
use super::handle::{Channels, Out, answer};
use crate::limits::{
    APPEND_BYTES_MAX, APPEND_MESSAGES_MAX, APPEND_RETRY_MAX_MS, APPEND_RETRY_MIN_MS, APPENDS_IN_FLIGHT, UNDISTRIBUTED_BYTES_MAX,
};
use crate::origin::Now;

impl Channels {
    /// Sends the next requests, one batch per channel that is ready.
    pub(super) fn start_appends(&mut self, out: &mut impl Out) {
        while !self.ready.is_empty() && self.requests.len() < APPENDS_IN_FLIGHT {
            if self.undistributed_bytes > UNDISTRIBUTED_BYTES_MAX {
                return;
            }
            let (mut chans, mut batches, mut messages) = (Vec::new(), BytesMut::new(), 0);
            while batches.len() < APPEND_BYTES_MAX && messages < APPEND_MESSAGES_MAX && chans.len() < APPEND_CHANNELS_MAX {
                let Some(index) = self.ready.pop_front() else { break };
                let Some(flight) = self.prepare(index) else { continue };
                batches.extend_from_slice(&flight.0);
                messages += flight.1;
                chans.push(index);
            }
            let Ok(channels @ 1..) = u32::try_from(chans.len()) else { continue };
            self.counts.appends += 1;
            let request = self.requests.insert(chans);
            out.append(request, channels, batches.freeze());
        }
    }

    /// The frame of a channel's append and its messages: the one to repeat, or a new one from its queue.
    fn prepare(&mut self, index: usize) -> Option<(Bytes, usize)> {
        let moves = self.moves(index);
        let (rules, chan) = (&self.rules, self.chans.get_mut(index)?);
        chan.queued = false;
        if !moves {
            // When its bucket opens it is queued again.
            return None;
        }
        let tracker = &mut self.buckets.get_mut(usize::from(chan.bucket.index()))?.tracker;
        let flight = match chan.flight.take() {
            Some(flight) => flight,
            None => {
                let floor = tracker.begin();
                gather(chan, rules.batch_messages, rules.batch_bytes, floor)
            }
        };
        let flight = chan.flight.insert(Flight { attempts: flight.attempts + 1, sent: true, ..flight });
        Some((flight.frame.clone(), flight.messages))
    }

    /// The reply to a request; `Err`: it failed as a whole with this code.
    pub fn appended(&mut self, request: usize, reply: Result<pb::AppendReply, Code>, now: Now, out: &mut impl Out) {
        let Some(chans) = self.requests.try_remove(request) else { return };
        let mut results = match reply {
            // A reply of another length is a bug of the cluster: which channel is which cannot be told.
            Ok(reply) if reply.channels.len() == chans.len() => reply.channels.into_iter().map(Ok).collect(),
            Ok(_) => vec![Err(Code::UnknownOutcome); chans.len()],
            Err(code) => vec![Err(code); chans.len()],
        }
        .into_iter();
        for index in chans {
            match results.next() {
                Some(Ok(pb::ChannelAppended { error: Some(error), .. })) => self.not_appended(index, error.code(), now, out),
                Some(Ok(appended)) => self.stored(index, &appended, now, out),
                Some(Err(code)) => self.not_appended(index, code, now, out),
                None => {}
            }
            self.touch(index);
        }
    }

    /// A channel's batch is stored: answers and distribution, in order.
    fn stored(&mut self, index: usize, appended: &pb::ChannelAppended, now: Now, out: &mut impl Out) {
        let Some(chan) = self.chans.get_mut(index) else { return };
        let Some(flight) = chan.flight.take() else { return };
        let bucket = usize::from(chan.bucket.index());
        if appended.message_ids.len() != flight.messages || appended.message_seqs.len() != flight.messages {
            // The outcome cannot be read: repeated, and found as duplicates.
            chan.flight = Some(flight);
            self.not_appended(index, Code::UnknownOutcome, now, out);
            return;
        }
        let (floor, retried) = (flight.floor, flight.attempts > 1);
        let (mut at, mut open, mut open_before) = (0_usize, 0_u32, 0_u32);
        for decided in flight.entries {
            if decided.verdict != Verdict::Store {
                self.finish(index, decided, now, out);
                continue;
            }
            let pending = decided.pending;
            let id = appended.message_ids.get(at).copied().unwrap_or_default();
            let seq = appended.message_seqs.get(at).copied().unwrap_or_default();
            let duplicate = appended.duplicates.get(at).copied().unwrap_or(false);
            at += 1;
            answer(&pending, Reason::SUCCESS, (id, seq), out);
            if duplicate {
                self.counts.duplicates += 1;
                // Stored by an earlier attempt of ours whose reply nobody saw: its distribution is still ours. What an earlier life stored
                // was in the journal.
                if id != pending.message_id || !retried {
                    continue;
                }
                // Its journal entry is that of the earlier attempt, somewhere above the floor: the cursor waits there.
                open_before += 1;
                self.enqueue(index, pending, seq, appended.timestamp, floor + 1);
                continue;
            }
            self.counts.stored += 1;
            open += 1;
            self.enqueue(index, pending, seq, appended.timestamp, appended.index);
        }
        if let Some(state) = self.buckets.get_mut(bucket) {
            state.tracker.opened(floor + 1, open_before);
            state.tracker.opened(appended.index, open);
            state.tracker.end(floor);
        }
        if let Some(seen) = usize::try_from(appended.group).ok().and_then(|g| self.group_seen.get_mut(g)) {
            *seen = (*seen).max(appended.index);
        }
    }

    /// A channel's batch was not stored, or nobody knows.
    fn not_appended(&mut self, index: usize, code: Code, now: Now, out: &mut impl Out) {
        if let Some(flight) = self.chans.get_mut(index).and_then(|c| c.flight.as_mut()) {
            flight.sent = false;
        }
        if code == Code::Fenced {
            self.fenced(index, now, out);
        }
        let again = self.is_repeated(index, code);
        let Some(chan) = self.chans.get_mut(index) else { return };
        let Some(flight) = &mut chan.flight else { return };
        flight.unknown |= code == Code::UnknownOutcome;
        if again {
            self.counts.append_retries += 1;
            let doubled = APPEND_RETRY_MIN_MS << flight.attempts.saturating_sub(1).min(8);
            self.delayed.push((now.mono_ms.saturating_add(doubled.min(APPEND_RETRY_MAX_MS)), index));
            return;
        }
        let Some(flight) = chan.flight.take() else { return };
        self.release(index, flight.floor);
        for mut decided in flight.entries {
            if decided.verdict == Verdict::Store {
                decided.verdict = Verdict::Refuse(Reason::SYSTEM_ERROR);
            }
            self.finish(index, decided, now, out);
        }
    }

    pub(super) fn release(&mut self, index: usize, floor: u64) {
        let bucket = self.chans.get(index).map(|c| usize::from(c.bucket.index()));
        if let Some(state) = bucket.and_then(|b| self.buckets.get_mut(b)) {
            state.tracker.end(floor);
        }
    }

    /// Queues what is due for repetition; answers clients whose deadline has passed.
    pub(super) fn repeat_appends(&mut self, now: Now, out: &mut impl Out) {
        let (due, later) = std::mem::take(&mut self.delayed).into_iter().partition::<Vec<_>, _>(|(at, _)| *at <= now.mono_ms);
        self.delayed = later;
        for (_, index) in due {
            if self.give_up_late(index, now, out) {
                continue;
            }
            if let Some(chan) = self.chans.get_mut(index)
                && chan.flight.is_some()
                && !chan.queued
            {
                chan.queued = true;
                self.ready.push_back(index);
            }
        }
        let slow: Vec<usize> = self.requests.iter().flat_map(|(_, chans)| chans.iter().copied()).collect();
        for index in slow {
            self.give_up_late(index, now, out);
        }
    }

    /// Answers reason 15 to clients that have waited too long. True when the append was called off: it is certain that nothing of it was
    /// stored, so its messages go back to the queue.
    fn give_up_late(&mut self, index: usize, now: Now, out: &mut impl Out) -> bool {
        let Some(chan) = self.chans.get_mut(index) else { return false };
        let Some(flight) = &mut chan.flight else { return false };
        let late = |d: &Decided| d.verdict == Verdict::Store && !d.pending.answered && Self::is_late(&d.pending, now);
        if !flight.entries.iter().any(late) {
            return false;
        }
        if flight.unknown || flight.sent {
            // The order of the channel stays bound to this append, but the client does not wait for it.
            for decided in flight.entries.iter_mut().filter(|d| late(d)) {
                answer(&decided.pending, Reason::SYSTEM_ERROR, (decided.pending.message_id, 0), out);
                decided.pending.answered = true;
                self.counts.late += 1;
            }
            return false;
        }
        let Some(flight) = chan.flight.take() else { return false };
        for mut decided in flight.entries.into_iter().rev() {
            if late(&decided) {
                decided.verdict = Verdict::Refuse(Reason::SYSTEM_ERROR);
                self.counts.late += 1;
            }
            chan.decided.push_front(decided);
        }
        self.release(index, flight.floor);
        self.touch(index);
        self.move_on(index, now, out);
        true
    }
}

/// Takes the next batch from a channel's queue: up to the bounds, in order, with what is answered on the way.
fn gather(chan: &mut Chan, messages_max: usize, bytes_max: usize, floor: u64) -> Flight {
    let (mut entries, mut messages, mut bytes) = (Vec::new(), 0, 0);
    while let Some(next) = chan.decided.front() {
        if next.verdict == Verdict::Store {
            let len = next.pending.message.len();
            if messages > 0 && (messages >= messages_max || bytes + len > bytes_max) {
                break;
            }
            messages += 1;
            bytes += len;
        }
        let Some(next) = chan.decided.pop_front() else { break };
        entries.push(next);
    }
    let mut frame = BytesMut::with_capacity(bytes + messages * 12 + chan.key.id.len() + 16);
    let stores: Vec<&[u8]> = entries.iter().filter(|d| d.verdict == Verdict::Store).map(|d| &*d.pending.message).collect();
    let senders = entries.iter().filter(|d| d.verdict == Verdict::Store).map(|d| (d.pending.conn, &*d.pending.named));
    ChannelBatch::encode_sent(&mut frame, &chan.key.id, chan.key.kind, stores.into_iter(), senders);
    Flight { entries, frame: frame.freeze(), messages, attempts: 0, unknown: false, sent: false, floor }
}
