//! Items of the links: what they mean and their bytes.
//!
//! Each struct is both what the sender encodes and what the receiver decodes, borrowed from the batch. The item's kind travels beside the body.

use bytes::{Bytes, BytesMut};

use crate::codec::DecodeError;

mod conn;
mod message;

pub use conn::{Closed, Connack, Connect, Kick, Session};
pub use message::{ChannelSend, Deliver, PersonRulesChanged, Receivers, RecvOut, Recvack, Send, Sendack};

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`Connect`], gateway → user.
    Connect = 1,
    /// [`Send`], gateway → user.
    Send = 2,
    /// [`Closed`], gateway → user.
    Closed = 3,
    /// [`Session`], gateway → user (snapshot only) and push: this connection is authenticated.
    SessionUp = 4,
    /// [`Closed`], gateway → push.
    SessionDown = 5,
    /// No body, gateway → user, push: the sessions that follow replace all of this gateway.
    SnapshotBegin = 6,
    /// No body: the snapshot is complete.
    SnapshotEnd = 7,
    /// [`Connack`], user → gateway.
    Connack = 8,
    /// [`Kick`], user → gateway.
    Kick = 9,
    /// [`Sendack`], user and channel → gateway.
    Sendack = 10,
    /// [`ChannelSend`], user and api → channel.
    ChannelSend = 11,
    /// [`PersonRulesChanged`], user → channel.
    PersonRulesChanged = 12,
    /// [`Deliver`], channel → push.
    Deliver = 13,
    /// [`RecvOut`], push → gateway.
    RecvOut = 14,
    /// [`Recvack`], gateway → push.
    Recvack = 15,
    /// No body: the sender has nothing more of this bucket at this epoch (architecture §7a).
    Fence = 20,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Connect,
            2 => Self::Send,
            3 => Self::Closed,
            4 => Self::SessionUp,
            5 => Self::SessionDown,
            6 => Self::SnapshotBegin,
            7 => Self::SnapshotEnd,
            8 => Self::Connack,
            9 => Self::Kick,
            10 => Self::Sendack,
            11 => Self::ChannelSend,
            12 => Self::PersonRulesChanged,
            13 => Self::Deliver,
            14 => Self::RecvOut,
            15 => Self::Recvack,
            20 => Self::Fence,
            _ => return None,
        })
    }
}

/// An item body that can be encoded and decoded.
pub trait Body<'a>: Sized {
    /// Appends the body.
    fn encode(&self, out: &mut BytesMut);
    /// Reads the body.
    ///
    /// # Errors
    /// When the bytes are not such a body.
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError>;
}

/// Encodes bodies into shared chunks: one allocation for many items.
#[derive(Debug, Default)]
pub struct Encoder {
    chunk: BytesMut,
}

/// Size of a chunk. An item pins its chunk until it is settled, so chunks are small beside the queues. Unit: bytes.
const CHUNK_BYTES: usize = 16 << 10;

impl Encoder {
    /// The body as bytes of its own.
    pub fn encode<'a>(&mut self, body: &impl Body<'a>) -> Bytes {
        if self.chunk.capacity() < 512 {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES);
        }
        body.encode(&mut self.chunk);
        self.chunk.split().freeze()
    }
}
