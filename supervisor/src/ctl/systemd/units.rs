//! Units and instances: names both ways, what `systemctl show` says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;
use wk_types::{Daemon, InstanceName, Pool};

use super::super::{EXIT_UNKNOWN, Failure};
use crate::installed::{SUPERVISOR, TARGET};
use crate::names::{self, unit};

/// What is asked of each unit.
pub(super) const PROPERTIES: [&str; 8] =
    ["Id", "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "StatusText", "ActiveEnterTimestampMonotonic"];

/// Instance of a unit; `None` for other units.
pub(super) fn instance(unit: &str) -> Option<InstanceName> {
    let name = unit.strip_prefix("wk-")?.strip_suffix(".service")?;
    let (file, slot) = name.split_once('@').unwrap_or((name, "0"));
    let daemon = Daemon::ALL.into_iter().find(|d| d.file_name() == file)?;
    Some(InstanceName { daemon, slot: slot.parse().ok()? })
}

/// Units that `list` names (of `systemctl list-units`, or of `Wants=`), those of `configured` slots, and those of the default node.
pub(super) fn known(list: &str, configured: &[(Pool, u16)]) -> Vec<String> {
    let listed = list.split_whitespace().filter_map(instance);
    let default = Daemon::ALL.into_iter().map(|daemon| InstanceName { daemon, slot: 0 });
    let slots = configured.iter().flat_map(|(pool, slots)| (0..*slots).map(|slot| InstanceName { daemon: Daemon::Worker(*pool), slot }));
    let all: BTreeSet<InstanceName> = listed.chain(default).chain(slots).collect();
    all.into_iter().map(unit).collect()
}

/// What systemd says about the two ways to run a node.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Ways<'a> {
    /// `systemctl show` of [`WAYS`] for the supervisor's unit, the target and the daemons' units.
    pub(super) shown: &'a str,
    /// The native set was the last that ran.
    pub(super) last: bool,
}

/// What is asked for [`Ways`].
pub(super) const WAYS: &str = "--property=Id,ActiveState,UnitFileState";

impl Ways<'_> {
    /// True when commands are for the native set: it runs or moves, or it is what ran last, or what the next boot starts.
    pub(super) fn native(self) -> bool {
        let blocks = self.shown.split("\n\n").map(|block| block.lines().filter_map(|l| l.split_once('=')).collect::<BTreeMap<_, _>>());
        let blocks: Vec<_> = blocks.collect();
        let value =
            |id: &str, key: &str| blocks.iter().find(|b| b.get("Id") == Some(&id)).and_then(|b| b.get(key).copied()).unwrap_or_default();
        let moves = |state: &str| ["active", "activating", "deactivating", "reloading"].contains(&state);
        if moves(value(TARGET, "ActiveState")) {
            return true;
        }
        if moves(value(SUPERVISOR, "ActiveState")) {
            return false;
        }
        let known = |b: &BTreeMap<&str, &str>| {
            let state = b.get("ActiveState").copied().unwrap_or_default();
            b.get("Id").is_some_and(|id| instance(id).is_some()) && (moves(state) || state == "failed")
        };
        blocks.iter().any(known) || self.last || value(TARGET, "UnitFileState") == "enabled"
    }
}

/// Units of daemons, of `worker` for all pools, or of instances; all known without names.
pub(super) fn select(names: &[String], known: &[String]) -> Result<Vec<String>, Failure> {
    if names.is_empty() {
        return Ok(known.to_vec());
    }
    let mut found = Vec::new();
    for name in names {
        let of: Vec<String> = known.iter().filter(|u| instance(u).is_some_and(|i| names::means(name, &i.to_string()))).cloned().collect();
        if of.is_empty() {
            return Err(Failure::new(EXIT_UNKNOWN, names::unknown(name, &names::known(known.iter().filter_map(|u| instance(u))))));
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
        // The host of the node table names who is missing.
        ("active" | "reloading", _) => (State::Ready, if said == "ready" { String::new() } else { said.to_owned() }),
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
        let known =
            known("wk-worker-push@1.service loaded active running x\nwk-boot.service loaded active running x\n", &[(Pool::User, 1)]);
        assert_eq!(known.len(), 8);
        assert_eq!(select(&names(&["worker.push"]), &known).unwrap(), names(&["wk-worker-push@0.service", "wk-worker-push@1.service"]));
        assert_eq!(select(&names(&["worker"]), &known).unwrap().len(), 4);
        assert_eq!(select(&names(&["worker.push@1", "worker.push@1"]), &known).unwrap(), names(&["wk-worker-push@1.service"]));
        for (name, said) in
            [("worker.user@5", "did you mean worker.user@0?"), ("nobody", "there are cluster"), ("gatewy", "did you mean gateway?")]
        {
            let refused = select(&names(&[name]), &known).unwrap_err();
            assert!(refused.code == 4 && refused.message.contains(said), "{refused}");
        }
    }

    #[test]
    fn configured_slots_belong_to_the_node_before_systemd_knows_them() {
        let known = known("Wants=wk-api.service wk-worker-user@1.service", &[(Pool::Channel, 2)]);
        assert!(["wk-worker-user@1.service", "wk-worker-channel@1.service"].iter().all(|u| known.contains(&(*u).to_owned())), "{known:?}");
        assert_eq!(known.len(), 9);
    }

    #[test]
    fn commands_go_to_the_way_that_runs_or_ran_last() {
        let shown = |supervisor: &str, target: &str, cluster: &str, enabled: &str| {
            [("wukongim.service", supervisor, "disabled"), ("wukongim.target", target, enabled), ("wk-cluster.service", cluster, "static")]
                .map(|(id, active, file)| format!("Id={id}\nActiveState={active}\nUnitFileState={file}\n"))
                .join("\n")
        };
        let native = |shown: &str, last| Ways { shown, last }.native();
        for state in ["active", "activating", "deactivating"] {
            assert!(native(&shown("inactive", state, "inactive", "disabled"), false), "{state}");
            assert!(native(&shown("inactive", "inactive", state, "disabled"), false), "a unit of it: {state}");
            assert!(!native(&shown(state, "inactive", "failed", "enabled"), true), "the supervisor: {state}");
        }
        assert!(native(&shown("inactive", "inactive", "failed", "disabled"), false));
        assert!(native(&shown("inactive", "inactive", "inactive", "enabled"), false), "the next boot starts it");
        assert!(native(&shown("failed", "inactive", "inactive", "disabled"), true), "it was the last that ran");
        assert!(!native(&shown("inactive", "inactive", "inactive", "disabled"), false) && !native("", false));
    }

    #[test]
    fn scaling_names_what_to_start_and_to_stop() {
        let known = known("wk-worker-push@1.service l\nwk-worker-push@4.service l\n", &[]);
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
