//! Control groups, and whether the limits of the configuration will hold.

use std::path::Path;

use super::place::Place;
use super::{Finding, fine, warning};
use crate::cgroup::{Cgroups, Choice, Limits, words};
use crate::config::Config;

/// Where version 2 is mounted. Source: the systemd file hierarchy; a mixed hierarchy has it below `unified`.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Row 79: the way processes are held together, and each limit that nobody will enforce.
pub(super) fn look(config: &Config, place: &Place) -> Vec<Finding> {
    let tree = match &place.unit {
        Some(_) if config.cgroup == Choice::Auto => of_unit(place),
        _ => Cgroups::possible(&config.cgroup).map(|(dir, controllers)| (format!("cgroup {}", dir.display()), controllers)),
    };
    let (way, controllers) = match tree {
        Ok((text, controllers)) => (fine("cgroup", text), controllers),
        Err(why) => (
            warning(
                "cgroup",
                format!("process groups and orphans instead, no limits per daemon ({why})"),
                "Delegate=yes in the unit, or supervisor.cgroup = a folder that is ours",
            ),
            Vec::new(),
        ),
    };
    let limits = config.spec.daemons.iter().flat_map(|(daemon, spec)| missing(&spec.limits, &controllers).map(move |m| (*daemon, m)));
    let next = "boot with cgroup v2 only (systemd.unified_cgroup_hierarchy=1), delegate the controller, or remove the key";
    let unheld = limits.map(|(daemon, (key, controller))| {
        warning("cgroup", format!("supervisor.daemons.{daemon}.{key} will have no effect: no controller {controller}"), next)
    });
    let unheld: Vec<Finding> = unheld.collect();
    std::iter::once(way).chain(unheld).collect()
}

/// Keys of limits that are set and whose controller is not there.
fn missing(limits: &Limits, controllers: &[String]) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
    let set = [
        ("memoryMax", "memory", limits.memory_max.is_some()),
        ("pidsMax", "pids", limits.pids_max.is_some()),
        ("cpuWeight", "cpu", limits.cpu_weight.is_some()),
    ];
    let there = set.map(|(_, controller, _)| controllers.iter().any(|c| c == controller));
    set.into_iter().zip(there).filter(|((_, _, set), there)| *set && !there).map(|((key, controller, _), _)| (key, controller))
}

/// What the unit delegates, of what the machine has.
fn of_unit(place: &Place) -> Result<(String, Vec<String>), String> {
    let delegated = place.delegated().ok_or("the unit says no Delegate=")?;
    let root = MOUNTS.map(Path::new).into_iter().find(|dir| dir.join("cgroup.controllers").exists());
    let here = words(&root.ok_or("no control groups of version 2 on this machine")?.join("cgroup.controllers"));
    let both: Vec<String> = delegated.into_iter().filter(|c| here.contains(c)).collect();
    let list = if both.is_empty() { "none".to_owned() } else { both.join(", ") };
    Ok((format!("delegated by the unit, controllers: {list}"), both))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_without_its_controller_is_named() {
        let limits = Limits { memory_max: Some(1), pids_max: None, cpu_weight: Some(10) };
        let named = |controllers: &[&str]| {
            let controllers: Vec<String> = controllers.iter().map(|c| (*c).to_owned()).collect();
            missing(&limits, &controllers).collect::<Vec<_>>()
        };
        assert_eq!(named(&[]), [("memoryMax", "memory"), ("cpuWeight", "cpu")]);
        assert_eq!(named(&["cpu", "pids"]), [("memoryMax", "memory")]);
        assert!(named(&["cpu", "memory"]).is_empty());
    }
}
