//! Channels in memory, and what is known of them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{Equivalent, HashMap};
use wk_link::item::ChannelSend;
use wk_link::record::Message;
use wk_types::{Bucket, ChannelKey, ChannelType, ConnId, MessageId, MessageSeq, Reason};

use super::permission::{Info, Needs};
use super::tag::Tag;
use crate::origin::Origin;

/// A channel key that is only looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRef<'a> {
    /// Internal id. The order of the fields is that of [`ChannelKey`], so that both hash alike.
    pub id: &'a str,
    /// Type.
    pub kind: ChannelType,
}

impl Equivalent<ChannelKey> for KeyRef<'_> {
    fn equivalent(&self, key: &ChannelKey) -> bool {
        self.kind == key.kind && *self.id == *key.id
    }
}

/// Is a replayed message stored already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nobody asks: a first try, or a message that is never stored.
    New,
    /// The cluster was asked.
    Asked,
    /// It is not.
    No,
    /// Under this id and sequence.
    Yes(MessageId, MessageSeq),
}

/// Receivers that one message names.
pub type Uids = Box<[Box<str>]>;

/// A message on its way through the channel.
#[derive(Debug)]
pub struct Pending {
    /// Item that brought it.
    pub origin: Origin,
    /// Connection to answer.
    pub conn: ConnId,
    /// Monotonic ms when it was accepted.
    pub accepted_ms: u64,
    /// From the HTTP API: no SENDACK.
    pub api: bool,
    /// It was sent before.
    pub replay: bool,
    /// For replays.
    pub stored: Stored,
    /// Its facts cannot be had: it is refused.
    pub failed: bool,
    /// The client has its answer: the deadline passed while the outcome was unknown.
    pub answered: bool,
    /// Id as the sender named it, where it cannot be derived.
    pub named: Box<str>,
    /// Who gets it instead of the channel's members; only of what is not stored.
    pub receivers: Option<Uids>,
    /// The encoded message.
    pub message: Bytes,
    /// Its id.
    pub message_id: MessageId,
    /// Its header flags.
    pub flags: u8,
}

impl Pending {
    /// The message of an item; `body` are the item's bytes.
    #[must_use]
    pub fn new(origin: Origin, x: &ChannelSend<'_>, body: &Bytes, replay: bool) -> Self {
        let stores = x.message.flags & NO_PERSIST == 0;
        Self {
            origin,
            conn: x.conn,
            accepted_ms: x.accepted_ms,
            api: x.system_device,
            replay,
            stored: if replay && stores { Stored::Asked } else { Stored::New },
            failed: false,
            answered: false,
            named: x.named.into(),
            receivers: (!stores && !x.receivers.is_empty()).then(|| x.receivers.iter().map(Into::into).collect()),
            message: message_bytes(x, body),
            message_id: x.message.message_id,
            flags: x.message.flags,
        }
    }

    /// The decoded message.
    #[must_use]
    pub fn message(&self) -> Option<Message<'_>> {
        Message::decode(&self.message).ok()
    }

    /// True when it is not stored.
    #[must_use]
    pub fn no_persist(&self) -> bool {
        self.flags & NO_PERSIST != 0
    }

    /// True when a client waits for a SENDACK.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        !self.api && !self.conn.is_none()
    }
}

/// Header flag noPersist.
pub const NO_PERSIST: u8 = 1;

/// The encoded message inside an item: it is the item's tail, so its length says where it starts.
fn message_bytes(x: &ChannelSend<'_>, body: &Bytes) -> Bytes {
    let m = &x.message;
    let texts = m.from_uid.len() + m.client_msg_no.len() + m.topic.len() + m.stream_no.len();
    let len = 8 + 1 + 1 + 4 + 4 + 4 * 2 + texts + 4 + m.payload.len();
    body.slice(body.len().saturating_sub(len)..)
}

/// What happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored, then distributed.
    Store,
    /// It is distributed only.
    Pass,
    /// It is refused.
    Refuse(Reason),
    /// It was stored before, under this id and sequence.
    Known(MessageId, MessageSeq),
}

/// A message with its verdict.
#[derive(Debug)]
pub struct Decided {
    /// The message.
    pub pending: Pending,
    /// The verdict.
    pub verdict: Verdict,
}

/// The append of a channel that is under way or will be repeated.
#[derive(Debug)]
pub struct Flight {
    /// What was taken from the queue, in order: everything to store is in the batch, the rest is answered with it.
    pub entries: Vec<Decided>,
    /// The channel's part of the request. Repeated unchanged.
    pub frame: Bytes,
    /// Messages in it.
    pub messages: usize,
    /// Times it was sent.
    pub attempts: u32,
    /// Some attempt may have been stored.
    pub unknown: bool,
    /// A request with it is open.
    pub sent: bool,
    /// For the cursor.
    pub floor: u64,
}

/// A message that waits for its distribution.
#[derive(Debug)]
pub struct Dist {
    /// The encoded message.
    pub message: Bytes,
    /// Sequence; 0 when not stored.
    pub seq: MessageSeq,
    /// Stored second.
    pub timestamp_s: i64,
    /// Connection that gets no copy.
    pub sender_conn: ConnId,
    /// Id as the sender named it, where it cannot be derived.
    pub named: Box<str>,
    /// Who gets it instead of the channel's members.
    pub receivers: Option<Uids>,
    /// Journal index; 0: the cursor does not wait for it.
    pub index: u64,
    /// Life of the bucket's cursor that waits for it.
    pub life: u32,
    /// Not stored: answered once the push workers have it.
    pub answer: Option<Answer>,
}

/// Whom to tell when an unstored message has reached the push workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Item to settle.
    pub origin: Origin,
    /// A client waits for a SENDACK.
    pub wants_ack: bool,
}

/// Receivers of a channel.
#[derive(Debug, Default)]
pub enum TagState {
    /// Not known.
    #[default]
    Unknown,
    /// The members are being read.
    Loading,
    /// Known.
    Ready(Arc<Tag>),
}

/// What is known about one sender.
#[derive(Debug, Clone, Copy, Default)]
pub struct SenderFacts {
    /// See [`super::permission::Facts`].
    pub denied: Option<bool>,
    /// See [`super::permission::Facts`].
    pub member: Option<bool>,
    /// See [`super::permission::Facts`].
    pub allowed: Option<bool>,
    /// Facts that are being asked for.
    pub asked: Needs,
    /// Person channels: stamp of the receiver's rules when they were asked for.
    pub stamp: u32,
}

/// What is known about a channel.
#[derive(Debug, Default)]
pub struct ChannelFacts {
    /// Stored state.
    pub info: Option<Info>,
    /// Person channels: stamp of the id when the state was asked for.
    pub info_stamp: u32,
    /// The allow list has entries.
    pub allow_any: Option<bool>,
    /// Facts of the channel that are being asked for.
    pub asked: Needs,
    /// Facts by sender.
    pub senders: HashMap<Box<str>, SenderFacts>,
    /// Grows with each change of the channel's rows: answers to older questions are void.
    pub epoch: u32,
}

/// A channel in memory.
#[derive(Debug)]
pub struct Chan {
    /// Its key.
    pub key: ChannelKey,
    /// Its bucket.
    pub bucket: Bucket,
    /// Messages without a verdict, in order.
    pub incoming: VecDeque<Pending>,
    /// Messages with a verdict that have not been answered or appended, in order.
    pub decided: VecDeque<Decided>,
    /// The one append.
    pub flight: Option<Flight>,
    /// Messages that wait for their distribution, in order.
    pub dist: VecDeque<Dist>,
    /// What is known.
    pub facts: ChannelFacts,
    /// Receivers.
    pub tag: TagState,
    /// Last time the tag was used. Unit: monotonic ms.
    pub tag_used_ms: u64,
    /// Last time a message came. Unit: monotonic ms.
    pub used_ms: u64,
    /// Questions about it that are open: it must not go away.
    pub asks: u32,
    /// It is on the list of changed channels.
    pub dirty: bool,
    /// It is in the queue for appends.
    pub queued: bool,
    /// It waits for room towards the push workers.
    pub blocked: bool,
}

impl Chan {
    /// A channel nothing is known of.
    #[must_use]
    pub fn new(key: ChannelKey, now_ms: u64) -> Self {
        let bucket = key.bucket();
        Self {
            key,
            bucket,
            incoming: VecDeque::new(),
            decided: VecDeque::new(),
            flight: None,
            dist: VecDeque::new(),
            facts: ChannelFacts::default(),
            tag: TagState::Unknown,
            tag_used_ms: now_ms,
            used_ms: now_ms,
            asks: 0,
            dirty: false,
            queued: false,
            blocked: false,
        }
    }

    /// Rows or lists have changed: everything known is void.
    pub fn forget(&mut self) {
        let epoch = self.facts.epoch.wrapping_add(1);
        self.facts = ChannelFacts { epoch, ..ChannelFacts::default() };
        self.tag = TagState::Unknown;
    }

    /// Something of it is neither answered nor distributed.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        !self.incoming.is_empty() || !self.decided.is_empty() || self.flight.is_some() || !self.dist.is_empty()
    }

    /// True when it can leave memory without losing anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.incoming.is_empty()
            && self.decided.is_empty()
            && self.flight.is_none()
            && self.dist.is_empty()
            && self.asks == 0
            && !self.dirty
            && !self.queued
            && !self.blocked
            && !matches!(self.tag, TagState::Loading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::PeerId;
    use wk_link::item::{Body as _, Encoder, Receivers};

    #[test]
    fn keys_hash_alike() {
        let mut map = HashMap::new();
        map.insert(ChannelKey::new("g1", ChannelType::GROUP), 1);
        assert_eq!(map.get(&KeyRef { id: "g1", kind: ChannelType::GROUP }), Some(&1));
        assert_eq!(map.get(&KeyRef { id: "g1", kind: ChannelType::LIVE }), None);
    }

    #[test]
    fn the_message_is_cut_out_of_the_item() {
        let x = ChannelSend {
            conn: ConnId(3),
            accepted_ms: 4,
            system_device: false,
            channel_type: ChannelType::AGENT,
            channel_id: "ann@bot",
            named: "bot",
            receivers: Receivers::NONE,
            message: Message {
                message_id: 8,
                flags: 2,
                setting: 8,
                expire: 1,
                client_seq: 9,
                from_uid: "ann",
                client_msg_no: "no",
                topic: "t",
                stream_no: "s",
                payload: b"payload",
            },
        };
        let body = Encoder::default().encode(&x);
        let decoded = ChannelSend::decode(&body).expect("own bytes");
        let pending = Pending::new(Origin::new(PeerId(1), 1), &decoded, &body, false);
        assert_eq!(pending.message(), Some(x.message));
        assert_eq!(&*pending.named, "bot");
    }
}
