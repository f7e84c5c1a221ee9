//! The OpenAPI document, and a page to try what it says: Swagger UI, which is built in and needs no internet.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use utoipa_swagger_ui::Config;

use super::guard::lead_to;
use super::problem::Problem;

/// The document and the page.
pub(super) fn router() -> Router {
    Router::new()
        .route("/openapi.json", get(document))
        .route("/docs", get(|| async { lead_to("/docs/") }))
        .route("/docs/", get(|| async { page("index.html") }))
        .route("/docs/{*file}", get(|Path(file): Path<String>| async move { page(&file) }))
}

async fn document() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| crate::api::document().to_string().into());
    ([(CONTENT_TYPE, "application/json")], TEXT.clone()).into_response()
}

fn page(file: &str) -> Response {
    let config = Config::new(["/openapi.json"]).try_it_out_enabled(true).validator_url("none");
    let Ok(Some(found)) = utoipa_swagger_ui::serve(file, Arc::new(config)) else {
        return Problem::new(404, format!("the documentation has no file `{}`", file.escape_debug())).into_response();
    };
    let mut response = ([(CONTENT_TYPE, found.content_type)], found.bytes.into_owned()).into_response();
    if found.gzpipped {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_there_and_leads_to_our_own_document_and_nowhere_else() {
        let initializer = String::from_utf8(
            utoipa_swagger_ui::serve(
                "swagger-initializer.js",
                Arc::new(Config::new(["/openapi.json"]).validator_url("none")),
            )
            .unwrap()
            .unwrap()
            .bytes
            .into_owned(),
        )
        .unwrap();

        assert!(initializer.contains("/openapi.json") && !initializer.contains("petstore"), "{initializer}");
        assert_eq!(page("index.html").status(), 200);
        assert_eq!(page("../secret").status(), 404);
    }
}
