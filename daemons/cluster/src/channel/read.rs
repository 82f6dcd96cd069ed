//! Reads of the message log. Blocking calls: short ones may run anywhere, range reads belong on a reader thread.

use bytes::{Bytes, BytesMut};
use wk_link::record::{Message, Stored, decode_row};
use wk_proto::cluster::v1 as pb;
use wk_store::keys::{self, ClientNo, SysKind};
use wk_store::{Cf, ChannelNumber, DataDb, Direction, GroupId, StoreError};
use wk_types::Bucket;

use super::rows::{ChanRow, CursorsRow, JournalItem, decode_journal, decode_place, decode_seq, len_u32};
use super::store::check_channel;
use crate::error::Refusal;
use crate::limits::{ANSWER_BYTES_MAX, JOURNAL_ENTRIES_MAX, ROWS_MAX, SAME_NUMBER_MAX};

/// Slot and row of a channel; `None` for a channel without messages.
///
/// # Errors
/// [`Refusal`]: an impossible id, or a failed read.
pub fn channel(db: &DataDb, channel: &pb::ChannelRef) -> Result<(Bucket, Option<ChanRow>), Refusal> {
    let slot = check_channel(&channel.id)?;
    let key = keys::chan(slot, channel_type(channel)?, channel.id.as_bytes());
    let row = db.get(Cf::Chan, key)?.map(|value| ChanRow::decode(&value)).transpose()?;
    Ok((slot, row))
}

/// Channel type of a reference.
///
/// # Errors
/// A type above 255.
pub fn channel_type(channel: &pb::ChannelRef) -> Result<u8, Refusal> {
    u8::try_from(channel.r#type).map_err(|_| Refusal::rejected("channel type is out of range"))
}

/// Where a message is stored: (message id, sequence), zeros when it is not. Without a client number it is found by its id; with one also by the
/// payload, when the query has it (the id may be that of an earlier attempt then).
///
/// # Errors
/// [`Refusal`].
pub fn stored(db: &DataDb, query: &pb::StoredKey) -> Result<(i64, u64), Refusal> {
    let reference = query.channel.as_ref().ok_or_else(|| Refusal::rejected("query has no channel"))?;
    let (slot, Some(row)) = channel(db, reference)? else { return Ok((0, 0)) };
    if query.client_msg_no.is_empty() {
        let place = db.get(Cf::Idx, keys::idx_message_id(slot, query.message_id))?.map(|value| decode_place(&value)).transpose()?;
        return Ok(place.filter(|(number, _)| *number == row.number).map_or((0, 0), |(_, seq)| (query.message_id, seq)));
    }
    let number = ChannelNumber(row.number);
    let mut seqs = Vec::new();
    if let Some(payload) = &query.payload {
        let client = ClientNo::of(&query.from_uid, &query.client_msg_no, payload);
        let value = db.get(Cf::Idx, keys::idx_client_no(slot, number, client))?;
        seqs.extend(value.map(|value| decode_seq(&value)).transpose()?);
    } else {
        let prefix = keys::idx_client_no_prefix(slot, number, ClientNo::number_of(&query.from_uid, &query.client_msg_no));
        for (_, value) in db.range(Cf::Idx, prefix, keys::prefix_end(&prefix), Direction::Forward, SAME_NUMBER_MAX)? {
            seqs.push(decode_seq(&value)?);
        }
    }
    for seq in seqs {
        let Some(value) = db.get(Cf::Msg, keys::msg(slot, number, seq))? else { continue };
        let shape = StoreError::Shape { what: "message row" };
        let Some(message) = decode_row(&value).ok().and_then(|(_, bytes)| Message::decode(bytes).ok()) else { return Err(shape.into()) };
        let wanted = match &query.payload {
            Some(payload) => *message.payload == **payload,
            None => message.message_id == query.message_id,
        };
        if wanted && message.from_uid == query.from_uid && message.client_msg_no == query.client_msg_no {
            return Ok((message.message_id, seq));
        }
    }
    Ok((0, 0))
}

/// Messages of a channel, ascending. Ends early, with what fits, at the largest answer.
///
/// # Errors
/// [`Refusal`].
pub fn range(db: &DataDb, request: &pb::ReadRequest) -> Result<pb::ReadReply, Refusal> {
    let reference = request.channel.as_ref().ok_or_else(|| Refusal::rejected("read has no channel"))?;
    if request.limit == 0 || request.limit > ROWS_MAX {
        return Err(Refusal::rejected("limit is out of range"));
    }
    let (slot, Some(row)) = channel(db, reference)? else { return Ok(pb::ReadReply::default()) };
    let first = request.first.max(row.first_seq);
    let last = if request.last == 0 { row.last_seq } else { request.last.min(row.last_seq) };
    let mut reply = pb::ReadReply { last_seq: row.last_seq, ..pb::ReadReply::default() };
    if first > last {
        return Ok(reply);
    }
    let span = Span { slot, number: row.number, first, last };
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let (count, records) = if request.newest { newest(db, &span, limit)? } else { oldest(db, &span, limit, ANSWER_BYTES_MAX)? };
    reply.count = len_u32(count);
    reply.records = records;
    Ok(reply)
}

/// Sequences of one channel, both ends included.
struct Span {
    slot: Bucket,
    number: u64,
    first: u64,
    last: u64,
}

impl Span {
    fn keys(&self) -> ([u8; 18], [u8; 18]) {
        let number = ChannelNumber(self.number);
        (keys::msg(self.slot, number, self.first), keys::msg(self.slot, number, self.last.saturating_add(1)))
    }
}

fn oldest(db: &DataDb, span: &Span, limit: usize, bytes_max: usize) -> Result<(usize, Bytes), StoreError> {
    let (from, to) = span.keys();
    let (mut count, mut records) = (0, BytesMut::new());
    db.visit(Cf::Msg, &from, &to, Direction::Forward, |key, value| {
        if count > 0 && records.len() + value.len() > bytes_max {
            return false;
        }
        if let Some((_, _, seq)) = keys::msg_decode(key) {
            Stored::encode_from_row(&mut records, seq, value);
            count += 1;
        }
        count < limit
    })?;
    Ok((count, records.freeze()))
}

/// The newest rows, found backwards and returned ascending.
fn newest(db: &DataDb, span: &Span, limit: usize) -> Result<(usize, Bytes), StoreError> {
    let (from, to) = span.keys();
    let (mut rows, mut bytes) = (Vec::new(), 0);
    db.visit(Cf::Msg, &from, &to, Direction::Backward, |key, value| {
        bytes += value.len() + 12;
        if !rows.is_empty() && bytes > ANSWER_BYTES_MAX {
            return false;
        }
        if let Some((_, _, seq)) = keys::msg_decode(key) {
            rows.push((seq, Bytes::copy_from_slice(value)));
        }
        rows.len() < limit
    })?;
    let mut records = BytesMut::with_capacity(bytes);
    for (seq, row) in rows.iter().rev() {
        Stored::encode_from_row(&mut records, *seq, row);
    }
    Ok((rows.len(), records.freeze()))
}

/// Which journal rows a consumer wants.
#[derive(Debug, Clone)]
pub struct JournalQuery {
    /// Raft group.
    pub group: GroupId,
    /// Exclusive start.
    pub after: u64,
    /// Rows at most.
    pub limit: u32,
    /// Only these slots, ascending, each above an index of its own; empty: all.
    pub slots: Vec<(u16, u64)>,
}

/// Journal entries of a group. `applied` is the group's applied index, read before the call: an answer that reached the journal's end covers it.
///
/// # Errors
/// [`Refusal`].
pub fn journal(db: &DataDb, query: &JournalQuery, applied: u64) -> Result<(Vec<pb::JournalEntry>, u64), Refusal> {
    if query.limit == 0 || query.limit > JOURNAL_ENTRIES_MAX {
        return Err(Refusal::rejected("limit is out of range"));
    }
    let (from, to) = (keys::jrnl(query.group, query.after.saturating_add(1)), keys::jrnl(query.group, u64::MAX));
    let mut items: Vec<(u64, JournalItem)> = Vec::new();
    let (mut looked_at, mut left, mut fault) = (query.after, query.limit, Ok(()));
    let mut ended = true;
    db.visit(Cf::Jrnl, &from, &to, Direction::Forward, |key, value| {
        if left == 0 {
            ended = false;
            return false;
        }
        match keys::jrnl_decode(key).ok_or(StoreError::Shape { what: "journal key" }).and_then(|(_, i)| Ok((i, decode_journal(value)?))) {
            Ok((index, row)) => {
                let after = |slot| query.slots.binary_search_by_key(&slot, |(slot, _)| *slot).ok().and_then(|at| query.slots.get(at));
                let wanted = |item: &JournalItem| query.slots.is_empty() || after(item.slot).is_some_and(|(_, after)| index > *after);
                let before = items.len();
                items.extend(row.into_iter().filter(wanted).map(|item| (index, item)));
                looked_at = index;
                left -= u32::from(items.len() > before);
                true
            }
            Err(error) => {
                fault = Err(error);
                false
            }
        }
    })?;
    fault?;
    fill(db, items, if ended { looked_at.max(applied) } else { looked_at })
}

/// Adds the messages. An answer that would grow too large ends before the entry that did not fit.
fn fill(db: &DataDb, items: Vec<(u64, JournalItem)>, upto: u64) -> Result<(Vec<pb::JournalEntry>, u64), Refusal> {
    let mut entries: Vec<pb::JournalEntry> = Vec::with_capacity(items.len());
    let mut bytes = 0;
    for (index, item) in items {
        let slot = Bucket::from_index(item.slot).ok_or(StoreError::Shape { what: "journal row" })?;
        let last = item.first_seq + u64::from(item.count).saturating_sub(1);
        let span = Span { slot, number: item.number, first: item.first_seq, last };
        let (count, records) = oldest(db, &span, usize::MAX, usize::MAX)?;
        bytes += records.len();
        let first_index = entries.first().map_or(index, |entry| entry.index);
        if bytes > ANSWER_BYTES_MAX && first_index != index {
            // Entries of one index stay together: `upto` cannot point into the middle of one.
            entries.retain(|entry| entry.index != index);
            return Ok((entries, index - 1));
        }
        let channel = pb::ChannelRef { id: item.id.into(), r#type: u32::from(item.kind) };
        // Without one of the messages it cannot be told whose the others are.
        let (senders, named) = if len_u32(count) == item.count { (item.senders, item.named) } else { Default::default() };
        let named = named.into_iter().map(Into::into).collect();
        entries.push(pb::JournalEntry { index, channel: Some(channel), count: len_u32(count), records, senders, named });
    }
    Ok((entries, upto))
}

/// Saved positions of one consumer in a group.
///
/// # Errors
/// [`Refusal`].
pub fn cursors(db: &DataDb, group: GroupId, shard: u16, consumer: &str) -> Result<Vec<pb::Cursor>, Refusal> {
    let Some(value) = db.get(Cf::Sys, keys::sys(SysKind::Cursors, group))? else { return Ok(Vec::new()) };
    let row = CursorsRow::decode(&value)?;
    let own = row.cursors.into_iter().filter(|cursor| &*cursor.consumer == consumer);
    let proto = |cursor: super::rows::CursorRow| pb::Cursor {
        consumer: cursor.consumer.into(),
        group: u32::from(shard),
        bucket: u32::from(cursor.bucket),
        index: cursor.index,
        remove: false,
    };
    Ok(own.map(proto).collect())
}
