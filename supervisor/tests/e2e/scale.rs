//! `wkctl scale` under load: new processes take their share, messages keep flowing in order, nothing is lost, no client notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use wk_testkit::client::{Client, Login};
use wk_testkit::native::Native;
use wk_testkit::node::{Node, Options};
use wk_types::InstanceName;

use crate::talk::{Load, POOLS, judge};

async fn scale(node: &Node, pool: &str, slots: usize) -> anyhow::Result<()> {
    node.must_wkctl(&["scale", &format!("{pool}={slots}")]).await.map(drop)
}

#[tokio::test]
async fn every_pool_scales_up_and_down_under_load_and_no_client_notices() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let mut load = Load::start(&node).await?;
    let run = async {
        load.flow(200).await?;
        for slots in [4, 1, 2, 3, 1] {
            for pool in POOLS {
                scale(&node, pool, slots).await?;
                load.flow(200).await.with_context(|| format!("after {pool}={slots}"))?;
            }
        }
        judge(&load.finish().await?, true)
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

#[tokio::test]
async fn a_worker_that_is_killed_while_its_share_moves_loses_nothing() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let mut load = Load::start(&node).await?;
    let run = async {
        load.flow(200).await?;
        for (pool, victims) in POOLS.iter().flat_map(|pool| [(pool, [0, 1]), (pool, [0, 2])]) {
            for (slots, victim) in [3, 1].into_iter().zip(victims) {
                let name = format!("{pool}@{}", if slots == 3 { 0 } else { victim });
                let moving = scale(&node, pool, slots);
                let killing = async {
                    tokio::time::sleep(Duration::from_millis(30 * (victim + 1))).await;
                    // It may not be there yet, or not any more: then the scale is an undisturbed one.
                    node.signal(&name, Signal::SIGKILL).await.ok();
                    anyhow::Ok(())
                };
                let (moved, killed) = tokio::join!(moving, killing);
                moved.and(killed).with_context(|| format!("{pool}={slots} without {name}"))?;
                load.flow(200).await.with_context(|| format!("after {pool}={slots} without {name}"))?;
                // The crash is accounted for.
                node.must_wkctl(&["start"]).await?;
            }
        }
        judge(&load.finish().await?, false)
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

#[tokio::test]
async fn users_log_in_while_their_share_moves() -> anyhow::Result<()> {
    let node = Node::start(&Options::default()).await?;
    let tcp = node.tcp().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut comers = JoinSet::new();
    for comer in 0..8 {
        comers.spawn(come_and_go(tcp, comer, Arc::clone(&stop)));
    }
    let run = async {
        for slots in [3, 1, 2, 1] {
            for pool in POOLS {
                scale(&node, pool, slots).await?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut logins = 0;
        while let Some(comer) = comers.join_next().await {
            logins += comer??;
        }
        ensure!(logins > 100, "only {logins} logins");
        Ok(())
    };
    run.await.map_err(|e: anyhow::Error| e.context(node.story()))
}

/// Logs in, sends to itself, hears the answer and the message on a second device, leaves; returns how often.
async fn come_and_go(tcp: SocketAddr, comer: usize, stop: Arc<AtomicBool>) -> anyhow::Result<usize> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let uid = format!("c{comer}-{count}");
        let mut phone = Client::connect(tcp, &Login::new(&uid)).await.with_context(|| format!("login of {uid}"))?;
        let web = Login { device_flag: 1, device_id: format!("{uid}-web"), ..Login::new(&uid) };
        let mut web = Client::connect(tcp, &web).await.with_context(|| format!("second login of {uid}"))?;
        let seq = phone.send("friend", 1, &uid, uid.as_bytes()).await?;
        let ack = phone.ack(seq).await.with_context(|| format!("answer to {uid}"))?;
        ensure!(ack.reason.is_success(), "{uid} was answered with {}", ack.reason.name());
        let copy = web.message().await.with_context(|| format!("copy at the second device of {uid}"))?;
        ensure!(copy.payload == uid.as_bytes(), "{uid} got {copy:?}");
        count += 1;
    }
    Ok(count)
}

/// What `systemctl start wk-worker-channel@1` and `systemctl stop` of it do, without systemd: the cluster daemon hosts the node table.
#[tokio::test]
async fn units_of_every_pool_come_and_go_under_load_and_no_client_notices() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let mut load = Load::on(node.api()?, node.tcp()?).await?;
    let run = async {
        load.flow(200).await?;
        for pool in POOLS {
            for slots in [&[1][..], &[1, 2], &[3]] {
                let names: Vec<InstanceName> = slots.iter().filter_map(|slot| format!("{pool}@{slot}").parse().ok()).collect();
                for name in &names {
                    node.spawn(*name)?;
                }
                for name in &names {
                    node.ready(*name).await?;
                }
                shared(&node, pool, slots).await?;
                load.flow(200).await.with_context(|| format!("with {pool} {slots:?}"))?;
                for name in &names {
                    let code = node.end(*name, Signal::SIGTERM).await?;
                    ensure!(code == Some(0), "{name} ended with {code:?}");
                }
                // Its end came after the move.
                shared(&node, pool, &[]).await?;
                load.flow(200).await.with_context(|| format!("without {pool} {slots:?}"))?;
            }
        }
        judge(&load.finish().await?, true)
    };
    let outcome = run.await;
    outcome.map_err(|e: anyhow::Error| e.context(node.story()))
}

/// A unit that is killed while its share comes, and started again by systemd, goes on where it was; one that is killed while it leaves is replaced.
#[tokio::test]
async fn a_unit_that_is_killed_while_its_share_moves_loses_nothing() -> anyhow::Result<()> {
    let mut node = Native::start("").await?;
    let mut load = Load::on(node.api()?, node.tcp()?).await?;
    let run = async {
        load.flow(200).await?;
        for pool in POOLS {
            let name: InstanceName = format!("{pool}@1").parse()?;
            node.spawn(name)?;
            node.ready(name).await?;
            node.kill_and_restart(name).await?;
            shared(&node, pool, &[1]).await?;
            load.flow(200).await.with_context(|| format!("with {name}"))?;
            node.kill_and_restart(name).await?;
            load.flow(200).await.with_context(|| format!("after the death of {name}"))?;
            // It is killed while it leaves, and systemd starts no other: what it owed goes to the next owner.
            node.signal(name, Signal::SIGTERM)?;
            let daemon = pool.parse()?;
            let begun = |t: &wk_rpc::Table| (t.next_slots(daemon) == [0] || t.pool_slots(daemon) == [0]).then_some(());
            tokio::time::timeout(wk_testkit::PATIENCE, node.table().wait_for(begun)).await.context("it does not leave")?;
            node.end(name, Signal::SIGKILL).await?;
            shared(&node, pool, &[]).await?;
            load.flow(200).await.with_context(|| format!("without {name}"))?;
        }
        judge(&load.finish().await?, false)
    };
    let outcome = run.await;
    outcome.map_err(|e: anyhow::Error| e.context(node.story()))
}

/// Waits until the pool's share is slot 0 and these, and nothing moves.
async fn shared(node: &Native, pool: &str, further: &[u16]) -> anyhow::Result<()> {
    let daemon = pool.parse()?;
    let wanted: Vec<u16> = std::iter::once(0).chain(further.iter().copied()).collect();
    let mut table = node.table();
    let wait = table.wait_for(|t| (t.pool_slots(daemon) == wanted && t.next_slots(daemon).is_empty()).then_some(()));
    tokio::time::timeout(wk_testkit::PATIENCE, wait).await.with_context(|| format!("the share of {pool} is not {wanted:?}"))
}
