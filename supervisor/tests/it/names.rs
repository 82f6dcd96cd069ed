//! Names: what completion offers in a real shell, and what is said about those that nobody has.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is a failure of the test")]

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::node::{Node, copy_program};

/// Sources the script, asks as bash does behind `line`, and prints what it would offer.
const ASK: &str = r#"
source /dev/stdin <<< "$("$1" completion bash)"
COMP_WORDBREAKS=$' \t\n"\'@><=;|&(:'
COMP_LINE=$2 COMP_POINT=${#2}
_wkctl "$1" "${2##*[ @=]}" ""
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What a bash offers at the end of a line; anything on standard error fails.
fn bash(line: &str) -> Vec<String> {
    let output = Command::new("bash").args(["--norc", "-c", ASK, "bash", env!("CARGO_BIN_EXE_wkctl"), line]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

fn on(runtime: &Path, rest: &str) -> Vec<String> {
    bash(&format!("wkctl --runtime {} {rest}", runtime.display()))
}

#[tokio::test]
async fn bash_completes_names_numbers_and_options() {
    let node = Node::start().await;
    node.must_wkctl(&["scale", "worker.channel=2"]).await;
    let at = node.runtime();
    assert_eq!(on(&at, "why worker.ch"), ["worker.channel", "worker.channel@0", "worker.channel@1"]);
    assert_eq!(on(&at, "why worker.channel@"), ["@0", "@1"], "bash replaces what stands behind its word break, and this one with it");
    assert_eq!(on(&at, "restart api ap"), ["api@0"], "what was given is not offered again");
    assert_eq!(on(&at, "scale worker.p"), ["worker.push="]);
    assert_eq!(on(&at, "op wait "), ["2", "1"], "the latest first");
    assert!(on(&at, "op cancel ").is_empty(), "nothing is under way");
    assert_eq!(on(&at, "signal api US"), ["USR1", "USR2"]);
    assert_eq!(on(&at, "logs superv"), ["supervisor"]);
    assert_eq!(on(&at, "roll worker --su"), ["--surge"]);
    assert_eq!(on(&at, "status --output=js"), ["json"]);
    assert_eq!(on(&at, "sta"), ["status", "start"]);
    assert_eq!(bash(&format!("wkctl --runtime {}/r", node.dir().display())).len(), 1, "folders");
    // The other shells show help behind a tab, and do folders themselves.
    assert_eq!(node.must_wkctl(&["complete", "--", "wkctl --runtime /t"]).await, ":directories\n");
    let line = format!("wkctl --runtime {} why worker.push@", at.display());
    assert_eq!(node.must_wkctl(&["complete", "--", &line]).await, "worker.push@0\tready\n");
    // A supervisor that does not answer must not hold the shell.
    node.signal_supervisor(Signal::SIGSTOP);
    assert!(on(&at, "why gate").contains(&"gateway".to_owned()));
    node.signal_supervisor(Signal::SIGCONT);
}

#[test]
fn without_a_supervisor_the_fixed_names_are_offered_without_a_noise() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(on(dir.path(), "restart wor"), ["worker", "worker.user", "worker.channel", "worker.push"]);
    assert!(on(dir.path(), "op cancel ").is_empty());
}

#[tokio::test]
async fn an_unknown_name_is_4_and_what_was_meant_is_offered() {
    let node = Node::start().await;
    let cases: [&[&str]; 10] = [
        &["status", "api", "gatway"],
        &["status", "--watch", "gatway"],
        &["why", "gatway"],
        &["restart", "gatway"],
        &["roll", "gatway", "--dry-run"],
        &["hold", "gatway"],
        &["signal", "gatway", "CONT"],
        &["logs", "gatway"],
        &["events", "gatway"],
        &["stop", "gatway"],
    ];
    for args in cases {
        let output = node.wkctl(args).await;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{args:?}: {output:?}");
        assert!(err.contains("did you mean gateway?") && err.lines().count() == 1, "{args:?}: {err}");
    }
    let scale = node.wkctl(&["scale", "channel=2"]).await;
    assert!(String::from_utf8_lossy(&scale.stderr).contains("did you mean worker.channel?"), "{scale:?}");
    assert_eq!(node.wkctl(&["logs", "worker.user@7"]).await.status.code(), Some(4));
}

/// Needs root, to be somebody else for a moment.
#[tokio::test]
async fn a_node_that_is_closed_to_us_is_77_and_not_absent() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can call as another user");
        return;
    }
    let node = Node::start().await;
    let tool = node.dir().join("wkctl");
    copy_program(env!("CARGO_BIN_EXE_wkctl"), &tool);
    std::fs::set_permissions(node.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    for runtime in [node.runtime(), node.dir().join("r")] {
        let mut command = Command::new(&tool);
        let output = command.arg("--runtime").arg(&runtime).arg("status").uid(65534).gid(65534).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(77) && err.contains("permission denied"), "{}: {output:?}", runtime.display());
    }
}
