//! What is wrong with a configuration, in words an operator can act on.

use std::fmt;

/// One wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Component that needs the key: `cluster`, `gateway`, `api`, ...; `config` for the file itself.
    pub component: &'static str,
    /// Key as documented, `cluster.addr`; empty for the file itself.
    pub key: String,
    /// What was given, secrets hidden.
    pub value: String,
    /// What would be accepted, or what is wrong.
    pub allowed: String,
    /// Where it was given: `wukongim.yaml:12`, `environment WK_CLUSTER_ADDR`, `flag --data`.
    pub place: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "{}: {} ({})", self.component, self.allowed, self.place);
        }
        write!(f, "{}: {} = {:?} is refused: expected {} ({})", self.component, self.key, self.value, self.allowed, self.place)
    }
}

/// Everything that is wrong with a configuration, at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("configuration refused")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The component that a key belongs to.
pub(crate) fn component_of(key: &str) -> &'static str {
    let section = key.split('.').next().unwrap_or_default().to_ascii_lowercase();
    match section.as_str() {
        "cluster" | "raft" | "storage" | "membership" | "db" => "cluster",
        "addr" | "wsaddr" | "wssaddr" | "wssconfig" | "gateway" | "proxyprotocol" | "limits" | "connidletime" => "gateway",
        "httpaddr" | "manager" | "managertoken" | "demo" | "auth" | "jwt" | "webhook" | "datasource" | "conversation" | "trace"
        | "benchapi" | "external" | "intranet" => "api",
        "channelruntime" | "channel" | "tag" | "agent" => "worker.channel",
        "messageretry" => "worker.push",
        "tokenauthon" | "customerservice" => "worker.user",
        "plugin" => "plugin-host",
        "supervisor" | "workers" => "supervisor",
        _ => "config",
    }
}
