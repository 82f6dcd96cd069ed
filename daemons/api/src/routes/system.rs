//! Probes and addresses.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use wk_proto::cluster::v1 as pb;

use super::{Answer, Api, Raw, ok};
use crate::backend::BackendError;
use crate::dto::{Addresses, BatchAddresses, decode};
use crate::error::{ApiError, Problem, json};
use crate::limits::HEALTH_DEADLINE;
use crate::status::{Phase, Readiness, readiness};

/// Body of `/health` and `/healthz`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    /// `ok` or `error`.
    status: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// Whether the cluster can be used.
#[utoipa::path(get, path = "/health", tag = "system", responses((status = 200, body = Health), (status = 500, body = Health)))]
pub(super) async fn health(State(api): State<Api>) -> Response {
    let row = pb::RowKey { table: pb::Table::System.into(), id: "health".into(), sub: 0 };
    let query = pb::Query { of: Some(pb::query::Of::Row(row)) };
    let message = match timeout(HEALTH_DEADLINE, api.backend.lookup(vec![query])).await {
        Ok(Ok(answers)) => match answers.first().and_then(|answer| answer.error.as_ref()) {
            Some(error) => cluster_trouble(error.code()),
            None => return json(StatusCode::OK, &Health { status: "ok", message: None }),
        },
        Ok(Err(BackendError::Cluster(err))) => cluster_trouble(err.code()),
        Ok(Err(_)) | Err(_) => "slot not ready",
    };
    json(StatusCode::INTERNAL_SERVER_ERROR, &Health { status: "error", message: Some(message) })
}

fn cluster_trouble(code: pb::Code) -> &'static str {
    match code {
        pb::Code::NoLeader | pb::Code::NotLeader => "slot leader not found",
        _ => "slot not ready",
    }
}

/// Whether this process lives.
#[utoipa::path(get, path = "/healthz", tag = "system", responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Response {
    json(StatusCode::OK, &Health { status: "ok", message: None })
}

/// Whether requests are taken, and what stands in the way.
#[utoipa::path(get, path = "/readyz", tag = "system", responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let readiness = readiness(api.gate.phase(), &api.table.get());
    let ready = readiness.status == "ready";
    debug_assert!(!ready || api.gate.phase() == Phase::Open, "ready means requests are taken");
    json(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &readiness)
}

/// Query of `/route` and `/route/batch`.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Intranet {
    /// 1: addresses inside the own network.
    #[serde(default)]
    intranet: String,
}

impl Api {
    fn addresses(&self, query: &Intranet) -> Addresses {
        let config = &self.config;
        if query.intranet == "1" {
            return Addresses { tcp_addr: config.intranet_tcp_addr.clone(), ws_addr: String::new(), wss_addr: String::new() };
        }
        Addresses { tcp_addr: config.tcp_addr.clone(), ws_addr: config.ws_addr.clone(), wss_addr: config.wss_addr.clone() }
    }
}

/// Addresses of this node for clients.
#[utoipa::path(get, path = "/route", tag = "system", params(Intranet), responses((status = 200, body = Addresses)))]
pub(super) async fn route(State(api): State<Api>, Query(query): Query<Intranet>) -> Answer {
    ok(&api.addresses(&query))
}

/// Addresses for a list of users: one element with all of them.
#[utoipa::path(post, path = "/route/batch", tag = "system", params(Intranet), request_body = Vec<String>,
    responses((status = 200, body = Vec<BatchAddresses>), (status = 400, body = Problem)))]
pub(super) async fn route_batch(State(api): State<Api>, Query(query): Query<Intranet>, Raw(body): Raw) -> Answer {
    let uids: Vec<String> = decode(&body).map_err(|_| ApiError::text("数据格式有误！"))?;
    let Addresses { tcp_addr, ws_addr, wss_addr } = api.addresses(&query);
    ok(&[BatchAddresses { tcp_addr, ws_addr, wss_addr, uids }])
}
