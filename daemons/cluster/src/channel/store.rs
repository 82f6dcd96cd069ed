//! Storing the messages of one entry: duplicates, sequences, rows.

use bytes::Bytes;
use hashbrown::HashMap;
use wk_link::codec::Reader;
use wk_link::record::{ChannelBatch, Message, decode_row, encode_row};
use wk_store::keys::{ClientNo, IDX_CLIENT_NO_BYTES};
use wk_store::{Batch, Cf, ChannelNumber, DataDb, StoreError, keys};
use wk_types::Bucket;

use super::cache::ChanCache;
use super::command::{ChannelResult, StoredAt};
use super::rows::{ChanRow, JournalItem, decode_place, decode_seq, encode_place, len_u32};
use crate::error::Refusal;
use crate::limits::{CHANNEL_ID_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_SEQ_MAX};

/// What a message is found by again; `None`: by its id, it has no client number.
fn client_no(message: &Message<'_>) -> Option<ClientNo> {
    let named = !message.client_msg_no.is_empty();
    named.then(|| ClientNo::of(message.from_uid, message.client_msg_no, message.payload))
}

/// Index rows and messages of the batch that is being built: reads go here first, so that the result of a command never depends on where
/// the batch began.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// (channel number, client number) → sequence.
    clients: HashMap<(u64, ClientNo), u64>,
    /// (slot, message id) → (channel number, sequence).
    ids: HashMap<(u16, i64), (u64, u64)>,
    /// (channel number, sequence) → encoded message.
    messages: HashMap<(u64, u64), Bytes>,
    /// (channel number, client number) → sequence that is stored, or `None`: looked up before, see [`Store::look_up`].
    stored: HashMap<(u64, ClientNo), Option<u64>>,
}

impl Overlay {
    pub(super) fn clear(&mut self) {
        self.clients.clear();
        self.ids.clear();
        self.messages.clear();
        self.stored.clear();
    }
}

/// A message, decoded and as its bytes.
pub(crate) type Decoded<'f> = (Message<'f>, &'f [u8]);

/// A frame that was looked at without stored rows: its slot and messages, and what each is found by.
pub(super) struct Accepted<'f> {
    frame: ChannelBatch<'f>,
    messages: Result<(Bucket, Vec<Decoded<'f>>), Refusal>,
    clients: Vec<Option<ClientNo>>,
}

/// What one frame is stored with.
pub(super) struct Store<'a> {
    pub(super) db: &'a DataDb,
    pub(super) batch: &'a mut Batch,
    pub(super) overlay: &'a mut Overlay,
    pub(super) cache: &'a mut ChanCache,
    /// Next channel number of the group.
    pub(super) next_number: &'a mut u64,
    /// Shard of the group and number of shards.
    pub(super) shard: (u16, u16),
    /// The command: messages kept for later frames are slices of it.
    pub(super) command: &'a Bytes,
    pub(super) now_ms: i64,
}

impl Store<'_> {
    /// Reads the frames of an entry; false: what follows the last of them is not a frame.
    pub(super) fn read<'f>(&self, frames: &'f [u8]) -> (Vec<Accepted<'f>>, bool) {
        let mut all = Vec::new();
        let mut r = Reader::new(frames);
        while !r.is_empty() {
            let Ok(frame) = ChannelBatch::read(&mut r) else { return (all, false) };
            let messages = self.accept(&frame);
            let clients = messages.iter().flat_map(|(_, messages)| messages).map(|(message, _)| client_no(message)).collect();
            all.push(Accepted { frame, messages, clients });
        }
        (all, true)
    }

    /// Stores one frame; the journal item says what is new.
    ///
    /// # Errors
    /// A read failed: the machine cannot go on.
    pub(super) fn frame(&mut self, accepted: &Accepted<'_>) -> Result<(ChannelResult, Option<JournalItem>), StoreError> {
        match &accepted.messages {
            Ok((slot, messages)) => self.messages(*slot, &accepted.frame, messages, &accepted.clients),
            Err(refusal) => Ok((ChannelResult::Refused(refusal.clone()), None)),
        }
    }

    /// Looks up the client numbers of all frames at once: one walk over memtables and files instead of one for each message. Nothing depends on
    /// it: what is not found here (a channel that is not cached) is looked up when its turn comes.
    ///
    /// # Errors
    /// A read failed.
    pub(super) fn look_up(&mut self, frames: &[Accepted<'_>]) -> Result<(), StoreError> {
        let mut wanted: Vec<((u64, ClientNo), [u8; IDX_CLIENT_NO_BYTES])> = Vec::new();
        for Accepted { frame, messages, clients } in frames {
            let Ok((slot, _)) = messages else { continue };
            let key = keys::chan(*slot, frame.channel_type.0, frame.channel_id.as_bytes());
            let Some(number) = self.cache.get(&key).map(|row| row.number).filter(|number| *number != 0) else { continue };
            for client in clients.iter().flatten() {
                wanted.push(((number, *client), keys::idx_client_no(*slot, ChannelNumber(number), *client)));
            }
        }
        if wanted.len() < 2 {
            return Ok(());
        }
        let rows: Vec<_> = wanted.iter().map(|(_, key)| key).collect();
        for ((place, _), value) in wanted.iter().zip(self.db.multi_get(Cf::Idx, &rows)?) {
            self.overlay.stored.insert(*place, value.map(|value| decode_seq(&value)).transpose()?);
        }
        Ok(())
    }

    /// Checks a frame without looking at stored rows.
    fn accept<'f>(&self, frame: &ChannelBatch<'f>) -> Result<(Bucket, Vec<Decoded<'f>>), Refusal> {
        let slot = check_channel(frame.channel_id)?;
        if slot.index() % self.shard.1 != self.shard.0 {
            return Err(Refusal::rejected("channel belongs to another shard"));
        }
        Ok((slot, check_messages(frame)?))
    }

    fn messages(
        &mut self,
        slot: Bucket,
        frame: &ChannelBatch<'_>,
        messages: &[Decoded<'_>],
        clients: &[Option<ClientNo>],
    ) -> Result<(ChannelResult, Option<JournalItem>), StoreError> {
        let key = keys::chan(slot, frame.channel_type.0, frame.channel_id.as_bytes());
        let old = self.channel(&key)?;
        if old.last_seq + messages.len() as u64 > MESSAGE_SEQ_MAX {
            return Ok((ChannelResult::Refused(Refusal::rejected("channel has no sequences left")), None));
        }
        let mut row = old;
        let now_ms = old.last_ms.max(self.now_ms);
        let timestamp_s = now_ms.div_euclid(1000);
        let (mut stored, mut senders) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        let mut names: Vec<Box<str>> = Vec::new();
        for (((message, bytes), client), (conn, named)) in messages.iter().zip(clients.iter().copied()).zip(frame.senders()) {
            if let Some(earlier) = self.find(slot, &row, message, client)? {
                stored.push(earlier);
                continue;
            }
            if row.number == 0 {
                row.number = *self.next_number;
                row.first_seq = 1;
                *self.next_number += 1;
            }
            row.last_seq += 1;
            row.last_message_id = message.message_id;
            self.batch.put(Cf::Msg, keys::msg(slot, ChannelNumber(row.number), row.last_seq), encode_row(timestamp_s, bytes));
            self.put_index(slot, &row, (message, bytes), client);
            stored.push(StoredAt { message_id: message.message_id, seq: row.last_seq, duplicate: false });
            if !named.is_empty() {
                names.resize(senders.len(), "".into());
                names.push(named.into());
            }
            senders.push(conn.0);
        }
        let result = ChannelResult::Stored { timestamp_s, messages: stored };
        let count = row.last_seq - old.last_seq;
        if count == 0 {
            return Ok((result, None));
        }
        row.last_ms = now_ms;
        self.batch.put(Cf::Chan, &key, row.encode());
        self.cache.put(&key, row);
        if !names.is_empty() {
            names.resize(senders.len(), "".into());
        }
        if senders.iter().all(|conn| *conn == 0) {
            senders.clear();
        }
        let item = JournalItem {
            slot: slot.index(),
            kind: frame.channel_type.0,
            id: frame.channel_id.into(),
            number: row.number,
            first_seq: old.last_seq + 1,
            count: len_u32(usize::try_from(count).unwrap_or(usize::MAX)),
            senders,
            named: names,
        };
        Ok((result, Some(item)))
    }

    /// The channel's row, or that of an unknown channel: number 0.
    fn channel(&mut self, key: &[u8]) -> Result<ChanRow, StoreError> {
        if let Some(row) = self.cache.get(key) {
            return Ok(row);
        }
        let row = self.db.get(Cf::Chan, key)?.map_or(Ok(ChanRow::default()), |value| ChanRow::decode(&value))?;
        self.cache.put(key, row);
        Ok(row)
    }

    /// Remembers where a message lies: by client number when it has one, else by id.
    fn put_index(&mut self, slot: Bucket, row: &ChanRow, (message, bytes): (&Message<'_>, &[u8]), client: Option<ClientNo>) {
        let (number, seq) = (row.number, row.last_seq);
        let Some(client) = client else {
            self.batch.put(Cf::Idx, keys::idx_message_id(slot, message.message_id), encode_place(number, seq));
            self.overlay.ids.insert((slot.index(), message.message_id), (number, seq));
            return;
        };
        self.batch.put(Cf::Idx, keys::idx_client_no(slot, ChannelNumber(number), client), seq.to_be_bytes());
        self.overlay.clients.insert((number, client), seq);
        // Only messages with a client number are compared again.
        self.overlay.messages.insert((number, seq), self.command.slice_ref(bytes));
    }

    /// Where the message is stored already, if it is.
    fn find(&self, slot: Bucket, row: &ChanRow, message: &Message<'_>, client: Option<ClientNo>) -> Result<Option<StoredAt>, StoreError> {
        if row.number == 0 {
            return Ok(None);
        }
        let Some(client) = client else {
            let place = self.place(slot, message.message_id)?;
            let here = place.filter(|(number, _)| *number == row.number);
            return Ok(here.map(|(_, seq)| StoredAt { message_id: message.message_id, seq, duplicate: true }));
        };
        let number = row.number;
        let seq = match self.overlay.clients.get(&(number, client)) {
            Some(seq) => Some(*seq),
            None => match self.overlay.stored.get(&(number, client)) {
                Some(seq) => *seq,
                None => {
                    let value = self.db.get(Cf::Idx, keys::idx_client_no(slot, ChannelNumber(number), client))?;
                    value.map(|value| decode_seq(&value)).transpose()?
                }
            },
        };
        let Some(seq) = seq else { return Ok(None) };
        let same = |bytes: &[u8]| {
            let first = Message::decode(bytes).map_err(|_| StoreError::Shape { what: "message row" })?;
            let equal =
                first.from_uid == message.from_uid && first.client_msg_no == message.client_msg_no && first.payload == message.payload;
            Ok(equal.then_some(StoredAt { message_id: first.message_id, seq, duplicate: true }))
        };
        if let Some(bytes) = self.overlay.messages.get(&(number, seq)) {
            return same(bytes);
        }
        match self.db.get(Cf::Msg, keys::msg(slot, ChannelNumber(number), seq))? {
            Some(value) => same(decode_row(&value).map_err(|_| StoreError::Shape { what: "message row" })?.1),
            // Trimmed: the index row outlives its message until compaction.
            None => Ok(None),
        }
    }

    fn place(&self, slot: Bucket, message_id: i64) -> Result<Option<(u64, u64)>, StoreError> {
        if let Some(place) = self.overlay.ids.get(&(slot.index(), message_id)) {
            return Ok(Some(*place));
        }
        let value = self.db.get(Cf::Idx, keys::idx_message_id(slot, message_id))?;
        value.map(|value| decode_place(&value)).transpose()
    }
}

/// Checks a channel id and returns its slot.
///
/// # Errors
/// An empty or overlong id.
pub(crate) fn check_channel(id: &str) -> Result<Bucket, Refusal> {
    if id.is_empty() {
        return Err(Refusal::rejected("channel id is empty"));
    }
    if id.len() > CHANNEL_ID_BYTES_MAX {
        return Err(Refusal::too_large("channel id is too long"));
    }
    Ok(Bucket::of(wk_types::channel::base_id(id)))
}

/// Checks the messages of a frame: at least one, each complete, with an id, within the bounds.
///
/// # Errors
/// The first fault.
pub(crate) fn check_messages<'f>(frame: &ChannelBatch<'f>) -> Result<Vec<Decoded<'f>>, Refusal> {
    if frame.count == 0 {
        return Err(Refusal::rejected("batch has no message"));
    }
    let mut messages = Vec::with_capacity(usize::from(frame.count));
    for bytes in frame.messages() {
        let bytes = bytes.map_err(|_| Refusal::rejected("batch ends inside a message"))?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::too_large("message is too large"));
        }
        let mut r = Reader::new(bytes);
        let message = Message::read(&mut r).map_err(|_| Refusal::rejected("message is broken"))?;
        if message.message_id <= 0 || !r.is_empty() {
            return Err(Refusal::rejected("message has no id or bytes behind its end"));
        }
        messages.push((message, bytes));
    }
    Ok(messages)
}
