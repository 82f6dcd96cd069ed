//! SENDs that were handed over and are not answered, by message id. Pure: the caller tells the time.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;

use bytes::Bytes;
use wk_link::sender::Ticket;
use wk_types::limits::SEND_DEADLINE;
use wk_types::{ConnId, MessageId};
use wk_wire::Flags;
use wk_wire::jsonrpc::Id;

use crate::exchange::At;
use crate::session::NumberHasher;

/// One SEND.
#[derive(Debug)]
pub struct Entry {
    /// Connection to answer.
    pub at: At,
    /// Its place in the link's ring; `None` while its bucket moves, and once the ring has let go of it.
    pub ticket: Option<Ticket>,
    /// Echo.
    pub client_seq: u32,
    /// Echo.
    pub flags: Flags,
    /// JSON-RPC: id of the request.
    pub id: Option<Box<Id>>,
    /// Given back to the connection with the answer. Unit: bytes.
    pub cost: u32,
    /// The item, for the client's message number when we answer ourselves; empty once answered.
    pub body: Bytes,
    /// The client has its answer; only the ring still holds the item.
    pub answered: bool,
}

/// What to do about an answer that came.
#[derive(Debug)]
pub enum Answer {
    /// Tell the client, and settle the item.
    First(Entry),
    /// The client has been told already: settle only.
    Late(Option<Ticket>),
    /// Nothing is known of it: drop.
    Unknown,
}

/// The table.
#[derive(Debug, Default)]
pub struct InFlight {
    entries: HashMap<MessageId, Entry, BuildHasherDefault<NumberHasher>>,
    /// Deadlines in the order they were accepted; ids that are answered are skipped.
    deadlines: VecDeque<(u64, MessageId)>,
    open: u64,
}

impl InFlight {
    /// A SEND was handed over. Its deadline counts from `accepted_ms`.
    pub fn insert(&mut self, id: MessageId, entry: Entry, accepted_ms: u64) {
        let due = accepted_ms + u64::try_from(SEND_DEADLINE.as_millis()).unwrap_or(u64::MAX);
        self.deadlines.push_back((due, id));
        self.open += 1;
        let before = self.entries.insert(id, entry);
        debug_assert!(before.is_none(), "message ids are unique");
    }

    /// A SENDACK came.
    pub fn answer(&mut self, id: MessageId) -> Answer {
        let answer = match self.entries.remove(&id) {
            None => Answer::Unknown,
            Some(entry) if entry.answered => Answer::Late(entry.ticket),
            Some(entry) => {
                self.open -= 1;
                Answer::First(entry)
            }
        };
        self.skip_answered();
        answer
    }

    /// The ring has let go of the item.
    pub fn done(&mut self, id: MessageId) {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.answered => drop(self.entries.remove(&id)),
            // Its SENDACK travels on another link and may still come: the deadline decides.
            Some(entry) => entry.ticket = None,
            None => {}
        }
    }

    /// Takes out the next SEND whose deadline has passed, for the gateway to answer. The entry stays while the ring holds the item.
    pub fn expire(&mut self, now_ms: u64) -> Option<(MessageId, Overdue)> {
        loop {
            let (due, id) = *self.deadlines.front()?;
            if due > now_ms {
                return None;
            }
            self.deadlines.pop_front();
            if let Some(overdue) = self.overdue(id) {
                return Some((id, overdue));
            }
        }
    }

    /// The gateway answers this SEND itself, now.
    pub fn overdue(&mut self, id: MessageId) -> Option<Overdue> {
        let entry = self.entries.get_mut(&id).filter(|e| !e.answered)?;
        entry.answered = true;
        self.open -= 1;
        let overdue = Overdue {
            at: entry.at,
            client_seq: entry.client_seq,
            flags: entry.flags,
            id: entry.id.take(),
            cost: entry.cost,
            body: std::mem::take(&mut entry.body),
        };
        if entry.ticket.is_none() {
            self.entries.remove(&id);
        }
        Some(overdue)
    }

    /// When [`InFlight::expire`] has something next.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.deadlines.front().map(|(due, _)| *due)
    }

    /// Connections that wait for an answer, some more than once.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> {
        self.entries.values().filter(|e| !e.answered).map(|e| e.at.conn)
    }

    /// SENDs without an answer.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open
    }

    /// Entries, late ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn skip_answered(&mut self) {
        while let Some((_, id)) = self.deadlines.front() {
            if self.entries.get(id).is_some_and(|e| !e.answered) {
                break;
            }
            self.deadlines.pop_front();
        }
    }
}

/// A SEND the gateway answers itself.
#[derive(Debug)]
pub struct Overdue {
    /// Connection.
    pub at: At,
    /// Echo.
    pub client_seq: u32,
    /// Echo.
    pub flags: Flags,
    /// JSON-RPC: id of the request.
    pub id: Option<Box<Id>>,
    /// Given back. Unit: bytes.
    pub cost: u32,
    /// The item.
    pub body: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(position: u64) -> Entry {
        Entry {
            at: At { conn: ConnId(1), slot: 0, reactor: 0 },
            ticket: Some(Ticket { slot: 0, position }),
            client_seq: 7,
            flags: Flags::NONE,
            id: None,
            cost: 10,
            body: Bytes::from_static(b"x"),
            answered: false,
        }
    }

    #[test]
    fn the_first_answer_counts() {
        let mut table = InFlight::default();
        table.insert(1, entry(1), 1_000);
        assert!(matches!(table.answer(1), Answer::First(_)));
        assert!(matches!(table.answer(1), Answer::Unknown));
        assert_eq!((table.open(), table.next_due_ms()), (0, None));
    }

    #[test]
    fn a_deadline_answers_and_a_late_answer_only_settles() {
        let mut table = InFlight::default();
        table.insert(1, entry(1), 1_000);
        table.insert(2, entry(2), 1_000);
        assert!(table.expire(5_999).is_none());
        assert_eq!(table.expire(6_000).unwrap().0, 1);
        assert_eq!(table.expire(6_000).unwrap().0, 2);
        assert!(table.expire(60_000).is_none());
        assert!(matches!(table.answer(1), Answer::Late(Some(_))));
        assert_eq!(table.len(), 1);
        table.done(2);
        assert!(table.is_empty());
    }

    #[test]
    fn settled_without_an_answer_is_answered_at_the_deadline() {
        let mut table = InFlight::default();
        table.insert(1, entry(1), 0);
        table.done(1);
        assert_eq!(table.open(), 1);
        assert!(table.expire(5_000).is_some());
        assert!(table.is_empty());
    }

    proptest! {
        /// Whatever happens in whatever order: each SEND is answered exactly once, and nothing stays behind.
        #[test]
        fn one_answer_each(events in prop::collection::vec((0u8..4, 1i64..20), 0..200)) {
            let mut table = InFlight::default();
            let (mut now, mut sent, mut answered) = (0u64, std::collections::HashSet::new(), std::collections::HashMap::new());
            for (what, id) in events.into_iter().chain((1..20).map(|id| (1, id))) {
                match what {
                    0 if sent.insert(id) => table.insert(id, entry(1), now),
                    1 => if let Answer::First(_) = table.answer(id) { *answered.entry(id).or_insert(0) += 1 },
                    2 => table.done(id),
                    _ => {
                        now += 1_700;
                        while let Some((id, _)) = table.expire(now) {
                            *answered.entry(id).or_insert(0) += 1;
                        }
                    }
                }
                prop_assert_eq!(table.open(), sent.iter().filter(|id| !answered.contains_key(*id)).count() as u64);
            }
            prop_assert!(sent.iter().all(|id| answered.get(id) == Some(&1)));
            prop_assert!(table.is_empty());
        }
    }
}
