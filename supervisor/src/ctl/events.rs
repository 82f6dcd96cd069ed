//! `wkctl events` and `wkctl logs`.

use std::io::{self, Write};

use wk_proto::supervisor::v1 as pb;

use super::cli::Output;
use super::json;
use super::patient::Client;
use super::text::wall;
use super::{EXIT_UNKNOWN, Failure};
use crate::console::Paint;
use crate::events::KIND_CRASH_LOOP;
use crate::names;

/// Columns of names in logs: those of most instances.
const NAME_WIDTH: usize = "worker.channel@0".len();
/// Exit code of a reader that was too slow: come back and ask again.
const EXIT_LAGGED: u8 = 75;

pub(super) async fn run(mut client: Client, ask: pb::EventsRequest, output: Output, paint: Paint) -> Result<u8, Failure> {
    // Of an instance that is gone there may still be events, so only the form of the names is looked at.
    names::possible(&ask.names).map_err(|text| Failure::new(EXIT_UNKNOWN, text))?;
    let mut events = client.events(ask).await?.into_inner();
    loop {
        // Both branches are cancel-safe: a stream, a signal.
        let event = tokio::select! {
            event = events.message() => event?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(0);
            }
        };
        let Some(event) = event else { return Ok(0) };
        let lagged = event.kind == "lagged";
        let text = match output {
            Output::Table => line(&event, paint),
            Output::Json | Output::Yaml => json::of_stream(&crate::events::to_json(&event), output),
            Output::Name => event.instance.clone(),
        };
        writeln!(io::stdout(), "{text}")?;
        if lagged {
            return Err(Failure::new(EXIT_LAGGED, format!("{} events were missed, this reader was too slow", event.lagged)));
        }
    }
}

/// One event for people.
pub(super) fn line(event: &pb::Event, paint: Paint) -> String {
    let what = match event.kind.as_str() {
        "state" => {
            let to = match event.to.as_str() {
                "ready" => paint.good("ready"),
                "failed" | "backoff" | "stuck" | "blocked" => paint.bad(&event.to),
                other => paint.warn(other),
            };
            let text = if event.text.is_empty() { String::new() } else { format!(": {}", event.text) };
            format!("{} → {to} ({}){text}", event.from, event.cause)
        }
        "denied" | KIND_CRASH_LOOP => paint.bad(&event.text),
        _ => event.text.clone(),
    };
    let actor = if event.actor.is_empty() { String::new() } else { format!("  [{}]", event.actor) };
    let generation = if event.generation > 0 { format!(" #{}", event.generation) } else { String::new() };
    format!("{}  {:<21}  {what}{actor}", wall(event.wall_ms), format!("{}{generation}", event.instance))
}

pub(super) async fn logs(mut client: Client, ask: pb::LogsRequest, output: Output) -> Result<u8, Failure> {
    // All names of a usual node; of a single daemon its own.
    let mut widest = if ask.names.len() == 1 { 0 } else { NAME_WIDTH };
    let mut named: Vec<String> = Vec::new();
    let mut lines = client.logs(ask).await?.into_inner();
    loop {
        let line = tokio::select! {
            line = lines.message() => line?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(0);
            }
        };
        let Some(line) = line else { return Ok(0) };
        let value = || serde_json::json!({ "instance": line.instance, "text": line.text });
        match output {
            Output::Json | Output::Yaml => writeln!(io::stdout(), "{}", json::of_stream(&value(), output))?,
            // Whose lines there are, each once.
            Output::Name if !named.contains(&line.instance) => {
                writeln!(io::stdout(), "{}", line.instance)?;
                named.push(line.instance);
            }
            Output::Name => {}
            Output::Table => {
                widest = widest.max(line.instance.len());
                writeln!(io::stdout(), "{:<widest$}  {}", line.instance, line.text)?;
            }
        }
    }
}
