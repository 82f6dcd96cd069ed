//! Decisions of the push pool: no I/O, no clocks. What is to be done goes to an [`Out`].

use std::collections::VecDeque;

use bytes::Bytes;
use slab::Slab;
use wk_link::item::{self, Body as _};
use wk_link::{Delivery, Kind};
use wk_types::{ConnId, Daemon};

use super::cache::{Conn, Sessions, Standing};
use super::recv::Common;
use super::retry::Policy;
use crate::gateways::{Gateways, Void};
use crate::origin::{Now, Origin, Sender};

/// Carries decisions out.
pub trait Out {
    /// This item is handled now: noted, for the case that it ends us; until [`Out::rest`].
    fn handling(&mut self, origin: Origin);
    /// No item is being handled.
    fn rest(&mut self);
    /// The item's outcome would survive our death.
    fn settle(&mut self, origin: Origin);
    /// A frame to the gateway of the connection; `token` comes back once the gateway has received it, 0: never. Returns the item's body.
    fn recv(&mut self, conn: ConnId, frame: &[u8], token: u64) -> Bytes;
    /// The same body again.
    fn resend(&mut self, conn: ConnId, body: &Bytes);
    /// True when the gateways cannot take more at the moment.
    fn congested(&self) -> bool;
}

/// What happened, for metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Delivers handled.
    pub delivers: u64,
    /// RECVs sent.
    pub recvs: u64,
    /// Their bytes.
    pub recv_bytes: u64,
    /// RECVACKs.
    pub recvacks: u64,
    /// Frames sent again.
    pub resends: u64,
    /// Frames given up without RECVACK.
    pub given_up: u64,
    /// RECVs not sent because the connection had the message.
    pub duplicates: u64,
    /// RECVs not sent because the session has no keys, or the message does not fit its version.
    pub unsendable: u64,
    /// Receivers without a connection.
    pub offline: u64,
    /// Receivers whose connections are all slaves.
    pub online_slave: u64,
    /// Receivers with a master.
    pub online_master: u64,
    /// Items that could not be read: a bug of a neighbour.
    pub broken: u64,
}

/// A Deliver under way.
#[derive(Debug)]
struct Job {
    origin: Origin,
    /// RECVs the gateways have not received yet, plus one while it is being made.
    open: u32,
}

/// State of a push worker.
#[derive(Debug)]
pub struct Push {
    policy: Policy,
    gateways: Gateways,
    sessions: Sessions,
    /// Delivers that wait for sessions or for room. Bounded by the rings of the channel workers.
    queue: VecDeque<(Origin, Bytes)>,
    jobs: Slab<Job>,
    /// Connections with frames that wait for a RECVACK.
    scan: Vec<ConnId>,
    next_scan_ms: u64,
    frame: Vec<u8>,
    counts: Counts,
}

impl Push {
    /// A worker that knows nobody yet. The first scan comes at `first_scan_ms`.
    #[must_use]
    pub fn new(policy: Policy, first_scan_ms: u64) -> Self {
        Self {
            policy,
            gateways: Gateways::default(),
            sessions: Sessions::default(),
            queue: VecDeque::new(),
            jobs: Slab::new(),
            scan: Vec::new(),
            next_scan_ms: first_scan_ms,
            frame: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Sessions, for metrics.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Totals since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Delivers that wait, and those whose RECVs are under way.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.jobs.len())
    }

    /// Frames that wait for a RECVACK: an estimate for status, counted over the listed connections.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.scan.iter().filter_map(|id| self.sessions.get(*id)).map(|c| c.unacked.len()).sum()
    }

    /// True when the sessions of every live gateway are known.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.gateways.complete()
    }

    /// A new node table.
    pub fn table(&mut self, table: &wk_rpc::Table) {
        for void in self.gateways.table(table) {
            self.void(void);
        }
    }

    /// Forgets the sessions of receivers who are not ours.
    pub fn keep(&mut self, owned: impl Fn(&str) -> bool) {
        self.sessions.keep(owned);
    }

    /// A newer life of a sender was met.
    pub fn met(&mut self, sender: Sender) {
        if sender.daemon == Daemon::Gateway {
            let void = self.gateways.met(sender.slot, sender.incarnation);
            self.void(void);
        }
    }

    fn void(&mut self, void: Void) {
        self.sessions.void(void);
    }

    /// One incoming item.
    pub fn deliver(&mut self, sender: Sender, d: Delivery, out: &mut impl Out) {
        let origin = Origin::new(sender.id, d.position);
        match d.kind {
            Kind::Deliver => {
                self.queue.push_back((origin, d.body));
                return;
            }
            Kind::SnapshotBegin => {
                let void = self.gateways.begin(sender.slot, sender.incarnation);
                self.void(void);
            }
            Kind::SnapshotEnd => self.gateways.end(sender.slot, sender.incarnation),
            Kind::SessionUp => match item::Session::decode(&d.body) {
                Ok(s) => self.sessions.insert(Conn::new(&s, sender.incarnation)),
                Err(_) => self.counts.broken += 1,
            },
            Kind::SessionDown => match item::Closed::decode(&d.body) {
                Ok(c) => drop(self.sessions.remove(c.conn)),
                Err(_) => self.counts.broken += 1,
            },
            Kind::Recvack => match item::Recvack::decode(&d.body) {
                Ok(ack) => self.recvack(&ack),
                Err(_) => self.counts.broken += 1,
            },
            _ => self.counts.broken += 1,
        }
        out.settle(origin);
    }

    fn recvack(&mut self, ack: &item::Recvack<'_>) {
        self.counts.recvacks += 1;
        let index = self.sessions.index(ack.conn);
        if let Some(conn) = index.and_then(|i| self.sessions.at(i)) {
            conn.unacked.ack(ack.message_id);
        }
    }

    /// Handles Delivers as long as sessions are known and the gateways take more.
    pub fn run(&mut self, now: Now, out: &mut impl Out) {
        if self.queue.is_empty() || !self.gateways.complete() {
            return;
        }
        while !out.congested() {
            let Some((origin, body)) = self.queue.pop_front() else { return };
            out.handling(origin);
            self.fan_out(origin, &body, now, out);
            out.rest();
        }
    }

    fn fan_out(&mut self, origin: Origin, body: &[u8], now: Now, out: &mut impl Out) {
        let Ok(deliver) = item::Deliver::decode(body) else {
            self.counts.broken += 1;
            out.settle(origin);
            return;
        };
        self.counts.delivers += 1;
        let job = self.jobs.insert(Job { origin, open: 1 });
        let token = token_of(job);
        let common = Common::new(&deliver);
        for uid in deliver.receivers.iter() {
            let conns = self.sessions.of(uid);
            match self.sessions.standing(&conns) {
                // Offline notices and the AI plugin's Receive hook attach here (webhooks and plugins are issues of their own).
                Standing::Offline => self.counts.offline += 1,
                Standing::OnlineSlave => self.counts.online_slave += 1,
                Standing::OnlineMaster => self.counts.online_master += 1,
            }
            for index in conns {
                if self.one(index, uid, &common, deliver.message.message_id, token, now, out)
                    && let Some(job) = self.jobs.get_mut(job)
                {
                    job.open += 1;
                }
            }
        }
        self.close_one(job, out);
    }

    /// One RECV; true when it was sent.
    #[expect(clippy::too_many_arguments, reason = "the inner loop of the fan-out: a struct would be built per receiver for nothing")]
    fn one(&mut self, index: usize, uid: &str, common: &Common<'_>, message_id: i64, token: u64, now: Now, out: &mut impl Out) -> bool {
        let Some(conn) = self.sessions.at(index) else { return false };
        if common.skips(conn.id) {
            return false;
        }
        if !conn.first_time(message_id) {
            self.counts.duplicates += 1;
            return false;
        }
        self.frame.clear();
        let keyless = conn.encrypted && conn.keys.is_none() && !conn.json;
        if keyless || common.encode(uid, conn, &mut self.frame).is_err() {
            self.counts.unsendable += 1;
            return false;
        }
        let body = out.recv(conn.id, &self.frame, token);
        self.counts.recvs += 1;
        self.counts.recv_bytes += u64::try_from(self.frame.len()).unwrap_or(0);
        if common.wants_ack() {
            self.counts.given_up += conn.unacked.push(message_id, body, now.mono_ms);
            if !conn.listed {
                conn.listed = true;
                self.scan.push(conn.id);
            }
        }
        true
    }

    /// Outgoing items are done.
    pub fn done(&mut self, tokens: &[u64], out: &mut impl Out) {
        for token in tokens {
            if let Some(job) = job_of(*token) {
                self.close_one(job, out);
            }
        }
    }

    fn close_one(&mut self, index: usize, out: &mut impl Out) {
        let Some(job) = self.jobs.get_mut(index) else { return };
        job.open = job.open.saturating_sub(1);
        if job.open == 0 {
            out.settle(job.origin);
            self.jobs.remove(index);
        }
    }

    /// Coarse clock: resends what is due.
    pub fn tick(&mut self, now: Now, jitter_ms: u64, out: &mut impl Out) {
        if now.mono_ms < self.next_scan_ms {
            return;
        }
        self.next_scan_ms = now.mono_ms.saturating_add(self.policy.scan_ms).saturating_add(jitter_ms);
        let Self { scan, sessions, counts, policy, .. } = self;
        scan.retain(|id| {
            let Some(conn) = sessions.index(*id).and_then(|i| sessions.at(i)) else { return false };
            let scanned = conn.unacked.scan(now.mono_ms, *policy, |body| out.resend(*id, body));
            counts.resends += scanned.resent;
            counts.given_up += scanned.dropped;
            conn.listed = !conn.unacked.is_empty();
            conn.listed
        });
    }
}

/// Token of a job: its place plus one, so that it is never 0.
fn token_of(job: usize) -> u64 {
    u64::try_from(job).unwrap_or(u64::MAX).saturating_add(1)
}

fn job_of(token: u64) -> Option<usize> {
    usize::try_from(token.checked_sub(1)?).ok()
}

#[cfg(test)]
mod tests;
