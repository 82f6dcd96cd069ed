//! Prints the plan of a dry run.

use std::io::{self, Write};

use serde_json::json;
use wk_proto::supervisor::v1 as pb;

use super::cli::Output;
use super::{EXIT_INTERNAL, Failure, json};
use crate::report;

/// Prints a plan; one that would be refused is the refusal.
pub(super) fn print(reply: &pb::PlanReply, output: Output) -> Result<u8, Failure> {
    if reply.code != 0 {
        return Err(Failure::new(u8::try_from(reply.code).unwrap_or(EXIT_INTERNAL), reply.message.clone()));
    }
    let text = match output {
        Output::Table => report::plan_table(reply),
        Output::Json => format!("{:#}", to_json(reply)),
        Output::Yaml => json::yaml(&to_json(reply)),
        Output::Name => reply.steps.iter().map(|s| s.action.as_str()).collect::<Vec<_>>().join("\n"),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(0)
}

fn to_json(reply: &pb::PlanReply) -> serde_json::Value {
    let steps = reply.steps.iter().map(|s| json!({ "at_us": s.at_us, "action": s.action, "because": s.because }));
    json!({ "steps": steps.collect::<Vec<_>>(), "total_us": reply.total_us, "summary": reply.summary })
}
