//! Runs attempts by a service: POST of the body to a URL, whose answer is the output.

use async_nats::HeaderMap;
use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};
use shared::header;

use super::{Assignment, Failure, passed_through, too_much_output, within};

/// How much of the answer to a failed request is told.
const EXCERPT_BYTES: usize = 512;

/// Headers that describe the connection and its framing: a submitter's never reach the service.
const OF_THE_CONNECTION: [&str; 13] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "http2-settings",
];

/// A service that takes a POST for each attempt.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client,
    url: Url,
    headers: reqwest::header::HeaderMap,
}

impl Http {
    /// A handler that posts to the URL, with these headers in each request.
    pub fn new(url: Url, headers: reqwest::header::HeaderMap) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("hivemesh-agent/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, url, headers })
    }

    pub(super) async fn run(&self, assignment: &mut Assignment) -> Result<Bytes, Failure> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.request_headers(assignment))
            .body(std::mem::take(&mut assignment.work.body));
        let limit = assignment.output_limit;
        within(assignment.timeout, &mut assignment.stop, async {
            let response = request.send().await.map_err(|e| Failure::Failed(chain("the request failed", &e)))?;
            answer(response, limit).await
        })
        .await
    }

    fn request_headers(&self, assignment: &Assignment) -> reqwest::header::HeaderMap {
        let mut headers = submitters_headers(&assignment.work.headers);
        let order = &assignment.order;
        let own = [
            (header::TASK, order.task.as_str()),
            (header::KIND, order.kind.as_str()),
            (header::AGENT, assignment.agent.as_str()),
            (header::ATTEMPT, &order.attempt.to_string()),
        ];
        for (name, value) in own.iter().filter_map(|(name, value)| http_header(name, value)) {
            headers.insert(name, value);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }
}

fn submitters_headers(headers: &HeaderMap) -> reqwest::header::HeaderMap {
    passed_through(headers)
        .filter_map(|(name, value)| http_header(name, value))
        .filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str()))
        .collect()
}

/// The header for HTTP; one that HTTP cannot carry is left out.
fn http_header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?))
}

async fn answer(mut response: Response, limit: usize) -> Result<Bytes, Failure> {
    let status = response.status();
    let limit_here = if status.is_success() { limit } else { EXCERPT_BYTES };
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Failure::Failed(chain("the answer broke off", &e)))? {
        body.extend_from_slice(&chunk);
        if body.len() > limit_here {
            break;
        }
    }
    if !status.is_success() {
        let excerpt = header::clean(&String::from_utf8_lossy(&body), EXCERPT_BYTES);
        return Err(Failure::Failed(format!("HTTP status {status}: {excerpt}").trim_end_matches(": ").to_owned()));
    }
    if body.len() > limit { Err(Failure::Failed(too_much_output(body.len(), limit))) } else { Ok(body.freeze()) }
}

fn chain(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
