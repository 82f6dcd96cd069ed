//! Carries out what the table orders: processes, calls, texts.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

use super::{Child, Engine, FactSender, Msg, ReportSender};
use crate::adopt::{Found, Marker};
use crate::cause::Cause;
use crate::events::Cause as EventCause;
use crate::ledger::Intent;
use crate::limits::{STARTS_KEPT, TIDY_DELAY};
use crate::listeners::Copies;
use crate::process::Process;
use crate::spawn::{self, Order};
use crate::table::{Action, End, Fact, Move};
use crate::{calls, logs, ready};

impl Engine {
    /// Processes first, what follows from them next, words about it all after.
    pub(super) fn perform(&mut self, mut actions: Vec<Action>) {
        let mut words = Vec::new();
        while !actions.is_empty() {
            let (more, deeds): (Vec<_>, Vec<_>) = actions.into_iter().partition(is_word);
            words.extend(more);
            let mut heard = false;
            for deed in deeds {
                heard |= self.act(deed);
            }
            actions = if heard { self.table.tick(self.now()) } else { Vec::new() };
        }
        for word in words {
            self.act(word);
        }
    }

    /// Returns whether the table has heard of what came of it.
    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Spawn(name, generation) => {
                let fact = self.spawn(name, generation);
                self.table.hear(self.now(), name, generation, fact);
                return true;
            }
            Action::Activate(name, generation) => self.with_child(name, generation, |c| {
                c.tasks.spawn(calls::activate(c.channel.clone()));
            }),
            Action::Admit(name, generation) => self.with_child(name, generation, |c| {
                c.tasks.spawn(calls::admit(c.channel.clone()));
            }),
            Action::Probe(name, generation) => {
                let facts = FactSender { tx: self.tx.clone(), name, generation };
                self.with_child(name, generation, |c| {
                    c.tasks.spawn(ready::probe(c.channel.clone(), facts, c.process.number()));
                });
            }
            Action::Look(name, generation) => {
                let Some(pid) = self.children.get(&name).map(|c| c.process.number()) else { return false };
                self.table.hear(self.now(), name, generation, Fact::Work(crate::process::work(pid)));
                return true;
            }
            Action::Signal(name, generation, sig) => {
                self.counters.signal(sig);
                self.with_child(name, generation, |c| {
                    if let Err(err) = c.process.signal(sig) {
                        tracing::error!(%name, ?sig, %err, "signal not sent");
                    }
                });
            }
            Action::Quiesce { op, deadline } => {
                let daemons = self.children.iter().map(|(n, c)| (*n, c.channel.clone())).collect();
                let reports = ReportSender { tx: self.tx.clone(), op };
                let send = move |report, done| {
                    let reports = reports.clone();
                    async move { reports.send(report, done).await }
                };
                self.quiesce.spawn(calls::quiesce(daemons, deadline, send));
            }
            Action::OpText { op, instance, text } => self.op_text(op, instance, text),
            Action::OpEnd(op, end) => {
                // Who hears of the end and asks for the status must see it.
                self.publish();
                self.op_end(op, *end);
            }
            Action::Note { instance, bad, text } => self.note(instance, bad, &text),
            Action::Crashed(_, cause) => self.counters.crash(&cause),
            Action::Looping(name, cause) => self.looping(name, &cause),
            Action::Escalate(name) => {
                self.escalate(name);
                return true;
            }
            Action::Measured(name, measure) => self.counters.measure(name.daemon, &measure),
            Action::Moved(moved) => self.moved(*moved),
        }
        false
    }

    pub(super) fn with_child(&mut self, name: InstanceName, generation: u64, act: impl FnOnce(&mut Child)) {
        if let Some(child) = self.children.get_mut(&name).filter(|c| c.generation == generation) {
            act(child);
        }
    }

    fn spawn(&mut self, name: InstanceName, generation: u64) -> Fact {
        let began = self.now();
        let (public, incarnation, sealed) = match self.means(name) {
            Ok(means) => means,
            Err(cause) => return Fact::SpawnFailed(cause),
        };
        let marker = Marker { name, generation, incarnation };
        if let Err(err) = self.ledger.intend(Intent { name: name.to_string(), generation, incarnation }) {
            tracing::error!(%err, "intent of a fork not saved");
        }
        let slots = self.table.in_use(name.daemon);
        let killed = self.table.was_killed(name);
        let order = Order { config: &self.config, sealed: &sealed, marker: &marker, slots, killed, public, cgroups: self.cgroups.as_ref() };
        let spawned = match spawn::spawn(order) {
            Ok(spawned) => spawned,
            Err(cause) => {
                // If it was for want of descriptors, the next try has these.
                self.spare.clear();
                // This generation wrote nothing: lines of an earlier one would not explain it.
                self.log_offsets.insert(name, u64::MAX);
                return Fact::SpawnFailed(cause);
            }
        };
        let process = Process::new(spawned.pid, spawned.pidfd, &marker.identity());
        let pid = process.number();
        let log_offset = self.cuts.hold(&self.config.log_path(name), |gone| spawned.log_offset + gone);
        self.log_offsets.insert(name, log_offset);
        let reads = self.fingerprints.get(&name.daemon).copied().unwrap_or(0);
        self.watch_child(name, generation, Found { marker, pid, start_time: 0, process, recorded: true }, false);
        Fact::Spawned { pid, incarnation, began, exec: spawned.exec, reads }
    }

    /// What a generation needs of ours: public listeners, an identity, the configuration.
    fn means(&mut self, name: InstanceName) -> Result<(Copies, u64, Arc<OwnedFd>), Cause> {
        let passing = |step: &'static str| move |e: io::Error| Cause::Spawn { text: format!("{step}: {e}"), permanent: false };
        let public = self.listeners.copies(name.daemon).map_err(passing("copy listeners"))?;
        let incarnation = spawn::nonce().map_err(passing("random number"))?;
        let sealed = match self.sealed.take() {
            Some(sealed) => sealed,
            None => Arc::new(spawn::sealed(&self.config.json).map_err(passing("configuration descriptor"))?),
        };
        self.sealed = Some(sealed.clone());
        Ok((public, incarnation, sealed))
    }

    fn note(&mut self, name: InstanceName, bad: bool, text: &str) {
        if bad {
            tracing::warn!(%name, text, "instance");
        } else {
            tracing::info!(%name, text, "instance");
        }
        self.console.instance(name, bad, text);
    }

    fn op_text(&mut self, op: u64, instance: Option<InstanceName>, text: String) {
        if instance.is_none() || text.starts_with("start failed") {
            self.console.op(instance, &text);
        }
        let event = pb::OpEvent { op, instance: instance.map_or_else(String::new, |n| n.to_string()), text, ..Default::default() };
        self.book.tell(op, event);
    }

    fn moved(&mut self, moved: Move) {
        self.send_event(pb::Event {
            kind: "state".into(),
            instance: moved.name.to_string(),
            generation: moved.generation,
            from: moved.from.name().into(),
            to: moved.to.name().into(),
            cause: moved.cause.name().into(),
            text: moved.text,
            ..Default::default()
        });
    }

    fn op_end(&mut self, op: u64, end: End) {
        self.tidy_at = Some(Instant::now() + TIDY_DELAY);
        let request = self.book.request(op).cloned();
        if request.as_ref().is_some_and(crate::table::Request::full) {
            self.quiesce.abort_all();
        }
        if let Some(request) = &request {
            self.counters.op(request.kind, end.code, self.book.age(op));
        }
        let kind = request.as_ref().map_or("operation", |r| r.kind.name());
        let text = format!("operation {op}: {kind} ended with {}: {}", end.code, end.message);
        self.event(None, "operation", request.as_ref().map_or(EventCause::Supervisor, |r| super::command::op_cause(r.kind)), None, text);
        if let Some(timing) = end.timing.as_ref().filter(|_| request.as_ref().is_some_and(crate::table::Request::full)) {
            self.remember_start(timing.clone());
        }
        let log_tail = end.failed.map_or_else(Vec::new, |name| {
            logs::tail(&self.config.log_path(name), self.log_offsets.get(&name).copied().unwrap_or(0), &self.cuts)
        });
        let partial = request.as_ref().is_some_and(|r| !r.full());
        let end = pb::OpEnd { partial, ..end_to_proto(end, log_tail) };
        self.console.end(&end, &self.listeners.addresses());
        let code = end.code;
        self.book.tell(op, pb::OpEvent { op, text: end.message.clone(), end: Some(pb::op_event::End::Done(end)), ..Default::default() });
        if self.first.as_ref().is_some_and(|f| f.op == op) {
            match code {
                0 => {
                    self.first = None;
                    self.console.detached(0);
                }
                7 => self.first = None,
                _ => self.retry_or_leave(),
            }
        } else if self.leave && self.table.is_down() {
            self.exit = Some(self.end_code());
        } else if self.leave && code == 70 {
            self.exit = Some(crate::service::EXIT_CHILDREN_LEFT);
        }
    }
}

impl Engine {
    fn remember_start(&mut self, timing: crate::timing::Timing) {
        let mut starts: Vec<_> = std::iter::once(timing).chain(self.starts.iter().cloned()).collect();
        starts.truncate(STARTS_KEPT);
        if let Err(err) = crate::starts::save(&self.config.starts_path(), &starts) {
            tracing::warn!(%err, "times of the start not kept");
        }
        self.starts = starts.into();
    }
}

/// Tells somebody something, and can wait for what is done.
fn is_word(action: &Action) -> bool {
    matches!(
        action,
        Action::OpText { .. }
            | Action::OpEnd(..)
            | Action::Note { .. }
            | Action::Crashed(..)
            | Action::Looping(..)
            | Action::Measured(..)
            | Action::Moved(_)
    )
}

pub(super) async fn ended(process: Process, tx: mpsc::Sender<Msg>, name: InstanceName, generation: u64) {
    if let Err(err) = process.ended().await {
        tracing::error!(%name, %err, "the end of this process cannot be watched");
        return;
    }
    tx.send(Msg::Ended(name, generation)).await.unwrap_or_default();
}

fn end_to_proto(end: End, log_tail: Vec<String>) -> pb::OpEnd {
    let stops = end.stops.iter().map(|s| pb::StopRow {
        name: s.name.to_string(),
        outcome: s.outcome.name().into(),
        took_us: u64::try_from(s.took.as_micros()).unwrap_or(u64::MAX),
    });
    let left = end.report.unwrap_or_default();
    pb::OpEnd {
        code: end.code,
        message: end.message,
        timing: end.timing.as_ref().map(crate::timing::Timing::to_proto),
        stops: stops.collect(),
        lost: end.report.map(|report| report.unsettled),
        retry_entries: left.retry_entries,
        pending_webhooks: left.pending_webhooks,
        log_tail,
        partial: false,
    }
}
