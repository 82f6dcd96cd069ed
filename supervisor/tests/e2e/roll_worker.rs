//! `wkctl roll worker` under load: every worker of every pool is replaced, no client is disconnected, no message is lost, doubled or out of
//! order; the first bad one ends it.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, ensure};
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;
use wk_proto::supervisor::v1::{Snapshot, StatusRequest};
use wk_testkit::node::{Node, Options, bin_dir};

use crate::talk::{Load, POOLS, judge};

const BINARIES: [&str; 5] = ["wk-cluster", "wk-gateway", "wk-api", "wk-worker", "wk-plugin-host"];
const BAD: &str = "#!/bin/sh\nexit 3\n";

fn two_each() -> Options {
    Options { extra: "workers:\n  user: 2\n  channel: 2\n  push: 2".into() }
}

/// Generations of the workers.
fn workers(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    snapshot.instances.iter().filter(|i| i.name.starts_with("worker.")).map(|i| (i.name.clone(), i.generation)).collect()
}

/// Ready slots of the pool that has fewest.
fn fewest(snapshot: &Snapshot) -> usize {
    let ready = |pool: &str| snapshot.instances.iter().filter(|i| i.name.starts_with(pool) && i.state() == State::Ready).count();
    POOLS.map(ready).into_iter().min().unwrap_or(0)
}

/// Does something and tells how few slots of a pool were ready meanwhile.
async fn watched<T>(node: &Node, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, usize)> {
    let channel = wk_rpc::dial(node.runtime().join("control.sock")).await?;
    let mut snapshots = SupervisorClient::new(channel).watch_status(StatusRequest::default()).await?.into_inner();
    let (mut lowest, mut work) = (usize::MAX, std::pin::pin!(work));
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, lowest)),
            snapshot = snapshots.message() => lowest = lowest.min(fewest(&snapshot?.context("the supervisor ended")?)),
        }
    }
}

#[tokio::test]
async fn every_worker_is_replaced_and_no_client_notices() -> anyhow::Result<()> {
    let node = Node::start(&two_each()).await?;
    let mut load = Load::start(&node).await?;
    let run = async {
        load.flow(200).await?;
        for (surge, left) in [(&[][..], 1), (&["--surge", "1"][..], 2)] {
            let before = workers(&node.status().await?);
            let args = [&["roll", "worker", "--min-ready", "300ms"][..], surge].concat();
            let (text, lowest) = watched(&node, node.must_wkctl(&args)).await?;
            ensure!(text.contains("rolled 6"), "{text}");
            ensure!(lowest == left, "{lowest} slots were left during {args:?}\n{text}");
            let expected: BTreeMap<String, u64> = before.into_iter().map(|(name, generation)| (name, generation + 1)).collect();
            let after = workers(&node.status().await?);
            ensure!(after == expected, "{after:?}");
            load.flow(200).await.with_context(|| format!("after {args:?}"))?;
        }
        judge(&load.finish().await?, true)
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

/// Puts another program in the place of a binary, as a package manager does.
fn install(dir: &Path, put: impl FnOnce(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
    let (new, path) = (dir.join("new"), dir.join("wk-worker"));
    put(&new)?;
    Ok(std::fs::rename(new, path)?)
}

#[tokio::test]
async fn the_first_bad_worker_ends_the_roll_and_messages_go_on() -> anyhow::Result<()> {
    let (dir, real) = (tempfile::tempdir()?, bin_dir()?);
    for name in BINARIES {
        symlink(real.join(name), dir.path().join(name))?;
    }
    let node = Node::start_with_env(&two_each(), &[("WK_BIN_DIR", &dir.path().to_string_lossy())]).await?;
    let mut load = Load::start(&node).await?;
    let run = async {
        load.flow(200).await?;
        let before = workers(&node.status().await?);
        install(dir.path(), |new| {
            std::fs::write(new, BAD)?;
            std::fs::set_permissions(new, std::fs::Permissions::from_mode(0o755))
        })?;
        // With an added slot the bad version is found before anybody was replaced.
        let output = node.wkctl(&["roll", "worker", "--surge", "1", "--min-ready", "300ms"]).await?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(8) && err.contains("worker.user@2 failed: exit 3"), "{output:?}");
        node.wait_status("without the added one", |s| workers(s) == before).await?;
        load.flow(200).await?;
        // Without one the first is away, and nobody else.
        let output = node.wkctl(&["roll", "worker", "--min-ready", "300ms"]).await?;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(8) && err.contains("worker.user@0 failed: exit 3"), "{output:?}");
        install(dir.path(), |new| symlink(real.join("wk-worker"), new))?;
        let others = |s: &Snapshot| workers(s).into_iter().filter(|(name, _)| name != "worker.user@0").collect::<BTreeMap<_, _>>();
        let kept: BTreeMap<String, u64> =
            before.iter().filter(|(name, _)| *name != "worker.user@0").map(|(n, g)| (n.clone(), *g)).collect();
        ensure!(others(&node.status().await?) == kept, "the others stayed: {:?}", workers(&node.status().await?));
        // The message is the command that goes on.
        let command = err.split("to go on: wkctl ").nth(1).context("no command to go on")?;
        let args: Vec<&str> = command.split_whitespace().chain(["--min-ready", "300ms"]).collect();
        let text = node.must_wkctl(&args).await?;
        ensure!(text.contains("rolled 6"), "{text}");
        load.flow(200).await?;
        judge(&load.finish().await?, true)
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}
