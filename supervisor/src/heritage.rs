//! With what a supervisor begins: nothing, or the node of a predecessor that was killed.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rustix::process::Pid;
use wk_types::{Daemon, InstanceName};

use crate::adopt::{self, Census, Found, Marker, Program, Survey};
use crate::cause::Exit;
use crate::config::Config;
use crate::ledger::{Ledger, Saved};
use crate::leftovers::Patience;
use crate::listeners::Listeners;
use crate::notify::{self, Passed};
use crate::overrides::Overrides;
use crate::process::Process;
use crate::runtime::{Runtime, RuntimeError};
use crate::spec::DaemonSpec;
use crate::table::{Leaving, Table};

/// What the engine begins with.
#[derive(Debug)]
pub struct Heritage {
    /// Desired and actual state.
    pub table: Table,
    /// Zero of its clock.
    pub zero: Instant,
    /// Last durable epoch.
    pub epoch: u64,
    /// Public listeners that are open already.
    pub listeners: Listeners,
    /// Processes taken over.
    pub children: Vec<Found>,
    /// Recorded processes that died meanwhile.
    pub dead: Vec<(InstanceName, Exit)>,
    /// An operation to be finished.
    pub leaving: Option<Leaving>,
    /// The first start is over.
    pub started: bool,
    /// Foreign processes of the node that were ended, in words.
    pub ended: Vec<String>,
    /// The record of the predecessor.
    pub said: Saved,
}

/// Now, by the clock that the record is written in. Unit: ns.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn new_table(config: &Config, epoch: u64) -> Table {
    let seed = u64::from(std::process::id()) << 32 | u64::from(config.node_id);
    let mut table = Table::new(config.spec.clone(), config.slots.clone(), epoch, seed);
    table.preset(&Overrides::open(config).over(&config.slots));
    table
}

/// Slots as configured, by daemon name.
#[must_use]
pub fn configured(config: &Config) -> BTreeMap<String, u16> {
    config.slots.iter().map(|(d, n)| (d.name().to_owned(), *n)).collect()
}

/// Looks for a predecessor's node and takes it over; `passed`: what systemd kept of it. The caller holds the locks, so none is alive.
/// `census`: taken before that; who begins a process leaves a record first, so it still holds where there is none.
///
/// # Errors
/// The epoch cannot be read or written, old sockets cannot be removed.
pub fn find(config: &Config, runtime: &Runtime, passed: &mut Passed, census: Option<Census>) -> Result<Heritage, RuntimeError> {
    let wanted = |s: &DaemonSpec| Program { binary: config.bin_dir.join(s.binary), args: s.args.iter().map(ToString::to_string).collect() };
    let programs: BTreeMap<Daemon, Program> = config.spec.daemons.iter().map(|(d, s)| (*d, wanted(s))).collect();
    let saved = Ledger::read(&runtime.ledger());
    let patience = Patience { hard: config.spec.hard_stops(), working: &|| notify::more_time(&config.env) };
    let census = census.filter(|_| !Runtime::has_ledger(runtime.dir()));
    let survey = adopt::survey(runtime.dir(), census, saved.as_ref(), &programs, &passed.children(), &patience);
    let sockets = |f: &Found| {
        let (name, generation) = (f.marker.name, f.marker.generation);
        let links = config.spec.housed(name.daemon).map(move |daemon| config.sockets(InstanceName { daemon, ..name }, generation).1);
        links.chain([config.sockets(name, generation).0]).collect::<Vec<_>>()
    };
    runtime.clean(&survey.alive.iter().flat_map(sockets).collect::<Vec<_>>())?;
    match saved {
        Some(saved) => resume((config, runtime), passed, saved, survey),
        None => begin(config, runtime, survey),
    }
}

/// Goes on after an exec: same process, same children.
///
/// # Errors
/// The epoch cannot be read.
pub fn go_on(
    config: &Config,
    runtime: &Runtime,
    saved: Saved,
    mut fds: BTreeMap<String, OwnedFd>,
    listeners: BTreeMap<String, TcpListener>,
) -> Result<Heritage, RuntimeError> {
    let age = Duration::from_nanos(monotonic_ns().saturating_sub(saved.node.zero_ns));
    let epoch = runtime.epoch()?;
    let mut table = new_table(config, epoch);
    let (leaving, said) = (saved.node.desired.leaving, saved.clone());
    table.inherit(saved.node.desired, &saved.node.configured);
    let mut children = Vec::new();
    for (name, (instance, start_time)) in saved.instances {
        let run = instance.run.as_ref().map(|r| (r.pid, r.incarnation, r.adopted));
        let generation = instance.generation;
        let fd = fds.remove(&name.to_string());
        if let (Some((pid, incarnation, adopted)), Some(pidfd)) = (run, fd) {
            let marker = Marker { name, generation, incarnation };
            let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let process =
                if adopted { Process::adopted(raw, pidfd, &marker.identity()) } else { Process::new(raw, pidfd, &marker.identity()) };
            children.push(Found { marker, pid, start_time, process, recorded: true });
            table.take_back(age, instance);
        } else {
            table.adopt(age, instance, false);
        }
    }
    let zero = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
    let listeners = Listeners::inherit(&config.public, listeners);
    let (dead, ended) = (Vec::new(), Vec::new());
    Ok(Heritage { table, zero, epoch, listeners, children, dead, leaving, started: saved.node.started, ended, said })
}

/// No usable record: what carries our marker is taken over, the rest is started.
fn begin(config: &Config, runtime: &Runtime, survey: Survey) -> Result<Heritage, RuntimeError> {
    let epoch = runtime.next_epoch()?;
    let mut table = new_table(config, epoch);
    for found in &survey.alive {
        table.adopt_unrecorded(Duration::ZERO, found.marker.name, found.marker.generation, found.pid, found.marker.incarnation);
    }
    let listeners = Listeners::default();
    let Survey { alive: children, ended, .. } = survey;
    let (dead, said) = (Vec::new(), Saved::default());
    Ok(Heritage { table, zero: Instant::now(), epoch, listeners, children, dead, leaving: None, started: false, ended, said })
}

fn resume((config, runtime): (&Config, &Runtime), passed: &mut Passed, saved: Saved, survey: Survey) -> Result<Heritage, RuntimeError> {
    let age = Duration::from_nanos(monotonic_ns().saturating_sub(saved.node.zero_ns));
    let (Some(zero), false) = (Instant::now().checked_sub(age), survey.alive.is_empty()) else {
        return restart(config, runtime, saved, survey);
    };
    let epoch = runtime.epoch()?;
    let mut table = new_table(config, epoch);
    let (leaving, said) = (saved.node.desired.leaving, saved.clone());
    table.inherit(saved.node.desired, &saved.node.configured);
    for (name, (instance, _)) in saved.instances {
        let live = survey.alive.iter().any(|f| f.recorded && f.marker.name == name);
        table.adopt(age, instance, live);
    }
    for found in survey.alive.iter().filter(|f| !f.recorded) {
        table.adopt_unrecorded(age, found.marker.name, found.marker.generation, found.pid, found.marker.incarnation);
    }
    count_on(&mut table, &said, &survey.alive);
    let of = |daemon| survey.alive.iter().filter(move |f| f.marker.name.daemon == daemon);
    let listeners = Listeners::regain(
        &config.public,
        &saved.node.listeners,
        passed,
        |daemon, inode| adopt::socket_of(of(daemon), inode),
        |daemon| of(daemon).next().is_some(),
    );
    let Survey { alive: children, dead, ended } = survey;
    Ok(Heritage { table, zero, epoch, listeners, children, dead, leaving, started: saved.node.started, ended, said })
}

/// Nothing lives: a start like any other, of what was wanted.
fn restart(config: &Config, runtime: &Runtime, saved: Saved, survey: Survey) -> Result<Heritage, RuntimeError> {
    let mut heritage = begin(config, runtime, Survey { ended: survey.ended, ..Survey::default() })?;
    let mut desired = saved.node.desired.clone();
    desired.admitted = false;
    let mut table = new_table(config, heritage.epoch);
    table.inherit(desired, &saved.node.configured);
    count_on(&mut table, &saved, &[]);
    count_on(&mut heritage.table, &saved, &[]);
    // Who starts a node on which everything was stopped wants it to run.
    if !table.wants_nothing() {
        heritage.table = table;
    }
    heritage.said = saved;
    Ok(heritage)
}

/// Spawns of those who do not live are counted on from the record of a predecessor.
fn count_on(table: &mut Table, said: &Saved, alive: &[Found]) {
    let recorded = said.instances.iter().map(|(name, (instance, _))| (*name, instance.generation));
    let intended = said.intents.iter().filter_map(|i| Some((i.name.parse().ok()?, i.generation)));
    for (name, generation) in recorded.chain(intended).filter(|(name, _)| alive.iter().all(|f| f.marker.name != *name)) {
        table.begun(name, generation);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use wk_config::Env;

    use super::*;
    use crate::config::Source;

    /// Who begins a process leaves a record first: a look at the processes that was taken before the record appeared does not hold.
    #[test]
    fn a_look_older_than_the_record_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source { data: Some(dir.path().join("data")), runtime: Some(dir.path().join("run")), ..Source::default() };
        let config = Config::load(&source, &Env::from_pairs([("WK_BIN_DIR", "/nowhere")])).unwrap();
        let runtime = Runtime::open(&config.runtime_dir, &config.data_dir, &config.logs_dir).unwrap();
        let (empty, old) = (Census::take(), Census::take());
        let marker = Marker { name: "api@0".parse().unwrap(), generation: 1, incarnation: 1 };
        let mut stray = Command::new("sleep");
        let mut stray = stray.arg("600").env("WK_INSTANCE", marker.identity()).env("WK_RUNTIME", runtime.dir()).spawn().unwrap();
        let ended = |census| find(&config, &runtime, &mut Passed::default(), Some(census)).unwrap().ended;
        assert_eq!(ended(empty), [""; 0], "without a record nobody has begun anything");
        std::fs::write(runtime.ledger(), "").unwrap();
        let ended = ended(old);
        stray.kill().unwrap();
        stray.wait().unwrap();
        assert_eq!(ended, [format!("api@0 (pid {})", stray.id())]);
    }
}
