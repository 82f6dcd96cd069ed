//! Crash loops in the event log: what repeats is counted, not written. Pure: time is given.
//!
//! The first crashes of a row with the same cause are told in full, with all that lies between them. Then one crash a minute is, with the
//! number of the others; a state in which the instance stays is told when it has stayed there for a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wk_proto::supervisor::v1 as pb;

use crate::limits::CRASH_LOOP_COUNT;

/// Crashes farther apart are no loop. Longer than the longest pause before a restart and a start.
const GAP: Duration = Duration::from_secs(120);
/// Pause between two crash lines of a loop.
const EVERY: Duration = Duration::from_secs(60);
/// Who is in one state for this long is told to be.
const SETTLED: Duration = Duration::from_secs(10);

/// What a state is to a crash loop.
#[derive(Debug, Clone, Copy)]
enum Step {
    Crash,
    /// On the way from one crash to the next.
    Between,
    /// An order, or it was given up.
    Over,
}

impl Step {
    /// `same`: it has the cause of the crashes, so that an end that the supervisor brings about itself belongs to them.
    fn of(state: &str, same: bool) -> Self {
        match state {
            "backoff" => Self::Crash,
            "spawning" | "waiting" | "starting" | "ready" | "degraded" | "suspect" => Self::Between,
            "draining" | "stopping" if same => Self::Between,
            _ => Self::Over,
        }
    }
}

/// Crashes of one instance with one cause.
#[derive(Debug)]
struct Series {
    cause: String,
    crashes: usize,
    crashed: Instant,
    told: Instant,
    /// Crash lines since [`Self::told`]; the last of them.
    folded: u32,
    crash: Option<pb::Event>,
    /// State after it.
    state: Option<(pb::Event, Instant)>,
}

impl Series {
    fn new(event: &pb::Event, now: Instant) -> Self {
        Self { cause: event.cause.clone(), crashes: 1, crashed: now, told: now, folded: 0, crash: None, state: None }
    }

    fn is_loop(&self) -> bool {
        self.crashes >= CRASH_LOOP_COUNT
    }

    fn crash(&mut self, event: pb::Event, now: Instant) -> Option<pb::Event> {
        let looping = self.is_loop();
        (self.crashes, self.crashed, self.state) = (self.crashes + 1, now, None);
        if !looping {
            self.told = now;
            return Some(event);
        }
        self.folded += 1;
        self.crash = Some(event);
        if now.saturating_duration_since(self.told) < EVERY { None } else { self.tell(now) }
    }

    /// The last crash, for all that were folded.
    fn tell(&mut self, now: Instant) -> Option<pb::Event> {
        let event = self.crash.take()?;
        let others = std::mem::take(&mut self.folded).saturating_sub(1);
        let since = now.saturating_duration_since(self.told).as_secs();
        self.told = now;
        let text = if others == 0 { event.text } else { format!("{} ({others} more like it in {since} s)", event.text) };
        Some(pb::Event { text, ..event })
    }

    /// All that was held back.
    fn rest(&mut self, now: Instant) -> impl Iterator<Item = pb::Event> + use<> {
        let crash = self.tell(now);
        crash.into_iter().chain(self.state.take().map(|(event, _)| event))
    }

    fn due(&self) -> Option<Instant> {
        let settled = self.state.as_ref().map(|(_, at)| *at + SETTLED);
        settled.or_else(|| self.crash.as_ref().map(|_| self.crashed + GAP))
    }
}

/// What is being folded, by instance.
#[derive(Debug, Default)]
pub(super) struct Fold(BTreeMap<String, Series>);

impl Fold {
    /// Takes one event in and says what is to be written now, in order.
    pub(super) fn take(&mut self, now: Instant, event: pb::Event) -> Vec<pb::Event> {
        if event.kind != "state" {
            return vec![event];
        }
        self.0.retain(|_, s| s.crash.is_some() || s.state.is_some() || now.saturating_duration_since(s.crashed) < GAP);
        let Some(series) = self.0.get_mut(&event.instance) else {
            if event.to == "backoff" {
                self.0.insert(event.instance.clone(), Series::new(&event, now));
            }
            return vec![event];
        };
        let near = now.saturating_duration_since(series.crashed) < GAP;
        let same = series.cause == event.cause;
        let step = Step::of(&event.to, same);
        match step {
            Step::Crash if near && same => return series.crash(event, now).into_iter().collect(),
            Step::Between if near && series.is_loop() => {
                series.state = Some((event, now));
                return Vec::new();
            }
            Step::Crash | Step::Between | Step::Over => {}
        }
        let mut out: Vec<_> = series.rest(now).collect();
        match step {
            Step::Crash => *series = Series::new(&event, now),
            Step::Between => {}
            Step::Over => drop(self.0.remove(&event.instance)),
        }
        out.push(event);
        out
    }

    /// What has waited long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<pb::Event> {
        self.0.values_mut().filter(|s| s.due().is_some_and(|at| at <= now)).flat_map(|s| s.rest(now)).collect()
    }

    /// All that was held back.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<pb::Event> {
        self.0.values_mut().flat_map(|s| s.rest(now)).collect()
    }

    /// When [`Self::due`] has something.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(Series::due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log {
        fold: Fold,
        now: Instant,
        told: Vec<(String, String)>,
    }

    impl Log {
        fn new() -> Self {
            Self { fold: Fold::default(), now: Instant::now(), told: Vec::new() }
        }

        fn hear(&mut self, to: &str, cause: &str) {
            let event = pb::Event {
                kind: "state".into(),
                instance: "api@0".into(),
                to: to.into(),
                cause: cause.into(),
                text: "because".into(),
                ..Default::default()
            };
            let told = self.fold.take(self.now, event);
            self.told.extend(told.into_iter().map(|e| (e.to, e.text)));
        }

        /// Lets time pass, with what falls due in it.
        fn pass(&mut self, seconds: u64) {
            let until = self.now + Duration::from_secs(seconds);
            while let Some(at) = self.fold.next().filter(|at| *at <= until) {
                self.now = self.now.max(at);
                let told = self.fold.due(self.now);
                assert!(!told.is_empty(), "woken for nothing");
                self.told.extend(told.into_iter().map(|e| (e.to, e.text)));
            }
            self.now = until;
        }

        /// One round: crash, pause, start, and `up` seconds of life.
        fn crash(&mut self, cause: &str, pause: u64, up: u64) {
            self.hear("backoff", cause);
            self.pass(pause);
            for state in ["spawning", "starting", "ready"] {
                self.hear(state, "start");
            }
            self.pass(up);
        }

        fn count(&self, to: &str) -> usize {
            self.told.iter().filter(|(t, _)| t == to).count()
        }
    }

    #[test]
    fn a_loop_is_told_in_full_at_first_and_once_a_minute_later() {
        let mut log = Log::new();
        for _ in 0..125 {
            log.crash("exit", 28, 2);
        }
        // 5 in full, then 120 within an hour.
        assert_eq!((log.count("backoff"), log.count("ready")), (5 + 60, 4), "{:?}", log.told);
        assert_eq!(log.told.last().unwrap().1, "because (1 more like it in 60 s)");
    }

    #[test]
    fn who_recovers_is_told_to_be_ready_with_all_that_was_folded() {
        let mut log = Log::new();
        for _ in 0..8 {
            log.crash("exit", 1, 2);
        }
        assert_eq!((log.count("backoff"), log.count("ready")), (5, 4));
        log.pass(20);
        assert_eq!((log.count("backoff"), log.count("ready")), (6, 5));
        let last: Vec<&str> = log.told.iter().rev().take(2).map(|(_, text)| text.as_str()).collect();
        assert_eq!(last, ["because", "because (2 more like it in 20 s)"]);
        assert_eq!(log.fold.next(), None);
        log.pass(200);
        log.hear("backoff", "exit");
        assert_eq!(log.count("backoff"), 7, "long after: another story");
    }

    #[test]
    fn an_order_or_another_cause_ends_a_loop() {
        let mut log = Log::new();
        for _ in 0..7 {
            log.crash("exit", 1, 1);
        }
        log.hear("draining", "stop");
        log.hear("down", "stop");
        let last: Vec<&str> = log.told.iter().rev().take(4).map(|(to, _)| to.as_str()).collect();
        assert_eq!(last, ["down", "draining", "ready", "backoff"]);
        let mut log = Log::new();
        for round in 0..40 {
            log.crash(if round % 2 == 0 { "exit" } else { "signal" }, 1, 1);
        }
        assert_eq!((log.count("backoff"), log.count("ready")), (40, 40), "each of them is news");
    }

    #[test]
    fn what_is_held_back_is_told_at_the_end() {
        let mut log = Log::new();
        for _ in 0..7 {
            log.crash("hang", 1, 1);
        }
        let rest: Vec<String> = log.fold.rest(log.now).into_iter().map(|e| e.to).collect();
        assert_eq!(rest, ["backoff", "ready"]);
        assert!(log.fold.rest(log.now).is_empty());
    }
}
