//! The metrics page of a real supervisor, after what it is to count has happened.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use nix::sys::signal::Signal;
use wk_proto::node::v1::State;

use crate::node::{Node, Plan};

/// The value of a series: its name and all labels that are given, in any order. Panics when there is none, or more than one.
fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |line: &&str| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with('{'));
        rest.is_some_and(|rest| labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\""))))
    };
    let found: Vec<&str> = page.lines().filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}\n{page}");
    found[0].rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn page(node: &Node) -> String {
    node.must_wkctl(&["metrics"]).await
}

#[tokio::test]
async fn a_start_is_timed_in_its_phases() {
    let node = Node::start().await;
    let page = page(&node).await;
    for daemon in ["cluster", "gateway", "api", "worker.user", "worker.channel", "worker.push", "plugin-host"] {
        for phase in ["exec", "init", "wait", "handshake", "total"] {
            assert_eq!(value(&page, "wk_supervisor_start_seconds_count", &[("daemon", daemon), ("phase", phase)]), 1.0);
        }
        let instance = format!("{daemon}@0");
        assert_eq!(value(&page, "wk_supervisor_instance_ready", &[("instance", &instance)]), 1.0);
        assert_eq!(value(&page, "wk_supervisor_instance_state", &[("instance", &instance), ("state", "ready")]), 1.0);
        assert_eq!(value(&page, "wk_supervisor_instance_state", &[("instance", &instance), ("state", "backoff")]), 0.0);
        for (family, least) in [("cpu_seconds_total", 0.0), ("resident_bytes", 100_000.0), ("open_fds", 4.0)] {
            assert!(value(&page, &format!("wk_supervisor_instance_{family}"), &[("instance", &instance)]) >= least, "{family}");
        }
    }
    let total = value(&page, "wk_supervisor_start_seconds_sum", &[("daemon", "api"), ("phase", "total")]);
    let phases = ["exec", "init", "wait", "handshake"];
    let sum: f64 = phases.iter().map(|p| value(&page, "wk_supervisor_start_seconds_sum", &[("daemon", "api"), ("phase", p)])).sum();
    assert!((total - sum).abs() < 1e-6 && total > 0.0, "the phases are the whole: {total} {sum}");
    assert_eq!(value(&page, "wk_supervisor_op_seconds_count", &[("op", "start"), ("result", "ok")]), 1.0);
    for family in ["wk_supervisor_restarts_total", "wk_supervisor_instance_cpu_seconds_total", "wk_supervisor_events_dropped_total"] {
        assert_eq!(page.matches(&format!("# TYPE {family} counter\n")).count(), 1, "{family}");
    }
}

#[tokio::test]
async fn a_crash_is_counted_by_daemon_and_cause_and_its_pause_is_shown() {
    let node = Node::start().await;
    let user = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGKILL).await;
    let back = node.wait_back("worker.user@0", user.generation).await;
    let labels = |cause| [("daemon", "worker.user"), ("cause", cause)];
    let now = page(&node).await;
    assert_eq!(value(&now, "wk_supervisor_restarts_total", &labels("signal")), 1.0);
    assert_eq!(value(&now, "wk_supervisor_restarts_total", &labels("exit")), 0.0);
    assert_eq!(value(&now, "wk_supervisor_crashes_total", &[("cause", "signal")]), 1.0);
    assert_eq!(value(&now, "wk_supervisor_stop_seconds_count", &[("daemon", "worker.user")]), 0.0, "nobody asked for it");
    node.fault("worker.user@0", "exit=3");
    node.signal("worker.user@0", Signal::SIGKILL).await;
    node.wait_instance("worker.user@0", "in a loop", |i| i.restarts > back.restarts + 3 && i.state() == State::Backoff).await;
    let now = page(&node).await;
    assert!(value(&now, "wk_supervisor_restarts_total", &labels("exit")) >= 2.0);
    assert!(value(&now, "wk_supervisor_instance_restarts", &[("instance", "worker.user@0")]) >= 4.0);
    // The pause grows to seconds: one page of several finds the instance in it.
    node.wait_instance("worker.user@0", "in a long pause", |i| i.why.contains("next try in 1.") || i.why.contains("next try in 2.")).await;
    let now = page(&node).await;
    assert!(value(&now, "wk_supervisor_backoff_seconds", &[("instance", "worker.user@0")]) > 0.0);
    assert_eq!(value(&now, "wk_supervisor_instance_ready", &[("instance", "worker.user@0")]), 0.0);
}

#[tokio::test]
async fn operations_stops_and_kills_at_a_deadline_are_timed() {
    let plan = Plan::new("supervisor:\n  daemons:\n    worker.push: {stopTimeout: 300ms}").fault("worker.push@0", "ignore-term");
    let mut node = plan.spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.must_wkctl(&["restart", "api"]).await;
    node.must_wkctl(&["scale", "worker.channel=2"]).await;
    let now = page(&node).await;
    assert_eq!(value(&now, "wk_supervisor_op_seconds_count", &[("op", "restart"), ("result", "ok")]), 1.0);
    assert_eq!(value(&now, "wk_supervisor_op_seconds_count", &[("op", "scale"), ("result", "ok")]), 1.0);
    assert_eq!(value(&now, "wk_supervisor_stop_seconds_count", &[("daemon", "api")]), 1.0);
    assert_eq!(value(&now, "wk_supervisor_instance_ready", &[("instance", "worker.channel@1")]), 1.0);
    assert_eq!(value(&now, "wk_supervisor_kill_escalations_total", &[("daemon", "worker.push")]), 0.0);
    node.must_wkctl(&["restart", "worker.push"]).await;
    let now = page(&node).await;
    assert_eq!(value(&now, "wk_supervisor_kill_escalations_total", &[("daemon", "worker.push")]), 1.0);
    assert_eq!(value(&now, "wk_supervisor_signals_total", &[("signal", "kill")]), 1.0);
    assert!(value(&now, "wk_supervisor_stop_seconds_sum", &[("daemon", "worker.push")]) >= 0.3);
    assert_eq!(value(&now, "wk_supervisor_restarts_total", &[("daemon", "worker.push"), ("cause", "signal")]), 0.0, "planned");
    node.replace_killed_supervisor().await;
    node.wait("ready", |s| s.overall == "ready" && s.instances.iter().all(|i| i.adopted)).await;
    assert_eq!(value(&page(&node).await, "wk_supervisor_adopted_total", &[("instance", "supervisor")]), 8.0);
}

/// The first liveness checks come after ten seconds.
#[tokio::test]
async fn liveness_is_timed_and_its_misses_are_counted() {
    let node = Node::start().await;
    let old = node.instance("worker.channel@0").await;
    node.signal("worker.channel@0", Signal::SIGSTOP).await;
    node.wait_back("worker.channel@0", old.generation).await;
    assert!(value(&page(&node).await, "wk_supervisor_health_misses_total", &[("daemon", "worker.channel")]) >= 1.0);
    let checked = async {
        loop {
            let now = page(&node).await;
            let rtt = value(&now, "wk_supervisor_health_rtt_seconds_count", &[]);
            if rtt > 0.0 {
                assert!(value(&now, "wk_supervisor_engine_lag_seconds_count", &[]) >= rtt, "{now}");
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), checked).await.expect("a liveness check within a minute");
}

/// `design/supervisor.md` §4.4: a crash loop raises an event, a metric and the flag of status.
#[tokio::test]
async fn a_crash_loop_is_counted_and_shown() {
    let node = Node::start().await;
    let daemon = [("daemon", "worker.push")];
    let instance = [("instance", "worker.push@0")];
    let before = page(&node).await;
    assert_eq!(value(&before, "wk_supervisor_crash_loops_total", &daemon), 0.0);
    assert_eq!(value(&before, "wk_supervisor_instance_crash_loop", &instance), 0.0);
    node.fault("worker.push@0", "crash=1");
    node.signal("worker.push@0", Signal::SIGKILL).await;
    node.wait_instance("worker.push@0", "in a crash loop", |i| i.crash_loop).await;
    let now = page(&node).await;
    assert_eq!(value(&now, "wk_supervisor_crash_loops_total", &daemon), 1.0);
    assert_eq!(value(&now, "wk_supervisor_instance_crash_loop", &instance), 1.0);
    let events = node.must_wkctl(&["events", "-o", "json", "worker.push"]).await;
    assert_eq!(events.matches(r#""kind":"crash-loop""#).count(), 1, "{events}");
}
