//! Builds the parts of the supervisor and runs them: folders and locks → heritage → sockets → control thread → engine.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;
use wk_config::Env;
use wk_proto::node::v1::node_table_server::NodeTableServer;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_server::SupervisorServer;
use wk_rpc::serve::ServeError;

use crate::cgroup::Cgroups;
use crate::config::{Config, LoadError, Source};
use crate::console::Console;
use crate::control::{ControlService, Guard, NodeService, Shared, accepted};
use crate::engine::{Engine, Ports, Sockets};
use crate::events::{Hub, Journal};
use crate::fence;
use crate::heritage::{self, Heritage};
use crate::installed;
use crate::kept;
use crate::limits::{COMMANDS_MAX, EVENTS_QUEUE_MAX, NOFILE};
use crate::logs::{self, Cuts};
use crate::mend::{self, Mended, connections};
use crate::metrics::Counters;
use crate::notify::{self, Beat, Notifier, Passed};
use crate::orphans;
use crate::overrides::Overrides;
use crate::reexec::{self, Origin, Taken};
use crate::runtime::{Runtime, RuntimeError};
use crate::sys;
use crate::table::plan::Experience;
use crate::table::{Flags, Kind, Request, Table};

/// Wrong command line.
pub const EXIT_USAGE: u8 = 64;
/// A mistake of the program, or processes that could not be killed.
pub const EXIT_CHILDREN_LEFT: u8 = 70;
/// Another supervisor has this node.
pub const EXIT_HELD: u8 = 75;
/// Not permitted.
pub const EXIT_PERMISSION: u8 = 77;
/// Configuration refused.
pub const EXIT_CONFIG: u8 = 78;
/// First start failed and was rolled back.
pub const EXIT_START_FAILED: u8 = 100;

/// A crash loop ended the node.
pub const EXIT_ESCALATED: u8 = 101;

/// Socket for `wkctl`, in the runtime folder.
const CONTROL: &str = "control.sock";
/// Socket for the daemons, beside it.
const NODES: &str = "node.sock";
/// How long the control thread may take to deliver last words.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Command line of `wksupervisor run`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the configuration comes from.
    pub source: Source,
    /// End a resident supervisor of this node whose daemons are all down.
    pub replace: bool,
    /// Copy of the output for a waiting caller.
    pub notify_fd: Option<i32>,
}

/// The supervisor cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Folders and locks.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A socket of our own.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ServiceError {
    /// Exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self {
            Self::Load(_) => EXIT_CONFIG,
            Self::Runtime(RuntimeError::Held { .. }) => EXIT_HELD,
            Self::Runtime(RuntimeError::Owner(_)) => EXIT_PERMISSION,
            Self::Runtime(RuntimeError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => EXIT_PERMISSION,
            Self::Runtime(RuntimeError::Io { .. }) | Self::Io { .. } => EXIT_CHILDREN_LEFT,
        }
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServiceError {
    let what = what.into();
    move |source| ServiceError::Io { what, source }
}

/// The graph of a configuration, without a node.
///
/// # Errors
/// The configuration is refused.
pub fn graph(source: &Source, env: &Env) -> Result<pb::GraphReply, ServiceError> {
    Ok(graph_of(&Config::load(source, env)?))
}

/// The same of a configuration that was read.
#[must_use]
pub fn graph_of(config: &Config) -> pb::GraphReply {
    let nodes = config.spec.daemons.iter().map(|(daemon, spec)| pb::GraphNode {
        daemon: daemon.name().into(),
        requires: spec.requires.iter().map(|d| d.name().to_owned()).collect(),
        required: spec.required,
        slots: config.slots.get(daemon).copied().unwrap_or(1).into(),
        ready: 0,
        state: "down".into(),
    });
    pb::GraphReply { nodes: nodes.collect() }
}

/// What a start of this configuration would do, with the times that are known of earlier ones.
///
/// # Errors
/// The configuration is refused.
pub fn plan(source: &Source, env: &Env) -> Result<pb::PlanReply, ServiceError> {
    let config = Config::load(source, env)?;
    let mut table = Table::new(config.spec.clone(), config.slots.clone(), 1, 1);
    table.preset(&Overrides::open(&config).over(&config.slots));
    let request = Request::new(Kind::Start, Vec::new(), Flags::default());
    let starts = crate::starts::load(&config.starts_path());
    Ok(crate::control::plan_reply(table.plan(&request, &Experience::of(&starts))))
}

/// Writes the manual pages of a command line and of its subcommands.
///
/// # Errors
/// The folder cannot be made or written.
pub fn write_man(command: clap::Command, dir: &Path) -> Result<u8, ServiceError> {
    fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir)).map_err(failed(dir.display().to_string()))?;
    Ok(0)
}

/// Runs the supervisor to its end. Returns the exit code.
///
/// # Errors
/// It could not begin; nothing was started.
pub fn run(options: Options, env: &Env) -> Result<u8, ServiceError> {
    crate::panic::abort_on_panic();
    reexec::hold_signals().map_err(failed("hold signals back"))?;
    sys::seal_inherited().map_err(failed("close inherited descriptors on exec"))?;
    let mut passed = Passed::take(env).map_err(failed("descriptors passed by systemd"))?;
    let origin = Origin::here().map_err(failed("find our own binary"))?;
    if let Some(taken) = reexec::take(env).map_err(failed("state of the binary before us"))? {
        return go_on(taken, &options, origin, env);
    }
    let waiter = options.notify_fd.map(sys::inherited).transpose().map_err(failed("--detach-notify-fd"))?;
    let mut console = Console::new(env.get("NO_COLOR").is_some_and(|v| !v.is_empty()), waiter.map(File::from));
    let code = match begin(&options, env, &mut passed, &mut console) {
        Ok((config, runtime, heritage)) => {
            let sockets = [bound(&config, mend::Socket::Control)?, bound(&config, mend::Socket::Nodes)?];
            serve(Arc::new(config), (runtime, heritage), console, Surroundings { env, passed, origin, sockets })?
        }
        Err(error) => {
            console.to_waiter(&chain(&error));
            console.detached(error.exit());
            return Err(error);
        }
    };
    Ok(code)
}

/// Says whether this binary could take the place of a running one, whose state is on standard input, with the configuration as it is now.
///
/// # Errors
/// It could not.
pub fn trial(source: &Source, env: &Env) -> Result<u8, ServiceError> {
    let own = reexec::trial().map_err(failed("state of the running supervisor"))?;
    let config = Config::load(source, env)?.holding(&own)?;
    config.spec.check().map_err(|e| failed(e.to_string())(io::Error::other("graph")))?;
    Ok(0)
}

/// Takes the place of the binary that was this process before.
fn go_on(taken: Taken, options: &Options, origin: Origin, env: &Env) -> Result<u8, ServiceError> {
    // The trial has read the file; a moment later it may be another. There are daemons to look after whatever it says.
    let loaded = Config::load(&options.source, env).and_then(|config| config.holding(&taken.own));
    let config = loaded.or_else(|refused| Config::held(&options.source, env, &taken.config, &refused))?;
    let Taken { saved, own: _, config: _, locks, control, nodes, listeners, children } = taken;
    let runtime = Runtime::inherit(&config.runtime_dir, &config.data_dir, locks);
    let mut console = Console::new(env.get("NO_COLOR").is_some_and(|v| !v.is_empty()), None);
    console.line(&format!("supervisor {} goes on with {} processes", env!("CARGO_PKG_VERSION"), children.len()));
    let heritage = heritage::go_on(&config, &runtime, saved, children, listeners)?;
    let surroundings = Surroundings { env, passed: Passed::default(), origin, sockets: [control, nodes] };
    serve(Arc::new(config), (runtime, heritage), console, surroundings)
}

/// What the supervisor has beside its node.
struct Surroundings<'a> {
    env: &'a Env,
    passed: Passed,
    origin: Origin,
    /// For `wkctl`, for the daemons.
    sockets: [UnixListener; 2],
}

/// The error and what is below it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

fn begin(options: &Options, env: &Env, passed: &mut Passed, console: &mut Console) -> Result<(Config, Runtime, Heritage), ServiceError> {
    let (config, census) = kept::load(&options.source, env)?;
    config.spec.check().map_err(|e| failed(e.to_string())(io::Error::other("graph")))?;
    raise_nofile();
    let runtime = match Runtime::open(&config.runtime_dir, &config.data_dir, &config.logs_dir) {
        Err(RuntimeError::Held { path, holder }) if options.replace => {
            if !replace_resident(&config.runtime_dir) {
                return Err(RuntimeError::Held { path, holder }.into());
            }
            Runtime::open(&config.runtime_dir, &config.data_dir, &config.logs_dir)?
        }
        other => other?,
    };
    if let Some(base) = config.runtime_dir.parent() {
        installed::supervised(base);
    }
    console.banner(config.node_id, std::process::id(), &config.data_dir.display().to_string());
    for warning in &config.warnings {
        console.line(&format!("warning: {warning}"));
    }
    let heritage = heritage::find(&config, &runtime, passed, census)?;
    if !heritage.ended.is_empty() {
        console.line(&format!("ended what belongs to nobody: {}", heritage.ended.join(", ")));
    }
    Ok((config, runtime, heritage))
}

fn raise_nofile() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(NOFILE).min(NOFILE);
    if limit.current.is_some_and(|c| c < wanted)
        && let Err(err) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        tracing::warn!(%err, wanted, "limit of descriptors not raised");
    }
}

/// Ends a resident supervisor whose daemons are all down; true when it is gone.
fn replace_resident(dir: &Path) -> bool {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return false };
    runtime.block_on(crate::ctl::replace(dir)).unwrap_or(false)
}

fn serve(
    config: Arc<Config>,
    (runtime, heritage): (Runtime, Heritage),
    console: Console,
    around: Surroundings<'_>,
) -> Result<u8, ServiceError> {
    let log = logs_to_file(&config)?;
    let Surroundings { env, passed, origin, sockets: [control, nodes] } = around;
    let copy = |socket: &UnixListener| socket.as_fd().try_clone_to_owned().map_err(failed("copy a socket"));
    let sockets = Sockets { origin, control: copy(&control)?, nodes: copy(&nodes)? };
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let (events_in, events) = mpsc::channel(EVENTS_QUEUE_MAX);
    let counters = Arc::new(Counters::default());
    if config.sandbox && !fence::available() {
        tracing::warn!("no Landlock: daemons can write wherever their user can; `wksupervisor check` says more");
    }
    let journal = Journal::open(&config.journal, env).map_err(failed("a socket for the journal"))?;
    let hub = Hub::open(&config.logs_dir, counters.clone()).with_journal(journal);
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("start the engine"))?;
    let (beat, watchdog) = (Arc::new(Beat::default()), notify::watchdog(env));
    let ports = Ports { commands, events: events_in };
    let (engine, published) = Engine::new(config.clone(), runtime, heritage, ports, counters.clone(), console);
    orphans::become_parent().map_err(failed("become the parent of orphans"))?;
    let cgroups = Cgroups::open(&config.cgroup);
    let containment = match &cgroups {
        Ok(cgroups) => cgroups.describe(),
        Err(why) => format!("process groups and orphans, no limits (cgroup: {why})"),
    };
    tracing::info!(containment, "how processes are held together");
    let cuts = Arc::new(Cuts::default());
    let shared = Shared {
        containment,
        config: config.clone(),
        began: Instant::now(),
        exec: crate::spawn::nonce().map_err(failed("random number"))?,
        snapshot: published.snapshot,
        nodes: published.nodes,
        commands: commands_in,
        counters,
        events: hub,
        cuts: cuts.clone(),
        sampler: Arc::default(),
    };
    let (end, ended) = oneshot::channel();
    let engine = engine
        .with_systemd(Notifier::new(env, watchdog, beat.clone()), passed)
        .with_sockets(sockets)
        .with_cgroups(cgroups.ok())
        .with_cuts(cuts);
    let thread = control_thread([control, nodes], shared, events, ended, async move { beat.run(watchdog).await })?;
    let (code, locks) = executor.block_on(engine.run()).map_err(failed("install signal handlers"))?;
    // The engine is gone, so every stream of the control thread has ended; it has a moment to deliver what is queued.
    drop(end);
    let until = Instant::now() + LAST_WORDS;
    while !thread.is_finished() && Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    for name in [CONTROL, NODES] {
        if let Err(err) = fs::remove_file(config.runtime_dir.join(name)) {
            tracing::warn!(%err, name, "socket not removed");
        }
    }
    drop((log, locks));
    Ok(code)
}

/// The supervisor's own log goes to `supervisor.log`: standard output belongs to people.
fn logs_to_file(config: &Config) -> Result<wk_telemetry::LogHandle, ServiceError> {
    log_to(&config.logs_dir.join("supervisor.log"))?;
    wk_telemetry::init(&config.log_filter, wk_telemetry::Format::Text).map_err(|e| failed("log filter")(io::Error::other(e)))
}

/// Puts a file in the place of standard error.
///
/// # Errors
/// It cannot be opened for writing.
pub fn log_to(path: &Path) -> Result<(), ServiceError> {
    let file = File::options().create(true).append(true).open(path).map_err(failed(path.display().to_string()))?;
    rustix::stdio::dup2_stderr(&file).map_err(|e| failed("log")(e.into()))
}

/// `others`: peers of other users may connect; what they may do is judged by their credentials, not by the mode.
fn listen(path: &Path, others: bool) -> Result<UnixListener, ServiceError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(path.display().to_string())(e)),
        _ => {}
    }
    // Bound, given its mode, and only then opened for connections: nobody gets in between.
    let made = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|socket| {
        socket.bind(&SockAddr::unix(path)?)?;
        fs::set_permissions(path, Permissions::from_mode(if others { 0o666 } else { 0o600 }))?;
        socket.listen(128)?;
        Ok(UnixListener::from(socket))
    });
    made.map_err(failed(path.display().to_string()))
}

/// Path of one of our sockets and how to make it.
fn mended(shared: &Shared, which: mend::Socket) -> Mended<impl Fn() -> io::Result<UnixListener> + use<>> {
    let config = shared.config.clone();
    let path = config.runtime_dir.join(match which {
        mend::Socket::Control => CONTROL,
        mend::Socket::Nodes => NODES,
    });
    let bind = move || {
        Runtime::make_folders(&config.runtime_dir).map_err(io::Error::other)?;
        bound(&config, which).map_err(io::Error::other)
    };
    Mended { which, path, bind, commands: shared.commands.clone() }
}

fn bound(config: &Config, which: mend::Socket) -> Result<UnixListener, ServiceError> {
    let (dir, others) = (&config.runtime_dir, config.roles.is_open());
    if which == mend::Socket::Nodes {
        return listen(&dir.join(NODES), false);
    }
    if others {
        // Others may walk to the control socket; the folders of the other sockets stay closed.
        fs::set_permissions(dir, Permissions::from_mode(0o711)).map_err(failed(dir.display().to_string()))?;
    }
    listen(&dir.join(CONTROL), others)
}

fn control_thread(
    [control, nodes]: [UnixListener; 2],
    shared: Shared,
    events: mpsc::Receiver<pb::Event>,
    mut ended: oneshot::Receiver<()>,
    beat: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<()>, ServiceError> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("start the control thread"))?;
    let serve = async move {
        let (stop_in, stop) = tokio::sync::watch::channel(false);
        let stopped = |mut stop: tokio::sync::watch::Receiver<bool>| async move {
            // An error means that the sender is gone: the same news.
            drop(stop.wait_for(|s| *s).await);
        };
        let hub = shared.events.clone();
        let service = Guard::new(SupervisorServer::new(ControlService(shared.clone())), Arc::new(shared.config.roles.clone()), hub.clone());
        let control = async {
            let incoming = connections(control, mended(&shared, mend::Socket::Control)).map_err(ServeError::Listener)?;
            let (routes, options) = (Routes::new(service), wk_rpc::ServeOptions::default());
            wk_rpc::serve_incoming(accepted(incoming), routes, options, stopped(stop.clone())).await
        };
        let table = async {
            let incoming = connections(nodes, mended(&shared, mend::Socket::Nodes)).map_err(ServeError::Listener)?;
            let (routes, options) = (Routes::new(NodeTableServer::new(NodeService(shared.clone()))), wk_rpc::ServeOptions::default());
            wk_rpc::serve_incoming(incoming.map(Ok), routes, options, stopped(stop.clone())).await
        };
        let keep = logs::keep(shared.config.logs_dir.clone(), shared.config.log_bytes, shared.cuts.clone(), shared.counters.clone());
        let end = async move {
            // Neither beat nor keeper has an end of its own; an error means that the engine is gone.
            tokio::select! {
                _ = &mut ended => stop_in.send_replace(true),
                () = beat => false,
                () = keep => false,
            };
        };
        let (control, table, (), ()) = tokio::join!(control, table, end, hub.run(events));
        for served in [control, table] {
            if let Err(err) = served {
                tracing::error!(err = &err as &dyn std::error::Error, "control socket failed");
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(move || executor.block_on(serve)).map_err(failed("start the control thread"))
}
