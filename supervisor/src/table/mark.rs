//! Single instances by order of an operator: hold, unhold, reset.

use std::collections::BTreeMap;

use wk_types::{Daemon, InstanceName};

use super::{Refusal, Rest, Table};
use crate::spec::Spec;

impl Table {
    /// Leaves the named instances alone from now on: no restart after their end, no kill for a hang, no part in rolls. Returns who that is.
    ///
    /// # Errors
    /// Unknown names (4).
    pub fn hold(&mut self, names: &[String]) -> Result<Vec<InstanceName>, Refusal> {
        let found = self.resolve(names)?;
        self.held.extend(found.iter().copied());
        Ok(found.into_iter().collect())
    }

    /// Takes [`Self::hold`] back; what ended meanwhile is started again.
    ///
    /// # Errors
    /// Unknown names (4).
    pub fn unhold(&mut self, names: &[String]) -> Result<Vec<InstanceName>, Refusal> {
        let found = self.resolve(names)?;
        Ok(found.into_iter().filter(|n| self.held.remove(n)).collect())
    }

    /// Forgets crashes: what waits for its restart, or was given up, is started at once.
    ///
    /// # Errors
    /// Unknown names (4).
    pub fn reset(&mut self, names: &[String]) -> Result<Vec<InstanceName>, Refusal> {
        let found = self.resolve(names)?;
        let mut done = Vec::new();
        for name in found {
            let Some(instance) = self.instances.get_mut(&name) else { continue };
            let had = instance.restarts > 0 || !matches!(instance.rest, Rest::Idle | Rest::Spawning);
            instance.clear();
            instance.restarts = 0;
            instance.last_restart = None;
            if had {
                done.push(name);
            }
        }
        Ok(done)
    }

    /// Takes over new policies, deadlines and pool sizes. A size that a command has set stays as long as the configuration says the same.
    pub fn reconfigure(&mut self, spec: Spec, configured: BTreeMap<Daemon, u16>) {
        self.spec = spec;
        for (daemon, slots) in &configured {
            if self.configured.get(daemon) != Some(slots) && self.slots(*daemon) != *slots {
                self.rescale(*daemon, *slots);
            }
        }
        self.configured = configured;
    }

    /// Slots that a command has set at an earlier time. For a node that is down.
    pub fn preset(&mut self, slots: &BTreeMap<Daemon, u16>) {
        self.slots.extend(slots.iter().map(|(d, n)| (*d, *n)));
        self.share_all();
        self.add_slots();
        self.stopped = self.instances.keys().copied().collect();
    }

    /// Slots that a command has set, where they differ from the configuration.
    #[must_use]
    pub fn overridden(&self) -> BTreeMap<Daemon, u16> {
        let differs = |(daemon, slots): (&Daemon, &u16)| (self.configured.get(daemon) != Some(slots)).then_some((*daemon, *slots));
        self.slots.iter().filter_map(differs).collect()
    }

    /// Instances that are held.
    pub fn held(&self) -> impl Iterator<Item = InstanceName> + '_ {
        self.held.iter().copied()
    }
}
