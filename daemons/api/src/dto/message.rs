//! A message as backends see it (`spec/http-api.md` §2.6).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use wk_link::record::Stored;
use wk_types::{ChannelType, SYSTEM_UID};

/// Header flags, 0 or 1 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Header {
    /// Not stored.
    pub no_persist: u8,
    /// Counts as unread.
    pub red_dot: u8,
    /// Command message.
    pub sync_once: u8,
}

/// One message. Fields of streams come with a later issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct MessageResp {
    /// Flags.
    pub header: Header,
    /// Setting bits.
    pub setting: u8,
    /// Id; may exceed 2^53.
    pub message_id: i64,
    /// The id as text.
    pub message_idstr: String,
    /// Sender's number.
    pub client_msg_no: String,
    /// Position in the channel's log; 0: not stored.
    pub message_seq: u64,
    /// Sender; empty for the system account.
    pub from_uid: String,
    /// Channel; of a person channel the other user.
    pub channel_id: String,
    /// Type.
    pub channel_type: u8,
    /// Topic.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// Unit: s.
    pub expire: u32,
    /// Stored second since 1970.
    pub timestamp: i32,
    /// Base64.
    #[serde(serialize_with = "base64")]
    #[schema(value_type = String, format = Byte)]
    pub payload: Vec<u8>,
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

impl MessageResp {
    /// A stored message of the channel with this internal id.
    #[must_use]
    pub fn new(channel_id: &str, channel_type: ChannelType, stored: &Stored<'_>) -> Self {
        let message = &stored.message;
        let from_uid = if message.from_uid == SYSTEM_UID { "" } else { message.from_uid };
        let flag = |bit: u8| u8::from(message.flags & bit != 0);
        Self {
            header: Header { no_persist: flag(1), red_dot: flag(2), sync_once: flag(4) },
            setting: message.setting,
            message_id: message.message_id,
            message_idstr: message.message_id.to_string(),
            client_msg_no: message.client_msg_no.to_owned(),
            message_seq: stored.message_seq,
            from_uid: from_uid.to_owned(),
            channel_id: outward_id(channel_id, channel_type, from_uid).to_owned(),
            channel_type: channel_type.0,
            topic: message.topic.to_owned(),
            expire: message.expire,
            timestamp: i32::try_from(stored.timestamp_s).unwrap_or(i32::MAX),
            payload: message.payload.to_vec(),
        }
    }
}

/// COMPAT: of a person channel the last part of the internal id that is not the (blanked) sender, so a message of the system account carries
/// the second half, and the second half of a command channel keeps its suffix.
fn outward_id<'a>(channel_id: &'a str, channel_type: ChannelType, from_uid: &str) -> &'a str {
    if channel_type != ChannelType::PERSON || !channel_id.contains('@') {
        return channel_id;
    }
    channel_id.split('@').rfind(|part| *part != from_uid).unwrap_or(channel_id)
}

#[cfg(test)]
mod tests {
    use wk_link::record::Message;

    use super::*;

    fn message<'a>(from_uid: &'a str, flags: u8, payload: &'a [u8]) -> Stored<'a> {
        let message = Message {
            message_id: 9_007_199_254_740_993,
            flags,
            setting: 0x80,
            expire: 7,
            client_seq: 0,
            from_uid,
            client_msg_no: "no",
            topic: "",
            stream_no: "",
            payload,
        };
        Stored { message_seq: 3, timestamp_s: 1_700_000_000, message }
    }

    #[test]
    fn fields_and_their_order() {
        let resp = MessageResp::new("u2@u1", ChannelType::PERSON, &message("u1", 2, b"hi"));
        assert_eq!(
            serde_json::to_string(&resp).unwrap(),
            r#"{"header":{"no_persist":0,"red_dot":1,"sync_once":0},"setting":128,"message_id":9007199254740993,"message_idstr":"9007199254740993","client_msg_no":"no","message_seq":3,"from_uid":"u1","channel_id":"u2","channel_type":1,"expire":7,"timestamp":1700000000,"payload":"aGk="}"#
        );
    }

    #[test]
    fn channel_of_a_person_message_is_the_other_user() {
        let id = |channel: &str, from: &str| MessageResp::new(channel, ChannelType::PERSON, &message(from, 0, b"")).channel_id;
        assert_eq!(id("u2@u1", "u1"), "u2");
        assert_eq!(id("u2@u1", "u2"), "u1");
        assert_eq!(id("u1@____system", "____system"), "____system");
        assert_eq!(id("u2@u1____cmd", "u2"), "u1____cmd");
        assert_eq!(id("u2@u1____cmd", "u1"), "u1____cmd");
        assert_eq!(id("x@x", "x"), "x@x");
        let group = MessageResp::new("g1____cmd", ChannelType::GROUP, &message("____system", 4, b""));
        assert_eq!((group.channel_id.as_str(), group.from_uid.as_str(), group.header.sync_once), ("g1____cmd", "", 1));
    }
}
