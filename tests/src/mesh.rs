//! A mesh under test, and what is done to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_worker::{Agent, Stopper};
use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use coordinator::local::{AgentSpec, Broker, Launcher, LocalMesh, Options, Process, obtain};
use futures_util::{StreamExt as _, stream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::api;
use shared::client::{NewTask, TaskResult};
use shared::connect::Settings;
use shared::{AgentId, Client, TaskId};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::disk::Disk;
use crate::state::State;
use crate::{BUILTINS, program};

/// How long a state is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether the state has come.
const LOOK: Duration = Duration::from_millis(20);
/// The variable that keeps the directories of meshes, with all their logs, when it is set.
const KEEP: &str = "MESH_TESTS_KEEP";
/// How much of each log a failure tells.
const LOG_LINES: usize = 15;
/// How many tasks are on their way to the broker at once.
const IN_FLIGHT: usize = 256;

/// The nats-server, looked for or fetched once per test program.
pub async fn nats_server() -> PathBuf {
    static SERVER: OnceCell<PathBuf> = OnceCell::const_new();
    let found = SERVER.get_or_init(|| async {
        let found = obtain(None, |said| eprintln!("{said}")).await;
        found.unwrap_or_else(|error| panic!("there is no nats-server to test with: {}", coordinator::chain(&error)))
    });
    found.await.clone()
}

/// A task of a kind with a body, under a new id.
pub fn new_task(kind: &str, body: impl Into<Bytes>) -> NewTask {
    NewTask::new(kind.parse().expect("a test names its kinds well"), body)
}

/// Says how a mesh is to be started.
#[derive(Debug)]
#[must_use]
pub struct Builder {
    agents: Vec<AgentSpec>,
    coordinators: usize,
    config: Option<String>,
    env: Vec<(String, String)>,
    broker: String,
    disk: Option<Disk>,
    sync_always: bool,
}

impl Builder {
    /// One more agent, with so many slots and these settings.
    pub fn agent(mut self, id: &str, slots: u32, config: &str) -> Self {
        self.agents.push(AgentSpec::new(agent_id(id), slots, config));
        self
    }

    /// One more agent, that sees a variable `NOTES` with this path in it.
    pub fn agent_with_notes(mut self, id: &str, slots: u32, config: &str, notes: &Path) -> Self {
        let mut spec = AgentSpec::new(agent_id(id), slots, config);
        spec.env.push(("NOTES".to_owned(), notes.display().to_string()));
        self.agents.push(spec);
        self
    }

    /// So many coordinators instead of one.
    pub fn coordinators(mut self, count: usize) -> Self {
        self.coordinators = count;
        self
    }

    /// Settings of the coordinators, in TOML.
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// A variable that coordinators and agents see.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// More lines for the broker's settings.
    pub fn broker(mut self, lines: &str) -> Self {
        self.broker = lines.to_owned();
        self
    }

    /// The broker's streams on a disk of their own.
    pub fn on_disk(mut self, disk: &Disk) -> Self {
        self.disk = Some(disk.clone());
        self
    }

    /// A broker that syncs each message before it confirms it.
    pub fn sync_always(mut self) -> Self {
        self.sync_always = true;
        self
    }

    /// Starts the mesh and waits until it does its work.
    pub async fn start(self) -> Mesh {
        let dir = tempfile::Builder::new().prefix("hivemesh-test-").tempdir();
        let mut dir = dir.expect("the temp directory is writable");
        dir.disable_cleanup(std::env::var_os(KEEP).is_some());
        let mut options = Options::new(Launcher::new(program::exe()), nats_server().await, dir.path());
        options.agents = self.agents;
        options.agents.iter_mut().for_each(|agent| agent.env.extend(self.env.iter().cloned()));
        options.coordinator_env = self.env;
        options.coordinators = self.coordinators;
        options.coordinator_config = self.config;
        options.broker.extra_config = self.broker;
        options.broker.sync_always = self.sync_always;
        if let Some(disk) = self.disk {
            let wrapper = dir.path().join("nats-server-on-disk");
            let mounted = disk.mount_for(&options.broker.binary, &options.broker.store_dir(), &wrapper);
            mounted.expect("the temp directory is writable");
            options.broker.binary = wrapper;
        }
        let local = LocalMesh::start(options).await;
        let local = local.unwrap_or_else(|error| panic!("the mesh did not start: {}", coordinator::chain(&error)));
        if let Err(error) = local.until_ready(PATIENCE).await {
            panic!("the mesh is not ready: {error}");
        }
        let client = local.client().await.expect("the broker answered a moment ago");
        let mesh = Mesh { client, embedded: BTreeMap::new(), local, dir };
        if self.coordinators > 0 {
            // A coordinator is ready before it leads.
            mesh.until(crate::state::leader()).await;
        }
        mesh
    }
}

fn noted(number: u64) -> Vec<u8> {
    let event = api::Event {
        time: "2026-12-01T12:00:00.000Z".to_owned(),
        topic: "task".to_owned(),
        what: "noted".to_owned(),
        epoch: shared::Epoch(1),
        agent: None,
        task: Some(format!("t{number}")),
        kind: Some("echo".to_owned()),
        attempt: None,
        detail: Some(number.to_string()),
        data: None,
    };
    serde_json::to_vec(&event).expect("an event is JSON")
}

fn agent_id(id: &str) -> AgentId {
    id.parse().expect("a test names its agents well")
}

/// A mesh of real processes. Dropping it ends all of them; if the test has failed, their logs are told.
#[derive(Debug)]
pub struct Mesh {
    client: Client,
    embedded: BTreeMap<String, Embedded>,
    local: LocalMesh,
    dir: tempfile::TempDir,
}

/// An agent that runs in the test's own process.
#[derive(Debug)]
struct Embedded {
    stopper: Stopper,
    running: JoinHandle<()>,
}

impl Mesh {
    /// A mesh with a coordinator and the agents `ada`, `bob` and `cid`, of four slots and the builtin handlers.
    pub async fn start() -> Self {
        let builder = Self::builder();
        ["ada", "bob", "cid"].into_iter().fold(builder, |mesh, id| mesh.agent(id, 4, BUILTINS)).start().await
    }

    /// A mesh of one coordinator and no agents, to be added to.
    pub fn builder() -> Builder {
        Builder {
            agents: Vec::new(),
            coordinators: 1,
            config: None,
            env: Vec::new(),
            broker: String::new(),
            disk: None,
            sync_always: false,
        }
    }

    /// A client of the mesh, connected.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A plain connection to the broker, that knows nothing of the mesh.
    pub async fn plain_client(&self) -> async_nats::Client {
        async_nats::connect(self.local.nats_url()).await.expect("the broker answers")
    }

    /// The processes, for what has no name here.
    pub fn local(&mut self) -> &mut LocalMesh {
        &mut self.local
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        self.local.broker()
    }

    /// A directory of its own, for whatever a test writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the broker listens.
    pub fn nats_url(&self) -> String {
        self.local.nats_url()
    }

    /// Submits a task; its id.
    pub async fn submit(&self, kind: &str, body: &str) -> TaskId {
        let task = new_task(kind, body.to_owned());
        self.submit_task(&task).await;
        task.id
    }

    /// Submits a task.
    pub async fn submit_task(&self, task: &NewTask) {
        self.client.submit(task).await.unwrap_or_else(|error| panic!("{}", coordinator::chain(&error)));
    }

    /// Submits many tasks, a few hundred at a time; each is accepted when this returns.
    pub async fn submit_all(&self, tasks: impl IntoIterator<Item = NewTask>) {
        submit_all(&self.client, tasks).await;
    }

    /// Submits many tasks from the background, so that something can happen to the mesh meanwhile.
    pub fn submit_in_background(&self, tasks: Vec<NewTask>) -> JoinHandle<()> {
        let client = self.client.clone();
        tokio::spawn(async move { submit_all(&client, tasks).await })
    }

    /// Submits a task and waits for its result.
    pub async fn run(&self, kind: &str, body: &str) -> TaskResult {
        self.run_task(new_task(kind, body.to_owned())).await
    }

    /// Submits a task and waits for its result.
    pub async fn run_task(&self, task: NewTask) -> TaskResult {
        self.submit_task(&task).await;
        self.wait(&task.id).await
    }

    /// Waits for the result of a task.
    pub async fn wait(&self, id: &TaskId) -> TaskResult {
        match self.client.wait(id, PATIENCE).await {
            Ok(result) => result,
            Err(error) => {
                let (seen, lanes) = (self.look_at_task(id).await, self.lanes().await);
                panic!("{}; the last look: {seen:?}\n{lanes}", coordinator::chain(&error))
            }
        }
    }

    /// Waits for a state, for up to [`PATIENCE`]; fails with what it looked like last, and the logs.
    pub async fn until<S: State>(&self, state: S) -> S::Reached {
        self.within(PATIENCE, state).await
    }

    /// The same with another limit.
    pub async fn within<S: State>(&self, limit: Duration, state: S) -> S::Reached {
        let started = Instant::now();
        loop {
            let seen = match state.look(self).await {
                Ok(reached) => return reached,
                Err(seen) => seen,
            };
            if started.elapsed() > limit {
                let lanes = self.lanes().await;
                panic!("after {limit:?} {} has not come; the last look: {seen}\n{lanes}", state.describe());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks the leader's control service.
    pub async fn ask(&self, noun: &str, verb: &str, request: serde_json::Value) -> Result<serde_json::Value, String> {
        let body = serde_json::to_vec(&request).expect("a value is JSON");
        let subject = self.client.subjects().api(noun, verb);
        let answer = self.client.nats().request(subject, body.into()).await.map_err(|error| error.to_string())?;
        if let Some(error) = answer.headers.as_ref().and_then(|headers| headers.get("Nats-Service-Error")) {
            return Err(error.to_string());
        }
        serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())
    }

    /// A task as the leader sees it.
    pub async fn look_at_task(&self, id: &TaskId) -> Result<api::Task, String> {
        let answer = self.ask("task", "get", serde_json::json!({ "id": id })).await?;
        serde_json::from_value(answer).map_err(|error| error.to_string())
    }

    /// The agents as the leader sees them.
    pub async fn look_at_agents(&self) -> Result<Vec<api::Agent>, String> {
        let answer = self.ask("agent", "list", serde_json::json!({})).await?;
        let list: api::List<api::Agent> = serde_json::from_value(answer).map_err(|error| error.to_string())?;
        Ok(list.items)
    }

    /// What waits and runs of a kind as the leader sees it, and the settings that hold for it.
    pub async fn look_at_queue(&self, kind: &str) -> Result<api::QueueSettings, String> {
        let answer = self.ask("queue", "get", serde_json::json!({ "id": kind })).await?;
        serde_json::from_value(answer).map_err(|error| error.to_string())
    }

    /// How many messages one of the mesh's streams holds: `TASKS`, `RESULTS`, `DEAD` or `EVENTS`.
    pub async fn count(&self, stream: &str) -> Result<u64, String> {
        let stream = self.client.jetstream().get_stream(format!("HIVE_{stream}")).await;
        Ok(stream.map_err(|error| error.to_string())?.cached_info().state.messages)
    }

    /// All results that are kept, in the order they were recorded.
    pub async fn results(&self) -> Results {
        let messages = self.read_stream("RESULTS").await;
        let parse = |m: jetstream::Message| TaskResult::parse(m.message.headers.as_ref(), m.message.payload);
        Results(messages.into_iter().map(|m| parse(m).expect("only results are in there")).collect())
    }

    /// Everything that one of the mesh's streams holds.
    pub async fn read_stream(&self, name: &str) -> Vec<jetstream::Message> {
        use jetstream::consumer::pull::OrderedConfig;
        let stream = self.client.jetstream().get_stream(format!("HIVE_{name}")).await.expect("the stream is there");
        let consumer = stream.create_consumer(OrderedConfig::default()).await.expect("a stream can be read");
        let mut left = consumer.cached_info().num_pending;
        let mut messages = consumer.messages().await.expect("a stream can be read");
        let mut all = Vec::new();
        while left > 0 {
            let message = messages.next().await.expect("there are some left").expect("a stream can be read");
            left = message.info().expect("it comes from a stream").pending;
            all.push(message);
        }
        all
    }

    /// Tells an event of its own for each of these numbers, `task.noted` with the number as its detail, in their order;
    /// each is stored when this returns.
    pub async fn tell(&self, numbers: std::ops::Range<u64>) {
        let (jetstream, subject) = (self.client.jetstream(), self.client.subjects().event("task", "noted"));
        let mut under_way = std::collections::VecDeque::new();
        for number in numbers {
            let sent = jetstream.publish(subject.clone(), noted(number).into()).await;
            under_way.push_back(sent.expect("the broker is there"));
            if under_way.len() >= IN_FLIGHT {
                let oldest = under_way.pop_front().expect("it is not empty");
                oldest.await.expect("the broker stores it");
            }
        }
        for sent in under_way {
            sent.await.expect("the broker stores it");
        }
    }

    /// The events about a task or an agent, as `topic.what`.
    pub async fn events_about(&self, id: &str) -> Vec<String> {
        let events = self.read_stream("EVENTS").await;
        let events = events.iter().map(|m| serde_json::from_slice::<api::Event>(&m.payload).expect("it is an event"));
        let about = |event: &api::Event| [&event.task, &event.agent].into_iter().flatten().any(|named| named == id);
        events.filter(about).map(|event| format!("{}.{}", event.topic, event.what)).collect()
    }

    /// One of its agents.
    ///
    /// # Panics
    /// If there is none of that id.
    pub fn agent(&self, id: &str) -> AgentProcess<'_> {
        let agent = self.local.agent(&agent_id(id)).unwrap_or_else(|| panic!("there is no agent {id}"));
        AgentProcess(agent.process())
    }

    /// Starts one more agent.
    pub fn add_agent(&mut self, id: &str, slots: u32, config: &str) {
        self.local.add_agent(AgentSpec::new(agent_id(id), slots, config)).expect("an agent starts");
    }

    /// Starts an agent in this process, with handlers that `prepare` adds.
    pub async fn embed(&mut self, id: &str, slots: u32, prepare: impl FnOnce(AgentBuilder) -> AgentBuilder) {
        let config = agent_worker::Config { slots, queue: slots, ..agent_worker::Config::default() };
        self.embed_with(id, config, prepare).await;
    }

    /// The same with these settings.
    pub async fn embed_with(
        &mut self,
        id: &str,
        config: agent_worker::Config,
        prepare: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) {
        let settings = Settings { url: self.nats_url(), ..Settings::default() };
        let agent = prepare(Agent::builder(settings, config).id(agent_id(id))).build().expect("its handlers are good");
        let stopper = agent.stopper();
        let running = tokio::spawn(async move {
            if let Err(error) = agent.run().await {
                eprintln!("an embedded agent ended: {error}");
            }
        });
        self.embedded.insert(id.to_owned(), Embedded { stopper, running });
        self.until(crate::agent(id).healthy()).await;
    }

    /// Which of its coordinators leads, by its place in the list.
    pub async fn leader(&self) -> usize {
        self.until(crate::state::leader()).await
    }

    /// A coordinator's process.
    pub fn coordinator(&self, index: usize) -> &Process {
        self.local.coordinators()[index].process()
    }

    /// Where a coordinator answers over HTTP.
    pub fn http(&self) -> String {
        self.local.http_url().expect("a coordinator is ready")
    }

    /// Where the coordinator at this place answers over HTTP.
    pub fn http_address(&self, index: usize) -> std::net::SocketAddr {
        self.local.coordinators()[index].http().expect("a coordinator that is ready listens")
    }

    /// Where the coordinator at this place answers over HTTP, if it runs.
    pub(crate) fn http_of(&self, index: usize) -> Option<String> {
        let coordinator = &self.local.coordinators()[index];
        let address = coordinator.http().filter(|_| coordinator.process().is_running())?;
        Some(format!("http://{address}"))
    }

    pub(crate) fn coordinator_count(&self) -> usize {
        self.local.coordinators().len()
    }

    /// Runs `coordinator` with these arguments on this mesh, until it ends.
    pub async fn cli(&self, args: &[&str]) -> program::Output {
        program::run(&[&["--nats", &self.nats_url()], args].concat()).await
    }

    /// The consumers of the task stream, a line each: what they have to deliver and have out.
    async fn lanes(&self) -> String {
        let Ok(stream) = self.client.jetstream().get_stream("HIVE_TASKS").await else { return String::new() };
        let mut consumers = stream.consumers();
        let mut text = String::new();
        while let Some(Ok(info)) = consumers.next().await {
            let consumer::Info { name, num_pending, num_ack_pending, num_waiting, num_redelivered, .. } = info;
            let filters = info.config.filter_subjects.len();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "lane {name}: {filters} filters, {num_pending} to deliver, {num_ack_pending} out, \
                 {num_redelivered} again, {num_waiting} pulls"
            );
        }
        text
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let agents = self.local.agents().iter().map(coordinator::local::Agent::process);
        let coordinators = self.local.coordinators().iter().map(coordinator::local::Coordinator::process);
        agents.chain(coordinators).chain([self.local.broker().process()])
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for process in self.processes() {
            let (name, log) = (process.name(), process.log_tail(LOG_LINES));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "--- {name}:\n{log}");
        }
        text
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the logs of the mesh in {}:\n{}", self.dir.path().display(), self.logs());
        }
        for embedded in self.embedded.values() {
            embedded.stopper.leave_now();
            embedded.running.abort();
        }
        // Nobody writes into the directory any more when it is removed.
        self.processes().for_each(Process::kill9);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.processes().any(Process::is_running) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// An agent in the making, to be given handlers.
pub type AgentBuilder = agent_worker::agent::Builder;

async fn submit_all(client: &Client, tasks: impl IntoIterator<Item = NewTask>) {
    let submit = |task: NewTask| async move {
        client.submit(&task).await.unwrap_or_else(|error| panic!("{}", coordinator::chain(&error)))
    };
    stream::iter(tasks).map(submit).buffer_unordered(IN_FLIGHT).for_each(|_| std::future::ready(())).await;
}

/// The process of an agent.
#[derive(Clone, Copy, Debug)]
pub struct AgentProcess<'a>(&'a Process);

impl AgentProcess<'_> {
    /// Ends it at once, as a crash would (SIGKILL), and waits until it is gone.
    pub async fn kill(&self) {
        self.0.kill9();
        self.0.wait().await;
    }

    /// The last so many lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        self.0.log_tail(lines)
    }

    /// Asks it to leave (SIGTERM), and waits for nothing.
    pub fn terminate(&self) {
        signal(self.0, Signal::SIGTERM);
    }

    /// Halts it, so that it hangs (SIGSTOP).
    pub fn pause(&self) {
        self.0.pause();
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.0.resume();
    }

    /// Waits until it has ended by itself; whether it did so well.
    pub async fn ended(&self) -> bool {
        let status = tokio::time::timeout(PATIENCE, self.0.wait()).await;
        status.unwrap_or_else(|_| panic!("{} does not end:\n{}", self.0.name(), self.0.log_tail(LOG_LINES))).success()
    }
}

/// Sends a signal to a process of a mesh.
pub fn signal(process: &Process, signal: Signal) {
    // It is reaped only by us, so the pid is its own for as long as it is not waited for.
    let _ = kill(Pid::from_raw(process.pid().cast_signed()), signal);
}

/// Results of many tasks.
#[derive(Clone, Debug)]
pub struct Results(pub Vec<TaskResult>);

impl Results {
    /// How many results each agent has.
    pub fn by_agent(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for result in &self.0 {
            *counts.entry(result.agent.clone().unwrap_or_default()).or_default() += 1;
        }
        counts
    }

    /// The same for one kind.
    pub fn of_kind(&self, kind: &str) -> Results {
        Results(self.0.iter().filter(|result| result.kind == kind).cloned().collect())
    }

    /// Checks that these are the results of exactly these tasks: one each, and the body comes back.
    ///
    /// # Panics
    /// If one is missing, is there twice, did not succeed, or has another body.
    pub fn assert_echoed(&self, tasks: &[(TaskId, Bytes)]) {
        let mut seen: BTreeMap<&TaskId, &TaskResult> = BTreeMap::new();
        for result in &self.0 {
            assert!(seen.insert(&result.id, result).is_none(), "task {} has two results", result.id);
        }
        for (id, body) in tasks {
            let result = seen.remove(id).unwrap_or_else(|| panic!("task {id} has no result"));
            assert_eq!(result.outcome, shared::Outcome::Succeeded, "task {id}: {:?}", result.error);
            assert_eq!(result.body, body, "task {id} has another's result");
        }
        assert!(seen.is_empty(), "results of tasks that nobody submitted: {:?}", seen.keys());
    }
}
