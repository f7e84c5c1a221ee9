//! The HTTP side keeps out whom it should: tokens and roles, other sites, other names, TLS, and what is too much.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_tests::{BUILTINS, Mesh, mesh, program};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, StatusCode, redirect};
use serde_json::{Value, json};
use tokio::process::Child;

/// How often it is looked whether a state has come.
const LOOK: Duration = Duration::from_millis(20);

/// A coordinator that stands by on a mesh, with settings of its own. It ends with the test.
struct Served {
    url: String,
    config: PathBuf,
    client: Client,
    _process: Child,
}

/// A token as `coordinator auth token` makes it: the secret, and the lines for the settings.
async fn token(role: &str) -> (String, String) {
    let made = program::run(&["auth", "token", "--role", role, "--name", role, "--json"]).await.succeeded().json();
    let hash = made["settings"]["sha256"].as_str().unwrap();
    let lines = format!("[[http.tokens]]\nname = \"{role}\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n");
    (made["token"].as_str().unwrap().to_owned(), lines)
}

impl Served {
    async fn start(mesh: &Mesh, name: &str, settings: &str) -> Self {
        Self::start_with(mesh, name, settings, "http", Client::builder()).await
    }

    async fn start_with(mesh: &Mesh, name: &str, settings: &str, scheme: &str, client: reqwest::ClientBuilder) -> Self {
        let file = |ending: &str| mesh.dir().join(format!("{name}.{ending}"));
        let (config, address) = (file("toml"), file("address"));
        std::fs::write(&config, settings).unwrap();
        let (nats, paths) = (mesh.nats_url(), [&config, &address].map(|path| path.display().to_string()));
        let mut command = program::command(&["serve", "--nats", &nats, "--http", "127.0.0.1:0", "--config", &paths[0]]);
        let command = command.args(["--http-address-file", &paths[1]]).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let client = client.redirect(redirect::Policy::none()).build().unwrap();
        let url =
            until("it listens", async || std::fs::read_to_string(&address).ok().filter(|url| !url.is_empty())).await;
        let served = Self { url: format!("{scheme}://{url}"), config, client, _process: process };
        until("it is well", async || served.get("/healthz").send().await.ok().filter(|a| a.status().is_success()))
            .await;
        served
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }
}

/// Waits for something to be there.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < mesh::PATIENCE, "it has not come that {what}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// Sends a request, whose answer must be problem details with this status.
async fn problem(request: RequestBuilder, status: u16) -> (HeaderMap, String) {
    let answer = request.send().await.unwrap();
    let (code, headers, text) = (answer.status(), answer.headers().clone(), answer.text().await.unwrap());
    assert_eq!(code, status, "{text}");
    assert_eq!(headers[CONTENT_TYPE], "application/problem+json", "{text}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status, "{problem}");
    assert!(problem["title"].is_string(), "{problem}");
    (headers, problem["detail"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_do_what_its_role_may_and_no_more() {
    let mesh = Mesh::builder().agent("ada", 4, BUILTINS).start().await;
    let mut tokens = Vec::new();
    let mut settings = String::new();
    for role in ["read", "submit", "operate", "admin"] {
        let (secret, lines) = token(role).await;
        tokens.push(secret);
        settings += &lines;
    }
    let api = Served::start(&mesh, "guarded", &settings).await;

    let asked = [
        api.get("/v1/agents"),
        api.post("/v1/tasks/echo"),
        api.post("/v1/queues/echo/resume"),
        api.request(Method::PATCH, "/v1/queues/echo").body("{}"),
    ];
    for (number, token) in tokens.iter().enumerate() {
        for (needed, request) in asked.iter().enumerate() {
            let answer = status(request.try_clone().unwrap().bearer_auth(token)).await;
            let expected = if needed <= number { 200..300 } else { 403..404 };
            assert!(expected.contains(&answer), "token {number} for what takes {needed}: {answer}");
        }
    }
    let (headers, _) = problem(api.get("/v1/agents"), 401).await;
    assert_eq!(headers["www-authenticate"], "Bearer");
    problem(api.get("/v1/agents").bearer_auth("hive_guess"), 401).await;
    problem(api.get("/nowhere"), 401).await;
    assert_eq!(status(api.get("/readyz")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_taken_over_while_it_runs() {
    let mesh = Mesh::builder().start().await;
    let ((old, old_lines), (new, new_lines)) = (token("read").await, token("admin").await);
    let api = Served::start(&mesh, "reloaded", &old_lines).await;
    assert_eq!(status(api.get("/v1/status").bearer_auth(&old)).await, 200);

    std::fs::write(&api.config, new_lines).unwrap();

    until("the new token is known", async || {
        (status(api.get("/v1/status").bearer_auth(&new)).await == 200).then_some(())
    })
    .await;
    assert_eq!(status(api.get("/v1/status").bearer_auth(&old)).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_and_no_other_site_can_use_that() {
    let mesh = Mesh::builder().start().await;
    let (secret, lines) = token("admin").await;
    let api = Served::start(&mesh, "login", &lines).await;
    let form = |token: &str| format!("token={token}&next=%2Fdocs%2F");
    let log_in = |body: String| api.post("/login").header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);

    let led = api.get("/docs/").header("accept", "text/html").send().await.unwrap();
    let page = api.get("/login?next=%2Fdocs%2F").send().await.unwrap().text().await.unwrap();
    let guessed = log_in(form("hive_guess")).send().await.unwrap();
    let known = log_in(form(&secret)).send().await.unwrap();
    let set = known.headers()["set-cookie"].to_str().unwrap().to_owned();
    let cookie = set.split(';').next().unwrap().to_owned();

    assert_eq!(
        (led.status(), &led.headers()["location"]),
        (StatusCode::SEE_OTHER, &HeaderValue::from_static("/login?next=%2Fdocs%2F"))
    );
    assert!(page.contains("<form method=\"post\""), "{page}");
    assert_eq!((guessed.status(), guessed.headers().get("set-cookie")), (StatusCode::UNAUTHORIZED, None));
    assert_eq!(
        (known.status(), &known.headers()["location"]),
        (StatusCode::SEE_OTHER, &HeaderValue::from_static("/docs/"))
    );
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    let with = |request: RequestBuilder| request.header("cookie", &cookie);
    assert_eq!(status(with(api.get("/docs/"))).await, 200);
    let pause = || with(api.post("/v1/queues/echo/pause"));
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        problem(pause().header(name, value), 403).await;
    }
    assert_eq!(status(pause().header("origin", api.url.as_str())).await, 200);
    let (_, detail) = problem(log_in(form(&secret)).header("origin", "http://evil.example"), 403).await;
    assert!(detail.contains("another origin"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_changes_nothing_on_loopback_either() {
    let mesh = Mesh::builder().start().await;
    let api = Served::start(&mesh, "open", "[http]\nhosts = [\"hive.example\"]\n").await;

    for (name, value) in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site"), ("origin", "null")] {
        problem(api.post("/v1/tasks/echo").header(name, value), 403).await;
    }
    let (_, detail) = problem(api.get("/v1/agents").header("host", "evil.example"), 421).await;

    assert!(detail.contains("evil.example"), "{detail}");
    assert_eq!(status(api.get("/v1/agents").header("host", "hive.example")).await, 200);
    assert_eq!(status(api.post("/v1/tasks/echo")).await, 202);
    assert_eq!(mesh.count("TASKS").await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_is_told_as_problem_details() {
    let mesh = Mesh::builder().start().await;
    let api = Served::start(&mesh, "wrong", "").await;
    let typed = |kind: &'static str, body: &str| api.post("/v1/tasks").header(CONTENT_TYPE, kind).body(body.to_owned());
    let json_body = |body: &str| typed("application/json", body);

    let (_, path) = problem(api.get("/v1/nothing/\u{1}%3Cscript%3E"), 404).await;
    let (headers, _) = problem(api.request(Method::DELETE, "/v1/agents"), 405).await;
    problem(json_body("{"), 400).await;
    problem(json_body("[]"), 400).await;
    let (_, unknown) = problem(json_body(r#"{"kind": "echo", "kin": 1}"#), 400).await;
    let (_, twice) = problem(api.get("/v1/tasks?limit=1&limit=2"), 400).await;
    problem(api.get("/v1/tasks?limit=0"), 400).await;
    problem(api.get("/v1/tasks?limit=many"), 400).await;
    problem(api.get("/v1/tasks?cursor=x"), 400).await;
    problem(api.get("/v1/agents/a%20b"), 400).await;
    problem(api.get("/v1/agents/%ff"), 400).await;
    problem(api.post("/v1/agents/ada/drain?now=true"), 400).await;
    problem(typed("text/plain", "{}"), 415).await;
    problem(json_body(&json!({ "kind": "echo", "body": "x".repeat(9 << 20) }).to_string()), 413).await;
    problem(api.post("/v1/tasks/echo").body("x".repeat(2 << 20)), 413).await;

    assert!(!path.contains('\u{1}'), "{path}");
    assert!(headers["allow"].to_str().unwrap().contains("GET"), "{headers:?}");
    assert!(unknown.contains("unknown field `kin`"), "{unknown}");
    assert!(twice.contains("`limit` is given twice"), "{twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_too_much_is_told_when_to_ask_again() {
    let mesh = Mesh::builder().start().await;
    let api = Served::start(&mesh, "limited", "[http]\nrate = \"30/m\"\n").await;

    assert_eq!(status(api.get("/openapi.json")).await, 200);
    let (headers, _) = problem(api.get("/openapi.json"), 429).await;

    let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(status(api.get("/readyz")).await, 200, "probes are not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_to_be_careful() {
    let mesh = Mesh::builder().start().await;
    let api = Served::start(&mesh, "careful", "").await;

    let page = api.get("/docs/").send().await.unwrap();
    let script = api.get("/docs/swagger-initializer.js").send().await.unwrap().text().await.unwrap();

    assert_eq!(page.status(), StatusCode::OK);
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    assert!(script.contains("/openapi.json"), "{script}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_it_answers_whom_it_should_and_the_health_check_too() {
    let mesh = Mesh::builder().start().await;
    let dir = mesh.dir().join("auth");
    program::run(&["auth", "init", "--tls", "--out", &dir.display().to_string()]).await.succeeded();
    let file = |name: &str| dir.join("tls").join(name);
    let settings = format!("[http]\ntls-certificate = {:?}\ntls-key = {:?}\n", file("server.pem"), file("server.key"));
    let authority = Certificate::from_pem(&std::fs::read(file("ca.pem")).unwrap()).unwrap();

    let client = Client::builder().tls_certs_only([authority]);
    let api = Served::start_with(&mesh, "tls", &settings, "https", client).await;
    let plain = reqwest::get(api.url.replace("https://", "http://") + "/healthz").await;
    let strange = Client::new().get(format!("{}/healthz", api.url)).send().await;
    let (config, http) = (api.config.display().to_string(), api.url.strip_prefix("https://").unwrap().to_owned());
    let health = program::run(&["healthcheck", "--config", &config, "--http", &http]).await;

    assert_eq!(status(api.get("/v1/agents")).await, 200);
    assert!(plain.is_err() || !plain.unwrap().status().is_success(), "nothing is told without TLS");
    assert!(strange.is_err(), "who does not know the authority does not trust it");
    assert_eq!(health.stdout, "well: standing by\n", "{health:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_listen_to_others_without_tokens_unless_it_is_told_so() {
    let open = program::run(&["serve", "--http", "0.0.0.0:0"]).await;
    let certificate = unusable_certificate().await;

    assert_eq!(open.code, 2, "{open:?}");
    assert!(open.stderr.contains("--insecure-http") && open.stderr.contains("coordinator auth token"), "{open:?}");
    assert!(certificate.contains("tls-certificate"), "{certificate}");
}

/// What a coordinator says whose certificate is only half there.
async fn unusable_certificate() -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[http]\ntls-certificate = \"cert.pem\"\n").unwrap();
    let path: &Path = file.path();
    program::run(&["serve", "--config", &path.display().to_string()]).await.stderr
}
