//! `wkctl analyze`: where the time of the last start went.

use std::io::{self, Write};

use wk_proto::supervisor::v1 as pb;

use super::cli::{AnalyzeView, Output};
use super::patient::Client;
use super::{Failure, json};
use crate::report::{self, ms};

/// Columns of the bars.
const BAR: u64 = 60;
/// The same on a narrow terminal.
const BAR_MIN: u64 = 10;

pub(super) async fn run(mut client: Client, view: AnalyzeView, output: Output) -> Result<u8, Failure> {
    let starts = client.analyze(pb::AnalyzeRequest {}).await?.into_inner().starts;
    let Some(last) = starts.first() else { return Err(Failure::new(3, "no start has completed yet")) };
    let value = || serde_json::Value::Array(starts.iter().map(json::timing).collect());
    let text = match (output, view) {
        (Output::Json, _) => format!("{:#}", value()),
        (Output::Yaml, _) => json::yaml(&value()),
        (Output::Name, _) => last.rows.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join("\n"),
        (Output::Table, AnalyzeView::Table) => {
            let before: Vec<String> = starts.iter().skip(1).map(|s| format!("{} ms", ms(s.total_us))).collect();
            let more = if before.is_empty() { String::new() } else { format!("\nstarts before it: {}", before.join(", ")) };
            format!("{}{more}", report::timing_table(last))
        }
        (Output::Table, AnalyzeView::Blame) => blame(last),
        (Output::Table, AnalyzeView::CriticalChain) => chain(last),
        (Output::Table, AnalyzeView::Plot) => plot(last, super::screen::width()),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(0)
}

fn blame(timing: &pb::Timing) -> String {
    let mut rows: Vec<&pb::TimingRow> = timing.rows.iter().collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.own_us));
    rows.iter().map(|r| format!("{:>10} ms  {}", ms(r.own_us), r.name)).collect::<Vec<_>>().join("\n")
}

fn chain(timing: &pb::Timing) -> String {
    let mut rows: Vec<&pb::TimingRow> = timing.rows.iter().filter(|r| r.critical).collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.ready_at_us));
    let line = |(depth, r): (usize, &&pb::TimingRow)| {
        let indent = if depth == 0 { String::new() } else { format!("{}└─", "  ".repeat(depth - 1)) };
        format!("{indent}{} @{} ms +{} ms", r.name, ms(r.ready_at_us), ms(r.own_us))
    };
    let lines: Vec<String> = rows.iter().enumerate().map(line).collect();
    format!("ready @{} ms; @ is when a component was ready, + what it took itself\n{}", ms(timing.total_us), lines.join("\n"))
}

/// `-` waits, `=` works.
fn plot(timing: &pb::Timing, width: Option<usize>) -> String {
    let widest = timing.rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
    // Name, frame, time and mark take what is left.
    let columns = width.map_or(BAR, |w| u64::try_from(w.saturating_sub(widest + 20)).unwrap_or(BAR).clamp(BAR_MIN, BAR));
    let whole = timing.rows.iter().map(|r| r.ready_at_us).max().unwrap_or(0).max(1);
    let scale = |us: u64| usize::try_from(us * columns / whole).unwrap_or(0);
    let line = |r: &pb::TimingRow| {
        // Exec and initialisation come first, the handshake last, waiting for edges between them.
        let (up, handshake) = (scale(r.exec_us + r.init_us), scale(r.handshake_us).max(1));
        let end = scale(r.ready_at_us).max(1);
        let wait = end.saturating_sub(up + handshake);
        let bar = format!("{}{}{}", "=".repeat(up), "-".repeat(wait), "=".repeat(handshake));
        let mark = if r.critical { " *" } else { "" };
        format!(
            "{:<widest$}  |{bar:<width$}| {:>9} ms{mark}",
            r.name,
            ms(r.ready_at_us),
            width = usize::try_from(columns).unwrap_or(60) + 1
        )
    };
    let mut rows: Vec<&pb::TimingRow> = timing.rows.iter().collect();
    rows.sort_by_key(|r| r.ready_at_us);
    let lines: Vec<String> = rows.into_iter().map(line).collect();
    format!("{}\n= works, - waits for others, * decided the total of {} ms", lines.join("\n"), ms(timing.total_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing() -> pb::Timing {
        let row = |name: &str, init_us, handshake_us, ready_at_us, critical| pb::TimingRow {
            name: name.into(),
            init_us,
            handshake_us,
            ready_at_us,
            own_us: init_us + handshake_us,
            critical,
            ..Default::default()
        };
        let rows = vec![row("cluster@0", 300_000, 1000, 301_000, true), row("api@0", 100_000, 99_000, 400_000, true)];
        pb::Timing { rows, total_us: 400_000, sum_us: 500_000, overhead_us: None }
    }

    #[test]
    fn views_of_a_start() {
        assert!(blame(&timing()).starts_with("     301.0 ms  cluster@0"), "{}", blame(&timing()));
        assert!(chain(&timing()).contains("api@0 @400.0 ms +199.0 ms\n└─cluster@0 @301.0 ms"), "{}", chain(&timing()));
        let narrow = plot(&timing(), Some(60));
        assert!(narrow.lines().take(2).all(|l| l.chars().count() <= 60), "{narrow}");
        let plot = plot(&timing(), None);
        let api = plot.lines().nth(1).unwrap();
        assert!(api.contains("===---") && api.ends_with("400.0 ms *"), "{plot}");
    }
}
