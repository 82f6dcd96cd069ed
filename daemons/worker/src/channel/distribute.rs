//! Distribution: one queue per channel, receivers by tag, one Deliver per push worker and thousand receivers.

use std::sync::Arc;

use bytes::Bytes;
use wk_link::Keep;
use wk_link::item::{self, Receivers};
use wk_link::record::{Message, Stored as Row, encode_message};
use wk_proto::cluster::v1 as pb;
use wk_types::channel::base_id;
use wk_types::{ConnId, Reason};

use super::cache::{Answer, Dist, Pending, TagState};
use super::handle::{Channels, Out};
use super::tag::{Source, Tag, source};
use crate::limits::{CURSOR_LAG_MAX, TAG_UIDS_MAX};
use crate::origin::Now;

/// A message whose Delivers are under way.
#[derive(Debug)]
pub struct Job {
    bucket: u16,
    /// Journal index; 0: no cursor waits.
    index: u64,
    /// Life of the cursor that waits.
    life: u32,
    /// Delivers that are not done, plus one while they are being sent.
    open: u32,
    /// Unstored: who is told in the end.
    answer: Option<(Answer, ConnId, Bytes)>,
}

impl Job {
    /// Bucket of the channel.
    pub(super) fn bucket(&self) -> u16 {
        self.bucket
    }
}

/// Marks tokens of Delivers; all other tokens are origins.
const JOB: u64 = 1 << 63;

/// How often memory is swept. Unit: ms.
const SWEEP_MS: u64 = 5_000;

impl Channels {
    /// A stored message joins the queue of its channel.
    pub(super) fn enqueue(&mut self, chan: usize, pending: Pending, seq: u64, timestamp_s: i64, index: u64) {
        let Pending { message, conn, named, .. } = pending;
        let bucket = self.chans.get(chan).map(|c| usize::from(c.bucket.index()));
        let life = bucket.and_then(|b| self.buckets.get(b)).map_or(0, |b| b.tracker.life());
        self.push(chan, Dist { message, seq, timestamp_s, sender_conn: conn, named, receivers: None, index, life, answer: None });
    }

    /// An unstored message joins the queue of its channel.
    pub(super) fn enqueue_unstored(&mut self, chan: usize, pending: Pending, now: Now) {
        let answer = Some(Answer { origin: pending.origin, wants_ack: pending.wants_ack() });
        let Pending { message, conn, named, receivers, .. } = pending;
        let timestamp_s = now.unix_ms / 1000;
        self.push(chan, Dist { message, seq: 0, timestamp_s, sender_conn: conn, named, receivers, index: 0, life: 0, answer });
    }

    fn push(&mut self, index: usize, dist: Dist) {
        if let Some(chan) = self.chans.get_mut(index) {
            self.undistributed_bytes += dist.message.len();
            chan.dist.push_back(dist);
            self.touch(index);
        }
    }

    /// Messages of a journal entry are distributed once more: their Delivers were not settled in an earlier life.
    pub fn replay(&mut self, entry: &pb::JournalEntry, now: Now) {
        let Some(channel) = &entry.channel else { return };
        let kind = wk_types::ChannelType(u8::try_from(channel.r#type).unwrap_or(0));
        let index = self.chan(&channel.id, kind, now.mono_ms);
        let bucket = self.chans.get(index).map_or(0, |c| c.bucket.index());
        let Some(state) = self.buckets.get_mut(usize::from(bucket)) else { return };
        if entry.index <= state.tracker.cursor() || state.open {
            return;
        }
        let Ok(rows) = Row::read_all(&entry.records) else {
            self.counts.broken += 1;
            return;
        };
        state.tracker.opened(entry.index, u32::try_from(rows.len()).unwrap_or(u32::MAX));
        self.counts.replayed += u64::try_from(rows.len()).unwrap_or(0);
        let life = state.tracker.life();
        let senders = entry.senders.iter().map(|conn| ConnId(*conn)).chain(std::iter::repeat(ConnId::NONE));
        let names = entry.named.iter().map(String::as_str).chain(std::iter::repeat(""));
        for ((row, sender_conn), named) in rows.into_iter().zip(senders).zip(names) {
            let (message, named) = (encode_message(&row.message), named.into());
            let (seq, timestamp_s) = (row.message_seq, row.timestamp_s);
            let dist = Dist { message, seq, timestamp_s, sender_conn, named, receivers: None, index: entry.index, life, answer: None };
            self.push(index, dist);
        }
    }

    /// Sends the Delivers of a channel's queue, in order, until receivers or room are missing.
    pub(super) fn distribute(&mut self, index: usize, now: Now, out: &mut impl Out) {
        loop {
            let Some(chan) = self.chans.get_mut(index) else { return };
            if chan.dist.is_empty() || chan.blocked {
                return;
            }
            if self.owners.version == 0 || self.push_moves || out.congested() {
                chan.blocked = true;
                self.blocked.push_back(index);
                return;
            }
            let Some(tag) = self.tag(index, now, out) else { return };
            let Some(chan) = self.chans.get_mut(index) else { return };
            let Some(dist) = chan.dist.pop_front() else { return };
            self.undistributed_bytes = self.undistributed_bytes.saturating_sub(dist.message.len());
            self.send_out(index, dist, &tag, out);
        }
    }

    /// The receivers of the message in front: those it names, or those of the channel; `None`: they are being read.
    fn tag(&mut self, index: usize, now: Now, out: &mut impl Out) -> Option<Arc<Tag>> {
        let chan = self.chans.get_mut(index)?;
        if let Some(uids) = chan.dist.front().and_then(|d| d.receivers.as_ref()) {
            self.counts.tags += 1;
            return Some(Arc::new(Tag::build(uids.iter().map(|uid| &**uid), &self.owners)));
        }
        match &chan.tag {
            TagState::Ready(tag) if tag.version == self.owners.version => {
                chan.tag_used_ms = now.mono_ms;
                return Some(Arc::clone(tag));
            }
            TagState::Loading => return None,
            TagState::Ready(_) | TagState::Unknown => {}
        }
        match source(chan.key.kind, &chan.key.id) {
            Source::Fixed(uids) => {
                let tag = Arc::new(Tag::build(uids, &self.owners));
                self.counts.tags += 1;
                chan.tag = TagState::Ready(Arc::clone(&tag));
                chan.tag_used_ms = now.mono_ms;
                Some(tag)
            }
            Source::Members(_) => {
                chan.tag = TagState::Loading;
                let channel = pb::ChannelRef { id: base_id(&chan.key.id).to_owned(), r#type: u32::from(chan.key.kind.0) };
                let list = pb::ListKey { list: pb::List::Subscribers.into(), channel: Some(channel) };
                out.members(index, chan.facts.epoch, list);
                None
            }
        }
    }

    /// The members of a channel; `None`: they could not be read, which is tried again with the next tick.
    pub fn members(&mut self, index: usize, epoch: u32, members: Option<Vec<String>>, now: Now) {
        let Some(chan) = self.chans.get_mut(index) else { return };
        if !matches!(chan.tag, TagState::Loading) {
            // Forgotten meanwhile; the channel reads anew when it needs to.
            return;
        }
        let members = members.filter(|_| epoch == chan.facts.epoch);
        let Some(members) = members else {
            self.reload.push(index);
            return;
        };
        let extra = match source(chan.key.kind, &chan.key.id) {
            Source::Members(extra) => extra.filter(|e| !members.iter().any(|m| m == e)),
            Source::Fixed(_) => None,
        };
        let tag = Tag::build(members.iter().map(String::as_str).chain(extra), &self.owners);
        self.counts.tags += 1;
        chan.tag = TagState::Ready(Arc::new(tag));
        chan.tag_used_ms = now.mono_ms;
        self.touch(index);
    }

    fn send_out(&mut self, index: usize, dist: Dist, tag: &Tag, out: &mut impl Out) {
        let Some(chan) = self.chans.get(index) else { return };
        let bucket = chan.bucket;
        let keep = if dist.answer.is_some() { Keep::UntilReceived } else { Keep::UntilSettled };
        let answer = dist.answer.map(|a| (a, dist.sender_conn, dist.message.clone()));
        let job = self.jobs.insert(Job { bucket: bucket.index(), index: dist.index, life: dist.life, open: 1, answer });
        if let Ok(message) = Message::decode(&dist.message) {
            for part in &tag.parts {
                let x = item::Deliver {
                    sender_conn: dist.sender_conn,
                    message_seq: dist.seq,
                    timestamp_s: dist.timestamp_s,
                    channel_type: chan.key.kind,
                    channel_id: &chan.key.id,
                    named: &dist.named,
                    message,
                    receivers: Receivers::new(part.count, &part.bytes),
                };
                out.deliver(part.slot, bucket, &x, keep, JOB | u64::try_from(job).unwrap_or(0));
                self.counts.delivers += 1;
                if let Some(job) = self.jobs.get_mut(job) {
                    job.open += 1;
                }
            }
        }
        self.job_done(job, out);
    }

    /// The place of a job in a token; `None` for other tokens.
    #[must_use]
    pub fn job_of(token: u64) -> Option<usize> {
        (token & JOB != 0).then(|| usize::try_from(token & !JOB).ok()).flatten()
    }

    /// A push worker went for good with a Deliver of this job: the bucket is taken over again, so that everything behind its cursor is
    /// distributed once more. An unstored message is not repeated.
    pub fn job_lost(&mut self, index: usize, out: &mut impl Out) {
        let Some(job) = self.jobs.get_mut(index).filter(|job| job.index > 0) else { return };
        // The cursor never passes it.
        job.index = 0;
        let bucket = job.bucket;
        self.take_over_again(bucket, out);
    }

    /// A Deliver of a job is done.
    pub fn job_done(&mut self, index: usize, out: &mut impl Out) {
        let Some(job) = self.jobs.get_mut(index) else { return };
        job.open = job.open.saturating_sub(1);
        if job.open > 0 {
            return;
        }
        let job = self.jobs.remove(index);
        if job.index > 0
            && let Some(state) = self.buckets.get_mut(usize::from(job.bucket))
        {
            state.tracker.closed(job.index, job.life);
        }
        if let Some((answer, conn, message)) = job.answer {
            tell(answer, conn, &message, out);
        }
    }

    /// Lets blocked channels go on while there is room.
    pub fn unblock_all(&mut self, now: Now, out: &mut impl Out) {
        while self.owners.version > 0 && !self.push_moves && !out.congested() {
            let Some(index) = self.blocked.pop_front() else { return };
            self.unblock(index);
            self.distribute(index, now, out);
        }
    }

    pub(super) fn unblock(&mut self, index: usize) {
        if let Some(chan) = self.chans.get_mut(index) {
            chan.blocked = false;
        }
        self.touch(index);
    }

    /// System accounts as the cluster has them.
    pub fn system_uids(&mut self, uids: Vec<String>) {
        let first = self.system.is_none();
        self.system = Some(uids.into_iter().map(Into::into).collect());
        if first {
            let waiting: Vec<usize> = self.chans.iter().filter(|(_, c)| !c.incoming.is_empty()).map(|(i, _)| i).collect();
            for index in waiting {
                self.touch(index);
            }
        }
    }

    /// Coarse clock: failed lookups again, appends again, deadlines, memory.
    pub fn tick(&mut self, now: Now, out: &mut impl Out) {
        let stalled = !self.again.is_empty() || self.loads.iter().next().is_some();
        self.ask_again();
        for index in std::mem::take(&mut self.reload) {
            if let Some(chan) = self.chans.get_mut(index) {
                chan.tag = TagState::Unknown;
            }
            self.touch(index);
        }
        self.repeat_appends(now, out);
        if stalled || self.system.is_none() {
            // Verdicts that wait for facts: late ones are refused now.
            let late = self.chans.iter().filter(|(_, c)| c.incoming.front().is_some_and(|p| Self::is_late(p, now)));
            let late: Vec<usize> = late.map(|(i, _)| i).collect();
            for index in late {
                self.touch(index);
            }
        }
        self.unblock_all(now, out);
        if now.mono_ms >= self.swept_ms.saturating_add(SWEEP_MS) {
            self.swept_ms = now.mono_ms;
            self.sweep(now);
        }
    }

    /// Forgets channels and tags that nobody used for long, and the oldest ones above the bounds.
    fn sweep(&mut self, now: Now) {
        let tag_uids: usize = self.chans.iter().map(|(_, c)| if let TagState::Ready(t) = &c.tag { t.uids } else { 0 }).sum();
        // Above a bound everything unused for a short while goes at once.
        let short = |max: u64, over: bool| if over { SWEEP_MS.min(max) } else { max };
        let tag_ms = short(self.rules.tag_expire_ms, tag_uids > TAG_UIDS_MAX);
        let idle_ms = short(self.rules.idle_ms, self.chans.len() > self.rules.channels_max);
        let index = &mut self.index;
        self.chans.retain(|_, chan| {
            if matches!(chan.tag, TagState::Ready(_)) && chan.dist.is_empty() && now.mono_ms >= chan.tag_used_ms.saturating_add(tag_ms) {
                chan.tag = TagState::Unknown;
            }
            let keep = !chan.is_idle() || now.mono_ms < chan.used_ms.saturating_add(idle_ms);
            if !keep {
                index.remove(&chan.key);
            }
            keep
        });
    }

    /// Cursors to save now; tell [`Channels::cursors_saved`] afterwards. `all`: also those that moved only because their group did.
    pub fn unsaved_cursors(&mut self, all: bool) -> Vec<pb::Cursor> {
        if self.groups == 0 {
            return Vec::new();
        }
        let (groups, group_seen) = (self.groups, &self.group_seen);
        let mut cursors = Vec::new();
        for (bucket, state) in (0_u32..).zip(&mut self.buckets) {
            if !state.owned || !state.open {
                continue;
            }
            let group = bucket % groups;
            let seen = usize::try_from(group).ok().and_then(|g| group_seen.get(g)).copied().unwrap_or(0);
            if all || seen > state.tracker.cursor().saturating_add(CURSOR_LAG_MAX) {
                state.tracker.catch_up(seen);
            }
            if let Some(index) = state.tracker.unsaved() {
                cursors.push(pb::Cursor { consumer: super::activate::CONSUMER.to_owned(), group, bucket, index, remove: false });
            }
        }
        cursors
    }

    /// The cluster has stored these cursors.
    pub fn cursors_saved(&mut self, cursors: &[pb::Cursor]) {
        for cursor in cursors {
            if let Some(state) = usize::try_from(cursor.bucket).ok().and_then(|b| self.buckets.get_mut(b)) {
                state.tracker.saved(cursor.index);
            }
        }
    }

    /// Messages that are accepted and not distributed, for a drain.
    #[must_use]
    pub fn under_way(&self) -> usize {
        let queued =
            |c: &super::cache::Chan| c.incoming.len() + c.decided.len() + c.dist.len() + c.flight.as_ref().map_or(0, |f| f.messages);
        self.chans.iter().map(|(_, c)| queued(c)).sum::<usize>() + self.jobs.len()
    }
}

/// An unstored message has reached the push workers: success.
fn tell(answer: Answer, conn: ConnId, message: &[u8], out: &mut impl Out) {
    let Ok(m) = Message::decode(message) else {
        out.settle(answer.origin);
        return;
    };
    if !answer.wants_ack {
        out.settle(answer.origin);
        return;
    }
    let x = item::Sendack {
        conn,
        message_id: m.message_id,
        stored_id: m.message_id,
        message_seq: 0,
        client_seq: m.client_seq,
        reason: Reason::SUCCESS,
        flags: m.flags,
        client_msg_no: m.client_msg_no,
    };
    out.sendack(&x, answer.origin);
}
