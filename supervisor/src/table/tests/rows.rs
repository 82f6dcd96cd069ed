//! Rows of the fault catalogue that the table alone decides.

use super::*;

const USER: Daemon = Daemon::Worker(Pool::User);

fn waits(world: &World) -> usize {
    world.table.waiting().count()
}

fn slot(daemon: Daemon, slot: u16) -> InstanceName {
    InstanceName { daemon, slot }
}

fn pace(max_unavailable: u32, canary: u32) -> Flags {
    Flags { roll: Pace { max_unavailable, canary, min_ready: Duration::from_secs(2), ..Pace::default() }, ..Flags::default() }
}

#[test]
fn row_62_a_stop_cancels_a_start_and_what_it_started_goes_down() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Api));
    world.begin(Kind::Start, &["api"], Flags::default()).unwrap();
    world.begin(Kind::Stop, &["api"], Flags::default()).unwrap();
    let codes: Vec<u32> = world.ended.iter().map(|e| e.code).collect();
    assert_eq!(codes, [7, 0], "the start was cancelled, then the stop ended");
    assert!(world.live.is_empty(), "cluster and gateway were started with it: {:?}", world.live);
}

#[test]
fn row_63_a_start_waits_for_a_stop_or_is_refused() {
    let mut world = World::new();
    world.start();
    world.deaf.push(at(Daemon::Cluster));
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    let refusal = world.begin(Kind::Start, &[], Flags { no_wait: true, ..Flags::default() }).unwrap_err();
    assert_eq!(refusal.code, 75);
    assert!(refusal.message.contains("(stop) is under way"), "{refusal}");
    let id = world.begin(Kind::Start, &[], Flags::default()).unwrap();
    assert_eq!((waits(&world), world.begin(Kind::Start, &[], Flags::default())), (1, Ok(id)), "the same one joins");
    world.pass(31_000);
    assert_eq!(world.table.overall(), Overall::Ready);
    assert!(world.ended.iter().all(|e| e.code == 0) && waits(&world) == 0);
}

#[test]
fn row_64_a_restart_of_one_that_waits_keeps_its_generation() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Gateway));
    world.begin(Kind::Start, &[], Flags { no_rollback: true, ..Flags::default() }).unwrap();
    let op = world.table.ops()[0].id();
    world.table.cancel(world.now, op, "a test").unwrap();
    world.turn();
    world.begin(Kind::Restart, &["api"], Flags::default()).unwrap();
    assert!(world.last().message.contains("api@0 was not running yet"), "{}", world.last().message);
    assert_eq!((world.state(at(Daemon::Api)), world.live[&at(Daemon::Api)]), (State::Waiting, 1));
}

#[test]
fn row_65_a_dependency_stops_alone_only_by_force() {
    let mut world = World::new();
    world.start();
    let refusal = world.begin(Kind::Stop, &["api"], Flags::default()).unwrap_err();
    assert!(refusal.code == 64 && refusal.message.contains("--cascade") && refusal.message.contains("worker.user@0"), "{refusal}");
    world.begin(Kind::Stop, &["api"], Flags { force_alone: true, ..Flags::default() }).unwrap();
    assert_eq!((world.state(at(Daemon::Api)), world.state(at(USER))), (State::Down, State::Degraded));
}

#[test]
fn row_66_a_scale_during_a_roll_converges() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, 3), &[], Flags::default()).unwrap();
    world.begin(Kind::Roll, &["worker.channel"], pace(1, 0)).unwrap();
    world.pass(500);
    world.begin(Kind::Scale(CHANNEL, 2), &[], Flags::default()).unwrap();
    assert_eq!(world.last().code, 0, "the scale did not wait for the roll");
    world.pass(10_000);
    assert_eq!(world.last().code, 0);
    assert!(world.last().message.starts_with("rolled 2; worker.channel@2 is not wanted"), "{}", world.last().message);
    let generations: Vec<u64> = (0..2).map(|n| world.live[&slot(CHANNEL, n)]).collect();
    assert_eq!((generations, world.live.contains_key(&slot(CHANNEL, 2))), (vec![2, 2], false));
}

#[test]
fn row_67_a_roll_stops_at_the_first_bad_one() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, 3), &[], Flags::default()).unwrap();
    world.begin(Kind::Roll, &["worker.channel"], pace(1, 0)).unwrap();
    world.pass(2_500);
    assert_eq!(world.live[&slot(CHANNEL, 1)], 2, "the first was proved, the second is under way");
    // Ready is not enough: it dies before it was proved.
    world.fact(slot(CHANNEL, 1), Fact::Exited(Exit::Code(1)));
    world.turn();
    assert_eq!(world.last().code, 8);
    let message = &world.last().message;
    assert!(
        message.contains("worker.channel@1 failed: exit 1") && message.contains("wkctl roll worker.channel@1 worker.channel@2"),
        "{message}"
    );
    assert_eq!(world.live[&slot(CHANNEL, 2)], 1, "the rest is on the old generation");
}

#[test]
fn row_67_a_canary_ends_early_and_says_how_to_go_on() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, 4), &[], Flags::default()).unwrap();
    world.begin(Kind::Roll, &["worker.channel"], pace(2, 2)).unwrap();
    assert!(world.live.values().filter(|g| **g == 2).count() == 2, "two at a time");
    world.pass(3_000);
    assert_eq!(
        (world.last().code, world.last().message.as_str()),
        (0, "canary: rolled 2; to go on: wkctl roll worker.channel@2 worker.channel@3")
    );
    assert_eq!(world.live[&slot(CHANNEL, 3)], 1);
}

#[test]
fn row_68_the_same_key_joins() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Cluster));
    let request = |key: &str| Request { key: key.into(), ..Request::new(Kind::Start, Vec::new(), Flags::default()) };
    let first = world.table.begin(world.now, request("a")).unwrap();
    assert_eq!(world.table.begin(world.now, request("a")), Ok(first));
    assert_eq!(world.table.begin(world.now, request("")), Ok(first), "the same start without a key is the same start");
    world.turn();
    let restart = |key: &str| Request { key: key.into(), ..Request::new(Kind::Restart, vec!["cluster".into()], Flags::default()) };
    let queued = world.table.begin(world.now, restart("b")).unwrap();
    assert_ne!(queued, first);
    assert_eq!(world.table.begin(world.now, restart("b")), Ok(queued), "also while it waits");
}

#[test]
fn row_75_a_flapping_dependency_restarts_nobody_else() {
    let mut world = World::new();
    world.start();
    for _ in 0..8 {
        world.mute.push(at(Daemon::Cluster));
        world.die(Daemon::Cluster, Exit::Code(1));
        assert_eq!(world.state(at(Daemon::Api)), State::Degraded);
        world.pass(40_000);
        assert_eq!(world.state(at(Daemon::Api)), State::Degraded);
        world.mute.clear();
        world.fact(at(Daemon::Cluster), Fact::Serving(true));
        assert_eq!(world.state(at(Daemon::Api)), State::Ready);
    }
    assert!(world.live[&at(Daemon::Cluster)] > 8);
    assert!(world.live.iter().all(|(n, generation)| n.daemon == Daemon::Cluster || *generation == 1), "{:?}", world.live);
    assert_eq!(world.table.overall(), Overall::Ready);
}

#[test]
fn row_76_a_dependency_that_failed_for_good_blocks_new_ones_and_leaves_running_ones() {
    let mut world = World::new();
    world.start();
    world.die(Daemon::Api, Exit::Code(78));
    world.turn();
    let view = world.table.view(world.now, at(USER)).unwrap();
    assert_eq!((view.state, view.generation, view.why.as_str()), (State::Degraded, 1, "what it needs is away: api@0 is failed"));
    assert_eq!(world.table.overall(), Overall::Degraded);
    let row = world.table.node_table(world.now, 1, |_, _| Default::default()).instances.into_iter().find(|r| r.name == "worker.user@0");
    assert_eq!(row.unwrap().state(), wk_proto::node::v1::State::Ready, "its own word");
    world.fact(at(USER), Fact::Exited(Exit::Code(1)));
    world.pass(1_000);
    let view = world.table.view(world.now, at(USER)).unwrap();
    assert_eq!((view.state, view.why.as_str()), (State::Blocked, "api@0 failed: exit 78 (configuration refused)"));
    let chain: Vec<String> = world.table.chain(world.now, at(USER)).iter().map(|v| v.name.to_string()).collect();
    assert_eq!(chain, ["worker.user@0", "api@0"]);
    world.table.reset(&["api".into()]).unwrap();
    world.turn();
    assert_eq!(world.table.overall(), Overall::Ready, "one word of an operator brings both back");
}

#[test]
fn row_77_a_poisoned_pool_does_not_storm() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, 16), &[], Flags::default()).unwrap();
    let all: Vec<InstanceName> = (0..16).map(|n| slot(CHANNEL, n)).collect();
    let die = |world: &mut World| all.iter().for_each(|n| world.fact(*n, Fact::Exited(Exit::Code(1))));
    die(&mut world);
    assert!(all.iter().all(|n| world.live.get(n) == Some(&2)), "the first restart of each is at once");
    die(&mut world);
    world.pass(9_000);
    let third = all.iter().filter(|n| world.live.get(n) == Some(&3)).count();
    assert_eq!(third, crate::limits::RESTART_BUCKET, "then ten in ten seconds for all together");
    world.pass(12_000);
    assert!(all.iter().all(|n| world.live.get(n) == Some(&3)));
}

#[test]
fn row_77_a_crash_loop_of_a_pool_is_told_once() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, 3), &[], Flags::default()).unwrap();
    for _ in 0..8 {
        for name in (0..3).map(|n| slot(CHANNEL, n)) {
            world.fact(name, Fact::Exited(Exit::Code(1)));
        }
        world.pass(4_000);
    }
    let flagged = world.table.views(world.now).iter().filter(|v| v.crash_loop).count();
    assert_eq!((flagged, world.looping.len()), (3, 1), "{:?}", world.looping);
    // Another daemon is another story.
    for _ in 0..8 {
        world.die(Daemon::Api, Exit::Code(1));
        world.pass(4_000);
    }
    assert_eq!(world.looping.len(), 2);
}

#[test]
fn row_78_a_rollback_goes_on_past_one_that_cannot_be_killed() {
    let mut world = World::new();
    world.missing.push(Daemon::Worker(Pool::Push));
    world.deaf.push(at(Daemon::Gateway));
    world.undying.push(at(Daemon::Gateway));
    world.begin(Kind::Start, &[], Flags::default()).unwrap();
    world.pass(120_000);
    assert_eq!(world.last().code, 6);
    assert!(world.last().message.ends_with("not killable: gateway@0"), "{}", world.last().message);
    assert_eq!(world.state(at(Daemon::Gateway)), State::Stuck);
    assert_eq!(world.live.keys().copied().collect::<Vec<_>>(), [at(Daemon::Gateway)], "the others went on");
}

#[test]
fn a_held_one_is_left_alone_until_it_is_let_go() {
    let mut world = World::new();
    world.start();
    world.table.hold(&["worker.user".into()]).unwrap();
    for _ in 0..5 {
        world.fact(at(USER), Fact::Alive(Probe::Silent));
    }
    assert_eq!(world.state(at(USER)), State::Suspect, "a debugger makes every process look hung");
    world.begin(Kind::Roll, &["worker.user"], pace(1, 0)).unwrap();
    assert!(world.last().message.contains("worker.user@0 is held"), "{}", world.last().message);
    assert_eq!(world.begin(Kind::Stop, &["worker.user"], Flags { force_alone: true, ..Flags::default() }).unwrap_err().code, 64);
    world.fact(at(USER), Fact::Exited(Exit::Code(1)));
    world.pass(60_000);
    assert!(!world.live.contains_key(&at(USER)));
    assert_eq!(world.table.view(world.now, at(USER)).unwrap().why, "held by an operator; exit 1; `wkctl unhold` starts it");
    world.table.unhold(&["worker.user".into()]).unwrap();
    world.turn();
    assert_eq!(world.live.get(&at(USER)), Some(&2));
}

#[test]
fn operations_on_different_daemons_run_side_by_side() {
    let mut world = World::new();
    world.start();
    world.deaf.push(at(USER));
    world.begin(Kind::Restart, &["worker.user"], Flags::default()).unwrap();
    world.begin(Kind::Restart, &["gateway"], Flags::default()).unwrap();
    assert_eq!(world.live.get(&at(Daemon::Gateway)), Some(&2), "it did not wait for the other");
    world.begin(Kind::Restart, &["worker.user"], Flags::default()).unwrap();
    assert_eq!(waits(&world), 1, "the same daemon waits");
    world.pass(11_000);
    world.deaf.clear();
    world.pass(11_000);
    assert_eq!((waits(&world), world.live.get(&at(USER))), (0, Some(&3)));
}

#[test]
fn a_reload_follows_the_file_and_an_override_gives_way_to_a_new_number() {
    let mut world = World::new();
    world.start();
    let configured = |n: u16| BTreeMap::from([(CHANNEL, n)]);
    let spec = world.table.spec().clone();
    world.begin(Kind::Scale(CHANNEL, 3), &[], Flags::default()).unwrap();
    world.table.reconfigure(spec.clone(), BTreeMap::new());
    assert_eq!(world.table.overridden(), configured(3));
    world.table.reconfigure(spec, configured(2));
    world.turn();
    assert_eq!((world.table.slots(CHANNEL), world.table.overridden().len()), (2, 0));
    assert!(!world.live.contains_key(&slot(CHANNEL, 2)), "row 74: what is no longer in the file is drained");
}

#[test]
fn plans_name_steps_reasons_and_refusals() {
    let mut world = World::new();
    let ms = Duration::from_millis;
    let plan = |world: &World, kind, names: &[&str], starts: &[crate::timing::Timing]| {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        world.table.plan(&Request::new(kind, names, pace(1, 0)), &plan::Experience::of(starts))
    };
    let first = plan(&world, Kind::Start, &[], &[]).unwrap();
    assert!(first.total.is_none() && first.summary.contains("no start was timed yet"), "{first:?}");
    world.start();
    let row = |daemon, init, handshake| crate::timing::Row {
        name: at(daemon),
        wait: Duration::ZERO,
        exec: ms(1),
        init: ms(init),
        handshake: ms(handshake),
        ready_at: ms(init + handshake),
        critical: false,
    };
    let rows = Daemon::ALL.into_iter().map(|d| row(d, 99, if d == Daemon::Cluster { 400 } else { 10 })).collect();
    let starts = [crate::timing::Timing { rows, total: ms(540), overhead: None }];
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    let start = plan(&world, Kind::Start, &[], &starts).unwrap();
    // 100 up + 400 handshake of the cluster, then 10 each for gateway, api, channel, push.
    assert_eq!(
        (start.total, start.summary.as_str()),
        (Some(ms(540)), "critical path: cluster → gateway → api → worker.channel → worker.push")
    );
    assert!(
        start.steps.iter().any(|s| s.action == "activate gateway@0" && s.at == Some(ms(500)) && s.because == "cluster ready"),
        "{start:?}"
    );
    assert_eq!(start.steps.last().map(|s| s.action.as_str()), Some("admit clients"));
    world.start();
    let stop = plan(&world, Kind::Stop, &[], &starts).unwrap();
    assert!(stop.steps[0].action.starts_with("quiesce") && stop.steps.last().unwrap().action == "stop cluster@0", "{stop:?}");
    assert_eq!(plan(&world, Kind::Stop, &["api"], &starts).unwrap_err().code, 64);
    let up = plan(&world, Kind::Scale(CHANNEL, 3), &[], &starts).unwrap();
    assert_eq!(up.steps[0].action, "spawn and activate worker.channel@1, worker.channel@2");
    assert!(up.steps[1].action.starts_with("deal the buckets") && up.steps[1].at == Some(ms(110)), "when they are ready: {up:?}");
    world.begin(Kind::Scale(CHANNEL, 3), &[], Flags::default()).unwrap();
    let down = plan(&world, Kind::Scale(CHANNEL, 1), &[], &starts).unwrap();
    assert!(down.steps[0].action.starts_with("deal the buckets"), "{down:?}");
    assert_eq!(down.steps[1].action, "drain worker.channel@1, worker.channel@2");
    world.begin(Kind::Scale(CHANNEL, 1), &[], Flags::default()).unwrap();
    let roll = plan(&world, Kind::Roll, &["worker"], &starts).unwrap();
    assert_eq!((roll.steps.len(), roll.total), (3, Some(3 * ms(2110))));
}

/// §4.3: what a start began goes down again, what ran before stays.
#[test]
fn a_start_that_fails_on_a_running_node_takes_back_what_it_began_only() {
    let mut world = World::new();
    world.start();
    let (api, plugins) = (at(Daemon::Api), at(Daemon::PluginHost));
    world.begin(Kind::Stop, &["plugin-host", "worker.push"], Flags { force_alone: true, ..Flags::default() }).unwrap();
    world.fact(api, Fact::Serving(false));
    world.missing.push(Daemon::Worker(Pool::Push));
    let before = world.live.clone();
    world.start();
    assert_eq!((world.last().code, world.table.admitted()), (6, true), "{:?}", world.last());
    assert_eq!(world.live, before, "{:?}", world.stopped);
    assert_eq!([world.state(api), world.state(plugins)], [State::Degraded, State::Down]);
    assert_eq!(world.last().stops.iter().map(|s| s.name).collect::<Vec<_>>(), [plugins]);
    // What was given up on before is tried again, and is still wanted when that fails.
    world.missing.push(Daemon::Api);
    world.fact(api, Fact::Exited(Exit::Code(1)));
    world.pass(1_000);
    world.start();
    assert_eq!((world.last().code, world.state(api), world.table.wanted(api)), (6, State::Failed, true));
    assert!(world.table.admitted());
}

#[test]
fn a_start_does_not_wait_for_ever_for_one_that_says_it_cannot_take_work() {
    for (keep_going, code) in [(false, 6), (true, 5)] {
        let mut world = World::new();
        world.start();
        world.fact(at(Daemon::Api), Fact::Serving(false));
        let count = world.ended.len();
        world.begin(Kind::Start, &["api"], Flags { keep_going, ..Flags::default() }).unwrap();
        world.pass(30_000);
        world.fact(at(Daemon::Api), Fact::Serving(true));
        world.pass(3_000);
        assert_eq!((world.ended.len(), world.last().code), (count + 1, 0), "it came back");
        world.fact(at(Daemon::Api), Fact::Serving(false));
        world.begin(Kind::Start, &["api"], Flags { keep_going, ..Flags::default() }).unwrap();
        world.pass(61_000);
        assert_eq!((world.ended.len(), world.last().code, world.state(at(Daemon::Api))), (count + 2, code, State::Degraded));
        assert!(world.last().message.contains("api@0 failed: it says it cannot take work"), "{:?}", world.last());
    }
}
