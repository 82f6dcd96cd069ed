//! Routes about channels and their lists (`spec/http-api.md` §5).

use std::borrow::Cow;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Deserialize;
use wk_proto::cluster::v1::List;

use super::{Answer, Api, Raw, ok};
use crate::channels::{self, ListVerb};
use crate::dto::{
    AllowRow, Allowlist, ChannelCreate, ChannelDelete, ChannelInfo, Decode, Denylist, ListClear, Status, SubscriberAdd, SubscriberRemove,
    decode,
};
use crate::error::{ApiError, Problem};

/// COMPAT: some routes put this in front of the decoder's text, some answer only this.
const MALFORMED: &str = "数据格式有误！";

/// Decodes with the decoder's text behind [`MALFORMED`].
fn decode_prefixed<T: Decode>(body: &[u8]) -> Result<T, ApiError> {
    decode(body).map_err(|err| ApiError::Refused(Cow::Owned(format!("{MALFORMED}: {err}"))))
}

/// Creates or overwrites a channel, and adds members.
#[utoipa::path(post, path = "/channel", tag = "channel", request_body = ChannelCreate,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn create(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::create(&*api.backend, decode_prefixed(&body)?).await?)
}

/// Creates or overwrites the flags of a channel, or of a user (type 1).
#[utoipa::path(post, path = "/channel/info", tag = "channel", request_body = ChannelInfo,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn info(State(api): State<Api>, Raw(body): Raw) -> Answer {
    let request = decode(&body).map_err(|_| ApiError::text(MALFORMED))?;
    ok(&channels::put_info(&*api.backend, request).await?)
}

/// Disbands a channel; messages and members stay.
#[utoipa::path(post, path = "/channel/delete", tag = "channel", request_body = ChannelDelete,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn delete(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::delete(&*api.backend, decode_prefixed(&body)?).await?)
}

/// Adds members; creates the channel when it is missing.
#[utoipa::path(post, path = "/channel/subscriber_add", tag = "channel", request_body = SubscriberAdd,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn subscriber_add(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::add_subscribers(&*api.backend, decode_prefixed(&body)?).await?)
}

/// Removes members.
#[utoipa::path(post, path = "/channel/subscriber_remove", tag = "channel", request_body = SubscriberRemove,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn subscriber_remove(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::remove_subscribers(&*api.backend, decode_prefixed(&body)?).await?)
}

/// Removes all members.
#[utoipa::path(post, path = "/channel/subscriber_remove_all", tag = "channel", request_body = ListClear,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn subscriber_remove_all(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::clear_subscribers(&*api.backend, decode_prefixed(&body)?).await?)
}

/// Adds users to the deny list of a channel, or of a user (type 1).
#[utoipa::path(post, path = "/channel/blacklist_add", tag = "deny list", request_body = Denylist,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn blacklist_add(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::denylist(&*api.backend, ListVerb::Add, decode(&body)?).await?)
}

/// Replaces the deny list.
#[utoipa::path(post, path = "/channel/blacklist_set", tag = "deny list", request_body = Denylist,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn blacklist_set(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::denylist(&*api.backend, ListVerb::Set, decode(&body)?).await?)
}

/// Removes users from the deny list.
#[utoipa::path(post, path = "/channel/blacklist_remove", tag = "deny list", request_body = Denylist,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn blacklist_remove(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::denylist(&*api.backend, ListVerb::Remove, decode(&body)?).await?)
}

/// Clears the deny list.
#[utoipa::path(post, path = "/channel/blacklist_remove_all", tag = "deny list", request_body = ListClear,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn blacklist_remove_all(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::clear_denylist(&*api.backend, decode(&body)?).await?)
}

/// Adds users to the allow list of a channel, or of a user (type 1).
#[utoipa::path(post, path = "/channel/whitelist_add", tag = "allow list", request_body = Allowlist,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn whitelist_add(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::allowlist(&*api.backend, ListVerb::Add, decode(&body)?).await?)
}

/// Replaces the allow list.
#[utoipa::path(post, path = "/channel/whitelist_set", tag = "allow list", request_body = Allowlist,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn whitelist_set(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::allowlist(&*api.backend, ListVerb::Set, decode(&body)?).await?)
}

/// Removes users from the allow list.
#[utoipa::path(post, path = "/channel/whitelist_remove", tag = "allow list", request_body = Allowlist,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn whitelist_remove(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::allowlist(&*api.backend, ListVerb::Remove, decode(&body)?).await?)
}

/// Clears the allow list.
#[utoipa::path(post, path = "/channel/whitelist_remove_all", tag = "allow list", request_body = ListClear,
    responses((status = 200, body = Status), (status = 400, body = Problem)))]
pub(super) async fn whitelist_remove_all(State(api): State<Api>, Raw(body): Raw) -> Answer {
    ok(&channels::clear_allowlist(&*api.backend, decode(&body)?).await?)
}

/// A channel in a query.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ChannelQuery {
    /// Channel.
    #[serde(default)]
    pub(super) channel_id: String,
    /// Type; what is not a number is 0.
    #[serde(default)]
    channel_type: String,
    /// User who reads.
    #[serde(default)]
    pub(super) login_uid: String,
}

impl ChannelQuery {
    pub(super) fn channel_type(&self) -> u8 {
        self.channel_type.parse().unwrap_or(0)
    }
}

/// The allow list.
#[utoipa::path(get, path = "/channel/whitelist", tag = "allow list", params(ChannelQuery),
    responses((status = 200, body = Vec<AllowRow>), (status = 400, body = Problem)))]
pub(super) async fn whitelist(State(api): State<Api>, Query(query): Query<ChannelQuery>) -> Answer {
    ok(&channels::read_allowlist(&*api.backend, &query.channel_id, query.channel_type()).await?)
}

/// Members, deny list or allow list of a channel: uids.
#[utoipa::path(get, path = "/cluster/channels/{channel_id}/{channel_type}/{list}", tag = "cluster",
    params(
        ("channel_id" = String, Path, description = "Channel"),
        ("channel_type" = u8, Path, description = "Type"),
        ("list" = String, Path, description = "`subscribers`, `denylist` or `allowlist`"),
    ),
    responses((status = 200, body = Vec<String>), (status = 400, body = Problem), (status = 404)))]
pub(super) async fn members(State(api): State<Api>, Path((id, kind, list)): Path<(String, String, String)>) -> Answer {
    let list = match list.as_str() {
        "subscribers" => List::Subscribers,
        "denylist" => List::Deny,
        "allowlist" => List::Allow,
        _ => return Ok((StatusCode::NOT_FOUND, "404 page not found").into_response()),
    };
    let members = channels::read_list(&*api.backend, list, &id, kind.parse().unwrap_or(0)).await?;
    ok(&members.into_iter().map(|member| member.uid).collect::<Vec<_>>())
}
