//! The mesh at a terminal, and lists that are watched.

use std::process::Stdio;

use mesh_tests::terminal::Terminal;
use mesh_tests::{BUILTINS, Mesh, agent, program, task};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shared::api::AgentState;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::test(flavor = "multi_thread")]
async fn the_mesh_is_shown_page_by_page() {
    let mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    let running = mesh.submit("sleep", "10m").await;
    mesh.until(task(&running).running()).await;
    let waiting = mesh.submit("resize", "").await;
    let mut terminal = top(&mesh, &[]);

    terminal.until_it_says("leads in epoch").await;
    terminal.until_it_says("1 of 2 taken").await;
    terminal.press("2");
    terminal.until_it_says("STRATEGY").await;
    terminal.until_it_says("resize").await;
    terminal.press("3");
    terminal.until_it_says("> ada").await;
    terminal.press("4");
    terminal.until_it_says(running.as_str()).await;
    terminal.press("\r");
    terminal.until_it_says("chosen by").await;
    terminal.press("\u{1b}");
    terminal.until_it_says("c cancel").await;
    terminal.press("8");
    mesh.cli(&["tasks", "cancel", waiting.as_str()]).await.succeeded();
    terminal.until_it_says("task.cancelled").await;

    terminal.press("q");
    assert_eq!(terminal.ended().await, 0);
    terminal.until_restored().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_drained_after_a_yes() {
    let mesh = Mesh::builder().agent("ada", 2, BUILTINS).agent("bob", 2, BUILTINS).start().await;
    let mut terminal = top(&mesh, &[]);
    terminal.press("3");
    terminal.until_it_says("> ada").await;

    terminal.press("d");
    terminal.until_it_says("drain agent ada?").await;
    terminal.press("y");

    mesh.until(agent("ada").offline()).await;
    assert!(mesh.agent("ada").ended().await);
    let agents = mesh.look_at_agents().await.unwrap();
    assert!(agents.iter().any(|agent| agent.id.as_str() == "bob" && agent.state == AgentState::Healthy), "{agents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_does_not_answer_is_said_to_and_shown_again_when_it_does() {
    let mut mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    let mut terminal = top(&mesh, &[]);
    terminal.press("3");
    terminal.until_it_says("> ada").await;

    mesh.coordinator(0).kill9();
    terminal.until_it_says("trying again: no coordinator answers").await;
    assert!(terminal.text().contains("> ada"), "what was seen last stays:\n{}", terminal.text());
    mesh.local().restart_coordinator(0).await.unwrap();

    terminal.until_it_says("leads in epoch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_left_as_it_was_however_the_program_ends() {
    let mesh = Mesh::builder().start().await;
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 0)] {
        let mut terminal = top(&mesh, &[]);
        terminal.until_it_says("leads in epoch").await;
        assert!(!terminal.is_restored());

        terminal.signal(signal);

        assert_eq!(terminal.ended().await, code, "{signal:?}");
        terminal.until_restored().await;
    }
    let mut terminal = top(&mesh, &[("NO_COLOR", "1")]);
    terminal.until_it_says("leads in epoch").await;
    terminal.press("\u{3}");
    assert_eq!(terminal.ended().await, 0, "Ctrl-C is a key");
    terminal.until_restored().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_is_said_what_to_do_instead() {
    let mesh = Mesh::builder().start().await;

    let refused = mesh.cli(&["top"]).await;

    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("status --watch"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_watched_as_one_document_a_line_until_it_is_interrupted() {
    let mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    let url = mesh.nats_url();
    let mut command = program::command(&["--nats", &url, "agents", "list", "--watch=100ms", "--json"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = async || serde_json::from_str::<Value>(&lines.next_line().await.unwrap().unwrap()).unwrap();

    let first = next().await;
    assert_eq!(first["items"][0]["state"], "healthy");
    mesh.agent("ada").kill().await;
    while next().await["items"][0]["state"] != "offline" {}
    kill(Pid::from_raw(watching.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();

    assert_eq!(watching.wait().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_watched_on_a_terminal_is_painted_anew_in_place() {
    let mesh = Mesh::builder().agent("ada", 2, BUILTINS).start().await;
    let url = mesh.nats_url();
    let mut terminal = Terminal::start(&["--nats", &url, "agents", "list", "--watch=100ms"], &[]);
    terminal.until_it_says("healthy").await;

    mesh.agent("ada").kill().await;
    terminal.until_it_says("offline").await;

    let text = terminal.text();
    assert_eq!(text.matches("KINDS").count(), 1, "{text}");
    terminal.press("\u{3}");
    assert_eq!(terminal.ended().await, 0);
}

fn top(mesh: &Mesh, variables: &[(&str, &str)]) -> Terminal {
    Terminal::start(&["--nats", &mesh.nats_url(), "top", "--interval", "200ms"], variables)
}
