//! Connections that are encrypted, and certificates that change while the mesh runs.

use nix::sys::signal::Signal;

use crate::guard::Guard;

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_trust_the_authority_does_not_connect() {
    let guard = Guard::new(&["--tls"]).await;
    let mesh = guard.mesh(1, &["ada"]).await;

    assert_eq!(mesh.cli("submitter", &["call", "echo", "hello"]).await.succeeded().stdout, "hello");
    let mut command = mesh_tests::program::command(&["--nats", &mesh.local.nats_url(), "status"]);
    command.env("NATS_NKEY", guard.file("seeds/operator.nk"));
    let stranger = mesh_tests::program::finish(command).await;
    assert_eq!(stranger.code, 3, "{stranger:?}");
    mesh.assert_nobody_was_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_is_not_let_in_where_one_is_wanted() {
    let guard = Guard::new(&["--tls", "--mutual"]).await;
    let mesh = guard.mesh(1, &["ada"]).await;

    assert_eq!(mesh.cli("submitter", &["call", "echo", "hello"]).await.succeeded().stdout, "hello");
    let mut command = mesh_tests::program::command(&["--nats", &mesh.local.nats_url(), "status"]);
    command.env("NATS_NKEY", guard.file("seeds/operator.nk")).env("NATS_CA", guard.file("tls/ca.pem"));
    let stranger = mesh_tests::program::finish(command).await;
    assert_eq!(stranger.code, 3, "{stranger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_even_the_authority_change_while_the_mesh_runs() {
    let guard = Guard::new(&["--tls", "--mutual"]).await;
    let mut mesh = guard.mesh(2, &["ada", "bob"]).await;
    let before = mesh.json("operator", &["agents", "list"]).await;

    // New certificates of the same authority: whoever connects from now on gets the new one.
    guard.auth(&["renew"]).await.succeeded();
    mesh_tests::mesh::signal(mesh.local.broker().process(), Signal::SIGHUP);
    assert_eq!(mesh.cli("submitter", &["call", "echo", "one"]).await.succeeded().stdout, "one");

    // Another authority: everybody reads its files again when it connects again.
    std::fs::remove_dir_all(guard.file("tls")).unwrap();
    guard.auth(&["init", "--tls", "--mutual"]).await.succeeded();
    mesh.local.broker_mut().restart().await.unwrap();
    mesh.until("a task is done", async || mesh.cli("submitter", &["call", "echo", "two"]).await.code == 0).await;
    mesh.local.until_ready(mesh_tests::mesh::PATIENCE).await.unwrap();

    let after = mesh.json("operator", &["agents", "list"]).await;
    let processes = |agents: &serde_json::Value| {
        let items = agents["items"].as_array().unwrap().iter();
        items.map(|agent| (agent["id"].clone(), agent["incarnation"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(processes(&after), processes(&before), "nobody had to be started again");
    mesh.assert_nobody_was_refused();
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_told_at_once() {
    let mut command = mesh_tests::program::command(&["status"]);
    command.env("NATS_CA", "/nowhere/ca.pem");

    let output = mesh_tests::program::finish(command).await;

    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("failed to read certificates of the authority `/nowhere/ca.pem`"), "{output:?}");
}
