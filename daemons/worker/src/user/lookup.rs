//! Rows and stored results that the user pool asks the cluster for, and what their answers set in motion.

use wk_link::Kind;
use wk_link::item::{self, Body as _};
use wk_proto::cluster::v1 as pb;
use wk_types::Reason;
use wk_types::limits::SEND_DEADLINE;

use super::cache::{Want, query};
use super::handle::{Out, Queue, Stored, Users, Work, millis};
use super::send;
use crate::origin::{Now, Origin};

/// One query of a lookup, and for whom.
#[derive(Debug)]
pub struct Asked {
    uid: Box<str>,
    what: What,
    stamp: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Row(Want),
    Stored(Origin),
}

impl Users {
    pub(super) fn ask(&mut self, uid: &str, want: Want) {
        let asked = Asked { uid: uid.into(), what: What::Row(want), stamp: self.rows.stamp(uid) };
        self.wanted.push((asked, query(uid, want)));
    }

    pub(super) fn ask_stored(&mut self, uid: &str, work: &Work) {
        let Ok(s) = item::Send::decode(&work.body) else { return };
        let (channel_id, _) = send::channel(&s);
        let key = pb::StoredKey {
            channel: Some(pb::ChannelRef { id: channel_id.into_owned(), r#type: u32::from(s.channel_type.0) }),
            message_id: s.message_id,
            from_uid: s.uid.to_owned(),
            client_msg_no: s.client_msg_no.to_owned(),
            payload: None,
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
                // By id: the payload that was stored may be a hook's. What was stored under another id is found by the append.
                let ours = |of: &pb::query::Of| matches!(of, pb::query::Of::Stored(key) if key.message_id == answer.message_id);
                let found = (answer.number != 0 && query.of.as_ref().is_some_and(ours)).then_some((answer.message_id, answer.number));
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
}

fn is_late(queue: &Queue, now: Now) -> bool {
    queue.works.front().is_some_and(|w| send_is_late(w, now))
}

fn send_is_late(work: &Work, now: Now) -> bool {
    work.kind == Kind::Send
        && item::Send::decode(&work.body).is_ok_and(|s| now.mono_ms >= s.accepted_ms.saturating_add(millis(SEND_DEADLINE)))
}
