//! `wksupervisor reap`: what systemd runs after the supervisor is gone (`ExecStopPost=`).
//!
//! Daemons outlive a supervisor that crashed (`KillMode=process`), because the next one adopts them. When there will be no next one they
//! are ended here: nothing is left over after `systemctl stop`.

use std::io;

use wk_config::Env;

use crate::adopt;
use crate::cgroup::{self, Cgroups};
use crate::config::Source;
use crate::kept;
use crate::leftovers::Patience;
use crate::notify;
use crate::runtime::{Runtime, RuntimeError};
use crate::service::{self, ServiceError};

/// What to do with daemons that are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// End them: the unit stays down.
    End,
    /// Leave them: the next supervisor adopts them, or they belong to another one.
    Leave,
}

/// From what systemd says about the end of the supervisor. Source: systemd.exec(5), `$SERVICE_RESULT`.
#[must_use]
pub fn verdict(result: &str, status: &str) -> Verdict {
    let code = status.parse::<u8>().unwrap_or(0);
    match result {
        // Restart=on-failure follows all of these.
        "signal" | "core-dump" | "watchdog" | "oom-kill" => Verdict::Leave,
        // Wrong configuration and the like are not restarted (RestartPreventExitStatus=): nobody would look after the daemons.
        "exit-code" if [service::EXIT_USAGE, service::EXIT_PERMISSION, service::EXIT_CONFIG].contains(&code) => Verdict::End,
        // 75: they belong to the supervisor that holds the lock. Others are restarted.
        "exit-code" => Verdict::Leave,
        // success, timeout, and what else ends the unit for good.
        _ => Verdict::End,
    }
}

/// What was done.
#[derive(Debug, Default)]
pub struct Reaped {
    /// Daemons that were ended.
    pub ended: Vec<String>,
    /// Why the next supervisor cannot be started in the delegated group.
    pub blocked: Option<io::Error>,
}

/// Makes room for the next supervisor, and ends what is left when systemd's variables say so.
///
/// # Errors
/// The configuration does not name a node, or its folders cannot be used. Another supervisor that holds the node is no error.
pub fn run(source: &Source, env: &Env) -> Result<Reaped, ServiceError> {
    // First, and whatever follows: without it systemd before 254 could not start the next supervisor.
    let blocked = cgroup::take_back().err();
    Ok(Reaped { ended: end(source, env)?, blocked })
}

fn end(source: &Source, env: &Env) -> Result<Vec<String>, ServiceError> {
    // By hand, without systemd: end them.
    let result = env.get("SERVICE_RESULT").unwrap_or("success");
    if verdict(result, env.get("EXIT_STATUS").unwrap_or_default()) == Verdict::Leave {
        return Ok(Vec::new());
    }
    let (config, _) = kept::load(source, env)?;
    let runtime = match Runtime::open(&config.runtime_dir, &config.data_dir, &config.logs_dir) {
        Err(RuntimeError::Held { .. }) => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut ended = adopt::end_leftovers(runtime.dir(), &Patience { hard: config.spec.hard_stops(), working: &|| notify::more_time(env) });
    for (name, leaf) in Cgroups::left(&config.cgroup) {
        if leaf.empty().map_err(|source| ServiceError::Io { what: format!("empty the control group of {name}"), source })? {
            ended.push(format!("the control group of {name}"));
        }
    }
    runtime.clean(&[])?;
    kept::forget(runtime.dir()).map_err(|source| ServiceError::Io { what: "remove the kept configuration".into(), source })?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_left_only_to_a_next_supervisor() {
        for (result, status) in [("success", "0"), ("timeout", "KILL"), ("exit-code", "78"), ("start-limit-hit", "")] {
            assert_eq!(verdict(result, status), Verdict::End, "{result} {status}");
        }
        for (result, status) in [("signal", "KILL"), ("watchdog", "ABRT"), ("core-dump", "SEGV"), ("exit-code", "75"), ("exit-code", "70")]
        {
            assert_eq!(verdict(result, status), Verdict::Leave, "{result} {status}");
        }
    }
}
