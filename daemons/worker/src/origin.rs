//! Where an item came from, small enough to travel as the token of the item that answers it.

use wk_link::Position;
use wk_types::{Daemon, Incarnation};

/// Bits of a position. 2^48 items a link: 89 years at 100,000 a second.
const POSITION_BITS: u32 = 48;
/// Number of peer ids before they are used again; a process meets far fewer incarnations in its life.
pub const PEERS_MAX: u16 = 0x7fff;

/// Small number of a sender's incarnation within this process, `1..=PEERS_MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// An incoming item: sender and position. Never 0; the top bit is always clear, so that pools may use it for tokens of other kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(u64);

impl Origin {
    /// The item at `position` of `peer`.
    #[must_use]
    pub fn new(peer: PeerId, position: Position) -> Self {
        Self(u64::from(peer.0 & PEERS_MAX) << POSITION_BITS | (position & ((1 << POSITION_BITS) - 1)))
    }

    /// As the token of an outgoing item.
    #[must_use]
    pub fn token(self) -> u64 {
        self.0
    }

    /// The origin that [`Origin::token`] gave; `None` for 0 and for tokens with the top bit.
    #[must_use]
    pub fn from_token(token: u64) -> Option<Self> {
        (token != 0 && token >> 63 == 0).then_some(Self(token))
    }

    /// Sender.
    #[must_use]
    pub fn peer(self) -> PeerId {
        PeerId(u16::try_from(self.0 >> POSITION_BITS).unwrap_or(0))
    }

    /// Position on the sender's link.
    #[must_use]
    pub fn position(self) -> Position {
        self.0 & ((1 << POSITION_BITS) - 1)
    }
}

/// A sender, as the decisions know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Number for [`Origin`].
    pub id: PeerId,
    /// Kind of daemon.
    pub daemon: Daemon,
    /// Its slot.
    pub slot: u16,
    /// Its life.
    pub incarnation: Incarnation,
}

/// Time handed to decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock of the node. Unit: ms.
    pub mono_ms: u64,
    /// Unit: ms since 1970.
    pub unix_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_round_trip() {
        let origin = Origin::new(PeerId(PEERS_MAX), (1 << 48) - 1);
        assert_eq!(Origin::from_token(origin.token()), Some(origin));
        assert_eq!((origin.peer(), origin.position()), (PeerId(PEERS_MAX), (1 << 48) - 1));
        assert_eq!(Origin::from_token(0), None);
        assert_eq!(Origin::from_token(1 << 63), None);
    }
}
