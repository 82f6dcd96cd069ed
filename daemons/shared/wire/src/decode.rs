//! Bodies of frames, both directions (§6). Bytes after the last field are ignored.

use wk_types::{ChannelType, DeviceFlag, Reason};

use crate::reader::Reader;
use crate::{
    Connack, Connect, Disconnect, Event, Flags, FrameError, FrameHead, FrameType, RecvRef, Recvack, SendRef, Sendack, Setting, StreamRef,
    Sub, SubAction, Suback, Version,
};

/// A frame from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// Login.
    Connect(Connect),
    /// Message.
    Send(SendRef<'a>),
    /// Receipt of a RECV.
    Recvack(Recvack),
    /// Heartbeat.
    Ping,
    /// Farewell: close quietly.
    Disconnect(Disconnect),
    /// Subscription.
    Sub(Sub),
    /// A frame that only servers send. It is ignored, and its body was not looked at (§8.5).
    Ignored(FrameType),
}

/// A frame from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// Result of the login.
    Connack(Connack),
    /// Result of a SEND.
    Sendack(Sendack<'a>),
    /// Message.
    Recv(RecvRef<'a>),
    /// Answer to PING.
    Pong,
    /// Kick.
    Disconnect(Disconnect),
    /// Result of a SUB.
    Suback(Suback),
    /// Event.
    Event(Event<'a>),
    /// A frame that only clients send; its body was not looked at.
    Ignored(FrameType),
}

/// Reads the body of a frame that a client sent. `version` is the negotiated one; CONNECT does not depend on it.
///
/// # Errors
///
/// A body shorter than its fields, or a string that is not UTF-8. The connection cannot continue (§8.7).
pub fn decode_client<'a>(head: &FrameHead, body: &'a [u8], version: Version) -> Result<ClientFrame<'a>, FrameError> {
    let reader = Reader::new(body);
    Ok(match head.kind {
        FrameType::Connect => ClientFrame::Connect(connect(reader)?),
        FrameType::Send => ClientFrame::Send(send(reader, head.flags, version)?),
        FrameType::Recvack => ClientFrame::Recvack(recvack(reader, head.flags, version)?),
        FrameType::Ping => ClientFrame::Ping,
        FrameType::Disconnect => ClientFrame::Disconnect(disconnect(reader)?),
        FrameType::Sub => ClientFrame::Sub(sub(reader)?),
        other @ (FrameType::Connack | FrameType::Sendack | FrameType::Recv | FrameType::Pong | FrameType::Suback | FrameType::Event) => {
            ClientFrame::Ignored(other)
        }
    })
}

/// Reads the body of a frame that a server sent; for clients. `version` is the one the client stated, or the server's if that is lower.
///
/// # Errors
///
/// As [`decode_client`].
pub fn decode_server<'a>(head: &FrameHead, body: &'a [u8], version: Version) -> Result<ServerFrame<'a>, FrameError> {
    let reader = Reader::new(body);
    Ok(match head.kind {
        FrameType::Connack => ServerFrame::Connack(connack(reader, head.flags)?),
        FrameType::Sendack => ServerFrame::Sendack(sendack(reader, head.flags, version)?),
        FrameType::Recv => ServerFrame::Recv(recv(reader, head.flags, version)?),
        FrameType::Pong => ServerFrame::Pong,
        FrameType::Disconnect => ServerFrame::Disconnect(disconnect(reader)?),
        FrameType::Suback => ServerFrame::Suback(suback(reader)?),
        FrameType::Event => ServerFrame::Event(event(reader)?),
        other @ (FrameType::Connect | FrameType::Send | FrameType::Recvack | FrameType::Ping | FrameType::Sub) => {
            ServerFrame::Ignored(other)
        }
    })
}

fn connect(mut r: Reader<'_>) -> Result<Connect, FrameError> {
    Ok(Connect {
        version: r.u8("version")?,
        device_flag: DeviceFlag(r.u8("deviceFlag")?),
        device_id: r.str("deviceId")?.to_owned(),
        uid: r.str("uid")?.to_owned(),
        token: r.str("token")?.to_owned(),
        client_timestamp: r.i64("clientTimestamp")?,
        client_key: r.str("clientKey")?.to_owned(),
    })
}

/// The flag bit decides about the server version and about the node id: they always come together (§6.2).
fn connack(mut r: Reader<'_>, flags: Flags) -> Result<Connack, FrameError> {
    let full = flags.has_server_version();
    Ok(Connack {
        server_version: if full { r.u8("serverVersion")? } else { 0 },
        time_diff: r.i64("timeDiff")?,
        reason: Reason(r.u8("reasonCode")?),
        server_key: r.str("serverKey")?.to_owned(),
        salt: r.str("salt")?.to_owned(),
        node_id: if full { r.u64("nodeId")? } else { 0 },
    })
}

fn send(mut r: Reader<'_>, flags: Flags, version: Version) -> Result<SendRef<'_>, FrameError> {
    let setting = Setting::from_byte(r.u8("setting")?);
    let stream = version.has_stream_fields() && setting.stream();
    Ok(SendRef {
        flags,
        setting,
        client_seq: r.u32("clientSeq")?,
        client_msg_no: r.str("clientMsgNo")?,
        stream_no: if stream { r.str("streamNo")? } else { "" },
        channel_id: r.str("channelId")?,
        channel_type: ChannelType(r.u8("channelType")?),
        expire: if version.has_expire() { r.u32("expire")? } else { 0 },
        msg_key: r.str("msgKey")?,
        topic: if setting.topic() { r.str("topic")? } else { "" },
        payload: r.rest(),
    })
}

fn sendack(mut r: Reader<'_>, flags: Flags, version: Version) -> Result<Sendack<'_>, FrameError> {
    let wide = version.has_wide_seq();
    Ok(Sendack {
        flags,
        message_id: r.i64("messageId")?,
        client_seq: r.u32("clientSeq")?,
        message_seq: r.seq("messageSeq", wide)?,
        reason: Reason(r.u8("reasonCode")?),
        client_msg_no: if wide && !r.is_empty() { r.str("clientMsgNo")? } else { "" },
    })
}

fn recv(mut r: Reader<'_>, flags: Flags, version: Version) -> Result<RecvRef<'_>, FrameError> {
    let setting = Setting::from_byte(r.u8("setting")?);
    let stream = version.has_stream_fields() && setting.stream();
    Ok(RecvRef {
        flags,
        setting,
        msg_key: r.str("msgKey")?,
        from_uid: r.str("fromUid")?,
        channel_id: r.str("channelId")?,
        channel_type: ChannelType(r.u8("channelType")?),
        expire: if version.has_expire() { r.u32("expire")? } else { 0 },
        client_msg_no: r.str("clientMsgNo")?,
        stream: if stream {
            StreamRef { flag: r.u8("streamFlag")?, no: r.str("streamNo")?, id: r.u64("streamId")? }
        } else {
            StreamRef::default()
        },
        message_id: r.i64("messageId")?,
        message_seq: r.seq("messageSeq", version.has_wide_seq())?,
        timestamp: r.i32("timestamp")?,
        topic: if setting.topic() { r.str("topic")? } else { "" },
        payload: r.rest(),
    })
}

fn recvack(mut r: Reader<'_>, flags: Flags, version: Version) -> Result<Recvack, FrameError> {
    Ok(Recvack { flags, message_id: r.i64("messageId")?, message_seq: r.seq("messageSeq", version.has_wide_seq())? })
}

fn disconnect(mut r: Reader<'_>) -> Result<Disconnect, FrameError> {
    Ok(Disconnect { reason: Reason(r.u8("reasonCode")?), text: r.str("reason")?.to_owned() })
}

fn sub(mut r: Reader<'_>) -> Result<Sub, FrameError> {
    Ok(Sub {
        setting: Setting::from_byte(r.u8("setting")?),
        sub_no: r.str("subNo")?.to_owned(),
        channel_id: r.str("channelId")?.to_owned(),
        channel_type: ChannelType(r.u8("channelType")?),
        action: SubAction(r.u8("action")?),
        param: r.str("param")?.to_owned(),
    })
}

fn suback(mut r: Reader<'_>) -> Result<Suback, FrameError> {
    Ok(Suback {
        sub_no: r.str("subNo")?.to_owned(),
        channel_id: r.str("channelId")?.to_owned(),
        channel_type: ChannelType(r.u8("channelType")?),
        action: SubAction(r.u8("action")?),
        reason: Reason(r.u8("reasonCode")?),
    })
}

fn event(mut r: Reader<'_>) -> Result<Event<'_>, FrameError> {
    Ok(Event { id: r.str("id")?, kind: r.str("type")?, timestamp: r.i64("timestamp")?, data: r.rest() })
}
