//! What to say about a name that nobody has.

use wk_types::{Daemon, InstanceName};

/// Names that are this near to what was typed are offered. Unit: edits.
const NEAR: usize = 3;
/// Names offered at most.
const OFFERED_MAX: usize = 3;

/// Unit of an instance in the native set (`systemd/`).
#[must_use]
pub fn unit(name: InstanceName) -> String {
    match name.daemon {
        Daemon::Worker(_) => format!("wk-{}@{}.service", name.daemon.file_name(), name.slot),
        daemon => format!("wk-{}.service", daemon.file_name()),
    }
}

/// All names that mean some of these instances: daemons, `worker` for all pools, the instances themselves.
#[must_use]
pub fn known(instances: impl IntoIterator<Item = InstanceName>) -> Vec<String> {
    let (mut daemons, mut slots) = (Vec::new(), Vec::new());
    for name in instances {
        let daemon = name.daemon.name().to_owned();
        if daemon.starts_with("worker.") && !daemons.iter().any(|d| d == "worker") {
            daemons.push("worker".to_owned());
        }
        if !daemons.contains(&daemon) {
            daemons.push(daemon);
        }
        slots.push(name.to_string());
    }
    daemons.extend(slots);
    daemons
}

/// True when a name of a command means this instance.
#[must_use]
pub fn means(name: &str, instance: &str) -> bool {
    let daemon = instance.split('@').next().unwrap_or_default();
    name == daemon || name == instance || (name == "worker" && daemon.starts_with("worker."))
}

/// The first name that could not be one of any node, in words.
///
/// # Errors
/// There is such a name.
pub fn possible(given: &[String]) -> Result<(), String> {
    let daemon = |name: &String| name == "worker" || name.parse::<Daemon>().is_ok() || name.parse::<InstanceName>().is_ok();
    let first = |daemon| InstanceName { daemon, slot: 0 };
    let wrong = given.iter().find(|name| !daemon(name));
    wrong.map_or(Ok(()), |name| Err(unknown(name, &known(Daemon::ALL.map(first)))))
}

/// One sentence about an unknown name: what was probably meant, else what there is. `known`: the shortest kind of names first.
#[must_use]
pub fn unknown(name: &str, known: &[String]) -> String {
    let within: Vec<&String> = known.iter().filter(|k| !k.contains('@') && !name.is_empty() && k.contains(name)).collect();
    let distance = |k: &String| strsim::damerau_levenshtein(k, &name.to_ascii_lowercase());
    let nearest = known.iter().map(distance).min().filter(|d| *d <= NEAR.min(name.chars().count() / 2));
    let close = match within.is_empty() {
        true => known.iter().filter(|k| Some(distance(k)) == nearest).collect(),
        false => within,
    };
    let close: Vec<&str> = close.into_iter().take(OFFERED_MAX).map(String::as_str).collect();
    let hint = match close.split_last() {
        None => {
            let all: Vec<&str> = known.iter().filter(|k| !k.contains('@')).map(String::as_str).collect();
            format!("; there are {}", all.join(", "))
        }
        Some((only, [])) => format!(", did you mean {only}?"),
        Some((last, others)) => format!(", did you mean {} or {last}?", others.join(", ")),
    };
    format!("no daemon or instance {name:?}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_was_meant() {
        let all = ["cluster@0", "gateway@0", "worker.user@0", "worker.channel@0", "worker.channel@1", "worker.push@0"];
        let known = known(all.iter().map(|n| n.parse().unwrap()));
        let cases = [
            ("gatway", "did you mean gateway?"),
            ("wroker", "did you mean worker?"),
            ("channel", "did you mean worker.channel?"),
            ("worker-user", "did you mean worker.user?"),
            ("worker.push@3", "did you mean worker.push@0?"),
            ("nobody", "; there are cluster, gateway, worker, worker.user, worker.channel, worker.push"),
            ("", "; there are cluster"),
        ];
        for (name, part) in cases {
            let text = unknown(name, &known);
            assert!(text.contains(part), "{name}: {text}");
        }
        let pools: Vec<String> = known.iter().filter(|k| k.starts_with("worker.") && !k.contains('@')).cloned().collect();
        assert!(unknown("worker", &pools).ends_with("did you mean worker.user, worker.channel or worker.push?"));
    }
}
