//! What runs at most once never runs twice at a time: an agent that the coordinator may have given up for lost ends it
//! before anybody else can begin.

use std::net::SocketAddr;
use std::path::Path;

use mesh_tests::program::{self, processes_called};
use mesh_tests::state::that;
use mesh_tests::{Mesh, State, agent, command_handler, mesh, task};
use shared::Outcome;
use shared::api::TaskState;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_at_most_once_runs_like_anything_else_while_nothing_is_lost() {
    let config = at_most_once(&command_handler("pay", &["cat"]));
    let mesh = Mesh::builder().agent("ada", 2, &config).start().await;

    let result = mesh.run("pay", "body").await;

    assert_eq!((result.outcome, result.attempts, result.body.as_ref()), (Outcome::Succeeded, 1, &b"body"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_cut_off_ends_what_runs_at_most_once_before_it_runs_elsewhere() {
    let mut mesh = Mesh::builder().start().await;
    let notes = mesh.dir().join("notes");
    let name = format!("86400.{}77", std::process::id());
    // Whoever begins looks whether another is there. The first does not end when it is asked to.
    let script = format!(
        "if pgrep -xf 'sleep {name}' >/dev/null; then echo \"$HIVE_AGENT beside another\"; else echo \"$HIVE_AGENT\"; fi \
         >>{}; trap '' TERM; exec sleep {name}",
        notes.display()
    );
    let config = at_most_once(&command_handler("pay", &["sh", "-c", &script]));
    let link = Link::to(&mesh.nats_url()).await;
    let mut ada = start_agent(&mesh, "ada", &config, &link.url()).await;
    let id = mesh.submit("pay", "").await;
    mesh.until(task(&id).running()).await;
    mesh.until(noted(&notes, "ada")).await;
    mesh.add_agent("bob", 2, &config);
    mesh.until(agent("bob").healthy()).await;

    link.cut();
    mesh.until(noted(&notes, "bob")).await;

    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "ada\nbob\n");
    assert_eq!(mesh.look_at_task(&id).await.unwrap().agent.as_deref(), Some("bob"));
    assert!(ada.try_wait().unwrap().is_none(), "the agent itself goes on");
    assert_eq!(mesh.look_at_task(&id).await.unwrap().state, TaskState::Running);
    assert_eq!(processes_called(&format!("sleep\0{name}")).len(), 1);
}

/// The settings of a handler, for what may not run twice at a time.
fn at_most_once(handler: &str) -> String {
    format!("{handler}at-most-once = true\n")
}

async fn start_agent(mesh: &Mesh, id: &str, config: &str, url: &str) -> tokio::process::Child {
    let file = mesh.dir().join(format!("{id}.toml"));
    std::fs::write(&file, config).unwrap();
    let arguments = ["agent", "--nats", url, "--id", id, "--config", file.to_str().unwrap()];
    let process = program::command(&arguments).spawn().unwrap();
    mesh.until(agent(id).healthy()).await;
    process
}

/// An agent has noted that it begins, as the last one.
fn noted(notes: &Path, agent: &str) -> impl State<Reached = ()> {
    that("that an agent begins", async move |_: &Mesh| {
        let text = std::fs::read_to_string(notes).unwrap_or_default();
        if text.lines().last().is_some_and(|line| line.starts_with(agent)) { Ok(()) } else { Err(text) }
    })
}

/// A way to the broker that can be cut: nothing comes through any more, and neither end is told.
struct Link {
    address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Link {
    async fn to(url: &str) -> Self {
        let broker = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (cut, is_cut) = watch::channel(false);
        let link = Self { address: listener.local_addr().unwrap(), cut };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, broker.clone(), is_cut.clone()));
            }
        });
        link
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    fn cut(&self) {
        self.cut.send_replace(true);
    }
}

async fn carry(mut near: TcpStream, broker: String, mut is_cut: watch::Receiver<bool>) {
    let mut far = TcpStream::connect(broker).await.unwrap();
    tokio::select! {
        biased;
        _ = is_cut.wait_for(|cut| *cut) => {}
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => return,
    }
    // Both stay open, for as long as the test lasts.
    tokio::time::sleep(mesh::PATIENCE * 2).await;
}
