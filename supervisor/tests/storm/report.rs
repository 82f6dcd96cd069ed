//! What a storm says at its end: pauses by fault, counts, violations, the command that repeats it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use crate::check::Findings;
use crate::faults::Repair;
use crate::record::Source;

/// Violations printed of one kind.
const EXAMPLES_MAX: usize = 5;
/// An answer that took longer than this counts as delayed by a fault. Unit: µs.
const DELAYED_US: u64 = 150_000;

/// What clients saw of one fault. Unit: ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause {
    /// Longest time without any acknowledgement at all.
    pub gap_ms: f64,
    /// Longest time one send waited for its answer.
    pub wait_ms: f64,
    /// Until the instance was Ready.
    pub ready_ms: f64,
    /// Until every source got through.
    pub flowing_ms: f64,
    /// Sends open around the fault, and those of them that waited long.
    pub sends: usize,
    pub delayed: usize,
}

/// Computes the pause of a fault from all answers.
pub(crate) fn pause(repair: &Repair, sources: &[Source]) -> Pause {
    let (from, to) = (repair.struck_us, repair.flowing_us);
    let mut acks = vec![from, to];
    let (mut wait, mut sends, mut delayed) = (0, 0, 0);
    for sent in sources.iter().flat_map(|s| &s.sent) {
        let Some(answer) = sent.answers.first() else { continue };
        if (from..=to).contains(&answer.at_us) && answer.success() {
            acks.push(answer.at_us);
        }
        if sent.at_us <= to && answer.at_us >= from {
            let waited = answer.at_us - sent.at_us;
            wait = wait.max(waited);
            sends += 1;
            delayed += usize::from(waited > DELAYED_US);
        }
    }
    acks.sort_unstable();
    let gap = acks.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    let ms = |us: u64| us as f64 / 1000.0;
    Pause { gap_ms: ms(gap), wait_ms: ms(wait), ready_ms: ms(repair.ready_us - from), flowing_ms: ms(to - from), sends, delayed }
}

/// The table of pauses by fault.
pub(crate) fn pauses(repairs: &[Repair], sources: &[Source]) -> String {
    let mut rows: BTreeMap<String, Vec<Pause>> = BTreeMap::new();
    for repair in repairs {
        rows.entry(repair.fault.name()).or_default().push(pause(repair, sources));
    }
    let mut text = format!(
        "{:<34} {:>6} {:>17} {:>17} {:>17} {:>17} {:>9}\n",
        "fault", "rounds", "gap p50/max ms", "wait p50/max ms", "ready p50/max ms", "flow p50/max ms", "delayed"
    );
    for (fault, pauses) in rows {
        let column = |value: fn(&Pause) -> f64| {
            let mut values: Vec<f64> = pauses.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            format!("{:.0} / {:.0}", values[values.len() / 2], values[values.len() - 1])
        };
        let (sends, delayed): (usize, usize) = pauses.iter().fold((0, 0), |(s, d), p| (s + p.sends, d + p.delayed));
        let share = 100.0 * delayed as f64 / sends.max(1) as f64;
        writeln!(
            text,
            "{fault:<34} {:>6} {:>17} {:>17} {:>17} {:>17} {share:>8.0}%",
            pauses.len(),
            column(|p| p.gap_ms),
            column(|p| p.wait_ms),
            column(|p| p.ready_ms),
            column(|p| p.flowing_ms)
        )
        .expect("a String takes everything");
    }
    text
}

/// Number of violations by kind, and the first of each.
pub(crate) fn violations(findings: &Findings) -> String {
    let mut text = String::new();
    for (kind, count) in findings.kinds() {
        writeln!(text, "VIOLATION {kind}: {count}").expect("a String takes everything");
        for violation in findings.violations.iter().filter(|v| v.kind() == kind).take(EXAMPLES_MAX) {
            writeln!(text, "    {violation:?}").expect("a String takes everything");
        }
    }
    text
}

/// Prints past the test harness's capture: the numbers belong to every run, not only to failing ones.
pub(crate) fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}
