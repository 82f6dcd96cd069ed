//! Random deaths, commands and exchanges of the supervisor, then the rules of `design/supervisor.md` §4.2 on what is left.
//!
//! Each daemon is its own witness: it holds a file of its instance as long as it lives, and tells when somebody else had it.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wk_config::Env;
use wk_proto::node::v1::State;

use crate::node::{Node, Plan};

/// Time for one command: one that is longer is left alone, as by a caller who goes home.
const CALL: &str = "2s";
const POOLS: [&str; 3] = ["worker.user", "worker.channel", "worker.push"];

/// SplitMix64: the same seed is the same history.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 31)
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.next() % list.len() as u64).expect("a remainder of a length")]
    }
}

async fn command(node: &Node, dice: &mut Dice, words: &[&str]) {
    let pool = dice.one_of(&POOLS);
    let target = format!("{pool}={}", dice.one_of(&[1, 2, 3]));
    let name = if dice.next().is_multiple_of(4) { "plugin-host" } else { pool };
    let words: Vec<&str> = words
        .iter()
        .map(|w| {
            if *w == "POOL=N" {
                &target
            } else if *w == "NAME" {
                name
            } else {
                w
            }
        })
        .collect();
    // Refused, too late, cut off: any answer will do.
    node.wkctl(&[&["--timeout", CALL], &words[..]].concat()).await;
}

async fn step(node: &mut Node, dice: &mut Dice) {
    // Before its first instruction no program can say what a signal means to it.
    let status = node.wait("an answer", |_| true).await;
    match dice.next() % 12 {
        0..=3 => {
            let pids: Vec<i32> = status.instances.iter().filter_map(|i| i32::try_from(i.pid).ok()).filter(|pid| *pid > 0).collect();
            if !pids.is_empty() {
                // Gone meanwhile is as good.
                kill(Pid::from_raw(dice.one_of(&pids)), Signal::SIGKILL).unwrap_or_default();
            }
        }
        4 => node.replace_killed_supervisor().await,
        5 => node.signal_supervisor(Signal::SIGUSR2),
        6 => node.signal_supervisor(Signal::SIGHUP),
        7 | 8 => command(node, dice, &["scale", "POOL=N"]).await,
        9 => command(node, dice, &["restart", "NAME"]).await,
        10 => command(node, dice, &["stop", "NAME"]).await,
        _ => command(node, dice, &["start"]).await,
    }
}

#[tokio::test]
async fn any_history_leaves_one_process_each_and_a_node_that_starts() {
    let env = Env::process();
    let number = |name: &str, otherwise: u64| env.get(name).map_or(otherwise, |n| n.parse().unwrap());
    let (seed, steps) = (number("WK_STORM_SEED", 1), number("WK_STORM_STEPS", 30));
    let mut dice = Dice(seed);
    let mut node = Plan::new("supervisor:\n  startTimeout: 10s").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    for _ in 0..steps {
        step(&mut node, &mut dice).await;
    }
    // What is under way may still be cut off by the next command; only the last word must hold.
    let heal = async {
        while !node.wkctl(&["start"]).await.status.success() {}
        for pool in POOLS {
            while !node.wkctl(&["scale", &format!("{pool}=1")]).await.status.success() {}
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), heal).await.is_ok(), "seed {seed}: not healed\n{}", node.out());
    let status = node.wait("ready", |s| s.overall == "ready" && s.instances.len() == 7).await;
    assert!(status.admitted && status.instances.iter().all(|i| i.state() == State::Ready), "seed {seed}: {status:?}");
    let wanted: BTreeSet<u32> = status.instances.iter().map(|i| i.pid).collect();
    assert_eq!(node.leftovers().into_keys().collect::<BTreeSet<u32>>(), wanted, "seed {seed}: {}", node.out());
    let events = node.events();
    let doubled: Vec<_> = events.iter().filter(|(_, _, what)| what == "not alone").collect();
    assert!(doubled.is_empty(), "seed {seed}: two at a time: {doubled:?}\n{}", node.out());
    let spawns: Vec<_> = events.iter().filter(|(_, _, what)| what.starts_with("spawn")).map(|(i, g, _)| (i, g)).collect();
    assert_eq!(
        spawns.iter().collect::<BTreeSet<_>>().len(),
        spawns.len(),
        "seed {seed}: a generation was begun twice: {spawns:?}\n{}",
        node.out()
    );
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "seed {seed}: {}", node.out());
    assert!(node.leftovers().is_empty(), "seed {seed}");
}
