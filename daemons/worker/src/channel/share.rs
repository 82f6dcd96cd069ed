//! Which buckets are ours, and whether messages of them move.
//!
//! A bucket is *foreign*, *owned* (being taken over: what comes waits), or *open*. It opens with the end of its activation and closes when it
//! is lost, or when the cluster refuses an append as that of an old owner: then it is taken over again if the node table still says that it is
//! ours, and what is held of it is refused if not. No other bucket notices.

use wk_proto::cluster::v1::Code;
use wk_types::{Bucket, Daemon, Pool, Reason};

use super::cache::Verdict;
use super::cursor::Tracker;
use super::handle::{Channels, Out};
use crate::origin::Now;

/// One bucket.
#[derive(Debug, Default)]
pub(super) struct BucketState {
    /// It belongs to our share.
    pub owned: bool,
    /// Its cursor is stored and its journal was read: messages move.
    pub open: bool,
    /// Number of the activation that may open it.
    activation: u64,
    /// Its cursor.
    pub tracker: Tracker,
}

const CHANNEL: Daemon = Daemon::Worker(Pool::Channel);
const PUSH: Daemon = Daemon::Worker(Pool::Push);

impl Channels {
    /// Takes over a node table; `my_slot` is our slot in the channel pool. True when we gain buckets.
    pub fn table(&mut self, table: &wk_rpc::Table, my_slot: u16, out: &mut impl Out) -> bool {
        // Distribution stands still while receivers move: what follows must not overtake what is being delivered.
        self.push_moves = !table.next_slots(PUSH).is_empty();
        if self.owners.set(table.pool_slots(PUSH)) {
            // Tags of the old grouping are rebuilt with their next use.
            while let Some(chan) = self.blocked.pop_front() {
                self.unblock(chan);
            }
        }
        let slots = table.pool_slots(CHANNEL);
        !slots.is_empty() && self.share(|bucket| wk_types::owner_slot(bucket, slots) == Some(my_slot), out)
    }

    /// Sets which buckets are ours; those we gain are activated. True when there are any.
    pub fn share(&mut self, owned: impl Fn(Bucket) -> bool, out: &mut impl Out) -> bool {
        self.known = true;
        let mut gained = Vec::new();
        for (bucket, state) in Bucket::all().zip(&mut self.buckets) {
            let now = owned(bucket);
            if now && !state.owned {
                gained.push(bucket.index());
            }
            state.open &= now;
            state.owned = now;
        }
        let gains = !gained.is_empty();
        self.activate(gained, out);
        gains
    }

    fn activate(&mut self, buckets: Vec<u16>, out: &mut impl Out) {
        if buckets.is_empty() {
            return;
        }
        self.activations += 1;
        let mut mine = vec![false; self.buckets.len()];
        for bucket in buckets.iter().map(|b| usize::from(*b)) {
            if let (Some(state), Some(mine)) = (self.buckets.get_mut(bucket), mine.get_mut(bucket)) {
                state.open = false;
                state.activation = self.activations;
                *mine = true;
            }
        }
        for (_, chan) in &mut self.chans {
            if mine.get(usize::from(chan.bucket.index())) == Some(&true) {
                chan.forget();
            }
        }
        out.activate(self.activations, buckets);
    }

    /// Cursors of gained buckets are loaded and stored: distribution continues there.
    pub fn started(&mut self, activation: u64, groups: u32, starts: &[(u16, u64)]) {
        self.groups = groups;
        self.group_seen.resize(usize::try_from(groups).unwrap_or(0), 0);
        for (bucket, index) in starts {
            if let Some(state) = self.buckets.get_mut(usize::from(*bucket)).filter(|s| s.activation == activation && !s.open) {
                state.tracker.restart(*index);
            }
        }
        // Appends that were called off by a fence are still to be made.
        for (_, chan) in &mut self.chans {
            let state = self.buckets.get_mut(usize::from(chan.bucket.index())).filter(|s| s.activation == activation && !s.open);
            if let (Some(state), Some(flight)) = (state, &mut chan.flight) {
                flight.floor = state.tracker.begin();
            }
        }
    }

    /// The journals of these buckets have been read: messages move.
    pub fn open(&mut self, activation: u64, buckets: &[u16]) {
        for bucket in buckets {
            if let Some(state) = self.buckets.get_mut(usize::from(*bucket)).filter(|s| s.owned && s.activation == activation) {
                state.open = true;
            }
        }
        let mut waiting = Vec::new();
        for (index, chan) in &mut self.chans {
            if chan.flight.as_ref().is_some_and(|f| !f.sent) && !chan.queued {
                chan.queued = true;
                self.ready.push_back(index);
            }
            if !chan.incoming.is_empty() || !chan.decided.is_empty() {
                waiting.push(index);
            }
        }
        for chan in waiting {
            self.touch(chan);
        }
    }

    /// Reads the journal of a bucket of ours again from its cursor.
    pub(super) fn take_over_again(&mut self, bucket: u16, out: &mut impl Out) {
        let state = self.buckets.get_mut(usize::from(bucket)).filter(|state| state.owned);
        if state.is_some_and(|state| std::mem::take(&mut state.open)) {
            self.activate(vec![bucket], out);
        }
    }

    /// True when messages of a channel's bucket move.
    pub(super) fn moves(&self, chan: usize) -> bool {
        let bucket = self.chans.get(chan).map(|c| usize::from(c.bucket.index()));
        bucket.and_then(|b| self.buckets.get(b)).is_some_and(|b| b.open && b.owned)
    }

    /// The cluster has refused an append of this channel as that of an old owner.
    pub(super) fn fenced(&mut self, index: usize, now: Now, out: &mut impl Out) {
        self.counts.fenced += 1;
        let Some(bucket) = self.chans.get(index).map(|c| c.bucket.index()) else { return };
        let Some(state) = self.buckets.get_mut(usize::from(bucket)) else { return };
        if state.owned {
            if std::mem::take(&mut state.open) {
                tracing::error!(bucket, "the cluster has seen a newer owner of a bucket that is ours: it is taken over again");
                self.activate(vec![bucket], out);
            }
            return;
        }
        // Whoever sent it to us has to know: nobody else will ever answer it.
        let Some(chan) = self.chans.get_mut(index) else { return };
        let flight = chan.flight.take();
        let floor = flight.as_ref().map(|f| f.floor);
        let held: Vec<_> = flight.into_iter().flat_map(|f| f.entries).chain(std::mem::take(&mut chan.decided)).collect();
        if let Some(floor) = floor {
            self.release(index, floor);
        }
        for mut decided in held {
            if decided.verdict == Verdict::Store {
                decided.verdict = Verdict::Refuse(Reason::SYSTEM_ERROR);
            }
            self.finish(index, decided, now, out);
        }
    }

    /// True when a failed append is to be made again.
    pub(super) fn is_repeated(&self, index: usize, code: Code) -> bool {
        code.retryable() || (code == Code::Fenced && self.chans.get(index).is_some_and(|c| c.flight.is_some()))
    }

    /// True when nothing is left to do about the buckets that move at this step: towards receivers that move nothing is under way
    /// (`pushes_owed`: Delivers that no push worker has settled), of our own buckets everything is distributed and its cursor stored.
    #[must_use]
    pub fn have_let_go(&self, table: &wk_rpc::Table, pushes_owed: usize) -> bool {
        if self.push_moves && (pushes_owed > 0 || self.jobs.iter().next().is_some()) {
            return false;
        }
        if !table.held(CHANNEL) {
            return true;
        }
        let moving = |bucket: Bucket| table.moves(CHANNEL, bucket);
        let mut ours = Bucket::all().zip(&self.buckets).filter(|(bucket, state)| state.owned && moving(*bucket));
        let busy = |state: &BucketState| !state.open || !state.tracker.is_idle() || state.tracker.unsaved().is_some();
        let jobs = || self.jobs.iter().any(|(_, job)| Bucket::from_index(job.bucket()).is_some_and(moving));
        let chans = || self.chans.iter().any(|(_, chan)| chan.has_messages() && moving(chan.bucket));
        !ours.any(|(_, state)| busy(state)) && !jobs() && !chans()
    }
}
