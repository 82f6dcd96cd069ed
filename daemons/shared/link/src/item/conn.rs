//! Items about connections: login, session, end.

use bytes::{BufMut, BytesMut};
use wk_types::{ConnId, DeviceFlag, DeviceLevel, Reason};

use super::Body;
use crate::codec::{DecodeError, Reader, put_text};

/// A CONNECT that the gateway understood. Settled when presence is updated in the user worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Monotonic ms of the node when the socket was accepted.
    pub accepted_ms: u64,
    /// Version the client stated.
    pub version: u8,
    /// True: JSON-RPC.
    pub json: bool,
    /// Device class.
    pub device_flag: DeviceFlag,
    /// Client's clock, ms since 1970.
    pub client_timestamp_ms: i64,
    /// Device.
    pub device_id: &'a str,
    /// User.
    pub uid: &'a str,
    /// Token, may be empty. Never logged.
    pub token: &'a str,
    /// Base64 of the client's public key, may be empty.
    pub client_key: &'a str,
    /// Peer address for people: `192.0.2.1:5000`.
    pub peer: &'a str,
}

impl<'a> Body<'a> for Connect<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u64_le(self.accepted_ms);
        out.put_u8(self.version);
        out.put_u8(u8::from(self.json));
        out.put_u8(self.device_flag.0);
        out.put_i64_le(self.client_timestamp_ms);
        for text in [self.device_id, self.uid, self.token, self.client_key, self.peer] {
            put_text(out, text);
        }
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            accepted_ms: r.u64("accepted_ms")?,
            version: r.u8("version")?,
            json: r.u8("json")? != 0,
            device_flag: DeviceFlag(r.u8("device_flag")?),
            client_timestamp_ms: r.i64("client_timestamp_ms")?,
            device_id: r.text("device_id")?,
            uid: r.text("uid")?,
            token: r.text("token")?,
            client_key: r.text("client_key")?,
            peer: r.text("peer")?,
        })
    }
}

/// An authenticated connection, as the registry of the gateway holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Negotiated version, 0..=6.
    pub version: u8,
    /// True: JSON-RPC.
    pub json: bool,
    /// True: payloads are encrypted with the keys below.
    pub encrypted: bool,
    /// True: a JSON-RPC client that spells keys in `snake_case`.
    pub snake_case: bool,
    /// Device class.
    pub device_flag: DeviceFlag,
    /// Level.
    pub device_level: DeviceLevel,
    /// AES-128 key.
    pub aes_key: [u8; 16],
    /// AES-CBC initial vector (the salt).
    pub aes_iv: [u8; 16],
    /// Monotonic ms of the node at login.
    pub since_ms: u64,
    /// User.
    pub uid: &'a str,
    /// Device.
    pub device_id: &'a str,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("conn", &self.conn).field("uid", &self.uid).field("version", &self.version).finish_non_exhaustive()
    }
}

impl<'a> Body<'a> for Session<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u8(self.version);
        out.put_u8(u8::from(self.json) | u8::from(self.encrypted) << 1 | u8::from(self.snake_case) << 2);
        out.put_u8(self.device_flag.0);
        out.put_u8(self.device_level.0);
        out.put_slice(&self.aes_key);
        out.put_slice(&self.aes_iv);
        out.put_u64_le(self.since_ms);
        put_text(out, self.uid);
        put_text(out, self.device_id);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let conn = ConnId(r.u64("conn")?);
        let version = r.u8("version")?;
        let bits = r.u8("bits")?;
        Ok(Self {
            conn,
            version,
            json: bits & 1 != 0,
            encrypted: bits & 2 != 0,
            snake_case: bits & 4 != 0,
            device_flag: DeviceFlag(r.u8("device_flag")?),
            device_level: DeviceLevel(r.u8("device_level")?),
            aes_key: r.array("aes_key")?,
            aes_iv: r.array("aes_iv")?,
            since_ms: r.u64("since_ms")?,
            uid: r.text("uid")?,
            device_id: r.text("device_id")?,
        })
    }
}

/// A connection that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Its user.
    pub uid: &'a str,
}

impl<'a> Body<'a> for Closed<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        put_text(out, self.uid);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self { conn: ConnId(r.u64("conn")?), uid: r.text("uid")? })
    }
}

/// The user worker's answer to a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connack<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Success, or why not (then the gateway writes the CONNACK and closes).
    pub reason: Reason,
    /// Level, on success.
    pub device_level: DeviceLevel,
    /// Keys are agreed on.
    pub encrypted: bool,
    /// Server ms minus client ms.
    pub time_diff_ms: i64,
    /// AES-128 key; zero without encryption.
    pub aes_key: [u8; 16],
    /// AES-CBC initial vector; zero without encryption.
    pub aes_iv: [u8; 16],
    /// Base64 of the server's public key, or empty.
    pub server_key: &'a str,
    /// 16 characters, or empty.
    pub salt: &'a str,
}

impl std::fmt::Debug for Connack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connack").field("conn", &self.conn).field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<'a> Body<'a> for Connack<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u8(self.reason.0);
        out.put_u8(self.device_level.0);
        out.put_u8(u8::from(self.encrypted));
        out.put_i64_le(self.time_diff_ms);
        out.put_slice(&self.aes_key);
        out.put_slice(&self.aes_iv);
        put_text(out, self.server_key);
        put_text(out, self.salt);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            conn: ConnId(r.u64("conn")?),
            reason: Reason(r.u8("reason")?),
            device_level: DeviceLevel(r.u8("device_level")?),
            encrypted: r.u8("encrypted")? != 0,
            time_diff_ms: r.i64("time_diff_ms")?,
            aes_key: r.array("aes_key")?,
            aes_iv: r.array("aes_iv")?,
            server_key: r.text("server_key")?,
            salt: r.text("salt")?,
        })
    }
}

/// Close a connection, after a while and perhaps with a DISCONNECT first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kick<'a> {
    /// Connection.
    pub conn: ConnId,
    /// Send DISCONNECT with this reason and text first.
    pub disconnect: Option<Reason>,
    /// Text of the DISCONNECT.
    pub text: &'a str,
    /// The gateway closes after this. Unit: ms; 0: at once.
    pub close_after_ms: u32,
}

impl<'a> Body<'a> for Kick<'a> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.conn.0);
        out.put_u8(self.disconnect.map_or(0, |r| r.0));
        out.put_u32_le(self.close_after_ms);
        put_text(out, self.text);
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let conn = ConnId(r.u64("conn")?);
        let reason = r.u8("reason")?;
        Ok(Self {
            conn,
            disconnect: (reason != 0).then_some(Reason(reason)),
            close_after_ms: r.u32("close_after_ms")?,
            text: r.text("text")?,
        })
    }
}
