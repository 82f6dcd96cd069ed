//! Facts for verdicts: what is known, what is asked for, and the answers.

use wk_link::record::Message;
use wk_proto::cluster::v1 as pb;
use wk_types::channel::{SYSTEM_UID, base_id, person_peer};
use wk_types::{ChannelType, Reason};

use prost::Message as _;

use super::cache::{Chan, Pending, SenderFacts, Stored, Verdict};
use super::handle::{Channels, Out};
use super::permission::{self, Facts, Info, Needs, Question};
use crate::limits::{LOOKUP_QUERIES_MAX, SENDERS_PER_CHANNEL_MAX};
use crate::origin::Now;
use crate::user::cache::stamp_index;

/// Messages behind a waiting one whose facts are asked for in the same lookup.
const AHEAD: usize = 256;

/// One query of a lookup, and for whom.
#[derive(Debug, Clone)]
pub struct Asked {
    chan: usize,
    epoch: u32,
    stamp: u32,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    /// One fact of the channel or of a sender.
    Fact(Needs, Box<str>),
    /// Stored result of a message.
    Stored(i64),
}

impl Channels {
    /// Verdict of the message in front; `None`: none there, or facts are missing and asked for.
    pub(super) fn next_verdict(&mut self, index: usize, now: Now) -> Option<Verdict> {
        let chan = self.chans.get(index)?;
        let front = chan.incoming.front()?;
        if front.failed {
            return Some(Verdict::Refuse(Reason::SYSTEM_ERROR));
        }
        match front.stored {
            Stored::Asked if Self::is_late(front, now) => return Some(Verdict::Refuse(Reason::SYSTEM_ERROR)),
            Stored::Asked => return None,
            Stored::Yes(id, seq) => return Some(Verdict::Known(id, seq)),
            Stored::New | Stored::No => {}
        }
        match self.judge(chan, front) {
            Some(Ok(Reason::SUCCESS)) if Self::is_late(front, now) => Some(Verdict::Refuse(Reason::SYSTEM_ERROR)),
            Some(Ok(Reason::SUCCESS)) if front.no_persist() => Some(Verdict::Pass),
            Some(Ok(Reason::SUCCESS)) => Some(Verdict::Store),
            Some(Ok(reason)) => Some(Verdict::Refuse(reason)),
            // Not readable as a message: refused, and counted as a bug of a neighbour.
            None => {
                self.counts.broken += 1;
                Some(Verdict::Refuse(Reason::SYSTEM_ERROR))
            }
            Some(Err(_)) if Self::is_late(front, now) => Some(Verdict::Refuse(Reason::SYSTEM_ERROR)),
            Some(Err(_)) => {
                self.ask_ahead(index);
                None
            }
        }
    }

    /// Permission with what is known; `None` when the message cannot be read.
    fn judge(&self, chan: &Chan, pending: &Pending) -> Option<Result<Reason, Needs>> {
        let message = pending.message()?;
        let q = Question { kind: chan.key.kind, channel_id: &chan.key.id, from_uid: message.from_uid, system_device: pending.api };
        Some(permission::check(&q, &self.facts_for(chan, message.from_uid)))
    }

    fn facts_for(&self, chan: &Chan, from_uid: &str) -> Facts {
        let is_person = chan.key.kind == ChannelType::PERSON;
        let peer = if is_person { person_peer(&chan.key.id, from_uid) } else { None };
        let sender = chan.facts.senders.get(from_uid).copied().unwrap_or_default();
        // Rules of persons are changed by their user worker, which raises the stamp.
        let fresh = peer.is_none_or(|p| sender.stamp == self.stamp(p));
        let fact = |f: Option<bool>| f.filter(|_| fresh);
        let info = chan.facts.info.filter(|_| !is_person || chan.facts.info_stamp == self.stamp(base_id(&chan.key.id)));
        Facts {
            info,
            system_sender: self.is_system(from_uid),
            system_receiver: peer.map_or(Some(false), |p| self.is_system(p)),
            denied: fact(sender.denied),
            member: fact(sender.member),
            allow_any: chan.facts.allow_any,
            allowed: fact(sender.allowed),
            person_allow_off: self.rules.person_allow_off,
        }
    }

    fn is_system(&self, uid: &str) -> Option<bool> {
        if uid == SYSTEM_UID {
            return Some(true);
        }
        self.system.as_ref().map(|set| set.contains(uid))
    }

    pub(super) fn stamp(&self, uid: &str) -> u32 {
        self.stamps.get(stamp_index(uid)).copied().unwrap_or(0)
    }

    /// Asks for what is missing for the first messages of a channel.
    fn ask_ahead(&mut self, index: usize) {
        let Some(chan) = self.chans.get(index) else { return };
        let mut missing: Vec<(Box<str>, Needs)> = Vec::new();
        for pending in chan.incoming.iter().take(AHEAD) {
            let Some(Err(needs)) = self.judge(chan, pending) else { continue };
            let Some(message) = pending.message() else { continue };
            match missing.iter_mut().find(|(uid, _)| **uid == *message.from_uid) {
                Some((_, all)) => *all = all.with(needs),
                None => missing.push((message.from_uid.into(), needs)),
            }
        }
        for (uid, needs) in missing {
            self.ask(index, &uid, needs);
        }
    }

    /// Asks for facts that are not being asked for yet. System accounts come by themselves.
    fn ask(&mut self, index: usize, uid: &str, needs: Needs) {
        let chan_stamp = self.chans.get(index).map_or(0, |c| self.stamp(base_id(&c.key.id)));
        let peer_stamp = self
            .chans
            .get(index)
            .filter(|c| c.key.kind == ChannelType::PERSON)
            .and_then(|c| person_peer(&c.key.id, uid))
            .map_or(0, |peer| self.stamp(peer));
        let Some(chan) = self.chans.get_mut(index) else { return };
        if chan.facts.senders.len() >= SENDERS_PER_CHANNEL_MAX && !chan.facts.senders.contains_key(uid) {
            chan.facts.senders.retain(|_, s| !s.asked.is_none());
        }
        let epoch = chan.facts.epoch;
        for (need, of_channel) in
            [(Needs::INFO, true), (Needs::ALLOW_ANY, true), (Needs::DENIED, false), (Needs::MEMBER, false), (Needs::ALLOWED, false)]
        {
            if !needs.has(need) {
                continue;
            }
            let asked = if of_channel {
                &mut chan.facts.asked
            } else {
                let facts = chan.facts.senders.entry_ref(uid).or_insert_with(SenderFacts::default);
                if facts.stamp != peer_stamp {
                    // What was known or asked belongs to older rules.
                    *facts = SenderFacts { stamp: peer_stamp, ..SenderFacts::default() };
                }
                &mut facts.asked
            };
            if asked.has(need) {
                continue;
            }
            let Some(query) = query(&chan.key.id, chan.key.kind, uid, need) else { continue };
            *asked = asked.with(need);
            chan.asks += 1;
            let stamp = if of_channel { chan_stamp } else { peer_stamp };
            self.wanted.push((Asked { chan: index, epoch, stamp, what: What::Fact(need, uid.into()) }, query));
        }
    }

    /// Asks whether a replayed message is stored.
    pub(super) fn ask_stored(&mut self, index: usize, pending: &Pending, message: &Message<'_>) {
        let Some(chan) = self.chans.get_mut(index) else { return };
        let key = pb::StoredKey {
            channel: Some(channel_ref(&chan.key.id, chan.key.kind)),
            message_id: pending.message_id,
            from_uid: message.from_uid.to_owned(),
            client_msg_no: message.client_msg_no.to_owned(),
            payload: None,
        };
        chan.asks += 1;
        let asked = Asked { chan: index, epoch: 0, stamp: 0, what: What::Stored(pending.message_id) };
        self.wanted.push((asked, pb::Query { of: Some(pb::query::Of::Stored(key)) }));
    }

    /// Sends what the drain wants to know, in one request (more only above the bound).
    pub(super) fn send_lookups(&mut self, out: &mut impl Out) {
        while !self.wanted.is_empty() {
            let rest = self.wanted.split_off(self.wanted.len().min(LOOKUP_QUERIES_MAX));
            let wanted = std::mem::replace(&mut self.wanted, rest);
            self.counts.queries += u64::try_from(wanted.len()).unwrap_or(0);
            let queries = wanted.iter().map(|(_, q)| q.clone()).collect();
            let load = self.loads.insert(wanted);
            out.lookup(load, queries);
        }
    }

    /// The answers to a lookup; `None`: it failed as a whole and is made again with the next tick.
    pub fn loaded(&mut self, load: usize, answers: Option<Vec<pb::Answer>>) {
        let Some(asked) = self.loads.try_remove(load) else { return };
        let Some(answers) = answers.filter(|a| a.len() == asked.len()) else {
            self.again.extend(asked);
            return;
        };
        for ((asked, query), answer) in asked.into_iter().zip(answers) {
            match &answer.error {
                Some(error) if error.code().retryable() => self.again.push((asked, query)),
                Some(_) => self.learn(&asked, None),
                None => self.learn(&asked, Some(&answer)),
            }
        }
    }

    /// Takes over one answer; `None`: it cannot be had, and the messages that need it are refused.
    fn learn(&mut self, asked: &Asked, answer: Option<&pb::Answer>) {
        let Some(chan) = self.chans.get_mut(asked.chan) else { return };
        chan.asks = chan.asks.saturating_sub(1);
        match &asked.what {
            What::Stored(id) => {
                let found = answer.filter(|a| a.number != 0 && a.message_id == *id).map(|a| (a.message_id, a.number));
                if let Some(pending) = chan.incoming.iter_mut().find(|p| p.message_id == *id && p.stored == Stored::Asked) {
                    // An answer that cannot be had is taken as "no": the append finds a stored message by itself.
                    pending.stored = found.map_or(Stored::No, |(id, seq)| Stored::Yes(id, seq));
                }
            }
            What::Fact(need, uid) => {
                // After a change of rows nothing that was asked before is taken over; the next verdict asks anew.
                if chan.facts.epoch == asked.epoch {
                    match answer {
                        Some(answer) => learn_fact(chan, *need, uid, asked.stamp, answer),
                        None => refuse_waiting(chan, uid),
                    }
                }
            }
        }
        self.touch(asked.chan);
    }

    /// Makes failed lookups again.
    pub(super) fn ask_again(&mut self) {
        for (mut asked, query) in std::mem::take(&mut self.again) {
            // The stamp of now is right: the row is read after this moment.
            if let (What::Fact(need, uid), Some(chan)) = (&asked.what, self.chans.get(asked.chan)) {
                let of_channel = matches!(*need, Needs::INFO | Needs::ALLOW_ANY);
                let who = if of_channel { Some(base_id(&chan.key.id)) } else { person_peer(&chan.key.id, uid) };
                asked.stamp = who.filter(|_| chan.key.kind == ChannelType::PERSON || of_channel).map_or(0, |w| self.stamp(w));
            }
            self.wanted.push((asked, query));
        }
    }
}

fn learn_fact(chan: &mut Chan, need: Needs, uid: &str, stamp: u32, answer: &pb::Answer) {
    match need {
        Needs::INFO => {
            let row = answer.value.as_deref().map(pb::ChannelInfoRow::decode).transpose();
            chan.facts.asked = chan.facts.asked.without(need);
            match row {
                Ok(row) => {
                    let row = row.unwrap_or_default();
                    chan.facts.info = Some(Info { ban: row.ban, disband: row.disband });
                    chan.facts.info_stamp = stamp;
                }
                Err(_) => refuse_waiting(chan, uid),
            }
        }
        Needs::ALLOW_ANY => {
            chan.facts.asked = chan.facts.asked.without(need);
            chan.facts.allow_any = Some(answer.number > 0);
        }
        _ => {
            let Some(facts) = chan.facts.senders.get_mut(uid).filter(|f| f.stamp == stamp) else { return };
            facts.asked = facts.asked.without(need);
            let value = Some(answer.number > 0);
            match need {
                Needs::DENIED => facts.denied = value,
                Needs::MEMBER => facts.member = value,
                _ => facts.allowed = value,
            }
        }
    }
}

/// A fact cannot be had: what waits for this sender is refused, and the next message asks anew.
fn refuse_waiting(chan: &mut Chan, uid: &str) {
    chan.facts.asked = Needs::NONE;
    chan.facts.senders.remove(uid);
    for pending in &mut chan.incoming {
        pending.failed |= pending.message().is_some_and(|m| m.from_uid == uid);
    }
}

fn channel_ref(id: &str, kind: ChannelType) -> pb::ChannelRef {
    pb::ChannelRef { id: id.to_owned(), r#type: u32::from(kind.0) }
}

/// The query for one fact; `None` when a person channel has no peer.
fn query(id: &str, kind: ChannelType, uid: &str, need: Needs) -> Option<pb::Query> {
    use pb::query::Of;
    // Lists hang on the base channel; those of a person channel on its receiver.
    let list = |list: pb::List| {
        let owner = if kind == ChannelType::PERSON { person_peer(id, uid)? } else { base_id(id) };
        Some(pb::ListKey { list: list.into(), channel: Some(channel_ref(owner, kind)) })
    };
    let contains = |l: pb::List| Some(Of::Contains(pb::MemberKey { list: Some(list(l)?), member: uid.to_owned() }));
    let of = match need {
        // The state is that of the id as processed, with the command suffix.
        Needs::INFO => Of::Row(pb::RowKey { table: pb::Table::ChannelInfo.into(), id: id.to_owned(), sub: u32::from(kind.0) }),
        Needs::ALLOW_ANY => Of::Count(list(pb::List::Allow)?),
        Needs::DENIED => contains(pb::List::Deny)?,
        Needs::MEMBER => contains(pb::List::Subscribers)?,
        _ => contains(pb::List::Allow)?,
    };
    Some(pb::Query { of: Some(of) })
}
