//! The OpenAPI document and the page that shows it; everything is in the binary, nothing comes from the internet.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

/// Head of the document; the routes add themselves.
#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "WuKongIM",
    description = "HTTP API of the WuKongIM server. Flags are the integers 0 and 1; payloads are standard base64. With a configured \
                   managerToken every request carries it in the header `token`."
))]
struct Document;

/// The document without routes.
#[must_use]
pub fn document() -> OpenApi {
    Document::openapi()
}

/// `/docs` and `/docs/openapi.json`. In release mode both answer 403 (COMPAT).
pub fn router(document: OpenApi, release: bool) -> Router {
    if release {
        let forbidden = || async { StatusCode::FORBIDDEN };
        return Router::new().route("/docs", get(forbidden)).route("/docs/", get(forbidden)).route("/docs/{*rest}", get(forbidden));
    }
    SwaggerUi::new("/docs").url("/docs/openapi.json", document).into()
}
