//! A pool has as many agents as the work takes: they are started and drained, and what is told of that is true.

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use mesh_tests::state::that;
use mesh_tests::{BUILTINS, Mesh, State, mesh, new_task, program, tasks};
use serde_json::{Value, json};
use shared::Outcome;
use shared::api::scale::{Change, Detail, Explanation, Pool};
use shared::api::{self, AgentState, List};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// How long a burst may take on a slow machine, and the shrinking after it.
const LONG: Duration = Duration::from_secs(90);
/// Tasks of a burst, and how long each runs.
const BURST: usize = 2000;
const RUNS: &str = "50ms";
/// When an agent came or went is known to within this.
const ABOUT: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_makes_a_pool_grow_and_what_is_too_much_afterwards_goes_without_harm() {
    let (_files, config) = pool_of_processes("min-agents = 1\nmax-agents = 8\n");
    let mesh = Mesh::builder().config(&config).start().await;
    mesh.within(LONG, has(1)).await;

    mesh.submit_all((0..BURST).map(|_| new_task("sleep", RUNS))).await;
    let most = mesh.within(LONG, at_least(4)).await.present;
    mesh.within(LONG, tasks(0)).await;
    // Whoever is drained has something to do.
    mesh.within(LONG, fewer_than(most).while_tasks_come()).await;
    mesh.within(LONG, has(1)).await;
    mesh.until(tasks(0)).await;

    let results = mesh.results().await.0;
    assert!(results.len() > BURST, "tasks came while it shrank");
    let interrupted: Vec<_> = results.iter().filter(|r| r.attempts != 1 || r.outcome != Outcome::Succeeded).collect();
    assert!(interrupted.is_empty(), "{interrupted:?}");
    let events = Events::read(&mesh).await;
    assert_eq!(events.count("task.reassigned"), 0);
    assert!(events.changes().iter().any(|change| change.wished > change.before && change.outcome == "succeeded"));
    assert!(events.changes().iter().any(|change| change.wished < change.before && change.outcome == "succeeded"));
    events.assert_true();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_while_a_pool_grows_leaves_the_number_to_the_next() {
    let (_files, config) = pool_of_processes("min-agents = 1\nmax-agents = 6\n");
    let mesh = Mesh::builder().coordinators(2).config(&config).start().await;
    mesh.within(LONG, has(1)).await;

    mesh.submit_all((0..60).map(|_| new_task("sleep", "30s"))).await;
    let growing = async |mesh: &Mesh| {
        let pool = look(mesh).await?;
        if pool.wished == Some(6) && pool.present < 6 { Ok(()) } else { Err(format!("{pool:?}")) }
    };
    mesh.until(that("that it is to have six agents, and has not", growing)).await;
    let leader = mesh.leader().await;
    mesh.coordinator(leader).kill9();

    let pool = mesh.within(LONG, has(6)).await;
    assert_eq!((pool.wished, pool.starting), (Some(6), 0), "{pool:?}");
    let events = Events::read(&mesh).await;
    let most = events.present().into_iter().map(|(_, present)| present).max();
    assert!(most <= Some(6), "{most:?} agents at a time; {:?}", events.changes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_agent_is_replaced() {
    let (_files, config) = pool_of_processes("min-agents = 2\nmax-agents = 2\n");
    let mesh = Mesh::builder().config(&config).start().await;
    mesh.within(LONG, has(2)).await;
    let before = ids(&mesh).await;

    for pid in program::processes_called(&before[0]) {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let replaced = async |mesh: &Mesh| {
        let now = ids(mesh).await;
        if now.len() == 2 && now != before { Ok(now) } else { Err(format!("{now:?}")) }
    };
    let after = mesh.within(LONG, that("that another has come", replaced)).await;

    assert!(after.contains(&before[1]), "{after:?}");
    let told = Events::read(&mesh).await;
    assert!(told.changes().iter().any(|change| change.rule == "replacement"), "{:?}", told.changes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actuator_that_fails_is_told_of_and_not_asked_for_ever() {
    let config = pool_by_command("echo no room >&2; exit 1", "min-agents = 2\nflap-budget = 3\n");
    let mesh = Mesh::builder().config(&config).start().await;

    let failed = mesh.within(LONG, told(3, "failed")).await;
    mesh.until(looked_at_for(Duration::from_secs(3))).await;

    assert!(failed.iter().all(|c| c.error.as_ref().is_some_and(|error| error.contains("no room"))), "{failed:?}");
    let events = Events::read(&mesh).await;
    assert_eq!(events.underway(), 3, "the flap budget");
    assert_eq!(look(&mesh).await.unwrap().phase, "backing-off");
    events.assert_true();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actuator_that_lies_is_found_out() {
    let config = pool_by_command("exit 0", "min-agents = 2\nflap-budget = 3\nstartup-timeout = \"1s\"\n");
    let mesh = Mesh::builder().config(&config).start().await;

    let failed = mesh.within(LONG, told(3, "failed")).await;
    mesh.until(looked_at_for(Duration::from_secs(3))).await;

    assert!(failed.iter().all(|change| (change.before, change.after) == (0, Some(0))), "{failed:?}");
    let events = Events::read(&mesh).await;
    assert_eq!(events.underway(), 3, "the flap budget");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actuator_that_fails_half_the_time_gets_there() {
    let files = tempfile::tempdir().unwrap();
    let orders = files.path().join("orders");
    // Every other time it refuses; otherwise it notes how many are wanted, and the test starts them.
    let script = format!(
        "test $HIVE_ACTION = start || exit 0; echo $HIVE_COUNT >> {0}.all; \
         test $(($(wc -l < {0}.all) % 2)) = 0 || exit 1; echo $HIVE_COUNT >> {0}",
        orders.display()
    );
    let config = pool_by_command(&script, "min-agents = 3\nflap-budget = 6\n");
    let mut mesh = Mesh::builder().config(&config).start().await;

    start_what_is_ordered(&mut mesh, &orders, 1).await;
    mesh.within(LONG, has(3)).await;

    let events = Events::read(&mesh).await;
    let came_to = |outcome: &str| events.changes().iter().any(|change| change.outcome == outcome);
    assert!(came_to("failed") && came_to("succeeded"), "{:?}", events.changes());
    assert!(events.underway() <= 6, "{:?}", events.changes());
    events.assert_true();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_started_twice_is_put_right() {
    let files = tempfile::tempdir().unwrap();
    let orders = files.path().join("orders");
    let script = format!("test $HIVE_ACTION = start || exit 0; echo $HIVE_COUNT >> {}", orders.display());
    let config = pool_by_command(&script, "min-agents = 2\nmax-agents = 8\n");
    let mut mesh = Mesh::builder().config(&config).start().await;

    start_what_is_ordered(&mut mesh, &orders, 2).await;
    mesh.within(LONG, has(2)).await;

    let events = Events::read(&mesh).await;
    assert!(events.changes().iter().any(|change| change.rule == "surplus"), "{:?}", events.changes());
    events.assert_true();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_changed_paused_and_explained_while_it_runs() {
    let (_files, config) = pool_of_processes("min-agents = 1\nmax-agents = 3\n");
    let mesh = Mesh::builder().config(&config).start().await;
    mesh.within(LONG, has(1)).await;

    mesh.cli(&["scale", "set", "workers", "--agents", "3"]).await.succeeded();
    mesh.within(LONG, has(3)).await;
    let too_many = mesh.cli(&["scale", "set", "workers", "--agents", "9"]).await;
    mesh.cli(&["scale", "pause", "workers"]).await.succeeded();
    mesh.cli(&["scale", "set", "workers", "max-agents=2"]).await.succeeded();
    let would = async |mesh: &Mesh| {
        let why: Explanation = ask(mesh, "explain", json!({ "id": "workers" })).await?;
        if why.would.drain.len() == 1 { Ok(why) } else { Err(format!("{why:?}")) }
    };
    let why = mesh.until(that("that one would go", would)).await;
    let paused = look(&mesh).await.unwrap();
    mesh.cli(&["scale", "resume", "workers"]).await.succeeded();
    mesh.within(LONG, has(2)).await;

    assert_eq!(too_many.code, 1, "{too_many:?}");
    assert!(too_many.stderr.contains("1 to 3 agents, not 9"), "{too_many:?}");
    assert_eq!((paused.acts, paused.present), (false, 3), "{paused:?}");
    assert!(paused.held_by.unwrap().contains("paused"));
    assert_eq!(why.findings.len(), 10, "every rule says something");
    let table = mesh.cli(&["scale", "status"]).await.succeeded().stdout;
    assert!(table.contains("workers"), "{table}");
    let history = mesh.cli(&["scale", "history", "workers", "--json"]).await.succeeded().json();
    assert!(history["items"].as_array().unwrap().iter().any(|change| change["rule"] == "asked"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_words() {
    let (_files, config) = pool_of_processes("min-agents = 1\nmax-agents = 3\n");
    let mesh = Mesh::builder().config(&config).start().await;
    mesh.within(LONG, has(1)).await;

    for (verb, request, why) in [
        ("get", json!({ "id": "nobody" }), "there are workers"),
        ("set", json!({ "id": "workers", "settings": { "max-agent": 3 } }), "unknown field `max-agent`"),
        ("set", json!({ "id": "workers", "settings": { "min-agents": 9 } }), "must not be more than max-agents"),
        ("set", json!({ "id": "workers", "settings": { "actuator": { "type": "command" } } }), "file alone"),
        ("set", json!({ "id": "workers" }), "either `settings` or `agents`"),
    ] {
        let refused = mesh.ask("scale", verb, request).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_an_actuator_only_tells_what_it_would_do() {
    let config = format!("[pools.workers]\nmin-agents = 2\n{QUICK}");
    let mesh = Mesh::builder().config(&config).start().await;

    let planned = mesh.until(told(1, "planned")).await;

    assert_eq!((planned[0].before, planned[0].wished, planned[0].order), (0, 2, None), "{planned:?}");
    let pool = look(&mesh).await.unwrap();
    assert!(pool.held_by.unwrap().contains("[pools.workers.actuator]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_has_as_many_agents_as_the_work_takes() {
    let data = tempfile::tempdir().unwrap();
    let (server, path) = (mesh::nats_server().await, data.path().to_str().unwrap());
    let places =
        ["--nats-port", "0", "--http", "127.0.0.1:0", "--data", path, "--nats-server", server.to_str().unwrap()];
    let mut dev = program::command(&[&["dev", "--agents", "1-3"], &places[..]].concat());
    let mut dev = dev.stderr(Stdio::inherit()).spawn().unwrap();
    let mut said = BufReader::new(dev.stdout.take().unwrap()).lines();
    let mut http = None;
    while http.is_none() {
        let line = said.next_line().await.unwrap().expect("it says where it is before it ends");
        http = line.trim().strip_prefix("coordinator").map(|url| url.trim().to_owned());
    }

    let agents = format!("{}/v1/agents", http.unwrap());
    let started = std::time::Instant::now();
    loop {
        let list: List<api::Agent> = serde_json::from_str(&get(&agents).await).unwrap();
        if list.items.iter().filter(|agent| agent.state == AgentState::Healthy).count() == 1 {
            break;
        }
        assert!(started.elapsed() < mesh::PATIENCE, "{list:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let pid = nix::unistd::Pid::from_raw(dev.id().unwrap().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(mesh::PATIENCE, dev.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

/// Looks often, waits for nothing long, and takes the host for what it is: the same one for all agents.
const QUICK: &str = "interval = \"200ms\"\nstale-after = \"10s\"\nstartup-time = \"500ms\"\ntarget-wait = \"500ms\"\n\
                     max-utilisation = 1.0\nup-cooldown = \"1s\"\ndown-cooldown = \"3s\"\nbackoff = \"100ms..200ms\"\n";

/// A pool of processes with the builtin handlers; the directory holds their settings.
fn pool_of_processes(policy: &str) -> (tempfile::TempDir, String) {
    let files = tempfile::tempdir().unwrap();
    let agents = files.path().join("agent.toml");
    std::fs::write(&agents, format!("[agent]\nslots = 4\n{BUILTINS}")).unwrap();
    let (agents, logs) = (agents.display().to_string(), files.path().display().to_string());
    let actuator = format!("type = \"process\"\nconfig = {agents:?}\ndirectory = {logs:?}\n");
    (files, format!("[pools.workers]\n{policy}{QUICK}\n[pools.workers.actuator]\n{actuator}"))
}

/// A pool whose agents this script of the shell is to start.
fn pool_by_command(script: &str, policy: &str) -> String {
    let argv = format!("{:?}", ["/bin/sh", "-c", script]);
    format!("[pools.workers]\n{policy}{QUICK}\n[pools.workers.actuator]\ntype = \"command\"\nargv = {argv}\n")
}

/// Starts agents as they are noted in the file, each so many times, until the first order is met.
async fn start_what_is_ordered(mesh: &mut Mesh, orders: &Path, times: usize) {
    let ordered = async |_: &Mesh| noted(orders).ok_or_else(|| "nothing is ordered".to_owned());
    let count = mesh.within(LONG, that("that agents are ordered", ordered)).await;
    for number in 0..count * times {
        mesh.add_agent(&format!("agent-{number}"), 4, BUILTINS);
    }
}

/// How many agents the first note is for.
fn noted(orders: &Path) -> Option<usize> {
    std::fs::read_to_string(orders).ok()?.lines().next()?.trim().parse().ok()
}

async fn ask<T: serde::de::DeserializeOwned>(mesh: &Mesh, verb: &str, request: Value) -> Result<T, String> {
    let answer = mesh.ask("scale", verb, request).await?;
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

async fn look(mesh: &Mesh) -> Result<Pool, String> {
    let detail: Detail = ask(mesh, "get", json!({ "id": "workers" })).await?;
    Ok(detail.pool)
}

/// The ids of the agents that work.
async fn ids(mesh: &Mesh) -> Vec<String> {
    let agents = mesh.look_at_agents().await.unwrap_or_default();
    let working = agents.iter().filter(|agent| agent.state == AgentState::Healthy);
    working.map(|agent| agent.id.to_string()).collect()
}

/// It has so many agents, nobody is starting or leaving, and the mesh has no others.
fn has(agents: u32) -> impl State<Reached = Pool> {
    that(&format!("that the pool has {agents} agents"), async move |mesh: &Mesh| {
        let pool = look(mesh).await?;
        let working = ids(mesh).await.len();
        let is_calm = (pool.present, pool.starting, pool.leaving) == (agents, 0, 0) && working == agents as usize;
        if is_calm { Ok(pool) } else { Err(format!("{working} work; {pool:?}")) }
    })
}

fn at_least(agents: u32) -> impl State<Reached = Pool> {
    that(&format!("that the pool has {agents} agents or more"), async move |mesh: &Mesh| {
        let pool = look(mesh).await?;
        if pool.present >= agents { Ok(pool) } else { Err(format!("{pool:?}")) }
    })
}

/// See [`Fewer::while_tasks_come`].
fn fewer_than(agents: u32) -> Fewer {
    Fewer(agents)
}

struct Fewer(u32);

impl Fewer {
    /// It comes to fewer agents although short tasks come all the time, one with each look.
    fn while_tasks_come(self) -> impl State<Reached = ()> {
        let Fewer(agents) = self;
        that(&format!("that the pool has fewer than {agents} agents"), async move |mesh: &Mesh| {
            mesh.submit("sleep", "100ms").await;
            let pool = look(mesh).await?;
            if pool.present < agents && pool.leaving == 0 { Ok(()) } else { Err(format!("{pool:?}")) }
        })
    }
}

/// So many changes with this outcome were told.
fn told(count: usize, outcome: &'static str) -> impl State<Reached = Vec<Change>> {
    that(&format!("that {count} changes are told as {outcome}"), async move |mesh: &Mesh| {
        let events = Events::read(mesh).await;
        let told: Vec<Change> = events.changes().into_iter().filter(|change| change.outcome == outcome).collect();
        if told.len() >= count { Ok(told) } else { Err(format!("{told:?}")) }
    })
}

/// It has been looked at so long from now: what would follow has followed.
fn looked_at_for(span: Duration) -> impl State<Reached = ()> {
    let due = SystemTime::now() + span;
    that("that it was looked at for a while", async move |mesh: &Mesh| {
        let why: Explanation = ask(mesh, "explain", json!({ "id": "workers" })).await?;
        if moment(&why.time) >= due { Ok(()) } else { Err(why.time) }
    })
}

/// What was told, in order.
struct Events(Vec<api::Event>);

impl Events {
    async fn read(mesh: &Mesh) -> Self {
        let messages = mesh.read_stream("EVENTS").await;
        Self(messages.iter().map(|message| serde_json::from_slice(&message.payload).unwrap()).collect())
    }

    fn count(&self, what: &str) -> usize {
        self.0.iter().filter(|event| format!("{}.{}", event.topic, event.what) == what).count()
    }

    /// The changes that were told, those that have ended twice.
    fn changes(&self) -> Vec<Change> {
        let data = self.0.iter().filter(|event| event.topic == "scaling").filter_map(|event| event.data.clone());
        data.map(|data| serde_json::from_value(data).unwrap()).collect()
    }

    /// How many changes were ordered.
    fn underway(&self) -> usize {
        self.changes().iter().filter(|change| change.outcome == "underway").count()
    }

    /// How many agents were there that stay, from each moment on at which that changed, by what was told of agents.
    fn present(&self) -> Vec<(SystemTime, u32)> {
        let mut staying = std::collections::BTreeSet::new();
        let mut present = vec![(SystemTime::UNIX_EPOCH, 0)];
        for event in self.0.iter().filter(|event| event.topic == "agent") {
            let Some(agent) = &event.agent else { continue };
            match event.what.as_str() {
                "joined" | "returned" => drop(staying.insert(agent.clone())),
                "drained" | "left" | "lost" => drop(staying.remove(agent)),
                _ => continue,
            }
            present.push((moment(&event.time), staying.len() as u32));
        }
        present
    }

    /// How many agents may have been there at about this moment.
    fn present_about(&self, at: SystemTime) -> RangeInclusive<u32> {
        let present = self.present();
        let from = present.iter().rposition(|(since, _)| *since <= at - ABOUT).unwrap_or(0);
        let about = present[from..].iter().take_while(|(since, _)| *since <= at + ABOUT).map(|(_, count)| *count);
        let counts: Vec<u32> = about.collect();
        *counts.iter().min().unwrap()..=*counts.iter().max().unwrap()
    }

    /// Checks that before and after of each change are what was told of the agents themselves.
    fn assert_true(&self) {
        for change in self.changes() {
            let ordered = moment(&change.time);
            let before = self.present_about(ordered);
            assert!(before.contains(&change.before), "{before:?} were there: {change:?}");
            if let Some((after, took)) = change.after.zip(change.took_ms) {
                let there = self.present_about(ordered + Duration::from_millis(took));
                assert!(there.contains(&after), "{there:?} were there afterwards: {change:?}");
            }
        }
    }
}

fn moment(time: &str) -> SystemTime {
    humantime::parse_rfc3339(time).unwrap()
}

async fn get(url: &str) -> String {
    reqwest::get(url).await.unwrap().text().await.unwrap()
}
