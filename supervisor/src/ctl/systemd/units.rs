//! Units and instances: names both ways, what `systemctl show` says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;
use wk_types::{Daemon, InstanceName, Pool};

use super::super::Failure;

/// What is asked of each unit.
pub(super) const PROPERTIES: [&str; 8] =
    ["Id", "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "StatusText", "ActiveEnterTimestampMonotonic"];

/// Unit of an instance.
pub(super) fn unit(name: InstanceName) -> String {
    match name.daemon {
        Daemon::Worker(_) => format!("wk-{}@{}.service", name.daemon.file_name(), name.slot),
        daemon => format!("wk-{}.service", daemon.file_name()),
    }
}

/// Instance of a unit; `None` for other units.
pub(super) fn instance(unit: &str) -> Option<InstanceName> {
    let name = unit.strip_prefix("wk-")?.strip_suffix(".service")?;
    let (file, slot) = name.split_once('@').unwrap_or((name, "0"));
    let daemon = Daemon::ALL.into_iter().find(|d| d.file_name() == file)?;
    Some(InstanceName { daemon, slot: slot.parse().ok()? })
}

/// Units of `systemctl list-units`, and those of the default node.
pub(super) fn known(list: &str) -> Vec<String> {
    let listed = list.lines().filter_map(|line| instance(line.split_whitespace().next()?));
    let default = Daemon::ALL.into_iter().map(|daemon| InstanceName { daemon, slot: 0 });
    let all: BTreeSet<InstanceName> = listed.chain(default).collect();
    all.into_iter().map(unit).collect()
}

/// Units of daemons, of `worker` for all pools, or of instances; all known without names.
pub(super) fn select(names: &[String], known: &[String]) -> Result<Vec<String>, Failure> {
    if names.is_empty() {
        return Ok(known.to_vec());
    }
    let mut found = Vec::new();
    for name in names {
        let exact = name.contains('@').then(|| name.parse::<InstanceName>().ok()).flatten();
        let fits = |i: InstanceName| i.daemon.name() == name || (name == "worker" && matches!(i.daemon, Daemon::Worker(_)));
        let of: Vec<String> = match exact {
            Some(exact) => vec![unit(exact)],
            None => known.iter().filter(|u| instance(u).is_some_and(fits)).cloned().collect(),
        };
        if of.is_empty() {
            return Err(Failure::new(4, format!("no daemon or instance {name:?}")));
        }
        found.extend(of.into_iter().filter(|u| !found.contains(u)).collect::<Vec<_>>());
    }
    Ok(found)
}

/// What to start and what to stop so that a pool has `slots`.
pub(super) fn scaled(pool: Pool, slots: u16, known: &[String]) -> (Vec<String>, Vec<String>) {
    let daemon = Daemon::Worker(pool);
    let up = (0..slots).map(|slot| unit(InstanceName { daemon, slot })).collect();
    let beyond = |u: &&String| instance(u).is_some_and(|i| i.daemon == daemon && i.slot >= slots);
    (up, known.iter().filter(beyond).cloned().collect())
}

/// Rows of `systemctl show`: blocks of `Key=value`, one per unit. `now`: CLOCK_MONOTONIC, µs.
pub(super) fn parse(text: &str, now: u64) -> Vec<pb::InstanceStatus> {
    text.split("\n\n").filter_map(|block| row(&block.lines().filter_map(|l| l.split_once('=')).collect(), now)).collect()
}

fn row(keys: &BTreeMap<&str, &str>, now: u64) -> Option<pb::InstanceStatus> {
    let text = |key: &str| keys.get(key).copied().unwrap_or_default();
    let number = |key: &str| text(key).parse::<u64>().unwrap_or(0);
    let name = instance(text("Id"))?;
    let said = text("StatusText");
    let (state, why) = match (text("ActiveState"), text("SubState")) {
        ("active" | "reloading", _) if said.starts_with("says that") => (State::Degraded, said.to_owned()),
        ("active" | "reloading", _) => (State::Ready, String::new()),
        ("activating", "auto-restart") => (State::Backoff, format!("ended ({}), about to be started again", text("Result"))),
        ("activating", _) if said.starts_with("waiting") => (State::Waiting, said.to_owned()),
        ("activating", _) => (State::Starting, if said.is_empty() { "not ready yet".to_owned() } else { said.to_owned() }),
        ("deactivating", _) => (State::Draining, "stopping".to_owned()),
        ("failed", _) => (State::Failed, format!("{}; systemd gave it up: systemctl status {}", text("Result"), text("Id"))),
        _ => (State::Down, "not running".to_owned()),
    };
    let pid = u32::try_from(number("MainPID")).unwrap_or(0);
    let since = number("ActiveEnterTimestampMonotonic");
    let up_ms = if pid == 0 || since == 0 { 0 } else { now.saturating_sub(since) / 1000 };
    Some(pb::InstanceStatus {
        name: name.to_string(),
        state: state.into(),
        pid,
        up_ms,
        // The present life began with the last restart.
        last_restart_ms_ago: up_ms,
        restarts: u32::try_from(number("NRestarts")).unwrap_or(u32::MAX),
        why,
        wanted: state != State::Down,
        ..Default::default()
    })
}

/// The node in one word.
pub(super) fn overall(rows: &[pb::InstanceStatus]) -> &'static str {
    let all = |state: State| rows.iter().all(|r| r.state() == state);
    let any = |state: State| rows.iter().any(|r| r.state() == state);
    match () {
        () if all(State::Down) => "down",
        () if all(State::Ready) => "ready",
        () if any(State::Draining) => "stopping",
        () if any(State::Starting) || any(State::Waiting) => "starting",
        () => "degraded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn every_instance_has_a_unit_and_back() {
        for (text, expected) in [
            ("cluster@0", "wk-cluster.service"),
            ("worker.channel@3", "wk-worker-channel@3.service"),
            ("plugin-host@0", "wk-plugin-host.service"),
        ] {
            let name: InstanceName = text.parse().unwrap();
            assert_eq!(unit(name), expected);
            assert_eq!(instance(expected), Some(name));
        }
        assert!(instance("wk-boot.service").is_none() && instance("ssh.service").is_none());
    }

    #[test]
    fn names_select_units_and_unknown_ones_are_refused() {
        let known = known("wk-worker-push@1.service loaded active running x\nwk-boot.service loaded active running x\n");
        assert_eq!(known.len(), 8);
        assert_eq!(select(&names(&["worker.push"]), &known).unwrap(), names(&["wk-worker-push@0.service", "wk-worker-push@1.service"]));
        assert_eq!(select(&names(&["worker"]), &known).unwrap().len(), 4);
        assert_eq!(select(&names(&["worker.user@5", "worker.user@5"]), &known).unwrap(), names(&["wk-worker-user@5.service"]));
        assert_eq!(select(&names(&["nobody"]), &known).unwrap_err().code, 4);
    }

    #[test]
    fn scaling_names_what_to_start_and_to_stop() {
        let known = known("wk-worker-push@1.service l\nwk-worker-push@4.service l\n");
        assert_eq!(
            scaled(Pool::Push, 2, &known),
            (names(&["wk-worker-push@0.service", "wk-worker-push@1.service"]), names(&["wk-worker-push@4.service"]))
        );
    }

    #[test]
    fn states_of_systemd_become_ours() {
        let block = |id: &str, active: &str, sub: &str, status: &str| {
            format!(
                "Id={id}\nActiveState={active}\nSubState={sub}\nResult=signal\nMainPID=7\nNRestarts=2\nStatusText={status}\nActiveEnterTimestampMonotonic=1000000\n"
            )
        };
        let text = [
            block("wk-cluster.service", "active", "running", "ready"),
            block("wk-api.service", "activating", "start", "waiting for the daemons it requires"),
            block("wk-gateway.service", "activating", "auto-restart", ""),
            block("wk-worker-user@0.service", "failed", "failed", ""),
            block("wk-plugin-host.service", "inactive", "dead", ""),
        ]
        .join("\n");
        let rows = parse(&text, 3_000_000);
        let states: Vec<State> = rows.iter().map(pb::InstanceStatus::state).collect();
        assert_eq!(states, [State::Ready, State::Waiting, State::Backoff, State::Failed, State::Down]);
        assert_eq!((rows[0].up_ms, rows[0].restarts, rows[0].why.as_str()), (2000, 2, ""));
        assert!(rows[1..].iter().all(|r| !r.why.is_empty()), "a state that is not ready has a reason");
        assert_eq!(overall(&rows), "starting");
        assert_eq!(overall(&rows[..1]), "ready");
        assert_eq!(overall(&rows[4..]), "down");
    }
}
