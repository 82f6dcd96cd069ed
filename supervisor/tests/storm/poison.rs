//! A message that ends every worker that takes it: after two deaths that message alone is refused and kept for people; everything else goes on.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use wk_testkit::client::{Ack, Client, Event, Login};

use crate::plan::Plan;
use crate::scenarios::Run;
use crate::storm::Storm;

/// Who sends the message, and to whom; not among the users of the plan, so the records of the load stay its own.
pub(crate) const POISONER: &str = "poisoner";
const TARGET: &str = "target";
/// What the fault switch looks for.
const MAGIC: &str = "end-this-process";
/// Two deaths, two restarts (the second after a short backoff), and the SEND's own deadline.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);
/// Reason of a message that two workers died of.
const SYSTEM_ERROR: u8 = 15;
/// Deaths of one message.
const DEATHS: u64 = 2;

/// One storm with one poisoned message for a pool.
pub(crate) async fn run(run: &Run, pool: &str) -> anyhow::Result<()> {
    let fault = format!("{pool}:{MAGIC}");
    let env = [("WK_FAULT_ABORT_PAYLOAD", fault.as_str())];
    let storm = Storm::start_with_env(Plan::new(run.seed), run.seed, "mode: test", &env).await?;
    let broken = poison(&storm, pool).await.err();
    run.judge(storm, &[], broken.map(|e| e.context(format!("poison for worker.{pool}")))).await
}

async fn poison(storm: &Storm, pool: &str) -> anyhow::Result<()> {
    let tcp = storm.node.tcp().await?;
    let mut sender = Client::connect(tcp, &Login::new(POISONER)).await?;
    let mut target = Client::connect(tcp, &Login::new(TARGET)).await?;
    let worker = format!("worker.{pool}@0");
    let before = storm.node.instance(&worker).await?.generation;
    let seq = sender.send(TARGET, 1, "poison", format!("{MAGIC} {pool}").as_bytes()).await?;
    let ack = answer(&mut sender, seq).await?;
    // The push worker gets it after it was stored and acknowledged: only its delivery is refused.
    let expected = if pool == "push" { 1 } else { SYSTEM_ERROR };
    ensure!(ack.reason.0 == expected, "the message was answered with reason {}", ack.reason.0);
    let dead = |s: &wk_proto::supervisor::v1::Snapshot| {
        let state = wk_proto::node::v1::State::Ready;
        s.instances.iter().any(|i| i.name == worker && i.generation >= before + DEATHS && i.state() == state)
    };
    storm.node.wait_status("alive after two deaths", dead).await?;
    quarantined(storm).await?;
    // Everything else goes on, also between these two and in this channel.
    let now = storm.field.now_us();
    storm.field.flowing(now, REFUSED_WITHIN).await.map_err(|sources| anyhow::anyhow!("sources {sources:?} stand still"))?;
    let seq = sender.send(TARGET, 1, "harmless", b"harmless").await?;
    let ack = answer(&mut sender, seq).await?;
    ensure!(ack.reason.is_success(), "the next message was answered with reason {}", ack.reason.0);
    let got = target.message().await?;
    ensure!(got.payload == b"harmless", "the target got {got:?}");
    let after = storm.node.instance(&worker).await?.generation;
    ensure!(after == before + DEATHS, "{worker} died {} times", after - before);
    Ok(())
}

async fn answer(client: &mut Client, client_seq: u32) -> anyhow::Result<Ack> {
    let deadline = tokio::time::Instant::now() + REFUSED_WITHIN;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        match client.next_within(left).await?.context("the message was not answered")? {
            Event::Ack(ack) if ack.client_seq == client_seq => return Ok(ack),
            Event::Closed => bail!("the sender of the message was disconnected"),
            _ => {}
        }
    }
}

/// The message, and nothing else, stands in a quarantine file.
async fn quarantined(storm: &Storm) -> anyhow::Result<()> {
    let folder = storm.node.dir().join("data/quarantine");
    let deadline = tokio::time::Instant::now() + REFUSED_WITHIN;
    let mut look = tokio::time::interval(Duration::from_millis(50));
    loop {
        look.tick().await;
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let lines: Vec<String> = files
            .filter_map(|f| std::fs::read_to_string(f.path()).ok())
            .flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        if lines.len() == 1 {
            return Ok(());
        }
        ensure!(lines.is_empty(), "quarantine has {} lines: {lines:?}", lines.len());
        ensure!(tokio::time::Instant::now() < deadline, "nothing came into {}", folder.display());
    }
}
