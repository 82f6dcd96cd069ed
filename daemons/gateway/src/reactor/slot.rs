//! One socket in a reactor: the connection, its output, and which requests are under way.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::conn::{Conn, End};

/// The multishot receive of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receive {
    /// None is under way.
    Idle,
    /// Under way.
    Armed,
    /// Under way, cancelled: its last completion is awaited.
    Cancelled,
}

/// How a socket ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) end: End,
    /// Our half is closed: input is discarded until the peer closes his.
    pub(super) half_closed: bool,
    /// Everything under way was cancelled.
    pub(super) cancelled: bool,
}

/// A socket and its connection.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) socket: OwnedFd,
    pub(super) conn: Conn,
    /// Tells this connection from earlier ones in the same slot.
    pub(super) generation: u32,
    /// Output that waits for the next send.
    pub(super) out: Vec<u8>,
    pub(super) receive: Receive,
    /// Bytes of the send under way; `None` when there is none.
    pub(super) sending: Option<Sending>,
    pub(super) ending: Option<Ending>,
    /// The peer has sent its last byte: nothing is received any more.
    pub(super) eof: bool,
    /// It is in the list of slots to attend to at the end of the round.
    pub(super) touched: bool,
    /// Entries of it in the wheel.
    pub(super) timers: u32,
    /// Due time of the entry in the wheel that watches a send with output behind it; 0: none.
    pub(super) watch_ms: u64,
    /// Output counted in the budget of the process. Unit: bytes.
    pub(super) counted: usize,
    /// Address it is counted under.
    pub(super) address: IpAddr,
}

/// A send under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) len: usize,
    pub(super) from: usize,
    /// When the peer last took something of it. Monotonic ms.
    pub(super) since_ms: u64,
}

/// What follows from a send's completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterSend {
    /// Everything has left.
    Done,
    /// This is still to be sent.
    Rest(Sending),
    /// The connection is broken.
    Failed,
}

impl Sending {
    /// Reads the result of a completion: bytes sent, or the negative error number.
    pub(super) fn after(self, result: i32, now_ms: u64) -> AfterSend {
        match usize::try_from(result) {
            Ok(sent) if self.from + sent >= self.len => AfterSend::Done,
            Ok(sent) => AfterSend::Rest(Self { from: self.from + sent, since_ms: now_ms, ..self }),
            // Nothing was sent, nothing is wrong: the same bytes again, or the stream would have a hole.
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN) => AfterSend::Rest(self),
            Err(_) => AfterSend::Failed,
        }
    }
}

impl Slot {
    /// Output that is not sent yet. Unit: bytes.
    pub(super) fn output(&self) -> usize {
        self.out.len() + self.sending.map_or(0, |s| s.len - s.from)
    }

    /// When the output that waits behind a send will have stood still for too long; `None`: nothing waits behind one, or it ends anyway.
    pub(super) fn stalled_ms(&self, stall_ms: u64) -> Option<u64> {
        let sending = self.sending.filter(|_| !self.out.is_empty() && self.ending.is_none())?;
        Some(sending.since_ms + stall_ms)
    }

    /// No request of it is under way: the socket may be closed.
    pub(super) fn is_quiet(&self) -> bool {
        self.receive == Receive::Idle && self.sending.is_none()
    }
}

/// What a token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Accept of a listener.
    Accept(usize),
    /// Receive of a slot.
    Receive(Key),
    /// Send of a slot.
    Send(Key),
    /// The wake-up read.
    Wake,
    /// A cancellation: nothing follows from its own completion.
    Cancel,
}

/// A slot in one of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: u32,
    /// The low 24 bits of the slot's generation.
    pub(super) generation: u32,
}

/// Generations are compared by this many bits.
pub(super) const GENERATION_MASK: u32 = 0xff_ffff;

impl Key {
    /// Key as a number below 2^56: token without kind, and key of the wheel.
    pub(super) fn pack(self) -> u64 {
        u64::from(self.generation & GENERATION_MASK) << 32 | u64::from(self.slot)
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let slot = u32::try_from(bits & 0xffff_ffff).unwrap_or(u32::MAX);
        let generation = u32::try_from(bits >> 32).unwrap_or(0) & GENERATION_MASK;
        Self { slot, generation }
    }
}

impl Target {
    /// As a token.
    pub(super) fn token(self) -> u64 {
        let (kind, rest) = match self {
            Self::Accept(listener) => (1, listener as u64),
            Self::Receive(key) => (2, key.pack()),
            Self::Send(key) => (3, key.pack()),
            Self::Wake => (4, 0),
            Self::Cancel => (5, 0),
        };
        kind << 56 | rest
    }

    /// What a token of ours names.
    pub(super) fn of(token: u64) -> Self {
        let rest = token & ((1 << 56) - 1);
        match token >> 56 {
            1 => Self::Accept(usize::try_from(rest).unwrap_or(usize::MAX)),
            2 => Self::Receive(Key::unpack(rest)),
            3 => Self::Send(Key::unpack(rest)),
            4 => Self::Wake,
            _ => Self::Cancel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let key = Key { slot: u32::MAX, generation: GENERATION_MASK };
        for target in [Target::Accept(3), Target::Receive(key), Target::Send(key), Target::Wake, Target::Cancel] {
            assert_eq!(Target::of(target.token()), target);
        }
    }

    #[test]
    fn a_send_leaves_no_hole() {
        let sending = Sending { len: 100, from: 10, since_ms: 5 };
        assert_eq!(sending.after(90, 7), AfterSend::Done);
        assert_eq!(sending.after(30, 7), AfterSend::Rest(Sending { len: 100, from: 40, since_ms: 7 }));
        for again in [libc::EINTR, libc::EAGAIN] {
            assert_eq!(sending.after(-again, 7), AfterSend::Rest(sending), "nothing was sent");
        }
        for broken in [libc::EPIPE, libc::ECONNRESET, libc::ECANCELED, libc::ENOMEM] {
            assert_eq!(sending.after(-broken, 7), AfterSend::Failed);
        }
    }

    #[test]
    fn an_idle_slot_is_small() {
        assert!(size_of::<Slot>() <= 304, "{} bytes", size_of::<Slot>());
    }
}
