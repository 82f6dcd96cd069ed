//! Another configuration while the node runs.

use std::collections::{BTreeMap, BTreeSet};

use wk_types::{Daemon, InstanceName};

use super::{Engine, Msg};
use crate::config::{Config, LoadError};
use crate::events::Cause;
use crate::limits::MIN_READY;
use crate::reload::{Change, Effect, diff, fingerprints, own};
use crate::roles::Actor;
use crate::table::{Flags, Kind, Pace, Refusal, Request};

/// What a reload did.
#[derive(Debug, Clone, Default)]
pub struct Reloaded {
    /// Keys that differ.
    pub changes: Vec<Change>,
    /// The roll that makes the daemons follow; 0: none.
    pub op: u64,
    /// For a person.
    pub message: String,
}

impl Engine {
    /// Reads the configuration again on a thread of its own; the answer comes as a message.
    pub(super) fn reload_by_signal(&mut self) {
        self.notifier.reloading();
        let (config, engine) = (self.config.clone(), self.tx.clone());
        self.watchers.spawn(async move {
            let loaded = tokio::task::spawn_blocking(move || config.again().map(Box::new)).await;
            let loaded = loaded.map_err(|e| e.to_string()).and_then(|l| l.map_err(|e| crate::service::chain(&e)));
            engine.send(Msg::Loaded(loaded)).await.unwrap_or_default();
        });
    }

    /// Takes over what [`Self::reload_by_signal`] has read.
    pub(super) fn loaded(&mut self, loaded: Result<Box<Config>, String>) {
        let done = loaded.and_then(|config| self.reload(*config, false, false, None).map_err(|r| r.message));
        match done {
            Ok(done) => self.console.line(&format!("reload: {}", done.message)),
            Err(text) => {
                self.event(None, "command", Cause::Reload, None, format!("configuration refused, the old one holds: {text}"));
                self.console.line(&format!("reload refused, the old configuration holds: {text}"));
            }
        }
        // Where systemd was told of the reload it waits for its end, whatever came out.
        self.notifier.reloaded();
    }

    /// Compares and takes over; nothing is changed when it is refused.
    pub(super) fn reload(&mut self, new: Config, apply: bool, dry_run: bool, actor: Option<&Actor>) -> Result<Reloaded, Refusal> {
        let changes = diff(&self.config.json, &new.json);
        let new = new.holding(&own(&self.config.json)).map_err(|e| refused(&e))?;
        new.spec.check().map_err(|e| Refusal::new(78, e.to_string()))?;
        let marks = fingerprints(&new.json);
        let behind: BTreeSet<Daemon> = self.behind(&marks).into_iter().map(|name| name.daemon).collect();
        if dry_run {
            let message = format!("{}; nothing was changed", summary(&changes, &behind));
            return Ok(Reloaded { changes, op: 0, message });
        }
        if !self.listeners.is_closed() {
            self.listeners.follow(&new.public).map_err(|e| Refusal::new(78, format!("{e}; the old configuration holds")))?;
        }
        let old = self.config.clone();
        let (node_id, runtime_dir, data_dir) = (old.node_id, old.runtime_dir.clone(), old.data_dir.clone());
        let (logs_dir, bin_dir, roles) = (old.logs_dir.clone(), old.bin_dir.clone(), old.roles.clone());
        let new = Config { node_id, runtime_dir, data_dir, logs_dir, bin_dir, roles, ..new };
        self.table.reconfigure(new.spec.clone(), new.slots.clone());
        if let Some(rounds) = &self.rounds {
            rounds.follow(new.spec.liveness());
        }
        self.fingerprints = marks;
        self.config = new.into();
        self.sealed = None;
        self.keep();
        let mut message = summary(&changes, &behind);
        self.event(actor, "command", Cause::Reload, None, message.clone());
        let mut op = 0;
        if apply && !behind.is_empty() {
            let pace = Pace { min_ready: MIN_READY, ..Pace::default() };
            let names = behind.iter().map(|d| d.name().to_owned()).collect();
            let request = Request::new(Kind::Roll, names, Flags { roll: pace, ..Flags::default() });
            op = self.begin(request)?;
            message = format!("{message}; operation {op} rolls them");
        }
        Ok(Reloaded { changes, op, message })
    }

    /// Instances whose generation was started with another configuration than the next one would get, also by an earlier supervisor.
    pub(super) fn behind(&self, fingerprints: &BTreeMap<Daemon, u64>) -> Vec<InstanceName> {
        let read = self.table.instances().filter_map(|i| Some((i.name, i.run.as_ref()?.reads?)));
        read.filter(|(name, reads)| fingerprints.get(&name.daemon) != Some(reads)).map(|(name, _)| name).collect()
    }
}

fn summary(changes: &[Change], behind: &BTreeSet<Daemon>) -> String {
    if changes.is_empty() && behind.is_empty() {
        return "no key differs".into();
    }
    let count = |effect: Effect| changes.iter().filter(|c| c.effect == effect).count();
    let mut parts = Vec::new();
    match count(Effect::Live) {
        0 => {}
        1 => parts.push("1 key holds at once".to_owned()),
        n => parts.push(format!("{n} keys hold at once")),
    }
    if !behind.is_empty() {
        let names: Vec<&str> = behind.iter().map(|d| d.name()).collect();
        parts.push(format!("pending restart: {}", names.join(", ")));
    }
    if count(Effect::Supervisor) > 0 {
        let keys: Vec<&str> = changes.iter().filter(|c| c.effect == Effect::Supervisor).map(|c| c.key.as_str()).collect();
        parts.push(format!("with the next start of the supervisor: {}", keys.join(", ")));
    }
    parts.join("; ")
}

/// A reload that could not be read, in the form of a refusal.
#[must_use]
pub fn refused(error: &LoadError) -> Refusal {
    Refusal::new(78, format!("{}; the old configuration holds", crate::service::chain(error)))
}
