use super::*;

const NOW: Duration = Duration::from_secs(100);

fn report(name: &str, incarnation: u64) -> pb::JoinReport {
    pb::JoinReport { instance: name.into(), incarnation, pid: 7, health_socket: format!("h/{name}"), ..pb::JoinReport::default() }
}

fn node() -> Members {
    let mut members = Members::new(1, 5, Daemon::ALL.map(|d| (d, 1)));
    members.host(report("cluster@0", 1));
    members
}

const REST: [&str; 6] = ["gateway@0", "api@0", "worker.user@0", "worker.channel@0", "worker.push@0", "plugin-host@0"];

fn state(members: &Members, name: &str) -> pb::State {
    members.table().instances.iter().find(|row| row.name == name).map_or(pb::State::Unspecified, pb::Instance::state)
}

/// All daemons of the node, ready.
fn full() -> (Members, Vec<Seat>) {
    let mut members = node();
    let mut seats = Vec::new();
    for (index, name) in REST.into_iter().enumerate() {
        let seat = members.join(NOW, &report(name, 10 + index as u64)).unwrap();
        assert!(members.report(seat, true, false));
        seats.push(seat);
    }
    (members, seats)
}

#[test]
fn daemons_are_activated_along_the_edges_and_clients_admitted_last() {
    let mut members = node();
    let seats: Vec<Seat> = REST.iter().map(|name| members.join(NOW, &report(name, 9)).unwrap()).collect();
    assert_eq!(state(&members, "cluster@0"), pb::State::Ready);
    assert_eq!(state(&members, "gateway@0"), pb::State::Starting);
    assert_eq!(state(&members, "api@0"), pb::State::Waiting);
    assert!(members.report(seats[0], true, false));
    assert_eq!((state(&members, "api@0"), state(&members, "worker.user@0")), (pb::State::Starting, pb::State::Waiting));
    members.report(seats[1], true, false);
    assert_eq!((state(&members, "worker.channel@0"), state(&members, "worker.push@0")), (pb::State::Starting, pb::State::Waiting));
    for seat in &seats[2..4] {
        members.report(*seat, true, false);
    }
    assert!(!members.table().admitted, "push is missing");
    members.report(seats[4], true, false);
    let table = members.table();
    assert!(table.admitted, "the plugin host does not hold admission back");
    assert_eq!((table.epoch, table.pools.len()), (5, 7), "nothing changed the slots");
}

#[test]
fn a_crash_keeps_the_share_and_the_next_life_counts_on() {
    let (mut members, seats) = full();
    let before = members.table();
    members.gone(NOW, seats[3]);
    assert_eq!(state(&members, "worker.channel@0"), pb::State::Exited);
    assert_eq!((members.table().pools, members.epoch()), (before.pools, before.epoch));
    assert!(!members.report(seats[3], true, false), "the seat is not its any more");
    let next = members.join(NOW, &report("worker.channel@0", 99)).unwrap();
    assert_eq!((seats[3].generation, next.generation), (1, 2));
    assert_eq!(state(&members, "worker.channel@0"), pb::State::Starting, "activated at once, the node is admitted");
    members.gone(NOW, seats[3]);
    assert_eq!(state(&members, "worker.channel@0"), pb::State::Starting, "a fact of an older life changes nothing");
}

#[test]
fn the_end_of_an_older_stream_of_the_same_life_is_no_end() {
    let (mut members, seats) = full();
    let again = members.join(NOW, &pb::JoinReport { serving: true, ..report("api@0", seats[1].incarnation) }).unwrap();
    assert_eq!(again.generation, seats[1].generation);
    members.gone(NOW, seats[1]);
    assert_eq!(state(&members, "api@0"), pb::State::Ready);
}

#[test]
fn a_second_copy_is_refused_and_so_is_who_is_no_instance() {
    let (mut members, _) = full();
    assert!(matches!(members.join(NOW, &report("gateway@0", 77)), Err(Refused::Taken { pid: 7, .. })));
    for name in ["cluster@0", "gateway@1", "worker", "nobody@0"] {
        assert!(matches!(members.join(NOW, &report(name, 77)), Err(Refused::Name(_))), "{name}");
    }
}

#[test]
fn further_slots_take_a_share_and_give_it_back() {
    let (mut members, _) = full();
    let slots = |m: &Members| m.table().pools.into_iter().find(|p| p.daemon == "worker.channel").unwrap().slots;
    let seat = members.join(NOW, &report("worker.channel@3", 50)).unwrap();
    assert_eq!((slots(&members), members.epoch()), (vec![0, 3], 6));
    members.gone(NOW, seat);
    assert_eq!((slots(&members), members.epoch()), (vec![0, 3], 6), "a crash moves nothing");
    assert_eq!(members.next_deadline(), Some(NOW + ABSENT));
    let back = members.join(NOW, &report("worker.channel@3", 51)).unwrap();
    assert_eq!((back.generation, members.epoch()), (2, 6));
    members.report(back, true, true);
    assert_eq!((slots(&members), members.epoch()), (vec![0], 7), "it said good-bye");
    assert_eq!(state(&members, "worker.channel@3"), pb::State::Draining);
    members.gone(NOW, back);
    assert_eq!(state(&members, "worker.channel@3"), pb::State::Unspecified, "no row is left");
    let lost = members.join(NOW, &report("worker.channel@3", 52)).unwrap();
    members.gone(NOW, lost);
    members.tick(NOW + ABSENT);
    assert_eq!((slots(&members), members.epoch()), (vec![0], 9), "systemd gave it up");
}

#[test]
fn a_new_host_begins_with_the_members_of_the_old_one() {
    let (mut old, _) = full();
    let further = old.join(NOW, &report("worker.channel@1", 50)).unwrap();
    old.report(further, true, false);
    let mut members = Members::new(1, 8, Daemon::ALL.map(|d| (d, 1)));
    assert_eq!(members.restore(Duration::ZERO, old.table(), |row| row.name != "api@0"), 6);
    members.host(report("cluster@0", 2));
    assert!(members.table().admitted, "clients stay admitted");
    assert_eq!(state(&members, "gateway@0"), pb::State::Suspect);
    let back = members.join(Duration::ZERO, &pb::JoinReport { generation: 1, serving: true, ..report("gateway@0", 10) }).unwrap();
    assert_eq!((back.generation, state(&members, "gateway@0")), (1, pb::State::Ready));
    members.tick(REJOIN);
    assert_eq!(state(&members, "worker.user@0"), pb::State::Exited, "it did not come back");
    assert!(!members.table().pools.iter().any(|p| p.daemon == "worker.channel" && p.slots.contains(&1)));
    assert!(!members.alone());
    let newer = members.join(REJOIN, &report("worker.user@0", 200)).unwrap();
    assert_eq!(newer.generation, 2, "above the life that an earlier host knew");
}

#[test]
fn one_probe_at_a_time_and_only_of_the_present_life() {
    let (mut members, seats) = full();
    let name = seats[2].name;
    assert!(members.probing(name, 1).is_none());
    assert_eq!(members.probing(name, seats[2].incarnation).map(|(pid, _)| pid), Some(7));
    assert!(members.probing(name, seats[2].incarnation).is_none());
    members.probed(name, seats[2].incarnation);
    assert!(members.probing(name, seats[2].incarnation).is_some());
}
