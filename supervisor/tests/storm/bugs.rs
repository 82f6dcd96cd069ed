//! Bugs that were fixed are put back one at a time: the checker must see each of them, or a clean run of the other scenarios means nothing.

use anyhow::{Context as _, ensure};

use crate::faults::{Fault, strike};
use crate::plan::{Dice, Plan};
use crate::report;
use crate::scenarios::Run;
use crate::storm::Storm;

/// A bug, the fault that shows it, and what the checker must say.
struct PutBack {
    /// Name for the worker's switch.
    bug: &'static str,
    /// Each synced write takes so much longer. Unit: ms.
    write_delay_ms: &'static str,
    fault: Fault,
    /// The fault strikes so often.
    times: usize,
    kind: &'static str,
}

/// One bug of each kind.
fn bugs() -> [PutBack; 3] {
    [
        // The gateway stands still: what the push worker has made for it dies with the push worker, settled already.
        PutBack {
            bug: "early-settlement",
            write_delay_ms: "0",
            fault: Fault::Behind("gateway@0", "worker.push@0"),
            times: 2,
            kind: "not delivered",
        },
        // Appends of the first life are still being written when the second reads the journal.
        PutBack { bug: "no-fence", write_delay_ms: "500", fault: Fault::Kill("worker.channel@0"), times: 1, kind: "not delivered" },
        // Only the journal knows what was stored while no push worker lived.
        PutBack {
            bug: "no-cursor",
            write_delay_ms: "0",
            fault: Fault::Both("worker.push@0", "worker.channel@0"),
            times: 2,
            kind: "not delivered",
        },
    ]
}

/// One storm for each bug, and one without any under the same faults.
pub(crate) async fn run(run: &Run) -> anyhow::Result<()> {
    for put_back in bugs() {
        let kinds = storm(run, &put_back, put_back.bug).await?;
        ensure!(kinds.contains(&put_back.kind), "bug {} was put back and not seen as \"{}\": {kinds:?}", put_back.bug, put_back.kind);
    }
    for put_back in bugs() {
        let kinds = storm(run, &put_back, "").await?;
        ensure!(kinds.is_empty(), "without bug {} the checker says {kinds:?}", put_back.bug);
    }
    Ok(())
}

/// The kinds of violations that the checker finds.
async fn storm(run: &Run, put_back: &PutBack, bug: &str) -> anyhow::Result<Vec<&'static str>> {
    let mut dice = Dice::new(run.seed);
    let env = [("WK_FAULT_BUG", bug), ("WK_FAULT_WRITE_DELAY_MS", put_back.write_delay_ms)];
    let storm = Storm::start_with_env(Plan::new(run.seed), run.seed, "mode: test", &env).await?;
    for _ in 0..put_back.times {
        strike(&storm, put_back.fault.clone(), &mut dice).await.with_context(|| format!("bug {}", put_back.bug))?;
    }
    let outcome = if bug.is_empty() { storm.finish().await? } else { storm.finish_broken().await? };
    let kinds = outcome.findings.kinds();
    report::say(&format!("storm bugs: {} put back: {}: {kinds:?}", put_back.bug, !bug.is_empty()));
    Ok(kinds.into_iter().map(|(kind, _)| kind).collect())
}
