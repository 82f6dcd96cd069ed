//! Which slots own the buckets of a pool, and how that changes under load.
//!
//! Level-triggered: where the share of a pool is not what is wanted, and everybody concerned is Ready, buckets are moved in three steps, each a
//! new epoch, each begun when every process that has links has met the one before:
//!
//! 1. *hold*: senders keep new items of the moving buckets back and let what they have sent be settled by the old owners;
//! 2. *drain*: old owners finish what is left of them (distribution, cursors), gateways tell their sessions to the next owners;
//! 3. the new share: senders hand on what they kept back.
//!
//! A step that takes too long is called off: what was kept back goes to the old owners, and it is tried again. Whoever dies meanwhile comes back
//! as the old owner, so nothing is ever routed around anybody. One pool at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use wk_types::Daemon;

/// Longest time for which buckets are held while they move: well below the deadline of a SEND (5 s), so that no client notices.
pub const SHIFT_MAX: Duration = Duration::from_secs(2);
/// Pause before a move of buckets that was called off is tried again.
pub const SHIFT_PAUSE: Duration = Duration::from_millis(500);

/// What the host knows when it looks. Times are its own monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Now.
    pub now: Duration,
    /// Clients are admitted: somebody may be sending.
    pub admitted: bool,
    /// The node stops taking work.
    pub quiescing: bool,
    /// Every process that has links has met the present epoch.
    pub agreed: bool,
}

/// A share that is not what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish<S> {
    /// Pool.
    pub pool: Daemon,
    /// Slots that it is to have.
    pub slots: S,
    /// Everybody who owns buckets of it, or is to own some, is Ready.
    pub ready: bool,
}

/// What came of a look. Everything but [`Turn::Still`] is a new node table, with a new epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing changed.
    Still,
    /// A step was made.
    Changed,
    /// The move of this pool took too long; it is tried again.
    CalledOff(Daemon),
}

/// The shares of a node, and the move that is under way. `S`: how a host writes a set of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares<S> {
    owned: BTreeMap<Daemon, S>,
    shift: Option<Shift<S>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shift<S> {
    pool: Daemon,
    to: S,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Hold {
        until: Duration,
    },
    Drain {
        until: Duration,
    },
    /// Called off; tried again after this.
    Rest {
        until: Duration,
    },
}

impl<S> Default for Shares<S> {
    fn default() -> Self {
        Self { owned: BTreeMap::new(), shift: None }
    }
}

impl<S> FromIterator<(Daemon, S)> for Shares<S> {
    /// The shares of a node where nothing moves.
    fn from_iter<I: IntoIterator<Item = (Daemon, S)>>(owned: I) -> Self {
        Self { owned: owned.into_iter().collect(), shift: None }
    }
}

impl<S: Clone + PartialEq> Shares<S> {
    /// Slots that own the buckets of a pool. Not always those that are wanted.
    #[must_use]
    pub fn get(&self, pool: Daemon) -> Option<&S> {
        self.owned.get(&pool)
    }

    /// All pools with their shares.
    pub fn iter(&self) -> impl Iterator<Item = (Daemon, &S)> {
        self.owned.iter().map(|(pool, share)| (*pool, share))
    }

    /// Sets a share: of a node where nobody sends.
    pub fn set(&mut self, pool: Daemon, share: S) {
        self.owned.insert(pool, share);
    }

    /// A predecessor was moving buckets of this pool to these slots: that is called off, and tried again when everybody has heard so.
    pub fn call_off(&mut self, now: Duration, pool: Daemon, to: S) {
        self.shift = Some(Shift { pool, to, step: Step::Rest { until: now } });
    }

    /// The pool that moves or is about to try again, and the share it is to have.
    #[must_use]
    pub fn moving(&self) -> Option<(Daemon, &S)> {
        self.shift.as_ref().map(|s| (s.pool, &s.to))
    }

    /// Share of a pool after the move that is under way, and whether nobody sends any more.
    #[must_use]
    pub fn next(&self, pool: Daemon) -> Option<(&S, bool)> {
        let shift = self.shift.as_ref().filter(|s| s.pool == pool)?;
        match shift.step {
            Step::Hold { .. } => Some((&shift.to, false)),
            Step::Drain { .. } => Some((&shift.to, true)),
            Step::Rest { .. } => None,
        }
    }

    /// When [`Self::turn`] has something to do without anything else happening. `agreed`: as in [`Seen`].
    #[must_use]
    pub fn deadline(&self, agreed: bool) -> Option<Duration> {
        match self.shift.as_ref()?.step {
            Step::Hold { until } | Step::Drain { until } => Some(until),
            // Afterwards a report is waited for.
            Step::Rest { until } => agreed.then_some(until),
        }
    }

    /// Makes the step that is due. `wishes`: the pools whose share is not what is wanted.
    pub fn turn(&mut self, seen: Seen, wishes: impl IntoIterator<Item = Wish<S>>) -> Turn {
        let Some(shift) = self.shift.as_mut() else { return self.begin(seen, wishes) };
        let pool = shift.pool;
        match shift.step {
            _ if seen.quiescing || !seen.admitted => self.shift = None,
            Step::Hold { until } if seen.agreed => shift.step = Step::Drain { until },
            Step::Drain { .. } if seen.agreed => {
                let to = shift.to.clone();
                self.owned.insert(pool, to);
                self.shift = None;
            }
            Step::Hold { until } | Step::Drain { until } if until <= seen.now => {
                shift.step = Step::Rest { until: seen.now + SHIFT_PAUSE };
                return Turn::CalledOff(pool);
            }
            Step::Rest { until } if until <= seen.now && seen.agreed => {
                self.shift = None;
                return self.begin(seen, wishes);
            }
            Step::Hold { .. } | Step::Drain { .. } | Step::Rest { .. } => return Turn::Still,
        }
        Turn::Changed
    }

    /// Begins to move the buckets of the first pool whose share is not what is wanted, once everybody concerned is Ready.
    fn begin(&mut self, seen: Seen, wishes: impl IntoIterator<Item = Wish<S>>) -> Turn {
        for Wish { pool, slots, ready } in wishes {
            if self.owned.get(&pool) == Some(&slots) {
                continue;
            }
            if !seen.admitted {
                // Nobody sends anything yet, or any more.
                self.owned.insert(pool, slots);
                return Turn::Changed;
            }
            if ready && !seen.quiescing {
                self.shift = Some(Shift { pool, to: slots, step: Step::Hold { until: seen.now + SHIFT_MAX } });
                return Turn::Changed;
            }
        }
        Turn::Still
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wk_types::Pool;

    const USER: Daemon = Daemon::Worker(Pool::User);
    const PUSH: Daemon = Daemon::Worker(Pool::Push);

    fn at(ms: u64, agreed: bool) -> Seen {
        Seen { now: Duration::from_millis(ms), admitted: true, quiescing: false, agreed }
    }

    fn wish(pool: Daemon, slots: u16) -> Wish<u16> {
        Wish { pool, slots, ready: true }
    }

    fn shares() -> Shares<u16> {
        [(USER, 1), (PUSH, 1)].into_iter().collect()
    }

    #[test]
    fn three_steps_each_after_the_agreement_of_all() {
        let mut shares = shares();
        assert_eq!(shares.turn(at(0, true), [Wish { ready: false, ..wish(USER, 2) }]), Turn::Still);
        assert_eq!(shares.turn(at(0, true), [wish(USER, 2)]), Turn::Changed);
        assert_eq!((shares.next(USER), shares.next(PUSH)), (Some((&2, false)), None));
        assert_eq!(shares.turn(at(1, false), [wish(USER, 2)]), Turn::Still);
        assert_eq!((shares.turn(at(2, true), []), shares.next(USER)), (Turn::Changed, Some((&2, true))));
        assert_eq!((shares.turn(at(3, true), []), shares.next(USER), shares.get(USER)), (Turn::Changed, None, Some(&2)));
        assert_eq!(shares.turn(at(4, true), [wish(USER, 2)]), Turn::Still, "it is what is wanted");
    }

    #[test]
    fn a_step_that_takes_too_long_is_called_off_and_tried_again_when_all_have_heard_so() {
        let mut shares = shares();
        shares.turn(at(0, false), [wish(USER, 2)]);
        assert_eq!((shares.deadline(false), shares.turn(at(1_999, false), [])), (Some(SHIFT_MAX), Turn::Still));
        assert_eq!((shares.turn(at(2_000, false), []), shares.next(USER)), (Turn::CalledOff(USER), None));
        assert_eq!((shares.deadline(false), shares.moving()), (None, Some((USER, &2))));
        assert_eq!(shares.turn(at(2_600, false), [wish(USER, 2)]), Turn::Still);
        assert_eq!((shares.turn(at(2_600, true), [wish(USER, 3)]), shares.next(USER)), (Turn::Changed, Some((&3, false))));
    }

    #[test]
    fn a_stop_calls_a_move_off_and_without_clients_nothing_needs_one() {
        let mut shares = shares();
        shares.turn(at(0, false), [wish(USER, 2)]);
        assert_eq!(shares.turn(Seen { quiescing: true, ..at(1, false) }, []), Turn::Changed);
        assert_eq!((shares.moving(), shares.get(USER)), (None, Some(&1)));
        assert_eq!(shares.turn(Seen { quiescing: true, ..at(1, true) }, [wish(USER, 2)]), Turn::Still);
        assert_eq!(shares.turn(Seen { admitted: false, ..at(1, false) }, [wish(USER, 2)]), Turn::Changed);
        assert_eq!(shares.get(USER), Some(&2));
    }

    proptest! {
        /// Whatever is wanted and whoever hangs back: one pool moves at a time, a share changes only after both steps were agreed to, and in the
        /// end the shares are what is wanted.
        #[test]
        fn shares_follow_what_is_wanted(steps in prop::collection::vec((any::<bool>(), 1u16..4, 1u16..4, 1u64..900), 1..80)) {
            let (mut shares, mut now, mut want) = (shares(), 0, [(USER, 1), (PUSH, 1)]);
            let mut agreements = 0;
            for (agreed, user, push, ms) in steps.into_iter().chain(std::iter::repeat_n((true, 2, 3, 700), 20)) {
                now += ms;
                want = [(USER, user), (PUSH, push)];
                let (before, held) = (shares.clone(), shares.moving().and_then(|(pool, _)| shares.next(pool)).is_some());
                shares.turn(at(now, agreed), want.map(|(pool, slots)| wish(pool, slots)));
                agreements = if held { agreements + u32::from(agreed) } else { 0 };
                for pool in [USER, PUSH] {
                    if shares.get(pool) != before.get(pool) {
                        prop_assert!(agreements >= 2, "{before:?} {shares:?}");
                        prop_assert_eq!(before.next(pool).map(|(to, held)| (Some(to), held)), Some((shares.get(pool), true)));
                    }
                }
            }
            for (pool, slots) in want {
                prop_assert_eq!(shares.get(pool), Some(&slots));
            }
        }
    }
}
