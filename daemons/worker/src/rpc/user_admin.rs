//! `wk.worker.v1.UserAdmin`: tokens, kicks, presence and the rows of the users this worker owns.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use wk_link::item::{Encoder, PersonRulesChanged};
use wk_link::{Keep, Kind, LinkSet, Outgoing};
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::Code;
use wk_proto::worker::v1::user_admin_server::UserAdmin;
use wk_proto::worker::v1::{
    ChangeReply, ChangeRequest, OnlineReply, OnlineRequest, QuitReply, QuitRequest, SetTokenReply, SetTokenRequest,
};
use wk_rpc::clock::unix_ms;
use wk_rpc::status::with_code;
use wk_rpc::{ClusterData, TableWatch};
use wk_types::{Bucket, ChannelType, DeviceFlag, DeviceLevel, InstanceName, Reason};

use super::calls::Calls;
use super::{check_owner, ended, propose, routing_id, to_status};
use crate::inbox::{Event, Inbox};
use crate::limits::RULES_WAIT;
use crate::user::events::Ask;
use crate::user::kick;

/// Status of a call that worked.
const OK: u32 = 200;
/// Flags meant by -1 in a quit.
const QUIT_ALL: [DeviceFlag; 3] = [DeviceFlag(0), DeviceFlag(1), DeviceFlag(2)];

/// The service.
#[derive(Debug, Clone)]
pub struct UserAdminService {
    /// Our name.
    pub me: InstanceName,
    /// The pool.
    pub inbox: Arc<Inbox<Ask>>,
    /// Rows.
    pub cluster: ClusterData,
    /// Who owns what.
    pub table: TableWatch,
    /// Links to the channel workers, for changed rules.
    pub channels: LinkSet,
    /// Changes under way.
    pub calls: Calls,
}

impl UserAdminService {
    /// Forgets cached rows of a uid; returns when the pool has done so.
    async fn changed(&self, uid: &str, flags: Vec<DeviceFlag>) -> Result<(), Status> {
        let (reply, heard) = oneshot::channel();
        self.inbox.push(Event::Ask(Ask::Changed(uid.to_owned(), flags, reply)));
        heard.await.map_err(|_| ended())
    }

    /// The user's info, whether its user row exists, and whether each of its device rows exists.
    async fn rows(&self, uid: &str, flags: &[DeviceFlag]) -> Result<(pb::ChannelInfoRow, bool, Vec<bool>), Status> {
        let key = |table: pb::Table, sub: u32| pb::Query {
            of: Some(pb::query::Of::Row(pb::RowKey { table: table.into(), id: uid.to_owned(), sub })),
        };
        let mut queries = vec![key(pb::Table::ChannelInfo, u32::from(ChannelType::PERSON.0)), key(pb::Table::User, 0)];
        queries.extend(flags.iter().map(|f| key(pb::Table::Device, u32::from(f.0))));
        let answers = self.cluster.lookup(queries).await.map_err(|e| to_status(&e))?;
        if let Some(error) = answers.iter().find_map(|a| a.error.as_ref()) {
            return Err(with_code(error.code(), error.detail.clone()));
        }
        let mut values = answers.into_iter().map(|a| a.value);
        let info = values.next().flatten().map(|v| pb::ChannelInfoRow::decode(&*v)).transpose();
        let info = info.map_err(|_| with_code(Code::Unspecified, "stored row cannot be read"))?.unwrap_or_default();
        let user = values.next().flatten().is_some();
        Ok((info, user, values.map(|v| v.is_some()).collect()))
    }

    /// Tells every channel worker that rules of a person have changed; waits for them, but not for ever: one that is away starts without
    /// anything cached.
    async fn tell_channels(&self, uid: &str) {
        let body = Encoder::default().encode(&PersonRulesChanged { uid });
        let bucket = Bucket::of(uid);
        let item = || Outgoing { bucket, kind: Kind::PersonRulesChanged, body: body.clone(), keep: Keep::UntilSettled };
        let push = |slot| self.channels.push_wait(slot, item());
        let waits: Vec<_> = self.channels.slots().into_iter().map(push).collect();
        let all = futures_util::future::join_all(waits);
        if tokio::time::timeout(RULES_WAIT, all).await.is_err() {
            tracing::warn!(uid, "not every channel worker has heard of changed rules in time");
        }
    }
}

#[tonic::async_trait]
impl UserAdmin for UserAdminService {
    async fn set_token(&self, request: Request<SetTokenRequest>) -> Result<Response<SetTokenReply>, Status> {
        let r = request.into_inner();
        let _change = self.calls.begin(&self.table, self.me, &r.uid)?;
        let flag = flag(r.device_flag)?;
        let (info, user_exists, _) = self.rows(&r.uid, &[]).await?;
        let refused = match (info.ban, info.disband) {
            (true, _) => Some(Reason::BAN),
            (_, true) => Some(Reason::DISBAND),
            _ => None,
        };
        if let Some(reason) = refused {
            return Ok(Response::new(SetTokenReply { status: u32::from(reason.0) }));
        }
        let mut commands = Vec::with_capacity(2);
        if !user_exists {
            let row = pb::UserRow { created_at_ms: unix_ms() };
            commands.push(put(&r.uid, pb::Table::User, 0, row.encode_to_vec()));
        }
        let row = pb::DeviceRow { token: r.token, level: r.device_level, updated_at_ms: unix_ms() };
        commands.push(put(&r.uid, pb::Table::Device, r.device_flag, row.encode_to_vec()));
        let stored = propose(&self.cluster, commands).await;
        self.changed(&r.uid, vec![flag]).await?;
        stored?;
        if r.device_level == u32::from(DeviceLevel::MASTER.0) {
            self.inbox.push(Event::Ask(Ask::Kick(r.uid, vec![flag], kick::BY_TOKEN)));
        }
        Ok(Response::new(SetTokenReply { status: OK }))
    }

    async fn quit(&self, request: Request<QuitRequest>) -> Result<Response<QuitReply>, Status> {
        let r = request.into_inner();
        let _change = self.calls.begin(&self.table, self.me, &r.uid)?;
        let flags = match u32::try_from(r.device_flag) {
            Ok(number) => vec![flag(number)?],
            Err(_) => QUIT_ALL.to_vec(),
        };
        let (_, _, exist) = self.rows(&r.uid, &flags).await?;
        let row = pb::DeviceRow { token: String::new(), level: u32::from(DeviceLevel::MASTER.0), updated_at_ms: unix_ms() };
        let value = row.encode_to_vec();
        let stored = flags.iter().zip(exist).filter(|(_, exists)| *exists);
        let commands: Vec<_> = stored.map(|(f, _)| put(&r.uid, pb::Table::Device, u32::from(f.0), value.clone())).collect();
        if !commands.is_empty() {
            let stored = propose(&self.cluster, commands).await;
            self.changed(&r.uid, flags.clone()).await?;
            stored?;
        }
        self.inbox.push(Event::Ask(Ask::Kick(r.uid, flags, kick::BY_QUIT)));
        Ok(Response::new(QuitReply {}))
    }

    async fn online(&self, request: Request<OnlineRequest>) -> Result<Response<OnlineReply>, Status> {
        let uids = request.into_inner().uids;
        for uid in &uids {
            check_owner(&self.table, self.me, uid)?;
        }
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Event::Ask(Ask::Online(uids, reply)));
        let conns = answer.await.map_err(|_| ended())?;
        let conns = conns.ok_or_else(|| with_code(Code::NotReady, "sessions are not complete yet"))?;
        Ok(Response::new(OnlineReply { conns }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeReply>, Status> {
        let commands = request.into_inner().commands;
        let uid = routing_id(&commands)?.to_owned();
        let _change = self.calls.begin(&self.table, self.me, &uid)?;
        let flags = commands.iter().filter_map(device_flag).collect();
        let stored = propose(&self.cluster, commands).await;
        // Also after a failure: nobody knows what was applied, so nothing cached may be trusted.
        self.changed(&uid, flags).await?;
        self.tell_channels(&uid).await;
        Ok(Response::new(ChangeReply { index: stored? }))
    }
}

fn flag(number: u32) -> Result<DeviceFlag, Status> {
    u8::try_from(number).map(DeviceFlag).map_err(|_| with_code(Code::Rejected, "device flag is above 255"))
}

fn put(uid: &str, table: pb::Table, sub: u32, value: Vec<u8>) -> pb::Command {
    let key = pb::RowKey { table: table.into(), id: uid.to_owned(), sub };
    let change = pb::command::Change::Put(pb::PutRow { key: Some(key), value });
    pb::Command { routing_id: uid.to_owned(), change: Some(change) }
}

/// Flag of the device row that a command changes.
fn device_flag(command: &pb::Command) -> Option<DeviceFlag> {
    let key = match command.change.as_ref()? {
        pb::command::Change::Put(put) => put.key.as_ref()?,
        pb::command::Change::Delete(key) => key,
        _ => return None,
    };
    let is_device = key.table() == pb::Table::Device;
    is_device.then(|| u8::try_from(key.sub).ok().map(DeviceFlag)).flatten()
}
