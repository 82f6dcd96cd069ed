//! What a changed configuration means: which keys differ, who reads them, and when the change holds. Pure.
//!
//! Policies, deadlines and pool sizes hold at once. Everything else is read by daemons when they start, so it makes their next generation
//! differ from this one (`pending restart`). A few keys belong to the supervisor itself: they wait for its own restart.

use std::collections::BTreeMap;

use serde_json::Value;
use wk_types::{Daemon, Pool};

/// When a changed key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once.
    Live,
    /// With the next generation of those who read it.
    Restart,
    /// With the next start of the supervisor.
    Supervisor,
}

impl Effect {
    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Restart => "restart",
            Self::Supervisor => "supervisor",
        }
    }
}

/// One key that differs. Values are not kept: they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// "supervisor.stopTimeout".
    pub key: String,
    /// When it holds.
    pub effect: Effect,
    /// Who reads it.
    pub daemons: Vec<Daemon>,
}

const WORKERS: [Daemon; 3] = [Daemon::Worker(Pool::User), Daemon::Worker(Pool::Channel), Daemon::Worker(Pool::Push)];
const API_WORKERS: [Daemon; 4] = [Daemon::Api, Daemon::Worker(Pool::User), Daemon::Worker(Pool::Channel), Daemon::Worker(Pool::Push)];
const EDGE: [Daemon; 2] = [Daemon::Gateway, Daemon::Api];
const CLUSTER_WORKERS: [Daemon; 4] =
    [Daemon::Cluster, Daemon::Worker(Pool::User), Daemon::Worker(Pool::Channel), Daemon::Worker(Pool::Push)];

/// Who reads a key, by its first word; what is not here is read by all.
const READERS: [(&str, &[Daemon]); 33] = [
    ("addr", &EDGE),
    ("wsAddr", &EDGE),
    ("wssAddr", &EDGE),
    ("wssConfig", &[Daemon::Gateway]),
    ("disableJSONRPC", &[Daemon::Gateway]),
    ("connIdleTime", &[Daemon::Gateway]),
    ("proxyProtocol", &[Daemon::Gateway]),
    ("limits", &[Daemon::Gateway]),
    ("gateway", &[Daemon::Gateway]),
    ("httpAddr", &[Daemon::Api]),
    ("webhook", &[Daemon::Api]),
    ("datasource", &[Daemon::Api]),
    ("agent", &[Daemon::Api]),
    ("external", &[Daemon::Api]),
    ("intranet", &[Daemon::Api]),
    ("manager", &[Daemon::Api]),
    ("demo", &[Daemon::Api]),
    ("auth", &[Daemon::Api]),
    ("jwt", &[Daemon::Api]),
    ("trace", &[Daemon::Api]),
    ("benchApi", &[Daemon::Api]),
    ("managerToken", &API_WORKERS),
    ("tokenAuthOn", &WORKERS),
    ("managerUID", &WORKERS),
    ("whitelistOffOfPerson", &WORKERS),
    ("disableEncryption", &WORKERS),
    ("customerService", &WORKERS),
    ("tag", &WORKERS),
    ("links", &WORKERS),
    ("messageRetry", &WORKERS),
    ("channelRuntime", &CLUSTER_WORKERS),
    ("raft", &[Daemon::Cluster]),
    ("plugin", &[Daemon::PluginHost]),
];

const LIMITS: [&str; 5] = ["memoryMax", "pidsMax", "cpuWeight", "filesMax", "orphans"];

/// Keys that only the next supervisor can follow: it holds the locks of these folders, has this identity, and made these processes. Until
/// then new generations get the values that hold ([`holding`]).
const OWN: [&str; 14] = [
    "rootDir",
    "dataDir",
    "cluster.nodeId",
    "logger.dir",
    "workers.oneProcess",
    "supervisor.runtimeDir",
    "supervisor.cgroup",
    "supervisor.journal",
    "supervisor.sandbox",
    "supervisor.startRetries",
    "supervisor.logBytes",
    "supervisor.adminGroup",
    "supervisor.operatorGroup",
    "supervisor.viewerGroup",
];

/// Those of [`OWN`] that daemons read as well: who was started by another supervisor may be behind.
const OWN_READ: [(&str, &[Daemon]); 4] =
    [("rootDir", &Daemon::ALL), ("dataDir", &Daemon::ALL), ("cluster.nodeId", &Daemon::ALL), ("workers.oneProcess", &WORKERS)];

/// Limits, and its bond to us, are set when a process is made: `supervisor.daemons.<daemon>.<limit>`.
fn limit_of(key: &str) -> Option<Daemon> {
    let (daemon, field) = key.strip_prefix("supervisor.daemons.")?.rsplit_once('.')?;
    LIMITS.contains(&field).then(|| daemon.parse().ok()).flatten()
}

fn class(key: &str) -> (Effect, Vec<Daemon>) {
    if let Some(daemon) = limit_of(key) {
        return (Effect::Restart, vec![daemon]);
    }
    let first = key.split('.').next().unwrap_or_default();
    if OWN.contains(&key) {
        return (Effect::Supervisor, Vec::new());
    }
    match first {
        "supervisor" | "workers" => (Effect::Live, Vec::new()),
        "storage" | "membership" => (Effect::Restart, vec![Daemon::Cluster]),
        _ => {
            let readers = READERS.iter().find(|(word, _)| *word == first).map_or(&Daemon::ALL[..], |(_, list)| list);
            (Effect::Restart, readers.to_vec())
        }
    }
}

/// All keys of a resolved configuration with their values as text.
fn flatten(json: &str) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    // Our own text: it parses.
    walk(&serde_json::from_str(json).unwrap_or(Value::Null), String::new(), &mut flat);
    flat
}

fn walk(value: &Value, key: String, flat: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let below = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                walk(value, below, flat);
            }
        }
        other => {
            flat.insert(key, other.to_string());
        }
    }
}

/// Keys that differ between two resolved configurations, sorted.
#[must_use]
pub fn diff(old: &str, new: &str) -> Vec<Change> {
    let (old, new) = (flatten(old), flatten(new));
    let mut keys: Vec<&String> = old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))).collect();
    keys.sort();
    let differs = keys.into_iter().filter(|k| old.get(*k) != new.get(*k));
    differs
        .map(|key| {
            let (effect, daemons) = class(key);
            Change { key: key.clone(), effect, daemons }
        })
        .collect()
}

/// The keys that wait for the next supervisor, with their values in this configuration ([`wk_config::Config::to_json`]).
#[must_use]
pub fn own(json: &str) -> BTreeMap<String, String> {
    let mut keys = values(json);
    keys.retain(|key, _| OWN.contains(&key.as_str()));
    keys
}

/// The same configuration with the values of `own` where it has such a key; and the keys whose new values have to wait, sorted.
#[must_use]
pub fn holding(json: &str, own: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let mut keys = values(json);
    let mut waiting = Vec::new();
    for (key, held) in own.iter().filter(|(key, _)| OWN.contains(&key.as_str())) {
        if let Some(value) = keys.get_mut(key).filter(|value| *value != held) {
            value.clone_from(held);
            waiting.push(key.clone());
        }
    }
    // A map of strings is always valid JSON.
    (if waiting.is_empty() { json.to_owned() } else { serde_json::to_string(&keys).unwrap_or_default() }, waiting)
}

/// All keys of a resolved configuration, as it is written for the daemons.
fn values(json: &str) -> BTreeMap<String, String> {
    serde_json::from_str(json).unwrap_or_default()
}

/// A fingerprint per daemon of all that it reads: a generation with another one is behind the configuration.
#[must_use]
pub fn fingerprints(json: &str) -> BTreeMap<Daemon, u64> {
    let mut marks: BTreeMap<Daemon, u64> = Daemon::ALL.into_iter().map(|d| (d, 0xcbf2_9ce4_8422_2325)).collect();
    for (key, value) in flatten(json) {
        let (_, readers) = class(&key);
        let own = OWN_READ.iter().find(|(word, _)| *word == key).map_or(&[][..], |(_, list)| list);
        for daemon in readers.iter().chain(own) {
            if let Some(mark) = marks.get_mut(daemon) {
                let text = key.bytes().chain([0]).chain(value.bytes());
                *mark = text.fold(*mark, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            }
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_keys_their_readers_and_their_moment() {
        let old = r#"{"addr":"a","webhook":{"httpAddr":"x"},"workers":{"channel":1},"cluster":{"nodeId":1,"role":"r"},"supervisor":{"stopTimeout":"75s"}}"#;
        let new = r#"{"addr":"a","webhook":{"httpAddr":"y"},"workers":{"channel":2},"cluster":{"nodeId":2,"role":"s"},"supervisor":{"stopTimeout":"1s"}}"#;
        let got: Vec<(String, Effect, usize)> = diff(old, new).into_iter().map(|c| (c.key, c.effect, c.daemons.len())).collect();
        let want = [
            ("cluster.nodeId".to_owned(), Effect::Supervisor, 0),
            ("cluster.role".to_owned(), Effect::Restart, 7),
            ("supervisor.stopTimeout".to_owned(), Effect::Live, 0),
            ("webhook.httpAddr".to_owned(), Effect::Restart, 1),
            ("workers.channel".to_owned(), Effect::Live, 0),
        ];
        assert_eq!(got, want);
        assert!(diff(old, old).is_empty());
    }

    #[test]
    fn numbers_of_a_policy_hold_at_once_for_nobody_to_restart() {
        let json = |cap: &str, period: &str| {
            format!(r#"{{"supervisor.daemons.api.backoff.cap":"{cap}","supervisor.daemons.worker.user.liveness.period":"{period}"}}"#)
        };
        let (old, new) = (json("30s", "10s"), json("1s", "500ms"));
        let changes = diff(&old, &new);
        assert!(changes.len() == 2 && changes.iter().all(|c| c.effect == Effect::Live && c.daemons.is_empty()), "{changes:?}");
        assert_eq!(fingerprints(&old), fingerprints(&new));
    }

    #[test]
    fn only_the_readers_of_a_key_fall_behind() {
        let (old, new) = (fingerprints(r#"{"tag":{"expire":"1s"}}"#), fingerprints(r#"{"tag":{"expire":"2s"}}"#));
        let behind: Vec<Daemon> = Daemon::ALL.into_iter().filter(|d| old.get(d) != new.get(d)).collect();
        assert_eq!(behind, WORKERS);
    }

    #[test]
    fn what_waits_for_the_next_supervisor_keeps_its_value_and_is_named() {
        let old = wk_config::Config::default();
        let mut new = old.clone();
        (new.workers.one_process, new.cluster.node_id, new.data_dir, new.tag.expire) =
            (true, 7, "/elsewhere".into(), std::time::Duration::from_secs(1));
        let (json, waiting) = holding(&new.to_json(), &own(&old.to_json()));
        assert_eq!(waiting, ["cluster.nodeId", "dataDir", "workers.oneProcess"]);
        let held = wk_config::Config::from_json(&json).unwrap();
        assert_eq!((held.workers.one_process, held.cluster.node_id, &held.data_dir), (false, old.cluster.node_id, &old.data_dir));
        assert_eq!(held.tag.expire, new.tag.expire, "all others are new");
        let waits = diff(&old.to_json(), &new.to_json()).into_iter().filter(|c| c.effect == Effect::Supervisor);
        assert_eq!(waits.map(|c| c.key).collect::<Vec<_>>(), waiting);
        assert_eq!(holding(&json, &own(&json)), (json.clone(), Vec::new()));
    }

    #[test]
    fn who_was_started_in_another_folder_is_behind() {
        let marks = |dir: &str| fingerprints(&format!(r#"{{"dataDir":"{dir}"}}"#));
        let (old, new) = (marks("/a"), marks("/b"));
        assert!(Daemon::ALL.iter().all(|d| old.get(d) != new.get(d)));
    }

    /// Each word of the tables is a key of the schema, so that a renamed key is noticed.
    #[test]
    fn the_tables_name_real_keys() {
        let known = flatten(&wk_config::Config::default().to_json());
        let first = |word: &str| known.keys().any(|k| k == word || k.starts_with(&format!("{word}.")));
        for (word, _) in READERS {
            assert!(first(word), "{word}");
        }
        for key in OWN {
            assert!(known.contains_key(key), "{key}");
        }
        assert!(OWN_READ.iter().all(|(key, _)| OWN.contains(key)));
        for limit in LIMITS {
            let key = format!("supervisor.daemons.worker.user.{limit}");
            assert!(known.contains_key(&key) && limit_of(&key) == Some(Daemon::Worker(Pool::User)), "{key}");
        }
    }
}
