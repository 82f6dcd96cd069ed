//! The scenarios: which faults strike which node.

use std::time::Duration;

use wk_config::Env;

use crate::faults::{Fault, Repair, strike};
use crate::plan::{Dice, Plan};
use crate::report;
use crate::storm::Storm;

/// One instance of each daemon that clients must not miss.
const VICTIMS: [&str; 6] = ["worker.user@0", "worker.channel@0", "worker.push@0", "api@0", "plugin-host@0", "cluster@0"];

/// Which run this is; printed by a failing one.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub scenario: &'static str,
    pub seed: u64,
    pub rounds: usize,
}

impl Run {
    /// What repeats this run.
    pub(crate) fn command(&self) -> String {
        let release = Env::process().get("WK_BIN_DIR").is_some_and(|dir| dir.trim_end_matches('/').ends_with("release"));
        let release = if release { " --release" } else { "" };
        format!("cargo xtask storm --seed {} --rounds {} --scenario {}{release}", self.seed, self.rounds, self.scenario)
    }

    /// The faults `all`, each as often as the others, in an order made from the seed.
    fn faults(&self, all: &[Fault], dice: &mut Dice) -> Vec<Fault> {
        let mut faults: Vec<Fault> = all.iter().cycle().take(self.rounds).cloned().collect();
        dice.shuffle(&mut faults);
        faults
    }

    /// Starts a storm, strikes with each fault in turn, and judges.
    pub(crate) async fn strikes(&self, extra: &str, all: &[Fault]) -> anyhow::Result<()> {
        let mut dice = Dice::new(self.seed);
        let storm = self.begin(Plan::new(self.seed), extra).await?;
        let mut repairs = Vec::new();
        let mut broken = None;
        for fault in self.faults(all, &mut dice) {
            match strike(&storm, fault, &mut dice).await {
                Ok(repair) => repairs.push(repair),
                Err(err) => {
                    broken = Some(err);
                    break;
                }
            }
        }
        self.judge(storm, &repairs, broken).await
    }

    async fn begin(&self, plan: Plan, extra: &str) -> anyhow::Result<Storm> {
        Storm::start(plan, self.seed, extra).await.map_err(|e| e.context("the storm could not begin"))
    }

    /// Ends the storm, prints the numbers, and fails with everything one needs to know.
    pub(crate) async fn judge(&self, storm: Storm, repairs: &[Repair], broken: Option<anyhow::Error>) -> anyhow::Result<()> {
        let outcome = match storm.finish().await {
            Ok(outcome) => outcome,
            Err(err) => anyhow::bail!("{}\n{broken:?}\nthe records could not be judged: {err:#}", self.command()),
        };
        let summary = format!(
            "storm {} seed {} rounds {}: {:?}\n{}",
            self.scenario,
            self.seed,
            repairs.len(),
            outcome.findings.counts,
            report::pauses(repairs, &outcome.sources)
        );
        report::say(&summary);
        if broken.is_none() && outcome.findings.violations.is_empty() {
            return Ok(());
        }
        let broken = broken.map(|e| format!("BROKEN: {e:#}\n")).unwrap_or_default();
        let violations = report::violations(&outcome.findings);
        let failure = format!("{summary}{broken}{violations}repeat with: {}", self.command());
        anyhow::bail!("{failure}\nthe node's story:\n{}\n{failure}", outcome.node.story())
    }

    /// `kill -9` of one process of each kind.
    pub(crate) async fn kills(&self) -> anyhow::Result<()> {
        self.strikes("", &VICTIMS.map(Fault::Kill)).await
    }

    /// SIGSTOP instead of `kill -9`.
    pub(crate) async fn hangs(&self) -> anyhow::Result<()> {
        self.strikes("", &VICTIMS.map(Fault::Hang)).await
    }

    /// Two deaths in quick succession along the path, and during a replay.
    pub(crate) async fn doubles(&self) -> anyhow::Result<()> {
        let faults = [
            Fault::Both("worker.user@0", "worker.channel@0"),
            Fault::Both("worker.channel@0", "cluster@0"),
            Fault::Both("worker.push@0", "worker.channel@0"),
            Fault::Both("cluster@0", "worker.user@0"),
            Fault::Twice("worker.user@0"),
            Fault::Twice("worker.channel@0"),
            Fault::Twice("worker.push@0"),
            Fault::Twice("cluster@0"),
        ];
        self.strikes("", &faults).await
    }

    /// Two workers in each pool, one of them killed.
    pub(crate) async fn shares(&self) -> anyhow::Result<()> {
        let faults =
            ["worker.user@0", "worker.channel@1", "worker.push@0", "worker.user@1", "worker.channel@0", "worker.push@1"].map(Fault::Kill);
        self.strikes("workers:\n  user: 2\n  channel: 2\n  push: 2", &faults).await
    }

    /// Pools get more and fewer workers, some of which die meanwhile.
    pub(crate) async fn scale(&self) -> anyhow::Result<()> {
        let faults = [
            Fault::Scale("worker.channel", 4),
            Fault::Scale("worker.user", 3),
            Fault::Scale("worker.push", 4),
            Fault::ScaleAndKill("worker.channel", 2, "worker.channel@0"),
            Fault::ScaleAndKill("worker.user", 1, "worker.user@0"),
            Fault::ScaleAndKill("worker.push", 2, "worker.push@1"),
            Fault::ScaleAndKill("worker.user", 4, "worker.channel@0"),
            Fault::ScaleAndKill("worker.push", 3, "cluster@0"),
            Fault::Scale("worker.channel", 1),
        ];
        self.strikes("", &faults).await
    }

    /// Users come, are kicked and log in on a second device while workers die.
    pub(crate) async fn churn(&self) -> anyhow::Result<()> {
        crate::churn::run(self.seed, self.rounds).await
    }

    /// A message that ends each worker that takes it, for each pool in turn.
    pub(crate) async fn poison(&self) -> anyhow::Result<()> {
        for pool in ["user", "channel", "push"] {
            crate::poison::run(self, pool).await?;
        }
        Ok(())
    }

    /// Bugs that were fixed are put back: the checker sees them.
    pub(crate) async fn bugs(&self) -> anyhow::Result<()> {
        crate::bugs::run(self).await
    }

    /// A member of many groups that never reads: nobody else notices, and memory stays bounded.
    pub(crate) async fn slow_receiver(&self) -> anyhow::Result<()> {
        let mut plan = Plan::new(self.seed);
        plan.add_stuck();
        let storm = self.begin(plan, "limits:\n  outboundBytes: 1MB").await?;
        self.endure(storm, "nobody (slow receiver)", Duration::from_secs(10)).await
    }

    /// Each write of the cluster takes half a second: everything is slow, nothing is lost, and memory stays bounded.
    pub(crate) async fn slow_writes(&self) -> anyhow::Result<()> {
        let env = [("WK_FAULT_WRITE_DELAY_MS", "500")];
        let storm = Storm::start_with_env(Plan::new(self.seed), self.seed, "mode: test", &env).await?;
        self.endure(storm, "nobody (slow writes)", Duration::from_secs(5)).await
    }

    /// The load itself is the fault: a round is a second of it. Every source must get through within `flow`, and no process may grow.
    async fn endure(&self, storm: Storm, nobody: &'static str, flow: Duration) -> anyhow::Result<()> {
        let before = storm.memory().await?;
        let started = storm.field.now_us();
        let mut rounds = tokio::time::interval(Duration::from_secs(1));
        let mut broken = None;
        for _ in 0..=self.rounds {
            rounds.tick().await;
            let now = storm.field.now_us();
            if let Err(sources) = storm.field.flowing(now, flow).await {
                broken = Some(anyhow::anyhow!("sources {sources:?} stand still for {flow:?}"));
                break;
            }
        }
        let after = storm.memory().await?;
        for (name, kib) in after {
            let grown = kib.saturating_sub(before.get(&name).copied().unwrap_or(kib));
            report::say(&format!("{name}: {kib} KiB, {grown} KiB more than before"));
            if grown > GROWN_KIB_MAX && broken.is_none() {
                broken = Some(anyhow::anyhow!("{name} has grown by {grown} KiB"));
            }
        }
        let end = storm.field.now_us();
        let whole = Repair { fault: Fault::Kill(nobody), struck_us: started, ready_us: started, flowing_us: end };
        self.judge(storm, &[whole], broken).await
    }

    /// The backend takes webhooks and never answers, the API dies meanwhile; then it answers again and has everything.
    pub(crate) async fn hanging_sink(&self) -> anyhow::Result<()> {
        let mut dice = Dice::new(self.seed);
        let storm = self.begin(Plan::new(self.seed), "").await?;
        storm.sink.hold(true);
        let mut repairs = Vec::new();
        let mut broken = None;
        for fault in self.faults(&[Fault::Kill("api@0"), Fault::Kill("worker.channel@0")], &mut dice) {
            match strike(&storm, fault, &mut dice).await {
                Ok(repair) => repairs.push(repair),
                Err(err) => {
                    broken = Some(err);
                    break;
                }
            }
        }
        storm.sink.hold(false);
        self.judge(storm, &repairs, broken).await
    }
}

/// A process may grow this much during a bounded run: the bounds of its queues and the allocator's slack. Unit: KiB.
const GROWN_KIB_MAX: u64 = 128 * 1024;
