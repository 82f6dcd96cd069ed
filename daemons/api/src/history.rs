//! Decisions about reading messages (`spec/semantics.md` §8).

use wk_link::record::Stored;
use wk_proto::cluster::v1 as pb;
use wk_types::channel::person_channel_id;
use wk_types::{ChannelKey, ChannelType};

use crate::backend::{Backend, BackendError};
use crate::dto::{MessageResp, MessageSync, SyncedMessages};
use crate::error::ApiError;
use crate::limits::{READ_PAGE_MESSAGES, SYNC_BYTES_MAX, SYNC_LIMIT_MAX};
use crate::users::internal;

const READ_FAILED: &str = "获取消息失败！";

/// A range of a log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// First sequence, at least 1.
    first: u64,
    /// Last sequence, inclusive; 0: up to the end.
    last: u64,
    /// At least 1.
    limit: u64,
    /// The newest of the range, else the oldest.
    newest: bool,
}

/// The page that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    start: u64,
    end: u64,
    /// As asked for, cut to [`SYNC_LIMIT_MAX`]; 0 has a meaning of its own per mode.
    limit: u64,
    up: bool,
}

impl Page {
    fn of(request: &MessageSync) -> Self {
        Self {
            start: request.start_message_seq,
            end: request.end_message_seq,
            limit: u64::try_from(request.limit).unwrap_or(0).min(SYNC_LIMIT_MAX),
            up: request.pull_mode == 1,
        }
    }

    /// What to read; `None`: nothing.
    fn range(self) -> Option<Range> {
        if self.start == 0 && self.end == 0 {
            return Some(Range { first: 1, last: 0, limit: self.limit, newest: true }).filter(|r| r.limit > 0);
        }
        if self.up {
            let first = self.start.max(1);
            let last = self.end.saturating_sub(1);
            if self.end > 0 && last < first {
                return None;
            }
            let limit = if self.limit == 0 { SYNC_LIMIT_MAX } else { self.limit };
            return Some(Range { first, last, limit, newest: false });
        }
        // Nothing older than `start` is newer than `end`.
        if self.end >= self.start || self.limit == 0 {
            return None;
        }
        Some(Range { first: self.end + 1, last: self.start, limit: self.limit, newest: true })
    }

    /// COMPAT: "maybe more". A page that is just full says 1, and so does a page without a limit.
    fn more(self, seqs: &[u64]) -> bool {
        let full = u64::try_from(seqs.len()).unwrap_or(u64::MAX) >= self.limit;
        let edge = if self.up { seqs.last() } else { seqs.first() };
        full && !(self.end != 0 && edge == Some(&self.end))
    }
}

/// `POST /channel/messagesync`.
///
/// # Errors
/// [`ApiError`].
pub async fn sync(backend: &dyn Backend, request: MessageSync) -> Result<SyncedMessages, ApiError> {
    if request.channel_id.trim().is_empty() {
        return Err(ApiError::text(ID_EMPTY_LOUD));
    }
    if request.login_uid.trim().is_empty() {
        return Err(ApiError::text("login_uid不能为空！"));
    }
    let kind = ChannelType(request.channel_type);
    let channel = log_of(&request.channel_id, kind, &request.login_uid);
    let page = Page::of(&request);
    let failed = |err: BackendError| internal(READ_FAILED, &err);
    let (messages, last_seq, cut) = match page.range() {
        Some(range) => read_range(backend, &channel, range).await.map_err(failed)?,
        None => (Vec::new(), last_seq(backend, &channel).await.map_err(failed)?, false),
    };
    if last_seq == 0 {
        return Ok(SyncedMessages::default());
    }
    let seqs: Vec<u64> = messages.iter().map(|m| m.message_seq).collect();
    let more = cut || page.more(&seqs);
    Ok(SyncedMessages { start_message_seq: page.start, end_message_seq: page.end, more: more.into(), messages })
}

const ID_EMPTY_LOUD: &str = "channel_id不能为空！";
const ID_EMPTY: &str = "channel_id不能为空";
const LOGIN_EMPTY: &str = "login_uid不能为空";

/// `GET /channel/max_message_seq`; 0 for a channel without a log.
///
/// # Errors
/// [`ApiError`].
pub async fn max_seq(backend: &dyn Backend, channel_id: &str, kind: ChannelType, login_uid: &str) -> Result<u64, ApiError> {
    let channel = named_log(channel_id, kind, login_uid, channel_id.contains('@'))?;
    last_seq(backend, &channel).await.map_err(|err| internal(READ_FAILED, &err))
}

/// `GET /channel/last_message`; `None` for a channel without a log.
///
/// # Errors
/// [`ApiError`].
pub async fn last_message(
    backend: &dyn Backend,
    channel_id: &str,
    kind: ChannelType,
    login_uid: &str,
) -> Result<Option<MessageResp>, ApiError> {
    let channel = named_log(channel_id, kind, login_uid, false)?;
    let range = Range { first: 1, last: 0, limit: 1, newest: true };
    let read = read_range(backend, &channel, range).await;
    let (mut messages, _, _) = read.map_err(|err| internal(READ_FAILED, &err))?;
    Ok(messages.pop())
}

/// The log that a query names. `is_internal`: the id of a person channel is given as it is stored.
fn named_log(channel_id: &str, kind: ChannelType, login_uid: &str, is_internal: bool) -> Result<ChannelKey, ApiError> {
    if channel_id.trim().is_empty() {
        return Err(ApiError::text(ID_EMPTY));
    }
    if kind == ChannelType::PERSON && !is_internal {
        if login_uid.trim().is_empty() {
            return Err(ApiError::text(LOGIN_EMPTY));
        }
        return Ok(log_of(channel_id, kind, login_uid));
    }
    Ok(ChannelKey::new(channel_id, kind))
}

fn log_of(channel_id: &str, kind: ChannelType, login_uid: &str) -> ChannelKey {
    if kind == ChannelType::PERSON {
        ChannelKey::new(person_channel_id(login_uid, channel_id), kind)
    } else {
        ChannelKey::new(channel_id, kind)
    }
}

fn reference(channel: &ChannelKey) -> pb::ChannelRef {
    pb::ChannelRef { id: channel.id.to_string(), r#type: channel.kind.0.into() }
}

async fn last_seq(backend: &dyn Backend, channel: &ChannelKey) -> Result<u64, BackendError> {
    let query = pb::Query { of: Some(pb::query::Of::LastSeq(reference(channel))) };
    let answer = backend.lookup(vec![query]).await?.pop().unwrap_or_default();
    match answer.error {
        Some(error) => Err(wk_rpc::CallError::from(error).into()),
        None => Ok(answer.number),
    }
}

/// Messages of a range in ascending order, the log's last sequence, and whether the answer was cut at [`SYNC_BYTES_MAX`].
///
/// Reads page by page, from the end that counts: a page that is too large for one reply is asked for again in halves.
async fn read_range(backend: &dyn Backend, channel: &ChannelKey, range: Range) -> Result<(Vec<MessageResp>, u64, bool), BackendError> {
    let mut rest = range;
    let mut pages: Vec<Vec<MessageResp>> = Vec::new();
    let mut page_limit = READ_PAGE_MESSAGES;
    let (mut last_seq, mut bytes, mut cut) = (0, 0_usize, false);
    while rest.limit > 0 && !cut {
        let limit = u32::try_from(rest.limit).unwrap_or(u32::MAX).min(page_limit);
        let request = pb::ReadRequest { channel: Some(reference(channel)), first: rest.first, last: rest.last, limit, newest: rest.newest };
        let reply = match backend.read(request).await {
            Err(err) if page_limit > 1 && too_large(&err) => {
                page_limit /= 2;
                continue;
            }
            reply => reply?,
        };
        last_seq = last_seq.max(reply.last_seq);
        bytes = bytes.saturating_add(reply.records.len());
        let page = decode_page(channel, &reply.records);
        let (Some(first), Some(last)) = (page.first().map(|m| m.message_seq), page.last().map(|m| m.message_seq)) else { break };
        rest.limit = rest.limit.saturating_sub(u64::try_from(page.len()).unwrap_or(u64::MAX));
        pages.push(page);
        let done = if range.newest { first <= rest.first } else { last >= last_seq || rest.last != 0 && last >= rest.last };
        if done {
            break;
        }
        if range.newest {
            rest.last = first - 1;
        } else {
            rest.first = last + 1;
        }
        cut = rest.limit > 0 && bytes >= SYNC_BYTES_MAX;
    }
    if range.newest {
        pages.reverse();
    }
    Ok((pages.into_iter().flatten().collect(), last_seq, cut))
}

fn too_large(err: &BackendError) -> bool {
    matches!(err, BackendError::Cluster(call) if call.code() == pb::Code::TooLarge)
}

/// Records of a reply; broken ones end the page, and the log says so.
fn decode_page(channel: &ChannelKey, records: &[u8]) -> Vec<MessageResp> {
    match Stored::read_all(records) {
        Ok(stored) => stored.iter().map(|s| MessageResp::new(&channel.id, channel.kind, s)).collect(),
        Err(err) => {
            tracing::error!(%err, ?channel, "records of a read are broken");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests;
