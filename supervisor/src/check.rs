//! `wksupervisor check`: everything that would keep a node from running, found before anything starts, each with the next step.
//!
//! Looks only: it binds ports for a moment, without listening, and starts and makes nothing. Errors make the exit code 78; warnings do not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use wk_config::Env;
use wk_types::Daemon;

use crate::config::{Config, LoadError, Source};
use crate::installed::{self, SUPERVISOR, TARGET, Unit};
use crate::limits::{CLOSE_DEADLINE, FAST_DEADLINE, NOFILE, QUIESCE_DEADLINE};
use crate::service::chain;
use crate::sys;

mod bounds;
mod elf;
mod place;
mod ports;
mod unit;

use place::{Place, Want};

/// Fewer open files than this are worth a word.
const FILES_FEW: u64 = 65_536;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Fine,
    /// It works, less well.
    Warning,
    /// A start would fail.
    Error,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// What was looked at.
    pub about: &'static str,
    /// What was found.
    pub text: String,
    /// What to do; empty when it is fine.
    pub next: String,
}

fn fine(about: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Fine, about, text: text.into(), next: String::new() }
}

fn warning(about: &'static str, text: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { level: Level::Warning, about, text: text.into(), next: next.into() }
}

fn error(about: &'static str, text: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { level: Level::Error, about, text: text.into(), next: next.into() }
}

/// Looks at everything. `units`: folders in which systemd units are looked for. A configuration that an installed unit names is judged with
/// the user, the limits, the sandbox and the delegation of that unit, whoever asks.
#[must_use]
pub fn run(source: &Source, env: &Env, units: &[&Path]) -> (Vec<Finding>, Option<Config>) {
    let unit = Unit::find(units, SUPERVISOR);
    let mut found = Vec::new();
    let (place, env) = match Place::of(source, unit.as_ref()) {
        Ok(place) => {
            let env = place.env(env);
            (place, env)
        }
        Err(text) => {
            found.push(error("user", text, "systemd-sysusers makes it (the package runs it), or correct the unit"));
            return (found, None);
        }
    };
    let made = place.made();
    let usable = |base: &Path| made.iter().any(|dir| base.starts_with(dir)) || place.judge.may(nearest(base), Want::Fill);
    let config = match Config::of(source, &env, place.judge.uid, usable) {
        Ok(config) => {
            found.push(fine("configuration", format!("valid (node {}, hash {})", config.node_id, config.hash)));
            found.extend(config.warnings.iter().map(|w| warning("configuration", w, "see the key in wukongim.yaml")));
            Some(config)
        }
        Err(err) => {
            found.extend(refused(&err));
            None
        }
    };
    found.push(user(&place));
    found.extend(source.file.iter().filter_map(|file| readable(&place, file)));
    if let Some(config) = &config {
        found.push(graph(config));
        found.extend(config.spec.daemons.keys().map(|d| binary(&place, *d, &config.exe(*d))));
        let runtime = config.runtime_dir.parent().unwrap_or(&config.runtime_dir);
        let folders = [("data folder", config.data_dir.as_path()), ("log folder", &config.logs_dir), ("runtime folder", runtime)];
        found.extend(folders.into_iter().map(|(what, path)| folder(&place, what, path)));
        found.extend(ports::look(config, &place));
        found.push(deadlines(config, unit.as_ref()));
        found.extend(bounds::look(config, &place));
    }
    if place.unit.is_some() && installed::is_behind() {
        let text = format!("{TARGET} and its sockets follow an older configuration");
        found.push(warning("units", text, "systemctl daemon-reload, before that set is started"));
    }
    found.extend(kernel());
    found.push(files(&place));
    (found, config)
}

/// Every problem of the file is a finding of its own.
fn refused(err: &LoadError) -> Vec<Finding> {
    match err {
        LoadError::Config(all) => {
            all.problems.iter().map(|p| error("configuration", p.to_string(), "correct it there, then check again")).collect()
        }
        LoadError::Group { key, .. } => {
            vec![error("configuration", err.to_string(), format!("create the group with groupadd, or correct {key}"))]
        }
        other => vec![error("configuration", chain(other), "see the message")],
    }
}

fn graph(config: &Config) -> Finding {
    match config.spec.check() {
        Ok(()) => fine("graph", format!("{} daemons, no cycle", config.spec.daemons.len())),
        Err(err) => error("graph", err.to_string(), "remove one of these edges"),
    }
}

/// Row 7 before it happens.
fn binary(place: &Place, daemon: Daemon, path: &Path) -> Finding {
    let shown = path.display();
    let reinstall = "install the daemons beside wksupervisor, or set WK_BIN_DIR";
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(err) => return error("binary", format!("{daemon}: {shown}: {err}"), reinstall),
    };
    if !meta.is_file() {
        return error("binary", format!("{daemon}: {shown} is not a file"), reinstall);
    }
    if !place.judge.may(path, Want::Execute) {
        return error("binary", format!("{daemon}: {shown} is not executable by {}", place.judge.name), format!("chmod 755 {shown}"));
    }
    match elf::examine(path) {
        Ok(()) => fine("binary", format!("{daemon}: {shown}")),
        Err(text) => error("binary", format!("{daemon}: {shown} {text}"), "install the build for this machine"),
    }
}

fn user(place: &Place) -> Finding {
    let from = place.unit.as_ref().map_or_else(String::new, |unit| format!(", by {}", unit.path.display()));
    match place.judge.uid {
        0 => warning("user", format!("would run as root{from}"), "run it as a user of its own (User=wukongim in the unit)"),
        _ => fine("user", format!("{}{from}", place.judge.name)),
    }
}

/// Whoever asks may read the file, or nothing would be known here; whoever runs the node must too.
fn readable(place: &Place, file: &Path) -> Option<Finding> {
    let name = &place.judge.name;
    let shown = file.display();
    let next = format!("chgrp {name} {shown} && chmod g+r {shown}, and g+x on its folders");
    (!place.judge.may(file, Want::Read)).then(|| error("configuration", format!("{shown} cannot be read by {name}"), next))
}

/// The path, or the nearest folder above it that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

/// A folder that exists, or whose nearest ancestor lets it be made; nobody else may put things into its place.
fn folder(place: &Place, what: &'static str, path: &Path) -> Finding {
    let (there, shown, name) = (nearest(path), path.display(), &place.judge.name);
    if let Some((why, next)) = place.closed(path) {
        return error("folder", format!("{what} {shown} {why}"), next);
    }
    if let Some(dir) = place.made().iter().find(|dir| path.starts_with(dir) && dir.starts_with(there) && *dir != there) {
        return fine("folder", format!("{what} {shown} (systemd makes {})", dir.display()));
    }
    let Ok(meta) = fs::metadata(there) else { return error("folder", format!("{what} {shown} cannot be looked at"), "check its parents") };
    // systemd gives the folders that it makes to the user, whoever has them now.
    let given = place.made().iter().any(|dir| dir == there);
    if !meta.is_dir() || !(given || place.judge.may(there, Want::Fill)) {
        let exists = if there == path { "exists" } else { "cannot be made" };
        let next = format!("mkdir -p {shown} && chown {name} {shown}");
        return error("folder", format!("{what} {shown} {exists}, {} is not writable by {name}", there.display()), next);
    }
    let mode = meta.permissions().mode();
    let (others, sticky) = (mode & 0o022, mode & 0o1000 != 0);
    if others != 0 && !sticky && meta.uid() != 0 {
        let next = format!("chmod go-w {}", there.display());
        return warning("folder", format!("{what}: others may write to {} ({:o})", there.display(), mode & 0o7777), next);
    }
    fine("folder", format!("{what} {shown}"))
}

/// Row 73. What is killed counts as gone: a process that the kernel does not let go is waited for a little and left.
fn deadlines(config: &Config, unit: Option<&Unit>) -> Finding {
    let (sum, path) = config.spec.longest_stop();
    let quiesce = QUIESCE_DEADLINE + CLOSE_DEADLINE;
    let names: Vec<&str> = path.iter().map(|d| d.name()).collect();
    let (whole, timeout) = (quiesce + sum, config.spec.stop_timeout);
    let chain = format!("quiesce {} s, then {}", quiesce.as_secs(), names.join(" → "));
    // At its timeout one of the chain, or the quiesce, is at work: none of those that are left gets more than this.
    let cut = timeout + FAST_DEADLINE * u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let most = whole.min(cut);
    let by = if cut < whole {
        format!("; deadlines of {} s after supervisor.stopTimeout, {} s", FAST_DEADLINE.as_secs(), timeout.as_secs())
    } else {
        String::new()
    };
    let store =
        config.spec.daemons.iter().filter_map(|(d, s)| Some(format!("; {d} is given up to {} s while it flushes", s.hard_stop?.as_secs())));
    let text = format!("a stop takes at most {} s ({chain}{by}){}", most.as_secs(), store.collect::<String>());
    let (place, limit) = unit::stop_timeout(unit);
    let Some(limit) = limit else { return fine("deadlines", format!("{text}; no TimeoutStopSec ({place})")) };
    if most <= limit {
        return fine("deadlines", format!("{text}; TimeoutStopSec is {} s ({place})", limit.as_secs()));
    }
    let text = format!("{text}; TimeoutStopSec is {} s ({place}), more time is asked for while it goes on", limit.as_secs());
    warning("deadlines", text, format!("TimeoutStopSec={} in the unit, or a shorter supervisor.stopTimeout", most.as_secs()))
}

/// Every connection is a descriptor.
fn files(place: &Place) -> Finding {
    let own = || rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(NOFILE);
    let limit = place.files_max().unwrap_or_else(own);
    if limit >= FILES_FEW {
        return fine("limits", if limit == u64::MAX { "any number of open files".to_owned() } else { format!("{limit} open files") });
    }
    warning("limits", format!("at most {limit} open files, for all connections"), format!("LimitNOFILE={NOFILE} in the unit, or ulimit -n"))
}

/// Row 79: what the kernel offers, and what is done without it.
fn kernel() -> Vec<Finding> {
    let upgrade = "run Linux 5.10 or newer";
    let have = |ok: bool, what: &str, instead: Finding| if ok { fine("kernel", what) } else { instead };
    let pidfd = sys::has_pidfd();
    let info = pidfd && sys::has_pidfd_info();
    let uring = sys::has_io_uring();
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default().trim() == "2";
    let uring_next = if disabled { "sysctl -w kernel.io_uring_disabled=0" } else { "allow io_uring_setup in the sandbox, or Linux 6.0" };
    vec![
        have(pidfd, "pidfd_open", error("kernel", "no pidfd_open: processes cannot be watched", upgrade)),
        have(
            info,
            "exit status by pidfd (PIDFD_GET_INFO)",
            warning("kernel", "no PIDFD_GET_INFO: how adopted processes end stays unknown", "Linux 6.15 has it; all else works"),
        ),
        have(sys::has_close_range(), "close_range", error("kernel", "no close_range: inherited descriptors would leak", upgrade)),
        have(
            crate::fence::available(),
            "landlock",
            warning("kernel", "no Landlock: daemons can write wherever their user can", "Linux 5.13 with lsm=landlock,...; all else works"),
        ),
        have(uring, "io_uring", error("kernel", "io_uring is not available: the gateway cannot serve", uring_next)),
    ]
}

/// The report for people, worst last, and the exit code.
#[must_use]
pub fn report(found: &[Finding]) -> (String, u8) {
    let mut sorted: Vec<&Finding> = found.iter().collect();
    sorted.sort_by_key(|f| f.level);
    let mut text = String::new();
    for f in sorted {
        let mark = match f.level {
            Level::Fine => "ok     ",
            Level::Warning => "warning",
            Level::Error => "ERROR  ",
        };
        text.push_str(&format!("{mark}  {:<13}  {}\n", f.about, f.text));
        if !f.next.is_empty() {
            text.push_str(&format!("{:>25}→ {}\n", "", f.next));
        }
    }
    let count = |level: Level| found.iter().filter(|f| f.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    text.push_str(&format!("\n{errors} errors, {warnings} warnings\n"));
    (text, if errors > 0 { crate::service::EXIT_CONFIG } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(found: &'a [Finding], about: &str, word: &str) -> &'a Finding {
        found.iter().find(|f| f.about == about && f.text.contains(word)).unwrap_or_else(|| panic!("{about} {word} in {found:#?}"))
    }

    /// Wrong binaries, a taken port, a folder that cannot be used: all at once, each with its next step.
    #[test]
    fn finds_all_problems_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, file) = (dir.path().join("bin"), dir.path().join("wukongim.yaml"));
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("wk-gateway"), "text").unwrap();
        fs::write(bin.join("wk-api"), "text").unwrap();
        fs::set_permissions(bin.join("wk-api"), fs::Permissions::from_mode(0o755)).unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let root = dir.path().display();
        fs::write(dir.path().join("file"), "").unwrap();
        let text = format!(
            "rootDir: {root}\ndataDir: {root}/file/data\naddr: tcp://{}\nwsAddr: ws://127.0.0.1:0\nhttpAddr: 127.0.0.1:0\nmanager:\n  addr: 127.0.0.1:0\n",
            taken.local_addr().unwrap()
        );
        fs::write(&file, text).unwrap();
        let env = Env::from_pairs([("WK_BIN_DIR", bin.to_str().unwrap())]);
        let source = Source { file: Some(file), runtime: Some(dir.path().join("r")), ..Source::default() };
        fs::write(dir.path().join("wukongim.service"), "[Service]\nTimeoutStopSec=90\n").unwrap();
        let (found, config) = run(&source, &env, &[dir.path()]);
        assert!(config.is_some());
        assert_eq!(find(&found, "binary", "cluster").level, Level::Error);
        assert!(find(&found, "binary", "gateway").text.contains("not executable"));
        assert!(find(&found, "binary", "api").text.contains("not a program"));
        assert!(find(&found, "ports", "held by pid").next.contains("addr"));
        assert_eq!(find(&found, "folder", "data folder").level, Level::Error);
        assert!(found.iter().filter(|f| f.level > Level::Fine).all(|f| !f.next.is_empty()));
        let (text, code) = report(&found);
        assert_eq!(code, 78);
        assert!(text.contains("ERROR    ports"), "{text}");
    }

    #[test]
    fn row_73_a_stop_that_may_outlast_the_unit_is_said_with_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wukongim.yaml");
        let found = |yaml: &str, unit: &str, drop_in: &str| {
            fs::write(&file, yaml).unwrap();
            fs::write(dir.path().join("wukongim.service"), unit).unwrap();
            fs::create_dir_all(dir.path().join("wukongim.service.d")).unwrap();
            fs::write(dir.path().join("wukongim.service.d/stop.conf"), drop_in).unwrap();
            let data = Some(dir.path().to_path_buf());
            let source = Source { file: Some(file.clone()), data, runtime: Some(dir.path().join("r")), ..Source::default() };
            let (found, _) = run(&source, &Env::default(), &[dir.path()]);
            find(&found, "deadlines", "a stop takes").clone()
        };
        let shipped = found("", include_str!("../../systemd/wukongim.service"), "");
        assert_eq!(shipped.level, Level::Fine, "{shipped:?}");
        assert!(shipped.text.contains("at most 82 s") && shipped.text.contains("gateway → cluster"), "{shipped:?}");
        assert!(shipped.text.contains("cluster is given up to 300 s") && shipped.text.contains("TimeoutStopSec is 90 s"), "{shipped:?}");
        let short = found("", include_str!("../../systemd/wukongim.service"), "[Service]\nTimeoutStopSec=1min\n");
        assert_eq!(short.level, Level::Warning, "{short:?}");
        assert!(short.text.contains("60 s") && short.text.contains("stop.conf") && short.next.contains("TimeoutStopSec=82"), "{short:?}");
        let long = found("supervisor:\n  stopTimeout: 200s\n", "[Service]\nTimeoutStopSec=90\n", "");
        assert!(long.level == Level::Warning && long.text.contains("at most 133 s") && !long.text.contains("stopTimeout"), "{long:?}");
    }

    /// Nothing of what is missing is made, and what the unit says counts, not what the caller has.
    #[test]
    fn an_installed_configuration_is_judged_as_its_unit_runs_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (file, base) = (dir.path().join("wukongim.yaml"), dir.path().join("run/im"));
        let root = dir.path().display();
        let daemons = "supervisor:\n  daemons:\n    api: {memoryMax: 1GB, pidsMax: 9}\n";
        let listeners = "addr: tcp://127.0.0.1:0\nwsAddr: ws://127.0.0.1:0\nhttpAddr: 127.0.0.1:0\nmanager: {on: false}\n";
        fs::write(&file, format!("rootDir: {root}/data\n{listeners}{daemons}  runtimeDir: {}\n", base.display())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let unit = "[Service]\nUser=nobody\nLimitNOFILE=4096\nProtectSystem=strict\nStateDirectory=im\n";
        fs::write(dir.path().join(SUPERVISOR), format!("{unit}ExecStart={root}/wksupervisor run --config {}\n", file.display())).unwrap();
        let source = Source { file: Some(file.clone()), ..Source::default() };
        let (found, config) = run(&source, &Env::default(), &[dir.path()]);
        assert!(config.is_some(), "{found:#?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing was made");
        assert!(find(&found, "user", "nobody").text.contains(SUPERVISOR));
        assert_eq!(find(&found, "configuration", "cannot be read by nobody").level, Level::Error);
        assert!(find(&found, "folder", "data folder").next.contains("ReadWritePaths="));
        assert_eq!(find(&found, "limits", "at most 4096").level, Level::Warning);
        assert!(find(&found, "cgroup", "the unit says no Delegate=").next.contains("Delegate=yes"));
        for key in ["memoryMax", "pidsMax"] {
            assert!(find(&found, "cgroup", &format!("supervisor.daemons.api.{key}")).level == Level::Warning);
        }
        assert!(find(&found, "binary", "gateway").text.contains(&format!("{root}/wk-gateway")), "beside the unit's program");
        fs::create_dir(dir.path().join(format!("{SUPERVISOR}.d"))).unwrap();
        fs::write(dir.path().join(format!("{SUPERVISOR}.d/a.conf")), "[Service]\nUser=no-such-user-here\n").unwrap();
        let (found, _) = run(&source, &Env::default(), &[dir.path()]);
        assert_eq!(find(&found, "user", "no-such-user-here").level, Level::Error);
    }

    #[test]
    fn row_79_the_kernel_is_probed_and_what_is_missing_is_named() {
        let found = kernel();
        assert!(["pidfd_open", "PIDFD_GET_INFO", "close_range", "io_uring"].iter().all(|w| found.iter().any(|f| f.text.contains(w))));
        assert_eq!(find(&found, "kernel", "pidfd_open").level, Level::Fine, "the tests themselves need it");
    }

    #[test]
    fn every_problem_of_the_file_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wukongim.yaml");
        fs::write(&file, "raft:\n  heartbeat: 1h\nworkers:\n  user: 99\nsupervisor:\n  adminGroup: no-such-group-here\n").unwrap();
        let (found, config) = run(&Source { file: Some(file), ..Source::default() }, &Env::default(), &[]);
        assert!(config.is_none());
        find(&found, "configuration", "raft.heartbeat");
        find(&found, "configuration", "workers.user");
    }
}
