//! Answers to requests (§14.4, §14.6). Each function appends one JSON object.

use super::write::{self, Writer};
use super::{Dialect, ErrorCode, Id, RpcError};
use crate::{Connack, Flags, Sendack, Suback};

/// Answer to a successful `connect`. A refused one is answered with [`refused`].
///
/// `serverKey`, `salt` and `timeDiff` are always there: some SDKs require them.
pub fn connect(out: &mut Vec<u8>, id: &Id, x: &Connack, dialect: Dialect) {
    result(out, id, dialect, |w| {
        w.int("serverVersion", x.server_version);
        w.str("serverKey", &x.server_key);
        w.str("salt", &x.salt);
        w.int("timeDiff", x.time_diff);
        w.int("reasonCode", x.reason.0);
        w.int("nodeId", x.node_id);
    });
}

/// Answer to `send`, on failure too.
pub fn send(out: &mut Vec<u8>, id: &Id, x: &Sendack<'_>, dialect: Dialect) {
    result(out, id, dialect, |w| {
        header_if(w, x.flags);
        w.id("messageId", x.message_id);
        w.int("messageSeq", x.message_seq);
        w.int("reasonCode", x.reason.0);
    });
}

/// Answer to `ping`.
pub fn pong(out: &mut Vec<u8>, id: &Id) {
    empty(out, id);
}

/// The result `{}`: `recvack` with an id, `disconnect` with an id.
pub fn empty(out: &mut Vec<u8>, id: &Id) {
    result(out, id, Dialect::Camel, |_| {});
}

/// Answer to `subscribe` and `unsubscribe`.
pub fn subscription(out: &mut Vec<u8>, id: &Id, x: &Suback, dialect: Dialect) {
    result(out, id, dialect, |w| {
        w.str("subNo", &x.sub_no);
        w.str("channelId", &x.channel_id);
        w.int("channelType", x.channel_type.0);
        w.int("action", x.action.0);
        w.int("reasonCode", x.reason.0);
    });
}

/// Error answer; without an id when the request's could not be read.
pub fn error(out: &mut Vec<u8>, id: Option<&Id>, code: ErrorCode, message: &str) {
    write::object(out, Dialect::Camel, |w| {
        w.str("jsonrpc", "2.0");
        if let Some(id) = id {
            w.member("id", |out| out.extend_from_slice(id.as_json().as_bytes()));
        }
        w.object("error", |w| {
            w.int("code", code.code());
            w.str("message", message);
        });
    });
}

/// The answer to a text that [`super::parse()`] refused; nothing for a notification. Returns whether something was written.
pub fn rpc_error(out: &mut Vec<u8>, x: &RpcError) -> bool {
    if !x.notification {
        error(out, x.id.as_ref(), x.code, x.message);
    }
    !x.notification
}

/// Answer to a refused `connect`: the reason code and its name. Close after it.
pub fn refused(out: &mut Vec<u8>, id: Option<&Id>, reason: wk_types::Reason) {
    error(out, id, ErrorCode::Reason(reason), reason.name());
}

fn result(out: &mut Vec<u8>, id: &Id, dialect: Dialect, body: impl Fn(&mut Writer<'_>)) {
    write::object(out, dialect, |w| {
        w.str("jsonrpc", "2.0");
        w.member("id", |out| out.extend_from_slice(id.as_json().as_bytes()));
        w.object("result", body);
    });
}

fn header_if(w: &mut Writer<'_>, flags: Flags) {
    if !flags.is_none() {
        header(w, flags);
    }
}

/// The member `header` with the flags that are set.
pub(super) fn header(w: &mut Writer<'_>, flags: Flags) {
    w.object("header", |w| {
        w.bool_if("noPersist", flags.no_persist());
        w.bool_if("redDot", flags.red_dot());
        w.bool_if("syncOnce", flags.sync_once());
        w.bool_if("dup", flags.dup());
    });
}
