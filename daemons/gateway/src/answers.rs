//! Answers to clients as bytes: the hub knows fields, a connection knows its version and its language.

use bytes::{BufMut, Bytes, BytesMut};
use wk_link::item;
use wk_types::Reason;
use wk_wire::jsonrpc::{Id, notices, results};
use wk_wire::{Connack, Disconnect, Sendack, encode};

use crate::config::Settings;
use crate::session::Session;

/// Size of a chunk of encoded answers. Unit: bytes.
const CHUNK_BYTES: usize = 16 << 10;

/// Makes many small byte strings out of few allocations.
#[derive(Debug, Default)]
pub struct Chunks {
    chunk: BytesMut,
}

impl Chunks {
    /// The bytes as a slice of a shared chunk.
    pub fn put(&mut self, bytes: &[u8]) -> Bytes {
        if self.chunk.capacity() < bytes.len() {
            self.chunk = BytesMut::with_capacity(CHUNK_BYTES.max(bytes.len()));
        }
        self.chunk.put_slice(bytes);
        self.chunk.split().freeze()
    }
}

/// Appends the answer to an accepted CONNECT; nothing for a JSON-RPC notification.
pub fn connack(out: &mut Vec<u8>, session: &Session, id: Option<&Id>, connack: &item::Connack<'_>, settings: &Settings) {
    let frame = Connack {
        server_version: session.version.get(),
        time_diff: connack.time_diff_ms,
        reason: connack.reason,
        server_key: connack.server_key.to_owned(),
        salt: connack.salt.to_owned(),
        node_id: u64::from(settings.node.0),
    };
    match (session.json, id) {
        (true, Some(id)) => results::connect(out, id, &frame, session.dialect),
        (true, None) => {}
        (false, _) => {
            if let Err(err) = encode::connack(out, &frame, session.version) {
                tracing::error!(%err, "connack was not encoded");
            }
        }
    }
}

/// Appends the answer to a SEND; nothing for a JSON-RPC notification.
pub fn sendack(out: &mut Vec<u8>, session: &Session, id: Option<&Id>, sendack: &Sendack<'_>) {
    match (session.json, id) {
        (true, Some(id)) => results::send(out, id, sendack, session.dialect),
        (true, None) => {}
        (false, _) if encode::sendack(out, sendack, session.version).is_err() => {
            // A number that is too long (only version 6 echoes it) is left out: the client matches by its counter too.
            let short = Sendack { client_msg_no: "", ..*sendack };
            if let Err(err) = encode::sendack(out, &short, session.version) {
                tracing::error!(%err, "sendack was not encoded");
            }
        }
        (false, _) => {}
    }
}

/// Appends a DISCONNECT.
pub fn disconnect(out: &mut Vec<u8>, session: &Session, reason: Reason, text: &str) {
    let disconnect = Disconnect { reason, text: text.to_owned() };
    if session.json {
        notices::disconnect(out, &disconnect, session.dialect);
    } else if let Err(err) = encode::disconnect(out, &disconnect, session.version) {
        tracing::error!(%err, "disconnect was not encoded");
    }
}
