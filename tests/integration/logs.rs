//! What a running task writes, and how far it is, as it is followed.

use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_tests::mesh::{Builder, PATIENCE};
use mesh_tests::state::that;
use mesh_tests::{Mesh, State, command_handler, new_task, program, task};
use serde_json::{Value, json};
use shared::TaskId;
use shared::api::logs::TaskProgress;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// Says something, waits until it is told to go on, and says something more.
const TWO_PARTS: &str = "echo begin >&2; until [ -e \"$NOTES\" ]; do sleep 0.05; done; echo end >&2; echo output";

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_late_sees_the_beginning_and_then_what_is_written() {
    let (mesh, gate) = gated(Mesh::builder(), TWO_PARTS).await;
    let id = running(&mesh).await;

    let mut following = Following::start(&mesh, &id);
    assert_eq!(following.line().await, "begin");
    gate.open();
    let rest = following.rest().await;

    assert_eq!(rest, ["end"]);
    assert_eq!(mesh.wait(&id).await.body, "output\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_tasks_log_is_shown_as_long_as_its_agent_is_there() {
    let (mesh, gate) = gated(Mesh::builder(), TWO_PARTS).await;
    gate.open();
    let id = mesh.run("gated", "").await.id;

    let shown = mesh.cli(&["tasks", "logs", id.as_str()]).await.succeeded();
    let followed = mesh.cli(&["tasks", "logs", id.as_str(), "--follow"]).await.succeeded();
    mesh.agent("ada").kill().await;
    mesh.until(mesh_tests::agent("ada").offline()).await;
    let gone = mesh.cli(&["tasks", "logs", id.as_str()]).await;
    let nobody = mesh.cli(&["tasks", "logs", "nobody"]).await;

    assert_eq!((shown.stdout.as_str(), followed.stdout.as_str()), ("begin\nend\n", "begin\nend\n"));
    assert!(followed.stderr.contains(&format!("task {id} succeeded")), "{followed:?}");
    assert_eq!((gone.code, gone.stdout.as_str()), (1, ""));
    assert!(gone.stderr.contains("agent `ada` is gone"), "{gone:?}");
    assert_eq!(nobody.code, 1, "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_flood_the_end_is_kept_and_what_is_missing_is_said() {
    const LINES: u64 = 500_000;
    let script = format!("yes a line of the flood | head -n {LINES} >&2");
    let (mesh, _gate) = gated(Mesh::builder(), &script).await;
    let task = new_task("gated", "");
    mesh.submit_task(&task).await;

    let mut heard = Heard::default();
    while !heard.has_ended {
        heard.ask(&mesh, &task.id).await;
    }

    let line = "a line of the flood\n".len() as u64;
    assert_eq!(heard.text.len() as u64 + heard.dropped, LINES * line);
    assert!(heard.text.len() >= 64 << 10, "{}", heard.text.len());
    assert!(heard.text.ends_with("a line of the flood\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_command_is_is_shown_and_is_no_part_of_its_log() {
    let script = format!("echo '::progress 0.25 a quarter' >&2; {TWO_PARTS}");
    let (mesh, gate) = gated(Mesh::builder(), &script).await;
    let id = running(&mesh).await;

    let progress = mesh.until(progress_of(&id)).await;
    let shown = mesh.cli(&["tasks", "get", id.as_str()]).await.succeeded().stdout;
    gate.open();
    mesh.wait(&id).await;
    let logged = mesh.cli(&["tasks", "logs", id.as_str()]).await.succeeded().stdout;

    assert_eq!((progress.fraction, progress.text.as_deref()), (0.25, Some("a quarter")));
    assert!(shown.contains("25 %: a quarter"), "{shown}");
    assert_eq!(logged, "begin\nend\n");
    assert_eq!(mesh.look_at_task(&id).await.unwrap().progress, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_and_progress_go_on_when_another_coordinator_leads() {
    let script = format!("echo '::progress 0.5' >&2; {TWO_PARTS}");
    let (mesh, gate) = gated(Mesh::builder().coordinators(2), &script).await;
    let id = running(&mesh).await;
    mesh.until(progress_of(&id)).await;
    let mut following = Following::start(&mesh, &id);
    assert_eq!(following.line().await, "begin");

    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();
    let progress = mesh.until(progress_of(&id)).await;
    gate.open();

    assert_eq!(progress.fraction, 0.5);
    assert_eq!(following.rest().await, ["end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_is_followed_when_the_one_before_has_failed() {
    let script = "echo \"attempt $HIVE_ATTEMPT\" >&2; [ $HIVE_ATTEMPT = 2 ]";
    let (mesh, _gate) = gated(Mesh::builder(), script).await;
    let task = new_task("gated", "").header("Hive-Backoff", "1s").unwrap();
    mesh.submit_task(&task).await;

    let followed = Following::start(&mesh, &task.id).rest().await;

    assert_eq!(followed.last().map(String::as_str), Some("attempt 2"), "{followed:?}");
    assert_eq!(mesh.wait(&task.id).await.attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_submitter_wants_streamed_is_told_unasked_and_nothing_else_is() {
    let (mesh, gate) = gated(Mesh::builder(), TWO_PARTS).await;
    let nats = mesh.plain_client().await;
    let mut said = nats.subscribe("hive.agent.ada.progress").await.unwrap();
    nats.flush().await.unwrap();
    gate.open();

    let silent = mesh.run("gated", "").await.id;
    let streamed = new_task("gated", "").header("Hive-Log", "stream").unwrap();
    mesh.submit_task(&streamed).await;

    let mut text = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, said.next()).await.expect("it is told").unwrap();
        let header = |name: &str| message.headers.as_ref().unwrap().get(name).map(ToString::to_string);
        assert_eq!(header("Hive-Task").as_deref(), Some(streamed.id.as_str()), "not {silent}");
        text.extend_from_slice(&message.payload);
        if header("Hive-Log-State").as_deref() == Some("ended") {
            break;
        }
    }
    assert_eq!(String::from_utf8(text).unwrap(), "begin\nend\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_in_process_logs_and_says_how_far_it_is() {
    let mut mesh = Mesh::builder().start().await;
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let work = move |task: agent_worker::Task| {
        let mut wait = wait.clone();
        async move {
            task.log("half of it");
            task.progress(0.5, "half");
            let _ = wait.wait_for(|go_on| *go_on).await;
            Ok::<_, &str>("done")
        }
    };
    mesh.embed("ada", 1, |agent| agent.handler("work", work)).await;
    let id = mesh.submit("work", "").await;

    let progress = mesh.until(progress_of(&id)).await;
    go_on.send_replace(true);
    mesh.wait(&id).await;
    let mut heard = Heard::default();
    heard.ask(&mesh, &id).await;

    assert_eq!((progress.fraction, progress.text.as_deref()), (0.5, Some("half")));
    assert_eq!((heard.text.as_str(), heard.has_ended), ("half of it\n", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_over_http_from_where_a_reader_was() {
    let (mesh, gate) = gated(Mesh::builder(), TWO_PARTS).await;
    gate.open();
    let id = mesh.run("gated", "").await.id;
    let stream = |last: Option<&'static str>| {
        let request = reqwest::Client::new().get(format!("{}/v1/tasks/{id}/logs/stream", mesh.http()));
        let request = last.into_iter().fold(request, |request, last| request.header("Last-Event-ID", last));
        async move { request.timeout(PATIENCE).send().await.unwrap().text().await.unwrap() }
    };

    let (all, rest) = (stream(None).await, stream(Some("1:6")).await);
    let nobody = reqwest::get(format!("{}/v1/tasks/nobody/logs/stream", mesh.http())).await.unwrap();

    let text = |events: &str| {
        let data = events.lines().filter_map(|line| line.strip_prefix("data: "));
        let data = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
        data.map(|log| log["text"].as_str().unwrap().to_owned()).collect::<String>()
    };
    assert_eq!((text(&all).as_str(), text(&rest).as_str()), ("begin\nend\n", "end\n"));
    assert!(all.contains("event: end\n") && all.contains("id: 1:10\n"), "{all}");
    assert_eq!(nobody.status(), reqwest::StatusCode::NOT_FOUND);
}

/// A file that a command waits for.
struct Gate(tempfile::TempDir);

impl Gate {
    fn open(&self) {
        std::fs::write(self.0.path().join("open"), "").unwrap();
    }
}

/// A mesh whose agent `ada` handles the kind `gated` by this script, which finds the gate in `$NOTES`.
async fn gated(mesh: Builder, script: &str) -> (Mesh, Gate) {
    let gate = Gate(tempfile::tempdir().unwrap());
    let path = gate.0.path().join("open");
    let handler = command_handler("gated", &["sh", "-c", script]);
    (mesh.agent_with_notes("ada", 1, &handler, &path).start().await, gate)
}

/// A task that runs and waits at the gate.
async fn running(mesh: &Mesh) -> TaskId {
    let id = mesh.submit("gated", "").await;
    mesh.until(task(&id).running()).await;
    id
}

/// The leader knows how far the task is.
fn progress_of(id: &TaskId) -> impl State<Reached = TaskProgress> {
    that("that the task's progress is known", async move |mesh: &Mesh| {
        let task = mesh.look_at_task(id).await?;
        task.progress.clone().ok_or_else(|| format!("{task:?}"))
    })
}

/// `coordinator tasks logs ID --follow` at work.
struct Following {
    program: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(mesh: &Mesh, id: &TaskId) -> Self {
        let url = mesh.nats_url();
        let mut command = program::command(&["--nats", &url, "tasks", "logs", id.as_str(), "--follow"]);
        let mut program = command.stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        Self { program, lines }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("a line comes").unwrap().expect("it has not ended")
    }

    /// What comes until it ends, which is well.
    async fn rest(mut self) -> Vec<String> {
        let all = async {
            let mut all = Vec::new();
            while let Some(line) = self.lines.next_line().await.unwrap() {
                all.push(line);
            }
            (all, self.program.wait().await.unwrap())
        };
        let (all, status) = tokio::time::timeout(PATIENCE, all).await.expect("it ends when the task has");
        assert!(status.success(), "{status}");
        all
    }
}

/// What was heard of a log by asking the control service.
#[derive(Debug, Default)]
struct Heard {
    attempt: Option<u64>,
    next: u64,
    text: String,
    dropped: u64,
    has_ended: bool,
}

impl Heard {
    async fn ask(&mut self, mesh: &Mesh, id: &TaskId) {
        let mut request = json!({ "id": id, "after": self.next, "wait": "1s" });
        if let Some(attempt) = self.attempt {
            request["attempt"] = attempt.into();
        }
        let log = mesh.ask("task", "logs", request).await.unwrap();
        if log["note"].is_string() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.attempt = log["attempt"].as_u64();
        self.next = log["next"].as_u64().unwrap();
        self.text += log["text"].as_str().unwrap();
        self.dropped += log["dropped"].as_u64().unwrap_or(0);
        self.has_ended = log["ended"] == true;
    }
}
