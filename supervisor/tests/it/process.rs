//! What surrounds a process: its group, what it leaves behind, limits, descriptors.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{ABI, AccessFs, Ruleset, RulesetAttr};
use nix::sys::signal::Signal;
use wk_proto::node::v1::State;

use crate::node::{Node, Plan};

/// A part of the tree of version 2 that this test may use, removed with it; `None` where the machine gives none.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|l| l.contains(" - cgroup2 "))?;
        let mount = Path::new(line.split(' ').nth(4)?);
        let dir = mount.join(tempfile::Builder::new().prefix("wkt").tempdir().unwrap().path().file_name()?);
        match std::fs::create_dir(&dir) {
            Ok(()) => Some(Self(dir)),
            Err(err) => {
                drop(writeln!(std::io::stderr(), "skipped: no control group can be made: {err}"));
                None
            }
        }
    }

    fn plan(&self) -> Plan {
        Plan::new(&format!("supervisor:\n  cgroup: {}", self.0.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(std::fs::write(self.0.join("cgroup.kill"), "1"));
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
            drop(std::fs::remove_dir(entry.path()));
        }
        drop(std::fs::remove_dir(&self.0));
    }
}

async fn grandchild(node: &Node) -> u32 {
    node.seen("a grandchild", |events| events.iter().find_map(|(_, _, w)| w.strip_prefix("grandchild ")?.parse().ok())).await
}

fn of(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// Its daemon dies; the one in another session dies before the slot is used again.
async fn dies_with_its_daemon(plan: Plan) -> Node {
    let node = plan.fault("worker.push@0", "grandchild-session once").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let (helper, old) = (grandchild(&node).await, node.instance("worker.push@0").await);
    assert_ne!(of(helper, "stat"), "");
    node.signal("worker.push@0", Signal::SIGKILL).await;
    node.seen("next generation", |events| events.iter().find(|(i, g, _)| i == "worker.push@0" && g == "2").cloned()).await;
    let stat = of(helper, "stat");
    assert!(stat.is_empty() || stat.contains(") Z "), "alive beside the next generation: {stat}");
    node.wait_back("worker.push@0", old.generation).await;
    node
}

#[tokio::test]
async fn row_24_grandchildren_do_not_outlive_their_parent() {
    let node = dies_with_its_daemon(Plan::new("")).await;
    assert!(node.status().await.containment.starts_with("process groups"), "the weaker way is named");
}

#[tokio::test]
async fn row_24_a_control_group_is_emptied_before_its_slot_is_used_again() {
    let Some(group) = Group::new() else { return };
    let mut node = dies_with_its_daemon(group.plan()).await;
    assert!(node.status().await.containment.starts_with("cgroup /"), "{}", node.status().await.containment);
    let status = node.status().await;
    for instance in &status.instances {
        let held = std::fs::read_to_string(group.0.join(&instance.name).join("cgroup.procs")).unwrap();
        assert_eq!(held.trim(), instance.pid.to_string(), "{}", instance.name);
    }
    // A successor finds the groups again.
    node.replace_killed_supervisor().await;
    node.wait("adopted", |s| s.overall == "ready" && s.instances.iter().all(|i| i.adopted)).await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    let left = std::fs::read_dir(&group.0).unwrap().flatten().filter(|e| e.path().is_dir()).count();
    assert_eq!(left, 0, "groups are removed");
}

/// Its daemon dies while nobody supervises; nothing but its control group tells of it.
#[tokio::test]
async fn row_24_a_control_group_is_emptied_by_a_successor_and_by_reap() {
    let Some(group) = Group::new() else { return };
    let mut node = group.plan().fault("worker.push@0", "grandchild-hidden").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let (helper, old) = (grandchild(&node).await, node.instance("worker.push@0").await);
    node.kill_supervisor().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(old.pid).unwrap()), Signal::SIGKILL).unwrap();
    node.wait_gone(old.pid).await;
    assert!(of(helper, "stat").contains(") S "), "it lives on");
    node.spawn_supervisor();
    let back = node.wait_back("worker.push@0", old.generation).await;
    assert_eq!((back.generation, back.restarts), (old.generation + 1, 1), "{}", node.out());
    node.wait_gone(helper).await;
    assert!(node.out().contains("ended what was left in the control group of worker.push@0"), "{}", node.out());
    let second = node.seen("the next one", |events| {
        let of_second = events.iter().filter(|(_, g, _)| *g == back.generation.to_string());
        of_second.filter_map(|(_, _, w)| w.strip_prefix("grandchild ")?.parse::<u32>().ok()).next()
    });
    let second = second.await;
    node.kill_supervisor().await;
    let mut reap = tokio::process::Command::new(env!("CARGO_BIN_EXE_wksupervisor"));
    reap.arg("reap").arg("--config").arg(node.dir().join("wukongim.yaml")).arg("--runtime").arg(node.dir().join("r"));
    let output = reap.env("SERVICE_RESULT", "success").output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("the control group of worker.push@0"), "{output:?}");
    node.wait_gone(second).await;
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

/// What lives on beside a daemon that is stopped goes with it.
#[tokio::test]
async fn row_24_a_stop_leaves_nothing() {
    let mut node = Plan::new("").fault("api@0", "grandchild-session").fault("cluster@0", "grandchild").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    node.signal_supervisor(Signal::SIGTERM);
    assert_eq!(node.exit().await.code(), Some(0), "{}", node.out());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

#[tokio::test]
async fn row_19_a_daemon_that_leaves_the_foreground_is_refused() {
    let node = Plan::new("").fault("plugin-host@0", "daemonise").spawn();
    let host = node.wait_instance("plugin-host@0", "failed", |i| i.state() == State::Failed).await;
    assert!(host.why.contains("must run in the foreground"), "{}", host.why);
    node.wait_gone(grandchild(&node).await).await;
}

/// Orphans become children of the supervisor; it reaps them and takes nobody's status.
#[tokio::test]
async fn row_38_unknown_zombies_are_reaped() {
    let node = Plan::new("").fault("worker.user@0", "orphan exit-on-usr1=42 once").fault("api@0", "orphan").spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let supervisor = node.status().await.supervisor_pid;
    let strangers = |s: &wk_proto::supervisor::v1::Snapshot| {
        let tasks = std::fs::read_dir(format!("/proc/{supervisor}/task")).unwrap().flatten();
        let lists = tasks.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
        let pids: Vec<u32> = lists.flat_map(|l| l.split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<u32>>()).collect();
        pids.into_iter().filter(|pid| s.instances.iter().all(|i| i.pid != *pid)).count()
    };
    let look = async {
        while strangers(&node.status().await) > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), look).await.expect("orphans stay");
    let old = node.instance("worker.user@0").await;
    node.signal("worker.user@0", Signal::SIGUSR1).await;
    node.wait_back("worker.user@0", old.generation).await;
    node.said("worker.user@0 exit 42;").await;
}

#[tokio::test]
async fn each_daemon_has_its_own_score_limits_and_no_way_to_privileges() {
    let text = "supervisor:\n  daemons:\n    worker:\n      user:\n        filesMax: 300";
    let node = Plan::new(text).spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    for (name, score) in [("cluster@0", "0"), ("gateway@0", "200"), ("worker.user@0", "500"), ("plugin-host@0", "900")] {
        let pid = node.instance(name).await.pid;
        assert_eq!(of(pid, "oom_score_adj").trim(), score, "{name}");
        assert!(of(pid, "status").contains("NoNewPrivs:\t1"), "{name}");
    }
    let limits = of(node.instance("worker.user@0").await.pid, "limits");
    let files: Vec<&str> = limits.lines().find(|l| l.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["300", "300"]);
}

/// Out of descriptors: a scale that needs more is refused, what runs is watched and replaced.
#[tokio::test]
async fn row_29_few_descriptors_refuse_a_scale_and_keep_the_watch() {
    let node = Plan::new("").spawn_as(|direct| {
        let mut command = tokio::process::Command::new("sh");
        command.arg("-c").arg("ulimit -n 200; exec \"$@\"").arg("sh").arg(direct.as_std().get_program());
        command.args(direct.as_std().get_args());
        command.envs(direct.as_std().get_envs().filter_map(|(k, v)| Some((k, v?)))).kill_on_drop(true);
        command
    });
    node.wait("ready", |s| s.overall == "ready").await;
    let refused = node.wkctl(&["scale", "worker.channel=60"]).await;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(75) && text.contains("descriptors"), "{refused:?}");
    let old = node.instance("gateway@0").await;
    node.signal("gateway@0", Signal::SIGKILL).await;
    node.wait_back("gateway@0", old.generation).await;
}

/// Places that a gateway and a cluster try to write: the store, the configuration, the folder of messages that killed their receiver.
const PLACES: [&str; 3] = ["data/cluster/x", "wukongim.yaml", "data/quarantine/x"];

/// Which of [`PLACES`] an instance could write.
async fn written(extra: &str) -> impl Fn(&str) -> [Option<bool>; 3] {
    let plan = Plan::new(extra);
    std::fs::create_dir_all(plan.path().join("data/cluster")).unwrap();
    let path = |place: &str| plan.path().join(place).display().to_string();
    let words: Vec<String> = PLACES.iter().map(|place| format!("writes={}", path(place))).collect();
    let told = PLACES.map(|place| format!("writes {} ", path(place)));
    let node = plan.fault("gateway@0", &words.join(" ")).fault("cluster@0", &words.join(" ")).spawn();
    node.wait("ready", |s| s.overall == "ready").await;
    let events = node.events();
    move |who| {
        let of = |told: &String| events.iter().filter(|(w, _, _)| w == who).find_map(|(_, _, what)| what.strip_prefix(told.as_str()));
        told.each_ref().map(|told| of(told).map(|could| could == "done"))
    }
}

#[tokio::test]
async fn a_daemon_writes_only_where_it_has_to() {
    let rules = Ruleset::default().handle_access(AccessFs::from_write(ABI::V1)).and_then(Ruleset::create).unwrap();
    if Option::<OwnedFd>::from(rules).is_none() {
        return drop(writeln!(std::io::stderr(), "skipped: this kernel has no Landlock"));
    }
    let could = written("").await;
    assert_eq!(could("gateway@0"), [Some(false), Some(false), Some(true)]);
    assert_eq!(could("cluster@0"), [Some(true), Some(false), Some(false)]);
    let could = written("supervisor: {sandbox: false}").await;
    assert_eq!([could("gateway@0")[0], could("cluster@0")[1]], [Some(true), Some(true)]);
}
