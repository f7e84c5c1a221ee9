//! A mesh works under the generated settings, and whoever is refused something hears of it at once.

use std::time::{Duration, Instant};

use crate::guard::Guard;

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_done_while_agents_die_and_coordinators_take_over() {
    let guard = Guard::new(&[]).await;
    let mut mesh = guard.mesh(2, &["ada", "bob"]).await;
    assert_eq!(done(&mesh.cli("submitter", &["submit", "echo", "hi", "--count", "100", "--wait"]).await), 100);

    mesh.cli("submitter", &["submit", "sleep", "1s", "--id", "long"]).await.succeeded();
    mesh.until_task("long", "running").await;
    let agent = mesh.task("long").await["agent"].as_str().unwrap().parse().unwrap();
    mesh.local.kill_agent(&agent).await.unwrap();
    mesh.until_task("long", "settled").await;
    assert_eq!(mesh.task("long").await["attempts"], 2);
    mesh.local.restart_agent(&agent).await.unwrap();

    let leader = mesh.leader().await;
    mesh.local.kill_coordinator(leader).await;
    assert_ne!(mesh.leader().await, leader);
    assert_eq!(done(&mesh.cli("submitter", &["submit", "echo", "hi", "--count", "100", "--wait"]).await), 100);

    mesh.assert_nobody_was_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_there_for_who_may_do_it() {
    let guard = Guard::new(&[]).await;
    let mesh = guard.mesh(1, &["ada"]).await;

    assert_eq!(mesh.cli("submitter", &["call", "echo", "hello"]).await.succeeded().stdout, "hello");
    mesh.cli("submitter", &["submit", "sleep", "10m", "--id", "slow"]).await.succeeded();
    mesh.until_task("slow", "running").await;
    mesh.cli("submitter", &["tasks", "cancel", "slow"]).await.succeeded();
    let cancelled = mesh.cli("submitter", &["tasks", "wait", "slow", "--json"]).await;
    assert_eq!(cancelled.json()["outcome"], "cancelled", "{cancelled:?}");

    let failing = ["submit", "fail", "no", "--id", "bad", "-H", "Hive-Max-Attempts: 1", "--wait"];
    assert_eq!(mesh.cli("submitter", &failing).await.code, 1);
    mesh.until("the dead letter is listed", async || {
        let letters = mesh.json("reader", &["dead", "list"]).await;
        letters["items"].as_array().is_some_and(|items| items.len() == 1)
    })
    .await;

    mesh.cli("operator", &["queues", "set", "echo", "strategy=round-robin"]).await.succeeded();
    let set = mesh.json("reader", &["queues", "get", "echo"]).await;
    assert_eq!(set["settings"]["strategy"], "round-robin", "{set}");
    for looking in [&["status"][..], &["agents", "list"], &["tenants", "list"], &["tasks", "list"]] {
        mesh.cli("reader", looking).await.succeeded();
    }
    let events = mesh.cli("operator", &["events"]).await.succeeded();
    assert!(events.stdout.contains("mesh.led"), "{events:?}");
    mesh.assert_nobody_was_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_refused_says_so_and_which_role_it_takes_instead_of_waiting() {
    let guard = Guard::new(&[]).await;
    let mesh = guard.mesh(1, &["ada"]).await;

    for (title, args, subject, role) in [
        ("reader", &["queues", "set", "echo", "max-running=1"][..], "hive.api.queue.set", "operator"),
        ("reader", &["submit", "echo", "hi"], "hive.task.echo.normal.", "submitter"),
        ("submitter", &["agents", "list"], "hive.api.agent.list", "reader"),
        // It may not even hear the answer.
        ("agent-ada", &["submit", "echo", "hi"], "_INBOX.", "submitter"),
    ] {
        let started = Instant::now();
        let output = mesh.cli(title, args).await;

        let told = &output.stderr;
        assert_eq!(output.code, 1, "{title} {args:?}: {output:?}");
        assert!(told.contains("permissions violation") && told.contains(subject), "{title} {args:?}: {told}");
        assert!(told.contains("role needed") && told.contains(role), "{title} {args:?}: {told}");
        assert_eq!(told.matches("permissions violation").count(), 1, "{title} {args:?}: {told}");
        assert!(started.elapsed() < Duration::from_secs(4), "{title} {args:?} took {:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_under_anothers_id_is_refused_and_says_so() {
    let guard = Guard::new(&[]).await;
    let mut mesh = guard.mesh(1, &["ada"]).await;
    let mut spec = coordinator::local::AgentSpec::new("bob".parse().unwrap(), 4, mesh_tests::BUILTINS);
    spec.env = guard.env("agent-ada");

    mesh.local.add_agent(spec).unwrap();

    mesh.until("the agent is refused and says so", async || {
        let logs = mesh.logs();
        let bob = logs.iter().find(|(name, _)| name == "bob").map(|(_, log)| log.as_str()).unwrap_or_default();
        bob.contains("may not subscribe to `hive.inbox.bob.*`")
            && bob.contains("may not publish to `hive.agent.bob.hello`")
    })
    .await;
    let agents = mesh.json("reader", &["agents", "list"]).await;
    let ids: Vec<_> = agents["items"].as_array().unwrap().iter().map(|agent| agent["id"].clone()).collect();
    assert_eq!(ids, ["ada"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_users_can_be_added_and_nothing_of_others_changes() {
    let guard = Guard::new(&[]).await;
    let mut mesh = guard.mesh(1, &["ada"]).await;
    let before = guard.seed("agent-ada");

    guard.auth(&["add-agent", "cid"]).await.succeeded();
    guard.auth(&["add-user", "web", "--role", "submitter"]).await.succeeded();
    let again = guard.auth(&["init", "--agents", "ada"]).await.succeeded();
    mesh_tests::mesh::signal(mesh.local.broker().process(), nix::sys::signal::Signal::SIGHUP);

    assert!(again.stderr.contains("stays as it is"), "{again:?}");
    assert_eq!(guard.seed("agent-ada"), before);
    mesh.until("the server knows the new user", async || {
        mesh.cli("submitter-web", &["call", "echo", "hi"]).await.code == 0
    })
    .await;
    let mut spec = coordinator::local::AgentSpec::new("cid".parse().unwrap(), 4, mesh_tests::BUILTINS);
    spec.env = guard.env("agent-cid");
    mesh.local.add_agent(spec).unwrap();
    mesh.local.until_ready(mesh_tests::mesh::PATIENCE).await.unwrap();
}

/// How many lines say that a task has succeeded.
fn done(output: &mesh_tests::Output) -> usize {
    assert_eq!(output.code, 0, "{output:?}");
    output.stdout.lines().filter(|line| line.ends_with(" succeeded")).count()
}
