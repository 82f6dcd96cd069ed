//! Values of the rows a slot group keeps beside those the callers bring. Version byte first, then little-endian fields.

use bytes::{BufMut, BytesMut};
use wk_link::codec::{DecodeError, Reader, put_text};
use wk_store::StoreError;

const VERSION: u8 = 1;

/// Value of a member's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberRow {
    /// First added. Unit: ms since 1970.
    pub created_at_ms: i64,
    /// Last added. Unit: ms since 1970.
    pub updated_at_ms: i64,
}

impl MemberRow {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(17);
        out.put_u8(VERSION);
        out.put_i64_le(self.created_at_ms);
        out.put_i64_le(self.updated_at_ms);
        out
    }

    /// Reads a row's value.
    ///
    /// # Errors
    /// [`StoreError::Shape`].
    pub fn decode(value: &[u8]) -> Result<Self, StoreError> {
        decode(value, "member row", |r| Ok(Self { created_at_ms: r.i64("created")?, updated_at_ms: r.i64("updated")? }))
    }
}

/// Value of a lock's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRow {
    /// Who holds it.
    pub owner: Box<str>,
    /// Log index of the acquisition.
    pub token: u64,
    /// Group time at which it ends. Unit: ms of the group's lock clock.
    pub expires_ms: i64,
}

impl LockRow {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(19 + self.owner.len());
        out.put_u8(VERSION);
        put_text(&mut out, &self.owner);
        out.put_u64_le(self.token);
        out.put_i64_le(self.expires_ms);
        out
    }

    /// Reads a row's value.
    ///
    /// # Errors
    /// [`StoreError::Shape`].
    pub fn decode(value: &[u8]) -> Result<Self, StoreError> {
        decode(value, "lock row", |r| Ok(Self { owner: r.text("owner")?.into(), token: r.u64("token")?, expires_ms: r.i64("expires")? }))
    }
}

/// Value of a counter row and of the group's lock clock.
#[must_use]
pub fn encode_number(number: u64) -> [u8; 9] {
    let mut out = [VERSION; 9];
    if let Some(tail) = out.get_mut(1..) {
        tail.copy_from_slice(&number.to_le_bytes());
    }
    out
}

/// Reads the value of a counter row.
///
/// # Errors
/// [`StoreError::Shape`].
pub fn decode_number(value: &[u8]) -> Result<u64, StoreError> {
    decode(value, "counter row", |r| r.u64("number"))
}

fn decode<'a, T>(
    value: &'a [u8],
    what: &'static str,
    fields: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, StoreError> {
    let mut r = Reader::new(value);
    let version = r.u8("version").map_err(|_| StoreError::Shape { what })?;
    let decoded = fields(&mut r).map_err(|_| StoreError::Shape { what })?;
    if version == VERSION && r.is_empty() { Ok(decoded) } else { Err(StoreError::Shape { what }) }
}

#[cfg(test)]
mod tests {
    use wk_proto::cluster::v1 as pb;

    use super::*;
    use crate::shard::keys;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn golden_rows_v1() {
        let member = MemberRow { created_at_ms: 1, updated_at_ms: 2 };
        let lock = LockRow { owner: "api@0".into(), token: 7, expires_ms: 60_000 };
        let list = pb::ListKey { list: pb::List::Subscribers.into(), channel: Some(pb::ChannelRef { id: "g1".into(), r#type: 2 }) };
        let place = keys::ListPlace::of(&list).expect("a list");
        let row = pb::RowKey { table: pb::Table::Device.into(), id: "u1".into(), sub: 1 };
        let rows = [
            hex(&member.encode()),
            hex(&lock.encode()),
            hex(&encode_number(3)),
            hex(&keys::row(&row).expect("a row")),
            hex(&place.member("ann").expect("a member")),
            hex(&place.count()),
            hex(&keys::lock("l").expect("a lock")),
        ];
        let golden: Vec<&str> = include_str!("../../testdata/rows/v1/shard.hex").lines().collect();
        assert_eq!(rows.iter().map(String::as_str).collect::<Vec<_>>(), golden);
        assert_eq!(MemberRow::decode(&member.encode()).expect("own row"), member);
        assert_eq!(LockRow::decode(&lock.encode()).expect("own row"), lock);
        assert_eq!(decode_number(&encode_number(3)).expect("own row"), 3);
        assert!(LockRow::decode(&member.encode()).is_err());
    }
}
