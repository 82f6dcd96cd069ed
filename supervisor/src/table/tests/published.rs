//! What neighbours and successors are told.

use super::*;

#[test]
fn housed_daemons_have_rows_and_no_process() {
    let mut world = World::of(Spec::standard(Duration::from_secs(60)).pools_together());
    world.start();
    let (user, push) = (at(Daemon::Worker(Pool::User)), at(Daemon::Worker(Pool::Push)));
    assert!(world.live.contains_key(&user) && !world.live.contains_key(&push));
    let table = world.table.node_table(world.now, 1001, |n, _| (format!("s/{n}"), format!("h/{n}")));
    let [host, housed] = [user, push].map(|name| table.instances.iter().find(|i| i.name == name.to_string()).unwrap());
    assert_eq!((housed.incarnation, housed.pid), (host.incarnation, host.pid));
    assert_eq!((housed.link_socket.as_str(), housed.health_socket.as_str()), ("s/worker.push@0", "h/worker.user@0"));
    assert_eq!(table.pools.iter().find(|p| p.daemon == "worker.push").unwrap().slots, [0]);
}

#[test]
fn node_table_keeps_a_row_until_the_exit_was_seen() {
    let mut world = World::new();
    world.start();
    let row = |world: &World| {
        let table = world.table.node_table(world.now, 1001, |n, g| (format!("s/{n}.{g}"), format!("h/{n}.{g}")));
        table.instances.into_iter().find(|i| i.name == "worker.user@0")
    };
    assert_eq!(row(&world).unwrap().link_socket, "s/worker.user@0.1");
    let user = at(Daemon::Worker(Pool::User));
    world.mute.push(user);
    world.fact(user, Fact::Exited(Exit::Code(1)));
    let next = row(&world).unwrap();
    assert_eq!((next.generation, next.link_socket.as_str()), (2, "s/worker.user@0.2"));
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    assert_eq!(row(&world), None);
}

#[test]
fn a_kill_from_outside_is_told_from_a_crash() {
    let user = at(Daemon::Worker(Pool::User));
    let signal = |signal| Exit::Signal { signal, core: false };
    for (exit, killed) in [(signal(9), true), (Exit::OutOfMemory, true), (signal(6), false), (signal(11), false), (Exit::Code(1), false)] {
        let mut world = World::new();
        world.start();
        assert!(!world.table.was_killed(user), "the first life");
        world.fact(user, Fact::Exited(exit));
        assert_eq!(world.table.was_killed(user), killed, "{exit}");
    }
}
