//! Control calls on the owners of keys: decode, one call on the pool, encode.

pub mod calls;
pub mod channel_admin;
pub mod user_admin;

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use wk_proto::cluster::v1::{Code, Command, command};
use wk_rpc::limits::CONTROL_DEADLINE;
use wk_rpc::status::with_code;
use wk_rpc::{CallError, ClusterData, TableWatch};
use wk_types::channel::base_id;
use wk_types::{Bucket, ChannelType, InstanceName};

/// Pause between attempts of a change.
const PAUSE: Duration = Duration::from_millis(50);

/// Refuses keys of other owners.
pub(crate) fn check_owner(table: &TableWatch, me: InstanceName, key: &str) -> Result<(), Status> {
    let (table, bucket) = (table.get(), Bucket::of(base_id(key)));
    match table.owner(me.daemon, bucket) {
        Some(owner) if owner == me => Ok(()),
        Some(owner) => Err(with_code(Code::Fenced, format!("{owner} owns this key"))),
        None => Err(with_code(Code::NotReady, "no node table yet")),
    }
}

/// Proposes a change. An unknown outcome is repeated unchanged: every command gives the same rows when it is applied twice.
pub(crate) async fn propose(cluster: &ClusterData, commands: Vec<Command>) -> Result<u64, Status> {
    let until = Instant::now() + CONTROL_DEADLINE;
    loop {
        match cluster.propose(commands.clone()).await {
            Ok(index) => return Ok(index),
            Err(err) if err.retryable() && Instant::now() + PAUSE < until => tokio::time::sleep(err.retry_after().max(PAUSE)).await,
            Err(err) => return Err(to_status(&err)),
        }
    }
}

pub(crate) fn to_status(err: &CallError) -> Status {
    with_code(err.code(), err.to_string())
}

/// The pool has ended: the caller finds the next life in the table.
pub(crate) fn ended() -> Status {
    with_code(Code::NotReady, "the worker is stopping")
}

/// The one routing id of a change.
pub(crate) fn routing_id(commands: &[Command]) -> Result<&str, Status> {
    let first = commands.first().ok_or_else(|| with_code(Code::Rejected, "no commands"))?;
    let same = commands.iter().all(|c| c.routing_id == first.routing_id);
    if same { Ok(&first.routing_id) } else { Err(with_code(Code::Rejected, "commands of several routing ids")) }
}

/// The channel whose rows or lists a command changes.
pub(crate) fn channel_of(command: &Command) -> Option<(String, ChannelType)> {
    use command::Change;
    let list = match command.change.as_ref()? {
        Change::Put(put) => return row(put.key.as_ref()?),
        Change::Delete(key) => return row(key),
        Change::Add(change) | Change::Remove(change) => change.list.as_ref()?,
        Change::Clear(list) => list,
    };
    let channel = list.channel.as_ref()?;
    Some((channel.id.clone(), kind(channel.r#type)))
}

fn row(key: &wk_proto::cluster::v1::RowKey) -> Option<(String, ChannelType)> {
    let is_info = key.table() == wk_proto::cluster::v1::Table::ChannelInfo;
    is_info.then(|| (key.id.clone(), kind(key.sub)))
}

fn kind(number: u32) -> ChannelType {
    ChannelType(u8::try_from(number).unwrap_or(0))
}
