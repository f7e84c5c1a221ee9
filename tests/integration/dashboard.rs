//! The web pages: they show what the mesh has, whatever it is called, and change nothing unless a form says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use mesh_tests::state::{dead_letters, that};
use mesh_tests::{BUILTINS, Mesh, agent, new_task, python, task};
use reqwest::{Client, Response, StatusCode, redirect};
use serde_json::json;
use shared::TaskId;
use shared::api::AgentState;
use tokio::process::Command;

/// Drives Chromium.
const SELENIUM: &str = "selenium==4.51.0";
/// The variable that names a directory where pictures of the pages are kept.
const PICTURES: &str = "HIVE_SCREENSHOTS";

/// Says so if it is run, in a title and in a variable, and hides and turns what stands around it.
const NASTY: &str =
    "</pre><script>window.ran=1</script><img src=x onerror=window.ran=1>'\"&\u{202e}txt.exe\u{200b}\u{1b}[31m";
/// As it is to be seen.
const SEEN: &str = "&lt;/pre&gt;&lt;script&gt;window.ran=1&lt;/script&gt;&lt;img src=x onerror=window.ran=1&gt;\
                    &#39;&quot;&amp;\\u{202e}txt.exe\\u{200b}";

const PAGES: [&str; 9] = ["/", "/queues", "/agents", "/tasks", "/scaling", "/resources", "/dead", "/events", "/help"];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_shows_what_the_mesh_has_and_lets_nothing_else_in() {
    let mesh = Mesh::start().await;
    let running = mesh.submit("sleep", "10m").await;
    mesh.until(task(&running).running()).await;
    bury(&mesh, "no luck").await;

    for path in PAGES {
        let page = get(&mesh, path).await;
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert_eq!((page.status(), policy.starts_with("default-src 'self';")), (StatusCode::OK, true), "{path}");
        let text = page.text().await.unwrap();
        assert!(text.contains("aria-current=\"page\"") && text.contains("leads in epoch"), "{path}: {text}");
    }
    let one = running.as_str();
    mesh.until(shows("/", "leads in epoch 1</span>")).await;
    mesh.until(shows("/queues", "href=\"/queues/sleep\"")).await;
    mesh.until(shows("/queues/sleep", "least-connections")).await;
    mesh.until(shows("/agents", "href=\"/agents/cid\"")).await;
    mesh.until(shows("/tasks", one)).await;
    mesh.until(shows(&format!("/tasks/{one}"), "Chosen by")).await;
    mesh.until(shows("/dead", "no luck")).await;
    mesh.until(shows("/events", "mesh led")).await;
    let holder = mesh.look_at_task(&running).await.unwrap().agent.unwrap();
    mesh.until(shows(&format!("/agents/{holder}"), one)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_from_the_mesh_is_shown_as_text_whatever_it_holds() {
    let mesh = Mesh::start().await;
    let id = bury(&mesh, NASTY).await;
    join_nasty_agent(&mesh).await;
    mesh.submit_task(&with_id(new_task("nobody", NASTY), "waits")).await;

    let letter = page(&mesh, "/dead/1").await;
    let pages = [
        page(&mesh, "/dead").await,
        page(&mesh, &format!("/tasks/{id}")).await,
        page(&mesh, "/tasks/waits").await,
        page(&mesh, "/agents/evil").await,
        page(&mesh, "/events").await,
        page(&mesh, "/dead?kind=%3Cscript%3E").await,
    ];

    assert!(letter.matches(SEEN).count() >= 3, "the reason, the body and a header: {letter}");
    assert!(pages[1].contains(SEEN) && pages[2].contains(SEEN) && pages[3].contains(SEEN), "{pages:?}");
    for page in pages.iter().chain([&letter]) {
        let markup = page.replace("<script src=\"/assets/", "");
        assert!(!markup.contains("<script") && !markup.contains("<img src=x"), "{page}");
        assert!(!page.contains(['\u{202e}', '\u{200b}', '\u{1b}']), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_text_is_shown_in_hexadecimal() {
    let mesh = Mesh::builder().start().await;
    mesh.submit_task(&with_id(new_task("nobody", &b"\x00\xff<b>"[..]), "bytes")).await;

    let shown = page(&mesh, "/tasks/bytes").await;

    assert!(shown.contains("00 ff 3c 62 3e") && shown.contains("in hexadecimal"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_drained_by_a_form_and_not_by_a_link() {
    let mesh = Mesh::start().await;

    let question = page(&mesh, "/agents/ada/drain").await;
    let before = mesh.until(agent("ada").healthy()).await.state;
    let done = post(&mesh, "/agents/ada/drain", "").await;
    mesh.until(agent("ada").offline()).await;
    let unknown = post(&mesh, "/agents/nobody/drain", "").await;

    assert!(question.contains("<form method=\"post\" action=\"/agents/ada/drain\""), "{question}");
    assert_eq!(before, AgentState::Healthy);
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert_eq!(done.headers()["location"], "/agents/ada?done=drain");
    assert!(page(&mesh, "/agents/bob?done=drain").await.contains("told to finish and leave"));
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled_and_a_setting_changed_from_their_pages() {
    let mesh = Mesh::start().await;
    let id = mesh.submit("sleep", "10m").await;
    mesh.until(task(&id).running()).await;

    let cancelled = post(&mesh, &format!("/tasks/{id}/cancel"), "").await;
    let set = post(&mesh, "/queues/echo/set", "setting=max-running&value=3").await;
    let refused = post(&mesh, "/queues/echo/set", "setting=max-running&value=0").await;

    assert_eq!((cancelled.status(), set.status()), (StatusCode::SEE_OTHER, StatusCode::SEE_OTHER));
    mesh.until(task(&id).settled()).await;
    mesh.until(shows(&format!("/tasks/{id}"), "cancelled")).await;
    mesh.until(shows("/queues/echo", "<td>max-running</td><td class=\"words\">3</td>")).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert!(refused.text().await.unwrap().contains("nothing would run"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_and_discarded_from_their_pages() {
    let mesh = Mesh::start().await;
    bury(&mesh, "one").await;
    bury(&mesh, "two").await;

    let replayed = post(&mesh, "/dead/1/replay", "").await;
    let discarded = post(&mesh, "/dead/2/discard", "").await;

    let new = replayed.headers()["location"].to_str().unwrap().to_owned();
    assert!(new.starts_with("/tasks/") && new.contains("-r"), "{new}");
    assert_eq!(discarded.headers()["location"], "/dead?done=discard.1");
    mesh.until(shows(&new, "Replayed 1 dead letter.")).await;
    mesh.until(shows("/dead", "<h1>Dead letters</h1>")).await;
    assert_eq!(get(&mesh, "/dead/2").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_shows_what_it_can_and_says_who_leads() {
    let mesh = Mesh::builder().coordinators(2).agent("ada", 4, BUILTINS).start().await;
    let leader = mesh.leader().await;
    let standby = format!("http://{}", mesh.http_address(1 - leader));
    let leaders_address = mesh.http_address(leader).to_string();

    let told = async |_: &Mesh| {
        let page = reqwest::get(&standby).await.unwrap().text().await.unwrap();
        let is_told =
            page.contains("This coordinator stands by") && page.contains(&format!("http://{leaders_address}/"));
        if is_told { Ok(()) } else { Err(page) }
    };
    mesh.until(that("that the standby says who leads", told)).await;
    let agents = reqwest::get(format!("{standby}/agents")).await.unwrap().text().await.unwrap();
    let refused = client().post(format!("{standby}/agents/ada/drain")).send().await.unwrap();

    assert!(agents.contains("href=\"/agents/ada\""), "{agents}");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text().await.unwrap().contains("do it at the leader"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_for_is_refused_with_a_page() {
    let mesh = Mesh::builder().start().await;

    for (path, status, words) in [
        ("/agents?state=asleep", StatusCode::BAD_REQUEST, "write starting, healthy"),
        ("/agents?offset=many", StatusCode::BAD_REQUEST, "invalid digit"),
        ("/agents/a.b", StatusCode::BAD_REQUEST, "a.b"),
        ("/tasks/nobody", StatusCode::NOT_FOUND, "there is no task"),
        ("/agents/ada/sing", StatusCode::NOT_FOUND, "cannot be done here"),
    ] {
        let answer = get(&mesh, path).await;
        assert_eq!(answer.status(), status, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(words) && text.contains("<nav"), "{path}: {text}");
    }
}

/// Every page in a browser, wide and narrow, light and dark, by keyboard and without script. The pictures go to the directory
/// that `HIVE_SCREENSHOTS` names, if it does.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_work_in_a_browser() {
    if let Some(missing) = missing_browser().await {
        eprintln!("SKIPPED: the pages were not opened in a browser, because {missing} cannot be run");
        assert!(std::env::var_os("CI").is_none(), "on CI nothing is skipped: {missing}");
        return;
    }
    let mesh = Mesh::start().await;
    let running = mesh.submit("sleep", "10m").await;
    mesh.until(task(&running).running()).await;
    let failed = bury(&mesh, NASTY).await;
    join_nasty_agent(&mesh).await;
    mesh.submit_task(&with_id(new_task("nobody", NASTY), "waits")).await;
    let [running, failed] = [running, failed].map(|id| format!("/tasks/{id}"));
    let more = [
        "/queues/sleep",
        "/agents/ada",
        "/agents/evil",
        "/agents/ada/drain",
        "/tasks/waits",
        &running,
        &failed,
        "/dead/1",
    ];
    let pictures = std::env::var_os(PICTURES).map_or_else(|| mesh.dir().join("pictures"), PathBuf::from);
    let (url, pictures) = (mesh.http(), pictures.display().to_string());

    let arguments: Vec<&str> = [url.as_str(), &pictures].into_iter().chain(PAGES).chain(more).collect();
    let said = python::run_with(&[SELENIUM], &walk(), &arguments).await;

    if let Some(said) = said {
        assert!(said.contains("17 pages"), "{said}");
    }
}

/// How long the first view takes with 1,000 agents and 100,000 queued tasks:
/// `cargo test --release -p mesh-tests --test integration first_view -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, with --release"]
async fn the_first_view_answers_at_once_with_a_thousand_agents_and_a_hundred_thousand_tasks() {
    const AGENTS: usize = 1000;
    const TASKS: usize = 100_000;
    let mesh = Mesh::builder().start().await;
    let beating = tokio::spawn(beat_for_many(mesh.plain_client().await, AGENTS));
    mesh.submit_all((0..TASKS).map(|_| new_task("nobody", "x"))).await;
    let all = async |mesh: &Mesh| {
        let agents = mesh.look_at_agents().await?;
        let healthy = agents.iter().filter(|agent| agent.state == AgentState::Healthy).count();
        if healthy == AGENTS { Ok(()) } else { Err(format!("{healthy} are healthy")) }
    };
    mesh.until(that("that all agents are healthy", all)).await;

    for path in ["/", "/agents", "/queues", "/tasks", "/resources", "/events"] {
        let mut took: Vec<Duration> = Vec::new();
        for _ in 0..20 {
            let began = Instant::now();
            let text = page(&mesh, path).await;
            took.push(began.elapsed());
            assert!(text.contains("</html>"), "{text}");
        }
        let first = took[0];
        took.sort();
        println!(
            "{path}: the first view {first:?}, half of {} within {:?}, the slowest {:?}",
            took.len(),
            took[10],
            took[19]
        );
        assert!(first < Duration::from_millis(100), "{path}: {first:?}");
    }
    beating.abort();
}

/// Agents that say hello and beat, and get nothing to do.
async fn beat_for_many(nats: async_nats::Client, count: usize) {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    let say = async |id: usize, verb: &str, body: serde_json::Value| {
        let subject = format!("hive.agent.agent-{id}.{verb}");
        let _ = nats.publish_with_headers(subject, headers.clone(), body.to_string().into()).await;
    };
    for id in 0..count {
        say(id, "hello", json!({ "incarnation": 4, "slots": 4, "kinds": ["echo"], "holds": [] })).await;
    }
    for sequence in 1_u64.. {
        for id in 0..count {
            say(id, "beat", json!({ "incarnation": 4, "sequence": sequence, "holds": [] })).await;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// An agent all of whose words are nasty; it is never heard again.
async fn join_nasty_agent(mesh: &Mesh) {
    let hello = json!({
        "incarnation": 4, "slots": 1, "kinds": ["echo"], "holds": [],
        "labels": { "note": NASTY }, "host": NASTY, "version": NASTY,
    });
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    let nats = mesh.plain_client().await;
    nats.publish_with_headers("hive.agent.evil.hello", headers, hello.to_string().into()).await.unwrap();
    mesh.until(shows("/agents/evil", "Agent <span")).await;
}

/// Lets a task fail for good with this error; its id.
async fn bury(mesh: &Mesh, error: &'static str) -> TaskId {
    let doomed = new_task("fail", error).header("Hive-Max-Attempts", "1").unwrap();
    let doomed = doomed.header("X-Note", "<script>window.ran=1</script>").unwrap();
    let before = mesh.count("DEAD").await.unwrap();
    mesh.run_task(doomed.clone()).await;
    mesh.until(dead_letters(before + 1)).await;
    doomed.id
}

fn with_id(mut task: shared::client::NewTask, id: &str) -> shared::client::NewTask {
    task.id = id.parse().unwrap();
    task
}

/// What is still to be had before a browser can be driven.
async fn missing_browser() -> Option<&'static str> {
    for program in ["chromium", "chromedriver"] {
        let found = Command::new(program).arg("--version").output().await;
        if !found.is_ok_and(|output| output.status.success()) {
            return Some(program);
        }
    }
    None
}

fn walk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboard/walk.py")
}

/// A page comes to say this.
fn shows(path: &str, words: &str) -> impl mesh_tests::State<Reached = ()> {
    let (path, words) = (path.to_owned(), words.to_owned());
    that(&format!("that {path} says {words}"), async move |mesh: &Mesh| {
        let text = page(mesh, &path).await;
        if text.contains(&words) { Ok(()) } else { Err(text) }
    })
}

async fn page(mesh: &Mesh, path: &str) -> String {
    get(mesh, path).await.text().await.unwrap()
}

async fn get(mesh: &Mesh, path: &str) -> Response {
    client().get(format!("{}{path}", mesh.http())).send().await.unwrap()
}

async fn post(mesh: &Mesh, path: &str, form: &'static str) -> Response {
    let request = client().post(format!("{}{path}", mesh.http()));
    request.header("Content-Type", "application/x-www-form-urlencoded").body(form).send().await.unwrap()
}

/// It says where it is sent instead of going there.
fn client() -> Client {
    Client::builder().redirect(redirect::Policy::none()).build().unwrap()
}
