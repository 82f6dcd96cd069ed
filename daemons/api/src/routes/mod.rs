//! The routes: decode, one domain call, encode. What stands before them is in [`mod@before`].

pub mod before;
mod channel;
pub mod docs;
mod manager;
mod message;
mod system;
mod user;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wk_rpc::TableWatch;
use wk_telemetry::Metrics;
use wk_types::InstanceName;

use crate::backend::Backend;
use crate::config::Config;
use crate::error::{ApiError, json};
use crate::metrics::ApiMetrics;
use crate::status::Gate;
use crate::{auth, limits};

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    /// The rest of the node.
    pub backend: Arc<dyn Backend>,
    /// Settings.
    pub config: Arc<Config>,
    /// Whether requests are taken.
    pub gate: Gate,
    /// The node table, for `/readyz` and the metrics of the others.
    pub table: TableWatch,
    /// Our metrics.
    pub metrics: ApiMetrics,
    /// Registry behind [`Api::metrics`].
    pub registry: Metrics,
    /// Our name.
    pub me: InstanceName,
    /// Bounds on work under way.
    pub bounds: before::Bounds,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("me", &self.me).field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// What a handler answers.
type Answer = Result<Response, ApiError>;

/// 200 with a JSON body.
fn ok<T: Serialize>(body: &T) -> Answer {
    Ok(json(StatusCode::OK, body))
}

/// The body of a request, whatever its content type says (`spec/http-api.md` §2.2).
struct Raw(Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(ApiError::TooLarge),
            Err(rejection) => Err(ApiError::Refused(rejection.body_text().into())),
        }
    }
}

/// The business API.
pub fn business(api: Api) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(docs::document())
        .routes(routes!(system::health))
        .routes(routes!(system::healthz))
        .routes(routes!(system::readyz))
        .routes(routes!(system::route))
        .routes(routes!(system::route_batch))
        .routes(routes!(user::token))
        .routes(routes!(user::device_quit))
        .routes(routes!(user::onlinestatus))
        .routes(routes!(channel::create))
        .routes(routes!(channel::info))
        .routes(routes!(channel::delete))
        .routes(routes!(channel::subscriber_add))
        .routes(routes!(channel::subscriber_remove))
        .routes(routes!(channel::subscriber_remove_all))
        .routes(routes!(channel::blacklist_add))
        .routes(routes!(channel::blacklist_set))
        .routes(routes!(channel::blacklist_remove))
        .routes(routes!(channel::blacklist_remove_all))
        .routes(routes!(channel::whitelist_add))
        .routes(routes!(channel::whitelist_set))
        .routes(routes!(channel::whitelist_remove))
        .routes(routes!(channel::whitelist_remove_all))
        .routes(routes!(channel::whitelist))
        .routes(routes!(channel::members))
        .routes(routes!(message::send))
        .routes(routes!(message::send_batch))
        .routes(routes!(message::sync))
        .routes(routes!(message::max_message_seq))
        .routes(routes!(message::last_message))
        .split_for_parts();
    let router = router.with_state(api.clone()).merge(docs::router(document, api.config.release));
    before(router, &api)
}

/// The manager port: metrics and probes.
pub fn manager(api: Api) -> Router {
    let router = Router::new()
        .route("/metrics", axum::routing::get(manager::metrics))
        .route("/healthz", axum::routing::get(system::healthz))
        .route("/readyz", axum::routing::get(system::readyz))
        .with_state(api);
    router.fallback(not_found).method_not_allowed_fallback(not_found)
}

/// Puts the layers of `spec/http-api.md` §2.4 around the routes; the first added is the innermost.
///
/// Outside in: count and time → CORS (answers `OPTIONS`) → token → admission and bounds → deadline → route.
fn before(router: Router, api: &Api) -> Router {
    router
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(axum::extract::DefaultBodyLimit::max(limits::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(api.clone(), before::admit))
        .layer(middleware::from_fn_with_state(api.config.manager_token.clone(), auth::require_token))
        .layer(middleware::from_fn(before::cors))
        .layer(middleware::from_fn_with_state(api.metrics.clone(), before::measure))
}

/// COMPAT: an unknown route and a wrong method look alike.
async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain")], "404 page not found").into_response()
}

#[cfg(test)]
mod tests;
