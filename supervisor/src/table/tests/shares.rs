//! Moves of buckets: who owns what, step by step.

use super::*;

const USER: Daemon = Daemon::Worker(Pool::User);

impl World {
    /// Slots and next slots of a pool in the node table, and whether they are held.
    fn pool(&self, daemon: Daemon) -> (usize, usize, bool) {
        let table = self.table.node_table(self.now, 1001, |n, _| (format!("s/{n}"), format!("h/{n}")));
        let pool = table.pools.iter().find(|p| p.daemon == daemon.name()).unwrap();
        (pool.slots.len(), pool.next.len(), pool.held)
    }

    fn scale(&mut self, daemon: Daemon, slots: u16) {
        self.begin(Kind::Scale(daemon, slots), &[], Flags::default()).unwrap();
    }
}

#[test]
fn a_share_moves_when_everybody_is_ready_and_step_by_step() {
    let mut world = World::new();
    world.start();
    world.mute.push(InstanceName { daemon: CHANNEL, slot: 1 });
    world.scale(CHANNEL, 2);
    assert_eq!((world.pool(CHANNEL), world.table.epoch()), ((1, 0, false), 1), "the new one is not ready");
    world.mute.clear();
    world.behind = vec![at(USER)];
    world.fact(InstanceName { daemon: CHANNEL, slot: 1 }, Fact::Serving(true));
    assert_eq!((world.pool(CHANNEL), world.table.epoch()), ((1, 2, false), 2));
    world.table.met(at(USER), 99, 2);
    world.turn();
    assert_eq!(world.pool(CHANNEL), (1, 2, false), "another life said so");
    world.table.met(at(USER), 1, 2);
    world.turn();
    assert_eq!((world.pool(CHANNEL), world.table.epoch()), ((1, 2, true), 3));
    world.behind.clear();
    world.turn();
    world.meet();
    assert_eq!((world.pool(CHANNEL), world.table.epoch()), ((2, 0, false), 4));
    assert_eq!((world.last().code, world.last().message.as_str()), (0, "worker.channel has 2 slots"));
}

#[test]
fn an_owner_keeps_its_process_until_its_buckets_have_moved() {
    let mut world = World::new();
    world.start();
    world.scale(USER, 2);
    world.behind = vec![at(Daemon::Gateway)];
    world.scale(USER, 1);
    let second = InstanceName { daemon: USER, slot: 1 };
    assert_eq!(world.pool(USER), (2, 1, false));
    // It dies meanwhile: it comes back as what it was.
    world.fact(second, Fact::Exited(Exit::Signal { signal: 9, core: false }));
    assert_eq!((world.state(second), world.pool(USER)), (State::Ready, (2, 1, false)));
    world.behind.clear();
    world.meet();
    assert_eq!((world.pool(USER), world.live.contains_key(&second)), ((1, 0, false), false));
}

#[test]
fn a_move_that_takes_too_long_is_called_off_and_tried_again() {
    let mut world = World::new();
    world.start();
    world.behind = vec![at(Daemon::Api)];
    world.scale(USER, 4);
    assert_eq!(world.pool(USER), (1, 4, false));
    world.pass(2_100);
    assert_eq!((world.pool(USER), world.table.epoch()), ((1, 0, false), 3), "what was held goes on");
    world.pass(5_000);
    assert_eq!(world.table.epoch(), 3, "not before everybody has heard that it was called off");
    world.behind.clear();
    world.meet();
    world.pass(600);
    assert_eq!(world.pool(USER), (4, 0, false));
    assert_eq!(world.last().code, 0);
}

#[test]
fn one_pool_moves_at_a_time_and_a_later_scale_wins() {
    let mut world = World::new();
    world.start();
    world.behind = vec![at(Daemon::Gateway)];
    world.scale(USER, 2);
    world.scale(CHANNEL, 3);
    world.scale(USER, 3);
    let moving = [USER, CHANNEL].map(|pool| world.pool(pool));
    assert_eq!(moving.iter().filter(|(_, next, _)| *next > 0).count(), 1, "{moving:?}");
    world.behind.clear();
    world.meet();
    assert_eq!([USER, CHANNEL].map(|pool| world.pool(pool)), [(3, 0, false), (3, 0, false)]);
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    assert!(world.table.is_down());
}

#[test]
fn a_stop_calls_a_move_off() {
    let mut world = World::new();
    world.start();
    world.behind = vec![at(Daemon::Gateway)];
    world.scale(USER, 2);
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    assert!(world.table.is_down());
    assert_eq!(world.pool(USER).1, 0);
}

#[test]
fn a_successor_begins_a_move_again() {
    let mut world = World::new();
    world.start();
    world.behind = vec![at(Daemon::Gateway)];
    world.scale(USER, 2);
    let desired = world.table.desired();
    let mut next = Table::new(Spec::standard(Duration::from_secs(60)), BTreeMap::new(), desired.epoch, 7);
    next.inherit(desired.clone(), &BTreeMap::new());
    assert_eq!((next.share(USER), next.slots(USER), next.epoch()), (1, 2, desired.epoch + 1));
}

#[test]
fn pools_in_one_process_move_one_after_the_other() {
    let mut world = World::of(Spec::standard(Duration::from_secs(60)).pools_together());
    world.start();
    world.scale(USER, 2);
    let all = [Pool::User, Pool::Channel, Pool::Push].map(|p| world.pool(Daemon::Worker(p)));
    assert_eq!((all, world.table.epoch()), ([(2, 0, false); 3], 10));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever dies, hangs back and is scaled: an owner of buckets always has an instance, two pools never move together, epochs only grow,
    /// and in the end the share is what was asked for.
    #[test]
    fn shares_follow_what_is_wanted(steps in prop::collection::vec((0u8..6, 0u16..4, 1u16..5), 1..60)) {
        let mut world = World::new();
        world.start();
        let pools = [USER, CHANNEL, Daemon::Worker(Pool::Push)];
        let mut epoch = world.table.epoch();
        for (what, slot, size) in steps {
            let pool = pools[usize::from(size) % 3];
            match what {
                0 => world.scale(pool, size),
                1 => world.fact(InstanceName { daemon: pool, slot }, Fact::Exited(Exit::Signal { signal: 9, core: false })),
                2 => world.behind.push(InstanceName { daemon: pool, slot }),
                3 => world.behind.clear(),
                4 => world.meet(),
                _ => world.pass(700 * u64::from(size)),
            }
            prop_assert!(world.table.epoch() >= epoch);
            epoch = world.table.epoch();
            let shown: Vec<_> = pools.iter().map(|p| (*p, world.pool(*p))).collect();
            prop_assert!(shown.iter().filter(|(_, (_, next, _))| *next > 0).count() <= 1);
            for (pool, (slots, next, held)) in shown {
                prop_assert!(!held || next > 0);
                let needed = slots.max(next);
                let mut owners = (0..u16::try_from(needed).unwrap()).map(|slot| InstanceName { daemon: pool, slot });
                let there = owners.all(|name| world.table.view(world.now, name).is_some_and(|v| v.wanted));
                prop_assert!(there, "an owner without an instance");
            }
        }
        world.behind.clear();
        world.meet();
        world.pass(600_000);
        for pool in pools {
            prop_assert_eq!((world.pool(pool).0, world.pool(pool).1), (usize::from(world.table.slots(pool)), 0));
        }
    }
}
