//! What a user worker remembers: presence of its uids, and their rows.

use std::sync::Arc;

use hashbrown::HashMap;
use prost::Message as _;
use smallvec::SmallVec;
use wk_link::item;
use wk_proto::cluster::v1 as pb;
use wk_types::{ConnId, DeviceFlag, DeviceLevel, Incarnation};
use wk_wire::crypto::SessionKeys;

use crate::cache::TwoGen;
use crate::gateways::Void;
use crate::limits::{RULE_STAMPS, USER_ROWS_MAX};

/// An authenticated connection.
#[derive(Debug, Clone)]
pub struct Session {
    /// Connection.
    pub conn: ConnId,
    /// Life of the gateway that holds it.
    pub incarnation: Incarnation,
    /// User.
    pub uid: Arc<str>,
    /// Device.
    pub device_id: Box<str>,
    /// Device class.
    pub flag: DeviceFlag,
    /// Level.
    pub level: DeviceLevel,
    /// Keys; `None`: payloads are clear.
    pub keys: Option<SessionKeys>,
    /// A kick is under way: it is not kicked twice.
    pub kicked: bool,
}

/// Registry uid → connections.
#[derive(Debug, Default)]
pub struct Presence {
    conns: HashMap<ConnId, Session>,
    users: HashMap<Arc<str>, SmallVec<[ConnId; 2]>>,
}

impl Presence {
    /// The session of a connection.
    #[must_use]
    pub fn get(&self, conn: ConnId) -> Option<&Session> {
        self.conns.get(&conn)
    }

    /// Connections of a uid.
    pub fn of<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Session> {
        let conns = self.users.get(uid).map_or(&[][..], |c| c);
        conns.iter().filter_map(|c| self.conns.get(c))
    }

    /// Marks a connection as kicked.
    pub fn kicked(&mut self, conn: ConnId) {
        if let Some(session) = self.conns.get_mut(&conn) {
            session.kicked = true;
        }
    }

    /// Adds a connection; one with the same id is replaced.
    pub fn insert(&mut self, mut session: Session) {
        self.remove(session.conn);
        let conn = session.conn;
        if let Some((uid, conns)) = self.users.get_key_value_mut(&*session.uid) {
            session.uid = Arc::clone(uid);
            conns.push(conn);
        } else {
            self.users.insert(Arc::clone(&session.uid), SmallVec::from_slice(&[conn]));
        }
        self.conns.insert(conn, session);
    }

    /// Removes a connection.
    pub fn remove(&mut self, conn: ConnId) -> Option<Session> {
        let session = self.conns.remove(&conn)?;
        if let Some(conns) = self.users.get_mut(&*session.uid) {
            conns.retain(|c| *c != conn);
            if conns.is_empty() {
                self.users.remove(&*session.uid);
            }
        }
        Some(session)
    }

    /// Removes the sessions that are void; returns how many.
    pub fn void(&mut self, void: Void) -> usize {
        let hit = self.conns.values().filter(|s| void.hits(s.conn.gateway_slot(), s.incarnation));
        let conns: Vec<ConnId> = hit.map(|s| s.conn).collect();
        for conn in &conns {
            self.remove(*conn);
        }
        conns.len()
    }

    /// Removes the sessions of users for whom `owned` is false.
    pub fn keep(&mut self, owned: impl Fn(&str) -> bool) {
        let gone = self.users.iter().filter(|(uid, _)| !owned(uid)).flat_map(|(_, conns)| conns.iter().copied());
        for conn in gone.collect::<Vec<_>>() {
            self.remove(conn);
        }
    }

    /// Number of connections.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// True without connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Number of users with a connection.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// What must hold between the two maps.
    ///
    /// # Panics
    /// When it does not.
    #[cfg(test)]
    pub fn check(&self) {
        assert_eq!(self.conns.len(), self.users.values().map(SmallVec::len).sum::<usize>());
        for (uid, conns) in &self.users {
            assert!(!conns.is_empty());
            assert!(conns.iter().all(|c| self.conns[c].uid == *uid));
        }
    }
}

/// Session of a snapshot's item.
#[must_use]
pub fn session(item: &item::Session<'_>, incarnation: Incarnation) -> Session {
    Session {
        conn: item.conn,
        incarnation,
        uid: item.uid.into(),
        device_id: item.device_id.into(),
        flag: item.device_flag,
        level: item.device_level,
        keys: item.encrypted.then(|| keys(&item.aes_key, &item.aes_iv)).flatten(),
        kicked: false,
    }
}

/// Session keys of their two halves on a link.
#[must_use]
pub fn keys(aes_key: &[u8; 16], aes_iv: &[u8; 16]) -> Option<SessionKeys> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().zip(aes_key.iter().chain(aes_iv)) {
        *place = *byte;
    }
    SessionKeys::from_bytes(&bytes)
}

/// The part of a user's `ChannelInfoRow` (uid, 1) that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    /// May not connect.
    pub ban: bool,
    /// May not get a token.
    pub disband: bool,
    /// May not send anywhere.
    pub send_ban: bool,
}

/// A stored device.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Token, may be empty. Never logged.
    pub token: Box<str>,
    /// Level.
    pub level: DeviceLevel,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("level", &self.level).finish_non_exhaustive()
    }
}

/// A row that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// Info of (uid, 1).
    Info,
    /// Device row.
    Device(DeviceFlag),
}

/// Rows of owned uids. Only this process changes them, so they stay true until a change, which replaces them.
#[derive(Debug)]
pub struct Rows {
    infos: TwoGen<Box<str>, Info>,
    devices: TwoGen<(Box<str>, u8), Option<Device>>,
    /// Grows with each change of a uid with this hash: a row that was asked for before the change is not kept.
    stamps: Box<[u32]>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { infos: TwoGen::new(USER_ROWS_MAX), devices: TwoGen::new(USER_ROWS_MAX), stamps: vec![0; RULE_STAMPS].into() }
    }
}

impl Rows {
    /// Info, if it is here.
    pub fn info(&mut self, uid: &str) -> Option<Info> {
        self.infos.get(uid)
    }

    /// Device row, if it is known; `Some(None)`: there is none.
    pub fn device(&mut self, uid: &str, flag: DeviceFlag) -> Option<Option<Device>> {
        self.devices.get(&(Box::from(uid), flag.0))
    }

    /// Stamp to give back with the answer of a lookup.
    #[must_use]
    pub fn stamp(&self, uid: &str) -> u32 {
        self.stamps.get(stamp_index(uid)).copied().unwrap_or(0)
    }

    /// Keeps a looked-up row, unless a change came in between. False: ask again.
    ///
    /// # Errors
    /// When the stored bytes are not a row.
    pub fn learn(&mut self, uid: &str, want: Want, value: Option<&[u8]>, stamp: u32) -> Result<bool, prost::DecodeError> {
        if stamp != self.stamp(uid) {
            return Ok(false);
        }
        match want {
            Want::Info => {
                let row = value.map(pb::ChannelInfoRow::decode).transpose()?.unwrap_or_default();
                self.infos.insert(uid.into(), Info { ban: row.ban, disband: row.disband, send_ban: row.send_ban });
            }
            Want::Device(flag) => {
                let row = value.map(pb::DeviceRow::decode).transpose()?;
                let row = row.map(|r| Device { token: r.token.into(), level: DeviceLevel(u8::try_from(r.level).unwrap_or(0)) });
                self.devices.insert((uid.into(), flag.0), row);
            }
        }
        Ok(true)
    }

    /// Rows of a uid have changed: forgets them, and what is on its way.
    pub fn changed(&mut self, uid: &str, flags: impl IntoIterator<Item = DeviceFlag>) {
        if let Some(stamp) = self.stamps.get_mut(stamp_index(uid)) {
            *stamp = stamp.wrapping_add(1);
        }
        self.infos.remove(uid);
        for flag in flags {
            self.devices.remove(&(Box::from(uid), flag.0));
        }
    }

    /// Forgets everything: the share of uids has changed.
    pub fn clear(&mut self) {
        self.infos.clear();
        self.devices.clear();
        for stamp in &mut self.stamps {
            *stamp = stamp.wrapping_add(1);
        }
    }

    /// Rows held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.infos.len() + self.devices.len()
    }

    /// True without rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Place of a uid among the stamps.
#[must_use]
pub fn stamp_index(uid: &str) -> usize {
    usize::from(wk_types::Bucket::of(uid).index()) & (RULE_STAMPS - 1)
}

/// The query for a row.
#[must_use]
pub fn query(uid: &str, want: Want) -> pb::Query {
    let (table, sub) = match want {
        Want::Info => (pb::Table::ChannelInfo, u32::from(wk_types::ChannelType::PERSON.0)),
        Want::Device(flag) => (pb::Table::Device, u32::from(flag.0)),
    };
    let key = pb::RowKey { table: table.into(), id: uid.to_owned(), sub };
    pb::Query { of: Some(pb::query::Of::Row(key)) }
}
