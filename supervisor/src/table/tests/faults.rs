//! Rows of the fault catalogue that need no process: time runs as the test likes.

use super::*;

#[test]
fn who_waits_for_many_names_three() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Cluster));
    world.start();
    let why = world.table.view(world.now, at(Daemon::PluginHost)).unwrap().why;
    assert_eq!(why, "waits for cluster@0, gateway@0, api@0 and 3 more");
}

#[test]
fn a_silent_part_holds_its_dependants_back_and_fails_the_start_at_its_timeout() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Gateway));
    world.start();
    assert_eq!(world.state(at(Daemon::Api)), State::Waiting);
    let why = world.table.view(world.now, at(Daemon::Api)).unwrap().why;
    assert_eq!(why, "waits for gateway@0");
    world.pass(59_000);
    assert!(world.ended.is_empty());
    world.pass(20_000);
    assert_eq!(world.last().code, 6);
    assert_eq!(world.last().message, "gateway@0 failed: not ready before the start timeout");
    assert!(world.live.is_empty() && world.table.is_down());
}

#[test]
fn row_10_a_slow_start_that_works_gets_more_time_up_to_its_maximum() {
    let mut world = World::new();
    let cluster = at(Daemon::Cluster);
    world.mute.push(cluster);
    world.busy.push(cluster);
    world.start();
    world.pass(300_000);
    assert_eq!(world.state(cluster), State::Starting, "five times its timeout, and it works");
    assert!(world.table.view(world.now, cluster).unwrap().why.contains("still working"));
    world.fact(cluster, Fact::Serving(true));
    world.pass(5_000);
    assert_eq!((world.state(cluster), world.last().code), (State::Ready, 0));

    let mut world = World::new();
    world.mute.push(cluster);
    world.busy.push(cluster);
    world.start();
    world.pass(700_000);
    assert!(world.last().message.contains("start timeout"), "{:?}", world.last());
}

#[test]
fn row_9_a_slow_start_that_does_nothing_gets_none() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Cluster));
    world.start();
    world.pass(59_000);
    assert!(world.ended.is_empty());
    world.pass(10_000);
    assert!(world.last().message.contains("start timeout"), "{:?}", world.last());
}

#[test]
fn row_9_a_start_that_times_out_is_asked_to_end_unless_a_core_is_wanted() {
    for (dumps, first) in [(false, Sig::Term), (true, Sig::Abort)] {
        let mut spec = Spec::standard(Duration::from_secs(60));
        spec.daemons.get_mut(&Daemon::Api).unwrap().abort_on_timeout = dumps;
        let mut world = World::of(spec);
        let api = at(Daemon::Api);
        world.mute.push(api);
        world.deaf.push(api);
        world.start();
        world.pass(80_000);
        let sent: Vec<Sig> = world.signals.iter().filter(|(n, _)| *n == api).map(|(_, sig)| *sig).collect();
        assert_eq!(sent, [first, Sig::Kill]);
        assert_eq!((world.last().code, world.table.is_down()), (6, true), "{:?}", world.last());
    }
}

#[test]
fn row_22_an_unkillable_process_blocks_nobody_and_keeps_its_slot() {
    let mut world = World::new();
    world.start();
    let user = at(Daemon::Worker(Pool::User));
    world.deaf.push(user);
    world.undying.push(user);
    world.begin(Kind::Stop, &[], Flags { now: true, ..Flags::default() }).unwrap();
    world.pass(30_000);
    assert_eq!(world.state(user), State::Stuck);
    assert_eq!((world.last().code, world.live.len()), (70, 1), "the others are down: {:?}", world.last());
    assert!(world.last().message.contains("worker.user@0"));
    // Wanted again: nothing is spawned beside it, until the kernel lets it go.
    world.start();
    assert_eq!((world.state(user), world.live.get(&user)), (State::Stuck, Some(&1)));
    world.fact(user, Fact::Exited(Exit::Signal { signal: 9, core: false }));
    world.pass(5_000);
    assert_eq!(world.state(user), State::Ready);
}

#[test]
fn row_23_the_store_is_not_killed_while_it_flushes() {
    let mut world = World::new();
    world.start();
    let cluster = at(Daemon::Cluster);
    world.deaf.push(cluster);
    world.busy.push(cluster);
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    world.pass(200_000);
    assert_eq!(world.state(cluster), State::Draining, "nearly seven times its deadline, and it works");
    // A second signal shortens deadlines, it does not cut a flush short.
    world.begin(Kind::Stop, &[], Flags { fast: true, ..Flags::default() }).unwrap();
    world.pass(20_000);
    assert_eq!(world.state(cluster), State::Draining);
    // A slow disk: no CPU, no byte more, only a thread that waits.
    world.busy.clear();
    world.syncing.push(cluster);
    world.pass(20_000);
    assert_eq!(world.state(cluster), State::Draining);
    world.syncing.clear();
    world.pass(10_000);
    assert_eq!((world.state(cluster), world.last().code), (State::Down, 0), "it did nothing any more");
}

#[test]
fn row_23_the_store_is_killed_at_its_hard_limit_and_by_a_third_signal() {
    for (now, after) in [(false, 310_000), (true, 1_000)] {
        let mut world = World::new();
        world.start();
        let cluster = at(Daemon::Cluster);
        world.deaf.push(cluster);
        world.busy.push(cluster);
        world.begin(Kind::Stop, &[], Flags::default()).unwrap();
        world.pass(40_000);
        if now {
            world.begin(Kind::Stop, &[], Flags { now, ..Flags::default() }).unwrap();
        }
        world.pass(after);
        assert_eq!(world.state(cluster), State::Down, "now: {now}");
    }
}

#[test]
fn row_73_a_stop_that_takes_its_whole_time_goes_on_as_after_a_second_signal() {
    let mut spec = Spec::standard(Duration::from_secs(60));
    spec.stop_timeout = Duration::from_secs(20);
    let patient = Duration::from_secs(300);
    spec.daemons.values_mut().for_each(|s| s.term_deadline = patient);
    let mut world = World::of(spec);
    world.start();
    let (cluster, api, push) = (at(Daemon::Cluster), at(Daemon::Api), at(Daemon::Worker(Pool::Push)));
    world.deaf.extend([cluster, api, push]);
    world.busy.push(cluster);
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    world.pass(19_900);
    assert_eq!(world.state(push), State::Draining, "its own deadline is far away");
    world.pass(3_000);
    assert_eq!([world.state(push), world.state(api), world.state(cluster)], [State::Down, State::Down, State::Draining]);
    world.pass(60_000);
    assert_eq!(world.state(cluster), State::Draining, "row 23: it flushes");
    world.busy.clear();
    world.pass(5_000);
    assert_eq!((world.state(cluster), world.last().code), (State::Down, 0));
    // A stop of single daemons has no such bound, and the next one of everything begins with its whole time.
    world.deaf.retain(|n| *n == push);
    world.start();
    world.begin(Kind::Stop, &["worker.push"], Flags { force_alone: true, ..Flags::default() }).unwrap();
    world.pass(60_000);
    assert_eq!(world.state(push), State::Draining);
}

#[test]
fn row_11_a_daemon_that_says_it_cannot_take_work_is_shown_and_left_alone() {
    let mut world = World::new();
    world.start();
    world.fact(at(Daemon::Api), Fact::Serving(false));
    world.pass(600_000);
    assert_eq!(world.state(at(Daemon::Api)), State::Degraded);
    assert_eq!(world.table.view(world.now, at(Daemon::Api)).unwrap().generation, 1);
    world.fact(at(Daemon::Api), Fact::Serving(true));
    assert_eq!(world.state(at(Daemon::Api)), State::Ready);
}

#[test]
fn row_76_a_degraded_daemon_names_who_is_away_and_the_chain_follows() {
    let mut world = World::new();
    world.start();
    let (api, gateway, cluster) = (at(Daemon::Api), at(Daemon::Gateway), at(Daemon::Cluster));
    let why = |world: &World, name| world.table.view(world.now, name).unwrap().why;
    world.fact(api, Fact::Serving(false));
    assert_eq!(why(&world, api), "says it cannot take work");
    assert_eq!(world.table.chain(world.now, api).len(), 1, "nobody else is to blame");
    world.missing.push(Daemon::Cluster);
    world.die(Daemon::Cluster, Exit::Code(1));
    world.fact(gateway, Fact::Serving(false));
    world.pass(100);
    assert_eq!(why(&world, gateway), "says it cannot take work: cluster@0 is failed");
    assert_eq!(why(&world, api), "says it cannot take work: cluster@0 is failed, gateway@0 is degraded");
    let chain: Vec<InstanceName> = world.table.chain(world.now, api).iter().map(|v| v.name).collect();
    assert_eq!(chain, [api, cluster], "what failed explains more than what suffers from it");
}

#[test]
fn row_6_want_of_memory_waits_one_step_longer() {
    let mut world = World::new();
    world.start();
    let user = at(Daemon::Worker(Pool::User));
    world.die(user.daemon, Exit::OutOfMemory);
    let view = world.table.view(world.now, user).unwrap();
    assert_eq!(view.state, State::Backoff, "a first crash of another kind is repaired at once");
    assert!(view.why.contains("out of memory"), "{}", view.why);
    assert!(world.table.was_killed(user), "the next life is told that nothing it did is to blame");
    world.pass(5_000);
    assert_eq!(world.state(user), State::Ready);
}

#[test]
fn row_19_left_behind_before_ready_is_final_and_later_is_a_crash() {
    let user = at(Daemon::Worker(Pool::User));
    let mut world = World::new();
    world.mute.push(user);
    world.start();
    world.fact(user, Fact::LeftBehind);
    world.die(user.daemon, Exit::Code(0));
    assert!(world.last().message.contains("foreground"), "{:?}", world.last());
    let mut world = World::new();
    world.start();
    world.fact(user, Fact::LeftBehind);
    world.die(user.daemon, Exit::Code(0));
    world.pass(5_000);
    assert_eq!(world.state(user), State::Ready);
}

#[test]
fn row_1_exit_0_is_a_crash_unless_the_policy_says_otherwise() {
    let user = at(Daemon::Worker(Pool::User));
    let mut world = World::new();
    world.start();
    world.die(user.daemon, Exit::Code(0));
    world.pass(100);
    assert_eq!((world.state(user), world.table.view(world.now, user).unwrap().restarts), (State::Ready, 1));
    let mut spec = Spec::standard(Duration::from_secs(60));
    spec.daemons.get_mut(&user.daemon).unwrap().restart = crate::spec::RestartPolicy::OnFailure;
    let mut world = World::of(spec);
    world.start();
    world.die(user.daemon, Exit::Code(0));
    world.pass(60_000);
    let view = world.table.view(world.now, user).unwrap();
    assert_eq!((view.state, view.restarts), (State::Exited, 0), "said, not restarted, and no crash");
    assert!(view.why.starts_with("exit 0"), "{}", view.why);
    // Not a failed start either, and no failure for a start that waits for it.
    world.begin(Kind::Start, &["worker.user"], Flags::default()).unwrap();
    assert_eq!(world.state(user), State::Ready);
    world.mute.push(user);
    world.begin(Kind::Stop, &["worker.user"], Flags { force_alone: true, ..Flags::default() }).unwrap();
    let count = world.ended.len();
    world.begin(Kind::Start, &["worker.user"], Flags::default()).unwrap();
    world.die(user.daemon, Exit::Code(0));
    world.pass(5_000);
    assert_eq!((world.ended.len(), world.last().code), (count + 1, 0), "{:?}", world.last());
    assert!(world.last().message.contains("ended with 0 and left so by policy: worker.user@0"), "{:?}", world.last());
}

#[test]
fn row_16_a_port_in_use_is_tried_again() {
    let user = at(Daemon::Worker(Pool::User));
    let mut world = World::new();
    world.start();
    world.die(user.daemon, Exit::Code(75));
    world.die(user.daemon, Exit::Code(75));
    let view = world.table.view(world.now, user).unwrap();
    assert!(view.state != State::Failed && !view.why.contains("not restarted"), "{view:?}");
    world.pass(5_000);
    assert_eq!(world.state(user), State::Ready);
}

#[test]
fn a_signal_of_ours_is_not_called_somebody_elses() {
    let (plugins, term) = (at(Daemon::PluginHost), Exit::Signal { signal: 15, core: false });
    let mut world = World::new();
    world.start();
    let last = |world: &World| world.table.view(world.now, plugins).unwrap().last_end.unwrap().text();
    world.fact(plugins, Fact::Exited(term));
    assert_eq!(last(&world), "signal 15 (TERM, not ours)");
    world.deaf.push(plugins);
    world.begin(Kind::Stop, &["plugin-host"], Flags::default()).unwrap();
    world.fact(plugins, Fact::Exited(term));
    assert_eq!(last(&world), "signal 15 (TERM)");
    let why = world.table.view(world.now, plugins).unwrap().why;
    assert_eq!(why, "not wanted, last signal 15 (TERM)");
    assert_eq!(world.last().stops.iter().map(|s| s.outcome).collect::<Vec<_>>(), [Outcome::Gone], "it had begun to work");
}

#[test]
fn row_12_a_hang_is_dumped_before_it_is_killed_and_is_to_blame() {
    let user = at(Daemon::Worker(Pool::User));
    let abort = Exit::Signal { signal: 6, core: true };
    for (probe, blameless) in [(Probe::Silent, false), (Probe::Stopped, true)] {
        let mut world = World::new();
        world.start();
        world.fact(user, Fact::Probed(probe));
        assert_eq!(world.state(user), State::Stopping);
        world.fact(user, Fact::Exited(abort));
        let why = world.table.view(world.now, user).unwrap().why;
        assert!(why.contains("no answer to a probe, ended by signal 6 (ABRT), core dumped"), "{why}");
        assert_eq!(world.table.was_killed(user), blameless, "{probe:?}");
        // One that does not even die of SIGABRT.
        world.pass(60_000);
        world.fact(user, Fact::Probed(probe));
        world.pass(900);
        assert_eq!((world.state(user), world.live.contains_key(&user)), (State::Stopping, true));
        world.pass(200);
        assert_eq!(world.live.get(&user), None, "a second for its core");
        assert_eq!(world.table.was_killed(user), blameless, "{probe:?}");
        world.pass(5_000);
        assert_eq!(world.state(user), State::Ready);
    }
}
