//! REST, as the table of operations has it: one place reads a request's path, query and body, and answers.

use std::sync::Arc;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use super::problem::Problem;
use super::raw;
use crate::api::{Body, Operation, Route, Services, Written, table};

/// The most that a body of JSON may be.
const JSON_LIMIT: usize = 8 << 20;

/// How much more of a body is read that is too large.
const PASSED_OVER: usize = 16 << 20;

/// Where an operation is, and how its request is read.
#[derive(Clone)]
struct Place {
    services: Services,
    operation: &'static Operation,
    route: &'static Route,
    written: Arc<Written>,
}

/// All operations, and tasks and results as bytes.
pub(super) fn router(services: &Services) -> Router {
    let mut router = raw::router(services);
    for operation in table() {
        let written = Arc::new(Written::of(operation));
        for route in &operation.routes {
            let place = Place { services: services.clone(), operation, route, written: written.clone() };
            let method = MethodFilter::try_from(route.method.clone()).expect("the table has methods of HTTP");
            let is_raw = (operation.noun, operation.verb) == ("task", "get");
            let handler = move |params: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
                let place = place.clone();
                async move {
                    match params {
                        Ok(params) if is_raw => raw::task(place.services, &params, request).await,
                        Ok(params) => place.answer(&params, request).await,
                        Err(error) => Err(Problem::bad_request(error.body_text())),
                    }
                }
            };
            router = router.route(route.path, on(method, handler));
        }
    }
    router
}

impl Place {
    async fn answer(self, params: &RawPathParams, request: Request) -> Result<Response, Problem> {
        let asked = self.read(params, request).await?;
        let answer = self.services.call(self.operation, asked).await?;
        Ok(json(self.route.status, answer))
    }

    /// The request, wherever its fields are.
    async fn read(&self, params: &RawPathParams, request: Request) -> Result<Value, Problem> {
        let (parts, body) = request.into_parts();
        let mut asked = Map::new();
        for (name, text) in params {
            let is_taken_apart = self.route.place.is_some();
            let value = if is_taken_apart { Ok(text.into()) } else { self.written.read(name, text) };
            asked.insert(name.to_owned(), value.map_err(Problem::bad_request)?);
        }
        if let Some(place) = self.route.place {
            place(&mut asked)?;
        }
        self.read_query(parts.uri.query().unwrap_or_default(), &mut asked)?;
        if let Some(field) = self.route.key
            && let Some(key) = parts.headers.get("idempotency-key")
        {
            asked.insert(field.to_owned(), text_of("Idempotency-Key", key)?.into());
        }
        self.read_body(&parts.headers, body, &mut asked).await?;
        Ok(Value::Object(asked))
    }

    fn read_query(&self, query: &str, asked: &mut Map<String, Value>) -> Result<(), Problem> {
        for (name, text) in form_urlencoded::parse(query.as_bytes()) {
            if self.route.body != Body::None || self.route.place.is_some() {
                let detail = format!("query: unknown field `{}`: there is none here", name.escape_debug());
                return Err(Problem::bad_request(detail));
            }
            let value = self.written.read(&name, &text).map_err(Problem::bad_request)?;
            if asked.insert(name.clone().into_owned(), value).is_some() {
                return Err(Problem::bad_request(format!("`{}` is given twice", name.escape_debug())));
            }
        }
        Ok(())
    }

    async fn read_body(
        &self,
        headers: &HeaderMap,
        body: HttpBody,
        asked: &mut Map<String, Value>,
    ) -> Result<(), Problem> {
        let whole = match self.route.body {
            Body::None => return Ok(()),
            Body::Fields => None,
            Body::Whole(field) => Some(field),
        };
        check_type(headers)?;
        let bytes = bytes_of(body, JSON_LIMIT).await?;
        let not_json = |error| Problem::bad_request(format!("the body is not JSON: {error}"));
        let said: Value = if bytes.is_empty() && whole.is_none() {
            Value::Object(Map::new())
        } else {
            serde_json::from_slice(&bytes).map_err(not_json)?
        };
        match (whole, said) {
            (Some(field), said) => drop(asked.insert(field.to_owned(), said)),
            (None, Value::Object(fields)) => {
                for (name, value) in fields {
                    if asked.contains_key(&name) {
                        let detail = format!("`{}` is in the body, and elsewhere too", name.escape_debug());
                        return Err(Problem::bad_request(detail));
                    }
                    asked.insert(name, value);
                }
            }
            (None, _) => return Err(Problem::bad_request("the body is not a JSON object")),
        }
        Ok(())
    }
}

/// JSON is read as such, however it is called; what is called something else is not.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(named) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let named = named.to_str().unwrap_or("?");
    let essence = named.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    let detail = format!(
        "the body is read as JSON, and not as `{}`: send `Content-Type: application/json`",
        named.escape_debug()
    );
    Err(Problem::new(415, detail))
}

/// A body, if it is no larger than it may be. One that is is read for a while all the same: who is cut off while sending may
/// not see the answer.
pub(super) async fn bytes_of(body: HttpBody, limit: usize) -> Result<Bytes, Problem> {
    let (mut chunks, mut bytes, mut size) = (body.into_data_stream(), Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let unreadable = |error| Problem::bad_request(format!("the body cannot be read: {}", crate::chain(&error)));
        let chunk = chunk.map_err(unreadable)?;
        size += chunk.len();
        if size <= limit {
            bytes.extend_from_slice(&chunk);
        } else if size > limit + PASSED_OVER {
            break;
        }
    }
    if size > limit {
        return Err(Problem::new(413, format!("the body is larger than the {limit} bytes that are taken here")));
    }
    Ok(bytes.into())
}

/// A header's value as a text.
pub(super) fn text_of(name: &str, value: &axum::http::HeaderValue) -> Result<String, Problem> {
    let text = value.to_str().map_err(|_| Problem::bad_request(format!("header `{name}` is not plain text")))?;
    Ok(text.to_owned())
}

/// An answer of JSON.
pub(super) fn json(status: u16, answer: Bytes) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    (status, [(CONTENT_TYPE, "application/json")], answer).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn typed(named: &'static str) -> Result<(), Problem> {
        check_type(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(named))]))
    }

    #[test]
    fn json_is_read_and_nothing_else() {
        for good in ["application/json", "application/json; charset=utf-8", "application/merge-patch+json"] {
            assert_eq!(typed(good), Ok(()), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "json"] {
            assert!(typed(bad).is_err(), "{bad}");
        }
        assert_eq!(check_type(&HeaderMap::new()), Ok(()));
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_told_as_such() {
        let body = || HttpBody::from("12345");

        assert_eq!(bytes_of(body(), 5).await.unwrap(), "12345");
        assert_eq!(
            bytes_of(body(), 4).await.unwrap_err(),
            Problem::new(413, "the body is larger than the 4 bytes that are taken here")
        );
    }
}
