//! What the engine tells the control thread, and how often: events, lists of operations.

use std::time::Instant;

use wk_proto::supervisor::v1 as pb;
use wk_types::InstanceName;

use super::Engine;
use crate::backoff::Time;
use crate::events::Cause;
use crate::limits::TELL_EVERY;
use crate::roles::Actor;

/// In a burst of news the watchers hear of it now and then; at once of what a command did, and of the last of it.
#[derive(Debug)]
pub(super) struct Hush {
    told: Instant,
    until: Option<Instant>,
}

impl Hush {
    pub(super) fn new(now: Instant) -> Self {
        Self { told: now, until: None }
    }

    /// There is news, and there may be more.
    pub(super) fn burst(&mut self) {
        self.until = Some(self.told + TELL_EVERY);
    }

    /// Somebody waits for this piece of news.
    pub(super) fn lift(&mut self) {
        self.until = None;
    }

    /// Whether the watchers are told now. What they are not told is due later.
    pub(super) fn tells(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| now < until) {
            return false;
        }
        *self = Self::new(now);
        true
    }

    /// When there is something to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }
}

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc;
    use wk_config::Env;

    use super::super::{Msg, Ports};
    use super::*;
    use crate::config::{Config, Source};
    use crate::console::Console;
    use crate::notify::Passed;
    use crate::runtime::Runtime;

    #[test]
    fn a_burst_is_told_once_a_millisecond_and_its_last_word_always() {
        let begin = Instant::now();
        let mut hush = Hush::new(begin);
        let (mut now, mut news, mut heard, mut told) = (begin, 0, 0, Vec::new());
        // A piece of news every 130 us for some milliseconds, then none: the engine wakes for the next one or when it is due.
        while news < 60 || hush.due().is_some() {
            let next = begin + Duration::from_micros(130) * (news + 1);
            let due = hush.due().filter(|due| news == 60 || *due < next);
            now = due.unwrap_or(next).max(now);
            if due.is_none() {
                news += 1;
                hush.burst();
            }
            if hush.tells(now) {
                told.push(now);
                heard = news;
            }
        }
        assert_eq!(heard, 60, "the last is not skipped");
        assert!(told.windows(2).all(|pair| pair[1] - pair[0] >= TELL_EVERY), "{told:?}");
        assert!((7..=9).contains(&told.len()), "{}", told.len());
    }

    fn engine(dir: &std::path::Path) -> (Engine, crate::engine::Published) {
        let source = Source { data: Some(dir.join("data")), runtime: Some(dir.join("run")), ..Source::default() };
        let config = Config::load(&source, &Env::from_pairs([("WK_BIN_DIR", "/nowhere")])).unwrap();
        let runtime = Runtime::open(&config.runtime_dir, &config.data_dir, &config.logs_dir).unwrap();
        let heritage = crate::heritage::find(&config, &runtime, &mut Passed::default(), None).unwrap();
        let ports = Ports { commands: mpsc::channel(1).1, events: mpsc::channel(1).0 };
        Engine::new(Arc::new(config), runtime, heritage, ports, Arc::default(), Console::new(true, None))
    }

    #[tokio::test]
    async fn news_that_comes_too_soon_is_published_when_it_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let (mut engine, published) = engine(dir.path());
        let (far, before) = (Instant::now() + Duration::from_secs(3600), published.snapshot.borrow().taken);
        engine.hush = Hush::new(far);
        engine.gather(Msg::CallerLeft(7)).await;
        engine.turn();
        assert_eq!(published.snapshot.borrow().taken, before, "not yet");
        assert!(engine.wake().is_some_and(|at| at <= far + TELL_EVERY), "nobody would wake for it");
        assert_eq!(engine.hush.due(), Some(far + TELL_EVERY));
        engine.hush = Hush::new(Instant::now() - TELL_EVERY);
        engine.gather(Msg::CallerLeft(7)).await;
        engine.turn();
        assert!(published.snapshot.borrow().taken > before && engine.hush.due().is_none());
    }

    #[test]
    fn what_a_command_did_is_told_at_once() {
        let now = Instant::now();
        let mut hush = Hush::new(now);
        hush.burst();
        assert!(!hush.tells(now));
        hush.lift();
        assert!(hush.tells(now) && hush.due().is_none());
    }
}
