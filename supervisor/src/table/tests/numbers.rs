//! Restarts and hangs with the numbers of the configuration.

use super::*;
use crate::backoff::Policy;
use crate::spec::Liveness;

const API: Daemon = Daemon::Api;

fn spec(backoff: Policy, failures: u16) -> Spec {
    let mut spec = Spec::standard(Duration::from_secs(60));
    for daemon in spec.daemons.values_mut() {
        (daemon.backoff, daemon.liveness) = (backoff, Liveness { failures, ..Liveness::default() });
    }
    spec
}

/// Any pauses that the configuration takes.
pub(super) fn pauses() -> impl Strategy<Value = Policy> {
    let ms = Duration::from_millis;
    let numbers = (1u64..20_000, 1.0..8.0f64, 1.0..100.0f64, 0.0..=1.0f64, 1_000u64..120_000);
    numbers.prop_map(move |(base, factor, span, jitter, reset)| Policy {
        base: ms(base),
        factor,
        cap: ms(base).mul_f64(span),
        jitter,
        reset_after: ms(reset),
    })
}

/// A node with any of them.
pub(super) fn node() -> impl Strategy<Value = Spec> {
    (pauses(), 1u16..=5).prop_map(|(backoff, failures)| spec(backoff, failures))
}

impl World {
    /// Lets the api die, and says how long it is until it lives again.
    fn pause(&mut self, ready_ms: u64) -> Duration {
        self.pass(ready_ms);
        assert_eq!(self.state(at(API)), State::Ready);
        let died = self.now;
        self.die(API, Exit::Code(1));
        while !self.live.contains_key(&at(API)) {
            let next = self.table.next_deadline().expect("it is to be started again");
            self.now = self.now.max(next);
            self.turn();
        }
        self.now - died
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// At once, then from the base by the factor up to the cap, each within its jitter; and at once again after a stable time.
    #[test]
    fn pauses_are_those_of_the_configuration(policy in pauses(), crashes in 1u32..9) {
        let mut world = World::of(spec(policy, 3));
        world.start();
        for n in 1..=crashes {
            let want = match n {
                1 => 0.0,
                n => policy.cap.as_secs_f64().min(policy.base.as_secs_f64() * (1..n - 1).fold(1.0, |product, _| product * policy.factor)),
            };
            let (pause, off) = (world.pause(1).as_secs_f64(), want * policy.jitter + 1e-6);
            prop_assert!((pause - want).abs() <= off, "crash {}: {} s, not {} within {}", n, pause, want, off);
        }
        let stable = policy.reset_after.max(policy.delay(crashes) * 2);
        let again = world.pause(u64::try_from(stable.as_millis()).unwrap() + 1);
        prop_assert_eq!(again, Duration::ZERO, "forgotten after {:?}", stable);
    }

    /// As many misses in a row as configured are a hang, one less is none, and an answer begins anew.
    #[test]
    fn so_many_misses_are_a_hang(failures in 1u16..=100) {
        let mut world = World::of(spec(Policy::default(), failures));
        world.start();
        for round in [failures - 1, failures - 1, failures] {
            for _ in 0..round {
                world.fact(at(API), Fact::Alive(Probe::Silent));
            }
            let want = if round == failures { State::Stopping } else if round == 0 { State::Ready } else { State::Suspect };
            prop_assert_eq!(world.state(at(API)), want);
            world.fact(at(API), Fact::Alive(Probe::Answered));
        }
    }
}

#[test]
fn a_suspect_says_how_many_of_how_many() {
    let mut world = World::of(spec(Policy::default(), 5));
    world.start();
    world.fact(at(API), Fact::Alive(Probe::Silent));
    assert_eq!(world.table.view(world.now, at(API)).unwrap().why, "1 of 5 liveness checks missed");
}

#[test]
fn row_20_who_was_stopped_is_not_to_blame_for_missed_checks() {
    for (last, killed) in [(Probe::Stopped, true), (Probe::Silent, false)] {
        let mut world = World::of(spec(Policy::default(), 2));
        world.start();
        world.fact(at(API), Fact::Alive(Probe::Silent));
        world.fact(at(API), Fact::Alive(last));
        world.die(API, Exit::Signal { signal: 6, core: false });
        let view = world.table.view(world.now, at(API)).unwrap();
        assert_eq!((view.last_end.unwrap().killed, view.restarts), (killed, 1));
    }
}

/// A reload holds from the next crash on; what is under way stays, and nobody is restarted for it.
#[test]
fn other_numbers_hold_at_once() {
    let mut world = World::new();
    world.start();
    world.pause(1);
    let quick = Policy { base: Duration::from_millis(10), cap: Duration::from_millis(20), jitter: 0.0, ..Policy::default() };
    world.table.reconfigure(spec(quick, 1), BTreeMap::new());
    world.turn();
    assert!(world.live.values().filter(|generation| **generation > 1).count() == 1, "{:?}", world.live);
    let ms = Duration::from_millis;
    assert_eq!([world.pause(1), world.pause(1), world.pause(1)], [ms(10), ms(20), ms(20)]);
    world.fact(at(API), Fact::Alive(Probe::Silent));
    assert_eq!(world.state(at(API)), State::Stopping);
}
