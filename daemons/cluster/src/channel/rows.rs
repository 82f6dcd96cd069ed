//! Values of the rows a channel group keeps. Stored formats: version byte first, then fixed little-endian fields.
//!
//! Golden vectors: `testdata/rows/v<N>` (channel rows 1; journal rows 1 to 3). A row of an unknown version is an error, never a guess.

use bytes::{BufMut, BytesMut};
use wk_link::codec::{DecodeError, Reader, put_text};
use wk_store::StoreError;

const VERSION: u8 = 1;
/// Version of journal rows without names; version 1 had no senders.
const JOURNAL_VERSION: u8 = 2;
/// Version of journal rows with names: written only where there are any.
const NAMED_JOURNAL_VERSION: u8 = 3;

/// State of one channel: value of a `chan` row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChanRow {
    /// Number in the keys of its messages; allocated by the group, unique in it.
    pub number: u64,
    /// Sequence of the newest message; 0: none yet.
    pub last_seq: u64,
    /// Sequence of the oldest message that is kept.
    pub first_seq: u64,
    /// Time of the newest message, never falling. Unit: ms since 1970.
    pub last_ms: i64,
    /// Id of the newest message.
    pub last_message_id: i64,
    /// 0: lives in the group of its shard. Other values are for dedicated groups.
    pub placement: u8,
}

impl ChanRow {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(42);
        out.put_u8(VERSION);
        out.put_u64_le(self.number);
        out.put_u64_le(self.last_seq);
        out.put_u64_le(self.first_seq);
        out.put_i64_le(self.last_ms);
        out.put_i64_le(self.last_message_id);
        out.put_u8(self.placement);
        out
    }

    /// Reads a row's value.
    ///
    /// # Errors
    /// [`StoreError::Shape`].
    pub fn decode(value: &[u8]) -> Result<Self, StoreError> {
        decode(value, "channel row", |r| {
            Ok(Self {
                number: r.u64("number")?,
                last_seq: r.u64("last_seq")?,
                first_seq: r.u64("first_seq")?,
                last_ms: r.i64("last_ms")?,
                last_message_id: r.i64("last_message_id")?,
                placement: r.u8("placement")?,
            })
        })
    }
}

/// Messages of one channel in one applied entry; their sequences are dense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalItem {
    /// Slot of the channel.
    pub slot: u16,
    /// Channel type.
    pub kind: u8,
    /// Internal channel id.
    pub id: Box<str>,
    /// Channel number.
    pub number: u64,
    /// First sequence.
    pub first_seq: u64,
    /// Number of messages, at least 1.
    pub count: u32,
    /// Connection that sent each of them, 0 for none; empty: not known.
    pub senders: Vec<u64>,
    /// Channel id as the sender of each of them named it, where receivers cannot derive it; empty: nowhere.
    pub named: Vec<Box<str>>,
}

/// Value of a `jrnl` row: what one applied entry stored, channel by channel, in order.
#[must_use]
pub fn encode_journal(items: &[JournalItem]) -> BytesMut {
    let mut out = BytesMut::with_capacity(5 + items.iter().map(|item| 52 + item.senders.len() * 8).sum::<usize>());
    let has_names = items.iter().any(|item| !item.named.is_empty());
    out.put_u8(if has_names { NAMED_JOURNAL_VERSION } else { JOURNAL_VERSION });
    out.put_u32_le(len_u32(items.len()));
    for item in items {
        out.put_u16_le(item.slot);
        out.put_u8(item.kind);
        put_text(&mut out, &item.id);
        out.put_u64_le(item.number);
        out.put_u64_le(item.first_seq);
        out.put_u32_le(item.count);
        out.put_u32_le(len_u32(item.senders.len()));
        item.senders.iter().for_each(|conn| out.put_u64_le(*conn));
        if has_names {
            out.put_u32_le(len_u32(item.named.len()));
            item.named.iter().for_each(|named| put_text(&mut out, named));
        }
    }
    out
}

/// Reads the value of a `jrnl` row.
///
/// # Errors
/// [`StoreError::Shape`].
pub fn decode_journal(value: &[u8]) -> Result<Vec<JournalItem>, StoreError> {
    let known = |version: &u8| [VERSION, JOURNAL_VERSION, NAMED_JOURNAL_VERSION].contains(version);
    let version = value.first().copied().filter(known).unwrap_or(JOURNAL_VERSION);
    decode_version(value, version, "journal row", |r| {
        (0..r.u32("count")?)
            .map(|_| {
                Ok(JournalItem {
                    slot: r.u16("slot")?,
                    kind: r.u8("kind")?,
                    id: r.text("id")?.into(),
                    number: r.u64("number")?,
                    first_seq: r.u64("first_seq")?,
                    count: r.u32("messages")?,
                    senders: if version == VERSION { Vec::new() } else { senders(r)? },
                    named: if version == NAMED_JOURNAL_VERSION { named(r)? } else { Vec::new() },
                })
            })
            .collect()
    })
}

fn senders(r: &mut Reader<'_>) -> Result<Vec<u64>, DecodeError> {
    (0..r.u32("senders")?).map(|_| r.u64("sender")).collect()
}

fn named(r: &mut Reader<'_>) -> Result<Vec<Box<str>>, DecodeError> {
    (0..r.u32("names")?).map(|_| Ok(r.text("named")?.into())).collect()
}

/// One consumer's position in a group's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorRow {
    /// "dispatch", "webhook", ...
    pub consumer: Box<str>,
    /// Bucket, or 0xffff for the whole group.
    pub bucket: u16,
    /// Everything up to this index is done.
    pub index: u64,
}

/// Cursors of a group: value of its `sys` row of kind Cursors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CursorsRow {
    /// Journal rows up to this index are cut.
    pub cut: u64,
    /// Sorted by consumer, then bucket.
    pub cursors: Vec<CursorRow>,
}

impl CursorsRow {
    /// The row's value.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(13 + self.cursors.len() * 20);
        out.put_u8(VERSION);
        out.put_u64_le(self.cut);
        out.put_u32_le(len_u32(self.cursors.len()));
        for cursor in &self.cursors {
            put_text(&mut out, &cursor.consumer);
            out.put_u16_le(cursor.bucket);
            out.put_u64_le(cursor.index);
        }
        out
    }

    /// Reads a row's value.
    ///
    /// # Errors
    /// [`StoreError::Shape`].
    pub fn decode(value: &[u8]) -> Result<Self, StoreError> {
        decode(value, "cursor row", |r| {
            let cut = r.u64("cut")?;
            let cursors = (0..r.u32("count")?)
                .map(|_| Ok(CursorRow { consumer: r.text("consumer")?.into(), bucket: r.u16("bucket")?, index: r.u64("index")? }))
                .collect::<Result<_, DecodeError>>()?;
            Ok(Self { cut, cursors })
        })
    }
}

/// Value of a group's `sys` row of kind Allocator: the next channel number.
#[must_use]
pub fn encode_allocator(next_number: u64) -> [u8; 9] {
    let mut out = [VERSION; 9];
    if let Some(tail) = out.get_mut(1..) {
        tail.copy_from_slice(&next_number.to_le_bytes());
    }
    out
}

/// Reads the value of an allocator row.
///
/// # Errors
/// [`StoreError::Shape`].
pub fn decode_allocator(value: &[u8]) -> Result<u64, StoreError> {
    decode(value, "allocator row", |r| r.u64("next_number"))
}

/// Value of the index row message id → (channel number, sequence).
#[must_use]
pub fn encode_place(number: u64, seq: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let (a, b) = out.split_at_mut(8);
    a.copy_from_slice(&number.to_be_bytes());
    b.copy_from_slice(&seq.to_be_bytes());
    out
}

/// Reads the value of an index row by message id: (channel number, sequence).
///
/// # Errors
/// [`StoreError::Shape`].
pub fn decode_place(value: &[u8]) -> Result<(u64, u64), StoreError> {
    match (value.first_chunk::<8>(), value.get(8..).and_then(|rest| <[u8; 8]>::try_from(rest).ok())) {
        (Some(number), Some(seq)) => Ok((u64::from_be_bytes(*number), u64::from_be_bytes(seq))),
        _ => Err(StoreError::Shape { what: "message id index" }),
    }
}

/// Reads the value of an index row by client number: the sequence.
///
/// # Errors
/// [`StoreError::Shape`].
pub fn decode_seq(value: &[u8]) -> Result<u64, StoreError> {
    <[u8; 8]>::try_from(value).map(u64::from_be_bytes).map_err(|_| StoreError::Shape { what: "client number index" })
}

fn decode<'a, T>(
    value: &'a [u8],
    what: &'static str,
    fields: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, StoreError> {
    decode_version(value, VERSION, what, fields)
}

fn decode_version<'a, T>(
    value: &'a [u8],
    expected: u8,
    what: &'static str,
    fields: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, StoreError> {
    let mut r = Reader::new(value);
    let version = r.u8("version").map_err(|_| StoreError::Shape { what })?;
    let decoded = fields(&mut r).map_err(|_| StoreError::Shape { what })?;
    if version == expected && r.is_empty() { Ok(decoded) } else { Err(StoreError::Shape { what }) }
}

/// A count that its bound keeps far below 2^32.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn item() -> JournalItem {
        let (id, senders) = ("bob@ann".into(), vec![5, 0]);
        JournalItem { slot: 513, kind: 1, id, number: 7, first_seq: 9, count: 2, senders, named: Vec::new() }
    }

    fn cursors() -> CursorsRow {
        CursorsRow { cut: 3, cursors: vec![CursorRow { consumer: "dispatch".into(), bucket: 5, index: 70 }] }
    }

    #[test]
    fn golden_rows_v1() {
        let chan = ChanRow { number: 1, last_seq: 2, first_seq: 1, last_ms: 1_700_000_000_123, last_message_id: 99, placement: 0 };
        let rows = [
            hex(&chan.encode()),
            // Journal rows are written in version 2.
            include_str!("../../testdata/rows/v1/channel.hex").lines().nth(1).expect("a line").to_owned(),
            hex(&cursors().encode()),
            hex(&encode_allocator(17)),
            hex(&encode_place(1, 2)),
        ];
        let golden: Vec<&str> = include_str!("../../testdata/rows/v1/channel.hex").lines().collect();
        assert_eq!(rows.iter().map(String::as_str).collect::<Vec<_>>(), golden);
        assert_eq!(ChanRow::decode(&chan.encode()).expect("own row"), chan);
        let silent = JournalItem { senders: Vec::new(), ..item() };
        assert_eq!(decode_journal(&unhex(&rows[1])).expect("a row of version 1"), [silent]);
        assert_eq!(CursorsRow::decode(&cursors().encode()).expect("own row"), cursors());
        assert_eq!(decode_allocator(&encode_allocator(17)).expect("own row"), 17);
        assert_eq!(decode_place(&encode_place(1, 2)).expect("own row"), (1, 2));
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digit = |b: u8| u8::try_from(char::from(b).to_digit(16).expect("hex")).expect("a digit");
        text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    #[test]
    fn golden_journal_v2() {
        assert_eq!(hex(&encode_journal(&[item()])), include_str!("../../testdata/rows/v2/journal.hex").trim());
        assert_eq!(decode_journal(&encode_journal(&[item()])).expect("own row"), [item()]);
    }

    fn named_item() -> JournalItem {
        JournalItem { kind: 11, id: "ann@bot".into(), named: vec!["bot".into(), "".into()], ..item() }
    }

    #[test]
    fn golden_journal_v3() {
        let items = [item(), named_item()];
        assert_eq!(hex(&encode_journal(&items)), include_str!("../../testdata/rows/v3/journal.hex").trim());
        assert_eq!(decode_journal(&encode_journal(&items)).expect("own row"), items);
    }

    #[test]
    fn foreign_bytes_are_errors() {
        for row in [encode_journal(&[item()]), encode_journal(&[named_item()])] {
            for cut in 0..row.len() {
                assert!(decode_journal(&row[..cut]).is_err());
            }
            for version in [0, 4] {
                let mut other = row.to_vec();
                other[0] = version;
                assert!(decode_journal(&other).is_err());
            }
        }
        assert!(ChanRow::decode(b"").is_err() && CursorsRow::decode(&[1, 2]).is_err() && decode_place(&[0; 17]).is_err());
    }
}
