//! The status table for people: short, aligned, a reason for whatever is not ready.

use std::collections::BTreeMap;

use comfy_table::Cell;
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;

use super::json::state_name;
use super::screen;
use super::text::{age, bytes, of_limit};
use crate::console::Paint;
use crate::report::{plain_table, render};

/// How a table is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) paint: Paint,
    /// All columns, reasons uncut.
    pub(super) wide: bool,
    /// Of the terminal; `None`: no terminal, nothing is cut.
    pub(super) width: Option<usize>,
}

/// Columns that a narrow terminal does without, first to go first. From `WHY` on, reasons stand below their lines.
const OPTIONAL: [&str; 7] = ["FDS", "CPU", "MEM", "WHY", "UP", "PID", "RESTARTS"];
const COLUMNS: [&str; 10] = ["NAME", "STATE", "READY", "PID", "UP", "RESTARTS", "CPU", "MEM", "FDS", "WHY"];
const WIDE: [&str; 11] = ["NAME", "STATE", "READY", "PID", "GEN", "UP", "RESTARTS", "CPU", "MEM", "FDS", "WHY"];
/// Of a live view, with one line for each instance: what it is for goes last.
const FLAT: [&str; 9] = ["NAME", "STATE", "PID", "UP", "RESTARTS", "CPU", "MEM", "FDS", "WHY"];
const FLAT_OPTIONAL: [&str; 7] = ["FDS", "UP", "PID", "WHY", "RESTARTS", "MEM", "CPU"];
/// Before a reason below its line.
const BELOW: &str = "     ↳ ";
/// What such lines begin with, and no others.
const BELOW_INDENT: &str = "     ";

/// Processor use by instance, in tenths of a percent; what is missing is shown as the mean of its life.
pub(super) type Rates = BTreeMap<String, u64>;

/// The line above the table, addresses, overrides, operations.
pub(super) fn head(snapshot: &pb::Snapshot, look: Look) -> String {
    let paint = look.paint;
    let ready = snapshot.instances.iter().filter(|i| i.state() == State::Ready).count();
    let overall = match snapshot.overall.as_str() {
        "ready" => paint.good("● ready"),
        "degraded" => paint.warn("◐ degraded"),
        other => paint.warn(&format!("○ {other}")),
    };
    let pending = snapshot.instances.iter().filter(|i| !i.pending_restart.is_empty()).count();
    let pending = if pending == 0 { String::new() } else { format!(" ({pending} pending restart)") };
    let adopted = snapshot.instances.iter().filter(|i| i.adopted).count();
    let adopted = if adopted == 0 { String::new() } else { format!(" (adopted {adopted})") };
    let parts = [
        format!("{}  {overall}", paint.strong("wukongim")),
        format!("{ready}/{} ready", snapshot.instances.len()),
        format!("node {}", snapshot.node_id),
        format!("up {}", age(snapshot.up_ms)),
        format!("supervisor {}{adopted}", snapshot.supervisor_pid),
        format!("config {}{pending}", snapshot.config_hash),
    ];
    let mut line = screen::fill(&parts, "   ", "  ", look.width);
    for address in &snapshot.addresses {
        line.push_str(&format!("\n  {address}"));
    }
    if look.wide && !snapshot.containment.is_empty() {
        line.push_str(&format!("\n  {}", snapshot.containment));
    }
    if !snapshot.config_refused.is_empty() {
        let words: Vec<String> = snapshot.config_refused.split(' ').map(|word| paint.warn(word)).collect();
        line.push_str(&format!("\n  {}", screen::fill(&words, " ", "    ", look.width.map(|w| w.saturating_sub(2)))));
    }
    if !snapshot.waiting_keys.is_empty() {
        line.push_str(&format!("\n  with the next start of the supervisor: {}", snapshot.waiting_keys.join(", ")));
    }
    for o in &snapshot.overrides {
        line.push_str(&format!("\n  override: {}={} by command, the configuration says {}", o.daemon, o.slots, o.configured));
    }
    for o in &snapshot.ops {
        let names = if o.names.is_empty() { "everything".to_owned() } else { o.names.join(" ") };
        let by = if o.held_up_by.is_empty() { String::new() } else { format!(": {}", o.held_up_by.join(" · ")) };
        line.push_str(&format!("\n  operation {} {}: {} {names}, {}{by}", o.op, o.state, o.kind, age(o.age_ms)));
    }
    line
}

/// Pools as trees.
pub(super) fn table(snapshot: &pb::Snapshot, look: Look, rates: &Rates) -> String {
    let columns: &[&str] = if look.wide { &WIDE } else { &COLUMNS };
    draw(&rows(snapshot, rates), look, columns, &OPTIONAL)
}

/// One line per instance, in the order given.
pub(super) fn flat(snapshot: &pb::Snapshot, look: Look, rates: &Rates) -> String {
    let rows: Vec<Row> = snapshot.instances.iter().map(|i| row(i, i.name.clone(), rates)).collect();
    draw(&rows, look, &FLAT, &FLAT_OPTIONAL)
}

fn draw(rows: &[Row], look: Look, columns: &[&'static str], optional: &[&'static str]) -> String {
    let dropped_max = if look.wide { 0 } else { optional.len() };
    let width = look.width.filter(|_| !look.wide).unwrap_or(usize::MAX);
    let mut lines = Vec::new();
    for dropped in 0..=dropped_max {
        let gone: Vec<&str> = optional.iter().copied().take(dropped).collect();
        let shown: Vec<&str> = columns.iter().copied().filter(|c| !gone.contains(c)).collect();
        let mut table = plain_table(&shown, columns.len());
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        for row in rows {
            table.add_row(shown.iter().map(|c| Cell::new(row.get(c).map_or("", String::as_str))));
        }
        lines = render(&table).lines().map(str::to_owned).collect();
        let fits = lines.iter().all(|l| l.chars().count() <= width);
        if gone.contains(&"WHY") {
            lines = with_reasons_below(lines, rows, width);
        }
        if fits {
            break;
        }
    }
    lines.iter().map(|l| colour(&screen::fit(l, width), look.paint)).collect::<Vec<_>>().join("\n")
}

/// Each reason in lines of its own, whole: on a narrow terminal it is what somebody came for.
fn with_reasons_below(lines: Vec<String>, rows: &[Row], width: usize) -> Vec<String> {
    let mut lines = lines.into_iter();
    let mut all: Vec<String> = lines.next().into_iter().collect();
    for (line, row) in lines.zip(rows) {
        all.push(line);
        if let Some(why) = row.get("WHY").filter(|w| !w.is_empty()) {
            let (words, indent): (Vec<String>, usize) = (why.split(' ').map(str::to_owned).collect(), BELOW.chars().count());
            let text = screen::fill(&words, " ", "", Some(width.saturating_sub(indent)));
            let begin = std::iter::once(BELOW.to_owned()).chain(std::iter::repeat(" ".repeat(indent)));
            all.extend(begin.zip(text.lines()).map(|(begin, line)| format!("{begin}{line}")));
        }
    }
    all
}

/// The state is a word as well, so colour carries nothing alone. Reasons below their lines stay plain.
fn colour(line: &str, paint: Paint) -> String {
    let painted = |word: &str| match word {
        "ready" => Some(paint.good(word)),
        "failed" | "backoff" | "blocked" | "stuck" => Some(paint.bad(word)),
        "waiting" | "spawning" | "starting" | "degraded" | "suspect" | "draining" | "stopping" => Some(paint.warn(word)),
        _ => None,
    };
    let reason = line.starts_with(BELOW_INDENT);
    let found = line.split_whitespace().find_map(|word| Some((word, painted(word)?)));
    found.filter(|_| paint.on && !reason).map_or_else(|| line.to_owned(), |(word, painted)| line.replacen(word, &painted, 1))
}

type Row = BTreeMap<&'static str, String>;

fn rows(snapshot: &pb::Snapshot, rates: &Rates) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rest = snapshot.instances.as_slice();
    while let Some(first) = rest.first() {
        let daemon = daemon_of(&first.name);
        let count = rest.iter().take_while(|i| daemon_of(&i.name) == daemon).count();
        let (group, next) = rest.split_at(count);
        rest = next;
        if count == 1 {
            let ready = if first.state() == State::Ready { "1/1" } else { "0/1" };
            rows.push(row(first, daemon.to_owned(), rates).into_iter().chain([("READY", ready.to_owned())]).collect());
            rows.extend(parts(first));
        } else {
            rows.push(pool(daemon, group));
            for (index, instance) in group.iter().enumerate() {
                let branch = if index + 1 == count { "└" } else { "├" };
                rows.push(row(instance, format!(" {branch} {}", instance.name), rates));
                rows.extend(parts(instance));
            }
        }
    }
    rows
}

/// Components of an instance.
fn parts(instance: &pb::InstanceStatus) -> Vec<Row> {
    let state = |serving: bool| if serving { "serving" } else { "not serving" }.to_owned();
    let part = |c: &pb::Component| Row::from([("NAME", format!("   · {}", c.name)), ("STATE", state(c.serving))]);
    instance.components.iter().map(part).collect()
}

fn pool(daemon: &str, group: &[pb::InstanceStatus]) -> Row {
    let ready = group.iter().filter(|i| i.state() == State::Ready).count();
    let restarts: u32 = group.iter().map(|i| i.restarts).sum();
    let last = group.iter().filter(|i| i.restarts > 0).map(|i| i.last_restart_ms_ago).min();
    // One word for a pool: the state of all its processes where they agree.
    let state = match group {
        [first, rest @ ..] if rest.iter().all(|i| i.state == first.state) => state_name(first.state),
        _ => "degraded".to_owned(),
    };
    let why = match (group.iter().map(reason).reduce(|one, other| if one == other { one } else { String::new() }), ready) {
        (_, ready) if ready == group.len() => String::new(),
        // What holds for all of them is said once.
        (Some(shared), 0) if !shared.is_empty() => shared,
        _ => format!("{} of {} not ready", group.len() - ready, group.len()),
    };
    Row::from([
        ("NAME", daemon.to_owned()),
        ("STATE", state),
        ("READY", format!("{ready}/{}", group.len())),
        ("RESTARTS", restarts_text(restarts, last.unwrap_or(0))),
        ("WHY", why),
    ])
}

fn daemon_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(daemon, _)| daemon)
}

fn restarts_text(count: u32, ago_ms: u64) -> String {
    match count {
        0 => "0".to_owned(),
        n => format!("{n} ({} ago)", age(ago_ms)),
    }
}

/// What is to be said about an instance: why it is not ready, and what is special about one that is.
pub(super) fn reason(i: &pb::InstanceStatus) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend((!i.why.is_empty()).then(|| i.why.clone()));
    parts.extend((i.crash_loop && !i.why.contains("crash loop")).then(|| "crash loop".to_owned()));
    parts.extend((i.held && !i.why.contains("held")).then(|| "held by an operator".to_owned()));
    if !i.pending_restart.is_empty() {
        parts.push(format!("pending restart: {} changed", i.pending_restart.join(" and ")));
    }
    parts.join("; ")
}

fn row(i: &pb::InstanceStatus, name: String, rates: &Rates) -> Row {
    let live = i.pid != 0;
    let or_dash = |text: String| if live { text } else { "–".to_owned() };
    let cpu = rates.get(&i.name).copied().unwrap_or(i.cpu_ms.saturating_mul(1000) / i.up_ms.max(1));
    let fds = of_limit(i.open_fds, i.fds_max);
    Row::from([
        ("NAME", name),
        ("STATE", state_name(i.state)),
        ("PID", or_dash(i.pid.to_string())),
        ("GEN", i.generation.to_string()),
        ("UP", or_dash(age(i.up_ms))),
        ("RESTARTS", restarts_text(i.restarts, i.last_restart_ms_ago)),
        ("CPU", or_dash(format!("{}.{}%", cpu / 10, cpu % 10))),
        ("MEM", or_dash(bytes(i.memory_bytes))),
        ("FDS", or_dash(fds)),
        ("WHY", reason(i)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::json;

    fn look(width: Option<usize>) -> Look {
        Look { paint: Paint { on: false }, wide: false, width }
    }

    fn snapshot() -> pb::Snapshot {
        let instance = |name: &str, state: State, pid, why: &str| pb::InstanceStatus {
            name: name.into(),
            state: state.into(),
            pid,
            why: why.into(),
            up_ms: 65_000,
            open_fds: 12,
            fds_max: 1024,
            generation: 2,
            ..Default::default()
        };
        let mut crashed = instance("worker.user@1", State::Backoff, 0, "exit 1; next try in 6.4 s");
        (crashed.restarts, crashed.last_restart_ms_ago) = (7, 12_000);
        let mut cluster = instance("cluster@0", State::Ready, 7, "");
        (cluster.pending_restart, cluster.adopted) = (vec!["binary".into()], true);
        pb::Snapshot {
            overall: "degraded".into(),
            instances: vec![cluster, instance("worker.user@0", State::Ready, 8, ""), crashed],
            overrides: vec![pb::Override { daemon: "worker.user".into(), slots: 2, configured: 1 }],
            ..Default::default()
        }
    }

    #[test]
    fn table_shows_pools_as_trees_and_reasons() {
        let text = table(&snapshot(), look(None), &Rates::new());
        assert!(text.lines().any(|l| l.starts_with("worker.user ") && l.contains("degraded  1/2") && l.contains("7 (12s ago)")), "{text}");
        assert!(text.contains(" └ worker.user@1") && text.contains("exit 1; next try in 6.4 s"), "{text}");
        assert!(text.lines().nth(1).is_some_and(|l| l.starts_with("cluster ") && l.contains("1m5s")), "{text}");
        assert!(text.contains("pending restart: binary changed"), "{text}");
        assert!(head(&snapshot(), look(None)).contains("override: worker.user=2 by command, the configuration says 1"));
    }

    #[test]
    fn a_narrow_terminal_loses_columns_in_order_and_no_reasons() {
        let full = table(&snapshot(), look(None), &Rates::new());
        let widest = full.lines().map(|l| l.chars().count()).max().unwrap();
        let shown = |width: usize| table(&snapshot(), look(Some(width)), &Rates::new()).lines().next().unwrap().to_owned();
        assert!(shown(widest).contains("FDS"));
        let mut gone: Vec<&str> = Vec::new();
        for width in (20..widest).rev() {
            let header = shown(width);
            gone.extend(OPTIONAL.iter().filter(|c| !header.split(' ').any(|h| h == **c) && !gone.contains(c)).collect::<Vec<_>>());
        }
        assert_eq!(gone, OPTIONAL, "in this order");
        for width in [40, 60, 80] {
            let narrow = table(&snapshot(), look(Some(width)), &Rates::new());
            assert!(narrow.lines().all(|l| l.chars().count() <= width), "{narrow}");
            let words: Vec<&str> = narrow.split_whitespace().collect();
            assert!(words.join(" ").contains("exit 1; next try in 6.4 s"), "no reason is lost: {narrow}");
        }
    }

    #[test]
    fn wide_has_generations_and_limits() {
        let text = table(&snapshot(), Look { wide: true, ..look(Some(20)) }, &Rates::new());
        assert!(text.contains("GEN") && text.contains("12/1024"), "{text}");
    }

    #[test]
    fn a_live_view_keeps_the_use_of_the_processor() {
        let shown = |width| flat(&snapshot(), look(Some(width)), &Rates::new()).lines().next().unwrap_or_default().to_owned();
        assert!(shown(60).contains("CPU") && !shown(60).contains("FDS") && !shown(200).contains("READY"), "{}", shown(60));
    }

    #[test]
    fn components_stand_below_their_instance() {
        let mut s = snapshot();
        s.instances[1].components = vec![pb::Component { name: "wk.part".into(), serving: true }];
        let text = table(&s, look(None), &Rates::new());
        let at = |part: &str| text.find(part).unwrap();
        assert!(at("worker.user@0") < at("· wk.part") && at("· wk.part") < at("worker.user@1"), "{text}");
    }

    #[test]
    fn a_stopped_pool_is_down() {
        let mut s = snapshot();
        s.instances.iter_mut().for_each(|i| i.set_state(State::Down));
        let text = table(&s, look(None), &Rates::new());
        let pool = |text: &str| text.lines().find(|l| l.starts_with("worker.user ")).unwrap().to_owned();
        assert!(pool(&text).contains("down   0/2") && pool(&text).ends_with("2 of 2 not ready"), "{text}");
        s.instances.iter_mut().for_each(|i| (i.why, i.restarts) = ("not wanted".into(), 0));
        let text = table(&s, look(None), &Rates::new());
        assert!(pool(&text).ends_with("not wanted"), "{text}");
    }

    #[test]
    fn colours_only_the_state_word() {
        let line = colour("cluster  ready  7", Paint { on: true });
        assert_eq!(line, "cluster  \x1b[32mready\x1b[0m  7");
        assert_eq!(colour("cluster  ready  7", Paint { on: false }), "cluster  ready  7");
        assert_eq!(
            colour("worker  degraded  1/2  1 of 2 not ready", Paint { on: true }),
            "worker  \x1b[33mdegraded\x1b[0m  1/2  1 of 2 not ready"
        );
        assert_eq!(colour("     ↳ 2 of 2 not ready", Paint { on: true }), "     ↳ 2 of 2 not ready");
    }

    /// All that `older` says stands in `newer`.
    fn keeps(older: &serde_json::Value, newer: &serde_json::Value) -> bool {
        use serde_json::Value::{Array, Object};
        match (older, newer) {
            (Object(older), Object(newer)) => older.iter().all(|(key, value)| newer.get(key).is_some_and(|n| keeps(value, n))),
            (Array(older), Array(newer)) => older.len() == newer.len() && older.iter().zip(newer).all(|(o, n)| keeps(o, n)),
            (older, newer) => older == newer,
        }
    }

    /// The schema for machines is held in place by files that are never edited: fields are added in a new file beside them.
    #[test]
    fn json_follows_the_golden_schema() {
        let golden = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let first = golden(include_str!("../../testdata/status/v1.json"));
        let second = golden(include_str!("../../testdata/status/v1.1.json"));
        let latest = golden(include_str!("../../testdata/status/v1.2.json"));
        let mut s = snapshot();
        s.ops =
            vec![pb::OpSummary { op: 3, kind: "roll".into(), names: vec!["api".into()], state: "running".into(), ..Default::default() }];
        s.timing = Some(pb::Timing { rows: vec![pb::TimingRow { name: "cluster@0".into(), ..Default::default() }], ..Default::default() });
        s.instances[0].components = vec![pb::Component { name: "wk.part".into(), serving: true }];
        assert_eq!(json::status(&s), latest, "{:#}", json::status(&s));
        assert!(keeps(&first, &second) && keeps(&second, &latest), "a field of an earlier form is gone");
    }
}
