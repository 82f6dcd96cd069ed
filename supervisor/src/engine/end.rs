//! The end of a process, and of what it leaves behind; descriptors.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use wk_types::{Daemon, InstanceName};

use super::{Engine, Msg, spare_fds};
use crate::leftovers::Patience;
use crate::limits::{FDS_PER_INSTANCE, KILL_GRACE, SPARE_FDS};
use crate::notify::Passed;
use crate::process::Process;
use crate::table::{Fact, Refusal};
use crate::{adopt, orphans};

/// Pause between two looks at what a dead process left.
const LOOK: Duration = Duration::from_millis(1);

impl Engine {
    /// Of those that ended together: one look at what they left.
    pub(super) fn on_ends(&mut self, mut ended: Vec<(InstanceName, u64)>) {
        ended.retain(|(name, generation)| self.children.get(name).is_some_and(|c| c.generation == *generation));
        if ended.is_empty() {
            return;
        }
        let swept: Vec<usize> = ended.iter().filter_map(|(name, _)| self.children.get(name)).map(|c| c.process.sweep()).collect();
        let known = self.known();
        let strangers = orphans::strangers(|pid| known.contains(&pid));
        for ((name, generation), swept) in ended.into_iter().zip(swept) {
            self.on_end(name, generation, swept, &strangers);
        }
    }

    /// The slot is free when nothing of its last generation lives.
    fn on_end(&mut self, name: InstanceName, generation: u64, swept: usize, strangers: &[u32]) {
        let Some(child) = self.children.get_mut(&name) else { return };
        let left = if swept > 0 { swept } else { child.process.clear(strangers) };
        let first = child.ended.is_none();
        let since = *child.ended.get_or_insert_with(Instant::now);
        if left > 0 && since.elapsed() < KILL_GRACE {
            let tx = self.tx.clone();
            child.tasks.spawn(async move {
                tokio::time::sleep(LOOK).await;
                tx.send(Msg::Ended(name, generation)).await.unwrap_or_default();
            });
            if first {
                self.table.hear(self.now(), name, generation, Fact::LeftBehind);
            }
            return;
        }
        if left > 0 {
            tracing::error!(%name, left, "left behind and not killable");
        }
        let Some(child) = self.children.remove(&name) else { return };
        let exit = child.process.exit();
        self.graves.add(child.process, Instant::now());
        self.notifier.forget(&Passed::child_name(name));
        self.spare.extend(spare_fds(SPARE_FDS - self.spare.len()));
        self.table.hear(self.now(), name, generation, Fact::Exited(exit));
    }

    /// Children whose end somebody waits for, or has seen.
    pub(super) fn known(&self) -> HashSet<u32> {
        self.children
            .values()
            .map(|c| &c.process)
            .chain(self.graves.processes())
            .map(Process::number)
            .chain(self.trial.as_ref().map(|(trial, _)| *trial))
            .collect()
    }

    /// Nothing that our daemons started outlives us.
    pub(super) fn end_orphans(&mut self) {
        let known = self.known();
        if self.children.is_empty() && orphans::any(|pid| known.contains(&pid)) {
            let ended = adopt::end_leftovers(self.runtime.dir(), &Patience { hard: self.config.spec.hard_stops(), working: &|| {} });
            tracing::info!(?ended, "orphans ended");
        }
    }

    /// Refuses a scale for which there are no descriptors.
    pub(super) fn afford(&self, daemon: Daemon, slots: u16) -> Result<(), Refusal> {
        let more = usize::from(slots.saturating_sub(self.table.slots(daemon)));
        let used = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let needed = used + more * FDS_PER_INSTANCE;
        match getrlimit(Resource::Nofile).current {
            Some(limit) if u64::try_from(needed).is_ok_and(|n| n > limit) => {
                let text = format!(
                    "{slots} slots of {daemon} need {needed} descriptors, the supervisor may have {limit} (LimitNOFILE=, ulimit -n)"
                );
                Err(Refusal::new(75, text))
            }
            _ => Ok(()),
        }
    }
}
