//! The table against a model of the world: processes that obey, crash, hang and ignore.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::prelude::*;
use wk_types::{Daemon, InstanceName, Pool};

use super::*;
use crate::cause::{Cause, Exit};

mod faults;
mod numbers;
mod policies;
mod published;
mod restart;
mod rows;

const CHANNEL: Daemon = Daemon::Worker(Pool::Channel);

/// The world: which generation of which instance lives, and what it was told.
struct World {
    table: Table,
    now: Time,
    live: BTreeMap<InstanceName, u64>,
    ended: Vec<End>,
    admitted: Vec<InstanceName>,
    activated: Vec<InstanceName>,
    stopped: Vec<InstanceName>,
    /// Exec fails for these.
    missing: Vec<Daemon>,
    /// Do not answer SIGTERM.
    deaf: Vec<InstanceName>,
    /// Are activated and say nothing.
    mute: Vec<InstanceName>,
    /// Orders not carried out yet, first in, first out, as in the engine.
    orders: VecDeque<Action>,
    obeying: bool,
    /// Are seen to work.
    busy: Vec<InstanceName>,
    /// Are seen to wait for a disk.
    syncing: Vec<InstanceName>,
    /// What was sent to whom.
    signals: Vec<(InstanceName, Sig)>,
    /// Do not die of SIGKILL.
    undying: Vec<InstanceName>,
    work: u64,
    /// Do not meet any epoch of the node table.
    behind: Vec<InstanceName>,
    /// Entered a crash loop; whose loop ends the node.
    looping: Vec<InstanceName>,
    escalated: Vec<InstanceName>,
}

mod shares;
mod surge;

fn at(daemon: Daemon) -> InstanceName {
    InstanceName { daemon, slot: 0 }
}

impl World {
    fn new() -> Self {
        Self::of(Spec::standard(Duration::from_secs(60)))
    }

    fn of(spec: Spec) -> Self {
        let table = Table::new(spec, BTreeMap::new(), 1, 7);
        let now = Duration::from_secs(1);
        let (ended, admitted, activated, stopped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            table,
            now,
            live: BTreeMap::new(),
            ended,
            admitted,
            activated,
            stopped,
            missing: Vec::new(),
            deaf: Vec::new(),
            mute: Vec::new(),
            orders: VecDeque::new(),
            obeying: false,
            busy: Vec::new(),
            signals: Vec::new(),
            syncing: Vec::new(),
            undying: Vec::new(),
            work: 0,
            behind: Vec::new(),
            looping: Vec::new(),
            escalated: Vec::new(),
        }
    }

    fn begin(&mut self, kind: Kind, names: &[&str], flags: Flags) -> Result<u64, Refusal> {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let id = self.table.begin(self.now, Request::new(kind, names, flags));
        self.turn();
        id
    }

    fn start(&mut self) {
        self.begin(Kind::Start, &[], Flags::default()).unwrap();
    }

    fn turn(&mut self) {
        let actions = self.table.tick(self.now);
        self.obey(actions);
    }

    fn fact(&mut self, name: InstanceName, fact: Fact) {
        let Some(generation) = self.live.get(&name).copied() else { return };
        if matches!(fact, Fact::Exited(_)) {
            self.live.remove(&name);
            self.stopped.push(name);
        }
        let actions = self.table.step(self.now, name, generation, fact);
        self.obey(actions);
    }

    fn die(&mut self, daemon: Daemon, exit: Exit) {
        self.fact(at(daemon), Fact::Exited(exit));
    }

    /// Lets `ms` pass, waking at each deadline.
    fn pass(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while let Some(next) = self.table.next_deadline().filter(|d| *d <= until) {
            self.now = self.now.max(next);
            self.turn();
            let left = self.table.next_deadline();
            assert!(left.is_none_or(|d| d > self.now), "nothing was done at {:?}: the supervisor would spin on {left:?}", self.now);
        }
        self.now = until;
        self.turn();
    }

    fn obey(&mut self, actions: Vec<Action>) {
        self.orders.extend(actions);
        if std::mem::replace(&mut self.obeying, true) {
            return;
        }
        while let Some(action) = self.orders.pop_front() {
            self.carry_out(action);
        }
        self.obeying = false;
        self.meet();
    }

    /// Everybody who can reports the epoch.
    fn meet(&mut self) {
        let epoch = self.table.epoch();
        let late = |i: &&Instance| i.run.as_ref().is_some_and(|r| r.met < epoch) && !self.behind.contains(&i.name);
        let late: Vec<(InstanceName, u64)> = self.table.instances().filter(late).map(|i| (i.name, i.generation)).collect();
        if late.is_empty() {
            return;
        }
        for (name, incarnation) in late {
            self.table.met(name, incarnation, epoch);
        }
        let actions = self.table.tick(self.now);
        self.obey(actions);
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn(name, generation) => {
                assert!(!self.live.contains_key(&name), "two live processes of {name}");
                if self.missing.contains(&name.daemon) {
                    let cause = Cause::Spawn { text: "cannot execute /x: No such file".into(), permanent: true };
                    let actions = self.table.step(self.now, name, generation, Fact::SpawnFailed(cause));
                    self.obey(actions);
                    return;
                }
                self.live.insert(name, generation);
                let fact = Fact::Spawned { pid: 1, incarnation: generation, began: self.now, exec: Duration::ZERO, reads: 1 };
                self.fact(name, fact);
                self.fact(name, Fact::HealthUp);
            }
            Action::Activate(name, _) => {
                for edge in self.table.spec().requires(name.daemon).collect::<Vec<_>>() {
                    // Ready by its own word; what follows in the same step may have taken that back.
                    let fit = |i: &Instance| i.ready() || i.run.as_ref().is_some_and(|r| r.serving && r.ending.is_some());
                    assert!(self.table.of(edge).any(fit), "{name} activated before {edge} was ready");
                }
                self.activated.push(name);
                if !self.mute.contains(&name) {
                    self.fact(name, Fact::Serving(true));
                }
            }
            Action::Admit(name, _) => {
                // A start that fails meanwhile takes everything back.
                assert!(self.table.admitted() || self.table.ops().iter().any(Op::leaves));
                self.admitted.push(name);
            }
            Action::Signal(name, generation, sig) => {
                assert_eq!(self.live.get(&name), Some(&generation), "signal to a process that is not there");
                self.signals.push((name, sig));
                match sig {
                    Sig::Term if self.deaf.contains(&name) => {}
                    Sig::Term => self.fact(name, Fact::Exited(Exit::Code(0))),
                    Sig::Abort => {}
                    Sig::Kill if self.undying.contains(&name) => {}
                    Sig::Kill => self.fact(name, Fact::Exited(Exit::Signal { signal: 9, core: false })),
                }
            }
            Action::Look(name, _) => {
                self.work += if self.busy.contains(&name) { 100 } else { 0 };
                self.fact(name, Fact::Work(Work { units: self.work, waits: self.syncing.contains(&name) }));
            }
            Action::Quiesce { op, .. } => {
                self.table.quiesced(self.now, op, Report::default(), true);
                self.turn();
            }
            Action::OpEnd(_, end) => self.ended.push(*end),
            Action::Looping(name, _) => self.looping.push(name),
            Action::Escalate(name) => self.escalated.push(name),
            Action::Probe(..)
            | Action::OpText { .. }
            | Action::Note { .. }
            | Action::Crashed(..)
            | Action::Measured(..)
            | Action::Moved(_) => {}
        }
    }

    fn state(&self, name: InstanceName) -> State {
        self.table.view(self.now, name).unwrap().state
    }

    fn last(&self) -> &End {
        self.ended.last().expect("an operation ended")
    }
}

#[test]
fn starts_in_order_admits_last_and_times_it() {
    let mut world = World::new();
    world.start();
    let order: Vec<Daemon> = world.activated.iter().map(|n| n.daemon).collect();
    assert_eq!(order.first(), Some(&Daemon::Cluster));
    assert_eq!(order.last(), Some(&Daemon::PluginHost));
    assert_eq!(world.last().code, 0);
    assert_eq!(world.last().timing.as_ref().unwrap().rows.len(), 7);
    assert_eq!(world.admitted, [at(Daemon::Gateway), at(Daemon::Api)]);
    assert_eq!(world.table.overall(), Overall::Ready);
}

#[test]
fn rollback_goes_in_reverse_and_leaves_nothing() {
    let mut world = World::new();
    world.missing.push(Daemon::Worker(Pool::Push));
    world.start();
    assert_eq!(world.last().code, 6);
    assert!(world.last().message.contains("worker.push@0 failed: cannot execute"), "{}", world.last().message);
    assert_eq!(world.stopped.last(), Some(&at(Daemon::Cluster)));
    assert!(world.live.is_empty() && world.admitted.is_empty());
}

#[test]
fn no_rollback_leaves_the_ruins_and_keep_going_starts_what_can() {
    for (flags, live) in [(Flags { no_rollback: true, ..Default::default() }, 6), (Flags { keep_going: true, ..Default::default() }, 6)] {
        let mut world = World::new();
        world.missing.push(Daemon::Worker(Pool::Push));
        world.begin(Kind::Start, &[], flags).unwrap();
        world.pass(3000);
        assert_eq!(world.last().code, 5);
        assert_eq!(world.live.len(), live);
        assert_eq!(world.state(at(Daemon::PluginHost)), State::Blocked);
    }
}

#[test]
fn crash_restarts_only_the_crashed_and_admits_it_again() {
    let mut world = World::new();
    world.start();
    world.pass(1000);
    world.die(Daemon::Gateway, Exit::Signal { signal: 9, core: false });
    world.pass(300);
    assert_eq!(world.live.get(&at(Daemon::Gateway)), Some(&2));
    assert_eq!(world.admitted.iter().filter(|n| n.daemon == Daemon::Gateway).count(), 2);
    assert_eq!(world.live.get(&at(Daemon::Api)), Some(&1));
}

#[test]
fn permanent_exit_is_not_restarted_until_an_operator_says_so() {
    let mut world = World::new();
    world.start();
    world.die(Daemon::Api, Exit::Code(78));
    world.pass(100_000);
    assert_eq!(world.state(at(Daemon::Api)), State::Failed);
    world.begin(Kind::Start, &["api"], Flags::default()).unwrap();
    assert_eq!(world.state(at(Daemon::Api)), State::Ready);
}

#[test]
fn three_missed_checks_are_a_hang_and_answers_reset_them() {
    let mut world = World::new();
    world.start();
    let user = at(Daemon::Worker(Pool::User));
    for outcome in [Probe::Silent, Probe::Silent, Probe::Answered, Probe::Silent, Probe::Silent] {
        world.fact(user, Fact::Alive(outcome));
    }
    assert_eq!(world.state(user), State::Suspect);
    world.fact(user, Fact::Alive(Probe::Silent));
    assert_eq!(world.state(user), State::Stopping, "SIGABRT was sent, a core may be written");
    world.pass(5_100);
    world.pass(500);
    assert_eq!(world.live.get(&user), Some(&2), "killed after the grace, restarted");
}

#[test]
fn stop_order_is_the_reverse_and_counts_nothing_as_a_crash() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    let order: Vec<Daemon> = world.stopped.iter().map(|n| n.daemon).collect();
    assert_eq!(order.first(), Some(&Daemon::PluginHost));
    assert_eq!(order.get(4..), Some([Daemon::Api, Daemon::Gateway, Daemon::Cluster].as_slice()));
    assert!(world.last().stops.iter().all(|s| s.outcome == Outcome::Clean));
    assert!(world.table.is_down() && world.table.views(world.now).iter().all(|v| v.restarts == 0));
    world.start();
    assert_eq!(world.table.overall(), Overall::Ready);
}

#[test]
fn a_deaf_one_is_killed_at_its_deadline_and_hurry_shortens_it() {
    for (flags, within) in [(None, 10_000), (Some(Flags { fast: true, ..Default::default() }), 1_000)] {
        let mut world = World::new();
        world.deaf.push(at(Daemon::Api));
        world.start();
        world.begin(Kind::Stop, &[], Flags::default()).unwrap();
        if let Some(flags) = flags {
            world.begin(Kind::Stop, &[], flags).unwrap();
        }
        world.pass(within - 1);
        assert!(world.live.contains_key(&at(Daemon::Cluster)), "the order is kept while one drains");
        world.pass(2);
        assert!(world.live.is_empty());
        let row = world.last().stops.iter().find(|s| s.name == at(Daemon::Api)).unwrap();
        assert_eq!(row.outcome, Outcome::Forced);
    }
}

#[test]
fn scale_moves_the_epoch_and_drains_the_highest() {
    let mut world = World::new();
    world.start();
    world.begin(Kind::Scale(CHANNEL, 3), &[], Flags::default()).unwrap();
    assert_eq!((world.table.epoch(), world.live.len()), (4, 9), "three steps of a move");
    world.begin(Kind::Scale(CHANNEL, 1), &[], Flags::default()).unwrap();
    assert_eq!((world.table.epoch(), world.live.len()), (7, 7));
    assert!(world.live.contains_key(&at(CHANNEL)));
    assert_eq!(world.begin(Kind::Scale(CHANNEL, 0), &[], Flags::default()).unwrap_err().code, 64);
    assert_eq!(world.begin(Kind::Scale(Daemon::Api, 2), &[], Flags::default()).unwrap_err().code, 64);
}

#[test]
fn commands_meet_their_conflicts() {
    let mut world = World::new();
    world.mute.push(at(Daemon::Cluster));
    world.start();
    let no_wait = Flags { no_wait: true, ..Default::default() };
    assert_eq!(world.begin(Kind::Restart, &["api"], no_wait).unwrap_err().code, 75);
    assert_eq!(world.begin(Kind::Stop, &["nobody"], Flags::default()).unwrap_err().code, 4);
    world.begin(Kind::Stop, &[], Flags::default()).unwrap();
    assert_eq!(world.ended.first().unwrap().code, 7, "the start was cancelled");
    assert_eq!(world.last().code, 0);
    assert!(world.table.is_down());
}

#[derive(Debug, Clone)]
enum Step {
    Exit(usize, i32),
    Serving(usize, bool),
    Missed(usize),
    Probe(usize, bool),
    Lost(usize),
    Pass(u64),
    Start(Option<usize>),
    Stop(Option<usize>, bool),
    Restart(Option<usize>),
    Roll(Option<usize>, u32, u32, u32),
    Alone(usize),
    Cancel(u64),
    Hold(usize),
    Unhold(usize),
    Reset(usize),
    Scale(u16),
    Deaf(usize),
    Mute(usize),
    Missing(usize),
    Heal,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..9usize;
    prop_oneof![
        4 => (who.clone(), prop::sample::select(vec![0, 1, 75, 78])).prop_map(|(w, c)| Step::Exit(w, c)),
        2 => (who.clone(), any::<bool>()).prop_map(|(w, s)| Step::Serving(w, s)),
        2 => who.clone().prop_map(Step::Missed),
        1 => (who.clone(), any::<bool>()).prop_map(|(w, a)| Step::Probe(w, a)),
        1 => who.clone().prop_map(Step::Lost),
        4 => (0..40_000u64).prop_map(Step::Pass),
        2 => prop::option::of(who.clone()).prop_map(Step::Start),
        2 => (prop::option::of(who.clone()), any::<bool>()).prop_map(|(w, f)| Step::Stop(w, f)),
        2 => prop::option::of(who.clone()).prop_map(Step::Restart),
        2 => (prop::option::of(who.clone()), 0..3u32, 0..3u32, 0..3u32).prop_map(|(w, u, c, s)| Step::Roll(w, u, c, s)),
        1 => who.clone().prop_map(Step::Alone),
        1 => (0..6u64).prop_map(Step::Cancel),
        1 => who.clone().prop_map(Step::Hold),
        1 => who.clone().prop_map(Step::Unhold),
        1 => who.clone().prop_map(Step::Reset),
        2 => (1..4u16).prop_map(Step::Scale),
        1 => who.clone().prop_map(Step::Deaf),
        1 => who.clone().prop_map(Step::Mute),
        1 => who.prop_map(Step::Missing),
        2 => Just(Step::Heal),
    ]
}

impl World {
    fn pick(&self, index: usize) -> InstanceName {
        let names = self.table.names();
        names[index % names.len()]
    }

    fn play(&mut self, step: Step) {
        let name = |world: &Self, who: Option<usize>| who.map(|w| world.pick(w).to_string());
        let op = |world: &mut Self, kind, who: Option<String>, flags| {
            let names: Vec<&str> = who.as_deref().into_iter().collect();
            // A refusal is an answer too; the invariants must hold either way.
            drop(world.begin(kind, &names, flags));
        };
        match step {
            Step::Exit(w, code) => self.fact(self.pick(w), Fact::Exited(Exit::Code(code))),
            Step::Serving(w, serving) => self.fact(self.pick(w), Fact::Serving(serving)),
            Step::Missed(w) => self.fact(self.pick(w), Fact::Alive(Probe::Silent)),
            Step::Probe(w, alive) => self.fact(self.pick(w), Fact::Probed(if alive { Probe::Answered } else { Probe::Silent })),
            Step::Lost(w) => self.fact(self.pick(w), Fact::HealthLost),
            Step::Pass(ms) => self.pass(ms),
            Step::Start(w) => op(self, Kind::Start, name(self, w), Flags::default()),
            Step::Stop(w, fast) => op(self, Kind::Stop, name(self, w), Flags { fast, cascade: true, ..Default::default() }),
            Step::Restart(w) => op(self, Kind::Restart, name(self, w), Flags::default()),
            Step::Roll(w, max_unavailable, canary, surge) => {
                let roll = Pace { max_unavailable, canary, surge, min_ready: Duration::from_secs(2) };
                op(self, Kind::Roll, name(self, w), Flags { roll, ..Default::default() });
            }
            Step::Alone(w) => op(self, Kind::Stop, name(self, Some(w)), Flags { force_alone: true, ..Default::default() }),
            Step::Cancel(back) => {
                let latest = self.table.ops().iter().map(Op::id).chain(self.table.waiting().map(|w| w.id)).max().unwrap_or(0);
                drop(self.table.cancel(self.now, latest.saturating_sub(back), "a test"));
                self.turn();
            }
            Step::Hold(w) => drop(self.table.hold(&[self.pick(w).to_string()])),
            Step::Unhold(w) => drop(self.table.unhold(&[self.pick(w).to_string()])),
            Step::Reset(w) => {
                drop(self.table.reset(&[self.pick(w).to_string()]));
                self.turn();
            }
            Step::Scale(slots) => drop(self.begin(Kind::Scale(CHANNEL, slots), &[], Flags::default())),
            Step::Deaf(w) => self.deaf.push(self.pick(w)),
            Step::Mute(w) => self.mute.push(self.pick(w)),
            Step::Missing(w) => self.missing.push(self.pick(w).daemon),
            Step::Heal => (self.deaf, self.mute, self.missing) = (Vec::new(), Vec::new(), Vec::new()),
        }
    }
}

/// Every operation that was begun ends, once.
fn unended(world: &World) -> usize {
    world.table.ops().len() + world.table.waiting().count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happens, the rules of `Table::check` and of the world's own assertions hold; a stop of everything always ends, and a start
    /// after it, in a world that obeys again, always reaches Ready.
    #[test]
    fn invariants_hold_and_the_node_can_always_be_stopped_and_started(steps in prop::collection::vec(step(), 1..60), parallel in 0u16..4, spec in numbers::node()) {
        let mut world = World::of(Spec { parallel: NonZeroU16::new(parallel), ..spec });
        world.start();
        for step in steps {
            world.play(step);
            prop_assert_eq!(world.table.check(world.now), Ok(()));
        }
        world.play(Step::Heal);
        world.begin(Kind::Stop, &[], Flags::default()).unwrap();
        world.pass(200_000);
        prop_assert!(world.table.is_down() && world.live.is_empty());
        world.start();
        world.pass(10_000);
        prop_assert_eq!(world.table.overall(), Overall::Ready);
        prop_assert_eq!(unended(&world), 0);
    }
}
