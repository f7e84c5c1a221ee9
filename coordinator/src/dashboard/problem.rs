//! What went wrong, as a page like the others; and what every answer of the pages says to browsers.

use askama::Template;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use shared::api::Refusal;

use super::Dashboard;
use super::frame::{Frame, Section};

/// Only what comes from here is run, shown or sent to: no script in a page, whatever got into it, and no other site's
/// frame.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// Why there is no page.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    words: String,
}

impl Problem {
    /// What was asked for cannot be.
    pub(super) fn bad_request(error: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, words: error.to_string() }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, words: refusal.error }
    }
}

impl IntoResponse for Problem {
    /// It travels with the answer until [`finish`] makes a page of it.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Page {
    frame: Frame,
    words: String,
}

/// A template as an answer.
pub(super) fn show(page: &impl Template) -> Result<Response, Problem> {
    match page.render() {
        Ok(text) => Ok(Html(text).into_response()),
        Err(error) => Err(Problem { status: StatusCode::INTERNAL_SERVER_ERROR, words: error.to_string() }),
    }
}

/// Makes a page of a problem, and says to browsers what holds for all pages.
pub(super) async fn finish(State(dashboard): State<Dashboard>, mut response: Response) -> Response {
    if let Some(Problem { status, words }) = response.extensions_mut().remove::<Problem>() {
        let title = status.canonical_reason().unwrap_or("Error");
        let page = Page { frame: dashboard.frame(Section::None, title), words };
        response = (status, show(&page).unwrap_or_else(|problem| problem.words.into_response())).into_response();
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
