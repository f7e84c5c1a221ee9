//! Secrets stand in files and in the environment, and nowhere else: not in arguments, logs, answers or events.

use std::os::unix::fs::PermissionsExt as _;

use mesh_tests::{Mesh, program};

use crate::guard::Guard;

/// A password that nothing else looks like.
const PASSWORD: &str = "correct-horse-battery-staple";

#[tokio::test(flavor = "multi_thread")]
async fn no_seed_stands_in_arguments_logs_answers_or_events() {
    let guard = Guard::new(&["--tls", "--mutual"]).await;
    let mesh = guard.mesh(2, &["ada"]).await;
    mesh.cli("submitter", &["submit", "echo", "hi", "--wait"]).await.succeeded();

    let mut said: Vec<(String, String)> = mesh.logs();
    for args in [&["status"][..], &["events"], &["doctor"], &["agents", "list"], &["queues", "set", "echo", "rate=1/s"]]
    {
        for title in ["operator", "reader"] {
            let output = mesh.cli(title, args).await;
            said.push((format!("{title} {args:?}"), output.stdout + &output.stderr));
        }
    }
    for args in [&["list"][..], &["list", "--json"], &["jwt"], &["add-user", "web", "--role", "reader"]] {
        let output = guard.auth(args).await;
        said.push((format!("auth {args:?}"), output.stdout + &output.stderr));
    }
    said.push(("accounts.conf".to_owned(), std::fs::read_to_string(guard.file("accounts.conf")).unwrap()));
    said.push(("nats.conf".to_owned(), std::fs::read_to_string(guard.file("nats.conf")).unwrap()));

    let seeds: Vec<String> = std::fs::read_dir(guard.file("seeds"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().trim().to_owned())
        .collect();
    assert!(seeds.len() >= 7, "{} seeds", seeds.len());
    for seed in &seeds {
        assert!(seed.starts_with("SU") && seed.len() == 58);
        assert_eq!(program::processes_called(seed), Vec::<String>::new());
        for (what, text) in &said {
            assert!(!text.contains(seed.as_str()), "{what} tells a seed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_told_wherever_it_comes_from() {
    let mesh = Mesh::builder().start().await;
    let host = mesh.nats_url().replace("nats://", "");
    let by_url = format!("nats://me:{PASSWORD}@{host}");

    for args in [&["status"][..], &["submit", "echo", "hi"], &["doctor"], &["events"], &["serve", "--print-config"]] {
        let mut by_environment = program::command(&[&["--nats", &mesh.nats_url()], args].concat());
        by_environment.env("NATS_USER", "me").env("NATS_PASSWORD", PASSWORD).env("HIVE_LOG", "debug");
        let mut by_url = {
            let mut command = program::command(args);
            command.env("NATS_URL", &by_url);
            command
        };
        by_url.env("HIVE_LOG", "debug");
        for command in [by_environment, by_url] {
            let output = program::finish(command).await;
            let said = output.stdout + &output.stderr;
            assert!(!said.contains(PASSWORD), "{args:?}: {said}");
        }
    }
    let help = program::run(&["submit", "--help"]).await.succeeded();
    assert!(!help.stdout.contains("--password"), "a password in an argument could be read by anybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_is_for_its_owner_only() {
    let guard = Guard::new(&["--tls", "--mutual"]).await;

    let keys = ["tls/ca.key", "tls/server.key", "tls/client.key", "seeds/operator.nk", "seeds/agent-ada.nk"];
    for name in keys {
        let mode = std::fs::metadata(guard.file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_file_that_holds_no_seed_is_told_by_its_name_only() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
    let mut command = program::command(&["status"]);
    command.env("NATS_NKEY", file.path());

    let output = program::finish(command).await;

    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("holds no seed") && !output.stderr.contains(PASSWORD), "{output:?}");
}
