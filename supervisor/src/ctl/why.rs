//! `wkctl why`: everything about one instance that explains its state.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;
use wk_proto::supervisor::v1 as pb;

use super::cli::Output;
use super::patient::Client;
use super::text::age;
use super::{EXIT_INTERNAL, Failure, json};
use crate::console::Paint;

pub(super) async fn run(mut client: Client, name: String, output: Output, paint: Paint) -> Result<u8, Failure> {
    let reply = client.why(pb::WhyRequest { name }).await?.into_inner();
    if reply.code != 0 {
        return Err(Failure::new(u8::try_from(reply.code).unwrap_or(EXIT_INTERNAL), reply.message));
    }
    let text = match output {
        Output::Table => text(&reply, paint),
        Output::Json => format!("{:#}", to_json(&reply)),
        Output::Yaml => json::yaml(&to_json(&reply)),
        Output::Name => reply.chain.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join("\n"),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(0)
}

fn painted(state: &str, paint: Paint) -> String {
    match state {
        "ready" => paint.good(state),
        "failed" | "backoff" | "stuck" | "blocked" => paint.bad(state),
        _ => paint.warn(state),
    }
}

fn text(reply: &pb::WhyReply, paint: Paint) -> String {
    let mut text = String::new();
    let instance = reply.instance.clone().unwrap_or_default();
    // Writing to a string does not fail.
    let mut add = |line: String| writeln!(text, "{line}").unwrap_or_default();
    for (depth, link) in reply.chain.iter().enumerate() {
        let arrow = if depth == 0 { String::new() } else { format!("{}└─ ", "   ".repeat(depth - 1)) };
        let why = match (depth, link.why.is_empty()) {
            (0, _) => super::table::reason(&instance),
            (_, true) => String::new(),
            _ => link.why.clone(),
        };
        let sep = if why.is_empty() { "" } else { ": " };
        add(format!("{arrow}{} {}{sep}{why}", paint.strong(&link.name), painted(&link.state, paint)));
    }
    add(String::new());
    if instance.pid != 0 {
        add(format!("process       pid {}, generation {}, up {}", instance.pid, instance.generation, age(instance.up_ms)));
    } else {
        add(format!("process       none, last generation {}", instance.generation));
    }
    match &reply.last_exit {
        Some(exit) => {
            add(format!("last end      {}; generation {}, after {}, {} ago", exit.text, exit.generation, age(exit.up_ms), age(exit.ago_ms)))
        }
        None => add("last end      none yet".into()),
    }
    let flag = if instance.crash_loop { "; crash loop" } else { "" };
    add(format!("restarts      {}, the pause is at step {}{flag}", instance.restarts, reply.crashes));
    let pauses: Vec<String> = reply.backoff_ms.iter().map(|ms| age_exact(*ms)).collect();
    add(format!("next pauses   {} …{}", pauses.join(", "), reply_policy(reply)));
    match reply.next_attempt_ms {
        Some(ms) => add(format!("next attempt  in {}", age_exact(ms))),
        None => add("next attempt  none is due".into()),
    }
    if !reply.log_tail.is_empty() {
        add(format!("\nlast log lines of {}:", instance.name));
        for line in &reply.log_tail {
            add(format!("  | {line}"));
        }
    }
    text.trim_end().to_owned()
}

/// How exact the pauses are, and until when; nothing where the supervisor does not say.
fn reply_policy(reply: &pb::WhyReply) -> String {
    let (Some(jitter), Some(reset)) = (reply.backoff_jitter, reply.backoff_reset_ms) else { return String::new() };
    format!(" (±{} %, forgotten after {} of ready)", (jitter * 1000.0).round() / 10.0, age_exact(reset))
}

fn age_exact(ms: u64) -> String {
    if (1..100).contains(&ms) {
        return format!("{ms} ms");
    }
    if ms < 60_000 && !ms.is_multiple_of(1000) { format!("{}.{} s", ms / 1000, ms % 1000 / 100) } else { format!("{} s", ms / 1000) }
}

fn to_json(reply: &pb::WhyReply) -> serde_json::Value {
    let chain = reply.chain.iter().map(|l| json!({ "name": l.name, "state": l.state, "why": l.why }));
    let exit = reply.last_exit.as_ref().map(|e| {
        json!({
            "generation": e.generation, "code": e.code, "signal": e.signal, "core": e.core, "up_ms": e.up_ms, "ago_ms": e.ago_ms,
            "text": e.text,
        })
    });
    json!({
        "instance": reply.instance.as_ref().map(json::instance), "chain": chain.collect::<Vec<_>>(), "last_exit": exit,
        "log_tail": reply.log_tail, "backoff_ms": reply.backoff_ms, "crashes": reply.crashes, "next_attempt_ms": reply.next_attempt_ms,
        "backoff_jitter": reply.backoff_jitter, "backoff_reset_ms": reply.backoff_reset_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_whole_story() {
        let link = |name: &str, state: &str, why: &str| pb::WhyLink { name: name.into(), state: state.into(), why: why.into() };
        let reply = pb::WhyReply {
            instance: Some(pb::InstanceStatus {
                name: "api@0".into(),
                why: "waits for gateway@0".into(),
                generation: 3,
                ..Default::default()
            }),
            chain: vec![link("api@0", "waiting", "waits for gateway@0"), link("gateway@0", "backoff", "exit 1; next try in 3.0 s")],
            last_exit: Some(pb::LastExit {
                generation: 2,
                code: Some(1),
                up_ms: 400,
                ago_ms: 12_000,
                text: "exit 1".into(),
                ..Default::default()
            }),
            log_tail: vec!["boom".into()],
            backoff_ms: vec![400, 800, 1600],
            crashes: 2,
            next_attempt_ms: Some(3100),
            backoff_jitter: Some(0.125),
            backoff_reset_ms: Some(90_000),
            ..Default::default()
        };
        let text = text(&reply, Paint { on: false });
        let parts = [
            "api@0 waiting: waits for gateway@0\n└─ gateway@0 backoff: exit 1; next try in 3.0 s",
            "last end      exit 1; generation 2, after 400ms, 12s ago",
            "next pauses   0.4 s, 0.8 s, 1.6 s … (±12.5 %, forgotten after 90 s of ready)",
            "next attempt  in 3.1 s",
            "  | boom",
        ];
        for part in parts {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
