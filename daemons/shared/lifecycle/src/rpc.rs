//! Lifecycle and admin services: decode, one call on the context, encode.

use std::time::Duration;

use tokio::time::Instant;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::HealthServer;
use wk_proto::lifecycle::v1 as pb;
use wk_proto::lifecycle::v1::admin_server::{Admin, AdminServer};
use wk_proto::lifecycle::v1::lifecycle_server::{Lifecycle, LifecycleServer};

use crate::context::Context;
use crate::health::HealthService;

/// All services of the socket `health`.
pub(crate) fn routes(context: &Context) -> Routes {
    Routes::new(HealthServer::new(HealthService(context.inner.board.clone())))
        .add_service(LifecycleServer::new(LifecycleService(context.clone())))
        .add_service(AdminServer::new(AdminService(context.clone())))
}

struct LifecycleService(Context);

#[tonic::async_trait]
impl Lifecycle for LifecycleService {
    async fn activate(&self, _: Request<pb::ActivateRequest>) -> Result<Response<pb::ActivateReply>, Status> {
        self.0.inner.activate.request(None).await;
        Ok(Response::new(pb::ActivateReply {}))
    }

    async fn admit(&self, _: Request<pb::AdmitRequest>) -> Result<Response<pb::AdmitReply>, Status> {
        self.0.inner.admit.request(None).await;
        Ok(Response::new(pb::AdmitReply {}))
    }

    async fn stop_accept(&self, _: Request<pb::StopAcceptRequest>) -> Result<Response<pb::StopAcceptReply>, Status> {
        self.0.inner.stop_accept.request(None).await;
        Ok(Response::new(pb::StopAcceptReply {}))
    }

    async fn quiesce(&self, request: Request<pb::QuiesceRequest>) -> Result<Response<pb::QuiesceReply>, Status> {
        let time = Duration::from_millis(request.get_ref().deadline_ms);
        self.0.inner.quiesce.request((!time.is_zero()).then(|| Instant::now() + time)).await;
        Ok(Response::new(pb::QuiesceReply {}))
    }

    async fn in_flight(&self, _: Request<pb::InFlightRequest>) -> Result<Response<pb::InFlightReply>, Status> {
        Ok(Response::new(self.0.in_flight()))
    }
}

struct AdminService(Context);

#[tonic::async_trait]
impl Admin for AdminService {
    async fn metrics(&self, _: Request<pb::MetricsRequest>) -> Result<Response<pb::MetricsReply>, Status> {
        Ok(Response::new(pb::MetricsReply { text: self.0.metrics().gather() }))
    }

    async fn components(&self, _: Request<pb::ComponentsRequest>) -> Result<Response<pb::ComponentsReply>, Status> {
        let components = self.0.inner.board.components().into_iter().map(|(name, serving)| pb::Component { name, serving }).collect();
        Ok(Response::new(pb::ComponentsReply { components }))
    }

    async fn set_log_filter(&self, request: Request<pb::SetLogFilterRequest>) -> Result<Response<pb::SetLogFilterReply>, Status> {
        let filter = &request.get_ref().filter;
        let log = self.0.inner.log.as_ref().ok_or_else(|| Status::failed_precondition("no log handle"))?;
        log.set_filter(filter).map_err(|e| Status::invalid_argument(e.to_string()))?;
        tracing::info!(filter, "log filter changed");
        Ok(Response::new(pb::SetLogFilterReply {}))
    }
}
