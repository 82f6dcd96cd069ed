//! `wkctl status` and `wkctl top`: what to show, how often, and the exit code.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use wk_config::Env;
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;

use super::cli::Output;
use super::patient::Client;
use super::screen::Screen;
use super::table::{self, Look};
use super::{EXIT_UNKNOWN, Failure, json};
use crate::console::Paint;
use crate::names;

/// Pause between two pictures while nothing changes, so that ages and uses go on.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Events below the table of `wkctl top`.
const TOP_EVENTS: usize = 8;

/// What to show.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) names: Vec<String>,
    pub(super) watch: bool,
    pub(super) deep: bool,
    pub(super) wide: bool,
    pub(super) output: Output,
}

/// Colours on a terminal, unless `NO_COLOR` says otherwise.
pub(super) fn paint(env: &Env) -> Paint {
    Paint { on: io::stdout().is_terminal() && env.get("NO_COLOR").is_none_or(str::is_empty) }
}

pub(super) async fn run(mut client: Client, ask: Ask, env: &Env) -> Result<u8, Failure> {
    let look = Look { paint: paint(env), wide: ask.wide, width: super::screen::width() };
    if ask.watch {
        return watch(client, &ask, look).await;
    }
    let snapshot = fetch(&mut client, &ask).await?;
    writeln!(io::stdout(), "{}", text(&snapshot, &ask, look))?;
    Ok(code(&snapshot, !ask.names.is_empty()))
}

async fn fetch(client: &mut Client, ask: &Ask) -> Result<pb::Snapshot, Failure> {
    let request = pb::StatusRequest { names: ask.names.clone(), deep: ask.deep };
    let snapshot = client.status(request).await?.into_inner();
    let nobody = |name: &&String| !snapshot.instances.iter().any(|i| names::means(name, &i.name));
    if let Some(name) = ask.names.iter().find(nobody) {
        let all = client.status(pb::StatusRequest::default()).await?.into_inner().instances;
        let known = names::known(all.iter().filter_map(|i| i.name.parse().ok()));
        return Err(Failure::new(EXIT_UNKNOWN, names::unknown(name, &known)));
    }
    Ok(snapshot)
}

async fn watch(mut client: Client, ask: &Ask, look: Look) -> Result<u8, Failure> {
    // An unknown name is said before the screen is taken.
    fetch(&mut client, ask).await?;
    let mut changes = client.watch_status(pb::StatusRequest { names: ask.names.clone(), deep: false }).await?.into_inner();
    let mut screen = if ask.output == Output::Table { Some(Screen::open()?) } else { None };
    loop {
        let snapshot = fetch(&mut client, ask).await?;
        let result = code(&snapshot, !ask.names.is_empty());
        let look = Look { width: super::screen::width(), ..look };
        match &mut screen {
            Some(screen) => screen.draw(&text(&snapshot, ask, look))?,
            None => writeln!(io::stdout(), "{}", streamed(&snapshot, ask.output))?,
        }
        let ticks = screen.is_some() && io::stdout().is_terminal();
        // All branches are cancel-safe: a stream, a timer, a signal.
        tokio::select! {
            change = changes.message() => if change?.is_none() { return Ok(result) },
            () = tokio::time::sleep(REDRAW_EVERY), if ticks => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(result);
            }
        }
    }
}

/// 0: everything wanted is Ready; 1: something is not; 3: nothing runs.
pub(super) fn code(snapshot: &pb::Snapshot, named: bool) -> u8 {
    let all = |state: State| snapshot.instances.iter().all(|i| i.state() == state);
    match snapshot.overall.as_str() {
        _ if all(State::Down) && snapshot.instances.iter().all(|i| !i.wanted) => 3,
        _ if named && all(State::Ready) => 0,
        "ready" => 0,
        _ => 1,
    }
}

fn text(snapshot: &pb::Snapshot, ask: &Ask, look: Look) -> String {
    match ask.output {
        other @ (Output::Json | Output::Yaml | Output::Name) => machine(snapshot, other),
        Output::Table => format!("{}\n\n{}", table::head(snapshot, look), table::table(snapshot, look, &BTreeMap::new())),
    }
}

/// Forms for machines, and names.
pub(super) fn machine(snapshot: &pb::Snapshot, output: Output) -> String {
    match output {
        Output::Yaml => json::yaml(&json::status(snapshot)),
        Output::Name => snapshot.instances.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join("\n"),
        Output::Json | Output::Table => format!("{:#}", json::status(snapshot)),
    }
}

/// One picture of a stream for machines.
pub(super) fn streamed(snapshot: &pb::Snapshot, output: Output) -> String {
    match output {
        Output::Json | Output::Yaml => json::of_stream(&json::status(snapshot), output),
        Output::Name | Output::Table => machine(snapshot, output),
    }
}

/// Processor time between two looks, in tenths of a percent, by instance.
fn rates(before: &pb::Snapshot, now: &pb::Snapshot) -> BTreeMap<String, u64> {
    let past = (now.up_ms.saturating_sub(before.up_ms)).max(1);
    let rate = |i: &pb::InstanceStatus| {
        let old = before.instances.iter().find(|b| b.name == i.name && b.pid == i.pid)?;
        Some((i.name.clone(), i.cpu_ms.saturating_sub(old.cpu_ms) * 1000 / past))
    };
    now.instances.iter().filter_map(rate).collect()
}

/// `wkctl top`: busiest first, with operations and the last events.
pub(super) async fn top(mut client: Client, env: &Env) -> Result<u8, Failure> {
    let ask = Ask { names: Vec::new(), watch: true, deep: false, wide: false, output: Output::Table };
    let mut before = fetch(&mut client, &ask).await?;
    let request = pb::EventsRequest { since_ms: 600_000, follow: true, names: Vec::new() };
    let mut events = client.events(request).await?.into_inner();
    let mut last: Vec<String> = Vec::new();
    let mut screen = Screen::open()?;
    let mut tick = tokio::time::interval(REDRAW_EVERY);
    loop {
        tokio::select! {
            event = events.message() => {
                let Some(event) = event? else { return Ok(0) };
                last.push(super::events::line(&event, paint(env)));
                if last.len() > TOP_EVENTS {
                    last.remove(0);
                }
                continue;
            }
            _ = tick.tick() => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(0);
            }
        }
        let mut snapshot = fetch(&mut client, &ask).await?;
        let rates = rates(&before, &snapshot);
        before = snapshot.clone();
        snapshot.instances.sort_by_key(|i| std::cmp::Reverse(rates.get(&i.name).copied().unwrap_or(0)));
        let look = Look { paint: paint(env), wide: false, width: super::screen::width() };
        let flat = table::flat(&snapshot, look, &rates);
        screen.draw(&format!("{}\n\n{flat}\n\n{}", table::head(&snapshot, look), last.join("\n")))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(states: &[(State, u64)]) -> pb::Snapshot {
        let instances = states.iter().enumerate().map(|(n, (state, cpu_ms))| pb::InstanceStatus {
            name: format!("worker.user@{n}"),
            state: (*state).into(),
            pid: 7,
            cpu_ms: *cpu_ms,
            ..Default::default()
        });
        pb::Snapshot { overall: "degraded".into(), instances: instances.collect(), ..Default::default() }
    }

    #[test]
    fn exit_codes_follow_the_table() {
        let mut s = snapshot(&[(State::Ready, 0), (State::Backoff, 0)]);
        assert_eq!(code(&s, false), 1);
        s.overall = "ready".into();
        assert_eq!(code(&s, false), 0);
        s.instances.iter_mut().for_each(|i| i.set_state(State::Down));
        s.overall = "down".into();
        assert_eq!(code(&s, false), 3);
    }

    #[test]
    fn top_counts_the_time_between_two_looks() {
        let before = snapshot(&[(State::Ready, 1000), (State::Ready, 0)]);
        let now = pb::Snapshot { up_ms: 1000, ..snapshot(&[(State::Ready, 1500), (State::Ready, 20)]) };
        let rates = rates(&before, &now);
        assert_eq!(rates.values().copied().collect::<Vec<_>>(), [500, 20]);
    }
}
