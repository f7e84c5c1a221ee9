//! Brokers that are not there, too old, or without JetStream.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordinator::local::{Broker, Launcher, Process, Program, broker};
use mesh_tests::{mesh, program};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_waits_for_a_broker_that_does_not_answer_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let url = format!("nats://127.0.0.1:{port}");

    let mut serve = Talking::start(&["serve", "--nats", &url, "--http", "127.0.0.1:0"]);
    serve.until_said("no NATS server answers", 2).await;
    let mut options = broker::Options::new(mesh::nats_server().await, dir.path());
    options.port = Some(port);
    let _broker = Broker::start(&Launcher::new(program::exe()), options).await.unwrap();

    serve.until_said("leading the mesh", 1).await;
    assert!(serve.said().contains(&url), "{}", serve.said());
}

#[tokio::test]
async fn a_command_gives_up_on_a_broker_that_does_not_answer_with_exit_code_3() {
    let url = format!("nats://127.0.0.1:{}", free_port().await);

    let output = program::run(&["--nats", &url, "submit", "echo", "hi"]).await;

    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains(&format!("no NATS server answers at {url}")), "{output:?}");
}

#[tokio::test]
async fn an_address_that_is_none_is_told_at_once() {
    let output = program::run(&["--nats", "nats://:port:", "submit", "echo", "hi"]).await;

    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stderr.contains("is not the address of a NATS server"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_on_a_broker_without_a_mesh_says_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let options = broker::Options::new(mesh::nats_server().await, dir.path());
    let broker = Broker::start(&Launcher::new(program::exe()), options).await.unwrap();

    for command in [&["submit", "echo", "hi"][..], &["call", "echo", "hi"], &["agents", "list"], &["events"]] {
        let output = program::run(&[&["--nats", &broker.url()], command].concat()).await;

        assert_eq!(output.code, 3, "{command:?}: {output:?}");
        assert!(output.stderr.contains("coordinator"), "{command:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_jetstream_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = server_without_jetstream(dir.path()).await;

    let output = program::run(&["serve", "--nats", &url, "--http", "127.0.0.1:0"]).await;

    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("no JetStream"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_too_old_is_a_clear_error() {
    let url = old_server().await;

    let output = program::run(&["serve", "--nats", &url, "--http", "127.0.0.1:0"]).await;

    assert_ne!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("is version 2.9.10, but Hivemesh needs 2.12"), "{output:?}");
}

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// A program that is listened to while it runs.
struct Talking {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Talking {
    fn start(args: &[&str]) -> Self {
        let mut child = program::command(args).stdout(Stdio::null()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut lines, heard) = (BufReader::new(child.stderr.take().unwrap()).lines(), said.clone());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said something so many times, and still runs.
    async fn until_said(&mut self, words: &str, times: usize) {
        let poll = async {
            while self.said().matches(words).count() < times {
                assert_eq!(self.child.try_wait().unwrap(), None, "it ended: {}", self.said());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(mesh::PATIENCE, poll).await;
        assert!(waited.is_ok(), "it did not say `{words}` {times} times: {}", self.said());
    }
}

async fn server_without_jetstream(dir: &Path) -> (Process, String) {
    let server = Program {
        name: "nats-server".to_owned(),
        path: mesh::nats_server().await,
        args: ["-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", dir.to_str().unwrap()].map(Into::into).into(),
        env: Vec::new(),
        log: dir.join("nats-server.log"),
    };
    let process = Launcher::new(program::exe()).spawn(server).unwrap();
    let listening = async {
        loop {
            if let Some(url) = written_url(dir) {
                return url;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let url = tokio::time::timeout(mesh::PATIENCE, listening).await.expect("nats-server starts");
    (process, url)
}

/// The server writes a file with its port once it listens.
fn written_url(dir: &Path) -> Option<String> {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    let file = files.map(|file| file.path()).find(|path| path.extension().is_some_and(|end| end == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).ok()?;
    Some(ports["nats"][0].as_str()?.to_owned())
}

/// As much of an old server as a client meets before it asks for its version.
pub(crate) async fn old_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(greet(socket));
        }
    });
    url
}

async fn greet(mut socket: TcpStream) {
    let info =
        r#"{"server_id":"old","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}"#;
    socket.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
    let (read, mut write) = socket.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("PING") {
            write.write_all(b"PONG\r\n").await.unwrap();
        }
    }
}
