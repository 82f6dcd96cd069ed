//! Names of daemons, pools and instances.

use std::fmt;
use std::str::FromStr;

/// A worker pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// Connect, auth, kick, presence, decrypt; owns uids.
    User,
    /// Permission, append, SENDACK, distribution; owns channels.
    Channel,
    /// RECV per connection, RECVACK, retry; owns receivers.
    Push,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 3] = [Self::User, Self::Channel, Self::Push];

    /// `user`, `channel` or `push`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Channel => "channel",
            Self::Push => "push",
        }
    }
}

impl FromStr for Pool {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|p| p.name() == s).ok_or_else(|| UnknownName(s.into()))
    }
}

/// A kind of daemon, as the operator names it: `cluster`, `gateway`, `api`, `worker.user`, `worker.channel`, `worker.push`, `plugin-host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Daemon {
    /// Consensus and storage.
    Cluster,
    /// Client connections.
    Gateway,
    /// HTTP and webhooks.
    Api,
    /// One of the worker pools.
    Worker(Pool),
    /// Plugins.
    PluginHost,
}

impl Daemon {
    /// All daemons in start order.
    pub const ALL: [Self; 7] = [
        Self::Cluster,
        Self::Gateway,
        Self::Api,
        Self::Worker(Pool::User),
        Self::Worker(Pool::Channel),
        Self::Worker(Pool::Push),
        Self::PluginHost,
    ];

    /// The operator's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Gateway => "gateway",
            Self::Api => "api",
            Self::Worker(Pool::User) => "worker.user",
            Self::Worker(Pool::Channel) => "worker.channel",
            Self::Worker(Pool::Push) => "worker.push",
            Self::PluginHost => "plugin-host",
        }
    }

    /// The name in files and units: dots become dashes.
    #[must_use]
    pub fn file_name(self) -> String {
        self.name().replace('.', "-")
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Daemon {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| UnknownName(s.into()))
    }
}

/// One slot of a daemon: `worker.channel@2`. A generation is one spawn of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName {
    /// Kind of daemon.
    pub daemon: Daemon,
    /// Stable slot number, from 0.
    pub slot: u16,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.daemon, self.slot)
    }
}

impl FromStr for InstanceName {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        let (daemon, slot) = s.split_once('@').unwrap_or((s, "0"));
        let slot = slot.parse().map_err(|_| UnknownName(s.into()))?;
        Ok(Self { daemon: daemon.parse()?, slot })
    }
}

/// A name that belongs to no pool, daemon or instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName(pub Box<str>);

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown name {:?}", self.0)
    }
}

impl std::error::Error for UnknownName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for daemon in Daemon::ALL {
            let name = InstanceName { daemon, slot: 3 };
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert!("worker@x".parse::<InstanceName>().is_err());
    }
}
