//! When daemons are asked whether they live: one timer for all of them.
//!
//! Those of one period are asked at the same moments, so that an idle supervisor wakes once for all; a daemon with a period of its own has
//! rounds of its own. The pings of their connections, which come when nothing was heard for a while, fall together then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use wk_types::Daemon;

use crate::spec::Liveness;

/// A moment at which the processes of a daemon are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// When it was to be.
    pub(crate) due: Instant,
    /// How they are asked.
    pub(crate) how: Liveness,
}

/// The rounds of all daemons.
#[derive(Debug)]
pub(crate) struct Rounds {
    how: watch::Sender<BTreeMap<Daemon, Liveness>>,
    /// One for each of [`Daemon::ALL`].
    begin: Arc<BTreeMap<Daemon, watch::Sender<Round>>>,
}

impl Rounds {
    /// Begins them, counted from `zero`; they end when this is dropped.
    pub(crate) fn new(zero: Instant, how: BTreeMap<Daemon, Liveness>) -> Self {
        let none = Round { due: zero, how: Liveness::default() };
        let begin = Arc::new(Daemon::ALL.into_iter().map(|daemon| (daemon, watch::Sender::new(none))).collect());
        let schedule = Schedule::new(zero, Instant::now(), how.clone());
        let (how, changes) = watch::channel(how);
        tokio::spawn(run(schedule, changes, Arc::clone(&begin)));
        Self { how, begin }
    }

    /// Tells of each round of a daemon that begins from now on.
    pub(crate) fn of(&self, daemon: Daemon) -> watch::Receiver<Round> {
        self.begin.get(&daemon).expect("there is one for each daemon").subscribe()
    }

    /// Takes other numbers over, at once.
    pub(crate) fn follow(&self, how: BTreeMap<Daemon, Liveness>) {
        self.how.send_replace(how);
    }
}

async fn run(
    mut schedule: Schedule,
    mut changes: watch::Receiver<BTreeMap<Daemon, Liveness>>,
    begin: Arc<BTreeMap<Daemon, watch::Sender<Round>>>,
) {
    loop {
        let due = schedule.due();
        let wait = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe both: they wait and take nothing.
        tokio::select! {
            changed = changes.changed() => match changed {
                Ok(()) => schedule.follow(Instant::now(), changes.borrow_and_update().clone()),
                Err(_) => return,
            },
            () = wait => {
                for (daemon, round) in schedule.take(Instant::now()) {
                    if let Some(begin) = begin.get(&daemon) {
                        begin.send_replace(round);
                    }
                }
            }
        }
    }
}

/// The next round of each daemon.
#[derive(Debug)]
struct Schedule {
    zero: Instant,
    next: BTreeMap<Daemon, Round>,
}

impl Schedule {
    fn new(zero: Instant, now: Instant, how: BTreeMap<Daemon, Liveness>) -> Self {
        let mut schedule = Self { zero, next: BTreeMap::new() };
        schedule.follow(now, how);
        schedule
    }

    /// Other numbers; a period that stays keeps its next moment.
    fn follow(&mut self, now: Instant, how: BTreeMap<Daemon, Liveness>) {
        let next = |(daemon, how): (Daemon, Liveness)| {
            let kept = self.next.get(&daemon).filter(|old| old.how.period == how.period).map(|old| old.due);
            (daemon, Round { due: kept.unwrap_or_else(|| round_after(self.zero, now, how.period)), how })
        };
        self.next = how.into_iter().map(next).collect();
    }

    /// When the next round of anybody is.
    fn due(&self) -> Option<Instant> {
        self.next.values().map(|round| round.due).min()
    }

    /// The rounds whose time has come. One that was missed altogether, because we were late, is not made up for.
    fn take(&mut self, now: Instant) -> Vec<(Daemon, Round)> {
        let mut taken = Vec::new();
        for (daemon, round) in self.next.iter_mut().filter(|(_, round)| round.due <= now) {
            taken.push((*daemon, *round));
            round.due = round_after(self.zero, now, round.how.period);
        }
        taken
    }
}

/// The first common moment after `at`, counted from `zero`.
fn round_after(zero: Instant, at: Instant, period: Duration) -> Instant {
    let rounds = at.duration_since(zero).as_nanos() / period.as_nanos().max(1);
    zero + period * u32::try_from(rounds + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIVE_EVERY;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// All at ten seconds but the api.
    fn numbers(api: u64) -> BTreeMap<Daemon, Liveness> {
        let of = |daemon| Liveness { period: if daemon == Daemon::Api { ms(api) } else { LIVE_EVERY }, ..Liveness::default() };
        Daemon::ALL.into_iter().map(|daemon| (daemon, of(daemon))).collect()
    }

    /// Wake-ups until a time, each with how many are asked.
    fn wakes(schedule: &mut Schedule, until: Instant) -> Vec<(Duration, usize)> {
        let mut wakes = Vec::new();
        while let Some(due) = schedule.due().filter(|due| *due <= until) {
            wakes.push((due - schedule.zero, schedule.take(due).len()));
        }
        wakes
    }

    #[test]
    fn all_are_asked_at_the_same_moments() {
        let zero = Instant::now();
        let at = |at| round_after(zero, zero + ms(at), LIVE_EVERY).duration_since(zero);
        assert_eq!([at(0), at(3), at(9_999)], [LIVE_EVERY; 3]);
        assert_eq!([at(10_000), at(10_001)], [LIVE_EVERY * 2; 2], "the moment itself is over");
    }

    #[test]
    fn one_period_is_one_wake_a_round_and_another_has_its_own() {
        let zero = Instant::now();
        let all = Daemon::ALL.len();
        let mut same = Schedule::new(zero, zero, numbers(10_000));
        assert_eq!(wakes(&mut same, zero + ms(30_000)), [(ms(10_000), all), (ms(20_000), all), (ms(30_000), all)]);
        let mut own = Schedule::new(zero, zero, numbers(4_000));
        let seen = [(4_000, 1), (8_000, 1), (10_000, all - 1), (12_000, 1), (16_000, 1), (20_000, all)].map(|(at, n)| (ms(at), n));
        assert_eq!(wakes(&mut own, zero + ms(20_000)), seen, "and where they meet, one for both");
    }

    #[test]
    fn other_numbers_hold_at_once_and_touch_nobody_else() {
        let zero = Instant::now();
        let mut schedule = Schedule::new(zero, zero, numbers(3_600_000));
        assert_eq!(schedule.due(), Some(zero + LIVE_EVERY));
        schedule.follow(zero + ms(9_100), numbers(500));
        assert_eq!(wakes(&mut schedule, zero + ms(10_000)), [(ms(9_500), 1), (ms(10_000), Daemon::ALL.len())]);
        schedule.follow(zero + ms(10_100), numbers(10_000));
        assert_eq!(wakes(&mut schedule, zero + ms(20_000)), [(ms(20_000), Daemon::ALL.len())]);
    }

    /// Who is late for one round has not lost those of others that were due meanwhile.
    #[test]
    fn row_14_a_late_round_is_told_with_the_moment_it_was_for() {
        let zero = Instant::now();
        let mut schedule = Schedule::new(zero, zero, numbers(4_000));
        let late = zero + ms(13_000);
        let told = schedule.take(late);
        assert_eq!(told.len(), Daemon::ALL.len());
        assert!(told.iter().all(|(daemon, round)| round.due == zero + if *daemon == Daemon::Api { ms(4_000) } else { LIVE_EVERY }));
        assert_eq!(schedule.due(), Some(zero + ms(16_000)), "none is made up for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_changes_the_rounds_of_those_who_listen() {
        let zero = Instant::now();
        let rounds = Rounds::new(zero, numbers(10_000));
        let mut api = rounds.of(Daemon::Api);
        api.changed().await.unwrap();
        assert_eq!((api.borrow_and_update().due - zero, zero.elapsed()), (LIVE_EVERY, LIVE_EVERY));
        rounds.follow(numbers(500));
        api.changed().await.unwrap();
        let round = *api.borrow_and_update();
        assert_eq!((round.due - zero, round.how.period), (ms(10_500), ms(500)));
        drop(rounds);
        assert!(api.changed().await.is_err(), "they end with their owner");
    }
}
