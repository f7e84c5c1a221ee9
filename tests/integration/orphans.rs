//! However an attempt ends, nothing of it is left running: not even what forks twice, begins a session of its own,
//! clears its environment and ignores every signal that can be ignored; not even when the agent is killed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agent_worker::Agent;
use agent_worker::config::File;
use mesh_tests::mesh::PATIENCE;
use mesh_tests::program::{children_of, processes_called};
use mesh_tests::state::that;
use mesh_tests::{Mesh, State, agent, command_handler, new_task, program, results, tasks};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use shared::Outcome;
use shared::client::NewTask;
use shared::connect::Settings;
use tokio::io::AsyncReadExt as _;

/// How soon after the death of an agent nothing of its commands may be left.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_behind_ends_with_it() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("cat")).await;

    let result = mesh.run("escape", "body").await;

    assert_eq!((result.outcome, result.body.as_ref()), (Outcome::Succeeded, &b"body"[..]));
    assert_eq!(escape.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_command_that_ran_too_long() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    let task = limited("Hive-Timeout", "2s");
    mesh.submit_task(&task).await;
    mesh.until(escape.is_running()).await;

    let result = mesh.wait(&task.id).await;

    assert_eq!(result.outcome, Outcome::Failed);
    assert_eq!(escape.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_task_whose_deadline_ends_its_attempts() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    let task = limited("Hive-Timeout", "2s").header("Hive-Deadline", "3s").unwrap();
    let task = task.header("Hive-Max-Attempts", "9").unwrap().header("Hive-Backoff", "2s..2s").unwrap();
    mesh.submit_task(&task).await;
    mesh.until(escape.is_running()).await;

    mesh.wait(&task.id).await;

    assert_eq!(escape.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_command_that_is_cancelled() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    let id = mesh.submit("escape", "").await;
    mesh.until(escape.is_running()).await;

    mesh.cli(&["tasks", "cancel", id.as_str()]).await.succeeded();

    assert_eq!(mesh.wait(&id).await.outcome, Outcome::Cancelled);
    assert_eq!(escape.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_drains_leaves_nothing_behind() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    mesh.submit_task(&limited("Hive-Timeout", "2s")).await;
    mesh.until(escape.is_running()).await;

    mesh.agent("ada").terminate();
    assert!(mesh.agent("ada").ended().await);

    assert_eq!(escape.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_at_once_leaves_nothing_behind() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    mesh.submit("escape", "").await;
    mesh.until(escape.is_running()).await;

    mesh.agent("ada").terminate();
    mesh.until(agent("ada").is(shared::api::AgentState::Stopping)).await;
    mesh.agent("ada").terminate();
    assert!(!mesh.agent("ada").ended().await, "an agent that ends attempts by force says so");

    assert_eq!(escape.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_leaves_nothing_behind() {
    let escape = Escape::new();
    let mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    mesh.submit("escape", "").await;
    mesh.until(escape.is_running()).await;

    mesh.agent("ada").kill().await;

    mesh.within(SOON, escape.is_gone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_whole_process_group_is_killed_leaves_nothing_behind() {
    let escape = Escape::new();
    let mut mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    mesh.submit("escape", "").await;
    mesh.until(escape.is_running()).await;

    let ada = mesh.local().agents()[0].process().pid();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        killpg(Pid::from_raw(ada.cast_signed()), signal).unwrap();
    }

    mesh.within(SOON, escape.is_gone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ends_takes_nothing_of_another_with_it() {
    let (longer, shorter) = (Escape::new(), Escape::new());
    let script = format!(
        "read which; if test $which = long; then {}; else {}; fi",
        longer.then("exec sleep 600"),
        shorter.then("true")
    );
    let mesh = mesh_that_runs(&script).await;
    let long = mesh.submit("escape", "long\n").await;
    mesh.until(longer.is_running()).await;

    let result = mesh.run("escape", "short\n").await;

    assert_eq!(result.outcome, Outcome::Succeeded);
    assert_eq!(shorter.left(), [""; 0]);
    assert_eq!(longer.left().len(), 1);
    mesh.cli(&["tasks", "cancel", long.as_str()]).await.succeeded();
    mesh.wait(&long).await;
    assert_eq!(longer.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_that_end_while_their_attempt_runs_are_taken_note_of() {
    let last = Escape::new();
    let script = format!("for i in 1 2 3 4 5; do (setsid -f true); done; exec sleep {}", last.name);
    let mut mesh = mesh_that_runs(&script).await;
    let ada = mesh.local().agents()[0].process().pid();
    mesh.until(watchdog_of(ada)).await;
    mesh.submit("escape", "").await;
    mesh.until(last.is_running()).await;

    mesh.until(that("that the agent has its watchdog and the command", async |_: &Mesh| {
        match children_of(ada).len() {
            2 => Ok(()),
            count => Err(format!("{count} children")),
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_agent_ends_its_strays_and_spares_the_children_of_its_program() {
    let escape = Escape::new();
    let mesh = Mesh::builder().start().await;
    let mut own = OwnChild::start();
    let script = format!("read next; {}", escape.then("exec $next"));
    let config = File::parse(&command_handler("escape", &["sh", "-c", &script]), "test".as_ref()).unwrap();
    let settings = Settings { url: mesh.nats_url(), ..Settings::default() };
    let guest = Agent::builder(settings, config.check("test".as_ref()).unwrap()).id("ada".parse().unwrap());
    let guest = guest.build().unwrap();
    let stopper = guest.stopper();
    let running = tokio::spawn(guest.run());

    let result = mesh.run("escape", "echo done\n").await;
    assert_eq!((result.outcome, result.body.as_ref()), (Outcome::Succeeded, &b"done\n"[..]));
    mesh.until(escape.is_gone()).await;

    mesh.submit("escape", "sleep 600\n").await;
    mesh.until(escape.is_running()).await;
    stopper.leave_now();
    running.await.unwrap().unwrap();
    assert_eq!(escape.left(), [""; 0]);
    assert!(own.is_running(), "a child that is not the agent's was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_killed_agent_ends_with_it() {
    let mesh = Mesh::builder().start().await;
    let config = mesh.dir().join("bob.toml");
    std::fs::write(&config, command_handler("nap", &["sleep", "600"])).unwrap();
    let arguments = ["agent", "--nats", &mesh.nats_url(), "--id", "bob", "--config", config.to_str().unwrap()];
    let mut bob = program::command(&arguments).spawn().unwrap();
    mesh.until(agent("bob").healthy()).await;
    let watchdog = mesh.until(watchdog_of(bob.id().unwrap())).await;

    // What the watchdog has open cannot end: that is none of the agent's connections, nor its output.
    let its = open_files(watchdog);
    let of_bob = open_files(bob.id().unwrap());
    let kept: Vec<_> = of_bob.iter().filter(|(_, file)| its.values().any(|other| other == *file)).collect();
    let is_bad =
        |(number, file): &(&String, &String)| ["1", "2"].contains(&number.as_str()) || file.starts_with("socket:");
    assert!(!kept.iter().any(is_bad), "{kept:?}");

    bob.start_kill().unwrap();

    let (mut output, mut errors) = (String::new(), String::new());
    let ends = async {
        bob.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
        bob.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, ends).await.expect("somebody still has the agent's output open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_is_killed_is_replaced_and_none_outlives_its_agent() {
    let escape = Escape::new();
    let mut mesh = mesh_that_runs(&escape.then("exec sleep 600")).await;
    let ada = mesh.local().agents()[0].process().pid();
    let first = mesh.until(watchdog_of(ada)).await;

    nix::sys::signal::kill(first, Signal::SIGKILL).unwrap();
    let second = mesh
        .until(that("another watchdog", async |mesh: &Mesh| match watchdog_of(ada).look(mesh).await? {
            pid if pid == first => Err("still the first".to_owned()),
            pid => Ok(pid),
        }))
        .await;
    mesh.submit("escape", "").await;
    mesh.until(escape.is_running()).await;
    mesh.agent("ada").kill().await;

    mesh.within(SOON, escape.is_gone()).await;
    let gone = async |_: &Mesh| match nix::sys::signal::kill(second, None) {
        Ok(()) => Err("it is there".to_owned()),
        Err(_) => Ok(()),
    };
    mesh.within(SOON, that("that the watchdog has ended", gone)).await;
}

/// The promise in full, with figures: `cargo test -p mesh-tests --test integration -- --ignored a_thousand`.
#[ignore = "a measurement of some minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_attempts_that_are_ended_leave_nothing() {
    const AT_ONCE: usize = 20;
    let escape = Escape::new();
    let config = command_handler("escape", &["sh", "-c", &escape.then("exec sleep 600")]);
    let mut mesh = Mesh::builder().start().await;
    let mut slowest = Duration::ZERO;
    for round in 0..1_000 / AT_ONCE {
        // An agent that comes and goes gets no work after a while.
        let id = format!("agent-{round}");
        mesh.add_agent(&id, AT_ONCE as u32, &config);
        mesh.until(agent(&id).healthy()).await;
        let kill_agent = round % 2 == 0;
        let sent: Vec<NewTask> = (0..AT_ONCE).map(|_| new_task("escape", "")).collect();
        mesh.submit_all(sent.clone()).await;
        mesh.until(escape.are_running(AT_ONCE)).await;
        let killed = Instant::now();
        if kill_agent {
            mesh.agent(&id).kill().await;
            mesh.until(escape.is_gone()).await;
            slowest = slowest.max(killed.elapsed());
        }
        for task in sent {
            mesh.ask("task", "cancel", serde_json::json!({ "id": task.id })).await.unwrap();
        }
        mesh.until(tasks(0)).await;
        assert_eq!(escape.left(), [""; 0], "after round {round}");
        if !kill_agent {
            mesh.agent(&id).terminate();
            assert!(mesh.agent(&id).ended().await);
        }
    }
    mesh.until(results(1_000)).await;
    println!(
        "500 attempts were cancelled and 500 lost with their agents, and at most {slowest:?} later nothing was left"
    );
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// A process that does what it can not to end with its command.
struct Escape {
    /// How long it sleeps, which no other does.
    name: String,
}

impl Escape {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("86400.{:07}{next:03}", std::process::id()) }
    }

    /// A script that starts it, and does something else when it has escaped.
    fn then(&self, next: &str) -> String {
        // What the shell captures ends when the process has closed its output, which it does last.
        let escaping = format!("trap '' HUP INT TERM; exec sleep {} >/dev/null 2>&1", self.name);
        format!("escaped=$(env -i setsid -f sh -c \"{escaping}\"); {next}")
    }

    /// Everything that has to do with it, the command that starts it among them.
    fn left(&self) -> Vec<String> {
        processes_called(&self.name)
    }

    /// Only those that have escaped.
    fn escaped(&self) -> Vec<String> {
        processes_called(&format!("sleep\0{}\0", self.name))
    }

    fn is_running(&self) -> impl State<Reached = ()> {
        self.are_running(1)
    }

    fn are_running(&self, wanted: usize) -> impl State<Reached = ()> {
        that("that its processes have escaped", async move |_: &Mesh| match self.escaped().len() {
            count if count == wanted => Ok(()),
            count => Err(format!("{count} of {wanted} have")),
        })
    }

    fn is_gone(&self) -> impl State<Reached = ()> {
        that("that nothing is left", async |_: &Mesh| match &self.left()[..] {
            [] => Ok(()),
            left => Err(format!("{left:?} are")),
        })
    }
}

/// A child of this program that is none of an agent's business: nobody's attempt, and in no group of its own.
struct OwnChild(Child);

impl OwnChild {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap())
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn mesh_that_runs(script: &str) -> Mesh {
    Mesh::builder().agent("ada", 4, &command_handler("escape", &["sh", "-c", script])).start().await
}

fn limited(header: &str, value: &str) -> NewTask {
    new_task("escape", "").header(header, value).unwrap().header("Hive-Max-Attempts", "1").unwrap()
}

/// What a process has open, by number.
fn open_files(pid: impl Display) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let number_and_file = |file: std::fs::DirEntry| {
        Some((file.file_name().into_string().ok()?, std::fs::read_link(file.path()).ok()?.display().to_string()))
    };
    files.filter_map(number_and_file).collect()
}

/// The one watchdog that an agent has.
fn watchdog_of(agent: u32) -> impl State<Reached = Pid> {
    that("a watchdog", async move |_: &Mesh| {
        let children = children_of(agent).into_iter();
        let is_watchdog = |pid: &String| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "agent-watchdog"
        };
        match &children.filter(is_watchdog).collect::<Vec<_>>()[..] {
            [one] => Ok(Pid::from_raw(one.parse().unwrap())),
            other => Err(format!("{other:?}")),
        }
    })
}
