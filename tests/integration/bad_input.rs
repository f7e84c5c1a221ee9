//! Bad input: each with its clear error, nothing lost, nothing held up.

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use mesh_tests::state::dead_letters;
use mesh_tests::{Mesh, new_task, program, tasks};
use shared::client::SubmitError;
use shared::{Outcome, TaskId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_priority_is_refused_when_it_is_published() {
    let mesh = Mesh::start().await;

    let error = publish(&mesh, "hive.task.echo.soon", &[], "").await.unwrap_err();

    assert!(error.contains("no responders") || error.contains("no stream found"), "{error}");
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_with_a_dot_is_refused_at_every_door() {
    let mesh = Mesh::start().await;

    let published = publish(&mesh, "hive.task.a.b", &[], "").await.unwrap_err();
    let submitted = mesh.cli(&["submit", "a.b"]).await;
    let posted = reqwest::Client::new().post(format!("{}/v1/tasks/a.b", mesh.http())).send().await.unwrap();
    let status = posted.status();
    let problem = posted.text().await.unwrap();

    assert!(published.contains("no responders") || published.contains("no stream found"), "{published}");
    assert_eq!(submitted.code, 2);
    assert!(submitted.stderr.contains("`a.b` is not a task kind"), "{}", submitted.stderr);
    assert_eq!(status, 400);
    assert!(problem.contains("`a.b` is not a task kind"), "{problem}");
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_read_is_answered_with_problem_details() {
    let mesh = Mesh::start().await;

    let answer = reqwest::get(format!("{}/v1/dead?limt=5", mesh.http())).await.unwrap();

    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem = answer.text().await.unwrap();
    assert!(problem.contains("unknown field `limt`"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_header_value_makes_a_dead_task_that_says_which() {
    let mesh = Mesh::start().await;
    let bad = [
        ("Hive-Timeout", "soon"),
        ("Hive-Deadline", "tomorrow"),
        ("Hive-Max-Attempts", "0"),
        ("Hive-Backoff", "60s..1s"),
        ("Hive-Needs", "=x"),
        ("Hive-Cpu", "-1"),
        ("Hive-Memory", "lots"),
        ("Hive-Disk", "lots"),
        ("Hive-Network", "10Mi"),
        ("Hive-Tenant", ""),
        ("Hive-Reply-To", "a..b"),
        ("Hive-Result", "burn"),
    ];

    let mut accepted = Vec::new();
    for header in bad {
        accepted.push(publish(&mesh, "hive.task.echo", &[header], "body").await.unwrap());
    }
    mesh.until(tasks(0)).await;

    for (sequence, (name, value)) in accepted.into_iter().zip(bad) {
        let result = mesh.wait(&TaskId::from_sequence(sequence)).await;
        assert_eq!(result.outcome, Outcome::Dead, "{name}");
        let error = result.error.unwrap();
        assert!(error.contains(name) && error.contains(&format!("`{value}`")), "{error}");
    }
    assert_eq!(mesh.count("DEAD").await, Ok(bad.len() as u64));
    let letter = &mesh.read_stream("DEAD").await[0];
    let header = |name: &str| letter.headers.as_ref().unwrap().get(name).unwrap().to_string();
    assert_eq!(letter.subject.as_str(), "hive.dead.echo");
    assert_eq!(letter.payload, "body");
    assert_eq!(header("Hive-Timeout"), "soon");
    assert!(header("Hive-Error").contains("Hive-Timeout"));
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_id_makes_a_dead_task_that_says_so() {
    let mesh = Mesh::start().await;

    let sequence = publish(&mesh, "hive.task.echo", &[("Nats-Msg-Id", "a.b")], "").await.unwrap();
    let result = mesh.wait(&TaskId::from_sequence(sequence)).await;

    assert_eq!(result.outcome, Outcome::Dead);
    assert!(result.error.unwrap().contains("`a.b` is not a task id"));
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dead_task_leaves_its_letter() {
    let mesh = Mesh::start().await;
    let failing = |i: usize| new_task("fail", format!("no {i}")).header("Hive-Max-Attempts", "1").unwrap();

    mesh.submit_all((0..20).map(failing)).await;
    mesh.until(tasks(0)).await;

    assert_eq!(mesh.count("RESULTS").await, Ok(20));
    assert_eq!(mesh.count("DEAD").await, Ok(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_for_a_kind_is_refused_or_settled_as_dead() {
    let mesh = Mesh::start().await;
    // A backlog that a look-up by the wildcard would find instead.
    mesh.submit_all((0..10).map(|i| new_task("resize", i.to_string()))).await;

    for subject in ["hive.task.*", "hive.task.>", "hive.task.*.low", "hive.task.ä"] {
        if let Ok(sequence) = raw_publish(&mesh, subject).await {
            let result = mesh.wait(&TaskId::from_sequence(sequence)).await;
            assert_eq!(result.outcome, Outcome::Dead, "{subject}");
            assert!(result.error.as_ref().unwrap().contains("is not a task kind"), "{subject}: {result:?}");
        }
    }

    mesh.until(tasks(10)).await;
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_at_every_door() {
    let mesh = Mesh::builder().agent("ada", 4, mesh_tests::BUILTINS).broker("max_payload: 64KB").start().await;
    let body = "x".repeat(70_000);
    let file = mesh.dir().join("body");
    std::fs::write(&file, &body).unwrap();

    let sent = mesh.client().submit(&new_task("echo", body.clone())).await.unwrap_err();
    let submitted = mesh.cli(&["submit", "echo", "--file", file.to_str().unwrap()]).await;
    let post = reqwest::Client::new().post(format!("{}/v1/tasks/echo", mesh.http())).body(body);
    let posted = post.send().await.unwrap().status();

    assert!(matches!(sent, SubmitError::TooLarge { size: 70_000, limit: 65_536 }), "{sent}");
    assert_eq!(submitted.code, 2);
    assert!(submitted.stderr.contains("65536"), "{}", submitted.stderr);
    assert_eq!(posted, 413);
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_leaves_no_room_for_headers_makes_a_dead_task() {
    let mesh = Mesh::builder().agent("ada", 4, mesh_tests::BUILTINS).broker("max_payload: 64KB").start().await;

    let body = "x".repeat(65_000);
    let sequence = publish(&mesh, "hive.task.echo", &[], &body).await.unwrap();
    let result = mesh.wait(&TaskId::from_sequence(sequence)).await;

    assert_eq!(result.outcome, Outcome::Dead);
    assert!(result.error.unwrap().contains("65536"));
    mesh.until(tasks(0)).await;
    mesh.until(dead_letters(1)).await;
    assert_works(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_over_the_limit_fails_the_task_and_says_so() {
    let big = mesh_tests::command_handler("big", &["head", "-c", "70000", "/dev/zero"]);
    let mesh = Mesh::builder().agent("ada", 4, &format!("{big}{}", mesh_tests::BUILTINS));
    let mesh = mesh.broker("max_payload: 64KB").start().await;

    let task = new_task("big", "").header("Hive-Max-Attempts", "1").unwrap();
    let result = mesh.run_task(task).await;

    assert_eq!(result.outcome, Outcome::Failed);
    assert!(result.error.as_ref().unwrap().contains("bytes"), "{result:?}");
    assert_works(&mesh).await;
}

#[test]
fn a_line_break_in_a_header_is_an_error_of_its_own() {
    for (name, value) in [("X-Mine", "a\r\nHive-Result: discard"), ("X-Mine", "a\nb"), ("X Mine", "a"), ("X:Y", "a")] {
        let error = new_task("echo", "").header(name, value).unwrap_err();

        assert!(matches!(error, SubmitError::BadHeader { .. }), "{name:?}: {value:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_key_in_a_configuration_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let path = file.to_str().unwrap();

    std::fs::write(&file, "[kinds.default]\nstrategie = \"weighted\"\n").unwrap();
    let serve = program::run(&["serve", "--config", path]).await;
    std::fs::write(&file, "[agent]\nslot = 3\n").unwrap();
    let agent = program::run(&["agent", "--config", path]).await;

    for (output, key) in [(serve, "strategie"), (agent, "slot")] {
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains("line 2") && output.stderr.contains(key), "{output:?}");
        assert!(output.stderr.contains(path), "{output:?}");
    }
}

#[tokio::test]
async fn a_handler_whose_program_does_not_exist_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, mesh_tests::command_handler("resize", &["no-such-program", "-x"])).unwrap();

    let output = program::run(&["agent", "--config", file.to_str().unwrap()]).await;

    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("no-such-program") && output.stderr.contains("resize"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_or_a_stranger_babbles_disturbs_nobody() {
    let mesh = Mesh::start().await;
    let nats = mesh.plain_client().await;

    for verb in ["hello", "beat", "report", "done", "bye", "progress", "sing"] {
        for body in [&b""[..], b"\xc1", b"{", &[0x81; 300]] {
            nats.publish(format!("hive.agent.mallory.{verb}"), Bytes::copy_from_slice(body)).await.unwrap();
        }
    }
    for subject in ["hive.inbox.ada.run", "hive.inbox.ada.cancel", "hive.inbox.ada.settled", "hive.inbox.ada.drain"] {
        nats.publish(subject, "nonsense".into()).await.unwrap();
    }
    nats.flush().await.unwrap();

    for _ in 0..20 {
        assert_works(&mesh).await;
    }
    let agents = mesh.look_at_agents().await.unwrap();
    assert_eq!(agents.len(), 3, "{agents:?}");
}

/// The mesh still does its work.
async fn assert_works(mesh: &Mesh) {
    let result = mesh.run("echo", "still here").await;
    assert_eq!(result.body, "still here");
}

/// Publishes with an ack, as any client would.
async fn publish(mesh: &Mesh, subject: &str, headers: &[(&str, &str)], body: &str) -> Result<u64, String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let jetstream = jetstream::new(mesh.plain_client().await);
    let ack = jetstream.publish_with_headers(subject.to_owned(), map, body.to_owned().into()).await;
    let ack = ack.map_err(|error| error.to_string())?.await;
    ack.map(|ack| ack.sequence).map_err(|error| error.to_string())
}

/// Publishes on a subject that clients should not let through, byte by byte; the sequence if the stream took it.
async fn raw_publish(mesh: &Mesh, subject: &str) -> Result<u64, String> {
    let address = mesh.nats_url().replace("nats://", "");
    let mut socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let connect = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}"#;
    let said = format!("{connect}\r\nSUB answer 1\r\nPUB {subject} answer 4\r\nbody\r\n");
    socket.write_all(said.as_bytes()).await.map_err(|error| error.to_string())?;
    let answer = first_answer(&mut socket).await?;
    let sequence = answer.split("\"seq\":").nth(1).and_then(|rest| rest.split(['}', ',']).next());
    sequence.and_then(|number| number.trim().parse().ok()).ok_or(answer)
}

/// Reads until the server has said more than its greeting.
async fn first_answer(socket: &mut TcpStream) -> Result<String, String> {
    let mut heard = Vec::new();
    loop {
        let count = socket.read_buf(&mut heard).await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&heard);
        let answer = ["\r\nMSG ", "\r\nHMSG ", "-ERR"].iter().find_map(|start| Some(&text[text.find(start)?..]));
        match answer {
            // Its body stands on the line that follows.
            Some(answer) if answer.matches("\r\n").count() >= 3 || answer.starts_with('-') => {
                return Ok(answer.to_owned());
            }
            _ if count == 0 => return Err("the server hung up".to_owned()),
            _ => {}
        }
    }
}
