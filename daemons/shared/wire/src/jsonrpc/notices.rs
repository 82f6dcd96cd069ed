//! Notifications to clients (§14.5). Each function appends one JSON object, which never has an `id`.

use super::Dialect;
use super::results::header;
use super::write::{self, Writer};
use crate::{Disconnect, Event, RecvRef, Setting};

/// A message. `x.payload` is clear; `x.msg_key` is not used. `header` is always there: some SDKs require it.
pub fn recv(out: &mut Vec<u8>, x: &RecvRef<'_>, dialect: Dialect) {
    out.reserve(x.payload.len() / 3 * 4 + 512);
    notice(out, "recv", dialect, |w| {
        header(w, x.flags);
        setting_if(w, x.setting);
        w.int_if("expire", x.expire);
        w.id("messageId", x.message_id);
        w.int("messageSeq", x.message_seq);
        w.str_if("clientMsgNo", x.client_msg_no);
        w.str_if("streamNo", x.stream.no);
        if x.stream.id != 0 {
            w.id("streamId", x.stream.id);
        }
        w.int_if("streamFlag", x.stream.flag);
        w.int("timestamp", x.timestamp);
        w.str("channelId", x.channel_id);
        w.int("channelType", x.channel_type.0);
        w.str_if("topic", x.topic);
        w.str("fromUid", x.from_uid);
        w.b64("payload", x.payload);
    });
}

/// An event. `data` becomes a string that holds the JSON text. Neither id nor type may be empty (§6.9): the caller checks.
pub fn event(out: &mut Vec<u8>, x: &Event<'_>, dialect: Dialect) {
    let data = String::from_utf8_lossy(x.data);
    notice(out, "event", dialect, |w| {
        w.str("id", x.id);
        w.str("type", x.kind);
        w.int("timestamp", x.timestamp);
        w.str("data", &data);
    });
}

/// A kick. Close after it, with the delay of §8.4.
pub fn disconnect(out: &mut Vec<u8>, x: &Disconnect, dialect: Dialect) {
    notice(out, "disconnect", dialect, |w| {
        w.int("reasonCode", x.reason.0);
        w.str_if("reason", &x.text);
    });
}

fn notice(out: &mut Vec<u8>, method: &str, dialect: Dialect, params: impl Fn(&mut Writer<'_>)) {
    write::object(out, dialect, |w| {
        w.str("jsonrpc", "2.0");
        w.str("method", method);
        w.object("params", params);
    });
}

fn setting_if(w: &mut Writer<'_>, setting: Setting) {
    let shown = [("receipt", setting.receipt()), ("signal", setting.signal()), ("stream", setting.stream()), ("topic", setting.topic())];
    if shown.iter().any(|(_, on)| *on) {
        w.object("setting", |w| {
            for (key, on) in shown {
                w.bool_if(key, on);
            }
        });
    }
}
