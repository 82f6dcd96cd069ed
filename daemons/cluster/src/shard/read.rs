//! Reads of metadata. Blocking calls: point reads may run anywhere, scans belong on a reader thread.

use bytes::Bytes;
use wk_proto::cluster::v1 as pb;
use wk_store::{Cf, DataDb, Direction, StoreError, keys as store_keys};

use super::keys::{self, ListPlace};
use super::lock;
use super::rows::{LockRow, MemberRow, decode_number};
use crate::error::Refusal;
use crate::limits::ROWS_MAX;

/// The row under a key.
///
/// # Errors
/// [`Refusal`].
pub fn row(db: &DataDb, key: &pb::RowKey) -> Result<Option<Bytes>, Refusal> {
    Ok(db.get(Cf::Meta, keys::row(key)?)?)
}

/// Whether `member` is in the list.
///
/// # Errors
/// [`Refusal`].
pub fn contains(db: &DataDb, key: &pb::MemberKey) -> Result<bool, Refusal> {
    let list = key.list.as_ref().ok_or_else(|| Refusal::rejected("query has no list"))?;
    Ok(db.get(Cf::Meta, ListPlace::of(list)?.member(&key.member)?)?.is_some())
}

/// Number of members, exact.
///
/// # Errors
/// [`Refusal`].
pub fn count(db: &DataDb, list: &pb::ListKey) -> Result<u64, Refusal> {
    let row = db.get(Cf::Meta, ListPlace::of(list)?.count())?;
    Ok(row.map_or(Ok(0), |value| decode_number(&value))?)
}

/// Members in key order.
///
/// # Errors
/// [`Refusal`].
pub fn scan(db: &DataDb, request: &pb::ScanRequest) -> Result<pb::ScanReply, Refusal> {
    let list = request.list.as_ref().ok_or_else(|| Refusal::rejected("scan has no list"))?;
    if request.limit == 0 || request.limit > ROWS_MAX {
        return Err(Refusal::rejected("limit is out of range"));
    }
    let place = ListPlace::of(list)?;
    let prefix = place.members();
    let mut from = prefix.clone();
    if !request.after.is_empty() {
        from.extend_from_slice(request.after.as_bytes());
        // The smallest key above `after`.
        from.push(0);
    }
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let (mut reply, mut fault) = (pb::ScanReply::default(), Ok(()));
    db.visit(Cf::Meta, &from, &store_keys::prefix_end(&prefix), Direction::Forward, |key, value| {
        if reply.members.len() == limit {
            reply.more = true;
            return false;
        }
        match member(key.get(prefix.len()..).unwrap_or_default(), value) {
            Ok(member) => reply.members.push(member),
            Err(error) => fault = Err(error),
        }
        fault.is_ok()
    })?;
    fault?;
    Ok(reply)
}

fn member(uid: &[u8], value: &[u8]) -> Result<pb::Member, StoreError> {
    let row = MemberRow::decode(value)?;
    let uid = std::str::from_utf8(uid).map_err(|_| StoreError::Shape { what: "member key" })?;
    Ok(pb::Member { uid: uid.to_owned(), created_at_ms: row.created_at_ms, updated_at_ms: row.updated_at_ms })
}

/// Who holds a lock at `now_ms` of the group's lock clock.
///
/// # Errors
/// [`Refusal`].
pub fn inspect(db: &DataDb, name: &str, now_ms: i64) -> Result<pb::LockReply, Refusal> {
    let row = db.get(Cf::Meta, keys::lock(name)?)?.map(|value| LockRow::decode(&value)).transpose()?;
    let row = row.filter(|row| row.expires_ms > now_ms);
    Ok(lock::reply(row.as_ref(), row.is_some(), now_ms))
}
