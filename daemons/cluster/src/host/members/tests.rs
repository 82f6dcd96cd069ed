use super::*;

const NOW: Duration = Duration::from_secs(100);

fn report(name: &str, incarnation: u64) -> pb::JoinReport {
    pb::JoinReport { instance: name.into(), incarnation, pid: 7, health_socket: format!("h/{name}"), ..pb::JoinReport::default() }
}

fn node() -> Members {
    let mut members = Members::new(1, 5, Daemon::ALL.map(|d| (d, 1)));
    members.host(NOW, report("cluster@0", 1));
    members
}

impl Members {
    fn said(&mut self, seat: Seat, serving: bool, draining: bool) -> bool {
        self.report(NOW, seat, &pb::JoinReport { serving, draining, ..pb::JoinReport::default() })
    }

    /// The process of a seat was asked to stop.
    fn leaves(&mut self, seat: Seat) {
        assert!(self.report(NOW, seat, &pb::JoinReport { serving: true, leaving: true, ..pb::JoinReport::default() }));
    }

    /// Everybody but `late` has met the epoch.
    fn meet(&mut self, late: &str) {
        let epoch = self.epoch();
        for row in self.table().instances.iter().filter(|row| row.name != late) {
            self.met(NOW, row.name.parse().unwrap(), row.incarnation, epoch);
        }
    }

    /// Slots, next slots and "held" of the channel pool.
    fn pool(&self) -> (Vec<u32>, Vec<u32>, bool) {
        let pool = self.table().pools.into_iter().find(|p| p.daemon == "worker.channel").unwrap();
        (pool.slots, pool.next, pool.held)
    }

    /// A further channel worker that is ready.
    fn further(&mut self, slot: u16, incarnation: u64) -> Seat {
        let seat = self.join(NOW, &report(&format!("worker.channel@{slot}"), incarnation)).unwrap();
        assert!(self.said(seat, true, false));
        seat
    }
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
        assert!(members.said(seat, true, false));
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
    assert!(members.said(seats[0], true, false));
    assert_eq!((state(&members, "api@0"), state(&members, "worker.user@0")), (pb::State::Starting, pb::State::Waiting));
    members.said(seats[1], true, false);
    assert_eq!((state(&members, "worker.channel@0"), state(&members, "worker.push@0")), (pb::State::Starting, pb::State::Waiting));
    for seat in &seats[2..4] {
        members.said(*seat, true, false);
    }
    assert!(!members.table().admitted, "push is missing");
    members.said(seats[4], true, false);
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
    assert!(!members.said(seats[3], true, false), "the seat is not its any more");
    let next = members.join(NOW, &report("worker.channel@0", 99)).unwrap();
    assert_eq!((seats[3].generation, next.generation), (1, 2));
    assert_eq!(state(&members, "worker.channel@0"), pb::State::Starting, "activated at once, the node is admitted");
    members.gone(NOW, seats[3]);
    assert_eq!(state(&members, "worker.channel@0"), pb::State::Starting, "a fact of an older life changes nothing");
}

#[test]
fn who_is_configured_and_not_here_is_named() {
    let mut members = Members::new(1, 5, Daemon::ALL.map(|d| (d, if d == Daemon::Worker(wk_types::Pool::Channel) { 2 } else { 1 })));
    members.host(NOW, report("cluster@0", 1));
    for name in REST {
        let seat = members.join(NOW, &report(name, 9)).unwrap();
        members.said(seat, true, false);
    }
    assert_eq!((members.missing(), members.admitted()), (vec!["worker.channel@1".parse().unwrap()], false));
    let last = members.join(NOW, &report("worker.channel@1", 10)).unwrap();
    assert!(members.missing().is_empty());
    members.said(last, true, false);
    assert!(members.admitted());
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

/// Epoch after epoch until nothing moves.
fn moved(members: &mut Members) {
    while !members.pool().1.is_empty() {
        members.meet("");
    }
}

#[test]
fn a_further_slot_takes_its_share_in_three_steps_once_it_is_ready() {
    let (mut members, _) = full();
    let seat = members.join(NOW, &report("worker.channel@3", 50)).unwrap();
    assert_eq!((members.pool(), members.epoch()), ((vec![0], vec![], false), 5), "not ready yet");
    members.said(seat, true, false);
    assert_eq!((members.pool(), members.epoch()), ((vec![0], vec![0, 3], false), 6));
    members.meet("gateway@0");
    assert_eq!(members.pool(), (vec![0], vec![0, 3], false));
    members.met(NOW, "gateway@0".parse().unwrap(), 99, 6);
    assert_eq!(members.pool(), (vec![0], vec![0, 3], false), "another life said so");
    members.meet("");
    assert_eq!((members.pool(), members.epoch()), ((vec![0], vec![0, 3], true), 7));
    members.meet("");
    assert_eq!((members.pool(), members.epoch()), ((vec![0, 3], vec![], false), 8));
}

#[test]
fn who_leaves_works_until_its_buckets_have_moved() {
    let (mut members, _) = full();
    let seat = members.further(3, 50);
    moved(&mut members);
    members.leaves(seat);
    assert_eq!((members.pool(), state(&members, "worker.channel@3")), ((vec![0, 3], vec![0], false), pb::State::Ready));
    members.meet("");
    assert_eq!((members.pool(), state(&members, "worker.channel@3")), ((vec![0, 3], vec![0], true), pb::State::Ready));
    members.meet("");
    assert_eq!((members.pool(), state(&members, "worker.channel@3")), ((vec![0], vec![], false), pb::State::Draining));
    // It may not have heard it yet.
    members.said(seat, true, false);
    assert_eq!(state(&members, "worker.channel@3"), pb::State::Draining);
    members.said(seat, false, true);
    members.gone(NOW, seat);
    assert_eq!(state(&members, "worker.channel@3"), pb::State::Unspecified, "no row is left");
}

#[test]
fn who_leaves_does_not_wait_where_nobody_can_take_over() {
    let (mut members, seats) = full();
    members.leaves(seats[3]);
    assert_eq!(state(&members, "worker.channel@0"), pb::State::Draining, "a slot of the configuration keeps its share");
    members.gone(NOW, seats[3]);
    let further = members.join(NOW, &report("worker.channel@1", 50)).unwrap();
    members.said(further, true, false);
    members.leaves(further);
    assert_eq!(state(&members, "worker.channel@1"), pb::State::Draining, "nothing was its yet");

    let (mut members, seats) = full();
    let further = members.further(1, 50);
    moved(&mut members);
    members.gone(NOW, seats[3]);
    members.leaves(further);
    assert_eq!((members.pool().1, state(&members, "worker.channel@1")), (vec![], pb::State::Draining), "the other owner is not there");
    members.gone(NOW, further);
    assert_eq!((members.pool().1, state(&members, "worker.channel@1")), (vec![], pb::State::Unspecified));
    let back = members.join(NOW, &report("worker.channel@0", 60)).unwrap();
    members.said(back, true, false);
    assert_eq!(members.pool(), (vec![0, 1], vec![0], false), "its end is the release");
    moved(&mut members);
    assert_eq!(members.pool().0, [0]);
}

#[test]
fn a_crash_moves_nothing_and_who_stays_away_is_buried() {
    let (mut members, _) = full();
    let seat = members.further(3, 50);
    moved(&mut members);
    let epoch = members.epoch();
    members.gone(NOW, seat);
    assert_eq!((members.pool().0, members.epoch()), (vec![0, 3], epoch));
    assert_eq!(members.next_deadline(), Some(NOW + ABSENT));
    let back = members.further(3, 51);
    assert_eq!((back.generation, members.epoch()), (2, epoch));
    members.gone(NOW, back);
    members.tick(NOW + ABSENT);
    assert_eq!(members.pool(), (vec![0, 3], vec![0], false), "systemd gave it up");
    assert_eq!(state(&members, "worker.channel@3"), pb::State::Unspecified, "a row would say that it comes back");
    moved(&mut members);
    assert_eq!(members.pool().0, [0]);
}

#[test]
fn a_move_is_called_off_after_two_seconds_and_goes_on_without_who_was_to_leave() {
    let (mut members, _) = full();
    let seat = members.further(1, 50);
    let until = NOW + wk_node::shares::SHIFT_MAX;
    assert_eq!(members.next_deadline(), Some(until));
    members.tick(until);
    assert_eq!((members.pool(), members.epoch()), ((vec![0], vec![], false), 7));
    members.meet("");
    assert_eq!(members.next_deadline(), Some(until + wk_node::shares::SHIFT_PAUSE));
    members.tick(until + wk_node::shares::SHIFT_PAUSE);
    moved(&mut members);
    assert_eq!(members.pool().0, [0, 1]);
    members.leaves(seat);
    assert_eq!(members.pool().1, [0]);
    members.gone(NOW, seat);
    assert_eq!((members.pool(), state(&members, "worker.channel@1")), ((vec![0, 1], vec![0], false), pb::State::Unspecified));
    moved(&mut members);
    assert_eq!(members.pool().0, [0]);
}

#[test]
fn a_new_host_calls_a_move_off_and_begins_again_when_all_are_back() {
    let (mut old, _) = full();
    old.further(1, 50);
    assert_eq!(old.pool().1, [0, 1]);
    let table = old.table();
    let mut members = Members::new(1, 9, Daemon::ALL.map(|d| (d, 1)));
    members.restore(Duration::ZERO, table.clone(), |row| row.name != "cluster@0");
    members.host(Duration::ZERO, report("cluster@0", 2));
    assert_eq!((members.pool(), members.epoch()), ((vec![0], vec![], false), 9));
    for row in table.instances.iter().filter(|row| row.name != "cluster@0") {
        let report = pb::JoinReport { serving: true, generation: row.generation, ..report(&row.name, row.incarnation) };
        members.join(Duration::ZERO, &report).unwrap();
    }
    assert_eq!(members.pool().1, [] as [u32; 0], "not before everybody has heard that it was called off");
    members.meet("");
    assert_eq!((members.pool(), members.epoch()), ((vec![0], vec![0, 1], false), 10));
    moved(&mut members);
    assert_eq!(members.pool().0, [0, 1]);
}

#[test]
fn a_new_host_begins_with_the_members_of_the_old_one() {
    let (mut old, _) = full();
    let further = old.join(NOW, &report("worker.channel@1", 50)).unwrap();
    old.said(further, true, false);
    let mut members = Members::new(1, 8, Daemon::ALL.map(|d| (d, 1)));
    assert_eq!(members.restore(Duration::ZERO, old.table(), |row| row.name != "api@0"), 6);
    members.host(NOW, report("cluster@0", 2));
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
