//! Timers and bounds of consensus.

use std::time::Duration;

/// Timers and bounds, the same for all groups of a node. Defaults: `design/cluster.md` §8.8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftOptions {
    /// Pause between heartbeats of a leader with followers.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout, and the leader lease.
    pub election_max: Duration,
    /// Ask before raising the term, so that a node that was cut off does not disturb the others.
    pub pre_vote: bool,
    /// Entries one append to a follower carries.
    pub append_entries_max: u64,
    /// Commands of a group that may wait for the consensus core; above it [`crate::ProposeError::Overloaded`].
    pub proposals_in_flight_max: usize,
    /// Bytes of commands of a group that may wait; above it [`crate::ProposeError::Overloaded`].
    pub proposal_bytes_in_flight_max: usize,
    /// Largest command.
    pub command_bytes_max: usize,
    /// Entries one purge removes at least.
    pub purge_step_entries: u64,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(750),
            election_max: Duration::from_millis(1250),
            pre_vote: true,
            append_entries_max: 300,
            proposals_in_flight_max: 4096,
            proposal_bytes_in_flight_max: 16 << 20,
            command_bytes_max: 4 << 20,
            purge_step_entries: wk_store::limits::PURGE_STEP_ENTRIES_MIN,
        }
    }
}
