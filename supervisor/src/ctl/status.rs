//! `wkctl status`: table, JSON, names.

use std::io::{self, IsTerminal, Write};

use comfy_table::Cell;
use serde_json::json;
use tonic::transport::Channel;
use wk_config::Env;
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use super::{Failure, Output};
use crate::console::Paint;
use crate::report::{plain_table, render};

/// What to show.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) names: Vec<String>,
    pub(super) watch: bool,
    pub(super) deep: bool,
    pub(super) output: Output,
}

pub(super) async fn run(mut client: SupervisorClient<Channel>, ask: Ask, env: &Env) -> Result<u8, Failure> {
    let terminal = io::stdout().is_terminal();
    let paint = Paint { on: terminal && env.get("NO_COLOR").is_none_or(str::is_empty) };
    let request = pb::StatusRequest { names: ask.names.clone(), deep: ask.deep };
    if !ask.watch {
        let snapshot = client.status(request).await?.into_inner();
        unknown_name(&ask.names, &snapshot)?;
        print(&snapshot, &ask, paint)?;
        return Ok(code(&snapshot, !ask.names.is_empty()));
    }
    let mut stream = client.watch_status(request.clone()).await?.into_inner();
    let mut last = String::new();
    let mut result = 0;
    while let Some(mut snapshot) = stream.message().await? {
        unknown_name(&ask.names, &snapshot)?;
        if ask.deep {
            snapshot = client.status(request.clone()).await?.into_inner();
        }
        result = code(&snapshot, !ask.names.is_empty());
        let text = text(&snapshot, &ask, paint);
        if text != last {
            let clear = if terminal { "\x1b[H\x1b[2J" } else { "" };
            writeln!(io::stdout(), "{clear}{text}")?;
            last = text;
        }
    }
    Ok(result)
}

fn unknown_name(names: &[String], snapshot: &pb::Snapshot) -> Result<(), Failure> {
    if !names.is_empty() && snapshot.instances.is_empty() {
        return Err(Failure::new(4, format!("no daemon or instance {}", names.join(", "))));
    }
    Ok(())
}

/// 0: everything wanted is Ready; 1: something is not; 3: nothing runs.
fn code(snapshot: &pb::Snapshot, named: bool) -> u8 {
    let all = |state: State| snapshot.instances.iter().all(|i| i.state() == state);
    match snapshot.overall.as_str() {
        _ if all(State::Down) => 3,
        _ if named && all(State::Ready) => 0,
        "ready" => 0,
        _ => 1,
    }
}

fn print(snapshot: &pb::Snapshot, ask: &Ask, paint: Paint) -> io::Result<()> {
    writeln!(io::stdout(), "{}", text(snapshot, ask, paint))
}

fn text(snapshot: &pb::Snapshot, ask: &Ask, paint: Paint) -> String {
    match ask.output {
        Output::Json => format!("{:#}", to_json(snapshot)),
        Output::Name => snapshot.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join("\n"),
        Output::Table => format!("{}\n\n{}", head(snapshot, paint), table(snapshot, paint)),
    }
}

fn head(snapshot: &pb::Snapshot, paint: Paint) -> String {
    let ready = snapshot.instances.iter().filter(|i| i.state() == State::Ready).count();
    let overall = match snapshot.overall.as_str() {
        "ready" => paint.good("● ready"),
        "degraded" => paint.warn("● degraded"),
        other => paint.warn(&format!("○ {other}")),
    };
    let mut line = format!(
        "{}  {overall}   {ready}/{} ready   node {}   up {}   supervisor {}   config {}",
        paint.strong("wukongim"),
        snapshot.instances.len(),
        snapshot.node_id,
        age(snapshot.up_ms),
        snapshot.supervisor_pid,
        snapshot.config_hash
    );
    for address in &snapshot.addresses {
        line.push_str(&format!("\n  {address}"));
    }
    line
}

/// Columns that a narrow terminal does without, first to go first.
const OPTIONAL: [&str; 3] = ["FDS", "CPU", "MEM"];
const COLUMNS: [&str; 9] = ["NAME", "STATE", "PID", "UP", "RESTARTS", "CPU", "MEM", "FDS", "WHY"];

fn table(snapshot: &pb::Snapshot, paint: Paint) -> String {
    let mut text = String::new();
    for dropped in 0..=OPTIONAL.len() {
        let shown: Vec<&str> = COLUMNS.into_iter().filter(|c| !OPTIONAL.iter().take(dropped).any(|o| o == c)).collect();
        let mut table = plain_table(&shown, COLUMNS.len());
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        let width = table.width().map_or(usize::MAX, usize::from);
        for row in rows(snapshot) {
            table.add_row(shown.iter().map(|c| Cell::new(row.get(c).map_or("", String::as_str))));
        }
        text = render(&table);
        if text.lines().all(|l| l.chars().count() <= width) {
            break;
        }
    }
    text.lines().map(|l| colour(l, paint)).collect::<Vec<_>>().join("\n")
}

/// The state is a word as well, so colour carries nothing alone.
fn colour(line: &str, paint: Paint) -> String {
    let word = line.split_whitespace().find_map(|w| match w {
        "ready" => Some(paint.good(w)),
        "failed" | "backoff" | "blocked" | "stuck" => Some(paint.bad(w)),
        "waiting" | "spawning" | "starting" | "degraded" | "suspect" | "draining" | "stopping" => Some(paint.warn(w)),
        _ => None,
    });
    let plain = line.split_whitespace().find(|w| word.as_ref().is_some_and(|p| p.contains(w)));
    match (word, plain) {
        (Some(word), Some(plain)) if paint.on => line.replacen(plain, &word, 1),
        _ => line.to_owned(),
    }
}

type Row = std::collections::BTreeMap<&'static str, String>;

fn rows(snapshot: &pb::Snapshot) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut rest = snapshot.instances.as_slice();
    while let Some(first) = rest.first() {
        let daemon = daemon_of(&first.name);
        let count = rest.iter().take_while(|i| daemon_of(&i.name) == daemon).count();
        let (group, next) = rest.split_at(count);
        rest = next;
        if count == 1 {
            rows.push(row(first, daemon.to_owned()));
        } else {
            let ready = group.iter().filter(|i| i.state() == State::Ready).count();
            let state = pool_state(group);
            let restarts: u32 = group.iter().map(|i| i.restarts).sum();
            let state = format!("{state} {ready}/{count}");
            rows.push(Row::from([("NAME", daemon.to_owned()), ("STATE", state), ("RESTARTS", restarts.to_string())]));
            for (index, instance) in group.iter().enumerate() {
                let branch = if index + 1 == count { "└" } else { "├" };
                rows.push(row(instance, format!(" {branch} {}", instance.name)));
            }
        }
        for instance in group {
            for part in &instance.components {
                let state = if part.serving { "serving" } else { "not serving" };
                rows.push(Row::from([("NAME", format!("   · {}", part.name)), ("STATE", state.to_owned())]));
            }
        }
    }
    rows
}

/// One word for a pool: the state of all its processes where they agree.
fn pool_state(group: &[pb::InstanceStatus]) -> String {
    match group {
        [first, rest @ ..] if rest.iter().all(|i| i.state() == first.state()) => state_name(first.state()),
        _ => "degraded".to_owned(),
    }
}

fn daemon_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(daemon, _)| daemon)
}

fn row(i: &pb::InstanceStatus, name: String) -> Row {
    let live = i.pid != 0;
    let or_dash = |text: String| if live { text } else { "–".to_owned() };
    let restarts = match (i.restarts, i.last_restart_ms_ago) {
        (0, _) => "0".to_owned(),
        (n, ago) => format!("{n} ({} ago)", age(ago)),
    };
    let cpu = i.cpu_ms.saturating_mul(1000) / i.up_ms.max(1);
    Row::from([
        ("NAME", name),
        ("STATE", state_name(i.state())),
        ("PID", or_dash(i.pid.to_string())),
        ("UP", or_dash(age(i.up_ms))),
        ("RESTARTS", restarts),
        ("CPU", or_dash(format!("{}.{}%", cpu / 10, cpu % 10))),
        ("MEM", or_dash(bytes(i.memory_bytes))),
        ("FDS", or_dash(i.open_fds.to_string())),
        ("WHY", i.why.clone()),
    ])
}

fn state_name(state: State) -> String {
    state.as_str_name().trim_start_matches("STATE_").to_ascii_lowercase()
}

/// `3d4h`, `5m3s`, `12s`, `340ms`.
fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86400, s % 86400 / 3600),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..1_048_576 => format!("{}K", n >> 10),
        1_048_576..10_737_418_240 => format!("{}M", n >> 20),
        _ => format!("{}G", n >> 30),
    }
}

fn to_json(snapshot: &pb::Snapshot) -> serde_json::Value {
    let instances: Vec<serde_json::Value> = snapshot
        .instances
        .iter()
        .map(|i| {
            json!({
                "name": i.name, "state": state_name(i.state()), "pid": i.pid, "generation": i.generation, "up_ms": i.up_ms,
                "restarts": i.restarts, "last_restart_ms_ago": i.last_restart_ms_ago, "why": i.why, "cpu_ms": i.cpu_ms,
                "memory_bytes": i.memory_bytes, "open_fds": i.open_fds, "crash_loop": i.crash_loop,
                "components": i.components.iter().map(|c| json!({"name": c.name, "serving": c.serving})).collect::<Vec<_>>(),
            })
        })
        .collect();
    let timing = snapshot.timing.as_ref().map(|t| {
        let rows = t.rows.iter().map(|r| {
            json!({
                "name": r.name, "wait_us": r.wait_us, "exec_us": r.exec_us, "init_us": r.init_us, "handshake_us": r.handshake_us,
                "ready_at_us": r.ready_at_us, "own_us": r.own_us, "critical": r.critical,
            })
        });
        json!({ "total_us": t.total_us, "sum_us": t.sum_us, "rows": rows.collect::<Vec<_>>() })
    });
    json!({
        "node_id": snapshot.node_id, "supervisor_pid": snapshot.supervisor_pid, "overall": snapshot.overall,
        "admitted": snapshot.admitted, "up_ms": snapshot.up_ms, "epoch": snapshot.epoch, "config_hash": snapshot.config_hash,
        "addresses": snapshot.addresses, "data_dir": snapshot.data_dir, "runtime_dir": snapshot.runtime_dir,
        "instances": instances, "timing": timing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> pb::Snapshot {
        let instance = |name: &str, state: State, pid, why: &str| pb::InstanceStatus {
            name: name.into(),
            state: state.into(),
            pid,
            why: why.into(),
            up_ms: 65_000,
            ..Default::default()
        };
        pb::Snapshot {
            overall: "degraded".into(),
            instances: vec![
                instance("cluster@0", State::Ready, 7, ""),
                instance("worker.user@0", State::Ready, 8, ""),
                instance("worker.user@1", State::Backoff, 0, "exit 1; next try in 6.4 s"),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn table_shows_pools_as_trees_and_reasons() {
        let text = table(&snapshot(), Paint { on: false });
        assert!(text.lines().any(|l| l.starts_with("worker.user ") && l.contains("degraded 1/2")), "{text}");
        assert!(text.contains(" └ worker.user@1") && text.contains("exit 1; next try in 6.4 s"), "{text}");
        assert!(text.lines().nth(1).is_some_and(|l| l.starts_with("cluster ") && l.contains("1m5s")), "{text}");
    }

    #[test]
    fn a_stopped_pool_is_down() {
        let mut s = snapshot();
        s.instances.iter_mut().for_each(|i| i.set_state(State::Down));
        let text = table(&s, Paint { on: false });
        assert!(text.lines().any(|l| l.starts_with("worker.user ") && l.contains("down 0/2")), "{text}");
    }

    #[test]
    fn colours_only_the_state_word() {
        let line = colour("cluster  ready  7", Paint { on: true });
        assert_eq!(line, "cluster  \x1b[32mready\x1b[0m  7");
        assert_eq!(colour("cluster  ready  7", Paint { on: false }), "cluster  ready  7");
    }

    #[test]
    fn exit_codes_follow_the_table() {
        let mut s = snapshot();
        assert_eq!(code(&s, false), 1);
        s.overall = "ready".into();
        assert_eq!(code(&s, false), 0);
        s.instances.iter_mut().for_each(|i| i.set_state(State::Down));
        s.overall = "down".into();
        assert_eq!(code(&s, false), 3);
    }

    #[test]
    fn ages_are_short() {
        assert_eq!([age(5), age(12_000), age(303_000), age(273_600_000)], ["5ms", "12s", "5m3s", "3d4h"]);
    }
}
