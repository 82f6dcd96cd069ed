//! Session registry: which connections have a CONNECT under way or are authenticated, and with which keys.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use wk_link::item;
use wk_types::{Bucket, ConnId, DeviceFlag, DeviceLevel};
use wk_wire::Version;
use wk_wire::jsonrpc::{Dialect, Id};

use crate::exchange::{At, Login};

/// How far the hub has come with a connection.
#[derive(Debug)]
pub enum State {
    /// CONNECT was handed to the user worker.
    Waiting {
        /// JSON-RPC: id of the request.
        id: Option<Id>,
    },
    /// Accepted by the user worker, told to the push worker; the CONNACK waits for its receipt.
    Registering {
        /// The CONNACK, encoded.
        connack: Bytes,
    },
    /// Authenticated, CONNACK on its way or written.
    Open,
    /// The CONNECT was refused; the connection is about to end.
    Refused,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    /// Where it lives.
    pub at: At,
    /// State.
    pub state: State,
    /// User.
    pub uid: Box<str>,
    /// Bucket of the uid.
    pub bucket: Bucket,
    /// Device.
    pub device_id: Box<str>,
    /// Device class.
    pub device_flag: DeviceFlag,
    /// Level, after login.
    pub device_level: DeviceLevel,
    /// Negotiated version.
    pub version: Version,
    /// JSON-RPC.
    pub json: bool,
    /// Spelling of keys.
    pub dialect: Dialect,
    /// Payloads are encrypted.
    pub encrypted: bool,
    /// AES-128 key; zero without encryption.
    pub aes_key: [u8; 16],
    /// AES-CBC initial vector.
    pub aes_iv: [u8; 16],
    /// Monotonic ms of the login.
    pub since_ms: u64,
}

impl Session {
    /// A session of a CONNECT that is being handed over.
    #[must_use]
    pub fn of(login: &mut Login) -> Self {
        Self {
            at: login.at,
            state: State::Waiting { id: login.id.take() },
            uid: login.connect.uid.as_str().into(),
            bucket: login.bucket,
            device_id: login.connect.device_id.as_str().into(),
            device_flag: login.connect.device_flag,
            device_level: DeviceLevel::SLAVE,
            version: login.version,
            json: login.json,
            dialect: login.dialect,
            encrypted: false,
            aes_key: [0; 16],
            aes_iv: [0; 16],
            since_ms: 0,
        }
    }

    /// Accepted by the user worker.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        matches!(self.state, State::Registering { .. } | State::Open)
    }

    /// As the push and user workers hear of it.
    #[must_use]
    pub fn item(&self) -> item::Session<'_> {
        item::Session {
            conn: self.at.conn,
            version: self.version.get(),
            json: self.json,
            encrypted: self.encrypted,
            snake_case: self.dialect == Dialect::Both,
            device_flag: self.device_flag,
            device_level: self.device_level,
            aes_key: self.aes_key,
            aes_iv: self.aes_iv,
            since_ms: self.since_ms,
            uid: &self.uid,
            device_id: &self.device_id,
        }
    }
}

/// All of them.
pub type Registry = HashMap<ConnId, Session, BuildHasherDefault<NumberHasher>>;

/// Hashes numbers that nobody outside can choose freely (connection and message ids of our own making): one multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The map takes its bucket from the low bits and its tag from the high ones: both must depend on every bit.
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number.cast_unsigned());
    }
}
