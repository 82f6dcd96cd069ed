//! Decisions of the channel pool: no I/O, no clocks. What is to be done goes to an [`Out`].
//!
//! A drained batch is first sorted into the channels, then [`Channels::flush`] moves every channel that changed: verdicts (asking for facts
//! in one lookup), one append request for all channels that are ready, distribution.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use slab::Slab;
use wk_link::item::{self, Body as _};
use wk_link::{Delivery, Keep, Kind};
use wk_proto::cluster::v1 as pb;
use wk_types::channel::CMD_SUFFIX;
use wk_types::limits::SEND_DEADLINE;
use wk_types::{BUCKETS, Bucket, ChannelKey, ChannelType, Daemon, Pool, Reason};

use super::cache::{Chan, Decided, KeyRef, Pending, Stored, Verdict};
use super::distribute::Job;
use super::facts::Asked;
use super::share::BucketState;
use super::tag::Owners;
use crate::limits::RULE_STAMPS;
use crate::origin::{Now, Origin, Sender};
use crate::user::cache::stamp_index;
use crate::user::handle::millis;

/// Carries decisions out.
pub trait Out {
    /// This item is handled now: noted, for the case that it ends us; until [`Out::rest`].
    fn handling(&mut self, origin: Origin);
    /// No item is being handled.
    fn rest(&mut self);
    /// The item's outcome would survive our death.
    fn settle(&mut self, origin: Origin);
    /// To the gateway of the connection; when it was received, `done` is settled.
    fn sendack(&mut self, x: &item::Sendack<'_>, done: Origin);
    /// To a push worker; `token` comes back when it is done as `keep` says.
    fn deliver(&mut self, slot: u16, bucket: Bucket, x: &item::Deliver<'_>, keep: Keep, token: u64);
    /// One request to the cluster; the answers come back with this number.
    fn lookup(&mut self, load: usize, queries: Vec<pb::Query>);
    /// All members of a list; they come back with place and epoch of the channel.
    fn members(&mut self, chan: usize, epoch: u32, list: pb::ListKey);
    /// The list of system accounts.
    fn system_uids(&mut self);
    /// One append request; the reply comes back with this number.
    fn append(&mut self, request: usize, channels: u32, batches: Bytes);
    /// Buckets that are ours now: their cursors are loaded and their journals read before [`Channels::open`], which gets the same number.
    fn activate(&mut self, number: u64, buckets: Vec<u16>);
    /// True when the push workers cannot take more at the moment.
    fn congested(&self) -> bool;
}

/// Rules of the configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Allow lists of persons are not checked.
    pub person_allow_off: bool,
    /// A tag unused for this long is dropped. Unit: ms.
    pub tag_expire_ms: u64,
    /// A channel unused for this long leaves memory. Unit: ms.
    pub idle_ms: u64,
    /// Channels in memory.
    pub channels_max: usize,
    /// Messages per append of a channel.
    pub batch_messages: usize,
    /// Bytes per append of a channel.
    pub batch_bytes: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            person_allow_off: true,
            tag_expire_ms: 1_200_000,
            idle_ms: 600_000,
            channels_max: 100_000,
            batch_messages: 256,
            batch_bytes: 512 << 10,
        }
    }
}

/// What happened, for metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages that came.
    pub received: u64,
    /// Messages stored.
    pub stored: u64,
    /// Messages that were stored before.
    pub duplicates: u64,
    /// Messages refused.
    pub refused: u64,
    /// SENDACKs for deadlines.
    pub late: u64,
    /// Append requests.
    pub appends: u64,
    /// Channel batches that were repeated.
    pub append_retries: u64,
    /// Delivers sent.
    pub delivers: u64,
    /// Tags built.
    pub tags: u64,
    /// Queries to the cluster.
    pub queries: u64,
    /// Messages distributed from the journal after a start.
    pub replayed: u64,
    /// Channel batches that were refused as those of an old owner.
    pub fenced: u64,
    /// Items that could not be read: a bug of a neighbour.
    pub broken: u64,
}

/// State of a channel worker.
#[derive(Debug)]
pub struct Channels {
    pub(super) rules: Rules,
    pub(super) chans: Slab<Chan>,
    pub(super) index: HashMap<ChannelKey, usize>,
    pub(super) buckets: Box<[BucketState]>,
    /// Number of channel groups; 0: not known yet.
    pub(super) groups: u32,
    /// Highest journal index met, by group.
    pub(super) group_seen: Vec<u64>,
    pub(super) stamps: Box<[u32]>,
    /// System accounts; `None`: not read yet.
    pub(super) system: Option<HashSet<Box<str>>>,
    pub(super) owners: Owners,
    pub(super) dirty: Vec<usize>,
    pub(super) ready: VecDeque<usize>,
    pub(super) requests: Slab<Vec<usize>>,
    /// Channels whose append is repeated at this time.
    pub(super) delayed: Vec<(u64, usize)>,
    pub(super) wanted: Vec<(Asked, pb::Query)>,
    pub(super) again: Vec<(Asked, pb::Query)>,
    pub(super) loads: Slab<Vec<(Asked, pb::Query)>>,
    /// Channels whose members could not be read; tried again with the next tick.
    pub(super) reload: Vec<usize>,
    pub(super) blocked: VecDeque<usize>,
    pub(super) jobs: Slab<Job>,
    pub(super) undistributed_bytes: usize,
    /// A node table was seen.
    pub(super) known: bool,
    /// Activations of buckets so far.
    pub(super) activations: u64,
    /// Receivers are moving between push workers: nothing is distributed.
    pub(super) push_moves: bool,
    pub(super) swept_ms: u64,
    pub(super) counts: Counts,
}

impl Channels {
    /// A worker that owns nothing yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            chans: Slab::new(),
            index: HashMap::new(),
            buckets: (0..BUCKETS).map(|_| BucketState::default()).collect(),
            groups: 0,
            group_seen: Vec::new(),
            stamps: vec![0; RULE_STAMPS].into(),
            system: None,
            owners: Owners::default(),
            dirty: Vec::new(),
            ready: VecDeque::new(),
            requests: Slab::new(),
            delayed: Vec::new(),
            wanted: Vec::new(),
            again: Vec::new(),
            loads: Slab::new(),
            reload: Vec::new(),
            blocked: VecDeque::new(),
            jobs: Slab::new(),
            undistributed_bytes: 0,
            known: false,
            activations: 0,
            push_moves: false,
            swept_ms: 0,
            counts: Counts::default(),
        }
    }

    /// Totals since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Channels in memory, Delivers under way, bytes that wait for distribution: for metrics.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.chans.len(), self.jobs.len(), self.undistributed_bytes)
    }

    /// True once every owned bucket is open. A worker may own none yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.known && self.buckets.iter().all(|b| b.open || !b.owned)
    }

    /// A newer life of a sender was met. A new user worker may have lost changes of person rules on the way: all verdicts about persons are void.
    pub fn met(&mut self, sender: Sender) {
        if sender.daemon == Daemon::Worker(Pool::User) {
            for stamp in &mut self.stamps {
                *stamp = stamp.wrapping_add(1);
            }
        }
    }

    /// One incoming item.
    pub fn deliver(&mut self, sender: Sender, d: Delivery, now: Now, out: &mut impl Out) {
        let origin = Origin::new(sender.id, d.position);
        match d.kind {
            Kind::ChannelSend => match item::ChannelSend::decode(&d.body) {
                Ok(x) => self.take(origin, &x, &d.body, d.replay, now),
                Err(_) => self.broken(origin, out),
            },
            Kind::PersonRulesChanged => {
                match item::PersonRulesChanged::decode(&d.body) {
                    Ok(x) => {
                        if let Some(stamp) = self.stamps.get_mut(stamp_index(x.uid)) {
                            *stamp = stamp.wrapping_add(1);
                        }
                    }
                    Err(_) => self.counts.broken += 1,
                }
                out.settle(origin);
            }
            _ => self.broken(origin, out),
        }
    }

    fn broken(&mut self, origin: Origin, out: &mut impl Out) {
        self.counts.broken += 1;
        out.settle(origin);
    }

    fn take(&mut self, origin: Origin, x: &item::ChannelSend<'_>, body: &Bytes, replay: bool, now: Now) {
        self.counts.received += 1;
        let index = self.chan(x.channel_id, x.channel_type, now.mono_ms);
        let pending = Pending::new(origin, x, body, replay);
        if pending.stored == Stored::Asked {
            self.ask_stored(index, &pending, &x.message);
        }
        if let Some(chan) = self.chans.get_mut(index) {
            chan.incoming.push_back(pending);
        }
        self.touch(index);
    }

    /// Place of a channel, which is made when it is new.
    pub(super) fn chan(&mut self, id: &str, kind: ChannelType, now_ms: u64) -> usize {
        if let Some(index) = self.index.get(&KeyRef { id, kind }) {
            if let Some(chan) = self.chans.get_mut(*index) {
                chan.used_ms = now_ms;
            }
            return *index;
        }
        let key = ChannelKey::new(id, kind);
        let index = self.chans.insert(Chan::new(key.clone(), now_ms));
        self.index.insert(key, index);
        index
    }

    /// Marks a channel as changed: the next flush moves it.
    pub(super) fn touch(&mut self, index: usize) {
        if let Some(chan) = self.chans.get_mut(index)
            && !chan.dirty
        {
            chan.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Rows or lists of a channel have changed in the cluster: it and its command channel start anew.
    pub fn changed(&mut self, id: &str, kind: ChannelType) {
        let cmd = format!("{id}{CMD_SUFFIX}");
        for id in [id, &cmd] {
            if let Some(index) = self.index.get(&KeyRef { id, kind }).copied() {
                if let Some(chan) = self.chans.get_mut(index) {
                    chan.forget();
                }
                self.touch(index);
            }
        }
    }

    /// Moves everything that changed in a drain.
    pub fn flush(&mut self, now: Now, out: &mut impl Out) {
        while !self.dirty.is_empty() {
            for index in std::mem::take(&mut self.dirty) {
                if let Some(chan) = self.chans.get_mut(index) {
                    chan.dirty = false;
                }
                self.decide(index, now, out);
                self.distribute(index, now, out);
            }
        }
        self.start_appends(out);
        self.send_lookups(out);
    }

    /// Gives verdicts to the messages of a channel, in order, until facts are missing.
    fn decide(&mut self, index: usize, now: Now, out: &mut impl Out) {
        if !self.moves(index) {
            return;
        }
        while let Some(origin) = self.chans.get(index).and_then(|c| c.incoming.front()).map(|p| p.origin) {
            out.handling(origin);
            let Some(verdict) = self.next_verdict(index, now) else { break };
            let Some(chan) = self.chans.get_mut(index) else { break };
            let Some(pending) = chan.incoming.pop_front() else { break };
            chan.decided.push_back(Decided { pending, verdict });
        }
        out.rest();
        self.move_on(index, now, out);
    }

    /// Answers what stands in front and needs no append; queues the channel when the front does.
    pub(super) fn move_on(&mut self, index: usize, now: Now, out: &mut impl Out) {
        loop {
            let Some(chan) = self.chans.get_mut(index) else { return };
            if chan.flight.is_some() {
                return;
            }
            match chan.decided.front().map(|d| d.verdict) {
                None => return,
                Some(Verdict::Store) => break,
                Some(_) => {}
            }
            let Some(decided) = chan.decided.pop_front() else { return };
            self.finish(index, decided, now, out);
        }
        if let Some(chan) = self.chans.get_mut(index)
            && !chan.queued
        {
            chan.queued = true;
            self.ready.push_back(index);
        }
    }

    /// Carries out a verdict that needs no append.
    pub(super) fn finish(&mut self, index: usize, decided: Decided, now: Now, out: &mut impl Out) {
        let Decided { pending, verdict } = decided;
        match verdict {
            Verdict::Refuse(reason) => {
                self.counts.refused += 1;
                answer(&pending, reason, (pending.message_id, 0), out);
            }
            Verdict::Known(id, seq) => {
                self.counts.duplicates += 1;
                // Its distribution is that of whoever stored it: this life, or an earlier one, whose journal was read.
                answer(&pending, Reason::SUCCESS, (id, seq), out);
            }
            Verdict::Pass => self.enqueue_unstored(index, pending, now),
            // INVARIANT: only called for the others.
            Verdict::Store => self.counts.broken += 1,
        }
    }

    /// True when a client's message waits longer than its answer may.
    pub(super) fn is_late(pending: &Pending, now: Now) -> bool {
        pending.wants_ack() && now.mono_ms >= pending.accepted_ms.saturating_add(millis(SEND_DEADLINE))
    }
}

/// Answers a client, or settles the item of a sender without one. An answered one is not answered again.
pub(super) fn answer(pending: &Pending, reason: Reason, stored: (i64, u64), out: &mut impl Out) {
    if pending.answered {
        return;
    }
    if !pending.wants_ack() {
        out.settle(pending.origin);
        return;
    }
    let m = pending.message();
    let x = item::Sendack {
        conn: pending.conn,
        message_id: pending.message_id,
        stored_id: stored.0,
        message_seq: stored.1,
        client_seq: m.map_or(0, |m| m.client_seq),
        reason,
        flags: pending.flags,
        client_msg_no: m.map_or("", |m| m.client_msg_no),
    };
    out.sendack(&x, pending.origin);
}

#[cfg(test)]
mod tests;
