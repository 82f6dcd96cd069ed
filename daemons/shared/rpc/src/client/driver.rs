//! Keeps the stream to the current cluster process and hands answers to their waiters.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wk_proto::cluster::v1 as pb;
use wk_proto::cluster::v1::data_client::DataClient;
use wk_types::Incarnation;

use super::{CLUSTER, Shared};
use crate::backoff::Backoff;
use crate::dial::dial;
use crate::limits::{CALLS_IN_FLIGHT_MAX, MESSAGE_BYTES_MAX};
use crate::table::TableWatch;

/// Runs until its task is aborted.
pub(super) async fn run(mut table: TableWatch, shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        let row = table.wait_for(|t| t.instance(CLUSTER).filter(|r| r.dialable()).cloned()).await;
        let ended = session(&mut table, row.incarnation, row.link_socket, &shared, &mut backoff).await;
        shared.close();
        match ended {
            Ok(()) => tracing::info!("cluster stream ended"),
            Err(err) => tracing::debug!(err, "cluster stream"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// One stream, from dial to end. Ends also when another process has taken the cluster's place.
async fn session(
    table: &mut TableWatch,
    incarnation: Incarnation,
    socket: std::path::PathBuf,
    shared: &Shared,
    backoff: &mut Backoff,
) -> Result<(), String> {
    let channel = dial(socket).await.map_err(|e| e.to_string())?;
    let (sender, requests) = mpsc::channel(CALLS_IN_FLIGHT_MAX);
    let mut client = DataClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let replies = client.open(ReceiverStream::new(requests)).await.map_err(|e| e.to_string())?.into_inner();
    backoff.reset();
    tracing::info!(incarnation, "cluster stream open");
    shared.open(sender);
    // Cancel-safe: both branches lose only state that the end of the session discards anyway.
    tokio::select! {
        ended = receive(replies, shared) => ended,
        () = replaced(table, incarnation) => Ok(()),
    }
}

async fn receive(mut replies: Streaming<pb::Reply>, shared: &Shared) -> Result<(), String> {
    while let Some(reply) = replies.message().await.map_err(|e| e.to_string())? {
        let waiter = shared.state.lock().pending.take(reply.id);
        let Some(waiter) = waiter else { continue };
        let answer = match (reply.error, reply.result) {
            (Some(error), _) => Err(error.into()),
            (None, Some(result)) => Ok(result),
            (None, None) => Err(super::CallError::Mismatch),
        };
        // A waiter that gave up is gone: nothing to do.
        drop(waiter.send(answer));
    }
    Ok(())
}

/// Completes when the cluster's row belongs to another life.
async fn replaced(table: &mut TableWatch, incarnation: Incarnation) {
    table.wait_for(|t| t.instance(CLUSTER).is_some_and(|r| r.incarnation != incarnation).then_some(())).await;
}
