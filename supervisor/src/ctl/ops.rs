//! Commands that change something: shows the plan, or follows the operation to its end.

use std::io::{self, IsTerminal, Write};

use serde_json::json;
use tonic::{Response, Streaming};
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::op_event::End;

use super::cli::{Output, Waiting};
use super::patient::Client;
use super::{EXIT_INTERNAL, EXIT_UNREACHABLE, Failure, json, plan};
use crate::report;

/// Deadline of the command passed; the operation still runs.
const EXIT_TIMEOUT: u8 = 9;

/// An operation.
#[derive(Debug)]
pub(super) enum Ask {
    Start(pb::OpRequest),
    Stop(pb::OpRequest),
    Restart(pb::OpRequest),
    Roll(pb::OpRequest),
    Scale(pb::ScaleRequest),
    /// One that runs already.
    Wait(u64),
}

impl Ask {
    /// Adds what is the same for all commands.
    fn with(self, waiting: &Waiting) -> Self {
        let (no_wait, cancel_on_disconnect, idempotency_key) = (waiting.no_wait, waiting.cancel_on_disconnect, waiting.key.clone());
        let op = |r: pb::OpRequest| pb::OpRequest { no_wait, cancel_on_disconnect, idempotency_key: idempotency_key.clone(), ..r };
        match self {
            Self::Start(r) => Self::Start(op(r)),
            Self::Stop(r) => Self::Stop(op(r)),
            Self::Restart(r) => Self::Restart(op(r)),
            Self::Roll(r) => Self::Roll(op(r)),
            Self::Scale(r) => Self::Scale(pb::ScaleRequest { no_wait, cancel_on_disconnect, idempotency_key, ..r }),
            Self::Wait(id) => Self::Wait(id),
        }
    }

    fn into_plan(self) -> pb::PlanRequest {
        let (kind, op, scale) = match self {
            Self::Start(r) => ("start", Some(r), None),
            Self::Stop(r) => ("stop", Some(r), None),
            Self::Restart(r) => ("restart", Some(r), None),
            Self::Roll(r) => ("roll", Some(r), None),
            Self::Scale(r) => ("scale", None, Some(r)),
            Self::Wait(_) => ("", None, None),
        };
        pb::PlanRequest { kind: kind.into(), op, scale }
    }
}

/// Runs it, prints its events, returns its code.
pub(super) async fn run(mut client: Client, ask: Ask, waiting: &Waiting, output: Output) -> Result<u8, Failure> {
    let ask = ask.with(waiting);
    if waiting.dry_run {
        let reply = client.plan(ask.into_plan()).await?.into_inner();
        return plan::print(&reply, output);
    }
    let mut op = 0;
    let follow = follow(client, ask, output, &mut op);
    match waiting.timeout {
        None => follow.await,
        Some(within) => match tokio::time::timeout(within, follow).await {
            Ok(code) => code,
            Err(_) => {
                let within = humantime::format_duration(within);
                let text = match op {
                    0 => format!("no answer after {within}; `wkctl op ls` tells whether it has begun"),
                    op => format!("not done after {within}; it goes on: wkctl op wait {op}"),
                };
                Err(Failure::new(EXIT_TIMEOUT, text))
            }
        },
    }
}

async fn follow(mut client: Client, ask: Ask, output: Output, op: &mut u64) -> Result<u8, Failure> {
    let events: Result<Response<Streaming<pb::OpEvent>>, tonic::Status> = match ask {
        Ask::Start(request) => client.start(request).await,
        Ask::Stop(request) => client.stop(request).await,
        Ask::Restart(request) => client.restart(request).await,
        Ask::Roll(request) => client.roll(request).await,
        Ask::Scale(request) => client.scale(request).await,
        Ask::Wait(op) => client.wait_op(pb::OpId { op }).await,
    };
    let later = "whether the operation began is told by `wkctl op ls`";
    let mut events = events.map_err(|status| {
        let failure = Failure::from(status);
        if failure.silent { Failure { message: format!("{} ({later})", failure.message), ..failure } } else { failure }
    })?;
    let events = events.get_mut();
    let mut progress = Progress::new(output);
    while let Some(event) = events.message().await? {
        *op = event.op.max(*op);
        if output != Output::Table {
            if output == Output::Json {
                writeln!(io::stdout(), "{}", to_json(&event))?;
            }
            if let Some(End::Done(end)) = event.end {
                return finish(&end, output);
            }
            continue;
        }
        match event.end {
            None if !event.held_up_by.is_empty() => progress.held_up(event.at_us, &event.held_up_by)?,
            None if event.text.is_empty() => {}
            None => progress.line(&format!("{:>10} ms  {:<18} {}", report::ms(event.at_us), event.instance, event.text))?,
            Some(End::Done(end)) => {
                progress.clear()?;
                return finish(&end, output);
            }
        }
    }
    progress.clear()?;
    Err(Failure::new(EXIT_UNREACHABLE, "the supervisor ended before the operation did"))
}

/// One line at the bottom of a terminal that says who holds the operation up; on a pipe, a line when it is somebody else.
struct Progress {
    terminal: bool,
    shown: bool,
    last: String,
}

impl Progress {
    fn new(output: Output) -> Self {
        Self { terminal: io::stdout().is_terminal() && output == Output::Table, shown: false, last: String::new() }
    }

    fn clear(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.shown) {
            write!(io::stdout(), "\r\x1b[2K")?;
        }
        io::stdout().flush()
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        self.clear()?;
        writeln!(io::stdout(), "{text}")
    }

    fn held_up(&mut self, at_us: u64, by: &[String]) -> io::Result<()> {
        let who = by.iter().map(|b| b.split(':').next().unwrap_or(b)).collect::<Vec<_>>().join(", ");
        if self.terminal {
            self.clear()?;
            let line = format!("{:>10} ms  waiting for {}", report::ms(at_us), by.join(" · "));
            let width = super::screen::width().unwrap_or(80);
            write!(io::stdout(), "{}", line.chars().take(width.saturating_sub(1)).collect::<String>())?;
            self.shown = true;
            io::stdout().flush()
        } else if who != self.last {
            self.last = who;
            writeln!(io::stdout(), "{:>10} ms  waiting for {}", report::ms(at_us), by.join(" · "))
        } else {
            Ok(())
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Interrupted or out of time: the next words begin on a line of their own.
        self.clear().unwrap_or_default();
    }
}

fn to_json(event: &pb::OpEvent) -> serde_json::Value {
    let end = event.end.as_ref().map(|End::Done(end)| end_to_json(end));
    json!({
        "op": event.op, "at_us": event.at_us, "instance": event.instance, "text": event.text,
        "held_up_by": event.held_up_by, "end": end,
    })
}

fn end_to_json(end: &pb::OpEnd) -> serde_json::Value {
    json!({
        "code": end.code, "message": end.message, "lost": end.lost, "retry_entries": end.retry_entries,
        "pending_webhooks": end.pending_webhooks, "log_tail": end.log_tail,
        "stops": end.stops.iter().map(|s| json!({"name": s.name, "outcome": s.outcome, "took_us": s.took_us})).collect::<Vec<_>>(),
        "timing": end.timing.as_ref().map(json::timing),
    })
}

fn finish(end: &pb::OpEnd, output: Output) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    let text = report::end_text(end);
    if !text.is_empty() && output == Output::Table {
        writeln!(out, "\n{text}\n")?;
    }
    if output == Output::Yaml {
        writeln!(out, "{}", json::yaml(&end_to_json(end)))?;
    }
    let code = u8::try_from(end.code).unwrap_or(EXIT_INTERNAL);
    if code == 0 {
        if output == Output::Table {
            writeln!(out, "{}", end.message)?;
        }
        Ok(0)
    } else {
        out.flush()?;
        Err(Failure::new(code, end.message.clone()))
    }
}

/// `wkctl op ls`.
pub(super) async fn list(mut client: Client, output: Output) -> Result<u8, Failure> {
    let ops = client.ops(pb::OpsRequest {}).await?.into_inner().ops;
    let value = || {
        let rows = ops.iter().map(|o| {
            json!({
                "op": o.op, "kind": o.kind, "names": o.names, "state": o.state, "age_ms": o.age_ms, "code": o.code,
                "message": o.message, "took_ms": o.took_ms, "actor": o.actor, "held_up_by": o.held_up_by,
            })
        });
        serde_json::Value::Array(rows.collect())
    };
    let text = match output {
        Output::Json => format!("{:#}", value()),
        Output::Yaml => json::yaml(&value()),
        Output::Name => ops.iter().map(|o| o.op.to_string()).collect::<Vec<_>>().join("\n"),
        Output::Table if ops.is_empty() => "no operation yet".into(),
        Output::Table => {
            let mut table = report::plain_table(&["ID", "WHAT", "STATE", "AGE", "TOOK", "CODE", "BY", "TEXT"], 8);
            for o in &ops {
                let names = if o.names.is_empty() { "everything".to_owned() } else { o.names.join(" ") };
                let done = o.state == "done";
                let dash = |text: String| if done { text } else { "–".to_owned() };
                table.add_row(vec![
                    o.op.to_string(),
                    format!("{} {names}", o.kind),
                    o.state.clone(),
                    super::text::age(o.age_ms),
                    dash(super::text::age(o.took_ms)),
                    dash(o.code.to_string()),
                    o.actor.clone(),
                    if done { o.message.clone() } else { o.held_up_by.join(" · ") },
                ]);
            }
            report::render(&table)
        }
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(0)
}
