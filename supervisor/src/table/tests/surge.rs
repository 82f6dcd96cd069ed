//! Rolls with added slots: never less ready than configured, and nothing left of them whatever happens.

use super::super::plan::Experience;
use super::*;

fn channel(slot: u16) -> InstanceName {
    InstanceName { daemon: CHANNEL, slot }
}

fn surge(count: u32) -> Flags {
    Flags { roll: Pace { surge: count, min_ready: Duration::from_secs(2), ..Pace::default() }, ..Flags::default() }
}

/// A ready node with this many slots of the channel pool.
fn ready(slots: u16) -> World {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, slots), &[], Flags::default()).unwrap();
    world
}

impl World {
    fn roll(&mut self, names: &[&str], count: u32) {
        self.begin(Kind::Roll, names, surge(count)).unwrap();
    }

    /// Generations of the channel pool, by slot.
    fn generations(&self) -> Vec<u64> {
        self.live.iter().filter(|(n, _)| n.daemon == CHANNEL).map(|(_, g)| *g).collect()
    }

    /// Nothing of a surge is left.
    fn settled(&self, slots: u16) {
        assert_eq!((self.table.slots(CHANNEL), self.table.share(CHANNEL), self.table.in_use(CHANNEL)), (slots, slots, slots));
        assert_eq!(self.generations().len(), usize::from(slots), "{:?}", self.live);
    }
}

#[test]
fn adds_proves_replaces_and_takes_away() {
    let mut world = ready(2);
    world.roll(&["worker.channel"], 1);
    assert_eq!((world.generations(), world.table.share(CHANNEL)), (vec![1, 1, 1], 3), "the added one has its share");
    assert!(world.table.overridden().get(&CHANNEL).is_none_or(|slots| *slots == 2), "not written down as wanted");
    world.pass(1_900);
    assert_eq!(world.generations(), [1, 1, 1], "it is not proved yet");
    world.pass(200);
    assert_eq!(world.generations(), [2, 1, 1]);
    world.pass(2_000);
    assert_eq!(world.generations(), [2, 2, 1]);
    world.pass(2_000);
    assert_eq!((world.last().code, world.last().message.as_str()), (0, "rolled 2"));
    assert_eq!(world.generations(), [2, 2]);
    world.settled(2);
}

#[test]
fn pools_are_lifted_one_after_the_other_and_as_many_are_replaced_as_were_added() {
    let mut world = ready(4);
    world.roll(&["worker"], 2);
    let pools = |world: &World| -> Vec<usize> {
        let of = |daemon: Daemon| world.live.keys().filter(|n| n.daemon == daemon).count();
        [Pool::User, Pool::Channel, Pool::Push].map(|p| of(Daemon::Worker(p))).to_vec()
    };
    assert_eq!(pools(&world), [3, 4, 1]);
    world.pass(4_100);
    assert_eq!(pools(&world), [1, 6, 1]);
    world.pass(2_000);
    assert_eq!(world.generations(), [2, 2, 1, 1, 1, 1]);
    world.pass(20_000);
    assert_eq!((world.last().code, world.last().message.as_str()), (0, "rolled 6"));
    assert_eq!(pools(&world), [1, 4, 1]);
    world.settled(4);
}

#[test]
fn a_bad_new_one_is_found_before_anybody_is_replaced() {
    let mut world = ready(2);
    world.missing.push(CHANNEL);
    world.roll(&["worker.channel"], 1);
    assert_eq!(world.last().code, 8);
    let message = &world.last().message;
    assert!(message.contains("worker.channel@2 failed: cannot execute"), "{message}");
    assert!(message.contains("to go on: wkctl roll worker.channel@0 worker.channel@1 --surge 1"), "{message}");
    assert!(message.ends_with("the added worker.channel@2 goes again"), "{message}");
    assert_eq!(world.generations(), [1, 1]);
    world.settled(2);
}

#[test]
fn a_bad_one_in_the_middle_ends_it_and_the_added_one_stays_until_its_share_can_go_back() {
    let mut world = ready(2);
    world.roll(&["worker.channel"], 1);
    world.pass(2_100);
    world.missing.push(CHANNEL);
    world.fact(channel(0), Fact::Exited(Exit::Code(3)));
    assert_eq!(world.last().code, 8);
    let message = &world.last().message;
    assert!(message.contains("wkctl roll worker.channel@0 worker.channel@1 --surge 1"), "{message}");
    assert!(
        message.ends_with("the added worker.channel@2 goes when it has handed its share back, which takes all of worker.channel ready")
    );
    assert_eq!((world.state(channel(0)), world.state(channel(2))), (State::Failed, State::Ready));
    world.missing.clear();
    world.begin(Kind::Start, &["worker.channel"], Flags::default()).unwrap();
    world.settled(2);
}

#[test]
fn goes_on_with_what_is_not_ready() {
    let mut world = ready(2);
    world.fact(channel(1), Fact::Exited(Exit::Code(78)));
    assert_eq!(world.state(channel(1)), State::Failed);
    world.roll(&["worker.channel"], 1);
    assert_eq!((world.state(channel(1)), world.live[&channel(0)]), (State::Ready, 1), "what fails is mended without added slots");
    world.pass(2_100);
    assert!(world.live.contains_key(&channel(2)));
    world.pass(5_000);
    assert_eq!((world.last().code, world.generations()), (0, vec![2, 2]));
    world.settled(2);
}

#[test]
fn a_scale_in_the_middle_converges() {
    for slots in [1, 4] {
        let mut world = ready(2);
        world.roll(&["worker.channel"], 1);
        world.pass(2_100);
        world.begin(Kind::Scale(CHANNEL, slots), &[], Flags::default()).unwrap();
        world.pass(20_000);
        assert_eq!((world.ended.len(), world.last().code), (4, 0), "{:?}", world.ended);
        world.settled(slots);
        assert_eq!(world.live[&channel(0)], 2, "{slots}");
    }
}

#[test]
fn whatever_ends_the_roll_ends_the_added_slots() {
    for end in 0..3 {
        let mut world = ready(2);
        world.roll(&["worker.channel"], 1);
        world.pass(2_100);
        match end {
            0 => drop(world.table.cancel(world.now, world.table.ops()[0].id(), "a test").unwrap()),
            1 => drop(world.begin(Kind::Stop, &[], Flags::default()).unwrap()),
            _ => drop(world.begin(Kind::Stop, &["worker.user"], Flags { force_alone: true, ..Flags::default() }).unwrap()),
        }
        world.turn();
        world.pass(10_000);
        match end {
            0 => assert_eq!(world.ended.iter().rev().map(|e| e.code).next(), Some(7)),
            1 => assert!(world.table.is_down() && world.live.is_empty()),
            _ => assert_eq!(world.last().message, "rolled 2", "another pool is none of its business"),
        }
        if end != 1 {
            world.settled(2);
        }
    }
}

#[test]
fn a_successor_takes_the_added_slot_away() {
    let mut world = ready(2);
    world.roll(&["worker.channel"], 1);
    world.pass(2_100);
    let desired = world.table.desired();
    let mut next = Table::new(Spec::standard(Duration::from_secs(60)), BTreeMap::new(), desired.epoch, 7);
    next.inherit(desired, &BTreeMap::new());
    assert_eq!((next.slots(CHANNEL), next.in_use(CHANNEL), next.share(CHANNEL)), (2, 2, 3));
    assert_eq!(next.overridden().get(&CHANNEL), Some(&2), "only what was there before");
    let live: Vec<Instance> = world.table.instances().cloned().collect();
    for instance in live {
        next.adopt(world.now, instance, true);
    }
    world.table = next;
    for name in world.live.keys().copied().collect::<Vec<_>>() {
        world.fact(name, Fact::Serving(true));
    }
    world.pass(5_000);
    world.settled(2);
}

#[test]
fn what_cannot_run_twice_is_refused_with_a_reason() {
    let mut world = ready(2);
    let mut refused = |names: &[&str], flags: Flags, part: &str| {
        let refusal = world.begin(Kind::Roll, names, flags).unwrap_err();
        assert!(refusal.code == 64 && refusal.message.contains(part), "{refusal}");
    };
    for (name, part) in [("cluster", "its data"), ("gateway", "its ports"), ("api", "its ports"), ("plugin-host", "each plugin")] {
        refused(&[name], surge(1), part);
    }
    refused(&[], surge(1), "cluster cannot run twice");
    refused(&["worker"], surge(63), "64 at most");
    let greedy = Pace { max_unavailable: 2, surge: 1, ..Pace::default() };
    refused(&["worker"], Flags { roll: greedy, ..Flags::default() }, "--max-unavailable 2 is more than --surge 1");
    world.table.hold(&["worker.channel@1".into()]).unwrap();
    let refusal = world.begin(Kind::Roll, &["worker.channel@0"], surge(1)).unwrap_err();
    assert!(refusal.message.contains("`wkctl unhold worker.channel@1` first"), "{refusal}");
}

#[test]
fn the_plan_is_what_happens() {
    let world = ready(2);
    let request = Request::new(Kind::Roll, vec!["worker.channel".into()], surge(1));
    let plan = world.table.plan(&request, &Experience::default()).unwrap();
    let steps: Vec<(&str, &str)> = plan.steps.iter().map(|s| (s.action.as_str(), s.because.as_str())).collect();
    let expected = [
        ("add worker.channel@2", "first"),
        ("replace worker.channel@0", "worker.channel@2 ready for 2s; shares have moved to it"),
        ("replace worker.channel@1", "worker.channel@0 ready for 2s"),
        ("drain worker.channel@2", "worker.channel@1 ready for 2s; its share goes back first"),
    ];
    assert_eq!(steps, expected);
    assert_eq!(plan.summary, "never less ready than configured; stops at the first one that is bad; the rest stays as it is");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever crashes, is scaled and cancelled meanwhile: a roll with added slots never takes a ready one away below the configured number
    /// (the table asserts it where it takes one), it ends, and nothing of it is left.
    #[test]
    fn capacity_is_kept_and_nothing_is_left(slots in 1u16..4, count in 1u32..3, steps in prop::collection::vec((0u8..7, 0u16..5, 1u16..4), 1..40)) {
        let mut world = ready(slots);
        for (what, slot, size) in steps {
            match what {
                0 => world.fact(channel(slot), Fact::Exited(Exit::Signal { signal: 9, core: false })),
                1 => drop(world.begin(Kind::Scale(CHANNEL, size), &[], Flags::default())),
                2 => {
                    drop(world.table.cancel(world.now, world.table.ops().first().map_or(0, Op::id), "a test"));
                    world.turn();
                }
                3 => drop(world.begin(Kind::Roll, &["worker.channel"], surge(count))),
                4 => world.behind.push(channel(slot)),
                5 => world.behind.clear(),
                _ => world.pass(500 * u64::from(size)),
            }
        }
        world.behind.clear();
        world.meet();
        world.pass(1_000_000);
        prop_assert_eq!(unended(&world), 0);
        world.settled(world.table.slots(CHANNEL));
        prop_assert_eq!(world.table.overall(), Overall::Ready);
    }
}
