//! Decisions about messages that the backend sends.

use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use wk_link::item::{Body as _, ChannelSend, Receivers};
use wk_link::record::Message;
use wk_types::channel::{CMD_SUFFIX, ONLINE_CMD_CHANNEL, SYSTEM_DEVICE_ID, has_special_chars, internal_id, person_parts};
use wk_types::limits::{ID_BYTES_MAX, PAYLOAD_BYTES_MAX};
use wk_types::{ChannelKey, ChannelType, ConnId, MessageId, SYSTEM_UID};

use crate::backend::{Backend, BackendError};
use crate::channels::set_temporary;
use crate::dto::{MessageSend, MessageSendBatch, SendHeader, Sent, SentBatch, SentMessage, Status};
use crate::error::ApiError;
use crate::limits::{COMMAND_RECEIVERS_BYTES, SENDBATCH_PARALLEL};
use crate::text::{fnv1a64, hex};
use crate::users::internal;

const CANNOT: &str = "无法处理发送消息请求！";
const ID_ILLEGAL: &str = "频道ID不合法！";
const PAYLOAD_EMPTY: &str = "payload不能为空！";
const PAYLOAD_LARGE: &str = "payload过大！";
const NOT_SETTLED: &str = "发送消息超时！";
const BUSY: &str = "系统繁忙，请稍后重试！";

/// Bit of the setting byte: stream message.
const SETTING_STREAM: u8 = 0x02;

const _: () = assert!(!SYSTEM_DEVICE_ID.is_empty(), "a ChannelSend with system_device stands for this device");

/// Answer of `/message/send`.
#[derive(Debug, PartialEq, Eq)]
pub enum SendAnswer {
    /// To a channel.
    Channel(Sent),
    /// To a list of users.
    Subscribers(Status),
}

/// One message that is ready to go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outgoing {
    channel: ChannelKey,
    /// Id as the sender named it, when it cannot be derived.
    named: String,
    flags: u8,
    setting: u8,
    expire: u32,
    from_uid: String,
    client_msg_no: String,
    payload: Vec<u8>,
}

/// What a request to `/message/send` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Channel(Outgoing),
    /// A stored command to these users, through a temporary channel with this base id.
    Subscribers {
        temporary: String,
        members: Vec<String>,
        message: Outgoing,
    },
    /// A command to those of these users who are online, through the channel for that.
    Online {
        receivers: Vec<String>,
        message: Outgoing,
    },
}

/// `POST /message/send`. Answers when the message is settled: stored or refused (COMPAT: both are 200).
///
/// # Errors
/// [`ApiError`] for an illegal request, or when the message was not settled in time; it may still be stored then.
pub async fn send(backend: &dyn Backend, request: MessageSend) -> Result<SendAnswer, ApiError> {
    let own_number = !request.client_msg_no.trim().is_empty();
    match plan(request)? {
        Plan::Channel(message) => {
            let message_id = hand_over(backend, &message, &[&[]]).await.map_err(|err| not_settled(&err))?;
            let message_id = if own_number { first_id(backend, &message, message_id).await } else { message_id };
            let data = SentMessage { client_msg_no: message.client_msg_no, message_id };
            Ok(SendAnswer::Channel(Sent { status: 200, data }))
        }
        Plan::Subscribers { temporary, members, message } => {
            set_temporary(backend, &temporary, &members).await?;
            hand_over(backend, &message, &[&[]]).await.map_err(|err| not_settled(&err))?;
            Ok(SendAnswer::Subscribers(Status::OK))
        }
        Plan::Online { receivers, message } => {
            hand_over(backend, &message, &parts(&receivers)).await.map_err(|err| not_settled(&err))?;
            Ok(SendAnswer::Subscribers(Status::OK))
        }
    }
}

/// `POST /message/sendbatch`: one person message per user; an illegal user fails alone.
///
/// # Errors
/// [`ApiError`] for an illegal request.
pub async fn send_batch(backend: &dyn Backend, request: MessageSendBatch) -> Result<SentBatch, ApiError> {
    let refuse = |text| Err(ApiError::text(text));
    if request.from_uid.trim().is_empty() {
        return refuse("from_uid不能为空！");
    }
    if request.subscribers.is_empty() {
        return refuse("subscribers不能为空！");
    }
    if request.payload.0.is_empty() {
        return refuse(PAYLOAD_EMPTY);
    }
    let one = |uid: &str| MessageSend {
        header: request.header.clone(),
        from_uid: request.from_uid.clone(),
        channel_id: uid.to_owned(),
        channel_type: ChannelType::PERSON.0,
        payload: request.payload.clone(),
        ..MessageSend::default()
    };
    let sends = request.subscribers.iter().cloned().map(|uid| {
        let message = one(&uid);
        async move {
            let sent = send(backend, message).await;
            (uid, sent.err())
        }
    });
    let results: Vec<_> = stream::iter(sends).buffered(SENDBATCH_PARALLEL).collect().await;
    let mut answer = SentBatch::default();
    for (uid, err) in results.into_iter().filter_map(|(uid, err)| Some((uid, err?))) {
        answer.fail_uids.push(uid);
        answer.reason.push(err.to_string());
    }
    Ok(answer)
}

/// Checks a request in the order of the original and builds internal ids.
fn plan(request: MessageSend) -> Result<Plan, ApiError> {
    let refuse = |text| Err(ApiError::text(text));
    if request.payload.0.is_empty() {
        return refuse(PAYLOAD_EMPTY);
    }
    let has_channel = !request.channel_id.trim().is_empty();
    let has_members = !request.subscribers.is_empty();
    // Exactly one of the two, and only a command goes to a list of users.
    if has_channel == has_members || has_members && request.header.sync_once != 1 {
        return refuse(CANNOT);
    }
    if request.payload.0.len() > PAYLOAD_BYTES_MAX {
        return refuse(PAYLOAD_LARGE);
    }
    let from_uid = if request.from_uid.trim().is_empty() { SYSTEM_UID.to_owned() } else { request.from_uid };
    if from_uid.len() > ID_BYTES_MAX || request.client_msg_no.len() > ID_BYTES_MAX || request.channel_id.len() > ID_BYTES_MAX {
        return refuse(ID_ILLEGAL);
    }
    // The caller's number belongs to the channel form; commands to users get one of their own.
    let own_number = has_channel && !request.client_msg_no.trim().is_empty();
    let client_msg_no = if own_number { request.client_msg_no } else { fresh_number() };
    let mut message = Outgoing {
        channel: ChannelKey::new("", ChannelType::TEMP),
        named: String::new(),
        flags: flags(&request.header),
        setting: if request.is_stream == 1 { SETTING_STREAM } else { 0 },
        expire: request.expire,
        from_uid,
        client_msg_no,
        payload: request.payload.0,
    };
    if has_channel {
        let (channel, named) =
            channel_of(&request.channel_id, ChannelType(request.channel_type), &message.from_uid, request.header.sync_once == 1)?;
        message.channel = channel;
        message.named = named;
        return Ok(Plan::Channel(message));
    }
    if request.header.no_persist == 1 {
        message.channel = ChannelKey::new(ONLINE_CMD_CHANNEL, ChannelType::TEMP);
        return Ok(Plan::Online { receivers: receivers(request.subscribers), message });
    }
    let temporary = fnv1a64(request.subscribers.join(",").as_bytes()).to_string();
    message.channel = ChannelKey::new(format!("{temporary}{CMD_SUFFIX}"), ChannelType::TEMP);
    Ok(Plan::Subscribers { temporary, members: request.subscribers, message })
}

/// Each user once, in order. Nobody is logged in with an empty or overlong uid.
fn receivers(subscribers: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    subscribers.into_iter().filter(|uid| !uid.is_empty() && uid.len() <= ID_BYTES_MAX && seen.insert(uid.clone())).collect()
}

/// Receivers of each item that carries a command: in order, bounded in bytes. No receivers: no item.
fn parts(receivers: &[String]) -> Vec<&[String]> {
    let mut parts = Vec::new();
    let (mut rest, mut end, mut bytes) = (receivers, 0, 0);
    while let Some(uid) = rest.get(end) {
        bytes += uid.len();
        end += 1;
        if bytes > COMMAND_RECEIVERS_BYTES || end == rest.len() {
            let (part, others) = rest.split_at(end);
            parts.push(part);
            (rest, end, bytes) = (others, 0, 0);
        }
    }
    parts
}

/// Internal channel of a send, and the id as the sender named it when it cannot be derived.
fn channel_of(named: &str, kind: ChannelType, from_uid: &str, sync_once: bool) -> Result<(ChannelKey, String), ApiError> {
    // The pair's id of an agent channel holds an `@` of its own: that is how an agent answers (semantics.md §1).
    let is_pair = kind == ChannelType::AGENT && person_parts(named).is_some_and(|(a, b)| a == from_uid || b == from_uid);
    if has_special_chars(named) && !is_pair {
        return Err(ApiError::text(ID_ILLEGAL));
    }
    let mut id = internal_id(kind, named, from_uid).into_owned();
    let own_log = kind != ChannelType::TEMP && named != ONLINE_CMD_CHANNEL;
    if sync_once && own_log && !id.ends_with(CMD_SUFFIX) {
        id.push_str(CMD_SUFFIX);
    }
    let underived = if kind == ChannelType::AGENT { named.to_owned() } else { String::new() };
    Ok((ChannelKey::new(id, kind), underived))
}

/// Header flags as the log holds them: 1 noPersist, 2 redDot, 4 syncOnce. Only the value 1 sets one.
fn flags(header: &SendHeader) -> u8 {
    u8::from(header.no_persist == 1) | u8::from(header.red_dot == 1) << 1 | u8::from(header.sync_once == 1) << 2
}

/// A number for a message without one: 32 hexadecimal digits and `0`.
fn fresh_number() -> String {
    let mut bytes = [0_u8; 16];
    // Without randomness the number is still a number; the message id stays unique.
    if let Err(err) = getrandom::fill(&mut bytes) {
        tracing::error!(%err, "no randomness for a message number");
    }
    format!("{}0", hex(&bytes))
}

/// Gives the message its id and hands it to the channel's owner, once for each part of its receivers (an empty one: the channel's members);
/// returns when all of it is settled.
async fn hand_over(backend: &dyn Backend, outgoing: &Outgoing, parts: &[&[String]]) -> Result<MessageId, BackendError> {
    let message_id = backend.message_id().await?;
    let bucket = outgoing.channel.bucket();
    try_join_all(parts.iter().map(|receivers| backend.send(bucket, encode(outgoing, message_id, receivers)))).await?;
    Ok(message_id)
}

/// The item for the channel's owner.
fn encode(outgoing: &Outgoing, message_id: MessageId, receivers: &[String]) -> bytes::Bytes {
    let (count, list) = Receivers::encode_list(receivers.iter().map(String::as_str));
    let item = ChannelSend {
        conn: ConnId::NONE,
        accepted_ms: wk_rpc::clock::monotonic_ms(),
        system_device: true,
        channel_type: outgoing.channel.kind,
        channel_id: &outgoing.channel.id,
        named: &outgoing.named,
        receivers: Receivers::new(count, &list),
        message: Message {
            message_id,
            flags: outgoing.flags,
            setting: outgoing.setting,
            expire: outgoing.expire,
            client_seq: 0,
            from_uid: &outgoing.from_uid,
            client_msg_no: &outgoing.client_msg_no,
            topic: "",
            stream_no: "",
            payload: &outgoing.payload,
        },
    };
    let mut body = bytes::BytesMut::with_capacity(256 + outgoing.payload.len() + list.len());
    item.encode(&mut body);
    body.freeze()
}

/// Id of the message that is stored under the caller's number: an earlier one's when this was a repetition with the same payload.
///
/// A failed look is answered with the fresh id: the message itself is settled.
async fn first_id(backend: &dyn Backend, message: &Outgoing, fresh: MessageId) -> MessageId {
    match stored_before(backend, message, fresh).await {
        Ok(Some(first)) => first,
        Ok(None) => fresh,
        Err(err) => {
            tracing::debug!(%err, "stored id was not looked up");
            fresh
        }
    }
}

async fn stored_before(backend: &dyn Backend, message: &Outgoing, fresh: MessageId) -> Result<Option<MessageId>, BackendError> {
    use wk_proto::cluster::v1 as pb;
    let key = pb::StoredKey {
        channel: Some(pb::ChannelRef { id: message.channel.id.to_string(), r#type: message.channel.kind.0.into() }),
        message_id: fresh,
        from_uid: message.from_uid.clone(),
        client_msg_no: message.client_msg_no.clone(),
        payload: Some(message.payload.clone()),
    };
    let query = pb::Query { of: Some(pb::query::Of::Stored(key)) };
    let answer = backend.lookup(vec![query]).await?.pop().unwrap_or_default();
    Ok(Some(answer.message_id).filter(|id| answer.number != 0 && *id != 0))
}

fn not_settled(err: &BackendError) -> ApiError {
    let text = match err {
        BackendError::Congested => BUSY,
        _ => NOT_SETTLED,
    };
    internal(text, err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dto::Blob;

    fn request(channel_id: &str, channel_type: u8) -> MessageSend {
        MessageSend {
            from_uid: "u1".into(),
            channel_id: channel_id.into(),
            channel_type,
            payload: Blob(b"hi".to_vec()),
            ..MessageSend::default()
        }
    }

    fn channel(request: MessageSend) -> Outgoing {
        match plan(request) {
            Ok(Plan::Channel(message)) => message,
            other => unreachable!("{other:?}"),
        }
    }

    fn refused(request: MessageSend) -> String {
        plan(request).unwrap_err().to_string()
    }

    #[test]
    fn internal_ids() {
        assert_eq!(&*channel(request("u2", 1)).channel.id, "u2@u1");
        assert_eq!(&*channel(request("g1", 2)).channel.id, "g1");
        let agent = channel(request("bot", 11));
        assert_eq!((&*agent.channel.id, agent.named.as_str()), ("u1@bot", "bot"));
        assert_eq!(&*channel(request("ann@u1", 11)).channel.id, "ann@u1");
        let system = MessageSend { from_uid: " ".into(), ..request("u1", 1) };
        assert_eq!(&*channel(system).channel.id, "u1@____system");
    }

    #[test]
    fn commands_have_a_channel_of_their_own() {
        let cmd = |id: &str, kind| {
            let header = SendHeader { sync_once: 1, ..SendHeader::default() };
            channel(MessageSend { header, ..request(id, kind) }).channel.id
        };
        assert_eq!(&*cmd("u2", 1), "u2@u1____cmd");
        assert_eq!(&*cmd("g1", 2), "g1____cmd");
        assert_eq!(&*cmd("g1____cmd", 2), "g1____cmd");
        assert_eq!(&*cmd("tmp", 8), "tmp");
        assert_eq!(&*cmd(ONLINE_CMD_CHANNEL, 8), ONLINE_CMD_CHANNEL);
    }

    #[test]
    fn refuses_in_the_order_of_the_original() {
        assert_eq!(refused(MessageSend::default()), "payload不能为空！");
        assert_eq!(refused(request("", 2)), "无法处理发送消息请求！");
        let to_users = |channel: &str, sync_once| MessageSend {
            header: SendHeader { sync_once, ..SendHeader::default() },
            subscribers: vec!["u1".into(), "u2".into()],
            ..request(channel, 0)
        };
        assert_eq!(refused(to_users("", 0)), "无法处理发送消息请求！");
        assert_eq!(refused(to_users("g1", 1)), "无法处理发送消息请求！");
        for id in ["a@b", "a#b", "a&b"] {
            assert_eq!(refused(request(id, 2)), "频道ID不合法！");
        }
        assert_eq!(refused(request("x@y", 11)), "频道ID不合法！");
        assert!(matches!(plan(to_users("", 1)), Ok(Plan::Subscribers { .. })));
    }

    #[test]
    fn a_command_to_users_goes_through_a_temporary_channel() {
        let Ok(Plan::Subscribers { temporary, message, .. }) = plan(command(0)) else { unreachable!("it has subscribers") };
        assert_eq!(temporary, "17922244540036557902");
        assert_eq!(&*message.channel.id, "17922244540036557902____cmd");
        assert_eq!(message.flags, 4);
        assert_ne!(message.client_msg_no, "mine");
    }

    fn command(no_persist: i64) -> MessageSend {
        let header = SendHeader { sync_once: 1, no_persist, ..SendHeader::default() };
        MessageSend { header, client_msg_no: "mine".into(), subscribers: vec!["u1".into(), "u2".into()], ..request("", 0) }
    }

    #[test]
    fn a_command_to_online_users_goes_through_their_channel_and_names_them() {
        let mut request = command(1);
        request.subscribers.extend(["u1".to_owned(), String::new(), "x".repeat(ID_BYTES_MAX + 1)]);
        let Ok(Plan::Online { receivers, message }) = plan(request) else { unreachable!("it is for online users") };
        assert_eq!((&*message.channel.id, message.channel.kind, message.flags), ("systemcmdonline", ChannelType::TEMP, 1 | 4));
        assert_eq!(receivers, ["u1", "u2"]);
        assert_ne!(message.client_msg_no, "mine");
    }

    #[test]
    fn many_receivers_travel_in_bounded_parts() {
        assert_eq!(parts(&[]), [&[] as &[String]; 0]);
        let uids: Vec<String> = (0..10_000).map(|n| format!("{n:0>300}")).collect();
        let parts = parts(&uids);
        assert_eq!(parts.concat(), uids);
        let bytes = |part: &&[String]| part.iter().map(String::len).sum::<usize>();
        assert!(parts.len() > 1 && parts.iter().all(|part| bytes(part) <= COMMAND_RECEIVERS_BYTES + ID_BYTES_MAX));
    }

    #[test]
    fn flags_and_numbers() {
        let header = SendHeader { no_persist: 2, red_dot: 1, sync_once: 0 };
        let message = channel(MessageSend { header, is_stream: 1, ..request("g1", 2) });
        assert_eq!((message.flags, message.setting), (2, 2));
        assert_eq!(message.client_msg_no.len(), 33);
        assert!(message.client_msg_no.ends_with('0'));
        assert_eq!(channel(MessageSend { client_msg_no: "n".into(), ..request("g1", 2) }).client_msg_no, "n");
    }
}
