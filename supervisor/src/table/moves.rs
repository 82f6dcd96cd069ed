//! From changes of state to events: who, from, to, why.

use wk_types::InstanceName;

use super::{Action, Instance, Kind, Rest, State, Table};
use crate::backoff::Time;
use crate::events::Cause;

/// An instance entered another state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub name: InstanceName,
    /// Its generation.
    pub generation: u64,
    /// Before.
    pub from: State,
    /// Now.
    pub to: State,
    /// Why, of a closed set.
    pub cause: Cause,
    /// Why, in words; empty when Ready.
    pub text: String,
}

impl Table {
    /// Reports every instance whose state is another than at the last time.
    pub(super) fn observe(&mut self, now: Time) {
        for name in self.names() {
            self.observe_one(now, name);
        }
    }

    /// The same for one, where the next step would hide its state again.
    pub(super) fn observe_one(&mut self, now: Time, name: InstanceName) {
        {
            let Some(instance) = self.instances.get(&name) else { return };
            let (from, to) = (instance.seen, self.state(now, instance));
            if from == to {
                return;
            }
            let (cause, generation) = (self.cause_of(instance, to), instance.generation);
            let text = self.view(now, name).map(|v| v.why).unwrap_or_default();
            if let Some(instance) = self.instances.get_mut(&name) {
                instance.seen = to;
            }
            self.out.push(Action::Moved(Box::new(Move { name, generation, from, to, cause, text })));
        }
    }

    /// The slot is gone, and its instance with it.
    pub(super) fn removed(&mut self, name: InstanceName, generation: u64, from: State) {
        if from != State::Down {
            let gone = Move { name, generation, from, to: State::Down, cause: Cause::Scale, text: "slot removed".into() };
            self.out.push(Action::Moved(Box::new(gone)));
        }
    }

    fn cause_of(&self, instance: &Instance, to: State) -> Cause {
        if let (Rest::Backoff { cause, .. } | Rest::Failed(cause), State::Backoff | State::Failed) = (&instance.rest, to) {
            return Cause::of(cause);
        }
        let ending = instance.run.as_ref().and_then(|r| r.ending.as_ref());
        if let Some(cause) = ending.and_then(|e| e.cause.as_ref()) {
            return Cause::of(cause);
        }
        match to {
            State::Down if self.held.contains(&instance.name) => Cause::Command,
            State::Exited => Cause::of(&crate::cause::Cause::Exit(crate::cause::Exit::Code(0))),
            State::Down => Cause::Stop,
            State::Waiting | State::Blocked => Cause::Dependency,
            State::Spawning | State::Starting => Cause::Start,
            State::Ready => Cause::Serving,
            State::Degraded if instance.ready() => Cause::Dependency,
            State::Degraded => Cause::NotServing,
            State::Suspect => Cause::LivenessMissed,
            State::Stopping => Cause::Deadline,
            State::Stuck => Cause::NotKillable,
            State::Draining | State::Backoff | State::Failed => {
                match self.ops.iter().find(|o| o.covers(instance.name)).map(super::Op::kind) {
                    Some(Kind::Restart) => Cause::Restart,
                    Some(Kind::Roll) => Cause::Roll,
                    Some(Kind::Scale(..)) => Cause::Scale,
                    Some(Kind::Start) => Cause::Rollback,
                    Some(Kind::Stop) | None => Cause::Stop,
                }
            }
        }
    }
}
