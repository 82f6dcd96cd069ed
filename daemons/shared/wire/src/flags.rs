//! The flags of a frame and the setting byte of a message (§3.2, §4).

use crate::Version;

macro_rules! bits {
    ($type:ident: $($(#[$doc:meta])* $name:ident, $get:ident, $bit:literal;)*) => {
        impl $type {
            $($(#[$doc])* pub const $name: Self = Self($bit);)*

            /// All bits clear.
            pub const NONE: Self = Self(0);

            $($(#[$doc])* #[must_use] pub const fn $get(self) -> bool { self.0 & $bit != 0 })*

            /// Both sets of bits together.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// These bits without those of `other`.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// The bits of `other` when `on`, nothing otherwise, added to these.
            #[must_use]
            pub const fn with_if(self, other: Self, on: bool) -> Self {
                if on { self.with(other) } else { self }
            }

            /// True when no bit is set.
            #[must_use]
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl std::ops::BitOr for $type {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }
    };
}

/// Flags of a frame: the low nibble of its first byte (§3.2). The upper four bits are always 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

bits! {
    Flags:
    /// Do not store; the sequence number will be 0.
    NO_PERSIST, no_persist, 0x1;
    /// Counts as unread.
    RED_DOT, red_dot, 0x2;
    /// Command message, delivered once.
    SYNC_ONCE, sync_once, 0x4;
    /// Retransmission marker; says nothing about duplicates.
    DUP, dup, 0x8;
    /// CONNACK only: the first body byte is the server version.
    HAS_SERVER_VERSION, has_server_version, 0x1;
}

impl Flags {
    /// The flags in the low nibble of `byte`; the high nibble is ignored.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte & 0x0f)
    }

    /// The bits, 0 to 15.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Flags of a RECV, from those of the SEND: dup is cleared, and redDot is cleared when the receiver is the sender (§3.2, §11.4).
    #[must_use]
    pub const fn for_recv(self, to_sender: bool) -> Self {
        let flags = self.without(Self::DUP);
        if to_sender { flags.without(Self::RED_DOT) } else { flags }
    }
}

/// Setting byte of SEND, RECV and SUB (§4). All eight bits are kept as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Setting(u8);

bits! {
    Setting:
    /// The sender wants read receipts; opaque to the server.
    RECEIPT, receipt, 0x80;
    /// End-to-end encrypted by the client; opaque to the server.
    SIGNAL, signal, 0x20;
    /// The payload travels in the clear (§10.4).
    NO_ENCRYPT, no_encrypt, 0x10;
    /// A topic field follows.
    TOPIC, topic, 0x08;
    /// Part of a stream; stream fields follow in versions 2 to 4.
    STREAM, stream, 0x02;
}

impl Setting {
    /// The setting in `byte`.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Setting of a RECV, from the stored one (§4, §10.5): only receipt, signal, topic and stream survive, stream not below version 5
    /// (old SDKs read other fields there, §6.4), and noEncrypt says whether this RECV carries a clear payload.
    #[must_use]
    pub const fn for_recv(stored: Self, version: Version, encrypted: bool) -> Self {
        let kept = stored.0 & (Self::RECEIPT.0 | Self::SIGNAL.0 | Self::TOPIC.0 | Self::STREAM.0);
        let kept = Self(kept);
        let kept = if version.get() < 5 { kept.without(Self::STREAM) } else { kept };
        kept.with_if(Self::NO_ENCRYPT, !encrypted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recv_setting_keeps_only_what_receivers_understand() {
        let all = Setting::from_byte(0xff);
        assert_eq!(Setting::for_recv(all, Version::V5, true).get(), 0xaa);
        assert_eq!(Setting::for_recv(all, Version::V4, true).get(), 0xa8);
        assert_eq!(Setting::for_recv(all, Version::V6, false).get(), 0xba);
        assert_eq!(Setting::for_recv(Setting::NONE, Version::V1, true).get(), 0);
    }

    #[test]
    fn recv_flags_drop_dup_and_the_senders_own_red_dot() {
        let all = Flags::from_byte(0xff);
        assert_eq!(all.for_recv(false).get(), 0x7);
        assert_eq!(all.for_recv(true).get(), 0x5);
    }
}
