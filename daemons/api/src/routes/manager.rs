//! Routes of the manager port.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Api;
use crate::gather;

/// Metrics of all daemons of this node, in the Prometheus text format.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let (mut pages, failed) = gather::pages(&api.table.get(), api.me).await;
    api.metrics.gather_failures.inc_by(failed);
    pages.push((api.me, api.registry.gather()));
    pages.sort_by_key(|(instance, _)| *instance);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], gather::merge(&pages)).into_response()
}
