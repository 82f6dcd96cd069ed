//! Every key of both databases: encoders and decoders (`design/cluster.md` §3.1).
//!
//! All integers big endian, fixed width first, so that byte order is the order of the fields. The slot (bucket) leads
//! each data key: a shard's data is a set of contiguous ranges, which is what snapshot, move and backup need. The node
//! never appears in a key. Golden vectors: `testdata/keys/v2`. Format 1 had no payload hash in the key by client number; a database of it
//! is refused at open (no release wrote one).

use wk_types::Bucket;

/// Version of the key layout; stored once in `datadb` and checked at open.
pub const FORMAT_VERSION: u32 = 2;

/// A raft group of this node: node group, slot group, channel group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a channel, allocated by the state machine of its channel group; unique inside a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(pub u64);

/// What an index row by client number is found by. The same number with another payload is another message, so the payload is part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNo {
    /// [`hash64`] of sender and client number.
    pub number: u64,
    /// [`hash_payload`] of the payload.
    pub payload: u64,
}

impl ClientNo {
    /// Of a message.
    #[must_use]
    pub fn of(from_uid: &str, client_msg_no: &str, payload: &[u8]) -> Self {
        Self { number: Self::number_of(from_uid, client_msg_no), payload: hash_payload(payload) }
    }

    /// [`Self::number`] alone.
    #[must_use]
    pub fn number_of(from_uid: &str, client_msg_no: &str) -> u64 {
        hash64(&[from_uid.as_bytes(), client_msg_no.as_bytes()])
    }
}

/// Kinds of `sys` rows. The numbers are on disk: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SysKind {
    /// Key format of the database (group 0).
    Format = 0,
    /// Applied log id and membership of a group.
    Applied = 1,
    /// Allocator state of a group: message ids, channel numbers.
    Allocator = 2,
    /// Durable cursors of a group's journal readers.
    Cursors = 3,
    /// Identity of the node and the cluster (group 0).
    Identity = 4,
    /// Marks an unfinished snapshot install.
    Installing = 5,
}

impl SysKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Format, Self::Applied, Self::Allocator, Self::Cursors, Self::Identity, Self::Installing]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Index kinds of the `idx` column family.
const IDX_MESSAGE_ID: u8 = 1;
const IDX_CLIENT_NO: u8 = 2;
const IDX_SENDER: u8 = 3;

/// Length of what all keys of one client number begin with: slot, kind, channel number, hash of sender and number.
const IDX_CLIENT_NO_PREFIX_BYTES: usize = 19;
/// Length of a key by client number: its prefix, hash of the payload.
pub const IDX_CLIENT_NO_BYTES: usize = IDX_CLIENT_NO_PREFIX_BYTES + 8;

/// Length of a slot prefix.
pub const SLOT_BYTES: usize = 2;

/// Key of a `sys` row: kind, group.
#[must_use]
pub fn sys(kind: SysKind, group: GroupId) -> [u8; 5] {
    let mut key = [0; 5];
    Writer(&mut key).u8(kind as u8).u32(group.0);
    key
}

/// Fields of a `sys` key.
#[must_use]
pub fn sys_decode(key: &[u8]) -> Option<(SysKind, GroupId)> {
    let mut key = Reader(key);
    let kind = SysKind::from_byte(key.u8()?)?;
    let group = GroupId(key.u32()?);
    key.end((kind, group))
}

/// Key of the format row.
#[must_use]
pub fn format() -> [u8; 5] {
    sys(SysKind::Format, GroupId(0))
}

/// Key of a `chan` row: slot, channel type, channel id bytes.
#[must_use]
pub fn chan(slot: Bucket, kind: u8, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + id.len());
    key.extend_from_slice(&slot.index().to_be_bytes());
    key.push(kind);
    key.extend_from_slice(id);
    key
}

/// Fields of a `chan` key: slot, channel type, channel id bytes.
#[must_use]
pub fn chan_decode(key: &[u8]) -> Option<(Bucket, u8, &[u8])> {
    let mut key = Reader(key);
    Some((key.slot()?, key.u8()?, key.0))
}

/// Key of a `msg` row: slot, channel number, sequence.
#[must_use]
pub fn msg(slot: Bucket, channel: ChannelNumber, seq: u64) -> [u8; 18] {
    let mut key = [0; 18];
    Writer(&mut key).u16(slot.index()).u64(channel.0).u64(seq);
    key
}

/// Fields of a `msg` key.
#[must_use]
pub fn msg_decode(key: &[u8]) -> Option<(Bucket, ChannelNumber, u64)> {
    let mut key = Reader(key);
    let fields = (key.slot()?, ChannelNumber(key.u64()?), key.u64()?);
    key.end(fields)
}

/// Key of the index row message id → (channel number, sequence). Only messages without a client number have one.
#[must_use]
pub fn idx_message_id(slot: Bucket, message_id: i64) -> [u8; 11] {
    let mut key = [0; 11];
    Writer(&mut key).u16(slot.index()).u8(IDX_MESSAGE_ID).u64(message_id.cast_unsigned());
    key
}

/// Key of the index row (sender, client message number, payload) → sequence.
#[must_use]
pub fn idx_client_no(slot: Bucket, channel: ChannelNumber, client: ClientNo) -> [u8; IDX_CLIENT_NO_BYTES] {
    let mut key = [0; IDX_CLIENT_NO_BYTES];
    Writer(&mut key).u16(slot.index()).u8(IDX_CLIENT_NO).u64(channel.0).u64(client.number).u64(client.payload);
    key
}

/// What the keys of all messages with one client number begin with; `number` is [`ClientNo::number`].
#[must_use]
pub fn idx_client_no_prefix(slot: Bucket, channel: ChannelNumber, number: u64) -> [u8; IDX_CLIENT_NO_PREFIX_BYTES] {
    let mut key = [0; IDX_CLIENT_NO_PREFIX_BYTES];
    Writer(&mut key).u16(slot.index()).u8(IDX_CLIENT_NO).u64(channel.0).u64(number);
    key
}

/// Key of the index row "sequences sent by a user"; `sender` is [`hash64`] of the uid.
#[must_use]
pub fn idx_sender(slot: Bucket, channel: ChannelNumber, sender: u64, seq: u64) -> [u8; 27] {
    let mut key = [0; 27];
    Writer(&mut key).u16(slot.index()).u8(IDX_SENDER).u64(channel.0).u64(sender).u64(seq);
    key
}

/// An `idx` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdxKey {
    /// Message id.
    MessageId {
        /// Slot of the channel.
        slot: Bucket,
        /// The message.
        message_id: i64,
    },
    /// Sender, client message number and payload.
    ClientNo {
        /// Slot of the channel.
        slot: Bucket,
        /// The channel.
        channel: ChannelNumber,
        /// The hashes.
        client: ClientNo,
    },
    /// Sequence by sender.
    Sender {
        /// Slot of the channel.
        slot: Bucket,
        /// The channel.
        channel: ChannelNumber,
        /// [`hash64`] of the uid.
        sender: u64,
        /// Sequence.
        seq: u64,
    },
}

/// Fields of an `idx` key.
#[must_use]
pub fn idx_decode(key: &[u8]) -> Option<IdxKey> {
    let mut key = Reader(key);
    let slot = key.slot()?;
    let fields = match key.u8()? {
        IDX_MESSAGE_ID => IdxKey::MessageId { slot, message_id: key.u64()?.cast_signed() },
        IDX_CLIENT_NO => {
            let channel = ChannelNumber(key.u64()?);
            IdxKey::ClientNo { slot, channel, client: ClientNo { number: key.u64()?, payload: key.u64()? } }
        }
        IDX_SENDER => IdxKey::Sender { slot, channel: ChannelNumber(key.u64()?), sender: key.u64()?, seq: key.u64()? },
        _ => return None,
    };
    key.end(fields)
}

/// Key of a `jrnl` row: group, applied index.
#[must_use]
pub fn jrnl(group: GroupId, index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    Writer(&mut key).u32(group.0).u64(index);
    key
}

/// Fields of a `jrnl` key.
#[must_use]
pub fn jrnl_decode(key: &[u8]) -> Option<(GroupId, u64)> {
    let mut key = Reader(key);
    let fields = (GroupId(key.u32()?), key.u64()?);
    key.end(fields)
}

/// Key of a `meta` row: slot, table, primary key.
#[must_use]
pub fn meta(slot: Bucket, table: u8, primary: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(3 + primary.len());
    key.extend_from_slice(&slot.index().to_be_bytes());
    key.push(table);
    key.extend_from_slice(primary);
    key
}

/// Fields of a `meta` key: slot, table, primary key.
#[must_use]
pub fn meta_decode(key: &[u8]) -> Option<(Bucket, u8, &[u8])> {
    let mut key = Reader(key);
    Some((key.slot()?, key.u8()?, key.0))
}

/// Key of a raft log entry: group, index.
#[must_use]
pub fn log(group: GroupId, index: u64) -> [u8; 12] {
    jrnl(group, index)
}

/// Fields of a raft log key.
#[must_use]
pub fn log_decode(key: &[u8]) -> Option<(GroupId, u64)> {
    jrnl_decode(key)
}

/// Key of a raft meta row: group, tag.
#[must_use]
pub fn rmeta(group: GroupId, tag: u8) -> [u8; 5] {
    let mut key = [0; 5];
    Writer(&mut key).u32(group.0).u8(tag);
    key
}

/// Fields of a raft meta key.
#[must_use]
pub fn rmeta_decode(key: &[u8]) -> Option<(GroupId, u8)> {
    let mut key = Reader(key);
    let fields = (GroupId(key.u32()?), key.u8()?);
    key.end(fields)
}

/// Smallest key above all keys that start with `prefix`: the exclusive end of a prefix range. All bytes 0xff: nothing
/// lies above, and a key of 0xff bytes longer than any real key is returned.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return end;
        }
        end.pop();
    }
    vec![u8::MAX; 64]
}

/// Stable 64-bit hash of a list of parts (FNV-1a over length and bytes of each, then a final mix). It is part of keys on
/// disk: never change it. Collisions are possible and callers verify the row.
#[must_use]
pub fn hash64(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in parts {
        (part.len() as u64).to_be_bytes().into_iter().for_each(&mut eat);
        part.iter().copied().for_each(&mut eat);
    }
    mix(hash)
}

/// Stable 64-bit hash of a payload, eight bytes at a time (a payload is longer than the names that [`hash64`] is for). It is part of keys on
/// disk: never change it. Collisions are possible and callers verify the row.
#[must_use]
pub fn hash_payload(payload: &[u8]) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    let mut words = payload.chunks_exact(8);
    let mut eat = |word: [u8; 8]| {
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    };
    for word in &mut words {
        eat(word.try_into().unwrap_or_default());
    }
    let mut last = [0; 8];
    last.iter_mut().zip(words.remainder()).for_each(|(to, from)| *to = *from);
    eat(last);
    mix(hash ^ payload.len() as u64)
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Fills a fixed array from the front. Every caller sizes the array for exactly what it writes.
struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    fn u8(self, value: u8) -> Writer<'a> {
        self.fixed(value.to_be_bytes())
    }

    fn u16(self, value: u16) -> Writer<'a> {
        self.fixed(value.to_be_bytes())
    }

    fn u32(self, value: u32) -> Writer<'a> {
        self.fixed(value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Writer<'a> {
        self.fixed(value.to_be_bytes())
    }

    fn fixed<const N: usize>(self, bytes: [u8; N]) -> Writer<'a> {
        let (head, tail) = self.0.split_at_mut(N);
        head.copy_from_slice(&bytes);
        Writer(tail)
    }
}

/// Takes fields from the front of a key; `None` when the key is too short.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn slot(&mut self) -> Option<Bucket> {
        Bucket::from_index(self.u16()?)
    }

    fn end<T>(self, fields: T) -> Option<T> {
        self.0.is_empty().then_some(fields)
    }
}

#[cfg(test)]
mod tests;
