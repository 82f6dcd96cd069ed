//! Sessions of the receivers a push worker owns.

use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use wk_link::item;
use wk_types::{ConnId, DeviceLevel, Incarnation, MessageId};
use wk_wire::Version;
use wk_wire::crypto::SessionKeys;

use super::retry::Unacked;
use crate::gateways::Void;
use crate::limits::RECENT_IDS;

/// A connection that gets RECVs.
#[derive(Debug)]
pub struct Conn {
    /// Connection.
    pub id: ConnId,
    /// Life of its gateway.
    pub incarnation: Incarnation,
    /// Negotiated version.
    pub version: Version,
    /// JSON-RPC.
    pub json: bool,
    /// JSON-RPC with keys in both spellings.
    pub snake_case: bool,
    /// The session says that payloads are encrypted: without keys nothing is sent.
    pub encrypted: bool,
    /// Keys.
    pub keys: Option<SessionKeys>,
    /// Level.
    pub level: DeviceLevel,
    /// User.
    pub uid: Arc<str>,
    /// Frames that wait for their RECVACK.
    pub unacked: Unacked,
    /// True while the connection is on the scan list.
    pub listed: bool,
    recent: Recent,
}

impl Conn {
    /// A connection as the gateway tells it.
    #[must_use]
    pub fn new(s: &item::Session<'_>, incarnation: Incarnation) -> Self {
        Self {
            id: s.conn,
            incarnation,
            version: Version::negotiate(s.version),
            json: s.json,
            snake_case: s.snake_case,
            encrypted: s.encrypted,
            keys: s.encrypted.then(|| crate::user::cache::keys(&s.aes_key, &s.aes_iv)).flatten(),
            level: s.device_level,
            uid: s.uid.into(),
            unacked: Unacked::default(),
            listed: false,
            recent: Recent::default(),
        }
    }

    /// Notes a message. False: it went to this connection before.
    pub fn first_time(&mut self, id: MessageId) -> bool {
        self.recent.insert(id)
    }
}

/// The last message ids of a connection.
#[derive(Debug, Default)]
struct Recent {
    ids: Vec<MessageId>,
    next: usize,
    newest: MessageId,
}

impl Recent {
    fn insert(&mut self, id: MessageId) -> bool {
        // Ids carry their time: one above all others cannot have been here.
        if id <= self.newest && self.ids.contains(&id) {
            return false;
        }
        self.newest = self.newest.max(id);
        if self.ids.len() < RECENT_IDS {
            self.ids.push(id);
        } else if let Some(place) = self.ids.get_mut(self.next) {
            *place = id;
            self.next = (self.next + 1) % RECENT_IDS;
        }
        true
    }
}

/// What a receiver's connections say about its presence (`spec/semantics.md` §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No connection.
    Offline,
    /// Connections, none of level master: reported offline to the backend all the same.
    OnlineSlave,
    /// A master is online.
    OnlineMaster,
}

/// Sessions by connection and by uid.
#[derive(Debug, Default)]
pub struct Sessions {
    conns: Slab<Conn>,
    by_id: HashMap<ConnId, usize>,
    by_uid: HashMap<Arc<str>, SmallVec<[usize; 2]>>,
}

impl Sessions {
    /// Adds a connection. One with the same id is replaced; its frames and its memory of messages stay.
    pub fn insert(&mut self, mut conn: Conn) {
        if let Some(old) = self.remove(conn.id) {
            conn.unacked = old.unacked;
            conn.recent = old.recent;
        }
        let uid = Arc::clone(&conn.uid);
        let id = conn.id;
        let index = self.conns.insert(conn);
        self.by_id.insert(id, index);
        self.by_uid.entry(uid).or_default().push(index);
    }

    /// Removes a connection with everything that waits for it.
    pub fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let index = self.by_id.remove(&id)?;
        let conn = self.conns.try_remove(index)?;
        if let Some(list) = self.by_uid.get_mut(&*conn.uid) {
            list.retain(|i| *i != index);
            if list.is_empty() {
                self.by_uid.remove(&*conn.uid);
            }
        }
        Some(conn)
    }

    /// Removes the sessions that are void; returns how many.
    pub fn void(&mut self, void: Void) -> usize {
        let hit = self.conns.iter().filter(|(_, c)| void.hits(c.id.gateway_slot(), c.incarnation));
        let ids: Vec<ConnId> = hit.map(|(_, c)| c.id).collect();
        for id in &ids {
            self.remove(*id);
        }
        ids.len()
    }

    /// Removes the sessions of users for whom `owned` is false.
    pub fn keep(&mut self, owned: impl Fn(&str) -> bool) {
        let gone: Vec<ConnId> = self.conns.iter().filter(|(_, c)| !owned(&c.uid)).map(|(_, c)| c.id).collect();
        for id in gone {
            self.remove(id);
        }
    }

    /// Places of a uid's connections; empty for nobody.
    #[must_use]
    pub fn of(&self, uid: &str) -> SmallVec<[usize; 2]> {
        self.by_uid.get(uid).cloned().unwrap_or_default()
    }

    /// The connection at a place.
    pub fn at(&mut self, index: usize) -> Option<&mut Conn> {
        self.conns.get_mut(index)
    }

    /// A connection by its id.
    #[must_use]
    pub fn get(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(*self.by_id.get(&id)?)
    }

    /// Place of a connection.
    #[must_use]
    pub fn index(&self, id: ConnId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// How the backend sees the owner of these connections.
    #[must_use]
    pub fn standing(&self, conns: &[usize]) -> Standing {
        let master = |i: &usize| self.conns.get(*i).is_some_and(|c| c.level == DeviceLevel::MASTER);
        match conns {
            [] => Standing::Offline,
            some if some.iter().any(master) => Standing::OnlineMaster,
            _ => Standing::OnlineSlave,
        }
    }

    /// Connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// True without connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Users with a connection.
    #[must_use]
    pub fn users(&self) -> usize {
        self.by_uid.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_new_once() {
        let mut recent = Recent::default();
        assert!(recent.insert(10) && recent.insert(11) && recent.insert(5));
        assert!(!recent.insert(10) && !recent.insert(5) && !recent.insert(11));
        for id in 100..100 + i64::try_from(RECENT_IDS).expect("small") {
            assert!(recent.insert(id));
        }
        assert!(recent.insert(10), "forgotten after {RECENT_IDS} others");
    }
}
