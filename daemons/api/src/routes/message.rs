//! Routes about messages (`spec/http-api.md` §§6, 7).

use axum::extract::{Query, State};
use wk_types::ChannelType;

use super::channel::ChannelQuery;
use super::{Answer, Api, Raw, ok};
use crate::dto::{MaxSeq, MessageResp, MessageSend, MessageSendBatch, MessageSync, Sent, SentBatch, Status, SyncedMessages, decode};
use crate::error::Problem;
use crate::history;
use crate::sending::{self, SendAnswer};

/// Sends a message to a channel, or a command to a list of users. 200 also when the channel refuses it.
#[utoipa::path(post, path = "/message/send", tag = "message", request_body = MessageSend,
    responses((status = 200, body = Sent), (status = 400, body = Problem)))]
pub(super) async fn send(State(api): State<Api>, Raw(body): Raw) -> Answer {
    match sending::send(&*api.backend, decode(&body)?).await? {
        SendAnswer::Channel(sent) => ok(&sent),
        SendAnswer::Subscribers(status) => ok(&status),
    }
}

/// Sends a person message to each user of a list.
#[utoipa::path(post, path = "/message/sendbatch", tag = "message", request_body = MessageSendBatch,
    responses((status = 200, body = SentBatch), (status = 400, body = Problem)))]
pub(super) async fn send_batch(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&sending::send_batch(&*api.backend, decode(&body)?).await?)
}

/// Messages of a channel, ascending.
#[utoipa::path(post, path = "/channel/messagesync", tag = "message", request_body = MessageSync,
    responses((status = 200, body = SyncedMessages), (status = 400, body = Problem)))]
pub(super) async fn sync(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&history::sync(&*api.backend, decode(&body)?).await?)
}

/// Last sequence of a channel.
#[utoipa::path(get, path = "/channel/max_message_seq", tag = "message", params(ChannelQuery),
    responses((status = 200, body = MaxSeq), (status = 400, body = Problem)))]
pub(super) async fn max_message_seq(State(api): State<Api>, Query(query): Query<ChannelQuery>) -> Answer {
    let kind = ChannelType(query.channel_type());
    let message_seq = history::max_seq(&*api.backend, &query.channel_id, kind, &query.login_uid).await?;
    ok(&MaxSeq { message_seq })
}

/// Last message of a channel, or status 404.
#[utoipa::path(get, path = "/channel/last_message", tag = "message", params(ChannelQuery),
    responses((status = 200, body = MessageResp), (status = 400, body = Problem)))]
pub(super) async fn last_message(State(api): State<Api>, Query(query): Query<ChannelQuery>) -> Answer {
    let kind = ChannelType(query.channel_type());
    match history::last_message(&*api.backend, &query.channel_id, kind, &query.login_uid).await? {
        Some(message) => ok(&message),
        None => ok(&Status::NOT_FOUND),
    }
}
