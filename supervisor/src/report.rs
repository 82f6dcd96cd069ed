//! Tables for people: start, stop. Pure text, shared by the supervisor's foreground output and `wkctl`.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use wk_proto::supervisor::v1 as pb;

/// A table without lines, as `kubectl` prints it.
#[must_use]
pub(crate) fn plain_table(header: &[&str], right_from: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(arrangement(columns(&table)));
    table.set_header(header.iter().copied());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= right_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Width of the terminal; `None`: standard output is none, or one that does not know its width, as a serial console.
fn columns(table: &Table) -> Option<usize> {
    table.width().map(usize::from).filter(|w| *w > 0)
}

/// On a terminal that is too narrow the words of a cell go on in its next line.
fn arrangement(width: Option<usize>) -> ContentArrangement {
    if width.is_some() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled }
}

pub(crate) fn render(table: &Table) -> String {
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Milliseconds with one digit and thousands separators: `1,062.9`.
#[must_use]
pub fn ms(us: u64) -> String {
    let tenths = (us + 50) / 100;
    let whole = (tenths / 10).to_string();
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{text}.{}", tenths % 10)
}

/// Component timing of a start. Unit of all columns: ms.
#[must_use]
pub fn timing_table(timing: &pb::Timing) -> String {
    let text = narrow(timing_rows(timing), TIMING_OPTIONAL, columns(&plain_table(&[], 0)));
    let gain = if timing.sum_us > timing.total_us { percent(timing.sum_us - timing.total_us, timing.sum_us) } else { "0.0%".into() };
    let (total, sum) = (ms(timing.total_us), ms(timing.sum_us));
    let overhead = timing.overhead_us.map_or(String::new(), |us| format!(" · supervisor overhead {} ms", ms(us)));
    format!("{text}\ntotal ready {total} ms · sum of own times {sum} ms · parallel gain {gain}{overhead}")
}

/// Columns of the timing table that a narrow terminal does without, first to go first.
const TIMING_OPTIONAL: &[&str] = &["FORK+EXEC", "SHARE", "INIT", "HANDSHAKE"];

/// Title and cells of each column.
type Columns = Vec<(&'static str, Vec<String>)>;

fn timing_rows(timing: &pb::Timing) -> Columns {
    let column = |title, cell: &dyn Fn(&pb::TimingRow) -> String| (title, timing.rows.iter().map(cell).collect());
    vec![
        column("COMPONENT", &|r| r.name.clone()),
        column("WAIT", &|r| ms(r.wait_us)),
        column("FORK+EXEC", &|r| ms(r.exec_us)),
        column("INIT", &|r| ms(r.init_us)),
        column("HANDSHAKE", &|r| ms(r.handshake_us)),
        column("READY AT", &|r| ms(r.ready_at_us)),
        column("OWN", &|r| ms(r.own_us)),
        column("SHARE", &|r| percent(r.own_us, timing.total_us)),
        column("CRITICAL", &|r| if r.critical { "*".to_owned() } else { String::new() }),
    ]
}

/// A table of names and numbers with as many columns as fit; numbers are never broken.
fn narrow(mut columns: Columns, optional: &[&str], width: Option<usize>) -> String {
    let mut optional = optional.iter();
    loop {
        let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
        let mut table = plain_table(&titles, 1);
        table.set_content_arrangement(ContentArrangement::Disabled);
        for index in 0..columns.first().map_or(0, |(_, cells)| cells.len()) {
            table.add_row(columns.iter().map(|(_, cells)| cells.get(index).cloned().unwrap_or_default()));
        }
        let text = render(&table);
        let fits = text.lines().all(|l| width.is_none_or(|w| l.chars().count() <= w));
        match optional.next() {
            Some(gone) if !fits => columns.retain(|(title, _)| title != gone),
            _ => return text,
        }
    }
}

fn percent(part: u64, whole: u64) -> String {
    let tenths = part.saturating_mul(1000) / whole.max(1);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// How each process went, and what became of the work under way.
#[must_use]
pub fn stop_table(end: &pb::OpEnd) -> String {
    let mut table = plain_table(&["COMPONENT", "OUTCOME", "TOOK MS"], 2);
    for row in &end.stops {
        table.add_row(vec![row.name.clone(), row.outcome.clone(), ms(row.took_us)]);
    }
    let count = |outcome: &str| end.stops.iter().filter(|r| r.outcome == outcome).count();
    let outcomes = format!("clean {} · forced {} · gone {}", count("clean"), count("forced"), count("gone"));
    let left = match end.lost {
        Some(lost) => format!(" · lost {lost} · retry entries {} · pending webhooks {}", end.retry_entries, end.pending_webhooks),
        // Where the rest of the node goes on there is nothing to be counted.
        None if end.partial => String::new(),
        None => " · work under way was not counted".to_owned(),
    };
    format!("{}\n{outcomes}{left}", render(&table))
}

/// The steps of a dry run.
#[must_use]
pub fn plan_table(plan: &pb::PlanReply) -> String {
    let mut table = plain_table(&["STEP", "T+ MS", "ACTION", "BECAUSE"], 4);
    let time = |us: Option<u64>| us.map_or_else(|| "?".to_owned(), ms);
    for (index, step) in plan.steps.iter().enumerate() {
        table.add_row(vec![(index + 1).to_string(), time(step.at_us), step.action.clone(), step.because.clone()]);
    }
    if plan.total_us.is_some() && !plan.steps.is_empty() {
        table.add_row(vec![String::new(), time(plan.total_us), "done".to_owned(), String::new()]);
    }
    let steps = if plan.steps.is_empty() { String::new() } else { format!("{}\n", render(&table)) };
    format!("{steps}{}", plan.summary)
}

/// Everything about the end of an operation but its message.
#[must_use]
pub fn end_text(end: &pb::OpEnd) -> String {
    let mut parts = Vec::new();
    if !end.log_tail.is_empty() {
        parts.push(format!(
            "last log lines of the component:\n{}",
            end.log_tail.iter().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n")
        ));
    }
    if !end.stops.is_empty() {
        parts.push(stop_table(end));
    }
    if let Some(timing) = end.timing.as_ref().filter(|t| !t.rows.is_empty()) {
        parts.push(timing_table(timing));
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_thousands() {
        assert_eq!([ms(0), ms(949), ms(950), ms(1_062_900), ms(12_345_678_900)], ["0.0", "0.9", "1.0", "1,062.9", "12,345,678.9"]);
    }

    #[test]
    fn a_terminal_that_does_not_know_its_width_gets_whole_lines() {
        let width = |columns| {
            let mut table = Table::new();
            table.set_width(columns);
            super::columns(&table)
        };
        assert_eq!([width(0), width(80)], [None, Some(80)]);
        assert!(matches!(arrangement(None), ContentArrangement::Disabled));
        assert!(matches!(arrangement(Some(80)), ContentArrangement::Dynamic));
    }

    #[test]
    fn timing_table_has_totals_and_the_critical_mark() {
        let row =
            |name: &str, own_us, critical| pb::TimingRow { name: name.into(), own_us, ready_at_us: own_us, critical, ..Default::default() };
        let timing = pb::Timing {
            rows: vec![row("cluster@0", 300_000, true), row("api@0", 100_000, false)],
            total_us: 300_000,
            sum_us: 400_000,
            overhead_us: Some(4_100),
        };
        let text = timing_table(&timing);
        assert!(text.contains("total ready 300.0 ms · sum of own times 400.0 ms · parallel gain 25.0%"), "{text}");
        let cluster = text.lines().find(|l| l.starts_with("cluster@0")).unwrap();
        assert!(cluster.ends_with('*') && cluster.contains("100.0%"), "{text}");
        assert!(text.lines().all(|l| l == l.trim_end()), "{text:?}");
    }

    #[test]
    fn a_narrow_timing_table_loses_columns_and_breaks_no_number() {
        let row = pb::TimingRow { name: "worker.channel@0".into(), own_us: 1_234_567, ..Default::default() };
        let timing = pb::Timing { rows: vec![row], total_us: 2_000_000, sum_us: 0, overhead_us: None };
        let titles = |width| narrow(timing_rows(&timing), TIMING_OPTIONAL, width).lines().next().unwrap_or_default().to_owned();
        assert!(titles(None).contains("FORK+EXEC") && titles(Some(75)).contains("SHARE") && !titles(Some(75)).contains("FORK+EXEC"));
        let text = narrow(timing_rows(&timing), TIMING_OPTIONAL, Some(60));
        assert!(text.lines().all(|l| l.chars().count() <= 60) && text.contains("1,234.6"), "{text}");
    }

    #[test]
    fn stop_table_counts() {
        let stop = |name: &str, outcome: &str| pb::StopRow { name: name.into(), outcome: outcome.into(), took_us: 1000 };
        let end =
            pb::OpEnd { stops: vec![stop("a", "clean"), stop("b", "forced"), stop("c", "clean")], lost: Some(3), ..Default::default() };
        assert!(stop_table(&end).ends_with("clean 2 · forced 1 · gone 0 · lost 3 · retry entries 0 · pending webhooks 0"));
        assert!(stop_table(&pb::OpEnd { lost: None, ..end }).ends_with("gone 0 · work under way was not counted"));
    }
}
