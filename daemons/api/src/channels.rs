//! Decisions about channels: rows, members, deny and allow lists.
//!
//! Everything about (uid, type 1) is owned by the user worker of the uid, all other channels by the channel worker of the channel. Conversations
//! are not touched here: they come with the conversation manager.

use prost::Message as _;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::command::Change;
use wk_types::ChannelType;
use wk_types::channel::{base_id, has_special_chars};
use wk_types::limits::ID_BYTES_MAX;

use crate::backend::{Backend, BackendError};
use crate::dto::{
    AllowRow, Allowlist, ChannelCreate, ChannelDelete, ChannelInfo, Denylist, ListClear, Status, SubscriberAdd, SubscriberRemove,
};
use crate::error::ApiError;
use crate::limits::{CHANGE_MEMBERS_MAX, SCAN_PAGE_MEMBERS};
use crate::text::{fnv1a64, rfc3339, unix_ms};
use crate::users::{INTERNAL, internal};

const ID_EMPTY: &str = "频道ID不能为空！";
const ID_EMPTY_PLAIN: &str = "channel_id不能为空！";
const ID_SPECIAL: &str = "频道ID不能包含特殊字符！";
const TYPE_ZERO: &str = "频道类型不能为0！";
const UIDS_EMPTY: &str = "uids不能为空！";
const MEMBERS_EMPTY: &str = "订阅者不能为空！";
const NOT_PERSON: &str = "个人频道不支持添加订阅者！";
const ID_LONG: &str = "频道ID过长！";

/// A channel as the routes name it: for type 1 the id is a uid.
#[derive(Debug, Clone, Copy)]
struct Target<'a> {
    id: &'a str,
    kind: ChannelType,
}

impl<'a> Target<'a> {
    fn new(id: &'a str, kind: u8) -> Result<Self, ApiError> {
        if id.len() > ID_BYTES_MAX { Err(ApiError::text(ID_LONG)) } else { Ok(Self { id, kind: ChannelType(kind) }) }
    }

    fn is_person(self) -> bool {
        self.kind == ChannelType::PERSON
    }

    fn reference(self) -> pb::ChannelRef {
        pb::ChannelRef { id: self.id.to_owned(), r#type: self.kind.0.into() }
    }

    fn list(self, list: pb::List) -> pb::ListKey {
        pb::ListKey { list: list.into(), channel: Some(self.reference()) }
    }

    fn row(self) -> pb::RowKey {
        pb::RowKey { table: pb::Table::ChannelInfo.into(), id: self.id.to_owned(), sub: self.kind.0.into() }
    }

    fn command(self, change: Change) -> pb::Command {
        pb::Command { routing_id: base_id(self.id).to_owned(), change: Some(change) }
    }

    fn put(self, row: &pb::ChannelInfoRow) -> pb::Command {
        self.command(Change::Put(pb::PutRow { key: Some(self.row()), value: row.encode_to_vec() }))
    }

    fn clear(self, list: pb::List) -> pb::Command {
        self.command(Change::Clear(self.list(list)))
    }

    /// Writes through the owner.
    async fn change(self, backend: &dyn Backend, commands: Vec<pb::Command>) -> Result<(), BackendError> {
        if self.is_person() {
            backend.change_user(self.id, commands).await
        } else {
            backend.change_channel(base_id(self.id), commands).await
        }
    }

    /// Writes `first` and then the members, in as many changes as their number asks for.
    async fn change_members(
        self,
        backend: &dyn Backend,
        mut first: Vec<pb::Command>,
        list: pb::List,
        add: bool,
        members: &[String],
    ) -> Result<(), BackendError> {
        let mut chunks = members.chunks(CHANGE_MEMBERS_MAX).map(|chunk| {
            let change = pb::ListChange { list: Some(self.list(list)), members: chunk.to_vec() };
            self.command(if add { Change::Add(change) } else { Change::Remove(change) })
        });
        first.extend(chunks.next());
        if !first.is_empty() {
            self.change(backend, first).await?;
        }
        for command in chunks {
            self.change(backend, vec![command]).await?;
        }
        Ok(())
    }

    /// The stored row, if there is one.
    async fn info(self, backend: &dyn Backend) -> Result<Option<pb::ChannelInfoRow>, BackendError> {
        let query = pb::Query { of: Some(pb::query::Of::Row(self.row())) };
        let answer = backend.lookup(vec![query]).await?.pop().unwrap_or_default();
        if let Some(error) = answer.error {
            return Err(wk_rpc::CallError::from(error).into());
        }
        // A row that does not decode is treated as absent: the next write replaces it.
        Ok(answer.value.and_then(|bytes| pb::ChannelInfoRow::decode(&*bytes).ok()))
    }
}

/// Flags of a row as a request gives them.
struct Flags {
    large: i64,
    ban: i64,
    disband: i64,
    send_ban: i64,
    allow_stranger: i64,
}

impl Flags {
    fn row(&self, old: Option<&pb::ChannelInfoRow>) -> pb::ChannelInfoRow {
        let now = unix_ms();
        pb::ChannelInfoRow {
            ban: self.ban == 1,
            disband: self.disband == 1,
            send_ban: self.send_ban == 1,
            large: self.large == 1,
            allow_stranger: self.allow_stranger == 1,
            created_at_ms: old.map_or(now, |row| row.created_at_ms),
            updated_at_ms: now,
        }
    }
}

/// Texts that name somebody, without doubles, in order.
fn named(uids: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    uids.into_iter().filter(|uid| !uid.trim().is_empty() && seen.insert(uid.clone())).collect()
}

/// `POST /channel`: creates or overwrites.
///
/// # Errors
/// [`ApiError`].
pub async fn create(backend: &dyn Backend, request: ChannelCreate) -> Result<Status, ApiError> {
    let refuse = |text| Err(ApiError::text(text));
    if request.channel_id.trim().is_empty() {
        return refuse(ID_EMPTY);
    }
    if request.channel_type == 0 {
        return refuse("频道类型错误！");
    }
    if has_special_chars(&request.channel_id) {
        return refuse(ID_SPECIAL);
    }
    let members = named(request.subscribers);
    let target = Target::new(&request.channel_id, request.channel_type)?;
    if target.is_person() && !members.is_empty() {
        return refuse("不支持个人频道添加订阅者！");
    }
    let failed = |err: BackendError| internal("创建或更新频道失败", &err);
    let old = target.info(backend).await.map_err(failed)?;
    let flags = Flags {
        large: request.large,
        ban: request.ban,
        disband: request.disband,
        send_ban: request.send_ban,
        allow_stranger: request.allow_stranger,
    };
    let mut first = vec![target.put(&flags.row(old.as_ref()))];
    if request.reset == 1 && !target.is_person() {
        first.push(target.clear(pb::List::Subscribers));
    }
    target.change_members(backend, first, pb::List::Subscribers, true, &members).await.map_err(failed)?;
    Ok(Status::OK)
}

/// `POST /channel/info`: no validation at all (COMPAT).
///
/// # Errors
/// [`ApiError`].
pub async fn put_info(backend: &dyn Backend, request: ChannelInfo) -> Result<Status, ApiError> {
    let failed = |err: BackendError| internal("添加或更新频道信息失败！", &err);
    let target = Target::new(&request.channel_id, request.channel_type)?;
    let old = target.info(backend).await.map_err(failed)?;
    let flags = Flags {
        large: request.large,
        ban: request.ban,
        disband: request.disband,
        send_ban: request.send_ban,
        allow_stranger: request.allow_stranger,
    };
    target.change(backend, vec![target.put(&flags.row(old.as_ref()))]).await.map_err(failed)?;
    Ok(Status::OK)
}

/// `POST /channel/delete`: sets `disband` on a stored channel; nothing else goes.
///
/// # Errors
/// [`ApiError`].
pub async fn delete(backend: &dyn Backend, request: ChannelDelete) -> Result<Status, ApiError> {
    let target = Target::new(&request.channel_id, request.channel_type)?;
    if target.is_person() {
        return Err(ApiError::text(NOT_PERSON));
    }
    let Some(mut row) = target.info(backend).await.map_err(|err| internal("查询频道信息失败！", &err))? else {
        return Ok(Status::OK);
    };
    row.disband = true;
    row.updated_at_ms = unix_ms();
    target.change(backend, vec![target.put(&row)]).await.map_err(|err| internal("更新频道信息失败！", &err))?;
    Ok(Status::OK)
}

/// `POST /channel/subscriber_add`: creates the channel when it is missing.
///
/// # Errors
/// [`ApiError`].
pub async fn add_subscribers(backend: &dyn Backend, request: SubscriberAdd) -> Result<Status, ApiError> {
    let refuse = |text| Err(ApiError::text(text));
    if request.channel_id.trim().is_empty() {
        return refuse(ID_EMPTY);
    }
    if has_special_chars(&request.channel_id) {
        return refuse(ID_SPECIAL);
    }
    let members = named(request.subscribers);
    if members.is_empty() {
        return refuse(MEMBERS_EMPTY);
    }
    if request.channel_type == ChannelType::PERSON.0 {
        return refuse(NOT_PERSON);
    }
    if request.temp_subscriber == 1 {
        return refuse("新版本临时订阅者已不支持！");
    }
    let kind = if request.channel_type == 0 { ChannelType::GROUP.0 } else { request.channel_type };
    let target = Target::new(&request.channel_id, kind)?;
    let old = target.info(backend).await.map_err(|err| internal("查询频道失败！", &err))?;
    let mut first = Vec::new();
    if old.is_none() {
        let flags = Flags { large: 0, ban: 0, disband: 0, send_ban: 0, allow_stranger: 0 };
        first.push(target.put(&flags.row(None)));
    }
    if request.reset == 1 {
        first.push(target.clear(pb::List::Subscribers));
    }
    let added = target.change_members(backend, first, pb::List::Subscribers, true, &members).await;
    added.map_err(|err| internal("添加频道失败！", &err))?;
    Ok(Status::OK)
}

/// `POST /channel/subscriber_remove`.
///
/// # Errors
/// [`ApiError`].
pub async fn remove_subscribers(backend: &dyn Backend, request: SubscriberRemove) -> Result<Status, ApiError> {
    let refuse = |text| Err(ApiError::text(text));
    if request.channel_id.trim().is_empty() {
        return refuse(ID_EMPTY);
    }
    if has_special_chars(&request.channel_id) {
        return refuse(ID_SPECIAL);
    }
    let members = named(request.subscribers);
    if members.is_empty() {
        return refuse(MEMBERS_EMPTY);
    }
    let target = Target::new(&request.channel_id, request.channel_type)?;
    if target.is_person() {
        return refuse(NOT_PERSON);
    }
    let removed = target.change_members(backend, Vec::new(), pb::List::Subscribers, false, &members).await;
    removed.map_err(|err| internal("移除订阅者失败！", &err))?;
    Ok(Status::OK)
}

/// `POST /channel/subscriber_remove_all`.
///
/// # Errors
/// [`ApiError`].
pub async fn clear_subscribers(backend: &dyn Backend, request: ListClear) -> Result<Status, ApiError> {
    check_clear(&request)?;
    if request.channel_type == ChannelType::PERSON.0 {
        return Err(ApiError::text("个人频道不支持此操作！"));
    }
    clear(backend, &request, pb::List::Subscribers, "移除所有订阅者失败！").await
}

/// `POST /channel/blacklist_remove_all`.
///
/// # Errors
/// [`ApiError`].
pub async fn clear_denylist(backend: &dyn Backend, request: ListClear) -> Result<Status, ApiError> {
    check_clear(&request)?;
    clear(backend, &request, pb::List::Deny, "移除所有黑名单失败！").await
}

/// `POST /channel/whitelist_remove_all`.
///
/// # Errors
/// [`ApiError`].
pub async fn clear_allowlist(backend: &dyn Backend, request: ListClear) -> Result<Status, ApiError> {
    check_clear(&request)?;
    clear(backend, &request, pb::List::Allow, "移除所有白名单失败！").await
}

fn check_clear(request: &ListClear) -> Result<(), ApiError> {
    if request.channel_id.trim().is_empty() {
        return Err(ApiError::text(ID_EMPTY_PLAIN));
    }
    if request.channel_type == 0 {
        return Err(ApiError::text(TYPE_ZERO));
    }
    Ok(())
}

async fn clear(backend: &dyn Backend, request: &ListClear, list: pb::List, text: &'static str) -> Result<Status, ApiError> {
    let target = Target::new(&request.channel_id, request.channel_type)?;
    target.change(backend, vec![target.clear(list)]).await.map_err(|err| internal(text, &err))?;
    Ok(Status::OK)
}

/// What to do with a deny or allow list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListVerb {
    /// Adds users.
    Add,
    /// Replaces all users; none clears the list.
    Set,
    /// Removes users.
    Remove,
}

/// `POST /channel/blacklist_{add,set,remove}`.
///
/// # Errors
/// [`ApiError`].
pub async fn denylist(backend: &dyn Backend, verb: ListVerb, request: Denylist) -> Result<Status, ApiError> {
    let uids = request.uids;
    match verb {
        ListVerb::Set if request.channel_id.trim().is_empty() => return Err(ApiError::text(ID_EMPTY)),
        ListVerb::Set => {}
        ListVerb::Add | ListVerb::Remove => {
            if request.channel_id.is_empty() {
                return Err(ApiError::text(ID_EMPTY_PLAIN));
            }
            if request.channel_type == 0 {
                return Err(ApiError::text(TYPE_ZERO));
            }
            if uids.is_empty() {
                return Err(ApiError::text(UIDS_EMPTY));
            }
        }
    }
    let target = Target::new(&request.channel_id, request.channel_type)?;
    write_list(backend, target, pb::List::Deny, verb, named(uids), "移除所有黑名单失败！").await
}

/// `POST /channel/whitelist_{add,set,remove}`.
///
/// # Errors
/// [`ApiError`].
pub async fn allowlist(backend: &dyn Backend, verb: ListVerb, request: Allowlist) -> Result<Status, ApiError> {
    let uids = named(request.uids);
    match verb {
        ListVerb::Set if request.channel_id.trim().is_empty() => return Err(ApiError::text(ID_EMPTY)),
        ListVerb::Set => {}
        ListVerb::Add | ListVerb::Remove => {
            if request.channel_id.is_empty() {
                return Err(ApiError::text(ID_EMPTY_PLAIN));
            }
            if has_special_chars(&request.channel_id) {
                return Err(ApiError::text(ID_SPECIAL));
            }
            if request.channel_type == 0 {
                return Err(ApiError::text(TYPE_ZERO));
            }
            if uids.is_empty() {
                return Err(ApiError::text(UIDS_EMPTY));
            }
        }
    }
    let target = Target::new(&request.channel_id, request.channel_type)?;
    // COMPAT: the original's text is misspelt.
    write_list(backend, target, pb::List::Allow, verb, uids, "移除所有白明单失败！").await
}

async fn write_list(
    backend: &dyn Backend,
    target: Target<'_>,
    list: pb::List,
    verb: ListVerb,
    uids: Vec<String>,
    set_failed: &'static str,
) -> Result<Status, ApiError> {
    let first = if verb == ListVerb::Set { vec![target.clear(list)] } else { Vec::new() };
    let text = if verb == ListVerb::Set { set_failed } else { INTERNAL };
    let written = target.change_members(backend, first, list, verb != ListVerb::Remove, &uids).await;
    written.map_err(|err| internal(text, &err))?;
    Ok(Status::OK)
}

/// Sets the receivers of a temporary channel (type 8) for a command to a list of users.
///
/// # Errors
/// [`ApiError`].
pub async fn set_temporary(backend: &dyn Backend, channel_id: &str, members: &[String]) -> Result<(), ApiError> {
    let target = Target::new(channel_id, ChannelType::TEMP.0)?;
    let first = vec![target.clear(pb::List::Subscribers)];
    let set = target.change_members(backend, first, pb::List::Subscribers, true, members).await;
    set.map_err(|err| internal("请求设置临时频道的订阅者失败！", &err))
}

/// `GET /channel/whitelist`: all rows in key order.
///
/// # Errors
/// [`ApiError`].
pub async fn read_allowlist(backend: &dyn Backend, channel_id: &str, channel_type: u8) -> Result<Vec<AllowRow>, ApiError> {
    let members = read_list(backend, pb::List::Allow, channel_id, channel_type).await?;
    let row = |member: pb::Member| AllowRow {
        id: fnv1a64(member.uid.as_bytes()),
        created_at: rfc3339(member.created_at_ms),
        updated_at: rfc3339(member.updated_at_ms),
        uid: member.uid,
    };
    Ok(members.into_iter().map(row).collect())
}

/// All members of a list in key order.
///
/// # Errors
/// [`ApiError`].
pub async fn read_list(backend: &dyn Backend, list: pb::List, channel_id: &str, channel_type: u8) -> Result<Vec<pb::Member>, ApiError> {
    let target = Target::new(channel_id, channel_type)?;
    let mut members: Vec<pb::Member> = Vec::new();
    loop {
        let after = members.last().map_or_else(String::new, |member| member.uid.clone());
        let request = pb::ScanRequest { list: Some(target.list(list)), after, limit: SCAN_PAGE_MEMBERS };
        let page = backend.scan(request).await.map_err(|err| internal(INTERNAL, &err))?;
        let more = page.more && !page.members.is_empty();
        members.extend(page.members);
        if !more {
            return Ok(members);
        }
    }
}
