//! Timing wheel: keys that come due at a time, in ticks of [`TIMER_TICK`].
//!
//! Pure: the caller tells the time. Nothing is ever removed early: whoever has changed his mind ignores the key when it comes (a connection
//! whose timer was put off looks at its own clock and inserts itself again), so activity costs nothing here.

use crate::limits::TIMER_TICK;

/// Slots of the wheel; later dues go round more than once.
const SLOTS: usize = 512;

/// The wheel.
#[derive(Debug)]
pub struct Wheel {
    slots: Box<[Vec<Entry>]>,
    /// Last tick that was handled.
    tick: u64,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due_tick: u64,
    key: u64,
}

fn tick_ms() -> u64 {
    u64::try_from(TIMER_TICK.as_millis()).unwrap_or(1)
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

impl Wheel {
    /// An empty wheel that starts at `now_ms`.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { slots: vec![Vec::new(); SLOTS].into_boxed_slice(), tick: now_ms / tick_ms(), len: 0 }
    }

    /// `key` comes out of [`Wheel::expire`] at `due_ms` or up to one tick later.
    pub fn insert(&mut self, due_ms: u64, key: u64) {
        let due_tick = due_ms.div_ceil(tick_ms()).max(self.tick + 1);
        if let Some(slot) = self.slots.get_mut(slot_of(due_tick)) {
            slot.push(Entry { due_tick, key });
            self.len += 1;
        }
    }

    /// Appends the keys that are due at `now_ms`.
    pub fn expire(&mut self, now_ms: u64, due: &mut Vec<u64>) {
        let now = now_ms / tick_ms();
        // After a long pause each slot is looked at once.
        let first = self.tick + 1;
        let last = now.min(self.tick + SLOTS as u64);
        self.tick = now.max(self.tick);
        if self.len == 0 {
            return;
        }
        for tick in first..=last {
            let Some(slot) = self.slots.get_mut(slot_of(tick)) else { continue };
            let before = slot.len();
            slot.retain(|entry| {
                let later = entry.due_tick > now;
                if !later {
                    due.push(entry.key);
                }
                later
            });
            self.len -= before - slot.len();
        }
    }

    /// When to call [`Wheel::expire`] next at the latest; `None` when the wheel is empty.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        if self.len == 0 {
            return None;
        }
        let ticks = self.tick + 1..=self.tick + SLOTS as u64;
        let next = ticks.into_iter().find(|tick| self.slots.get(slot_of(*tick)).is_some_and(|s| !s.is_empty()))?;
        Some(next * tick_ms())
    }

    /// Keys inside.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_early_and_nothing_is_lost() {
        let mut wheel = Wheel::new(1_000);
        wheel.insert(1_000, 1);
        wheel.insert(500_000, 2);
        let mut due = Vec::new();
        wheel.expire(1_000, &mut due);
        assert!(due.is_empty());
        wheel.expire(1_000 + tick_ms(), &mut due);
        assert_eq!(due, [1]);
        wheel.expire(499_000, &mut due);
        assert_eq!(due, [1]);
        wheel.expire(500_000 + tick_ms(), &mut due);
        assert_eq!(due, [1, 2]);
        assert_eq!(wheel.next_ms(), None);
    }

    proptest! {
        #[test]
        fn every_key_comes_once_within_a_tick(dues in prop::collection::vec(0u64..200_000, 1..100), steps in prop::collection::vec(1u64..5_000, 1..200)) {
            let mut wheel = Wheel::new(0);
            for (key, due) in dues.iter().enumerate() {
                wheel.insert(*due, key as u64);
            }
            let mut now = 0;
            let mut got = std::collections::HashMap::new();
            for step in steps.into_iter().chain([400_000]) {
                let before = now;
                now += step;
                let mut due = Vec::new();
                if let Some(next) = wheel.next_ms() {
                    prop_assert!(next > before / tick_ms() * tick_ms());
                }
                wheel.expire(now, &mut due);
                for key in due {
                    prop_assert!(got.insert(key, (before, now)).is_none());
                }
            }
            for (key, due) in dues.iter().enumerate() {
                let (before, at) = got[&(key as u64)];
                prop_assert!(at >= *due, "early");
                prop_assert!(before < due + 2 * tick_ms(), "late: due {} seen between {} and {}", due, before, at);
            }
            prop_assert!(wheel.is_empty());
        }
    }
}
