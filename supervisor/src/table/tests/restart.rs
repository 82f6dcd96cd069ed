//! Restarts of single daemons: alone, with those that need them, in a hurry.

use super::*;

fn restart(world: &mut World, names: &[&str], flags: Flags) -> Result<u64, Refusal> {
    world.stopped.clear();
    world.activated.clear();
    world.begin(Kind::Restart, names, flags)
}

fn generation(world: &World, name: InstanceName) -> u64 {
    world.table.view(world.now, name).unwrap().generation
}

#[test]
fn with_cascade_those_that_need_it_go_first_and_come_back_behind_it() {
    let mut world = World::new();
    world.start();
    restart(&mut world, &["worker.channel"], Flags { cascade: true, ..Flags::default() }).unwrap();
    let (channel, push, plugins) = (at(CHANNEL), at(Daemon::Worker(Pool::Push)), at(Daemon::PluginHost));
    assert_eq!(world.stopped, [plugins, push, channel]);
    assert_eq!(world.activated, [channel, push, plugins]);
    assert_eq!((world.last().code, world.table.overall()), (0, Overall::Ready));
    assert_eq!(generation(&world, at(Daemon::Cluster)), 1, "nobody else was touched");
    // One slot of several takes nobody with it, and without the flag nobody goes along.
    world.begin(Kind::Scale(CHANNEL, 2), &[], Flags::default()).unwrap();
    for (name, flags) in [("worker.channel@1", Flags { cascade: true, ..Flags::default() }), ("worker.channel", Flags::default())] {
        restart(&mut world, &[name], flags).unwrap();
        assert!(world.last().code == 0 && world.stopped.iter().all(|n| n.daemon == CHANNEL), "{:?}", world.stopped);
    }
    let refused = world.table.plan(&Request::new(Kind::Stop, vec!["cluster".into()], Flags::default()), &plan::Experience::default());
    assert_eq!(refused.unwrap_err().code, 64);
}

#[test]
fn a_hurried_restart_waits_a_second_or_not_at_all() {
    for (flags, ms) in [(Flags { fast: true, ..Flags::default() }, 1_000), (Flags { now: true, ..Flags::default() }, 0)] {
        for cascade in [false, true] {
            let mut world = World::new();
            world.start();
            let api = at(Daemon::Api);
            world.deaf.push(api);
            restart(&mut world, &["api"], Flags { cascade, ..flags }).unwrap();
            world.pass(ms);
            assert_eq!((generation(&world, api), world.last().code), (2, 0), "{flags:?}");
        }
    }
}

#[test]
fn a_plan_names_what_comes_up_again() {
    let mut world = World::new();
    world.start();
    let request = Request::new(Kind::Restart, vec!["worker.push".into()], Flags { cascade: true, ..Flags::default() });
    let plan = world.table.plan(&request, &plan::Experience::default()).unwrap();
    let actions: Vec<&str> = plan.steps.iter().map(|s| s.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "stop plugin-host@0",
            "stop worker.push@0",
            "spawn worker.push@0, plugin-host@0",
            "activate worker.push@0",
            "activate plugin-host@0",
        ]
    );
}
