//! The state machine of a group, as the daemon implements it.

use bytes::Bytes;

/// One committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Log index. Indices of commands are ascending, with gaps (elections and membership changes are entries without a command).
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The command as it was proposed.
    pub command: Bytes,
}

/// What a machine must store together with the effects of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyContext {
    /// The applied record: last applied log id and membership, opaque. It belongs under
    /// `wk_store::keys::sys(SysKind::Applied, group)`, in the same batch as the rows.
    pub record: Bytes,
    /// Log index the record stands for.
    pub index: u64,
    /// Whether this is replay after a start: nobody waits for the responses.
    pub replay: bool,
}

/// The machine cannot go on. The group stops and the process must end: a half-dead node is worse than a dead one.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct MachineError {
    /// The step that failed.
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl MachineError {
    /// An error with a cause.
    pub fn new(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what, source: Some(source.into()) }
    }
}

/// The deterministic state of a group. Calls come from one task, one at a time, on the runtime thread: they must not block for longer
/// than a memtable write.
pub trait StateMachine: Send + 'static {
    /// The record of the last [`StateMachine::apply`] or [`StateMachine::install`] that survived, or nothing for a fresh group.
    ///
    /// # Errors
    /// The record cannot be read.
    fn applied(&mut self) -> Result<Option<Bytes>, MachineError>;

    /// Apply committed commands in order; one response for each. Rows and `context.record` go into one batch. `entries` may be empty: then
    /// only the record is stored.
    ///
    /// Must be total: a command that makes no sense is answered with a refusal, not with an error. Must not use clock, randomness or the
    /// order of a hash map.
    ///
    /// # Errors
    /// The batch could not be written.
    fn apply(&mut self, context: &ApplyContext, entries: Vec<Entry>) -> Result<Vec<Bytes>, MachineError>;

    /// The whole state, for a node that is too far behind for the log. It stands for everything applied so far.
    ///
    /// # Errors
    /// The state cannot be read.
    fn snapshot(&mut self) -> Result<Bytes, MachineError>;

    /// Replace the state with one that [`StateMachine::snapshot`] made on another node, and store `context.record` with it.
    ///
    /// # Errors
    /// The snapshot has another format or cannot be written.
    fn install(&mut self, context: &ApplyContext, snapshot: Bytes) -> Result<(), MachineError>;
}
