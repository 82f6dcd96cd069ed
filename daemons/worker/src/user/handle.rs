//! Decisions of the user pool: no I/O, no clocks. What is to be done goes to an [`Out`].

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use wk_link::item::{self, Body as _};
use wk_link::record::Message;
use wk_link::{Delivery, Kind};
use wk_proto::cluster::v1 as pb;
use wk_types::limits::SEND_DEADLINE;
use wk_types::{Bucket, Daemon, DeviceFlag, MessageId, MessageSeq, Reason};

use super::cache::{Presence, Rows, Want, session};
use super::login::Rules;
use super::lookup::Asked;
use super::send;
use crate::channel::cache::NO_PERSIST;
use crate::gateways::{Gateways, Void};
use crate::origin::{Now, Origin, Sender};

/// Carries decisions out.
pub trait Out {
    /// The item's outcome would survive our death.
    fn settle(&mut self, origin: Origin);
    /// To the gateway of the connection; when it was received, `done` is settled.
    fn connack(&mut self, x: &item::Connack<'_>, done: Origin);
    /// To the gateway of the connection.
    fn kick(&mut self, x: &item::Kick<'_>);
    /// To the gateway of the connection; when it was received, `done` is settled.
    fn sendack(&mut self, x: &item::Sendack<'_>, done: Origin);
    /// To the owner of the channel; when it is settled there, `done` is settled.
    fn channel_send(&mut self, bucket: Bucket, x: &item::ChannelSend<'_>, done: Origin);
    /// One request to the cluster; the answers come back with this number.
    fn lookup(&mut self, load: usize, queries: Vec<pb::Query>);
}

/// What happened, for metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// CONNECTs answered with success.
    pub logins: u64,
    /// CONNECTs refused.
    pub refused_logins: u64,
    /// Connections kicked.
    pub kicks: u64,
    /// SENDs handed on.
    pub sends: u64,
    /// Their payload bytes.
    pub send_bytes: u64,
    /// SENDs refused here.
    pub refused_sends: u64,
    /// Items that could not be read: a bug of a neighbour.
    pub broken: u64,
}

/// An item that waits.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) origin: Origin,
    pub(super) sender: Sender,
    pub(super) kind: Kind,
    pub(super) body: Bytes,
    pub(super) stored: Stored,
}

/// Is a replayed SEND stored already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// A first try: nobody asks.
    New,
    /// The cluster was asked.
    Asked,
    /// It is not.
    No,
    /// Under this id and sequence.
    Yes(MessageId, MessageSeq),
}

/// Items of one uid that wait for rows, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) works: VecDeque<Work>,
    pub(super) asked: SmallVec<[Want; 2]>,
}

/// Result of trying one item.
pub(super) enum Step {
    Done,
    Need(Want),
    Wait,
}

/// State of a user worker.
#[derive(Debug)]
pub struct Users {
    pub(super) rules: Rules,
    pub(super) gateways: Gateways,
    pub(super) presence: Presence,
    pub(super) rows: Rows,
    pub(super) queues: HashMap<Box<str>, Queue>,
    /// CONNECTs that wait for the sessions of all gateways; SENDs that wait for those of their own.
    pub(super) parked: VecDeque<Work>,
    pub(super) wanted: Vec<(Asked, pb::Query)>,
    /// Queries whose lookup failed; they are made again with the next tick.
    pub(super) again: Vec<(Asked, pb::Query)>,
    pub(super) loads: Slab<Vec<(Asked, pb::Query)>>,
    plain: Vec<u8>,
    pub(super) counts: Counts,
}

impl Users {
    /// A worker that knows nobody yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            gateways: Gateways::default(),
            presence: Presence::default(),
            rows: Rows::default(),
            queues: HashMap::new(),
            parked: VecDeque::new(),
            wanted: Vec::new(),
            again: Vec::new(),
            loads: Slab::new(),
            plain: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Presence, for answers and metrics.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// True when the sessions of every live gateway are known.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.gateways.complete()
    }

    /// Items that wait here, for metrics.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.parked.len() + self.queues.values().map(|q| q.works.len()).sum::<usize>()
    }

    /// Totals since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Rows held, for metrics.
    #[must_use]
    pub fn rows_len(&self) -> usize {
        self.rows.len()
    }

    /// A new node table. `share_changed`: the pool's slots differ, cached rows may have another owner.
    pub fn table(&mut self, table: &wk_rpc::Table, share_changed: bool, now: Now, out: &mut impl Out) {
        for void in self.gateways.table(table) {
            self.void(void);
        }
        if share_changed {
            self.rows.clear();
        }
        self.unpark(now, out);
    }

    /// A newer life of a sender was met.
    pub fn met(&mut self, sender: Sender) {
        if sender.daemon == Daemon::Gateway {
            let void = self.gateways.met(sender.slot, sender.incarnation);
            self.void(void);
        }
    }

    fn void(&mut self, void: Void) {
        self.presence.void(void);
    }

    /// One incoming item.
    pub fn deliver(&mut self, sender: Sender, d: Delivery, now: Now, out: &mut impl Out) {
        let origin = Origin::new(sender.id, d.position);
        match d.kind {
            Kind::SnapshotBegin => {
                let void = self.gateways.begin(sender.slot, sender.incarnation);
                self.void(void);
            }
            Kind::SessionUp => {
                let known = item::Session::decode(&d.body).map(|s| self.presence.insert(session(&s, sender.incarnation)));
                self.counts.broken += u64::from(known.is_err());
                out.settle(origin);
            }
            Kind::SnapshotEnd => {
                self.gateways.end(sender.slot, sender.incarnation);
                self.unpark(now, out);
            }
            Kind::Connect | Kind::Send | Kind::Closed => {
                let asks = d.replay && d.kind == Kind::Send && item::Send::decode(&d.body).is_ok_and(|s| s.flags & NO_PERSIST == 0);
                let stored = if asks { Stored::Asked } else { Stored::New };
                self.admit(Work { origin, sender, kind: d.kind, body: d.body, stored }, now, out);
            }
            _ => {
                self.counts.broken += 1;
                out.settle(origin);
            }
        }
    }

    /// Puts an item behind what waits for its uid, or handles it.
    pub(super) fn admit(&mut self, work: Work, now: Now, out: &mut impl Out) {
        let body = work.body.clone();
        let Some(uid) = uid_of(work.kind, &body) else {
            self.counts.broken += 1;
            out.settle(work.origin);
            return;
        };
        if work.kind == Kind::Closed && self.unpark_closed(&work, out) {
            return;
        }
        if work.stored == Stored::Asked {
            self.ask_stored(uid, &work);
        }
        if let Some(queue) = self.queues.get_mut(uid) {
            queue.works.push_back(work);
            return;
        }
        // The usual way: nothing is missing, nothing is allocated.
        let asked = match self.step(&work, now, out) {
            Step::Done => return,
            Step::Wait => SmallVec::new(),
            Step::Need(want) => {
                self.ask(uid, want);
                SmallVec::from_slice(&[want])
            }
        };
        self.queues.insert(uid.into(), Queue { works: VecDeque::from([work]), asked });
    }

    /// Handles items of a uid in order until one must wait.
    pub(super) fn run(&mut self, uid: &str, mut queue: Queue, now: Now, out: &mut impl Out) {
        while let Some(work) = queue.works.pop_front() {
            match self.step(&work, now, out) {
                Step::Done => continue,
                Step::Need(want) => {
                    if !queue.asked.contains(&want) {
                        queue.asked.push(want);
                        self.ask(uid, want);
                    }
                }
                Step::Wait => {}
            }
            queue.works.push_front(work);
            break;
        }
        if !queue.works.is_empty() || !queue.asked.is_empty() {
            self.queues.insert(uid.into(), queue);
        }
    }

    pub(super) fn step(&mut self, work: &Work, now: Now, out: &mut impl Out) -> Step {
        let body = work.body.clone();
        match work.kind {
            Kind::Connect => match item::Connect::decode(&body) {
                Ok(c) => self.connect(work, &c, now, out),
                Err(_) => self.drop_broken(work, out),
            },
            Kind::Send => match item::Send::decode(&body) {
                Ok(s) => self.send(work, &s, now, out),
                Err(_) => self.drop_broken(work, out),
            },
            _ => match item::Closed::decode(&body) {
                Ok(c) => {
                    self.presence.remove(c.conn);
                    out.settle(work.origin);
                    Step::Done
                }
                Err(_) => self.drop_broken(work, out),
            },
        }
    }

    fn drop_broken(&mut self, work: &Work, out: &mut impl Out) -> Step {
        self.counts.broken += 1;
        out.settle(work.origin);
        Step::Done
    }

    /// Rows of a uid have changed.
    pub fn changed(&mut self, uid: &str, flags: &[DeviceFlag]) {
        self.rows.changed(uid, flags.iter().copied());
    }

    fn send(&mut self, work: &Work, s: &item::Send<'_>, now: Now, out: &mut impl Out) -> Step {
        match work.stored {
            Stored::Asked => return Step::Wait,
            Stored::Yes(id, seq) => {
                sendack(s, Reason::SUCCESS, (id, seq), work.origin, out);
                return Step::Done;
            }
            Stored::New | Stored::No => {}
        }
        let Some(session) = self.presence.get(s.conn) else {
            if self.gateways.slot_complete(s.conn.gateway_slot()) {
                return self.refuse_send(work, s, Reason::SYSTEM_ERROR, out);
            }
            self.park(work, out);
            return Step::Done;
        };
        let deadline = s.accepted_ms.saturating_add(millis(SEND_DEADLINE));
        if now.mono_ms >= deadline {
            return self.refuse_send(work, s, Reason::SYSTEM_ERROR, out);
        }
        let Some(info) = self.rows.info(s.uid) else { return Step::Need(Want::Info) };
        let opened = send::open(s, session.keys.as_ref(), info, &mut self.plain);
        if let Err(reason) = opened {
            return self.refuse_send(work, s, reason, out);
        }
        let (channel_id, named) = send::channel(s);
        let bucket = Bucket::of(wk_types::channel::base_id(&channel_id));
        self.counts.sends += 1;
        self.counts.send_bytes += u64::try_from(self.plain.len()).unwrap_or(0);
        let message = Message {
            message_id: s.message_id,
            flags: s.flags,
            setting: s.setting,
            expire: s.expire,
            client_seq: s.client_seq,
            from_uid: s.uid,
            client_msg_no: s.client_msg_no,
            topic: s.topic,
            stream_no: s.stream_no,
            payload: &self.plain,
        };
        let x = item::ChannelSend {
            conn: s.conn,
            accepted_ms: s.accepted_ms,
            system_device: false,
            channel_type: s.channel_type,
            channel_id: &channel_id,
            named,
            receivers: item::Receivers::NONE,
            message,
        };
        out.channel_send(bucket, &x, work.origin);
        Step::Done
    }

    pub(super) fn refuse_send(&mut self, work: &Work, s: &item::Send<'_>, reason: Reason, out: &mut impl Out) -> Step {
        self.counts.refused_sends += 1;
        sendack(s, reason, (s.message_id, 0), work.origin, out);
        Step::Done
    }

    /// A SEND that two channel workers died holding: it is refused.
    pub fn poisoned(&mut self, body: &[u8], origin: Option<Origin>, out: &mut impl Out) {
        let (Ok(x), Some(origin)) = (item::ChannelSend::decode(body), origin) else { return };
        self.counts.refused_sends += 1;
        let ack = item::Sendack {
            conn: x.conn,
            message_id: x.message.message_id,
            stored_id: x.message.message_id,
            message_seq: 0,
            client_seq: x.message.client_seq,
            reason: Reason::SYSTEM_ERROR,
            flags: x.message.flags,
            client_msg_no: x.message.client_msg_no,
        };
        out.sendack(&ack, origin);
    }
}

/// Uid whose order an item belongs to.
fn uid_of(kind: Kind, body: &[u8]) -> Option<&str> {
    match kind {
        Kind::Connect => item::Connect::decode(body).ok().map(|c| c.uid),
        Kind::Send => item::Send::decode(body).ok().map(|s| s.uid),
        _ => item::Closed::decode(body).ok().map(|c| c.uid),
    }
}

fn sendack(s: &item::Send<'_>, reason: Reason, stored: (MessageId, MessageSeq), done: Origin, out: &mut impl Out) {
    let x = item::Sendack {
        conn: s.conn,
        message_id: s.message_id,
        stored_id: stored.0,
        message_seq: stored.1,
        client_seq: s.client_seq,
        reason,
        flags: s.flags,
        client_msg_no: s.client_msg_no,
    };
    out.sendack(&x, done);
}

/// Milliseconds of a duration.
#[must_use]
pub fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
