//! What a process is given when it starts: its name, its descriptors, its configuration.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use wk_config::{Config, ConfigError, Env, Inputs, JsonError, Loaded, RuntimeError};
use wk_types::{Daemon, Incarnation, InstanceName};

use crate::args::Args;
use crate::exit::Exit;
use crate::fd::{FdError, NamedFds, sealed_text};
use crate::last_end::LastEnd;

/// Stop deadline of a daemon when its configuration says nothing (cluster 30 s, gateway 45 s).
pub const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// From TERM to the end, for this daemon.
#[must_use]
pub fn stop_timeout(config: &Config, daemon: Daemon) -> Duration {
    let default = match daemon {
        Daemon::Cluster => Duration::from_secs(30),
        Daemon::Gateway => Duration::from_secs(45),
        _ => STOP_TIMEOUT_DEFAULT,
    };
    config.supervisor.daemons.of(daemon).stop_timeout.unwrap_or(default)
}

/// Longest time that the store of the cluster daemon may take at a stop, when its configuration says nothing. As the supervisor's.
pub const HARD_STOP_DEFAULT: Duration = Duration::from_secs(300);

/// From TERM to the end for a daemon that is writing what it holds ([`crate::Context::closing`]).
#[must_use]
pub fn hard_stop_timeout(config: &Config, daemon: Daemon) -> Duration {
    let patient = stop_timeout(config, daemon);
    let default = if daemon == Daemon::Cluster { HARD_STOP_DEFAULT } else { patient };
    config.supervisor.daemons.of(daemon).hard_stop_timeout.unwrap_or(default).max(patient)
}

/// Why a process cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// `WK_INSTANCE` is not `<instance>/<generation>/<nonce>`.
    #[error("WK_INSTANCE is {0:?}, expected <instance>/<generation>/<nonce>")]
    Instance(String),
    /// The supervisor started this binary as another daemon.
    #[error("started as {instance}, but this program is {daemon}")]
    OtherDaemon {
        /// As launched.
        instance: InstanceName,
        /// What this program is.
        daemon: Daemon,
    },
    /// A variable or descriptor of the contract is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Passed descriptors.
    #[error("passed descriptors")]
    Fd(#[from] FdError),
    /// Handed-over configuration.
    #[error("handed-over configuration")]
    Json(#[from] JsonError),
    /// Configuration of our own loading. Its text has one line per problem.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Runtime folder.
    #[error("runtime folder")]
    Runtime(#[from] RuntimeError),
    /// A socket or folder of our own making.
    #[error("{what} {}", path.display())]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Path, or address.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// Exit code that goes with it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Instance(_) | Self::OtherDaemon { .. } | Self::Missing(_) | Self::Fd(_) => Exit::Usage,
            Self::Json(_) | Self::Config(_) | Self::Runtime(_) => Exit::BadConfig,
            Self::Socket { .. } => Exit::Temporary,
        }
    }
}

/// Everything a daemon is given.
#[derive(Debug)]
pub struct Launch {
    /// Name of this instance.
    pub instance: InstanceName,
    /// Spawn counter, from 1; 0 without a supervisor.
    pub generation: u64,
    /// Identity of this life.
    pub incarnation: Incarnation,
    /// Slots of the pool.
    pub slots: Vec<u16>,
    /// Resolved configuration.
    pub config: Arc<Config>,
    /// Runtime folder of the node.
    pub runtime_dir: PathBuf,
    /// Descriptors that nobody has taken yet.
    pub fds: NamedFds,
    /// True when a supervisor started us.
    pub supervised: bool,
    /// True when we are to join the node whose table the cluster daemon hosts.
    pub native: bool,
    /// How the life before this one ended.
    pub last_end: LastEnd,
    /// One line each, to be logged once.
    pub warnings: Vec<String>,
}

impl Launch {
    /// Reads the launch contract from the environment; without a supervisor falls back to `args`.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn from_env(daemon: Daemon, args: &Args, env: &Env) -> Result<Self, LaunchError> {
        match env.get("WK_INSTANCE") {
            Some(text) => Self::supervised(daemon, text, env),
            None => Self::alone(daemon, args, env),
        }
    }

    /// `<instance>/<generation>/<nonce>`: goes back as response metadata `wk-instance`.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}/{}/{:016x}", self.instance, self.generation, self.incarnation)
    }

    /// A launch with sockets of its own inside `dir`, for tests and for life without a supervisor. `dir` must exist.
    ///
    /// # Errors
    /// [`LaunchError::Socket`] when a socket cannot be made.
    pub fn in_dir(instance: InstanceName, config: Arc<Config>, dir: &Path) -> Result<Self, LaunchError> {
        let mut fds = NamedFds::default();
        let (health, link) = Self::sockets(instance, dir);
        for (name, path) in [("health", health), ("link", link)] {
            private_dir(path.parent().unwrap_or(dir))?;
            // A socket file that nobody listens on is left over from an earlier life.
            drop(fs::remove_file(&path));
            let listener = UnixListener::bind(&path).map_err(|source| LaunchError::Socket { what: "bind", path, source })?;
            fds.insert(name, listener);
        }
        Ok(Self {
            instance,
            generation: 0,
            incarnation: random(),
            slots: vec![instance.slot],
            config,
            runtime_dir: dir.to_owned(),
            fds,
            supervised: false,
            native: false,
            last_end: LastEnd::default(),
            warnings: Vec::new(),
        })
    }

    /// Health and link socket of an instance that made them itself.
    #[must_use]
    pub fn sockets(instance: InstanceName, dir: &Path) -> (PathBuf, PathBuf) {
        let file = format!("{instance}.0.sock");
        (dir.join("h").join(&file), dir.join("s").join(&file))
    }

    fn supervised(daemon: Daemon, text: &str, env: &Env) -> Result<Self, LaunchError> {
        let (instance, generation, incarnation) = parse_instance(text).ok_or_else(|| LaunchError::Instance(text.to_owned()))?;
        if instance.daemon != daemon {
            return Err(LaunchError::OtherDaemon { instance, daemon });
        }
        let var = |name| env.get(name).ok_or(LaunchError::Missing(name));
        let mut fds = NamedFds::inherit(var("WK_LISTEN_FDS")?, var("WK_LISTEN_FDNAMES")?)?;
        let config = fds.take("config").ok_or(LaunchError::Missing("descriptor config"))?;
        let config = Config::from_json(&sealed_text(config, "config")?)?;
        if !fds.has("health") {
            return Err(LaunchError::Missing("descriptor health"));
        }
        let slots = parse_slots(env.get("WK_SLOTS").unwrap_or_default(), instance.slot);
        let runtime_dir = PathBuf::from(var("WK_RUNTIME")?);
        let config = Arc::new(config);
        Ok(Self {
            instance,
            generation,
            incarnation,
            slots,
            config,
            runtime_dir,
            fds,
            supervised: true,
            native: false,
            last_end: LastEnd::told(env),
            warnings: Vec::new(),
        })
    }

    fn alone(daemon: Daemon, args: &Args, env: &Env) -> Result<Self, LaunchError> {
        let passed = match (env.get("LISTEN_PID"), env.get("LISTEN_FDS")) {
            (Some(pid), Some(count)) if pid == std::process::id().to_string() => {
                NamedFds::inherit(count, &distinct(env.get("LISTEN_FDNAMES").unwrap_or_default()))?
            }
            _ => NamedFds::default(),
        };
        let (loaded, dir) = locate(args, env)?;
        private_dir(&dir)?;
        let mut launch = Self::in_dir(InstanceName { daemon, slot: args.slot }, Arc::new(loaded.config), &dir)?;
        launch.native = true;
        launch.last_end = LastEnd::take(&dir, launch.instance);
        launch.warnings = loaded.warnings;
        launch.take_public(passed)?;
        Ok(launch)
    }

    /// Public listeners of a daemon that runs alone: those systemd passed, else bound here.
    fn take_public(&mut self, mut passed: NamedFds) -> Result<(), LaunchError> {
        let config = Arc::clone(&self.config);
        let wanted = match self.instance.daemon {
            Daemon::Gateway => vec![("tcp", Some(config.addr)), ("ws", Some(config.ws_addr)), ("wss", config.wss_addr)],
            Daemon::Api => vec![("http", Some(config.http_addr)), ("manager", config.manager.on.then_some(config.manager.addr))],
            _ => Vec::new(),
        };
        for (name, addr) in wanted {
            let fd: Option<OwnedFd> = match (passed_listener(&mut passed, name, addr.map(|a| a.port())), addr) {
                (Some(fd), _) => Some(fd),
                (None, None) => None,
                (None, Some(addr)) => {
                    let failed = |source| LaunchError::Socket { what: "listen on", path: addr.to_string().into(), source };
                    Some(TcpListener::bind(addr.0).map_err(failed)?.into())
                }
            };
            if let Some(fd) = fd {
                self.fds.insert(name, fd);
            }
        }
        let unused = passed.numbers().into_iter().map(|(name, _)| name);
        self.warnings
            .extend(unused.map(|name| format!("systemd passed a descriptor {name:?} that no key of the configuration names; closed")));
        Ok(())
    }
}

/// What `ExecStopPost=` does: leaves a note of how this instance ended, for its next life.
///
/// # Errors
/// [`LaunchError`].
pub(crate) fn note_end(daemon: Daemon, args: &Args, env: &Env) -> Result<(), LaunchError> {
    let (_, dir) = locate(args, env)?;
    let noted = LastEnd::note(env, &dir, InstanceName { daemon, slot: args.slot });
    noted.map_err(|source| LaunchError::Socket { what: "note the end of this instance in", path: dir, source })
}

/// Configuration and runtime folder of a daemon without a supervisor.
fn locate(args: &Args, env: &Env) -> Result<(Loaded, PathBuf), LaunchError> {
    let data = args.data.as_ref().map(|d| d.display().to_string());
    let flags: Vec<(&str, String, &str)> = data.map(|d| ("dataDir", d, "--data")).into_iter().collect();
    let inputs = Inputs { env: env.clone(), flags: &flags, ..Inputs::default() };
    let loaded = wk_config::load_file(args.config.as_deref(), args.ignore_missing_config, &inputs)?;
    let uid = Uid::effective().as_raw();
    let usable = |base: &Path| fs::create_dir_all(base).is_ok() && nix::unistd::access(base, nix::unistd::AccessFlags::W_OK).is_ok();
    let dir = match &args.runtime {
        Some(dir) => dir.clone(),
        None => wk_config::runtime_dir(&loaded.config, env, uid, usable)?,
    };
    Ok((loaded, dir))
}

/// A descriptor of this name, else the listener on this port: a socket unit has one name for all of its listeners.
fn passed_listener(passed: &mut NamedFds, name: &str, port: Option<u16>) -> Option<OwnedFd> {
    let name = match (passed.has(name), port) {
        (true, _) => name.to_owned(),
        (false, port) => passed.listening_on(port?)?,
    };
    passed.take(&name)
}

/// Names that occur again get a number, as descriptors have one name each.
fn distinct(names: &str) -> String {
    let mut seen: Vec<String> = Vec::new();
    for name in names.split(':') {
        let again = seen.iter().filter(|s| s.split('#').next() == Some(name)).count();
        seen.push(if again == 0 { name.to_owned() } else { format!("{name}#{again}") });
    }
    seen.join(":")
}

fn private_dir(dir: &Path) -> Result<(), LaunchError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| LaunchError::Socket { what: "create", path: dir.to_owned(), source })
}

fn parse_instance(text: &str) -> Option<(InstanceName, u64, Incarnation)> {
    let mut parts = text.split('/');
    let (instance, generation, nonce) = (parts.next()?, parts.next()?, parts.next()?);
    let incarnation = Incarnation::from_str_radix(nonce, 16).ok().filter(|n| *n != 0)?;
    let named = instance.contains('@').then(|| instance.parse().ok())??;
    parts.next().is_none().then_some((named, generation.parse().ok()?, incarnation))
}

/// `WK_SLOTS`: the pool's slots as a list (`0,1,2`), or as their number (`3`: 0..3). Our own slot is always among them.
fn parse_slots(text: &str, own: u16) -> Vec<u16> {
    let mut slots: Vec<u16> = match text.parse::<u16>() {
        Ok(count) => (0..count).collect(),
        Err(_) => text.split([',', ' ']).filter_map(|s| s.parse().ok()).collect(),
    };
    if !slots.contains(&own) {
        slots.push(own);
        slots.sort_unstable();
    }
    slots
}

/// A random number, never 0, from the hasher's seed.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_text() {
        let (name, generation, nonce) = parse_instance("worker.user@3/7/00000000000000ff").unwrap();
        assert_eq!((name.to_string().as_str(), generation, nonce), ("worker.user@3", 7, 255));
        for bad in ["", "worker.user/1/ff", "worker.user@0/1", "worker.user@0/1/0", "x@0/1/1", "gateway@0/1/1/1", "gateway@0/x/1"] {
            assert!(parse_instance(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn slots_by_count_or_list() {
        assert_eq!(parse_slots("3", 0), [0, 1, 2]);
        assert_eq!(parse_slots("0,2", 2), [0, 2]);
        assert_eq!(parse_slots("", 4), [4]);
    }

    #[test]
    fn a_launch_without_a_supervisor_makes_its_own_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let instance = InstanceName { daemon: Daemon::PluginHost, slot: 0 };
        let mut launch = Launch::in_dir(instance, Arc::new(Config::default()), dir.path()).unwrap();
        assert!(launch.fds.take("health").is_some() && launch.fds.take("link").is_some());
        assert!(dir.path().join("h/plugin-host@0.0.sock").exists());
        assert!(launch.identity().starts_with("plugin-host@0/0/"));
    }

    #[test]
    fn listeners_of_a_socket_unit_are_told_apart_by_their_ports() {
        assert_eq!(distinct("public:public:x:public"), "public:public#1:x:public#2");
        assert_eq!(distinct(""), "");
        let listeners = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap()];
        let ports = listeners.each_ref().map(|l| l.local_addr().unwrap().port());
        let mut passed = NamedFds::default();
        for (name, listener) in ["public", "public#1"].into_iter().zip(listeners) {
            passed.insert(name, listener);
        }
        let taken = passed_listener(&mut passed, "ws", Some(ports[1])).unwrap();
        assert_eq!(TcpListener::from(taken).local_addr().unwrap().port(), ports[1]);
        assert!(passed_listener(&mut passed, "wss", None).is_none());
        assert!(passed_listener(&mut passed, "public", Some(1)).is_some(), "by its name");
    }

    #[test]
    fn a_launch_as_another_daemon_is_refused() {
        let env = Env::from_pairs([("WK_INSTANCE", "gateway@0/1/1")]);
        let err = Launch::from_env(Daemon::Api, &Args::default(), &env).unwrap_err();
        assert_eq!(err.exit(), Exit::Usage);
    }
}
