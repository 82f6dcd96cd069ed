//! Signals to the supervisor itself.

use signal_hook::consts::{SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
use wk_types::InstanceName;

use super::Engine;
use crate::events::Cause;
use crate::orphans;
use crate::table::{Fact, Flags, Kind, Request};

impl Engine {
    pub(super) fn on_signal(&mut self, signal: i32) {
        match signal {
            SIGUSR2 => self.reexec(None),
            SIGQUIT => self.dump(),
            SIGUSR1 => self.reopen_log(),
            // The terminal is gone: nobody can stop us there any more, so we stop by ourselves.
            SIGHUP if self.console.is_terminal() && !self.console.has_terminal() => self.stop_signal(),
            SIGHUP => self.reload_by_signal(),
            _ => self.stop_signal(),
        }
    }

    /// Reaps what nobody knows and probes what was stopped.
    pub(super) fn look_after_children(&mut self) {
        let known = self.known();
        orphans::reap(|pid| known.contains(&pid));
        let halted: Vec<(InstanceName, u64)> =
            self.children.iter().filter(|(_, c)| c.process.halted()).map(|(n, c)| (*n, c.generation)).collect();
        for (name, generation) in halted {
            tracing::warn!(%name, "process was stopped by a signal, probing it");
            self.table.hear(self.now(), name, generation, Fact::Halted);
        }
    }

    /// First: drain. Second: one second. Third: kill.
    fn stop_signal(&mut self) {
        self.stop_signals += 1;
        self.leave = true;
        self.first = None;
        self.notifier.stopping();
        if self.table.is_down() {
            self.exit = Some(self.end_code());
            return;
        }
        let flags = Flags { fast: self.stop_signals == 2, now: self.stop_signals > 2, ..Default::default() };
        self.console.line(match self.stop_signals {
            1 => "stopping: again for deadlines of 1 s",
            2 => "stopping fast: again to kill",
            _ => "killing",
        });
        let request = Request::new(Kind::Stop, Vec::new(), flags);
        if let Err(refusal) = self.begin(request) {
            tracing::error!(%refusal, "stop refused");
        }
    }

    /// All that is known, as one event, and on.
    fn dump(&self) {
        let instances: Vec<_> = self.table.instances().collect();
        let text = serde_json::to_string(&instances).unwrap_or_else(|e| e.to_string());
        self.event(None, "supervisor", Cause::Supervisor, None, text);
    }

    /// Our own log; the event file notices by itself that it was moved, daemons have theirs until their next generation.
    fn reopen_log(&mut self) {
        let path = self.config.logs_dir.join("supervisor.log");
        match crate::service::log_to(&path) {
            Ok(()) => self.event(None, "supervisor", Cause::Supervisor, None, "logs reopened".into()),
            Err(err) => tracing::warn!(err = &err as &dyn std::error::Error, "log not reopened"),
        }
    }
}
