//! Crash loops: told, and by the policy of a daemon the end of the node.

use wk_types::InstanceName;

use super::Engine;
use crate::cause::Cause;
use crate::events::{self, KIND_CRASH_LOOP};
use crate::limits::{CRASH_LOOP_COUNT, CRASH_LOOP_WINDOW};
use crate::service::EXIT_ESCALATED;
use crate::table::{Flags, Kind, Request};

impl Engine {
    pub(super) fn looping(&mut self, name: InstanceName, cause: &Cause) {
        self.counters.crash_loop(name.daemon);
        let window = CRASH_LOOP_WINDOW.as_secs();
        let text = format!("crash loop: {CRASH_LOOP_COUNT} crashes within {window} s, the last one: {cause}; it is tried again");
        tracing::error!(%name, text, "instance");
        self.event(None, KIND_CRASH_LOOP, events::Cause::of(cause), Some(name), text);
    }

    /// The end of the node, as an orderly stop of everything.
    pub(super) fn escalate(&mut self, name: InstanceName) {
        if self.leave {
            return;
        }
        (self.leave, self.escalated, self.first) = (true, true, None);
        self.notifier.stopping();
        let text = format!("the crash loop of {name} has lasted for supervisor.daemons.{}.escalateAfter: the node ends", name.daemon);
        self.console.failed(&text, &[]);
        self.event(None, KIND_CRASH_LOOP, events::Cause::Stop, Some(name), text);
        if let Err(refusal) = self.begin(Request::new(Kind::Stop, Vec::new(), Flags::default())) {
            tracing::error!(%refusal, "stop refused");
        }
    }

    /// Exit code of a supervisor whose daemons are all down.
    pub(super) fn end_code(&self) -> u8 {
        if self.escalated { EXIT_ESCALATED } else { 0 }
    }
}
