//! `wkctl reexec`: asks, then waits for the successor.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;

use super::cli::Output;
use super::patient::{ANSWER_WITHIN, Client};
use super::{EXIT_INTERNAL, EXIT_OK, Failure, find, json};

/// How long the exchange may take: the trial of the new binary and its start.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long its successor is waited for to hear from the daemons; they have three seconds for a check.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two questions for the successor.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(dir: &Path, output: Output) -> Result<u8, Failure> {
    let mut client = find::dial(dir, ANSWER_WITHIN).await?;
    let before = client.hello(pb::HelloRequest::default()).await?.into_inner();
    let ready = ready(&mut client).await?;
    // The trial of the new binary takes its time.
    if let Ok(refused) = find::dial(dir, TIMEOUT).await?.reexec(pb::ReexecRequest {}).await {
        let pb::ReexecReply { code, message } = refused.into_inner();
        return Err(Failure::new(u8::try_from(code).unwrap_or(EXIT_INTERNAL), message));
    }
    // The connection has ended: either with the old binary, or because the supervisor is gone.
    let after = tokio::time::timeout(TIMEOUT, successor(dir, before.exec, &ready)).await;
    let after = after.map_err(|_| Failure::new(EXIT_INTERNAL, "the supervisor does not answer after the exchange"))??;
    let value = || serde_json::json!({ "code": 0, "pid": after.pid, "before": before.version, "version": after.version });
    let text = match output {
        Output::Table => format!("supervisor {} ({}) goes on as {}", after.pid, before.version, after.version),
        Output::Json => value().to_string(),
        Output::Yaml => json::yaml(&value()),
        Output::Name => after.pid.to_string(),
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(EXIT_OK)
}

/// Instances that are ready.
async fn ready(client: &mut Client) -> Result<BTreeSet<String>, Failure> {
    let status = client.status(pb::StatusRequest::default()).await?.into_inner();
    Ok(status.instances.into_iter().filter(|i| i.state() == State::Ready).map(|i| i.name).collect())
}

/// Who has taken the place, as soon as it knows again what its predecessor knew: a `status` behind this command is no false alarm.
async fn successor(dir: &Path, before: u64, knew: &BTreeSet<String>) -> Result<pb::HelloReply, Failure> {
    let until = tokio::time::Instant::now() + CONFIRMED_WITHIN;
    loop {
        let mut client = find::dial(dir, ANSWER_WITHIN).await?;
        if let Ok(reply) = client.hello(pb::HelloRequest::default()).await {
            let reply = reply.into_inner();
            let confirmed = reply.exec != before && ready(&mut client).await.is_ok_and(|known| known.is_superset(knew));
            // A daemon may have died in this moment: that is for `status` to tell.
            if confirmed || (reply.exec != before && tokio::time::Instant::now() > until) {
                return Ok(reply);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
