//! Typed calls. Every method: one request, its answer, errors and cancel safety as for [`ClusterData::call`].

use std::time::Duration;

use tokio::time::Instant;
use wk_proto::cluster::v1 as pb;

use super::{CallError, ClusterData, Op, ReplyResult};
use crate::limits::{CONTROL_DEADLINE, LOOKUP_DEADLINE};

/// Room above the wait of a long poll for the answer to travel.
const LONG_POLL_MARGIN: Duration = Duration::from_secs(2);

macro_rules! call {
    ($self:ident, $op:ident($request:expr), $deadline:expr) => {
        match $self.call(Op::$op($request), $deadline).await? {
            ReplyResult::$op(reply) => Ok(reply),
            _ => Err(CallError::Mismatch),
        }
    };
}

/// A call that changes nothing: asked again when its stream ends before the answer came, within the same deadline.
macro_rules! ask {
    ($self:ident, $op:ident($request:expr), $deadline:expr) => {{
        let (request, until) = ($request, Instant::now() + $deadline);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match $self.call(Op::$op(request.clone()), left).await {
                Err(CallError::UnknownOutcome) if Instant::now() < until => {}
                Ok(ReplyResult::$op(reply)) => break Ok(reply),
                Ok(_) => break Err(CallError::Mismatch),
                Err(err) => break Err(err),
            }
        }
    }};
}

impl ClusterData {
    /// Appends batches of several channels; the answer has one entry per channel, in order.
    ///
    /// # Errors
    /// [`CallError`]; errors of single channels are inside the reply.
    pub async fn append(&self, request: pb::AppendRequest, deadline: Duration) -> Result<pb::AppendReply, CallError> {
        call!(self, Append(request), deadline)
    }

    /// Point reads in one batch; answers in the order of the queries.
    ///
    /// # Errors
    /// [`CallError`]; also [`CallError::Mismatch`] when the number of answers differs.
    pub async fn lookup(&self, queries: Vec<pb::Query>) -> Result<Vec<pb::Answer>, CallError> {
        let count = queries.len();
        let reply: Result<pb::LookupReply, CallError> = call!(self, Lookup(pb::LookupRequest { queries }), LOOKUP_DEADLINE);
        let answers = reply?.answers;
        if answers.len() == count { Ok(answers) } else { Err(CallError::Mismatch) }
    }

    /// Messages of one channel by sequence. Outlives the death of a cluster process whose next life answers in time.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn read(&self, request: pb::ReadRequest) -> Result<pb::ReadReply, CallError> {
        ask!(self, Read(request), LOOKUP_DEADLINE)
    }

    /// Changes of metadata of one routing id, applied together. Returns the log index of the change.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn propose(&self, commands: Vec<pb::Command>) -> Result<u64, CallError> {
        let reply: Result<pb::ProposeReply, CallError> = call!(self, Propose(pb::ProposeRequest { commands }), CONTROL_DEADLINE);
        Ok(reply?.index)
    }

    /// Message ids in runs; together at least one, at most `count`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn alloc_ids(&self, count: u32) -> Result<Vec<pb::IdRun>, CallError> {
        let reply: Result<pb::AllocIdsReply, CallError> = call!(self, AllocIds(pb::AllocIdsRequest { count }), LOOKUP_DEADLINE);
        Ok(reply?.runs)
    }

    /// Journal entries of a group; waits for the first one as long as the request says.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn journal(&self, request: pb::JournalRequest) -> Result<pb::JournalReply, CallError> {
        let deadline = Duration::from_millis(request.wait_ms) + LONG_POLL_MARGIN;
        call!(self, Journal(request), deadline)
    }

    /// Members of a list in key order. Asked again as [`Self::read`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn scan(&self, request: pb::ScanRequest) -> Result<pb::ScanReply, CallError> {
        ask!(self, Scan(request), LOOKUP_DEADLINE)
    }

    /// Saves consumers' positions.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn save_cursors(&self, cursors: Vec<pb::Cursor>) -> Result<(), CallError> {
        let request = pb::SaveCursorsRequest { cursors, owner: None };
        let reply: Result<pb::SaveCursorsReply, CallError> = call!(self, SaveCursors(request), CONTROL_DEADLINE);
        reply.map(drop)
    }

    /// Saves positions as the new owner of their buckets: afterwards nothing of an older owner is stored in them any more, and what is lies at
    /// or below the returned indexes, by group.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn take_over(&self, cursors: Vec<pb::Cursor>, owner: pb::Owner) -> Result<Vec<u64>, CallError> {
        let request = pb::SaveCursorsRequest { cursors, owner: Some(owner) };
        let reply: Result<pb::SaveCursorsReply, CallError> = call!(self, SaveCursors(request), CONTROL_DEADLINE);
        Ok(reply?.applied)
    }

    /// All saved positions of a consumer, and the applied index of each channel group.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn load_cursors(&self, consumer: &str) -> Result<pb::LoadCursorsReply, CallError> {
        let request = pb::LoadCursorsRequest { consumer: consumer.to_owned() };
        call!(self, LoadCursors(request), CONTROL_DEADLINE)
    }
}
