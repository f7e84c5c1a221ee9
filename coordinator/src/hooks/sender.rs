//! One attempt to send an event: signed, to where it may go, within a time.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use shared::api::hooks::HookAttempt;
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};
use tracing::warn;

use super::address::{Guarded, Rules};
use super::book::Definition;
use super::config::Config;
use super::secret::Secrets;
use crate::store::Stored;

/// How much of an answer is read, and how much of it is told.
const MOST_READ: usize = 16 << 10;
const MOST_TOLD: usize = 200;

/// Sends events.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    http: reqwest::Client,
    rules: Rules,
    timeout: Duration,
    longest_pause: Duration,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    /// The header `webhook-id`: the same each time.
    pub(crate) id: String,
    /// The event's sequence in the stream.
    pub(crate) event: Option<u64>,
    /// The event as it stands in the stream.
    pub(crate) body: Bytes,
}

impl Letter {
    /// An event of the stream, by its sequence and when it was stored, since 1970. Both together are its own, even if the
    /// stream is made anew.
    pub(crate) fn new(sequence: u64, stored: Duration, body: Bytes) -> Self {
        Self { id: format!("evt_{sequence}_{}", stored.as_millis()), event: Some(sequence), body }
    }
}

impl From<Stored> for Letter {
    fn from(stored: Stored) -> Self {
        Self::new(stored.sequence, stored.stored, stored.body)
    }
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// For the log; without an error, it was taken.
    pub(crate) told: HookAttempt,
    /// Whether the receiver says that it wants no more, ever.
    pub(crate) gone: bool,
    /// How long the receiver asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

/// An answer, as far as it matters.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    words: String,
}

impl Sender {
    /// One that goes by these settings.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        let rules = Rules::new(&config.allow);
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("Hivemesh/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                // A proxy would resolve names by itself, and connect wherever they lead.
                .no_proxy()
                .dns_resolver(Guarded(rules.clone()))
                .pool_max_idle_per_host(4)
        };
        let http = builder().build().or_else(|error| {
            // An image that is made from nothing has no certificates.
            warn!(
                error = crate::chain(&error),
                "no https webhook can be sent: name a file of certificates by SSL_CERT_FILE"
            );
            builder().tls_certs_only([]).build()
        });
        let http = http.context("failed to set up the sender of webhooks")?;
        Ok(Self { http, rules, timeout: config.timeout, longest_pause: config.longest_backoff })
    }

    /// Checks where a webhook is to be sent, as far as its URL tells.
    pub(crate) fn check_url(&self, url: &str) -> Result<(), String> {
        let url = Url::parse(url).map_err(|error| format!("`url` is not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!("`url` begins with `{}:`: write http:// or https:// and a host", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("`url` has a user or a password in it: send it as the header `Authorization`".to_owned());
        }
        self.rules.check_url(&url).map_err(|refused| refused.to_string())
    }

    /// Sends an event once, and says what came of it.
    pub(crate) async fn attempt(&self, to: &Definition, letter: &Letter) -> Attempt {
        self.attempt_within(to, letter, self.timeout).await
    }

    /// The same within another time, if that is shorter.
    pub(crate) async fn attempt_within(&self, to: &Definition, letter: &Letter, limit: Duration) -> Attempt {
        let (began, now) = (Instant::now(), SystemTime::now());
        let answer = self.send(to, letter, now, limit.min(self.timeout)).await;
        let (status, retry_after, error) = match answer {
            Ok(answer) => (Some(answer.status), answer.retry_after, answer.error()),
            Err(error) => (None, None, Some(format!("{error:#}"))),
        };
        let told = HookAttempt {
            time: humantime::format_rfc3339_millis(now).to_string(),
            webhook_id: letter.id.clone(),
            event: letter.event,
            status: status.map(|status| status.as_u16()),
            duration_ms: began.elapsed().as_millis() as u64,
            error,
        };
        let retry_after = retry_after.map(|pause| pause.min(self.longest_pause));
        Attempt { told, gone: status == Some(StatusCode::GONE), retry_after }
    }

    async fn send(&self, to: &Definition, letter: &Letter, now: SystemTime, limit: Duration) -> anyhow::Result<Answer> {
        // It may have been set by a coordinator with other settings.
        self.check_url(&to.url).map_err(anyhow::Error::msg)?;
        let mut headers = own_headers(to)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        sign(&mut headers, &to.secrets, letter, now)?;
        let request = self.http.post(&to.url).headers(headers).body(letter.body.clone()).timeout(limit);
        let response = request.send().await.map_err(|error| {
            let what = if error.is_timeout() { "no answer in time" } else { "failed to send it" };
            // The URL may hold a secret of the receiver's.
            anyhow::Error::new(error.without_url()).context(what)
        })?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| read_retry_after(value, now));
        Ok(Answer { status: response.status(), retry_after, words: read_some(response).await })
    }
}

impl Answer {
    /// Why it was not taken, unless it was.
    fn error(&self) -> Option<String> {
        if self.status.is_success() {
            return None;
        }
        let status = self.status;
        Some(if status.is_redirection() {
            format!("the receiver redirects ({status}), which is not followed: set the URL that it points to")
        } else if self.words.is_empty() {
            format!("the receiver says {status}")
        } else {
            format!("the receiver says {status}: {}", self.words)
        })
    }
}

fn own_headers(to: &Definition) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &to.headers {
        let parsed = HeaderName::try_from(name).context("a header's name")?;
        let mut value = HeaderValue::try_from(value).with_context(|| format!("the header `{name}`"))?;
        value.set_sensitive(true);
        headers.insert(parsed, value);
    }
    Ok(headers)
}

/// Signs by Standard Webhooks, with each secret that holds: whoever knows one of them can verify it.
fn sign(headers: &mut HeaderMap, secrets: &Secrets, letter: &Letter, now: SystemTime) -> anyhow::Result<()> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let timestamp = i64::try_from(seconds).unwrap_or(i64::MAX);
    let sign = |secret| Webhook::new(secret)?.sign(&letter.id, timestamp, &letter.body);
    let signatures: Result<Vec<String>, _> = secrets.valid(now).map(sign).collect();
    let signatures = signatures.context("failed to sign it")?.join(" ");
    headers.insert(HEADER_WEBHOOK_ID, letter.id.parse()?);
    headers.insert(HEADER_WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(HEADER_WEBHOOK_SIGNATURE, signatures.parse()?);
    Ok(())
}

/// Seconds, or a date.
fn read_retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default())
}

/// The beginning of an answer, in one line. What is longer than is read is not waited for.
async fn read_some(mut response: Response) -> String {
    let (mut begun, mut read) = (Vec::new(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        begun.extend_from_slice(&chunk[..chunk.len().min(MOST_TOLD - begun.len().min(MOST_TOLD))]);
        read += chunk.len();
        if read >= MOST_READ {
            break;
        }
    }
    shared::header::clean(&String::from_utf8_lossy(&begun), MOST_TOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const NEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn letter() -> Letter {
        Letter::new(17, Duration::from_millis(1_700_000_000_123), Bytes::from_static(b"{\"what\":\"led\"}"))
    }

    #[test]
    fn what_is_signed_can_be_verified_with_either_secret() {
        let now = SystemTime::now();
        let mut secrets = Secrets::new(SECRET.to_owned());
        secrets.rotate(NEXT.to_owned(), now + Duration::from_secs(60));
        let mut headers = HeaderMap::new();

        sign(&mut headers, &secrets, &letter(), now).unwrap();

        for secret in [SECRET, NEXT] {
            Webhook::new(secret).unwrap().verify(&letter().body, &headers).unwrap();
        }
        let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        assert!(Webhook::new(other).unwrap().verify(&letter().body, &headers).is_err());
    }

    #[test]
    fn an_event_has_the_same_id_each_time() {
        assert_eq!(letter().id, "evt_17_1700000000123");
    }

    #[test]
    fn a_pause_is_read_in_both_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_717);
        let read = |text: &'static str| read_retry_after(&HeaderValue::from_static(text), now);

        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn a_bad_url_is_refused_in_words() {
        let sender = Sender::new(&Config::default()).unwrap();

        for (url, why) in [
            ("example.org/hook", "not a URL"),
            ("ftp://example.org/", "write http:// or https://"),
            ("https://me:secret@example.org/", "Authorization"),
            ("http://127.0.0.1:9000/", "loopback"),
            ("http://[::ffff:10.0.0.1]/", "private"),
        ] {
            let refused = sender.check_url(url).unwrap_err();
            assert!(refused.contains(why), "{url}: {refused}");
        }
        assert_eq!(sender.check_url("https://example.org/hook?key=1"), Ok(()));
    }
}
