//! What stands before every request: by which name the coordinator is asked, how often, by whom, and from which page.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use governor::clock::Clock as _;
use governor::{DefaultKeyedRateLimiter, Quota};
use scheduler::Rate;
use tokio::sync::watch;

use super::access::Access;
use super::config::{Config, Token};
use super::login;
use super::problem::Problem;
use super::tokens;
use crate::api::Role;

/// Answers that tell who is well: they say nothing else, and are asked by all kinds of probes.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// How often one client may ask, unless the settings say so, where others than this host can.
const RATE: &str = "100/s";

/// Clients that are remembered before those are forgotten that have not asked of late.
const CLIENTS: usize = 10_000;

/// What every answer says to a browser unless it says something else itself.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Lets requests through, or not.
#[derive(Debug)]
pub(super) struct Guard {
    tokens: watch::Receiver<Arc<[Token]>>,
    hosts: Vec<String>,
    on_loopback: bool,
    is_encrypted: bool,
    limiter: Option<DefaultKeyedRateLimiter<Client>>,
}

/// Whom a rate is counted for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Token(String),
    Address(Option<IpAddr>),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Caller {
    /// Somebody with a token: whose it is, what it lets do, and whether a browser sends it by itself.
    Known { name: String, role: Role, by_cookie: bool },
    /// Somebody with something that is no token.
    Unknown,
    /// Somebody without.
    Nobody,
}

/// Lets a request through, or answers it.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => *refused,
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    /// A guard for an API that listens there.
    pub(super) fn new(
        config: &Config,
        address: SocketAddr,
        is_encrypted: bool,
        tokens: watch::Receiver<Arc<[Token]>>,
    ) -> Self {
        let on_loopback = address.ip().is_loopback();
        let usual = if on_loopback { None } else { RATE.parse().ok() };
        let limiter = config.rate.or(usual).and_then(quota).map(DefaultKeyedRateLimiter::keyed);
        Self { tokens, hosts: config.hosts.clone(), on_loopback, is_encrypted, limiter }
    }

    /// Whether connections are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Whether a text is a token that is let in, or none is needed.
    pub(super) fn knows(&self, secret: &str) -> bool {
        tokens::find(&self.tokens.borrow(), secret).is_some()
    }

    /// Whether anybody needs a token.
    pub(super) fn has_tokens(&self) -> bool {
        !self.tokens.borrow().is_empty()
    }

    fn admit(&self, request: &Request) -> Result<(), Box<Response>> {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        if path.is_some_and(|path| PROBES.contains(&path)) {
            return Ok(());
        }
        let caller = self.caller(request.headers());
        self.check_host(request, &caller).map_err(refused)?;
        self.check_rate(request, &caller)?;
        self.check_role(request, path, &caller)?;
        check_origin(request, &caller).map_err(refused)
    }

    fn caller(&self, headers: &HeaderMap) -> Caller {
        let (secret, by_cookie) = match (bearer(headers), login::cookie(headers)) {
            (Some(secret), _) => (secret, false),
            (None, Some(secret)) => (secret, true),
            (None, None) => return Caller::Nobody,
        };
        match tokens::find(&self.tokens.borrow(), secret) {
            Some(token) => Caller::Known { name: token.name.clone(), role: token.role, by_cookie },
            None => Caller::Unknown,
        }
    }

    /// A page of somebody else's can let its name lead to us (DNS rebinding), and then it is of our origin. It cannot know
    /// a token.
    fn check_host(&self, request: &Request, caller: &Caller) -> Result<(), Problem> {
        if matches!(caller, Caller::Known { by_cookie: false, .. }) {
            return Ok(());
        }
        let named = host(request).map(name_of).unwrap_or("localhost");
        let is_ours = named.parse::<IpAddr>().is_ok()
            || named.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(named));
        if is_ours {
            return Ok(());
        }
        let named = named.escape_debug();
        Err(Problem::new(
            421,
            format!("`{named}` is not a name of this coordinator: add it to `[http] hosts`, or use its address"),
        ))
    }

    fn check_rate(&self, request: &Request, caller: &Caller) -> Result<(), Box<Response>> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let client = match caller {
            Caller::Known { name, .. } => Client::Token(name.clone()),
            Caller::Unknown | Caller::Nobody => Client::Address(
                request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip()),
            ),
        };
        if limiter.len() > CLIENTS {
            limiter.retain_recent();
        }
        limiter.check_key(&client).map_err(|not_until| {
            let wait = not_until.wait_time_from(limiter.clock().now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let detail = format!("you ask for more than `[http] rate` lets you: ask again in {seconds} s");
            let mut response = Problem::new(429, detail).into_response();
            response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
            Box::new(response)
        })
    }

    fn check_role(&self, request: &Request, path: Option<&str>, caller: &Caller) -> Result<(), Box<Response>> {
        let wanted = match Access::of(request.method(), path) {
            Access::Open => return Ok(()),
            Access::OpenOnLoopback if self.on_loopback => return Ok(()),
            Access::OpenOnLoopback => Role::Read,
            Access::For(role) => role,
        };
        if !self.has_tokens() {
            return Ok(());
        }
        match caller {
            Caller::Known { role, .. } if *role >= wanted => Ok(()),
            Caller::Known { name, role, .. } => {
                let detail = format!("this takes the role `{wanted}`, and the token `{name}` has `{role}`");
                Err(refused(Problem::new(403, detail)))
            }
            Caller::Unknown | Caller::Nobody if wants_page(request) => Err(Box::new(login::page_for(request.uri()))),
            Caller::Unknown => Err(unauthorised("the token is not known here: `coordinator auth token` makes one")),
            Caller::Nobody => Err(unauthorised("this takes a token: send `Authorization: Bearer <token>`")),
        }
    }
}

fn refused(problem: Problem) -> Box<Response> {
    Box::new(problem.into_response())
}

fn unauthorised(detail: &str) -> Box<Response> {
    let mut response = Problem::new(401, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Box::new(response)
}

/// Whether a person at a browser wants to see something.
fn wants_page(request: &Request) -> bool {
    let accepted = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    *request.method() == Method::GET && accepted.contains("text/html")
}

/// A browser sends cookies by itself, and reaches loopback from any page: what changes something has to come from a page of
/// ours, or from no browser.
fn check_origin(request: &Request, caller: &Caller) -> Result<(), Problem> {
    let only_looks = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if only_looks || matches!(caller, Caller::Known { by_cookie: false, .. }) {
        return Ok(());
    }
    let get = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("null"));
    let is_ours = match (get("sec-fetch-site"), get("origin")) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let place = origin.split_once("://").map(|(_, place)| place);
            place.is_some() && place == host(request)
        }
        (None, None) => true,
    };
    if is_ours { Ok(()) } else { Err(Problem::new(403, "a page of another origin may not change anything here")) }
}

/// By what the coordinator is asked, with the port.
fn host(request: &Request) -> Option<&str> {
    let said = request.headers().get(header::HOST).map(|value| value.to_str().unwrap_or("?"));
    said.or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str))
}

/// The same without the port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}

/// A second's worth at once.
fn quota(rate: Rate) -> Option<Quota> {
    let interval = rate.interval();
    let burst = (Duration::from_secs(1).as_secs_f64() / interval.as_secs_f64()).clamp(1.0, 1e6);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let burst = NonZeroU32::new(burst as u32)?;
    Some(Quota::with_period(interval)?.allow_burst(burst))
}

/// A page that leads to another.
pub(super) fn lead_to(path: &str) -> Response {
    Redirect::to(path).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::http::tokens::NewToken;

    const ANYWHERE: &str = "0.0.0.0:8080";
    const LOOPBACK: &str = "127.0.0.1:8080";

    fn guard(address: &str, config: &Config, tokens: Vec<Token>) -> Guard {
        Guard::new(config, address.parse().unwrap(), false, watch::channel(tokens.into()).1)
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let request = Request::builder().method(method).uri(path);
        let with = |request: axum::http::request::Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        headers.iter().fold(request, with).body(Body::empty()).unwrap()
    }

    fn answer(guard: &Guard, method: &str, headers: &[(&str, &str)]) -> u16 {
        guard.admit(&request(method, "/v1/agents", headers)).map_or_else(|refused| refused.status().as_u16(), |()| 200)
    }

    fn token(role: Role) -> (Token, String) {
        let new = NewToken::generate().unwrap();
        (Token { name: role.to_string(), role, sha256: new.hash }, format!("Bearer {}", new.secret))
    }

    #[test]
    fn without_tokens_everybody_on_this_host_may_do_everything() {
        let guard = guard(LOOPBACK, &Config::default(), Vec::new());

        assert_eq!(answer(&guard, "GET", &[("host", "127.0.0.1:8080")]), 200);
        assert_eq!(answer(&guard, "POST", &[("host", "localhost:8080")]), 200);
    }

    #[test]
    fn a_token_lets_do_what_its_role_may() {
        let ((reader, read), (operator, operate)) = (token(Role::Read), token(Role::Operate));
        let guard = guard(ANYWHERE, &Config::default(), vec![reader, operator]);
        let with = |method, bearer: &str| answer(&guard, method, &[("authorization", bearer)]);

        assert_eq!([with("GET", &read), with("POST", &read)], [200, 403]);
        assert_eq!([with("GET", &operate), with("POST", &operate)], [200, 200]);
        assert_eq!([with("GET", "Bearer hive_guess"), answer(&guard, "GET", &[])], [401, 401]);
    }

    #[test]
    fn another_site_changes_nothing_with_or_without_a_cookie() {
        let (admin, bearer) = token(Role::Admin);
        let cookie = format!("a=b; {}={}", login::COOKIE, bearer.strip_prefix("Bearer ").unwrap());
        let (open, guarded) =
            (guard(LOOPBACK, &Config::default(), Vec::new()), guard(LOOPBACK, &Config::default(), vec![admin]));

        for guard in [&open, &guarded] {
            let with = |name: &str, value: &str| {
                answer(guard, "POST", &[("host", "127.0.0.1:8080"), ("cookie", cookie.as_str()), (name, value)])
            };
            assert_eq!(with("origin", "http://evil.example"), 403);
            assert_eq!(with("origin", "null"), 403);
            assert_eq!(with("sec-fetch-site", "cross-site"), 403);
            assert_eq!(with("sec-fetch-site", "same-site"), 403);
            assert_eq!(with("origin", "http://127.0.0.1:8080"), 200);
            assert_eq!(with("sec-fetch-site", "same-origin"), 200);
        }
        let headers = [("authorization", bearer.as_str()), ("origin", "http://evil.example")];
        assert_eq!(answer(&guarded, "POST", &headers), 200, "a page cannot send what it does not know");
    }

    #[test]
    fn a_name_of_somebody_elses_is_refused() {
        let config = Config { hosts: vec!["hive.example.org".to_owned()], ..Config::default() };
        let guard = guard(LOOPBACK, &config, Vec::new());
        let asked_by = |host: &str| answer(&guard, "GET", &[("host", host)]);

        for good in ["127.0.0.1:8080", "[::1]:8080", "LocalHost", "Hive.example.org:80", "10.0.0.1"] {
            assert_eq!(asked_by(good), 200, "{good}");
        }
        for bad in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert_eq!(asked_by(bad), 421, "{bad}");
        }
    }

    #[test]
    fn who_asks_too_often_is_told_when_to_ask_again() {
        let config = Config { rate: "2/s".parse().ok(), ..Config::default() };
        let guard = guard(LOOPBACK, &config, Vec::new());

        let answers = [(); 4].map(|()| answer(&guard, "GET", &[]));
        let refused = guard.admit(&request("GET", "/v1/agents", &[])).unwrap_err();

        assert_eq!(answers[..2], [200, 200]);
        assert_eq!(answers[3], 429);
        assert_eq!(refused.headers()["retry-after"], "1");
    }

    #[test]
    fn a_person_at_a_browser_is_led_to_the_login() {
        let (reader, _) = token(Role::Read);
        let guard = guard(ANYWHERE, &Config::default(), vec![reader]);

        let led = guard.admit(&request("GET", "/tasks?a=b", &[("accept", "text/html,*/*")])).unwrap_err();

        assert_eq!(
            (led.status().as_u16(), &led.headers()["location"]),
            (303, &HeaderValue::from_static("/login?next=%2Ftasks%3Fa%3Db"))
        );
    }
}
