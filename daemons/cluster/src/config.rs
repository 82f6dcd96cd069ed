//! What this daemon takes from the configuration.

use std::path::PathBuf;
use std::time::Duration;

use wk_config::Config as File;
use wk_raft::RaftOptions;
use wk_types::NodeId;

use crate::limits::SHARDS_MAX;

/// Largest block cache that is chosen by itself. Unit: bytes. Source: `design/cluster.md` §3.4.
const CACHE_BYTES_MAX: u64 = 4 << 30;
/// Block cache when the size of the memory is not known. Unit: bytes.
const CACHE_BYTES_UNKNOWN: u64 = 256 << 20;

/// Settings of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Folder with lock, identity and state database.
    pub folder: PathBuf,
    /// Folder of the raft log.
    pub raft_folder: PathBuf,
    /// Number of shards; must be what the node was made with.
    pub slot_groups: u16,
    /// Flush at least this often.
    pub flush_every: Duration,
    /// Writes are refused when less than this is free. Unit: bytes.
    pub disk_reserve_bytes: u64,
    /// Block cache of the state database. Unit: bytes.
    pub cache_bytes: usize,
    /// `chan` rows kept in memory, all groups together.
    pub channel_rows: usize,
    /// Timers of consensus.
    pub raft: RaftOptions,
    /// Test switch: each synced write of the log takes this much longer.
    pub write_delay: Duration,
}

/// A key whose value cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key as the operator writes it.
    pub key: &'static str,
    /// Value and allowed range.
    pub problem: String,
}

impl Config {
    /// The settings in a configuration file.
    #[must_use]
    pub fn from_file(file: &File) -> Self {
        let raft = RaftOptions {
            heartbeat: file.raft.heartbeat,
            election_min: file.raft.election_min,
            election_max: file.raft.election_max,
            ..RaftOptions::default()
        };
        let cache_bytes = file.storage.cache.map_or_else(auto_cache_bytes, |size| size.0);
        Self {
            node: NodeId(file.cluster.node_id),
            folder: file.data_path().join("cluster"),
            raft_folder: file.raft_path(),
            slot_groups: u16::try_from(file.cluster.slot_group_count).unwrap_or(0),
            flush_every: file.storage.flush_every,
            disk_reserve_bytes: file.storage.disk_reserve.0,
            cache_bytes: usize::try_from(cache_bytes).unwrap_or(usize::MAX),
            channel_rows: usize::try_from(file.channel_runtime.cache).unwrap_or(usize::MAX),
            raft,
            write_delay: Duration::ZERO,
        }
    }

    /// All problems at once.
    ///
    /// # Errors
    /// The list is not empty.
    pub fn validate(&self, file: &File) -> Result<(), Vec<ConfigError>> {
        let mut problems = Vec::new();
        if !(1..=1023).contains(&self.node.0) {
            problems.push(ConfigError { key: "cluster.nodeId", problem: format!("{} is not in 1..=1023", self.node) });
        }
        if !(1..=SHARDS_MAX).contains(&self.slot_groups) {
            let problem = format!("{} is not in 1..={SHARDS_MAX}", file.cluster.slot_group_count);
            problems.push(ConfigError { key: "cluster.slotGroupCount", problem });
        }
        if self.raft.election_min <= self.raft.heartbeat || self.raft.election_max <= self.raft.election_min {
            problems.push(ConfigError { key: "raft.electionMin", problem: "must lie between raft.heartbeat and raft.electionMax".into() });
        }
        if file.cluster.init_nodes.len() > 1 || !file.cluster.seed.is_empty() {
            let problem = "this version runs one node; leave cluster.initNodes and cluster.seed empty".into();
            problems.push(ConfigError { key: "cluster.initNodes", problem });
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

/// A quarter of the memory, at most [`CACHE_BYTES_MAX`].
fn auto_cache_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")).and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    total_kib.map_or(CACHE_BYTES_UNKNOWN, |kib| (kib / 4 * 1024).min(CACHE_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_problem_is_named() {
        let mut file = File::default();
        // Port 0: any free port, as tests ask for.
        file.cluster.addr.0.set_port(0);
        assert_eq!(Config::from_file(&file).validate(&file), Ok(()));
        assert!(auto_cache_bytes() > 0);
        file.cluster.node_id = 0;
        file.cluster.slot_group_count = 1025;
        file.raft.election_max = Duration::from_millis(1);
        let problems = Config::from_file(&file).validate(&file).unwrap_err();
        let keys: Vec<_> = problems.iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["cluster.nodeId", "cluster.slotGroupCount", "raft.electionMin"]);
        assert!(problems[1].to_string().starts_with("cluster.slotGroupCount: 1025"));
    }
}
