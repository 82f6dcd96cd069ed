//! Decisions of the user pool: no I/O, no clocks. What is to be done goes to an [`Out`].

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use wk_link::item::{self, Body as _};
use wk_link::record::Message;
use wk_link::{Delivery, Kind};
use wk_proto::cluster::v1 as pb;
use wk_types::limits::SEND_DEADLINE;
use wk_types::{Bucket, ChannelType, ConnId, Daemon, DeviceFlag, DeviceLevel, MessageId, MessageSeq, Reason};

use super::cache::{Presence, Rows, Session, Want, query, session};
use super::login::{self, Rules};
use super::{kick, send};
use crate::gateways::{Gateways, Void};
use crate::limits::PARKED_MAX;
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
struct Work {
    origin: Origin,
    sender: Sender,
    kind: Kind,
    body: Bytes,
    stored: Stored,
}

/// Is a replayed SEND stored already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
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
struct Queue {
    works: VecDeque<Work>,
    asked: SmallVec<[Want; 2]>,
}

/// One query of a lookup.
#[derive(Debug)]
struct Asked {
    uid: Box<str>,
    what: What,
    stamp: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Row(Want),
    Stored(Origin),
}

/// Result of trying one item.
enum Step {
    Done,
    Need(Want),
    Wait,
}

/// State of a user worker.
#[derive(Debug)]
pub struct Users {
    rules: Rules,
    gateways: Gateways,
    presence: Presence,
    rows: Rows,
    queues: HashMap<Box<str>, Queue>,
    /// CONNECTs that wait for the sessions of all gateways; SENDs that wait for those of their own.
    parked: VecDeque<Work>,
    wanted: Vec<(Asked, pb::Query)>,
    /// Queries whose lookup failed; they are made again with the next tick.
    again: Vec<(Asked, pb::Query)>,
    loads: Slab<Vec<(Asked, pb::Query)>>,
    plain: Vec<u8>,
    counts: Counts,
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
            Kind::SessionUp => match item::Session::decode(&d.body) {
                Ok(s) => self.presence.insert(session(&s, sender.incarnation)),
                Err(_) => self.counts.broken += 1,
            },
            Kind::SnapshotEnd => {
                self.gateways.end(sender.slot, sender.incarnation);
                self.unpark(now, out);
            }
            Kind::Connect | Kind::Send | Kind::Closed => {
                let replayed = d.replay && d.kind == Kind::Send;
                let stored = if replayed { Stored::Asked } else { Stored::New };
                self.admit(Work { origin, sender, kind: d.kind, body: d.body, stored }, now, out);
            }
            _ => {
                self.counts.broken += 1;
                out.settle(origin);
            }
        }
    }

    /// Puts an item behind what waits for its uid, or handles it.
    fn admit(&mut self, work: Work, now: Now, out: &mut impl Out) {
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
    fn run(&mut self, uid: &str, mut queue: Queue, now: Now, out: &mut impl Out) {
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

    fn step(&mut self, work: &Work, now: Now, out: &mut impl Out) -> Step {
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

    fn connect(&mut self, work: &Work, c: &item::Connect<'_>, now: Now, out: &mut impl Out) -> Step {
        if self.presence.get(c.conn).is_some() {
            // A replay: the gateway has registered the session, so it has the CONNACK with these very keys.
            out.settle(work.origin);
            return Step::Done;
        }
        if !self.gateways.complete() {
            self.park(work, out);
            return Step::Done;
        }
        let device = match login::needs_device(&self.rules, c.uid).then(|| self.rows.device(c.uid, c.device_flag)) {
            None => None,
            Some(None) => return Step::Need(Want::Device(c.device_flag)),
            Some(Some(row)) => row,
        };
        let Some(info) = self.rows.info(c.uid) else { return Step::Need(Want::Info) };
        let verdict = login::admit(&self.rules, c, device.as_ref(), info);
        match verdict.and_then(|level| Ok((level, login::agree(&self.rules, c)?))) {
            Ok((level, keys)) => self.let_in(work, c, level, &keys, now, out),
            Err(reason) => self.refuse_connect(work.origin, c, reason, now, out),
        }
        Step::Done
    }

    fn let_in(&mut self, work: &Work, c: &item::Connect<'_>, level: DeviceLevel, keys: &login::Keys, now: Now, out: &mut impl Out) {
        let same_flag = self.presence.of(c.uid).filter(|s| s.flag == c.device_flag && !s.kicked);
        let orders: SmallVec<[(ConnId, kick::Order); 2]> =
            same_flag.filter_map(|s| Some((s.conn, kick::by_login(level, c.device_id, &s.device_id)?))).collect();
        for (conn, order) in orders {
            self.kick(conn, order, out);
        }
        self.presence.insert(Session {
            conn: c.conn,
            incarnation: work.sender.incarnation,
            uid: Arc::from(c.uid),
            device_id: c.device_id.into(),
            flag: c.device_flag,
            level,
            keys: keys.keys,
            kicked: false,
        });
        self.counts.logins += 1;
        let (aes_key, aes_iv) = keys.keys.map_or(([0; 16], [0; 16]), |k| halves(&k.to_bytes()));
        let x = item::Connack {
            conn: c.conn,
            reason: Reason::SUCCESS,
            device_level: level,
            encrypted: keys.keys.is_some(),
            time_diff_ms: now.unix_ms.saturating_sub(c.client_timestamp_ms),
            aes_key,
            aes_iv,
            server_key: &keys.server_key,
            salt: &keys.salt,
        };
        out.connack(&x, work.origin);
    }

    fn refuse_connect(&mut self, origin: Origin, c: &item::Connect<'_>, reason: Reason, now: Now, out: &mut impl Out) {
        self.counts.refused_logins += 1;
        let x = item::Connack {
            conn: c.conn,
            reason,
            device_level: DeviceLevel::SLAVE,
            encrypted: false,
            time_diff_ms: now.unix_ms.saturating_sub(c.client_timestamp_ms),
            aes_key: [0; 16],
            aes_iv: [0; 16],
            server_key: "",
            salt: "",
        };
        out.connack(&x, origin);
    }

    fn kick(&mut self, conn: ConnId, order: kick::Order, out: &mut impl Out) {
        self.counts.kicks += 1;
        self.presence.kicked(conn);
        out.kick(&item::Kick { conn, disconnect: order.disconnect, text: order.text, close_after_ms: order.close_after_ms });
    }

    /// Kicks all connections of a uid with one of these flags; for the api.
    pub fn kick_flags(&mut self, uid: &str, flags: &[DeviceFlag], order: kick::Order, out: &mut impl Out) {
        let conns: SmallVec<[ConnId; 4]> = self.presence.of(uid).filter(|s| flags.contains(&s.flag)).map(|s| s.conn).collect();
        for conn in conns {
            self.kick(conn, order, out);
        }
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
            tag_key: "",
            message,
        };
        out.channel_send(bucket, &x, work.origin);
        Step::Done
    }

    fn refuse_send(&mut self, work: &Work, s: &item::Send<'_>, reason: Reason, out: &mut impl Out) -> Step {
        self.counts.refused_sends += 1;
        sendack(s, reason, (s.message_id, 0), work.origin, out);
        Step::Done
    }

    /// Waits for sessions to become known. Above the bound the item is refused.
    fn park(&mut self, work: &Work, out: &mut impl Out) {
        if self.parked.len() < PARKED_MAX {
            let Work { origin, sender, kind, ref body, stored } = *work;
            self.parked.push_back(Work { origin, sender, kind, body: body.clone(), stored });
            return;
        }
        match (item::Connect::decode(&work.body), item::Send::decode(&work.body)) {
            (Ok(c), _) if work.kind == Kind::Connect => {
                self.refuse_connect(work.origin, &c, Reason::SYSTEM_ERROR, Now { mono_ms: 0, unix_ms: c.client_timestamp_ms }, out);
            }
            (_, Ok(s)) => {
                self.refuse_send(work, &s, Reason::SYSTEM_ERROR, out);
            }
            _ => out.settle(work.origin),
        }
    }

    /// A connection ended before its CONNECT was handled: both are settled. True when it was so.
    fn unpark_closed(&mut self, closed: &Work, out: &mut impl Out) -> bool {
        if self.parked.is_empty() {
            return false;
        }
        let Ok(c) = item::Closed::decode(&closed.body) else { return false };
        let is_it = |w: &Work| w.kind == Kind::Connect && item::Connect::decode(&w.body).is_ok_and(|x| x.conn == c.conn);
        let Some(at) = self.parked.iter().position(is_it) else { return false };
        if let Some(work) = self.parked.remove(at) {
            out.settle(work.origin);
        }
        out.settle(closed.origin);
        true
    }

    /// Handles what waited for sessions, as far as they are known now.
    fn unpark(&mut self, now: Now, out: &mut impl Out) {
        if self.parked.is_empty() {
            return;
        }
        let complete = self.gateways.complete();
        let parked = std::mem::take(&mut self.parked);
        for work in parked {
            let ready = match work.kind {
                Kind::Send => self.gateways.slot_complete(work.sender.slot),
                _ => complete,
            };
            if ready {
                // What was asked before it was parked has been answered.
                self.admit(work, now, out);
            } else {
                self.parked.push_back(work);
            }
        }
    }

    fn ask(&mut self, uid: &str, want: Want) {
        let asked = Asked { uid: uid.into(), what: What::Row(want), stamp: self.rows.stamp(uid) };
        self.wanted.push((asked, query(uid, want)));
    }

    fn ask_stored(&mut self, uid: &str, work: &Work) {
        let Ok(s) = item::Send::decode(&work.body) else { return };
        let (channel_id, _) = send::channel(&s);
        let key = pb::StoredKey {
            channel: Some(pb::ChannelRef { id: channel_id.into_owned(), r#type: u32::from(s.channel_type.0) }),
            message_id: s.message_id,
            from_uid: s.uid.to_owned(),
            client_msg_no: s.client_msg_no.to_owned(),
        };
        let query = pb::Query { of: Some(pb::query::Of::Stored(key)) };
        self.wanted.push((Asked { uid: uid.into(), what: What::Stored(work.origin), stamp: 0 }, query));
    }

    /// Sends what the drained batch wants to know, in one request.
    pub fn flush(&mut self, out: &mut impl Out) {
        if self.wanted.is_empty() {
            return;
        }
        let wanted = std::mem::take(&mut self.wanted);
        let queries = wanted.iter().map(|(_, query)| query.clone()).collect();
        let load = self.loads.insert(wanted);
        out.lookup(load, queries);
    }

    /// The answers to a lookup; `None`: it failed as a whole and is made again.
    pub fn loaded(&mut self, load: usize, answers: Option<Vec<pb::Answer>>, now: Now, out: &mut impl Out) {
        let Some(asked) = self.loads.try_remove(load) else { return };
        let Some(answers) = answers.filter(|a| a.len() == asked.len()) else {
            self.again.extend(asked);
            return;
        };
        let mut uids: Vec<Box<str>> = Vec::with_capacity(asked.len());
        for ((asked, query), answer) in asked.into_iter().zip(answers) {
            if uids.last() != Some(&asked.uid) {
                uids.push(asked.uid.clone());
            }
            self.answered(asked, query, &answer, now, out);
        }
        for uid in uids {
            if let Some(queue) = self.queues.remove(&*uid) {
                self.run(&uid, queue, now, out);
            }
        }
    }

    fn answered(&mut self, asked: Asked, query: pb::Query, answer: &pb::Answer, now: Now, out: &mut impl Out) {
        if let Some(error) = &answer.error {
            if error.code().retryable() {
                self.again.push((asked, query));
            } else {
                self.fail(&asked, now, out);
            }
            return;
        }
        match asked.what {
            What::Row(want) => {
                let learned = self.rows.learn(&asked.uid, want, answer.value.as_deref(), asked.stamp);
                match learned {
                    // False: changed meanwhile; the next run asks anew.
                    Ok(_) => self.no_longer_asked(&asked.uid, want),
                    Err(_) => self.fail(&asked, now, out),
                }
            }
            What::Stored(origin) => {
                let found = (answer.number != 0).then_some((answer.message_id, answer.number));
                let stored = found.map_or(Stored::No, |(id, seq)| Stored::Yes(id, seq));
                let queue = self.queues.get_mut(&*asked.uid);
                if let Some(work) = queue.and_then(|q| q.works.iter_mut().find(|w| w.origin == origin)) {
                    work.stored = stored;
                }
            }
        }
    }

    fn no_longer_asked(&mut self, uid: &str, want: Want) {
        if let Some(queue) = self.queues.get_mut(uid) {
            queue.asked.retain(|w| *w != want);
        }
    }

    /// Rows of a uid cannot be read: everything that waits for it is answered with reason 15.
    fn fail(&mut self, asked: &Asked, now: Now, out: &mut impl Out) {
        let Some(queue) = self.queues.remove(&*asked.uid) else { return };
        for work in queue.works {
            match work.kind {
                Kind::Connect => {
                    if let Ok(c) = item::Connect::decode(&work.body) {
                        self.refuse_connect(work.origin, &c, Reason::SYSTEM_ERROR, now, out);
                    }
                }
                Kind::Send => {
                    if let Ok(s) = item::Send::decode(&work.body) {
                        self.refuse_send(&work, &s, Reason::SYSTEM_ERROR, out);
                    }
                }
                _ => {
                    self.step(&work, now, out);
                }
            }
        }
    }

    /// Coarse clock: makes failed lookups again, answers SENDs whose deadline has passed while they waited for rows.
    pub fn tick(&mut self, now: Now, out: &mut impl Out) {
        if !self.again.is_empty() {
            let again = std::mem::take(&mut self.again);
            for (mut asked, query) in again {
                asked.stamp = self.rows.stamp(&asked.uid);
                self.wanted.push((asked, query));
            }
        }
        let late: Vec<Box<str>> = self.queues.iter().filter(|(_, q)| is_late(q, now)).map(|(uid, _)| uid.clone()).collect();
        for uid in late {
            let Some(mut queue) = self.queues.remove(&*uid) else { continue };
            while is_late(&queue, now) {
                let Some(work) = queue.works.pop_front() else { break };
                if let Ok(s) = item::Send::decode(&work.body) {
                    self.refuse_send(&work, &s, Reason::SYSTEM_ERROR, out);
                }
            }
            self.run(&uid, queue, now, out);
        }
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

fn is_late(queue: &Queue, now: Now) -> bool {
    queue.works.front().is_some_and(|w| send_is_late(w, now))
}

fn send_is_late(work: &Work, now: Now) -> bool {
    work.kind == Kind::Send
        && item::Send::decode(&work.body).is_ok_and(|s| now.mono_ms >= s.accepted_ms.saturating_add(millis(SEND_DEADLINE)))
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

fn halves(bytes: &[u8; 32]) -> ([u8; 16], [u8; 16]) {
    let (key, iv) = bytes.split_at(16);
    (key.try_into().unwrap_or_default(), iv.try_into().unwrap_or_default())
}

/// Milliseconds of a duration.
#[must_use]
pub fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Type of the channel that a user's own rows hang on.
pub const USER_ROWS_TYPE: ChannelType = ChannelType::PERSON;

#[cfg(test)]
mod tests;
