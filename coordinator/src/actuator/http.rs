//! Agents that a service of the operator's own starts and ends: told by a webhook, signed as Standard Webhooks has it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use shared::{AgentId, header};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook, WebhookError};

use super::{Owner, Start};

/// How much of a refusal's body is told.
const EXCERPT_BYTES: usize = 512;

/// Settings of `type = "http"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where the service takes a POST.
    pub url: String,
    /// A file that holds the secret by which requests are signed: `whsec_` and base64.
    pub secret_file: PathBuf,
    /// How long the service may take to answer.
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    pub timeout: Duration,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let is_http = Url::parse(&self.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_http {
            problems.push(format!("url: `{}` is none: write https://host/path", self.url));
        }
        if self.secret_file.as_os_str().is_empty() {
            problems.push("secret-file: requests must be signed: name the file that holds the secret".into());
        }
        if self.timeout.is_zero() {
            problems.push("timeout: nobody could answer: write 1s or more".into());
        }
        problems
    }
}

/// Why the service did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no client for it.
    #[error("failed to set up HTTP")]
    Client(#[source] reqwest::Error),
    /// The secret cannot be read.
    #[error("failed to read the secret in `{}`", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The secret is none.
    #[error("`{}` holds no secret: write `whsec_` and 24 or more bytes in base64 into it", path.display())]
    NoSecret {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Option<WebhookError>,
    },
    /// It was not reached, or did not answer.
    #[error("`{url}` was not asked, or did not answer in time")]
    Request {
        /// Where.
        url: String,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// It says no.
    #[error("`{url}` answered {status}{}", what_it_said(.said))]
    Refused {
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        said: String,
    },
}

fn what_it_said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// What the service is told.
#[derive(Debug, Serialize)]
struct Body<'a> {
    mesh: &'a str,
    pool: &'a str,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<u64>,
    count: u32,
    wished: u32,
    agents: &'a [AgentId],
}

/// The service of one pool.
#[derive(Debug)]
pub(super) struct Hook {
    owner: Owner,
    config: Config,
    client: Client,
}

impl Hook {
    pub(super) fn new(owner: Owner, config: &Config) -> Result<Self, Error> {
        shared::connect::choose_cryptography();
        let client = Client::builder()
            // What is signed for one place is not for another.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(config.timeout)
            .user_agent(concat!("hivemesh-coordinator/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Client)?;
        Ok(Self { owner, config: config.clone(), client })
    }

    pub(super) async fn start(&self, start: &Start) -> Result<(), Error> {
        let Start { order, count, wished } = *start;
        // The same for the same order: whoever is told twice sees that.
        let id = format!("{}:{}:{order}", self.owner.mesh, self.owner.pool);
        let body = Body { order: Some(order), count, ..self.body("start", &[], wished) };
        self.post(&id, &body).await
    }

    pub(super) async fn leaving(&self, agents: &[AgentId], wished: u32) -> Result<(), Error> {
        self.post(&any_id(), &self.body("leaving", agents, wished)).await
    }

    pub(super) async fn remove(&self, agents: &[AgentId], wished: u32) -> Result<(), Error> {
        self.post(&any_id(), &self.body("remove", agents, wished)).await
    }

    fn body<'a>(&'a self, action: &'a str, agents: &'a [AgentId], wished: u32) -> Body<'a> {
        let Owner { mesh, pool } = &self.owner;
        Body { mesh: mesh.as_str(), pool, action, order: None, count: agents.len() as u32, wished, agents }
    }

    async fn post(&self, id: &str, body: &Body<'_>) -> Result<(), Error> {
        let url = self.shown_url();
        let body = serde_json::to_vec(body).expect("it is plain data");
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = self.sign(id, timestamp.cast_signed(), &body).await?;
        let request = self
            .client
            .post(&self.config.url)
            .header(CONTENT_TYPE, "application/json")
            .header(HEADER_WEBHOOK_ID, id)
            .header(HEADER_WEBHOOK_TIMESTAMP, timestamp)
            .header(HEADER_WEBHOOK_SIGNATURE, signature)
            .body(body);
        let answered = request.send().await;
        let response = answered.map_err(|source| Error::Request { url: url.clone(), source: source.without_url() })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(Error::Refused { url, status, said: excerpt(response).await })
    }

    /// The secret is read each time: another one holds from the next request on.
    async fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Result<String, Error> {
        let path = &self.config.secret_file;
        let secret = tokio::fs::read_to_string(path).await;
        let secret = secret.map_err(|source| Error::Secret { path: path.clone(), source })?;
        let secret = secret.trim();
        if secret.is_empty() {
            return Err(Error::NoSecret { path: path.clone(), source: None });
        }
        let signed = Webhook::new(secret).and_then(|hook| hook.sign(id, timestamp, body));
        signed.map_err(|source| Error::NoSecret { path: path.clone(), source: Some(source) })
    }

    /// A password in the address, or a token behind it, is nobody's business.
    fn shown_url(&self) -> String {
        let Ok(mut url) = Url::parse(&self.config.url) else { return String::new() };
        // Neither can fail for an address of HTTP.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.to_string()
    }
}

fn any_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

async fn excerpt(mut response: reqwest::Response) -> String {
    let mut body = Vec::new();
    while body.len() < EXCERPT_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    header::clean(&String::from_utf8_lossy(&body), EXCERPT_BYTES)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::extract::State;
    use axum::http::HeaderMap;
    use axum::routing::post;
    use bytes::Bytes;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    type Request = (HeaderMap, Bytes);

    /// A service that answers with this status, and what it hears.
    async fn service(status: u16, said: &'static str) -> (String, mpsc::UnboundedReceiver<Request>) {
        let (heard, hears) = mpsc::unbounded_channel::<Request>();
        let answer = move |State(heard): State<mpsc::UnboundedSender<Request>>, headers: HeaderMap, body: Bytes| async move {
            heard.send((headers, body)).unwrap();
            (axum::http::StatusCode::from_u16(status).unwrap(), said)
        };
        let app = axum::Router::new().route("/scale", post(answer)).with_state(heard);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://me:password@{}/scale?token=x", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (url, hears)
    }

    fn hook(url: &str, dir: &Path) -> Hook {
        let secret_file = dir.join("secret");
        std::fs::write(&secret_file, format!("{SECRET}\n")).unwrap();
        let owner = Owner { mesh: "hive".parse().unwrap(), pool: "workers".to_owned() };
        Hook::new(owner, &Config { url: url.to_owned(), secret_file, timeout: ten_seconds() }).unwrap()
    }

    #[tokio::test]
    async fn the_service_is_told_what_to_do_and_can_check_who_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (url, mut heard) = service(204, "").await;
        let hook = hook(&url, dir.path());

        hook.start(&Start { order: 7, count: 2, wished: 5 }).await.unwrap();
        hook.start(&Start { order: 7, count: 2, wished: 5 }).await.unwrap();
        hook.remove(&[AgentId::new("ada").unwrap()], 4).await.unwrap();

        let [(headers, start), (again, _), (removing, remove)] =
            [heard.recv().await.unwrap(), heard.recv().await.unwrap(), heard.recv().await.unwrap()];
        let checks = Webhook::new(SECRET).unwrap();
        checks.verify(&start, &headers).unwrap();
        checks.verify(&remove, &removing).unwrap();
        assert!(checks.verify(b"{}", &headers).is_err());
        assert_eq!(headers[HEADER_WEBHOOK_ID], again[HEADER_WEBHOOK_ID], "what is ordered twice can be told");
        let read = |body: &Bytes| serde_json::from_slice::<serde_json::Value>(body).unwrap();
        let said = serde_json::json!({
            "mesh": "hive", "pool": "workers", "action": "start", "order": 7, "count": 2, "wished": 5, "agents": []
        });
        assert_eq!(read(&start), said);
        let said = serde_json::json!({
            "mesh": "hive", "pool": "workers", "action": "remove", "count": 1, "wished": 4, "agents": ["ada"]
        });
        assert_eq!(read(&remove), said);
    }

    #[tokio::test]
    async fn a_service_that_says_no_is_quoted_without_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let (url, _heard) = service(507, "no room\nleft").await;

        let error = hook(&url, dir.path()).start(&Start { order: 1, count: 1, wished: 1 }).await.unwrap_err();

        let text = error.to_string();
        assert!(text.contains("507") && text.ends_with(": no room left"), "{text}");
        assert!(!text.contains("password") && !text.contains("token"), "{text}");
    }

    #[tokio::test]
    async fn a_redirect_is_no_success() {
        let dir = tempfile::tempdir().unwrap();
        let (url, _heard) = service(308, "").await;

        let error = hook(&url, dir.path()).leaving(&[], 1).await.unwrap_err();

        assert!(matches!(error, Error::Refused { status, .. } if status == StatusCode::PERMANENT_REDIRECT));
    }

    #[tokio::test]
    async fn without_a_secret_nobody_is_told_anything() {
        let dir = tempfile::tempdir().unwrap();
        let (url, mut heard) = service(204, "").await;
        let hook = hook(&url, dir.path());

        for (secret, is_told) in [("", "holds no secret"), ("not base64!", "holds no secret")] {
            std::fs::write(&hook.config.secret_file, secret).unwrap();
            let error = hook.leaving(&[], 1).await.unwrap_err();
            assert!(error.to_string().contains(is_told), "{error}");
        }
        std::fs::remove_file(&hook.config.secret_file).unwrap();
        assert!(matches!(hook.leaving(&[], 1).await, Err(Error::Secret { .. })));
        assert!(heard.try_recv().is_err());
    }

    #[test]
    fn an_address_must_be_one_of_http() {
        let config = |url: &str| Config { url: url.to_owned(), secret_file: "a".into(), timeout: ten_seconds() };

        assert!(config("https://example.org/scale").problems().is_empty());
        assert_eq!(config("example.org").problems().len(), 1);
        assert_eq!(config("ftp://example.org").problems().len(), 1);
    }
}
