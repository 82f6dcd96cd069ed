//! Commands that change something: follows the operation to its end.

use std::io::{self, Write};
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Response, Streaming};
use wk_proto::supervisor::v1 as pb;
use wk_proto::supervisor::v1::op_event::End;
use wk_proto::supervisor::v1::supervisor_client::SupervisorClient;

use super::{EXIT_INTERNAL, EXIT_UNREACHABLE, Failure};
use crate::report;

/// Deadline of the command passed; the operation still runs.
const EXIT_TIMEOUT: u8 = 9;

/// An operation.
#[derive(Debug)]
pub(super) enum Ask {
    Start(pb::OpRequest),
    Stop(pb::OpRequest),
    Restart(pb::OpRequest),
    Scale(pb::ScaleRequest),
}

/// Runs it, prints its events, returns its code.
pub(super) async fn run(client: SupervisorClient<Channel>, ask: Ask, within: Option<Duration>) -> Result<u8, Failure> {
    let follow = follow(client, ask);
    match within {
        None => follow.await,
        Some(within) => match tokio::time::timeout(within, follow).await {
            Ok(code) => code,
            Err(_) => Err(Failure::new(EXIT_TIMEOUT, format!("not done after {}; it goes on", humantime::format_duration(within)))),
        },
    }
}

async fn follow(mut client: SupervisorClient<Channel>, ask: Ask) -> Result<u8, Failure> {
    let events: Result<Response<Streaming<pb::OpEvent>>, tonic::Status> = match ask {
        Ask::Start(request) => client.start(request).await,
        Ask::Stop(request) => client.stop(request).await,
        Ask::Restart(request) => client.restart(request).await,
        Ask::Scale(request) => client.scale(request).await,
    };
    let mut events = events?.into_inner();
    let mut out = io::stdout().lock();
    while let Some(event) = events.message().await? {
        match event.end {
            None => writeln!(out, "{:>10} ms  {:<18} {}", report::ms(event.at_us), event.instance, event.text)?,
            Some(End::Done(end)) => return finish(&mut out, &end),
        }
    }
    Err(Failure::new(EXIT_UNREACHABLE, "the supervisor ended before the operation did"))
}

fn finish(out: &mut impl Write, end: &pb::OpEnd) -> Result<u8, Failure> {
    let text = report::end_text(end);
    if !text.is_empty() {
        writeln!(out, "\n{text}\n")?;
    }
    let code = u8::try_from(end.code).unwrap_or(EXIT_INTERNAL);
    if code == 0 {
        writeln!(out, "{}", end.message)?;
        Ok(0)
    } else {
        out.flush()?;
        Err(Failure::new(code, end.message.clone()))
    }
}
