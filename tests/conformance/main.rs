//! `coordinator conformance`: our agents pass it, and an agent with one fault fails the one check that is about it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use mesh_tests::{Mesh, Output, command_handler, program, python};
use serde_json::Value;
use tokio::process::Command;

/// How long all checks may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);

/// What is wrong with an agent, and the check that says so.
const FAULTS: [(&str, &[&str]); 12] = [
    ("never_beats", &["beat-interval"]),
    ("repeats_nothing", &["done-repeated"]),
    ("ignores_epochs", &["old-epoch"]),
    ("ignores_incarnations", &["other-incarnation"]),
    ("starts_twice", &["repeated-run"]),
    // It queues nothing, and so has nothing to hand back.
    ("knows_no_slots", &["slots", "drain"]),
    ("takes_bytes_for_text", &["output-bytes"]),
    ("dies_of_garbage", &["bad-messages"]),
    ("cancels_whatever_it_holds", &["cancel-earlier"]),
    ("says_no_hello_when_the_server_is_back", &["reconnect-hello"]),
    ("returns_nothing", &["drain"]),
    ("drops_its_handlers_errors", &["failed"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_passes() {
    let mut command = conformance(&[]).await;
    command.arg("--").arg(program::exe()).arg("agent");

    assert_all_pass(&finish(command).await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_passes_with_commands_for_handlers() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    // GNU sleep takes fractions, and `e-3` makes seconds of milliseconds.
    let handlers = [
        command_handler("echo", &["cat"]),
        command_handler("sleep", &["sh", "-c", "span=$(cat); exec sleep \"${span%ms}e-3\""]),
        command_handler("fail", &["sh", "-c", "cat >&2; exit 1"]),
    ];
    std::fs::write(&config, format!("[agent]\nslots = 2\nqueue = 2\n{}", handlers.concat())).unwrap();
    let mut command = conformance(&[]).await;
    command.arg("--").arg(program::exe()).arg("agent").arg("--config").arg(&config);

    assert_all_pass(&finish(command).await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_agent_passes() {
    let Some(packages) = python::packages().await else { return };
    let mut command = conformance(&["--agent", "conf-1"]).await;
    command.env("PYTHONPATH", packages).arg("--").arg("python3").arg(example_agent()).arg("conf-1");

    // It reports nothing, and has no logs.
    assert_all_pass(&finish(command).await, &["report", "follow"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_fault_fails_the_check_that_is_about_it() {
    let Some(packages) = python::packages().await else { return };
    let agent = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/broken.py");
    let checked = FAULTS.map(|(fault, checks)| {
        let (packages, agent) = (packages.clone(), agent.clone());
        async move {
            let mut command = conformance(&[]).await;
            command.env("PYTHONPATH", packages).env("BREAK", fault).arg("--").arg("python3").arg(agent);
            (fault, checks, finish(command).await)
        }
    });

    for (fault, checks, output) in join_all(checked).await {
        let failed = named(&output, "failed");
        assert_eq!(failed, checks, "of an agent that {fault}: {}", output.stdout);
        assert_eq!(output.code, 1, "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_somebody_else_starts_is_checked_as_far_as_that_goes() {
    let mesh = Mesh::builder().start().await;
    let url = mesh.nats_url();
    let on_the_mesh = ["--nats", &url, "--mesh", "checked"];

    let mut agent = program::command(&[&["agent", "--id", "ada"][..], &on_the_mesh].concat());
    // Nobody reads what it says.
    let mut agent = agent.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let checked = program::command(&[&["conformance", "--json", "--agent", "ada"][..], &on_the_mesh].concat());
    let output = finish(checked).await;
    let left = tokio::time::timeout(LIMIT, agent.wait()).await.unwrap().unwrap();

    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(named(&output, "failed"), [""; 0], "{}", output.stdout);
    let skipped = named(&output, "skipped");
    assert!(skipped.contains(&"sigterm".to_owned()) && !skipped.contains(&"drain".to_owned()), "{skipped:?}");
    assert!(left.success(), "it was drained at the end: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_has_coordinators_is_left_alone() {
    let mesh = Mesh::start().await;

    let output = mesh.cli(&["conformance", "--agent", "ada"]).await;

    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("--mesh"), "{output:?}");
    let result = mesh.run("echo", "still here").await;
    assert_eq!(result.body, "still here");
    assert_eq!(result.attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_no_agent_fails_and_what_it_said_is_told() {
    let mut command = conformance(&[]).await;
    command.args(["--", "sh", "-c", "echo not an agent; exit 7"]);

    let output = finish(command).await;

    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(named(&output, "failed"), ["hello"]);
    assert_eq!(named(&output, "passed"), [""; 0]);
    let found = output.json()["items"][0]["found"].as_str().unwrap().to_owned();
    assert!(found.contains("not an agent") && found.contains('7'), "{found}");
}

/// The command, to be told how the agent is started.
async fn conformance(args: &[&str]) -> Command {
    let nats_server = mesh_tests::mesh::nats_server().await;
    let mut command = program::command(&["conformance", "--json"]);
    // Its logs stay where something failed, which is what some of these are about.
    command.args(args).arg("--nats-server").arg(nats_server).env_remove("BREAK");
    command
}

async fn finish(mut command: Command) -> Output {
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} does not end")).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn example_agent() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python/agent.py")
}

/// The checks with this verdict.
fn named(output: &Output, verdict: &str) -> Vec<String> {
    let report = output.json();
    let items = report["items"].as_array().unwrap().iter().filter(|item| item["verdict"] == verdict);
    items.map(|item| item["check"].as_str().unwrap().to_owned()).collect()
}

fn assert_all_pass(output: &Output, skipped: &[&str]) {
    let report: Value = output.json();
    assert_eq!(named(output, "failed"), [""; 0], "{report:#}\n{}", output.stderr);
    assert_eq!(named(output, "skipped"), skipped, "{report:#}");
    assert_eq!(output.code, 0, "{output:?}");
}
