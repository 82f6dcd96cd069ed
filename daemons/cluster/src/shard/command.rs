//! Commands of a slot group and its answers, as bytes of the raft log: version, kind, the leader's time, a message of the contract.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use wk_link::codec::{Reader, put_text};
use wk_proto::cluster::v1 as pb;

use super::keys;
use crate::channel::command::Misread;
use crate::error::Refusal;
use crate::limits::{COMMANDS_MAX, LOCK_TEXT_BYTES_MAX, LOCK_TTL_MS, MEMBERS_MAX, ROW_BYTES_MAX};

/// Version of commands and answers.
pub const VERSION: u8 = 1;

const KIND_PROPOSE: u8 = 1;
const KIND_ACQUIRE: u8 = 2;
const KIND_RENEW: u8 = 3;
const KIND_RELEASE: u8 = 4;

/// What a command does.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Changes of rows and lists, together.
    Propose(pb::ProposeRequest),
    /// Take a lock.
    Acquire(pb::AcquireRequest),
    /// Hold it longer.
    Renew(pb::RenewRequest),
    /// Give it back.
    Release(pb::ReleaseRequest),
}

/// A command with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Rows: the leader's clock, ms since 1970. Locks: the leader's lock clock, ms.
    pub now_ms: i64,
    /// What it does.
    pub change: Change,
}

impl Command {
    /// Bytes for the log.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(VERSION);
        let (kind, body) = match &self.change {
            Change::Propose(request) => (KIND_PROPOSE, request.encode_to_vec()),
            Change::Acquire(request) => (KIND_ACQUIRE, request.encode_to_vec()),
            Change::Renew(request) => (KIND_RENEW, request.encode_to_vec()),
            Change::Release(request) => (KIND_RELEASE, request.encode_to_vec()),
        };
        out.put_u8(kind);
        out.put_i64_le(self.now_ms);
        out.put_slice(&body);
        out.freeze()
    }

    /// Reads a command.
    ///
    /// # Errors
    /// [`Misread`].
    pub fn decode(command: &[u8]) -> Result<Self, Misread> {
        let mut r = Reader::new(command);
        match r.u8("version") {
            Ok(VERSION) => {}
            Ok(version) => return Err(Misread::Version(version)),
            Err(_) => return Err(Misread::Broken),
        }
        let kind = r.u8("kind").map_err(|_| Misread::Broken)?;
        let now_ms = r.i64("now_ms").map_err(|_| Misread::Broken)?;
        let body = r.rest();
        let change = match kind {
            KIND_PROPOSE => pb::ProposeRequest::decode(body).map(Change::Propose),
            KIND_ACQUIRE => pb::AcquireRequest::decode(body).map(Change::Acquire),
            KIND_RENEW => pb::RenewRequest::decode(body).map(Change::Renew),
            KIND_RELEASE => pb::ReleaseRequest::decode(body).map(Change::Release),
            _ => return Err(Misread::Broken),
        };
        change.map(|change| Self { now_ms, change }).map_err(|_| Misread::Broken)
    }
}

/// Checks a request and finds its slot. The same check runs before the proposal and in apply.
///
/// # Errors
/// The first fault.
pub fn check_propose(request: &pb::ProposeRequest) -> Result<wk_types::Bucket, Refusal> {
    let first = request.commands.first().ok_or_else(|| Refusal::rejected("no command"))?;
    if request.commands.len() > COMMANDS_MAX {
        return Err(Refusal::too_large("too many commands"));
    }
    let slot = keys::slot(&first.routing_id);
    let mut members = 0;
    for command in &request.commands {
        if keys::slot(&command.routing_id) != slot {
            return Err(Refusal::rejected("commands of several routing ids"));
        }
        members += check_command(command, slot)?;
    }
    if members > MEMBERS_MAX { Err(Refusal::too_large("too many members")) } else { Ok(slot) }
}

/// Members the command names.
fn check_command(command: &pb::Command, slot: wk_types::Bucket) -> Result<usize, Refusal> {
    use pb::command::Change as C;
    let at = |id: &str| if keys::slot(id) == slot { Ok(()) } else { Err(Refusal::rejected("row does not belong to the routing id")) };
    let list = |key: Option<&pb::ListKey>| {
        let key = key.ok_or_else(|| Refusal::rejected("change has no list"))?;
        let place = keys::ListPlace::of(key)?;
        if place.slot() == slot { Ok(place) } else { Err(Refusal::rejected("list does not belong to the routing id")) }
    };
    match command.change.as_ref().ok_or_else(|| Refusal::rejected("command has no change"))? {
        C::Put(put) => {
            let key = put.key.as_ref().ok_or_else(|| Refusal::rejected("row has no key"))?;
            keys::row(key)?;
            at(&key.id)?;
            if put.value.len() > ROW_BYTES_MAX { Err(Refusal::too_large("row is too large")) } else { Ok(0) }
        }
        C::Delete(key) => keys::row(key).and_then(|_| at(&key.id)).map(|()| 0),
        C::Add(change) | C::Remove(change) => {
            let place = list(change.list.as_ref())?;
            change.members.iter().try_for_each(|uid| place.member(uid).map(drop))?;
            Ok(change.members.len())
        }
        C::Clear(key) => list(Some(key)).map(|_| 0),
    }
}

/// Checks owner and life of a lock request.
///
/// # Errors
/// The first fault.
pub fn check_lock(name: &str, owner: &str, ttl_ms: Option<u64>) -> Result<(), Refusal> {
    keys::lock(name)?;
    if owner.is_empty() || owner.len() > LOCK_TEXT_BYTES_MAX {
        return Err(Refusal::rejected("lock owner must have 1 to 128 bytes"));
    }
    match ttl_ms {
        Some(ttl) if !LOCK_TTL_MS.contains(&ttl) => Err(Refusal::rejected("lock ttl must be 1000 to 600000 ms")),
        _ => Ok(()),
    }
}

/// Answer of a change that was carried out, with its bytes.
#[must_use]
pub fn answer_done(body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + body.len());
    out.put_i32_le(0);
    out.put_slice(body);
    out.freeze()
}

/// Answer of a refused change.
#[must_use]
pub fn answer_refused(refusal: &Refusal) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i32_le(refusal.code.into());
    put_text(&mut out, &refusal.detail);
    out.freeze()
}

/// Reads an answer: the bytes of a change that was carried out.
///
/// # Errors
/// The refusal.
pub fn read_answer(answer: &Bytes) -> Result<Bytes, Refusal> {
    let broken = || Refusal::unknown("answer of the state machine is broken");
    let mut r = Reader::new(answer);
    let code = i32::from_le_bytes(r.array("code").map_err(|_| broken())?);
    if code == 0 {
        return Ok(answer.slice_ref(r.rest()));
    }
    let code = pb::Code::try_from(code).map_err(|_| broken())?;
    let detail = r.text("detail").map_err(|_| broken())?.to_owned().into();
    Err(Refusal { code, detail, retry_after_ms: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(routing_id: &str, channel: &str, member: &str) -> pb::Command {
        let list = pb::ListKey { list: pb::List::Deny.into(), channel: Some(pb::ChannelRef { id: channel.into(), r#type: 2 }) };
        let change = pb::ListChange { list: Some(list), members: vec![member.into()] };
        pb::Command { routing_id: routing_id.into(), change: Some(pb::command::Change::Add(change)) }
    }

    fn check(commands: Vec<pb::Command>) -> Result<wk_types::Bucket, Refusal> {
        check_propose(&pb::ProposeRequest { commands })
    }

    #[test]
    fn commands_round_trip_and_answers_too() {
        let change = Change::Propose(pb::ProposeRequest { commands: vec![add("g", "g", "u")] });
        let command = Command { now_ms: 3, change };
        assert_eq!(Command::decode(&command.encode()), Ok(command));
        assert_eq!(Command::decode(&[2]), Err(Misread::Version(2)));
        assert_eq!(Command::decode(&[1, 99]), Err(Misread::Broken));
        assert_eq!(read_answer(&answer_done(b"x")), Ok(Bytes::from_static(b"x")));
        assert_eq!(read_answer(&answer_refused(&Refusal::rejected("no"))), Err(Refusal::rejected("no")));
    }

    #[test]
    fn refuses_what_a_machine_could_not_store() {
        assert!(check(vec![add("g", "g", "u"), add("g", "g____cmd", "u")]).is_ok());
        assert!(check(vec![]).is_err());
        assert!(check(vec![add("g", "", "u")]).is_err());
        assert!(check(vec![add("g", "g", "")]).is_err());
        assert!(check(vec![add("g", "other", "u")]).is_err());
        assert!(check(vec![add("g", "g", "u"), add("other", "other", "u")]).is_err());
        assert!(check(vec![add("g", "g", &"u".repeat(600))]).is_err());
        assert!(check(vec![pb::Command { routing_id: "g".into(), change: None }]).is_err());
        assert!(check_lock("", "o", None).is_err() && check_lock("n", "o", Some(5)).is_err() && check_lock("n", "o", Some(5000)).is_ok());
    }
}
