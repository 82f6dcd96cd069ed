//! The supervisor dies, its processes stay: a successor takes them over.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wk_config::Env;
use wk_proto::node::v1::node_table_client::NodeTableClient;
use wk_proto::node::v1::{State, Table, WatchRequest};
use wk_proto::supervisor::v1::Snapshot;

use crate::node::{Node, Plan};

/// Time a successor has to be in control, its own start included: all daemons confirmed, commands taken. Others may load the machine, so
/// the median round has three times as long, the slowest ten times.
const CONTROL_WITHIN: Duration = Duration::from_secs(1);

fn pids(status: &Snapshot) -> BTreeMap<String, (u32, u64)> {
    status.instances.iter().map(|i| (i.name.clone(), (i.pid, i.generation))).collect()
}

async fn node_table(node: &Node) -> Table {
    let channel = wk_rpc::dial(node.runtime().join("node.sock")).await.unwrap();
    let mut tables = NodeTableClient::new(channel).watch(WatchRequest { instance: "test".into() }).await.unwrap().into_inner();
    tables.message().await.unwrap().unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Everybody is there once, under the old numbers, and nobody else is.
async fn assert_adopted(node: &Node, before: &Snapshot) -> Snapshot {
    let status = node.wait("ready again", |s| s.overall == "ready" && s.supervisor_pid != before.supervisor_pid).await;
    assert_eq!(pids(&status), pids(before), "{}", node.out());
    assert!(status.instances.iter().all(|i| i.adopted), "{status:?}");
    let wanted: Vec<u32> = status.instances.iter().map(|i| i.pid).collect();
    let left: Vec<u32> = node.leftovers().into_keys().collect();
    assert!(left.iter().all(|pid| wanted.contains(pid)) && left.len() == wanted.len(), "{left:?} but wanted {wanted:?}");
    status
}

/// Rounds of `WK_ADOPT_ROUNDS`; 1,000 show the number of the acceptance table.
#[tokio::test]
async fn row_40_exactly_one_copy_after_each_death_of_the_supervisor() {
    let rounds: u32 = Env::process().get("WK_ADOPT_ROUNDS").map_or(10, |n| n.parse().unwrap());
    let mut node = Node::start().await;
    let before = node.status().await;
    let table = node_table(&node).await;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        node.replace_killed_supervisor().await;
        let status = node.wait("ready again", |s| s.overall == "ready" && pids(s) == pids(&before)).await;
        times.push(began.elapsed());
        assert!(status.admitted && status.addresses == before.addresses, "{status:?}");
        assert!(status.instances.iter().all(|i| i.restarts == 0), "{status:?}");
    }
    let status = assert_adopted(&node, &Snapshot { supervisor_pid: 0, ..before.clone() }).await;
    assert_eq!(status.epoch, before.epoch);
    assert_eq!(node_table(&node).await, table, "the neighbours see no change");
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{rounds} rounds, in control after {median:?} (median), {slowest:?} (slowest)");
    assert!(median < CONTROL_WITHIN * 3 && slowest < CONTROL_WITHIN * 10, "{median:?}, {slowest:?}");
    assert_eq!(node.events().iter().filter(|(_, _, w)| w.starts_with("spawn")).count(), 7);
}

/// The successor drains what it did not start.
#[tokio::test]
async fn a_successor_stops_what_it_adopted() {
    let mut node = Node::start().await;
    node.replace_killed_supervisor().await;
    node.wait("ready again", |s| s.overall == "ready" && s.instances.iter().all(|i| i.adopted)).await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    node.said("clean 7 · forced 0 · gone 0 · lost 0").await;
    assert!(node.leftovers().is_empty());
    assert!(!node.runtime().join("state").exists(), "nothing is left to adopt");
}

#[tokio::test]
async fn what_was_wanted_and_counted_is_kept() {
    let mut node = Node::start().await;
    let old = node.instance("worker.user@0").await.generation;
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.wait_back("worker.user@0", old).await;
    node.must_wkctl(&["scale", "worker.channel=2"]).await;
    node.must_wkctl(&["stop", "plugin-host"]).await;
    let before = node.status().await;
    node.replace_killed_supervisor().await;
    let status = node.wait("back", |s| s.supervisor_pid != before.supervisor_pid && s.overall == "ready").await;
    assert_eq!(pids(&status), pids(&before));
    assert_eq!((status.epoch, status.admitted, status.timing.is_some()), (before.epoch, true, true));
    let of = |name: &str| status.instances.iter().find(|i| i.name == name).unwrap();
    assert_eq!((of("worker.user@0").restarts, of("plugin-host@0").state()), (1, State::Down));
    assert_eq!(of("worker.channel@1").state(), State::Ready);
    node.must_wkctl(&["scale", "worker.channel=1"]).await;
    node.must_wkctl(&["start", "plugin-host"]).await;
}

/// A process without a record is known by its marker.
#[tokio::test]
async fn row_46_a_lost_or_torn_record_costs_no_process() {
    let mut node = Node::start().await;
    let before = node.status().await;
    let state = node.runtime().join("state");
    for damage in ["", "deadbeef {}", "{\"version\":1}"] {
        node.kill_supervisor().await;
        std::fs::write(&state, damage).unwrap();
        node.spawn_supervisor();
        assert_adopted(&node, &before).await;
    }
    node.kill_supervisor().await;
    let text = std::fs::read_to_string(&state).unwrap();
    std::fs::write(&state, text.get(..text.len() * 2 / 3).unwrap()).unwrap();
    node.spawn_supervisor();
    assert_adopted(&node, &before).await;
}

/// Killed between fork and record: the line of the record is missing, the intent is there.
#[tokio::test]
async fn row_42_a_fork_without_a_record_is_adopted() {
    let mut node = Node::start().await;
    let before = node.status().await;
    node.kill_supervisor().await;
    let state = node.runtime().join("state");
    let text = std::fs::read_to_string(&state).unwrap();
    let forgotten = |l: &&str| !(l.contains("\"Instance\"") && l.contains("worker.push@0"));
    let kept: Vec<&str> = text.lines().filter(forgotten).collect();
    assert!(kept.len() < text.lines().count() && kept.iter().any(|l| l.contains("Intent") && l.contains("worker.push@0")), "{text}");
    std::fs::write(&state, kept.join("\n") + "\n").unwrap();
    node.spawn_supervisor();
    assert_adopted(&node, &before).await;
}

#[tokio::test]
async fn row_43_a_daemon_that_died_meanwhile_takes_the_crash_path() {
    let mut node = Node::start().await;
    let before = node.status().await;
    let gateway = node.instance("gateway@0").await;
    node.kill_supervisor().await;
    send(gateway.pid, Signal::SIGKILL);
    node.wait_gone(gateway.pid).await;
    node.spawn_supervisor();
    let back = node.wait_back("gateway@0", gateway.generation).await;
    assert_eq!((back.restarts, back.adopted), (1, false));
    let status = node.wait("ready", |s| s.overall == "ready").await;
    for (name, old) in pids(&before).into_iter().filter(|(n, _)| n != "gateway@0") {
        assert_eq!(pids(&status)[&name], old, "{name} was disturbed");
    }
}

#[tokio::test]
async fn row_44_the_exit_code_of_an_adopted_daemon_is_known() {
    let plan = Plan::new("").fault("worker.user@0", "exit-on-usr1=42 once");
    let mut node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.replace_killed_supervisor().await;
    let adopted = node.wait_instance("worker.user@0", "adopted", |i| i.adopted && i.state() == State::Ready).await;
    send(adopted.pid, Signal::SIGUSR1);
    node.wait_back("worker.user@0", adopted.generation).await;
    node.said("worker.user@0 exit 42;").await;
    let gateway = node.wait_instance("gateway@0", "adopted", |i| i.adopted).await;
    send(gateway.pid, Signal::SIGKILL);
    node.wait_back("gateway@0", gateway.generation).await;
    node.said("gateway@0 signal 9").await;
}

/// One that stands still is found by the successor, not at some later check.
#[tokio::test]
async fn a_stopped_daemon_is_not_taken_for_a_healthy_one() {
    let mut node = Node::start().await;
    let old = node.instance("worker.channel@0").await;
    node.kill_supervisor().await;
    send(old.pid, Signal::SIGSTOP);
    node.spawn_supervisor();
    let began = Instant::now();
    let back = node.wait_back("worker.channel@0", old.generation).await;
    assert!(began.elapsed() < Duration::from_secs(5) && back.pid != old.pid, "{:?}", began.elapsed());
    node.wait_gone(old.pid).await;
}

/// What a dead daemon had started does not stay.
#[tokio::test]
async fn helpers_of_a_dead_daemon_are_ended() {
    let plan = Plan::new("").fault("worker.push@0", "grandchild once");
    let mut node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let helper =
        node.seen("a grandchild", |events| events.iter().find_map(|(_, _, w)| w.strip_prefix("grandchild ")?.parse::<u32>().ok())).await;
    node.replace_killed_supervisor().await;
    let push = node.wait_instance("worker.push@0", "adopted", |i| i.adopted && i.state() == State::Ready).await;
    assert!(node.leftovers().contains_key(&helper), "its daemon lives");
    node.kill_supervisor().await;
    send(push.pid, Signal::SIGKILL);
    node.wait_gone(push.pid).await;
    node.spawn_supervisor();
    node.wait_back("worker.push@0", push.generation).await;
    node.wait_gone(helper).await;
}

/// A stop that was under way goes on: quiesced daemons serve nobody.
#[tokio::test]
async fn a_stop_is_finished_by_the_successor() {
    let plan = Plan::new("").fault("plugin-host@0", "drain=1500");
    let mut node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal_supervisor(Signal::SIGTERM);
    node.at("plugin-host@0", "term").await;
    node.replace_killed_supervisor().await;
    node.wait("down", |s| s.overall == "down").await;
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

/// Nobody is refused: the port stays open while there is no supervisor, and the successor hands the same socket on.
#[tokio::test]
async fn the_public_listeners_outlive_the_supervisor() {
    let mut node = Node::start().await;
    let before = node.status().await;
    let tcp: std::net::SocketAddr = before.addresses.iter().find_map(|a| a.strip_prefix("tcp ")?.parse().ok()).unwrap();
    let knock = || std::net::TcpStream::connect(tcp).expect("nobody is refused");
    let mut open = vec![knock()];
    node.kill_supervisor().await;
    open.push(knock());
    node.spawn_supervisor();
    let status = node.wait("ready again", |s| s.overall == "ready" && s.supervisor_pid != before.supervisor_pid).await;
    open.push(knock());
    assert_eq!(status.addresses, before.addresses);
    let gateway = node.instance("gateway@0").await;
    send(gateway.pid, Signal::SIGKILL);
    node.wait_gone(gateway.pid).await;
    open.push(knock());
    node.wait_back("gateway@0", gateway.generation).await;
    assert_eq!(node.status().await.addresses, before.addresses);
    open.push(knock());
}
