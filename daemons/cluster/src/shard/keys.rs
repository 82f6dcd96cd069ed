//! Keys of the `meta` rows: slot and table by `wk_store::keys::meta`, the primary key here. Golden vectors: `testdata/rows/v1`.

use wk_proto::cluster::v1 as pb;
use wk_store::keys::meta;
use wk_types::Bucket;
use wk_types::channel::base_id;
use wk_types::limits::ID_BYTES_MAX;

use crate::error::Refusal;
use crate::limits::{CHANNEL_ID_BYTES_MAX, LOCK_TEXT_BYTES_MAX};

/// Tables of rows keep their protocol numbers 1..=15.
const TABLE_COUNTS: u8 = 0x30;
/// Tables of lists are this plus the list's protocol number.
const TABLE_LISTS: u8 = 0x10;
const TABLE_LOCKS: u8 = 0x40;

/// Slot of a routing id.
#[must_use]
pub fn slot(routing_id: &str) -> Bucket {
    Bucket::of(base_id(routing_id))
}

/// Key of a row.
///
/// # Errors
/// An unknown table, an empty or overlong id.
pub fn row(key: &pb::RowKey) -> Result<Vec<u8>, Refusal> {
    let table = match key.table() {
        pb::Table::Unspecified => return Err(Refusal::rejected("unknown table")),
        table => u8::try_from(i32::from(table)).map_err(|_| Refusal::rejected("unknown table"))?,
    };
    let mut primary = Vec::with_capacity(6 + key.id.len());
    put_id(&mut primary, &key.id)?;
    primary.extend_from_slice(&key.sub.to_be_bytes());
    Ok(meta(slot(&key.id), table, &primary))
}

/// A list's place: slot, table, channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPlace {
    slot: Bucket,
    list: u8,
    channel: Vec<u8>,
}

impl ListPlace {
    /// The place of a list.
    ///
    /// # Errors
    /// An unknown list or an impossible channel.
    pub fn of(key: &pb::ListKey) -> Result<Self, Refusal> {
        let list = match key.list() {
            pb::List::Unspecified => return Err(Refusal::rejected("unknown list")),
            list => u8::try_from(i32::from(list)).map_err(|_| Refusal::rejected("unknown list"))?,
        };
        let channel = key.channel.as_ref().ok_or_else(|| Refusal::rejected("list has no channel"))?;
        let mut bytes = Vec::with_capacity(3 + channel.id.len());
        bytes.push(u8::try_from(channel.r#type).map_err(|_| Refusal::rejected("channel type is out of range"))?);
        if key.list() == pb::List::SystemUids && channel.id.is_empty() {
            bytes.extend_from_slice(&[0, 0]);
        } else {
            put_id(&mut bytes, &channel.id)?;
        }
        Ok(Self { slot: slot(&channel.id), list, channel: bytes })
    }

    /// Slot of the list.
    #[must_use]
    pub fn slot(&self) -> Bucket {
        self.slot
    }

    /// Prefix of the members' keys; a member's key is the prefix and its uid.
    #[must_use]
    pub fn members(&self) -> Vec<u8> {
        meta(self.slot, TABLE_LISTS + self.list, &self.channel)
    }

    /// Key of one member.
    ///
    /// # Errors
    /// An empty or overlong uid.
    pub fn member(&self, uid: &str) -> Result<Vec<u8>, Refusal> {
        if uid.is_empty() {
            return Err(Refusal::rejected("member is empty"));
        }
        if uid.len() > ID_BYTES_MAX {
            return Err(Refusal::too_large("member is too long"));
        }
        let mut key = self.members();
        key.extend_from_slice(uid.as_bytes());
        Ok(key)
    }

    /// Key of the row with the number of members.
    #[must_use]
    pub fn count(&self) -> Vec<u8> {
        let mut primary = vec![self.list];
        primary.extend_from_slice(&self.channel);
        meta(self.slot, TABLE_COUNTS, &primary)
    }
}

/// Key of a lock.
///
/// # Errors
/// An empty or overlong name.
pub fn lock(name: &str) -> Result<Vec<u8>, Refusal> {
    if name.is_empty() || name.len() > LOCK_TEXT_BYTES_MAX {
        return Err(Refusal::rejected("lock name must have 1 to 128 bytes"));
    }
    Ok(meta(Bucket::of(name), TABLE_LOCKS, name.as_bytes()))
}

fn put_id(out: &mut Vec<u8>, id: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Err(Refusal::rejected("id is empty"));
    }
    let len = u16::try_from(id.len()).ok().filter(|_| id.len() <= CHANNEL_ID_BYTES_MAX);
    let len = len.ok_or_else(|| Refusal::too_large("id is too long"))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(id.as_bytes());
    Ok(())
}
