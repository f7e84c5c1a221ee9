//! Errors as RFC 9457 problem details.

use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::api::Refusal;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(crate) fn new(code: u16, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, detail: detail.into() }
    }

    /// Something in the request is not as it should be.
    pub(crate) fn bad_request(error: impl std::fmt::Display) -> Self {
        Self::new(400, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Details<'a> {
            title: &'a str,
            status: u16,
            detail: &'a str,
        }
        let title = self.status.canonical_reason().unwrap_or("error");
        let details = Details { title, status: self.status.as_u16(), detail: &self.detail };
        let body = serde_json::to_vec(&details).unwrap_or_default();
        (self.status, [(CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.error)
    }
}

/// Nothing is there.
pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::new(404, format!("there is nothing at `{}`: see /openapi.json", uri.path().escape_debug()))
}

/// Something is there, and this cannot be done with it.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let (method, path) = (method.as_str().escape_debug().to_string(), uri.path().escape_debug());
    Problem::new(405, format!("{method} cannot be done with `{path}`: the header `Allow` says what can"))
}
