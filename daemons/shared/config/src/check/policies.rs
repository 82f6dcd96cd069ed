//! Conditions between the numbers of one daemon's policy.

use std::time::Duration;

use wk_types::Daemon;

use crate::load::Given;
use crate::problem::{Problem, component_of};
use crate::schema::{Config, DaemonPolicy};
use crate::value::Value;

/// Two keys of a daemon and what must hold between them.
struct Pair {
    /// The one that is not to be too small.
    high: (&'static str, Duration),
    low: (&'static str, Duration),
    holds: bool,
    /// What `high` must be against `low`, and `low` against `high`.
    words: [&'static str; 2],
}

fn pairs(policy: &DaemonPolicy) -> [Pair; 2] {
    let (backoff, liveness) = (&policy.backoff, &policy.liveness);
    [
        Pair {
            high: ("backoff.cap", backoff.cap.0),
            low: ("backoff.base", backoff.base.0),
            holds: backoff.cap.0 >= backoff.base.0,
            words: ["at least", "at most"],
        },
        Pair {
            high: ("liveness.period", liveness.period.0),
            low: ("liveness.timeout", liveness.timeout.0),
            holds: liveness.period.0 > liveness.timeout.0,
            words: ["more than", "less than"],
        },
    ]
}

/// Refuses the key that was given; where both were, the lower one.
pub(super) fn check(config: &Config, given: &Given, problems: &mut Vec<Problem>) {
    for daemon in Daemon::ALL {
        for Pair { high, low, holds, words: [high_must, low_must] } in pairs(config.supervisor.daemons.of(daemon)) {
            let path = |key: &str| format!("supervisor.daemons.{daemon}.{key}");
            let place = |key: &str| given.get(&path(key).to_ascii_lowercase());
            // One that is out of its range was refused for that, and says nothing about the other.
            let refused = |key: &str| problems.iter().any(|p| p.key == path(key));
            if holds || refused(high.0) || refused(low.0) {
                continue;
            }
            let (key, must, other) = if place(low.0).is_some() { (low, low_must, high) } else { (high, high_must, low) };
            let by = if place(other.0).is_some() { "" } else { " by default" };
            problems.push(Problem {
                component: component_of("supervisor"),
                key: path(key.0),
                value: key.1.show(),
                allowed: format!("{must} {}, which is {}{by}", path(other.0), other.1.show()),
                place: place(key.0).cloned().unwrap_or_else(|| "default".to_owned()),
            });
        }
    }
}
