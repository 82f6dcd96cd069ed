//! Policies of single daemons: restart of the unready, end with the supervisor.

use super::*;
use crate::spec::Orphans;

const API: Daemon = Daemon::Api;

fn with_policy(change: impl FnOnce(&mut crate::spec::DaemonSpec)) -> Spec {
    let mut spec = Spec::standard(Duration::from_secs(60));
    change(spec.daemons.get_mut(&API).unwrap());
    spec
}

fn impatient() -> World {
    let mut world = World::of(with_policy(|d| d.unready_restart = Some(Duration::from_secs(30))));
    world.start();
    world.fact(at(API), Fact::Serving(false));
    world
}

fn generation(world: &World) -> u64 {
    world.table.view(world.now, at(API)).unwrap().generation
}

#[test]
fn row_11_who_cannot_take_work_for_too_long_is_restarted_when_its_policy_says_so() {
    let mut world = impatient();
    world.pass(20_000);
    world.fact(at(API), Fact::Serving(true));
    world.fact(at(API), Fact::Serving(false));
    world.pass(29_000);
    assert_eq!((world.state(at(API)), generation(&world)), (State::Degraded, 1), "its clock begins anew");
    world.pass(2_000);
    let view = world.table.view(world.now, at(API)).unwrap();
    assert_eq!((view.state, view.generation, view.restarts), (State::Ready, 2, 1));
}

#[test]
fn row_11_nobody_is_restarted_for_what_he_requires() {
    let mut world = impatient();
    world.missing.push(Daemon::Cluster);
    world.die(Daemon::Cluster, Exit::Code(1));
    world.pass(100_000);
    assert_eq!((world.state(at(API)), generation(&world)), (State::Degraded, 1));
    world.missing.clear();
    world.begin(Kind::Start, &["cluster"], Flags::default()).unwrap();
    world.pass(29_000);
    assert_eq!(generation(&world), 1);
    world.pass(2_000);
    assert_eq!(generation(&world), 2);
}

#[test]
fn row_11_who_is_held_is_left_alone() {
    let mut world = impatient();
    world.table.hold(&["api".to_owned()]).unwrap();
    world.pass(100_000);
    assert_eq!((world.state(at(API)), generation(&world)), (State::Degraded, 1));
}

/// What `first` leaves to a supervisor with this graph, which finds everybody alive, or the api dead.
fn successor(first: &World, spec: Spec, alive: bool) -> World {
    let mut next = World::of(spec);
    next.now = first.now;
    next.table.inherit(first.table.desired(), &BTreeMap::new());
    next.live = first.live.clone();
    for instance in first.table.instances() {
        let live = alive || instance.name != at(API);
        next.table.adopt(next.now, instance.clone(), live);
    }
    for instance in first.table.instances().filter(|i| i.name != at(API)) {
        next.fact(instance.name, Fact::Serving(true));
    }
    next
}

#[test]
fn row_41_a_bound_daemon_is_waited_for_and_its_end_is_no_crash() {
    let kill = || with_policy(|d| d.orphans = Orphans::Kill);
    let mut first = World::of(kill());
    first.start();
    // The kernel has told it already: a second signal would cut its drain short.
    let mut world = successor(&first, kill(), true);
    world.turn();
    assert_eq!((world.state(at(API)), generation(&world)), (State::Draining, 1));
    world.die(API, Exit::Code(0));
    world.pass(100);
    let view = world.table.view(world.now, at(API)).unwrap();
    assert_eq!((view.state, view.generation, view.restarts), (State::Ready, 2, 0));

    let mut world = successor(&first, kill(), true);
    world.pass(10_000);
    world.pass(100);
    assert_eq!((world.state(at(API)), generation(&world)), (State::Ready, 2), "killed at its deadline");

    let mut world = successor(&first, kill(), false);
    world.die(API, Exit::Unknown);
    world.pass(100);
    let view = world.table.view(world.now, at(API)).unwrap();
    assert_eq!((view.state, view.generation, view.restarts), (State::Ready, 2, 0), "it left while nobody watched");
}

#[test]
fn row_41_a_changed_policy_holds_for_who_was_started_before_it() {
    let adopt = || with_policy(|_| {});
    let kill = || with_policy(|d| d.orphans = Orphans::Kill);
    let mut first = World::of(adopt());
    first.start();
    let mut world = successor(&first, kill(), true);
    world.turn();
    assert_eq!(world.stopped, [at(API)], "told by us");
    world.pass(100);
    assert_eq!(generation(&world), 2);
    let mut first = World::of(kill());
    first.start();
    let mut world = successor(&first, adopt(), true);
    world.turn();
    assert_eq!(world.state(at(API)), State::Draining, "told by the kernel, whatever holds now");
}

#[test]
fn a_bounded_start_begins_who_can_get_ready_and_no_more_at_once() {
    let begun = |parallel| {
        let mut world = World::of(Spec { parallel: NonZeroU16::new(parallel), ..Spec::standard(Duration::from_secs(60)) });
        world.mute = vec![at(Daemon::Cluster), at(Daemon::Gateway)];
        world.start();
        let first = world.live.len();
        world.fact(at(Daemon::Cluster), Fact::Serving(true));
        let second: Vec<Daemon> = world.live.keys().map(|n| n.daemon).collect();
        world.fact(at(Daemon::Gateway), Fact::Serving(true));
        assert_eq!(world.table.overall(), Overall::Ready, "{parallel}");
        (first, second)
    };
    assert_eq!(begun(0).0, 7, "all at once");
    for parallel in [1, 5] {
        assert_eq!(begun(parallel), (1, vec![Daemon::Cluster, Daemon::Gateway]), "nobody is begun who would wait for another");
    }
}

/// Crashes the api whenever it runs, for so many seconds.
fn crash_for(world: &mut World, seconds: u64) {
    for _ in 0..seconds * 2 {
        world.die(API, Exit::Code(1));
        world.pass(500);
    }
}

#[test]
fn row_15_a_crash_loop_is_told_once_and_is_over_after_a_stable_minute() {
    let mut world = World::new();
    world.start();
    crash_for(&mut world, 400);
    let view = world.table.view(world.now, at(API)).unwrap();
    assert!(view.crash_loop && world.looping == [at(API)], "also where the pauses have grown to half a minute: {:?}", world.looping);
    world.pass(40_000);
    assert_eq!(world.state(at(API)), State::Ready);
    assert!(world.table.view(world.now, at(API)).unwrap().crash_loop, "it was not stable yet");
    world.pass(60_000);
    assert!(!world.table.view(world.now, at(API)).unwrap().crash_loop);
    crash_for(&mut world, 10);
    assert_eq!((world.looping.len(), world.escalated.len()), (2, 0), "another loop; no policy says that it ends the node");
}

#[test]
fn a_crash_loop_ends_the_node_where_the_policy_says_so() {
    let mut world = World::of(with_policy(|d| d.escalate_after = Some(Duration::from_secs(100))));
    world.start();
    crash_for(&mut world, 90);
    assert_eq!(world.escalated, []);
    crash_for(&mut world, 30);
    assert_eq!(world.escalated, [at(API)]);
    crash_for(&mut world, 100);
    assert_eq!(world.escalated.len(), 1, "once");
    // Whoever recovers, or is held, does not end it.
    let mut world = World::of(with_policy(|d| d.escalate_after = Some(Duration::from_secs(100))));
    world.start();
    crash_for(&mut world, 10);
    world.pass(400_000);
    crash_for(&mut world, 10);
    world.table.hold(&["api".to_owned()]).unwrap();
    world.pass(400_000);
    assert_eq!((world.looping.len(), world.escalated.len()), (2, 0));
}

#[test]
fn max_restarts_counts_crashes_in_a_row_and_an_operator_clears_it() {
    let mut world = World::of(with_policy(|d| d.max_restarts = 2));
    world.start();
    let crash = |world: &mut World| {
        world.die(API, Exit::Code(1));
        world.pass(2_000);
        world.state(at(API))
    };
    for _ in 0..3 {
        assert_eq!([crash(&mut world), crash(&mut world)], [State::Ready; 2]);
        // A stable time: what was before counts no more.
        world.pass(70_000);
    }
    assert_eq!([crash(&mut world), crash(&mut world), crash(&mut world)], [State::Ready, State::Ready, State::Failed]);
    world.pass(600_000);
    assert_eq!(world.state(at(API)), State::Failed, "given up");
    for kind in [Kind::Restart, Kind::Start] {
        world.begin(kind, &["api"], Flags::default()).unwrap();
        world.pass(3_000);
        assert_eq!([crash(&mut world), crash(&mut world), crash(&mut world)], [State::Ready, State::Ready, State::Failed], "{kind:?}");
    }
    assert!(world.table.view(world.now, at(API)).unwrap().restarts > 10, "all of them are shown");
}

#[test]
fn restart_never_leaves_the_dead_as_they_are() {
    for exit in [Exit::Code(1), Exit::Signal { signal: 9, core: false }] {
        let mut world = World::of(with_policy(|d| d.restart = crate::spec::RestartPolicy::Never));
        world.start();
        world.die(API, exit);
        world.pass(600_000);
        assert_eq!((world.state(at(API)), generation(&world)), (State::Failed, 1), "{exit}");
        // A restart that is asked for is none of a crash.
        world.begin(Kind::Restart, &["api"], Flags::default()).unwrap();
        world.pass(3_000);
        assert_eq!((world.state(at(API)), generation(&world), world.last().code), (State::Ready, 2, 0), "{exit}");
        world.begin(Kind::Restart, &["api"], Flags::default()).unwrap();
        world.pass(3_000);
        assert_eq!((world.state(at(API)), generation(&world)), (State::Ready, 3), "{exit}");
    }
}
