//! `wkctl reexec`: asks, then waits for the successor.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use wk_proto::supervisor::v1 as pb;

use super::{EXIT_INTERNAL, EXIT_OK, Failure, find};

/// How long the exchange may take: the trial of the new binary and its start.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two questions for the successor.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn run(dir: &Path) -> Result<u8, Failure> {
    let mut client = find::dial(dir).await?;
    let before = client.hello(pb::HelloRequest::default()).await?.into_inner();
    if let Ok(refused) = client.reexec(pb::ReexecRequest {}).await {
        let pb::ReexecReply { code, message } = refused.into_inner();
        return Err(Failure::new(u8::try_from(code).unwrap_or(EXIT_INTERNAL), message));
    }
    // The connection has ended: either with the old binary, or because the supervisor is gone.
    let after = tokio::time::timeout(TIMEOUT, successor(dir, before.exec)).await;
    let after = after.map_err(|_| Failure::new(EXIT_INTERNAL, "the supervisor does not answer after the exchange"))??;
    writeln!(io::stdout(), "supervisor {} ({}) goes on as {}", after.pid, before.version, after.version)?;
    Ok(EXIT_OK)
}

async fn successor(dir: &Path, before: u64) -> Result<pb::HelloReply, Failure> {
    loop {
        let mut client = find::dial(dir).await?;
        if let Ok(reply) = client.hello(pb::HelloRequest::default()).await {
            let reply = reply.into_inner();
            if reply.exec != before {
                return Ok(reply);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
