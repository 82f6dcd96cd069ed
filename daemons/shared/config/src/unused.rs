//! Keys of the original that we accept and do not use (`spec/config.md` §2, marks L and "unused").

/// In lower case; a trailing `.` accepts the whole section.
const KEYS: &[&str] = &[
    "ginmode",
    "violent",
    "unittest",
    "deadlockcheck",
    "oldv1api",
    "migratestartstep",
    "timingwheeltick",
    "timingwheelsize",
    "eventpoolsize",
    "deliverymsgpoolsize",
    "handlepoolsize",
    "gopool.",
    "usermsgqueuemaxsize",
    "external.autogetexternalip",
    "auth.supertoken",
    "logger.tracemaxmsgcount",
    "logger.loki.",
    "channel.cachecount",
    "channel.createifnoexist",
    "tmpchannel.",
    "conversation.cacheexpire",
    "conversation.bytespersave",
    "conversation.savepoolsize",
    "conversation.workernum",
    "conversation.workerscaninterval",
    "messageretry.workercount",
    "streamcache.",
    "datasource.channelinfoon",
    "agent.webhook.maxpushcount",
    "cluster.tickinterval",
    "cluster.heartbeatintervaltick",
    "cluster.electionintervaltick",
    "cluster.channeldestoryafteridletick",
    "cluster.channelreactorsubcount",
    "cluster.slotreactorsubcount",
    "db.",
    "trace.servicename",
    "trace.servicehostname",
    "reactor.",
    "corereactor.",
    "deliver.",
];

/// True when the lower-case key is known and has no effect.
pub(crate) fn is_unused(key: &str) -> bool {
    KEYS.iter().any(|k| *k == key || (k.ends_with('.') && key.starts_with(k)))
}

/// Sections that only we have: an unknown key inside is a mistake, not another version's key.
pub(crate) fn is_own_section(key: &str) -> bool {
    const OWN: &[&str] =
        &["raft", "storage", "channelruntime", "membership", "gateway", "proxyprotocol", "limits", "workers", "supervisor", "benchapi"];
    key.split('.').next().is_some_and(|section| OWN.contains(&section))
}
