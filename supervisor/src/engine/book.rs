//! Operations as their callers see them: what was said so far, who listens, how it ended.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wk_proto::supervisor::v1 as pb;

use crate::limits::{OP_EVENTS_MAX, OP_HISTORY_MAX, OPS_DONE_MAX};
use crate::roles::Actor;
use crate::table::Request;

/// Pause between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    began: Instant,
    request: Request,
    actor: String,
    history: VecDeque<pb::OpEvent>,
    listeners: Vec<mpsc::Sender<pb::OpEvent>>,
    progress_at: Option<Instant>,
    end: Option<(pb::OpEnd, Duration)>,
}

/// All operations that run, wait, or ended lately.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<u64, Entry>);

impl Book {
    /// Notes a new operation; does nothing for one that is known.
    pub(super) fn open(&mut self, op: u64, request: &Request, actor: Option<&Actor>) {
        self.0.entry(op).or_insert_with(|| Entry {
            began: Instant::now(),
            request: request.clone(),
            actor: actor.map_or_else(|| "supervisor".to_owned(), ToString::to_string),
            history: VecDeque::new(),
            listeners: Vec::new(),
            progress_at: None,
            end: None,
        });
        let done: Vec<u64> = self.0.iter().filter(|(_, e)| e.end.is_some()).map(|(id, _)| *id).collect();
        for id in done.iter().take(done.len().saturating_sub(OPS_DONE_MAX)) {
            self.0.remove(id);
        }
    }

    /// What was said so far and what comes, until the end. `None`: unknown or forgotten.
    pub(super) fn listen(&mut self, op: u64) -> Option<(mpsc::Sender<pb::OpEvent>, mpsc::Receiver<pb::OpEvent>)> {
        let entry = self.0.get_mut(&op)?;
        let (tx, rx) = mpsc::channel(OP_EVENTS_MAX);
        // The first event carries the number, so that its reader can come back.
        let first = pb::OpEvent { op, ..Default::default() };
        for event in std::iter::once(&first).chain(&entry.history) {
            // The channel is larger than the history: there is room.
            tx.try_send(event.clone()).unwrap_or_default();
        }
        if entry.end.is_none() {
            entry.listeners.push(tx.clone());
        }
        Some((tx, rx))
    }

    /// A finished operation with this key.
    pub(super) fn by_key(&self, key: &str) -> Option<u64> {
        let found = |e: &Entry| !key.is_empty() && e.request.key == key && e.end.is_some();
        self.0.iter().find(|(_, e)| found(e)).map(|(id, _)| *id)
    }

    /// Time since it was asked for.
    pub(super) fn age(&self, op: u64) -> Duration {
        self.0.get(&op).map_or(Duration::ZERO, |e| e.began.elapsed())
    }

    /// What it is.
    pub(super) fn request(&self, op: u64) -> Option<&Request> {
        self.0.get(&op).map(|e| &e.request)
    }

    /// Says one line; the end closes the book on it.
    pub(super) fn tell(&mut self, op: u64, mut event: pb::OpEvent) {
        let Some(entry) = self.0.get_mut(&op) else { return };
        event.at_us = u64::try_from(entry.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        // A reader that is slow or gone is dropped; the operation does not wait for it.
        entry.listeners.retain(|tx| tx.try_send(event.clone()).is_ok());
        if entry.history.len() >= OP_HISTORY_MAX {
            entry.history.pop_front();
        }
        if let Some(pb::op_event::End::Done(end)) = &event.end {
            entry.end = Some((end.clone(), entry.began.elapsed()));
            entry.listeners.clear();
        }
        entry.history.push_back(event);
    }

    /// Says who holds it up, at most once a second.
    pub(super) fn progress(&mut self, op: u64, held_up_by: impl FnOnce() -> Vec<String>) {
        let Some(entry) = self.0.get_mut(&op) else { return };
        let due = entry.progress_at.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY);
        if entry.listeners.is_empty() || !due {
            return;
        }
        entry.progress_at = Some(Instant::now());
        let at_us = u64::try_from(entry.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = pb::OpEvent { op, at_us, held_up_by: held_up_by(), ..Default::default() };
        entry.listeners.retain(|tx| tx.try_send(event.clone()).is_ok());
    }

    /// One line per operation, latest last. `state` tells running from waiting ones and who holds them up.
    pub(super) fn list(&self, state: impl Fn(u64) -> Option<Vec<String>>) -> Vec<pb::OpSummary> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let summary = |(id, e): (&u64, &Entry)| {
            let running = state(*id);
            let names = match e.request.kind {
                crate::table::Kind::Scale(daemon, slots) => vec![format!("{daemon}={slots}")],
                _ => e.request.names.clone(),
            };
            pb::OpSummary {
                op: *id,
                kind: e.request.kind.name().into(),
                names,
                state: if e.end.is_some() {
                    "done"
                } else if running.is_some() {
                    "running"
                } else {
                    "waiting"
                }
                .into(),
                age_ms: ms(e.began.elapsed()),
                code: e.end.as_ref().map_or(0, |(end, _)| end.code),
                message: e.end.as_ref().map_or_else(String::new, |(end, _)| end.message.clone()),
                took_ms: e.end.as_ref().map_or(0, |(_, took)| ms(*took)),
                actor: e.actor.clone(),
                held_up_by: running.unwrap_or_default(),
            }
        };
        self.0.iter().map(summary).collect()
    }
}
