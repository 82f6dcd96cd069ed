//! What the engine tells the control thread: events, lists of operations.

use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

use super::Engine;
use crate::backoff::Time;
use crate::events::Cause;
use crate::roles::Actor;

impl Engine {
    pub(super) fn op_list(&self, now: Time) -> Vec<pb::OpSummary> {
        self.book.list(|id| self.table.ops().iter().find(|o| o.id() == id).map(|o| self.table.held_up_by(now, o)))
    }

    /// Tells the control thread what happened; never waits for it.
    pub(super) fn event(&self, actor: Option<&Actor>, kind: &str, cause: Cause, instance: Option<InstanceName>, text: String) {
        let generation = instance.and_then(|n| self.children.get(&n)).map_or(0, |c| c.generation);
        self.send_event(pb::Event {
            actor: actor.map_or_else(String::new, ToString::to_string),
            kind: kind.into(),
            instance: instance.map_or_else(String::new, |n| n.to_string()),
            generation,
            cause: cause.name().into(),
            text,
            ..Default::default()
        });
    }

    pub(super) fn send_event(&self, event: pb::Event) {
        let mono_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = pb::Event { wall_ms: wk_rpc::clock::unix_ms(), mono_us, ..event };
        if self.events.try_send(event).is_err() {
            self.counters.events_dropped.inc();
        }
    }
}
