//! How the life before this one ended, as far as it matters: whether somebody else killed it. Then what it was doing is not to blame for its end.
//!
//! The supervisor knows and says so (`WK_LAST_END=killed`). systemd tells only what runs after the end (`ExecStopPost=`): there the program is
//! called once more, with `--ended`, and leaves a note in the runtime folder for the next life, which takes it away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wk_config::Env;
use wk_types::InstanceName;

/// How the last life of an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LastEnd {
    /// There was none, or it ended by itself: drained, crashed, hung.
    #[default]
    Own,
    /// Somebody else killed it: a person, the kernel for want of memory, a deadline of its stop.
    Killed,
}

const KILLED: &str = "killed";

impl LastEnd {
    /// As the supervisor says it.
    pub(crate) fn told(env: &Env) -> Self {
        if env.get("WK_LAST_END") == Some(KILLED) { Self::Killed } else { Self::Own }
    }

    /// From systemd's variables. One that hangs is killed too (`watchdog`), but is to blame itself; a crash dumps core or names another signal.
    /// Source: systemd.exec(5), `$SERVICE_RESULT`, `$EXIT_CODE`, `$EXIT_STATUS`.
    fn of_service(env: &Env) -> Self {
        let by = |name| env.get(name).unwrap_or_default();
        match (by("SERVICE_RESULT"), by("EXIT_CODE"), by("EXIT_STATUS")) {
            ("watchdog", _, _) => Self::Own,
            (_, "killed", "KILL" | "TERM") => Self::Killed,
            _ => Self::Own,
        }
    }

    /// Leaves a note of what systemd says of the life that has just ended.
    pub(crate) fn note(env: &Env, runtime_dir: &Path, instance: InstanceName) -> io::Result<()> {
        let path = path(runtime_dir, instance);
        match Self::of_service(env) {
            Self::Own => gone(&path),
            Self::Killed => {
                fs::create_dir_all(path.parent().unwrap_or(runtime_dir))?;
                fs::write(path, KILLED)
            }
        }
    }

    /// Takes the note of the last life away.
    pub(crate) fn take(runtime_dir: &Path, instance: InstanceName) -> Self {
        let path = path(runtime_dir, instance);
        let said = fs::read_to_string(&path).unwrap_or_default();
        // One that stays says the same of the next end, which may be wrong: then it is not believed now either.
        if said == KILLED && gone(&path).is_ok() { Self::Killed } else { Self::Own }
    }
}

fn path(runtime_dir: &Path, instance: InstanceName) -> PathBuf {
    runtime_dir.join("ends").join(instance.to_string())
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(result: &str, code: &str, status: &str) -> Env {
        Env::from_pairs([("SERVICE_RESULT", result), ("EXIT_CODE", code), ("EXIT_STATUS", status)])
    }

    #[test]
    fn only_a_kill_from_outside_is_one() {
        for (result, code, status) in [("signal", "killed", "KILL"), ("oom-kill", "killed", "KILL"), ("timeout", "killed", "KILL")] {
            assert_eq!(LastEnd::of_service(&env(result, code, status)), LastEnd::Killed, "{result}");
        }
        for (result, code, status) in [
            ("success", "exited", "0"),
            ("exit-code", "exited", "70"),
            ("core-dump", "dumped", "ABRT"),
            ("signal", "killed", "SEGV"),
            ("signal", "killed", "ABRT"),
            ("watchdog", "killed", "KILL"),
            ("watchdog", "dumped", "ABRT"),
        ] {
            assert_eq!(LastEnd::of_service(&env(result, code, status)), LastEnd::Own, "{result} {code} {status}");
        }
    }

    #[test]
    fn the_next_life_hears_of_it_once_and_of_the_last_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let (instance, other) = ("worker.user@1".parse().unwrap(), "worker.user@2".parse().unwrap());
        assert_eq!(LastEnd::take(dir.path(), instance), LastEnd::Own, "there was none");
        let killed = env("signal", "killed", "KILL");
        LastEnd::note(&killed, dir.path(), instance).unwrap();
        assert_eq!(LastEnd::take(dir.path(), other), LastEnd::Own);
        assert_eq!(LastEnd::take(dir.path(), instance), LastEnd::Killed);
        assert_eq!(LastEnd::take(dir.path(), instance), LastEnd::Own);
        LastEnd::note(&killed, dir.path(), instance).unwrap();
        LastEnd::note(&env("core-dump", "dumped", "ABRT"), dir.path(), instance).unwrap();
        assert_eq!(LastEnd::take(dir.path(), instance), LastEnd::Own, "the life between them never looked");
    }
}
