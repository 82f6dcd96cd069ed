//! Protocol versions and the layout rules that depend on them (§5, §17.1).

/// Latest protocol version that this server speaks.
pub const VERSION_MAX: u8 = 6;
/// Version of a JSON-RPC `connect` without a version, or with 0 (§14.3).
pub const VERSION_JSONRPC_DEFAULT: u8 = 5;

/// Negotiated version of a connection, 0 to [`VERSION_MAX`]. 0 behaves like 1 (§5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u8);

impl Version {
    /// Version 1, the base.
    pub const V1: Self = Self(1);
    /// Version 2: stream fields.
    pub const V2: Self = Self(2);
    /// Version 3: expire.
    pub const V3: Self = Self(3);
    /// Version 4: server version and node id in CONNACK.
    pub const V4: Self = Self(4);
    /// Version 5: EVENT instead of stream fields.
    pub const V5: Self = Self(5);
    /// Version 6: 64-bit sequence numbers.
    pub const V6: Self = Self(6);

    /// The version both sides speak: the smaller of the client's and [`VERSION_MAX`].
    #[must_use]
    pub const fn negotiate(client: u8) -> Self {
        Self(if client < VERSION_MAX { client } else { VERSION_MAX })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// SEND and RECV carry stream fields when the setting says so: versions 2 to 4.
    #[must_use]
    pub const fn has_stream_fields(self) -> bool {
        self.0 >= 2 && self.0 < 5
    }

    /// SEND and RECV carry `expire`: from version 3.
    #[must_use]
    pub const fn has_expire(self) -> bool {
        self.0 >= 3
    }

    /// CONNACK carries the server version and the node id. The rule speaks of the client's version being above 3 (§6.2), which is the
    /// same for the negotiated one because [`VERSION_MAX`] is above 3.
    #[must_use]
    pub const fn has_server_version(self) -> bool {
        self.0 >= 4
    }

    /// The client understands EVENT: from version 5 (§6.9).
    #[must_use]
    pub const fn has_event(self) -> bool {
        self.0 >= 5
    }

    /// Sequence numbers take 8 bytes, and SENDACK carries the client message number: from version 6 (§17.1).
    #[must_use]
    pub const fn has_wide_seq(self) -> bool {
        self.0 >= 6
    }
}

impl Default for Version {
    /// [`Version::V5`], what a JSON-RPC client without a version speaks.
    fn default() -> Self {
        Self(VERSION_JSONRPC_DEFAULT)
    }
}
