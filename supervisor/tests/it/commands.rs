//! Commands, signals and configuration: rows 54 to 80 of the fault catalogue that need real processes.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use serde_json::Value;
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use crate::node::{Node, Plan, copy_program, edit};

/// Events of the node, as `wkctl events -o json` prints them.
async fn events(node: &Node) -> Vec<Value> {
    let text = node.must_wkctl(&["events", "-o", "json"]).await;
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Waits for an event.
async fn event(node: &Node, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        if let Some(found) = events(node).await.into_iter().find(|e| wanted(e)) {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no event {what}: {:#?}", events(node).await);
    }
}

fn text(event: &Value) -> &str {
    event["text"].as_str().unwrap_or_default()
}

async fn client(node: &Node) -> SupervisorClient<tonic::transport::Channel> {
    SupervisorClient::new(wk_rpc::dial(node.runtime().join("control.sock")).await.unwrap())
}

/// The number of the only operation that has not ended.
async fn running(node: &Node) -> u64 {
    node.wait("one operation under way", |s| s.ops.len() == 1).await.ops[0].op
}

#[tokio::test]
async fn row_54_an_operation_survives_its_caller() {
    let node = Node::start().await;
    node.fault("worker.user@0", "never-ready");
    let mut client = client(&node).await;
    let restart = |cancel_on_disconnect| pb::OpRequest { names: vec!["worker.user".into()], cancel_on_disconnect, ..Default::default() };
    drop(client.restart(restart(false)).await.unwrap());
    let op = running(&node).await;
    node.wait_instance("worker.user@0", "in its new life", |i| i.generation == 2 && i.state() == State::Starting).await;
    assert_eq!(node.wkctl(&["op", "wait", &op.to_string(), "--timeout", "100ms"]).await.status.code(), Some(9));
    node.fault("worker.user@0", "");
    node.signal("worker.user@0", Signal::SIGKILL).await;
    let output = node.wkctl(&["op", "wait", &op.to_string()]).await;
    assert_eq!(output.status.code(), Some(5), "the generation it waited for died: {output:?}");
    node.wait("ready", |s| s.overall == "ready").await;
    // The same with the wish to end it.
    node.fault("worker.user@0", "never-ready");
    let stream = client.restart(restart(true)).await.unwrap();
    let second = running(&node).await;
    drop(stream);
    drop(client);
    let left = event(&node, "caller left", |e| text(e).contains("its caller has left")).await;
    assert!(text(&left).contains(&format!("operation {second} ")), "{left}");
    node.must_wkctl_code(&["op", "cancel", "999"], 4).await;
}

#[tokio::test]
async fn row_56_status_is_answered_from_a_snapshot() {
    let node = Node::start().await;
    let supervisor = node.status().await.supervisor_pid;
    // The engine is the main thread. How long a call takes depends on the machine; that the engine sleeps meanwhile does not.
    let woken = || {
        let status = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/status")).unwrap();
        let count = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    let before = woken();
    status_p99(&node).await;
    let times = woken() - before;
    assert!(times < 300, "1,000 calls have woken the engine {times} times");
}

#[tokio::test]
#[ignore = "a measurement: starts 100 processes; run it alone, with --release and --nocapture"]
async fn row_56_status_with_100_instances() {
    let node = Node::start().await;
    for pool in ["worker.user=32", "worker.channel=32", "worker.push=32"] {
        node.must_wkctl(&["scale", pool]).await;
    }
    assert_eq!(node.status().await.instances.len(), 100);
    println!("status with 100 instances, p99 of 1,000 calls: {:?}", status_p99(&node).await);
}

async fn status_p99(node: &Node) -> Duration {
    let mut client = client(node).await;
    let mut times = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        client.status(pb::StatusRequest::default()).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times[989]
}

#[tokio::test]
async fn row_59_daemons_have_sessions_of_their_own() {
    let node = Node::start().await;
    let own = getsid(Some(Pid::from_raw(i32::try_from(node.status().await.supervisor_pid).unwrap()))).unwrap();
    for instance in node.status().await.instances {
        let pid = Pid::from_raw(i32::try_from(instance.pid).unwrap());
        assert_eq!(
            getsid(Some(pid)).unwrap(),
            pid,
            "{}: the interrupt key of a terminal reaches only the supervisor's session {own}",
            instance.name
        );
    }
}

#[tokio::test]
async fn row_60_hang_up_reloads_and_a_lost_terminal_drains() {
    let node = Node::start().await;
    node.signal_supervisor(Signal::SIGHUP);
    event(&node, "reload", |e| e["cause"] == "reload" && text(e) == "no key differs").await;
    assert_eq!(node.status().await.overall, "ready");
    drop(node);
    let (master, slave) = terminal();
    let mut node = Plan::new("").spawn_on(slave);
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal_supervisor(Signal::SIGHUP);
    event(&node, "reload", |e| e["cause"] == "reload").await;
    drop(master);
    node.signal_supervisor(Signal::SIGHUP);
    assert_eq!(node.exit().await.code(), Some(0));
    assert!(node.leftovers().is_empty());
}

/// Both ends of a pseudo terminal.
fn terminal() -> (std::fs::File, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (master.into(), slave)
}

#[tokio::test]
async fn row_61_a_signal_that_comes_before_its_handler_does_not_end_it() {
    let mut node = Plan::new("").spawn();
    // Its first word comes a while before its handlers.
    let out = node.dir().join("out");
    while std::fs::metadata(&out).map_or(0, |m| m.len()) == 0 {
        tokio::task::yield_now().await;
    }
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        node.signal_supervisor(signal);
    }
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
}

#[tokio::test]
async fn row_61_other_signals_do_not_end_it() {
    let node = Node::start().await;
    let log = node.dir().join("logs/supervisor.log");
    std::fs::rename(&log, node.dir().join("moved.log")).unwrap();
    std::fs::rename(node.dir().join("logs/events.jsonl"), node.dir().join("moved.jsonl")).unwrap();
    for signal in [Signal::SIGPIPE, Signal::SIGUSR1, Signal::SIGQUIT] {
        node.signal_supervisor(signal);
    }
    event(&node, "logs reopened", |e| text(e) == "logs reopened").await;
    let dump = event(&node, "dump", |e| text(e).starts_with('[')).await;
    let dumped: Value = serde_json::from_str(text(&dump)).unwrap();
    assert_eq!(dumped.as_array().map(Vec::len), Some(7), "{dumped}");
    assert!(log.exists() && node.dir().join("logs/events.jsonl").exists());
    assert_eq!(node.status().await.overall, "ready");
}

#[tokio::test]
async fn row_63_a_start_waits_for_a_stop() {
    let node = Plan::new("").fault("cluster@0", "drain=400").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let mut client = client(&node).await;
    drop(client.stop(pb::OpRequest::default()).await.unwrap());
    let refused = node.wkctl(&["start", "--no-wait"]).await;
    assert_eq!(refused.status.code(), Some(75), "{refused:?}");
    let started = node.must_wkctl(&["start"]).await;
    assert!(started.contains("waits: operation") && started.contains("total ready"), "{started}");
    assert!(node.status().await.instances.iter().all(|i| i.generation == 2));
}

#[tokio::test]
async fn row_67_a_roll_stops_at_a_bad_version_and_says_how_to_go_on() {
    let node = Node::start().await;
    node.must_wkctl(&["scale", "worker.channel=3"]).await;
    node.fault("worker.channel@1", "exit=3 log=bad_version");
    let output = node.wkctl(&["roll", "worker.channel", "--min-ready", "50ms"]).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(8), "{out}{err}");
    assert!(err.contains("worker.channel@1 failed: exit 3") && err.contains("wkctl roll worker.channel@1 worker.channel@2"), "{err}");
    assert!(out.contains("| bad version") && out.contains("proved (1 of 3)"), "{out}");
    assert_eq!(node.instance("worker.channel@2").await.generation, 1);
    node.fault("worker.channel@1", "");
    let text = node.must_wkctl(&["roll", "worker.channel@1", "worker.channel@2", "--min-ready", "50ms"]).await;
    assert!(text.contains("rolled 2"), "{text}");
    node.wait("ready", |s| s.overall == "ready").await;
}

#[tokio::test]
async fn row_66_a_scale_during_a_roll_converges() {
    let node = Node::start().await;
    node.must_wkctl(&["scale", "worker.channel=3"]).await;
    let roll = node.wkctl(&["roll", "worker.channel", "--min-ready", "300ms"]);
    let scale = async {
        node.wait_instance("worker.channel@0", "rolled", |i| i.generation == 2).await;
        node.must_wkctl(&["scale", "worker.channel=2"]).await
    };
    let (rolled, _) = tokio::join!(roll, scale);
    assert_eq!(rolled.status.code(), Some(0), "{rolled:?}");
    let text = String::from_utf8_lossy(&rolled.stdout).into_owned();
    assert!(text.contains("rolled 2; worker.channel@2 is not wanted any more"), "{text}");
    let left = node.status().await.instances.into_iter().filter(|i| i.name.starts_with("worker.channel@"));
    assert_eq!(left.map(|i| i.generation).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn row_68_the_same_key_is_the_same_operation_even_after_its_end() {
    let node = Node::start().await;
    let args = ["restart", "gateway", "--key", "upgrade-7"];
    let (first, second) = tokio::join!(node.must_wkctl(&args), node.must_wkctl(&args));
    let third = node.must_wkctl(&args).await;
    assert!([first, second, third].iter().all(|t| t.contains("restarted 1")));
    assert_eq!(node.instance("gateway@0").await.generation, 2);
}

/// Needs root, to be somebody else for a moment.
#[tokio::test]
async fn row_69_a_peer_without_the_role_is_refused_and_noted() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can call as another user");
        return;
    }
    let node = Plan::new("supervisor:\n  viewerGroup: nogroup").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let tool = node.dir().join("wkctl");
    copy_program(env!("CARGO_BIN_EXE_wkctl"), &tool);
    // The test's own folder; everything below it the supervisor has opened itself.
    std::fs::set_permissions(node.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let as_nobody = |gid: u32, args: &[&str]| {
        let mut command = std::process::Command::new(&tool);
        command.arg("--runtime").arg(node.runtime()).args(args).uid(65534).gid(gid);
        command.output().unwrap()
    };
    assert_eq!(as_nobody(65534, &["status"]).status.code(), Some(0), "a viewer may look");
    let stop = as_nobody(65534, &["stop"]);
    assert_eq!(stop.status.code(), Some(77), "{stop:?}");
    assert_eq!(as_nobody(65533, &["status"]).status.code(), Some(77), "without the group not even that");
    let denied = event(&node, "denied", |e| e["kind"] == "denied").await;
    assert!(
        denied["actor"].as_str().unwrap().starts_with("uid 65534 pid ") && text(&denied).contains("Stop needs the role operator"),
        "{denied}"
    );
    assert_eq!(node.status().await.overall, "ready");
    // Catalogue row 51: the mode was there before anybody could connect; the other sockets stay closed.
    let mode =
        |name: &str| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(node.runtime().join(name)).unwrap().permissions()) & 0o777;
    assert_eq!([mode("control.sock"), mode("node.sock"), mode("h")], [0o666, 0o600, 0o700]);
}

#[tokio::test]
async fn row_71_a_bad_file_is_refused_whole() {
    let node = Plan::new("connIdleTime: 90s").spawn();
    let before = node.wait("ready", |s| s.overall == "ready").await;
    edit(&node, "connIdleTime: 90s", "connIdleTime: 80s\nworkers:\n  channel: 99");
    let output = node.wkctl(&["reload"]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.contains("workers.channel") && err.contains("wukongim.yaml:") && err.contains("the old configuration holds"), "{err}");
    let after = node.status().await;
    assert_eq!((after.config_hash, after.instances.len()), (before.config_hash, 7));
    node.signal_supervisor(Signal::SIGHUP);
    event(&node, "refusal", |e| text(e).contains("configuration refused")).await;
    assert!(node.status().await.instances.iter().all(|i| i.pending_restart.is_empty()));
}

#[tokio::test]
async fn row_74_a_reload_applies_what_is_live_and_marks_the_rest() {
    let node = Plan::new("connIdleTime: 90s\nworkers:\n  channel: 2").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    edit(&node, "channel: 2", "channel: 1");
    edit(&node, "connIdleTime: 90s", "connIdleTime: 80s");
    let dry = node.must_wkctl(&["reload", "--dry-run"]).await;
    assert!(dry.contains("connIdleTime") && dry.contains("nothing was changed"), "{dry}");
    let text = node.must_wkctl(&["reload"]).await;
    assert!(text.contains("pending restart: gateway"), "{text}");
    let status = node.wait("drained", |s| s.instances.iter().all(|i| i.name != "worker.channel@1")).await;
    let pending: Vec<&str> = status.instances.iter().filter(|i| !i.pending_restart.is_empty()).map(|i| i.name.as_str()).collect();
    assert_eq!((pending, node.instance("gateway@0").await.generation), (vec!["gateway@0"], 1));
    assert!(node.must_wkctl(&["status"]).await.contains("pending restart: configuration changed"));
    node.must_wkctl(&["reload", "--apply"]).await;
    let gateway = node.instance("gateway@0").await;
    assert_eq!((gateway.generation, gateway.pending_restart.len(), gateway.restarts), (2, 0, 0));
    assert_eq!(node.instance("api@0").await.generation, 1, "nobody else was touched");
}

/// Catalogue row 8 as well: a replaced binary is shown, nothing else happens.
#[tokio::test]
async fn row_08_a_replaced_binary_is_pending() {
    let node = Node::start().await;
    let path = node.dir().join("bin/wk-api");
    let program = std::fs::read_link(&path).unwrap();
    copy_program(program, node.dir().join("bin/new"));
    std::fs::rename(node.dir().join("bin/new"), &path).unwrap();
    let api = node.wait_instance("api@0", "pending", |i| i.pending_restart == ["binary"]).await;
    assert_eq!((api.generation, api.state()), (1, State::Ready));
    node.must_wkctl(&["roll", "api", "--min-ready", "10ms"]).await;
    node.wait_instance("api@0", "up to date", |i| i.pending_restart.is_empty()).await;
}

#[tokio::test]
async fn row_80_a_stop_from_above_cancels_a_start() {
    let plan = Plan::new("").fault("cluster@0", "never-ready");
    let mut node = plan.spawn();
    node.wait_instance("cluster@0", "starting", |i| i.pid != 0).await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    assert!(node.leftovers().is_empty());
}

#[tokio::test]
async fn a_scale_is_kept_and_shown_as_an_override() {
    let mut node = Node::start().await;
    node.must_wkctl(&["scale", "worker.channel=2"]).await;
    assert!(node.must_wkctl(&["status"]).await.contains("override: worker.channel=2 by command, the configuration says 1"));
    node.must_wkctl(&["stop", "--supervisor"]).await;
    node.exit().await;
    node.spawn_supervisor();
    let status = node.wait("ready", |s| s.overall == "ready").await;
    assert_eq!((status.instances.len(), status.overrides.len()), (8, 1));
    node.must_wkctl(&["scale", "worker.channel=1"]).await;
    assert!(node.status().await.overrides.is_empty() && !node.dir().join("data/supervisor/overrides.json").exists());
}

#[tokio::test]
async fn why_tells_the_last_end_and_the_log() {
    let node = Node::start().await;
    node.fault("worker.user@0", "exit=3 log=out_of_luck");
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.wait_instance("worker.user@0", "in a crash loop", |i| i.crash_loop).await;
    let text = node.must_wkctl(&["why", "worker.user"]).await;
    for part in ["worker.user@0 backoff", "exit 3", "crash loop", "next attempt  in", "| out of luck"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    node.must_wkctl(&["hold", "worker.user"]).await;
    node.fault("worker.user@0", "");
    assert!(node.must_wkctl_code(&["status", "worker.user"], 1).await.contains("held by an operator"));
    node.must_wkctl(&["unhold", "worker.user"]).await;
    node.must_wkctl(&["reset", "worker.user"]).await;
    node.wait_instance("worker.user@0", "back", |i| i.state() == State::Ready && i.restarts == 0 && !i.crash_loop).await;
    let json: Value = serde_json::from_str(&node.must_wkctl(&["why", "worker.user", "-o", "json"]).await).unwrap();
    assert_eq!(json["last_exit"]["code"], 3);
    assert_eq!(node.wkctl(&["why", "nobody"]).await.status.code(), Some(4));
}

#[tokio::test]
async fn logs_events_graph_and_plans_have_their_forms() {
    let node = Plan::new("").fault("api@0", "log=hello_there").spawn();
    node.wait("timed", |s| s.timing.is_some()).await;
    assert!(node.must_wkctl(&["logs", "api", "-n", "5"]).await.contains("api@0  hello there"));
    assert!(node.must_wkctl(&["graph", "--live"]).await.contains("└─requires cluster ● ready"));
    assert!(node.must_wkctl(&["graph", "--format", "dot"]).await.starts_with("digraph"));
    let graph: Value = serde_json::from_str(&node.must_wkctl(&["graph", "-o", "json"]).await).unwrap();
    let gateway = graph["nodes"].as_array().unwrap().iter().find(|n| n["daemon"] == "gateway").unwrap();
    assert_eq!((&gateway["requires"], &gateway["state"]), (&serde_json::json!(["cluster"]), &"ready".into()));
    assert!(node.must_wkctl(&["graph", "-o", "yaml"]).await.contains("daemon: \"plugin-host\""));
    assert_eq!(node.must_wkctl(&["graph", "-o", "name"]).await.lines().count(), 7);
    assert!(node.must_wkctl(&["logs", "api", "-o", "yaml"]).await.starts_with("---\ninstance: \"api@0\"\ntext: "));
    assert_eq!(node.must_wkctl(&["logs", "api", "-o", "name"]).await, "api@0\n");
    assert!(node.must_wkctl(&["analyze", "blame"]).await.contains("ms  cluster@0"));
    assert!(node.must_wkctl(&["analyze", "critical-chain"]).await.contains("└─"));
    let plan = node.must_wkctl(&["stop", "--dry-run"]).await;
    assert!(plan.contains("quiesce") && plan.contains("stop cluster@0"), "{plan}");
    assert_eq!(node.status().await.overall, "ready", "a dry run changes nothing");
    let start = events(&node).await.into_iter().find(|e| e["kind"] == "operation").unwrap();
    assert!(start["cause"] == "start" && text(&start).contains("everything"), "{start}");
    let signalled = node.must_wkctl(&["signal", "api", "CONT"]).await;
    assert_eq!(signalled, "signalled: api@0\n");
    let noted = event(&node, "signal", |e| text(e) == "signal 18 sent").await;
    assert!(noted["actor"].as_str().unwrap().ends_with(" wkctl"), "{noted}");
}
