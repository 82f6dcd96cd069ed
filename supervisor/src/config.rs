//! What the supervisor takes from the configuration of the node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use wk_config::{ConfigError, Env, Inputs, JsonError, RuntimeError};
use wk_types::{Daemon, Pool};

use crate::backoff;
use crate::cgroup::{Choice, Limits};
use crate::roles::{Policy, Role};
use crate::spec::{Liveness, Orphans, RestartPolicy, Spec};

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--data`: base folder of data and logs.
    pub data: Option<PathBuf>,
    /// `--runtime`: base of the runtime folder.
    pub runtime: Option<PathBuf>,
    /// Unknown keys are errors.
    pub strict: bool,
}

/// A listener that the supervisor opens for a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicAddr {
    /// Who accepts on it.
    pub daemon: Daemon,
    /// Name of the descriptor.
    pub name: &'static str,
    /// Word shown to people.
    pub label: &'static str,
    /// Key in the configuration.
    pub key: &'static str,
    /// Where.
    pub addr: SocketAddr,
}

/// Everything about this node that does not change while the supervisor runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Cluster node id.
    pub node_id: u16,
    /// Resolved configuration for the daemons, secrets included.
    pub json: String,
    /// Keys of the file that differ from what holds: they wait for the next start of the supervisor.
    pub waiting: Vec<String>,
    /// First hexadecimal digits of its hash, shown in status.
    pub hash: String,
    /// Data folder.
    pub data_dir: PathBuf,
    /// Log folder.
    pub logs_dir: PathBuf,
    /// Runtime folder of the node.
    pub runtime_dir: PathBuf,
    /// Folder of the binaries.
    pub bin_dir: PathBuf,
    /// Public listeners.
    pub public: Vec<PublicAddr>,
    /// Daemons, edges, deadlines.
    pub spec: Spec,
    /// Slots of each daemon.
    pub slots: BTreeMap<Daemon, u16>,
    /// Attempts after a failed first start.
    pub start_retries: u16,
    /// Which control groups are used.
    pub cgroup: Choice,
    /// Log of consensus: a folder of its own, or in the data folder.
    pub raft_dir: PathBuf,
    /// Daemons may write only where they have to.
    pub sandbox: bool,
    /// Where events also go: `supervisor.journal`.
    pub journal: String,
    /// Bound of one log file. Unit: bytes.
    pub log_bytes: u64,
    /// First log filter.
    pub log_filter: String,
    /// Environment given to the daemons.
    pub child_env: Vec<(String, String)>,
    /// Why the file was refused, when an older configuration holds, and what to do.
    pub refused: Option<String>,
    /// To be shown once.
    pub warnings: Vec<String>,
    /// Who may do what on the control socket.
    pub roles: Policy,
    /// Where all this came from, to be read again.
    pub source: Source,
    /// The environment at that time.
    pub env: Env,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Problems in the file, the environment or flags, all of them.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No place for sockets.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A group of `supervisor.*Group`.
    #[error("{key} = {group:?}: there is no such group")]
    Group {
        /// Key.
        key: &'static str,
        /// Value.
        group: String,
    },
    /// What a predecessor held cannot be read.
    #[error("what holds until the next start of the supervisor")]
    Held(#[from] JsonError),
    /// Our own place is unknown, so are the binaries.
    #[error("find the folder of the binaries")]
    BinDir(#[source] std::io::Error),
}

/// Variables that every daemon inherits; all others are cleared.
const INHERITED: [&str; 15] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "WK_LOG",
    "WK_LOG_FORMAT",
    "WK_FAULTS",
    // Heard by workers and the cluster daemon in mode `test` only.
    "WK_FAULT_ABORT_PAYLOAD",
    "WK_FAULT_BUG",
    "WK_FAULT_WRITE_DELAY_MS",
];

impl Config {
    /// Reads file, environment and flags once.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(source: &Source, env: &Env) -> Result<Self, LoadError> {
        Self::of(source, env, rustix::process::geteuid().as_raw(), usable)
    }

    /// The same for another user. `usable`: whether it can use a base of the runtime folder.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn of(source: &Source, env: &Env, uid: u32, usable: impl Fn(&Path) -> bool) -> Result<Self, LoadError> {
        let mut flags = Vec::new();
        if let Some(data) = &source.data {
            flags.push(("rootDir", absolute(data), "--data"));
            flags.push(("dataDir", absolute(data), "--data"));
        }
        if let Some(runtime) = &source.runtime {
            flags.push(("supervisor.runtimeDir", absolute(runtime), "--runtime"));
        }
        let inputs = Inputs { file: None, env: env.clone(), flags: &flags, strict: source.strict };
        let loaded = wk_config::load_file(source.file.as_deref(), false, &inputs)?;
        Self::build(source, env, (&loaded.config, loaded.warnings), uid, usable)
    }

    fn build(
        source: &Source,
        env: &Env,
        (config, warnings): (&wk_config::Config, Vec<String>),
        uid: u32,
        usable: impl Fn(&Path) -> bool,
    ) -> Result<Self, LoadError> {
        let runtime_dir = wk_config::runtime_dir(config, env, uid, usable)?;
        let bin_dir = match env.get("WK_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => std::env::current_exe().map_err(LoadError::BinDir)?.parent().map_or_else(PathBuf::new, Path::to_path_buf),
        };
        let json = config.to_json();
        Ok(Self {
            node_id: config.cluster.node_id,
            hash: short_hash(&json),
            data_dir: config.data_path(),
            logs_dir: config.logs_path(),
            runtime_dir,
            bin_dir,
            public: public(config),
            spec: spec(config),
            slots: slots(config),
            start_retries: config.supervisor.start_retries,
            cgroup: Choice::parse(&config.supervisor.cgroup),
            raft_dir: config.raft_path(),
            sandbox: config.supervisor.sandbox,
            journal: config.supervisor.journal.clone(),
            log_bytes: config.supervisor.log_bytes.0,
            log_filter: env.get("WK_LOG").map_or_else(|| config.log_filter().to_owned(), str::to_owned),
            child_env: env.iter().filter(|(k, _)| INHERITED.contains(k)).map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            warnings,
            waiting: Vec::new(),
            refused: None,
            roles: roles(&config.supervisor, uid)?,
            source: source.clone(),
            env: env.clone(),
            json,
        })
    }

    /// Reads the configuration again, from the same places.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn again(&self) -> Result<Self, LoadError> {
        Self::load(&self.source, &self.env)
    }

    /// The same with the keys that wait for the next start of the supervisor as they are now (`own`, from [`crate::reload::own`]).
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn holding(self, own: &BTreeMap<String, String>) -> Result<Self, LoadError> {
        let (json, waiting) = crate::reload::holding(&self.json, own);
        if waiting.is_empty() {
            return Ok(self);
        }
        let (config, uid) = (wk_config::Config::from_json(&json)?, rustix::process::geteuid().as_raw());
        let held = Self::build(&self.source, &self.env, (&config, self.warnings), uid, usable)?;
        Ok(Self { waiting, ..held })
    }

    /// What held before the file was refused.
    ///
    /// # Errors
    /// `json` is no configuration.
    pub fn held(source: &Source, env: &Env, json: &str, refused: &LoadError) -> Result<Self, LoadError> {
        let (config, uid) = (wk_config::Config::from_json(json)?, rustix::process::geteuid().as_raw());
        let held = Self::build(source, env, (&config, Vec::new()), uid, usable)?;
        let why = crate::service::chain(refused);
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self { refused: Some(format!("{why}; what held before holds; correct it, then `wkctl reload`")), ..held })
    }

    /// Program of a daemon.
    #[must_use]
    pub fn exe(&self, daemon: Daemon) -> PathBuf {
        self.spec.daemons.get(&daemon).map_or_else(PathBuf::new, |s| self.bin_dir.join(s.binary))
    }

    /// File of the timing of the last starts.
    #[must_use]
    pub fn starts_path(&self) -> PathBuf {
        self.data_dir.join("supervisor").join("starts.json")
    }

    /// Health and link sockets of a generation.
    #[must_use]
    pub fn sockets(&self, name: wk_types::InstanceName, generation: u64) -> (PathBuf, PathBuf) {
        let file = format!("{name}.{generation}.sock");
        (self.runtime_dir.join("h").join(&file), self.runtime_dir.join("s").join(&file))
    }

    /// Log of an instance.
    #[must_use]
    pub fn log_path(&self, name: wk_types::InstanceName) -> PathBuf {
        self.logs_dir.join(format!("{name}.log"))
    }
}

/// Makes a path independent of the working folder; it need not exist.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).display().to_string()
}

/// A base folder that we may write, or could make. Makes nothing.
fn usable(base: &Path) -> bool {
    let there = base.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    there.is_dir() && rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

fn public(config: &wk_config::Config) -> Vec<PublicAddr> {
    let mut list = vec![
        PublicAddr { daemon: Daemon::Gateway, name: "tcp", label: "tcp", key: "addr", addr: config.addr.0 },
        PublicAddr { daemon: Daemon::Gateway, name: "ws", label: "ws", key: "wsAddr", addr: config.ws_addr.0 },
        PublicAddr { daemon: Daemon::Api, name: "http", label: "api", key: "httpAddr", addr: config.http_addr.0 },
    ];
    if let Some(wss) = config.wss_addr {
        list.push(PublicAddr { daemon: Daemon::Gateway, name: "wss", label: "wss", key: "wssAddr", addr: wss.0 });
    }
    if config.manager.on {
        list.push(PublicAddr { daemon: Daemon::Api, name: "manager", label: "manager", key: "manager.addr", addr: config.manager.addr.0 });
    }
    list
}

fn roles(config: &wk_config::Supervisor, uid: u32) -> Result<Policy, LoadError> {
    // Nobody is asked for a group without a name: it costs the libraries of the machine's name service.
    let gid = |key: &'static str, name: &str| match (!name.is_empty()).then(|| nix::unistd::Group::from_name(name)) {
        None => Ok(None),
        Some(Ok(Some(group))) => Ok(Some(group.gid.as_raw())),
        Some(_) => Err(LoadError::Group { key, group: name.to_owned() }),
    };
    let named = [(Role::Admin, &config.admin_group), (Role::Operator, &config.operator_group), (Role::Viewer, &config.viewer_group)];
    Ok(Policy {
        uid,
        names: named.into_iter().filter(|(_, name)| !name.is_empty()).map(|(role, name)| (role, name.clone())).collect(),
        admins: gid("supervisor.adminGroup", &config.admin_group)?.into_iter().collect(),
        operators: gid("supervisor.operatorGroup", &config.operator_group)?.into_iter().collect(),
        viewers: gid("supervisor.viewerGroup", &config.viewer_group)?.into_iter().collect(),
    })
}

fn spec(config: &wk_config::Config) -> Spec {
    let mut spec = Spec::standard(config.supervisor.start_timeout);
    spec.parallel = NonZeroU16::new(config.supervisor.start_parallelism);
    if config.workers.one_process {
        spec = spec.pools_together();
    }
    spec.stop_timeout = config.supervisor.stop_timeout;
    for (daemon, spec) in &mut spec.daemons {
        let policy = config.supervisor.daemons.of(*daemon);
        spec.start_timeout = policy.start_timeout.unwrap_or(spec.start_timeout);
        spec.term_deadline = policy.stop_timeout.unwrap_or(spec.term_deadline);
        spec.start_timeout_max = policy.start_timeout_max.unwrap_or(spec.start_timeout_max);
        spec.abort_on_timeout = policy.abort_on_timeout;
        spec.hard_stop = policy.hard_stop_timeout.or(spec.hard_stop);
        let (pauses, live) = (&policy.backoff, &policy.liveness);
        spec.backoff = backoff::Policy {
            base: pauses.base.0,
            factor: pauses.factor.0,
            cap: pauses.cap.0,
            jitter: pauses.jitter.0,
            reset_after: pauses.reset_after.0,
        };
        spec.liveness = Liveness { period: live.period.0, timeout: live.timeout.0, failures: live.failures.0 };
        spec.max_restarts = policy.max_restarts;
        spec.unready_restart = policy.unready_restart;
        spec.escalate_after = policy.escalate_after;
        spec.orphans = match policy.orphans {
            wk_config::Orphans::Adopt => Orphans::Adopt,
            wk_config::Orphans::Kill => Orphans::Kill,
        };
        spec.files_max = policy.files_max;
        spec.limits = Limits { memory_max: policy.memory_max.map(|size| size.0), pids_max: policy.pids_max, cpu_weight: policy.cpu_weight };
        spec.restart = match policy.restart {
            wk_config::Restart::Always => RestartPolicy::Always,
            wk_config::Restart::OnFailure => RestartPolicy::OnFailure,
            wk_config::Restart::Never => RestartPolicy::Never,
        };
    }
    spec
}

fn slots(config: &wk_config::Config) -> BTreeMap<Daemon, u16> {
    let workers = &config.workers;
    let mut slots: BTreeMap<Daemon, u16> = Daemon::ALL.into_iter().map(|d| (d, 1)).collect();
    slots.extend([
        (Daemon::Worker(Pool::User), workers.user),
        (Daemon::Worker(Pool::Channel), workers.channel),
        (Daemon::Worker(Pool::Push), workers.push),
    ]);
    slots
}

/// FNV-1a: tells configurations apart for people, protects nothing.
fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{:06x}", hash >> 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults are written down twice: for who reads the configuration, and for who has none.
    #[test]
    fn the_numbers_of_a_policy_are_by_default_those_of_the_design() {
        for (daemon, made) in spec(&wk_config::Config::default()).daemons {
            assert_eq!((made.backoff, made.liveness), (backoff::Policy::default(), Liveness::default()), "{daemon}");
        }
    }

    #[test]
    fn each_daemon_has_its_own_numbers() {
        let text = "supervisor: {daemons: {api: {backoff: {base: 1s, factor: 3, cap: 2s, jitter: 0, resetAfter: 5s}, \
                    liveness: {period: 4s, timeout: 1s, failures: 7}}}}";
        let loaded = wk_config::load(&Inputs { file: Some(("w.yaml", text)), ..Inputs::default() }).unwrap();
        let (spec, s) = (spec(&loaded.config), std::time::Duration::from_secs);
        assert_eq!(spec.backoff(Daemon::Api), backoff::Policy { base: s(1), factor: 3.0, cap: s(2), jitter: 0.0, reset_after: s(5) });
        assert_eq!(spec.liveness()[&Daemon::Api], Liveness { period: s(4), timeout: s(1), failures: 7 });
        assert_eq!(spec.backoff(Daemon::Gateway), backoff::Policy::default());
        assert_eq!(spec.liveness()[&Daemon::Gateway], Liveness::default());
    }
}
