//! `wkctl` on a node of systemd units (`wukongim.target`): status, start, stop, restart, scale and logs through `systemctl` and `journalctl`.
//! Everything else only the supervisor can do, and is answered so.

pub(super) mod quiesce;
mod units;

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use wk_config::Env;
use wk_proto::supervisor::v1 as pb;
use wk_types::{Daemon, Pool};

use super::cli::{Command, Output, Waiting};
use super::screen::Screen;
use super::status::{self, paint};
use super::table::{self, Look};
use super::{EXIT_INTERNAL, EXIT_PERMISSION, EXIT_UNKNOWN, EXIT_USAGE, Failure, find};
use crate::installed::{self, BOOTED, CONFIG, SUPERVISOR, TARGET};
use crate::limits::SLOTS_MAX;
use crate::names;

/// Pause between two pictures of `status --watch`.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Failed, left as it is.
const EXIT_FAILED: u8 = 5;
/// Exit status of systemctl for missing rights. Source: systemctl(1).
const SYSTEMCTL_PERMISSION: i32 = 4;

/// True when no supervisor runs here and the node is one of systemd units: they run, or were what ran last, or are to run after the next boot.
pub(super) fn applies(runtime: Option<&Path>, node: Option<u16>, env: &Env) -> bool {
    if runtime.is_some() || node.is_some() || !Path::new(BOOTED).exists() || find::node_dir(None, None, env).is_ok() {
        return false;
    }
    let shown = ask("systemctl", &["show", units::WAYS, SUPERVISOR, TARGET, "wk-*.service"]).unwrap_or_default();
    units::Ways { shown: &shown, last: installed::was_native() }.native()
}

/// Runs a command on the units.
pub(super) async fn run(command: Command, output: Output, env: &Env) -> Result<u8, Failure> {
    match command {
        Command::Status { deep: true, .. } => Err(only_supervisor("--deep")),
        Command::Status { names, watch, wide, deep: false } => {
            show(&names, watch, Look { paint: paint(env), wide, width: super::screen::width() }, output).await
        }
        Command::Start { names, no_rollback: false, keep_going: false, waiting } => act("start", &names, &waiting),
        Command::Stop { names, cascade: false, force_alone: false, fast: false, now: false, supervisor: false, waiting } => {
            act("stop", &names, &waiting)
        }
        Command::Restart { names, cascade: false, fast: false, now: false, waiting } => act("restart", &names, &waiting),
        Command::Scale { pool: (daemon, slots), waiting } => scale(&daemon, slots, &waiting),
        Command::Logs { names, follow, lines } => logs(&names, follow, lines),
        Command::Start { .. } | Command::Stop { .. } | Command::Restart { .. } => Err(only_supervisor("this flag")),
        _ => Err(only_supervisor("this command")),
    }
}

fn only_supervisor(what: &str) -> Failure {
    let how = "this node runs as systemd units; status, start, stop, restart, scale and logs work here";
    Failure::new(EXIT_USAGE, format!("{what} works only with the supervisor (systemctl start wukongim): {how}"))
}

async fn show(names: &[String], watch: bool, look: Look, output: Output) -> Result<u8, Failure> {
    if !watch {
        let snapshot = snapshot(names)?;
        writeln!(io::stdout(), "{}", picture(&snapshot, look, output))?;
        return Ok(status::code(&snapshot, !names.is_empty()));
    }
    let mut screen = if output == Output::Table { Some(Screen::open()?) } else { None };
    loop {
        let snapshot = snapshot(names)?;
        match &mut screen {
            Some(screen) => screen.draw(&picture(&snapshot, Look { width: super::screen::width(), ..look }, output))?,
            None => writeln!(io::stdout(), "{}", status::streamed(&snapshot, output))?,
        }
        // Both branches are cancel-safe: a timer and a signal.
        tokio::select! {
            () = tokio::time::sleep(REDRAW_EVERY) => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(status::code(&snapshot, !names.is_empty()));
            }
        }
    }
}

fn picture(snapshot: &pb::Snapshot, look: Look, output: Output) -> String {
    let ready = snapshot.instances.iter().filter(|i| i.state() == wk_proto::node::v1::State::Ready).count();
    let rows = || table::table(snapshot, look, &std::collections::BTreeMap::new());
    match output {
        Output::Table => {
            let all = snapshot.instances.len();
            format!(
                "{}  {}   {ready}/{all} ready   systemd units ({TARGET})\n\n{}",
                look.paint.strong("wukongim"),
                snapshot.overall,
                rows()
            )
        }
        other => status::machine(snapshot, other),
    }
}

fn snapshot(names: &[String]) -> Result<pb::Snapshot, Failure> {
    let loaded = loaded()?;
    let wanted = units::select(names, &loaded)?;
    let property = format!("--property={}", units::PROPERTIES.join(","));
    let mut args = vec!["show", property.as_str()];
    args.extend(wanted.iter().map(String::as_str));
    let text = ask("systemctl", &args)?;
    let instances = units::parse(&text, monotonic_us()).into_iter().map(|mut row| {
        if row.pid != 0 {
            let used = crate::process::usage(row.pid);
            (row.cpu_ms, row.memory_bytes, row.open_fds) = (used.cpu_ms, used.memory_bytes, used.open_fds);
        }
        row
    });
    let instances: Vec<pb::InstanceStatus> = instances.collect();
    let overall = units::overall(&instances).to_owned();
    Ok(pb::Snapshot { admitted: overall == "ready", overall, instances, ..Default::default() })
}

/// Names of the daemons' units: those that systemd knows of, further slots included, and those of the configuration.
fn loaded() -> Result<Vec<String>, Failure> {
    let text = ask("systemctl", &["list-units", "--all", "--plain", "--no-legend", "--full", "--type=service", "wk-*.service"])?;
    let wants = ask("systemctl", &["show", "--property=Wants", "--value", TARGET])?;
    Ok(units::known(&format!("{text}\n{wants}"), &configured()))
}

fn act(verb: &str, names: &[String], waiting: &Waiting) -> Result<u8, Failure> {
    let units = match names {
        // The stop of a target does not wait for what stops with it.
        [] if verb == "stop" => [TARGET, "wk-quiesce.service"].map(str::to_owned).into_iter().chain(loaded()?).collect(),
        [] => vec![TARGET.to_owned()],
        names => units::select(names, &loaded()?)?,
    };
    if names.is_empty() && verb != "stop" {
        refresh(waiting)?;
    }
    let mut args = vec![verb];
    args.extend(units.iter().map(String::as_str));
    systemctl(&args, waiting)
}

/// The set follows the configuration when systemd reads its units (`crate::generate`).
fn refresh(waiting: &Waiting) -> Result<(), Failure> {
    let behind = || Ok::<_, Failure>(ask("systemctl", &["show", "--property=NeedDaemonReload", "--value", TARGET])?.trim() == "yes");
    if installed::is_behind() || behind()? { systemctl(&["daemon-reload"], waiting).map(drop) } else { Ok(()) }
}

/// Further slots are enabled units: they are there again after a boot. The first ones are those of the configuration.
fn scale(daemon: &str, slots: u32, waiting: &Waiting) -> Result<u8, Failure> {
    let pool = match daemon.parse() {
        Ok(Daemon::Worker(pool)) => pool,
        Ok(other) => {
            return Err(Failure::new(EXIT_USAGE, format!("{other} cannot be scaled; worker.user, worker.channel and worker.push can")));
        }
        Err(_) => return Err(Failure::new(EXIT_UNKNOWN, names::unknown(daemon, &Pool::ALL.map(|p| Daemon::Worker(p).name().to_owned())))),
    };
    let slots = u16::try_from(slots).ok().filter(|s| (1..=SLOTS_MAX).contains(s));
    let slots = slots.ok_or_else(|| Failure::new(EXIT_USAGE, format!("slots are 1 to {SLOTS_MAX}")))?;
    let configured = configured().into_iter().find(|(p, _)| *p == pool).map_or(1, |(_, slots)| slots);
    if slots < configured {
        let text = format!("workers.{} is {configured} in {CONFIG}: lower it there, then `wkctl restart`, then this again", pool.name());
        return Err(Failure::new(EXIT_USAGE, text));
    }
    let (up, down) = units::scaled(pool, slots, &loaded()?);
    let mut code = 0;
    for (verb, list) in [("enable", up), ("disable", down)] {
        if !list.is_empty() {
            let mut args = vec![verb, "--now", "--quiet"];
            args.extend(list.iter().map(String::as_str));
            code = systemctl(&args, waiting)?;
        }
    }
    Ok(code)
}

/// Slots of the configuration; none when it cannot be read by this user: then only what systemd knows counts.
fn configured() -> Vec<(Pool, u16)> {
    let workers = installed::config().map(|config| config.workers);
    workers.map_or_else(|_| Vec::new(), |w| vec![(Pool::User, w.user), (Pool::Channel, w.channel), (Pool::Push, w.push)])
}

fn logs(names: &[String], follow: bool, lines: u32) -> Result<u8, Failure> {
    let mut args = vec!["--no-hostname".to_owned(), format!("--lines={lines}")];
    args.extend(follow.then(|| "--follow".to_owned()));
    args.extend(units::select(names, &loaded()?)?.into_iter().map(|unit| format!("--unit={unit}")));
    let ended = Process::new("journalctl").args(args).status().map_err(|e| missing("journalctl", &e))?;
    if ended.success() { Ok(0) } else { Err(Failure::new(EXIT_FAILED, format!("journalctl ended with {ended}"))) }
}

/// Runs systemctl before the operator's eyes, or says what would be run.
fn systemctl(args: &[&str], waiting: &Waiting) -> Result<u8, Failure> {
    if waiting.timeout.is_some() || waiting.no_wait || waiting.cancel_on_disconnect || !waiting.key.is_empty() {
        return Err(only_supervisor("this flag"));
    }
    if waiting.dry_run {
        writeln!(io::stdout(), "systemctl {}", args.join(" "))?;
        return Ok(0);
    }
    let ended = Process::new("systemctl").args(args).stdin(Stdio::null()).status().map_err(|e| missing("systemctl", &e))?;
    match ended.code() {
        Some(0) => Ok(0),
        Some(SYSTEMCTL_PERMISSION) => Err(Failure::new(
            EXIT_PERMISSION,
            "systemd refused: not permitted; call wkctl as root, or let polkit allow org.freedesktop.systemd1.manage-units",
        )),
        _ => Err(Failure::new(EXIT_FAILED, format!("systemctl {} ended with {ended}; `wkctl logs` says more", args.join(" ")))),
    }
}

fn ask(program: &str, args: &[&str]) -> Result<String, Failure> {
    let output = Process::new(program).args(args).stdin(Stdio::null()).output().map_err(|e| missing(program, &e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure::new(EXIT_INTERNAL, format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn missing(program: &str, error: &io::Error) -> Failure {
    Failure::new(EXIT_INTERNAL, format!("{program}: {error}"))
}

fn monotonic_us() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| u64::try_from(Duration::from(t).as_micros()).unwrap_or(0))
}
