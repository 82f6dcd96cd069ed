//! Faults at random moments, and the wait until they are repaired.

use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wk_proto::node::v1::State;

use crate::plan::Dice;
use crate::storm::Storm;

/// A process that hangs is found, killed and replaced within this.
pub(crate) const HANG_REPAIRED_WITHIN: Duration = Duration::from_secs(5);
/// After a repair every source must get through again within this: a SEND's own deadline (5 s) and a margin.
const FLOW_WITHIN: Duration = Duration::from_secs(15);
/// Longest time before a fault strikes.
const CALM_MS_MAX: usize = 600;
/// Longest time between two faults that belong together.
const APART_MS_MAX: usize = 150;

/// How long a process stands still in front of one that is killed.
const STOPPED: Duration = Duration::from_millis(800);

/// What is done to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`.
    Kill(&'static str),
    /// SIGSTOP: the process is there and does nothing.
    Hang(&'static str),
    /// `kill -9` of one, then of the other before the first is back.
    Both(&'static str, &'static str),
    /// The first is stopped for a moment; meanwhile the second, which has things for it, is killed.
    Behind(&'static str, &'static str),
    /// `kill -9`, and again while the new generation starts or is being replayed to.
    Twice(&'static str),
    /// Another number of slots, which nobody may notice.
    Scale(&'static str, u16),
    /// The same, and `kill -9` of one while the buckets move.
    ScaleAndKill(&'static str, u16, &'static str),
}

impl Fault {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Kill(a) => format!("kill {a}"),
            Self::Hang(a) => format!("hang {a}"),
            Self::Both(a, b) => format!("kill {a} + {b}"),
            Self::Behind(a, b) => format!("kill {b} behind stopped {a}"),
            Self::Twice(a) => format!("kill {a} twice"),
            Self::Scale(a, slots) => format!("scale {a}={slots}"),
            Self::ScaleAndKill(a, slots, b) => format!("kill {b} during scale {a}={slots}"),
        }
    }
}

/// A fault and its repair, in µs of the run.
#[derive(Debug, Clone)]
pub(crate) struct Repair {
    pub fault: Fault,
    pub struck_us: u64,
    pub ready_us: u64,
    /// Every source has an acknowledgement for something sent after `ready_us`.
    pub flowing_us: u64,
}

/// Strikes after a random calm and waits until the instances are Ready again and every source gets through.
///
/// # Errors
/// The node does not come back, a hang is not repaired in time, or some source gets no acknowledgement any more.
pub(crate) async fn strike(storm: &Storm, fault: Fault, dice: &mut Dice) -> anyhow::Result<Repair> {
    // A random moment of the load is what is wanted here; nothing is waited for.
    tokio::time::sleep(Duration::from_millis(dice.below(CALM_MS_MAX) as u64)).await;
    let field = &storm.field;
    let apart = Duration::from_millis(dice.below(APART_MS_MAX) as u64);
    let struck_us;
    match &fault {
        Fault::Kill(name) => {
            let victim = Victim::find(storm, name).await?;
            struck_us = field.now_us();
            victim.signal(Signal::SIGKILL)?;
            victim.replaced(storm).await?;
        }
        Fault::Hang(name) => {
            let victim = Victim::find(storm, name).await?;
            struck_us = field.now_us();
            victim.signal(Signal::SIGSTOP)?;
            let repaired = victim.replaced(storm).await;
            if repaired.is_err() {
                // Leave nothing stopped behind.
                drop(victim.signal(Signal::SIGCONT));
            }
            repaired?;
        }
        Fault::Both(first, second) => {
            let (first, second) = (Victim::find(storm, first).await?, Victim::find(storm, second).await?);
            struck_us = field.now_us();
            first.signal(Signal::SIGKILL)?;
            tokio::time::sleep(apart).await;
            second.signal(Signal::SIGKILL)?;
            first.replaced(storm).await?;
            second.replaced(storm).await?;
        }
        Fault::Behind(front, name) => {
            let (front, victim) = (Victim::find(storm, front).await?, Victim::find(storm, name).await?);
            front.signal(Signal::SIGSTOP)?;
            // What is wanted is that things pile up in front of it; not so long that it counts as hanging.
            tokio::time::sleep(STOPPED).await;
            struck_us = field.now_us();
            let killed = victim.signal(Signal::SIGKILL);
            front.signal(Signal::SIGCONT)?;
            killed?;
            victim.replaced(storm).await?;
        }
        Fault::Twice(name) => {
            let victim = Victim::find(storm, name).await?;
            struck_us = field.now_us();
            victim.signal(Signal::SIGKILL)?;
            let next = victim.spawned(storm).await?;
            tokio::time::sleep(apart).await;
            next.signal(Signal::SIGKILL)?;
            next.replaced(storm).await?;
        }
        Fault::Scale(pool, slots) => {
            struck_us = field.now_us();
            scale(storm, pool, *slots).await?;
        }
        Fault::ScaleAndKill(pool, slots, name) => {
            struck_us = field.now_us();
            tokio::join!(scale(storm, pool, *slots), kill_after(storm, name, apart)).0?;
        }
    }
    let ready_us = field.now_us();
    let repaired = Duration::from_micros(ready_us - struck_us);
    if let Err(sources) = field.flowing(ready_us, FLOW_WITHIN).await {
        bail!("{}: ready after {repaired:?}, but {FLOW_WITHIN:?} later no acknowledgement for sources {sources:?}", fault.name());
    }
    let flowing_us = field.now_us();
    // The operator's word that these crashes are accounted for: the next one is a first one again and restarts without delay.
    storm.node.must_wkctl(&["start"]).await?;
    let late = matches!(fault, Fault::Hang(_)) && repaired > HANG_REPAIRED_WITHIN;
    anyhow::ensure!(!late, "{}: repaired only after {repaired:?}", fault.name());
    Ok(Repair { fault, struck_us, ready_us, flowing_us })
}

async fn scale(storm: &Storm, pool: &str, slots: u16) -> anyhow::Result<()> {
    storm.node.must_wkctl(&["scale", &format!("{pool}={slots}")]).await.map(drop)
}

/// Kills an instance a moment later, if it is there then.
async fn kill_after(storm: &Storm, name: &str, pause: Duration) {
    tokio::time::sleep(pause).await;
    if let Ok(victim) = Victim::find(storm, name).await {
        drop(victim.signal(Signal::SIGKILL));
    }
}

/// One generation of an instance.
#[derive(Debug, Clone)]
struct Victim {
    name: String,
    pid: i32,
    generation: u64,
}

impl Victim {
    async fn find(storm: &Storm, name: &str) -> anyhow::Result<Self> {
        let found = storm.node.instance(name).await?;
        anyhow::ensure!(found.pid != 0, "{name} does not run: {}", found.why);
        Ok(Self { name: name.to_owned(), pid: i32::try_from(found.pid)?, generation: found.generation })
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("{signal} to {} ({})", self.name, self.pid))
    }

    /// Waits for a later generation that is Ready.
    async fn replaced(&self, storm: &Storm) -> anyhow::Result<()> {
        let back = |i: &wk_proto::supervisor::v1::InstanceStatus| {
            i.name == self.name && i.generation > self.generation && i.state() == State::Ready
        };
        let what = format!("repaired: {} after generation {}", self.name, self.generation);
        storm.node.wait_status(&what, |s| s.instances.iter().any(back)).await.map(drop)
    }

    /// Waits for a later generation that has a process.
    async fn spawned(&self, storm: &Storm) -> anyhow::Result<Self> {
        let next = |i: &&wk_proto::supervisor::v1::InstanceStatus| i.name == self.name && i.generation > self.generation && i.pid != 0;
        let what = format!("starting {} after generation {}", self.name, self.generation);
        let status = storm.node.wait_status(&what, |s| s.instances.iter().any(|i| next(&i))).await?;
        let found = status.instances.iter().find(next).context("just seen")?;
        Ok(Self { name: self.name.clone(), pid: i32::try_from(found.pid)?, generation: found.generation })
    }
}
