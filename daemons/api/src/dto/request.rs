//! Bodies of the requests. Flags are the integers 0 and 1.

use super::decode::{Blob, request};

request! {
    /// `POST /user/token`.
    UpdateToken as "UpdateTokenReq" {
        /// User.
        uid: String,
        /// Token for CONNECT.
        token: String,
        /// 0 app, 1 web, 2 pc.
        device_flag: u8,
        /// 0 slave, 1 master.
        device_level: u8,
    }
}

request! {
    /// `POST /user/device_quit`.
    DeviceQuit as "" {
        /// User.
        uid: String,
        /// 0 app, 1 web, 2 pc, -1 all three.
        device_flag: i64,
    }
}

request! {
    /// `POST /channel`.
    ChannelCreate as "channelCreateReq" {
        /// Channel.
        channel_id: String,
        /// Type, not 0 and not 1 with members.
        channel_type: u8,
        /// Large group.
        large: i64,
        /// All sends are refused.
        ban: i64,
        /// All sends are refused, for good.
        disband: i64,
        /// A person may not send.
        send_ban: i64,
        /// Stored only.
        allow_stranger: i64,
        /// 1: drop all members first.
        reset: i64,
        /// Members to add.
        subscribers: Vec<String>,
    }
}

request! {
    /// `POST /channel/info`.
    ChannelInfo as "channelInfoReq" {
        /// Channel; a uid for type 1.
        channel_id: String,
        /// Type.
        channel_type: u8,
        /// Large group.
        large: i64,
        /// All sends are refused; for (uid, 1) also CONNECT.
        ban: i64,
        /// All sends are refused, for good.
        disband: i64,
        /// For (uid, 1): this user may not send.
        send_ban: i64,
        /// Stored only.
        allow_stranger: i64,
    }
}

request! {
    /// `POST /channel/delete`.
    ChannelDelete as "channelDeleteReq" {
        /// Channel.
        channel_id: String,
        /// Type.
        channel_type: u8,
    }
}

request! {
    /// `POST /channel/subscriber_add`.
    SubscriberAdd as "subscriberAddReq" {
        /// Channel.
        channel_id: String,
        /// Type; 0 means group.
        channel_type: u8,
        /// 1: drop all members first.
        reset: i64,
        /// 1 is refused.
        temp_subscriber: i64,
        /// Members to add.
        subscribers: Vec<String>,
    }
}

request! {
    /// `POST /channel/subscriber_remove`.
    SubscriberRemove as "subscriberRemoveReq" {
        /// Channel.
        channel_id: String,
        /// Type.
        channel_type: u8,
        /// Ignored.
        temp_subscriber: i64,
        /// Members to remove.
        subscribers: Vec<String>,
    }
}

request! {
    /// `POST /channel/{subscriber,blacklist,whitelist}_remove_all`.
    ListClear as "channelReq" {
        /// Channel.
        channel_id: String,
        /// Type.
        channel_type: u8,
    }
}

request! {
    /// `POST /channel/blacklist_{add,set,remove}`.
    Denylist as "blacklistReq" {
        /// Channel; a uid for type 1.
        channel_id: String,
        /// Type.
        channel_type: u8,
        /// Users.
        uids: Vec<String>,
    }
}

request! {
    /// `POST /channel/whitelist_{add,set,remove}`.
    Allowlist as "whitelistReq" {
        /// Channel; a uid for type 1.
        channel_id: String,
        /// Type.
        channel_type: u8,
        /// Users.
        uids: Vec<String>,
    }
}

request! {
    /// Flags of a message.
    SendHeader as "MessageHeader" {
        /// 1: not stored.
        no_persist: i64,
        /// 1: counts as unread.
        red_dot: i64,
        /// 1: command message.
        sync_once: i64,
    }
}

request! {
    /// `POST /message/send`.
    MessageSend as "messageSendReq" {
        /// Flags.
        header: SendHeader,
        /// Caller's number; made here when empty.
        client_msg_no: String,
        /// 1: stream message.
        is_stream: i64,
        /// Sender; the system account when empty.
        from_uid: String,
        /// Target; for type 1 the receiver's uid.
        channel_id: String,
        /// Type.
        channel_type: u8,
        /// Unit: s. Stored and echoed.
        expire: u32,
        /// Receivers of a command message, instead of a channel.
        subscribers: Vec<String>,
        /// Base64.
        #[schema(value_type = String, format = Byte)]
        payload: Blob,
        /// Prepared receiver tag.
        tag_key: String,
    }
}

request! {
    /// `POST /message/sendbatch`.
    MessageSendBatch as "" {
        /// Flags.
        header: SendHeader,
        /// Sender.
        from_uid: String,
        /// Receivers: each gets a person message.
        subscribers: Vec<String>,
        /// Base64.
        #[schema(value_type = String, format = Byte)]
        payload: Blob,
    }
}

request! {
    /// `POST /channel/messagesync`.
    MessageSync as "" {
        /// User who reads; makes the internal id of a person channel.
        login_uid: String,
        /// Channel; for type 1 the other user.
        channel_id: String,
        /// Type.
        channel_type: u8,
        /// Where to begin; 0 with `end_message_seq` 0: the newest.
        start_message_seq: u64,
        /// Where to end, exclusive; 0: open.
        end_message_seq: u64,
        /// Messages at most, 10,000 at most.
        limit: i64,
        /// 0: older, 1: newer.
        pull_mode: i64,
        /// `full` or `basic`.
        event_summary_mode: String,
    }
}
