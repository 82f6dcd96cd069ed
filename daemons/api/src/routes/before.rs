//! What happens to a request before its route: measuring, CORS, admission, bounds, deadline (`spec/http-api.md` §2.4).

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Api;
use crate::error::ApiError;
use crate::limits::{BODIES_KIB_MAX, BODY_BYTES_MAX, REQUEST_DEADLINE, REQUESTS_MAX};
use crate::metrics::{ApiMetrics, Bound, Class};
use crate::status::Phase;

const ALLOW_HEADERS: &str = "Content-Type, Authorization, Content-Length, Accept-Encoding, X-CSRF-Token, token, accept, origin, \
                             Cache-Control, X-Requested-With, appid, noncestr, sign, timestamp";
const ALLOW_METHODS: &str = "POST, OPTIONS, GET, PUT,DELETE,PATCH";

/// Bounds on work under way, shared by all requests. At a bound the answer is 503.
#[derive(Debug, Clone)]
pub struct Bounds {
    requests: Arc<Semaphore>,
    bodies_kib: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        let kib = usize::try_from(BODIES_KIB_MAX).unwrap_or(usize::MAX);
        Self { requests: Arc::new(Semaphore::new(REQUESTS_MAX)), bodies_kib: Arc::new(Semaphore::new(kib)) }
    }
}

impl Bounds {
    /// Requests under way.
    #[must_use]
    pub fn requests(&self) -> usize {
        REQUESTS_MAX.saturating_sub(self.requests.available_permits())
    }
}

/// Counts and times every answer.
pub(super) async fn measure(State(metrics): State<ApiMetrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    metrics.request_seconds.observe(started.elapsed().as_secs_f64());
    metrics.answered(match response.status() {
        StatusCode::UNAUTHORIZED => Class::Unauthorized,
        StatusCode::SERVICE_UNAVAILABLE => Class::Unavailable,
        status if status.is_client_error() => Class::Refused,
        status if status.is_server_error() => Class::Failed,
        _ => Class::Ok,
    });
    response
}

/// Answers `OPTIONS` before the token is asked for, and puts the CORS headers on everything.
pub(super) async fn cors(request: Request, next: Next) -> Response {
    let mut response = if request.method() == Method::OPTIONS { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOW_HEADERS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOW_METHODS));
    response
}

/// Takes a request only while the node is admitted and the bounds have room, and ends it at its deadline. Probes always pass.
pub(super) async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let refuse = |bound, text| {
        api.metrics.refused(bound);
        ApiError::Unavailable(text).into_response()
    };
    match api.gate.phase() {
        Phase::Open => {}
        Phase::Starting => return refuse(Bound::Starting, "server is starting"),
        Phase::Quiescing => return refuse(Bound::Quiescing, "server is stopping"),
    }
    let Ok(_request) = api.bounds.requests.try_acquire() else { return refuse(Bound::Requests, "too many requests") };
    let Ok(_body) = api.bounds.bodies_kib.try_acquire_many(body_kib(&request)) else {
        return refuse(Bound::Bodies, "too many large requests");
    };
    api.metrics.requests_in_flight.inc();
    let answered = timeout(REQUEST_DEADLINE, next.run(request)).await;
    api.metrics.requests_in_flight.dec();
    // COMPAT: every internal failure of a business route is a 400.
    answered.unwrap_or_else(|_| ApiError::text("context deadline exceeded").into_response())
}

/// What a body may take. Unit: KiB, rounded up; a body of unknown length counts as the largest.
fn body_kib(request: &Request) -> u32 {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let bodiless = request.method() == Method::GET && length.is_none();
    let bytes = if bodiless { 0 } else { length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX) };
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
