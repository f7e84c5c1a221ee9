//! Agents that are processes on the coordinator's host.
//!
//! They outlive the coordinator that started them: whoever leads next finds them at work. So none is tied to it, each is
//! written down (`register`), and any coordinator on this host that has the same directory can end it. One on another host
//! cannot; it tells them over NATS to leave, as always, and that is enough for agents that listen.
//!
//! Those of a mesh that somebody has on this machine for a while (`coordinator dev`, tests) end with that mesh: see
//! [`crate::local`].

mod register;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use shared::AgentId;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use self::register::{Entry, Register};
use super::{NoCredentials, Owner, Start, Surroundings, program, surroundings};
use crate::local;

/// Whoever ends within this time has not been able to start: bad settings, say.
const EARLY: Duration = Duration::from_millis(500);
/// What an agent is sent that is to end, and how long it then has: it gives back what it can, leaves at once, or is killed.
const ENDING: [(Signal, Duration); 3] = [
    (Signal::SIGTERM, Duration::from_millis(100)),
    (Signal::SIGTERM, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];
/// Holds what is written down, unless it is said where.
const DIRECTORY: &str = "agents";
/// How often it is looked whether one has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Settings of `type = "process"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The settings of the agents; those that an agent has without any if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// How many attempts each runs at once; what the agents' settings say if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Labels besides those of the agents' settings: `{ pool = "workers" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The program and what comes first of its arguments: this one, as an agent, if it is not said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub program: Vec<String>,
    /// Variables of the agents. `NATS_URL`, `NATS_CA` and `HIVE_MESH` are the coordinator's, unless they are said here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where their logs are, and where it is written down which there are. If it is not said, it is `agents` in the
    /// directory that systemd gives the service, or in `hivemesh` in the user's directory for state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
}

impl Config {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.slots == Some(0) {
            problems.push("slots: an agent has at least one: write 1 or more".into());
        }
        if self.program.first().is_some_and(String::is_empty) {
            problems.push("program: name the program, as [\"agent-worker\"], or leave it out".into());
        }
        if self.env.contains_key("HIVE_AGENT") {
            problems.push("env: HIVE_AGENT is each agent's own name, and cannot be said for all of them".into());
        }
        problems
    }
}

/// Why agents were not started or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// They would not be let in.
    #[error(transparent)]
    NoCredentials(#[from] NoCredentials),
    /// There is nowhere to write them down.
    #[error("neither STATE_DIRECTORY nor XDG_STATE_HOME nor HOME is set: say `directory`")]
    NoDirectory,
    /// It is not known which there are.
    #[error("failed to use `{}`", path.display())]
    Register {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// One was not started.
    #[error("failed to start `{program}`: is it there, and may this user run it?")]
    Start {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// One ended at once.
    #[error("agent `{agent}` ended at once ({status}); its log `{}` says: {said}", log.display())]
    Ended {
        /// Who.
        agent: AgentId,
        /// How.
        status: ExitStatus,
        /// The file with its output.
        log: PathBuf,
        /// The end of that.
        said: String,
    },
    /// One cannot be ended.
    #[error("agent `{agent}` (process {pid}) cannot be ended: may this user do so?")]
    Unkillable {
        /// Who.
        agent: AgentId,
        /// Its process.
        pid: i32,
    },
    /// The mesh that they would be for is about to end.
    #[error("the mesh that this coordinator was started with is about to end")]
    MeshEnds,
    /// Whoever was to do it is gone.
    #[error("failed to start processes")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// The agents of one pool on this host.
#[derive(Debug)]
pub(super) struct Processes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    owner: Owner,
    config: Config,
    env: BTreeMap<String, String>,
    register: Register,
    lifeline: Option<PathBuf>,
}

/// An agent that was started just now.
struct Begun {
    agent: AgentId,
    child: Child,
    log: PathBuf,
}

/// The end of one.
struct Ended {
    agent: AgentId,
    status: ExitStatus,
    log: PathBuf,
}

impl Processes {
    pub(super) fn new(owner: Owner, config: &Config, surroundings: &Surroundings) -> Result<Self, Error> {
        let mut env = surroundings.variables(&config.env)?;
        if let Some(ca) = &surroundings.connection.tls_ca {
            env.entry("NATS_CA".to_owned()).or_insert_with(|| ca.display().to_string());
        }
        let lifeline = surroundings.lifeline.clone();
        let directory = config.directory.clone().or_else(|| default_directory(lifeline.as_deref()));
        let directory = directory.ok_or(Error::NoDirectory)?.join(owner.mesh.as_str()).join(&owner.pool);
        let register = Register::new(directory);
        Ok(Self(Arc::new(Inner { owner, config: config.clone(), env, register, lifeline })))
    }

    pub(super) async fn start(&self, start: &Start) -> Result<(), Error> {
        let (inner, start) = (self.0.clone(), *start);
        // To start a process takes a millisecond or more, which others must not wait for.
        let started = tokio::task::spawn_blocking(move || inner.start(&start)).await;
        let (begun, outcome) = started.map_err(Error::Interrupted)?;
        self.see_off(begun).await.and(outcome)
    }

    pub(super) async fn remove(&self, agents: &[AgentId]) -> Result<(), Error> {
        let ended = join_all(agents.iter().map(|agent| self.end(agent))).await;
        ended.into_iter().fold(Ok(()), Result::and)
    }

    /// Waits a moment for whoever cannot start, and takes note of the ends of the others later.
    async fn see_off(&self, begun: Vec<Begun>) -> Result<(), Error> {
        let (ends, mut ended) = mpsc::unbounded_channel();
        let deadline = Instant::now() + EARLY;
        for begun in begun {
            tokio::spawn(watch(self.0.clone(), begun, ends.clone()));
        }
        drop(ends);
        while let Ok(Some(Ended { agent, status, log })) = timeout_at(deadline, ended.recv()).await {
            if !status.success() {
                let said = File::open(&log).map(program::tail).unwrap_or_default();
                return Err(Error::Ended { agent, status, log, said });
            }
        }
        Ok(())
    }

    async fn end(&self, agent: &AgentId) -> Result<(), Error> {
        let register = &self.0.register;
        // Who is not written down has ended, or is on another host.
        let Some(entry) = register.find(agent)? else { return Ok(()) };
        for (signal, patience) in ENDING {
            if !entry.runs() {
                break;
            }
            info!(%agent, pid = entry.pid, signal = signal.as_str(), "ending an agent");
            entry.signal(signal);
            let deadline = Instant::now() + patience;
            while entry.runs() && Instant::now() < deadline {
                tokio::time::sleep(LOOK).await;
            }
        }
        if entry.runs() {
            return Err(Error::Unkillable { agent: agent.clone(), pid: entry.pid });
        }
        register.forget(agent)
    }
}

/// Waits until an agent has ended, so that nothing of it is left but its log. When this coordinator ends first, the agent
/// goes on.
async fn watch(inner: Arc<Inner>, begun: Begun, ends: mpsc::UnboundedSender<Ended>) {
    let Begun { agent, mut child, log } = begun;
    let Ok(status) = child.wait().await else { return };
    if status.success() {
        info!(%agent, %status, "an agent has ended");
    } else {
        warn!(%agent, %status, log = %log.display(), "an agent has ended badly");
    }
    if let Err(error) = inner.register.forget(&agent) {
        warn!(%agent, error = %crate::chain(&error), "it stays written down that there is such an agent");
    }
    // Long after the start nobody listens.
    let _ = ends.send(Ended { agent, status, log });
}

impl Inner {
    /// Starts as many as are missing for this order. Those that could be started are, though another could not.
    fn start(&self, start: &Start) -> (Vec<Begun>, Result<(), Error>) {
        let mut begun = Vec::new();
        let outcome = self.try_start(start, &mut begun);
        (begun, outcome)
    }

    fn try_start(&self, start: &Start, begun: &mut Vec<Begun>) -> Result<(), Error> {
        if self.lifeline.as_deref().is_some_and(local::is_cut) {
            return Err(Error::MeshEnds);
        }
        let there = self.register.entries()?;
        let already = there.iter().filter(|entry| entry.order == start.order && entry.runs()).count() as u32;
        let missing = start.count.saturating_sub(already);
        info!(pool = self.owner.pool, order = start.order, missing, wished = start.wished, "starting processes");
        self.register.clear_away()?;
        for _ in 0..missing {
            begun.push(self.spawn(start.order)?);
        }
        Ok(())
    }

    fn spawn(&self, order: u64) -> Result<Begun, Error> {
        let agent = self.owner.new_agent();
        let log = self.register.log_of(&agent);
        let output = self.register.make(&log)?;
        let (program, args) = self.argv(&agent)?;
        let failed = |source| Error::Start { program: program.to_string_lossy().into_owned(), source };
        let mut command = Command::new(&program);
        command.args(args).env_clear().envs(surroundings::inherited()).envs(&self.env);
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(failed)?).stderr(output);
        // What is typed at the coordinator's terminal is not meant for them.
        command.process_group(0).kill_on_drop(false);
        let child = command.spawn().map_err(failed)?;
        let pid = child.id().map_or(0, u32::cast_signed);
        let written = self.register.note(&Entry::of(agent.clone(), pid, order));
        if let Err(error) = written {
            // One that nobody could find again is better ended now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            return Err(error);
        }
        Ok(Begun { agent, child, log })
    }

    fn argv(&self, agent: &AgentId) -> Result<(OsString, Vec<OsString>), Error> {
        let Config { config, slots, labels, program, .. } = &self.config;
        let mut words = program.iter().map(OsString::from);
        let (program, mut args) = match words.next() {
            Some(program) => (program, words.collect::<Vec<_>>()),
            None => (own_program()?, vec!["agent".into()]),
        };
        args.extend(["--id".into(), agent.as_str().into()]);
        if let Some(config) = config {
            args.extend(["--config".into(), config.into()]);
        }
        if let Some(slots) = slots {
            args.extend(["--slots".into(), slots.to_string().into()]);
        }
        for (name, value) in labels {
            args.extend(["--label".into(), format!("{name}={value}").into()]);
        }
        if let Some(lifeline) = &self.lifeline {
            args.extend(["--lifeline".into(), lifeline.into()]);
        }
        Ok((program, args))
    }
}

fn own_program() -> Result<OsString, Error> {
    let own = std::env::current_exe().map(PathBuf::into_os_string);
    own.map_err(|source| Error::Start { program: "coordinator".to_owned(), source })
}

/// Whether agents still run that coordinators of the local mesh in this directory have started.
pub(crate) fn run_in(mesh: &Path) -> bool {
    Register::all_below(&mesh.join(DIRECTORY)).iter().flat_map(Register::entries).flatten().any(|entry| entry.runs())
}

fn default_directory(lifeline: Option<&Path>) -> Option<PathBuf> {
    let given = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // Where there is a lifeline, everything of the mesh is beside it.
    let beside = lifeline.and_then(Path::parent).map(Path::to_owned);
    let user = || Some(given("XDG_STATE_HOME").or_else(|| Some(given("HOME")?.join(".local/state")))?.join("hivemesh"));
    Some(beside.or_else(|| given("STATE_DIRECTORY")).or_else(user)?.join(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use shared::connect::Settings;

    use super::*;

    /// An agent that writes down how it was called, and what it sees.
    const AGENT: &str = "echo \"$@\"; env; while :; do sleep 0.05; done";

    fn processes(directory: &Path, script: &str, lifeline: Option<PathBuf>) -> Processes {
        let connection = Settings { tls_ca: Some("ca.pem".into()), ..Settings::default() };
        let config = Config {
            config: Some("agent.toml".into()),
            slots: Some(2),
            labels: BTreeMap::from([("pool".to_owned(), "workers".to_owned())]),
            program: ["/bin/sh", "-c", script, "agent"].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("NOTES".to_owned(), "here".to_owned())]),
            directory: Some(directory.to_owned()),
        };
        let owner = Owner { mesh: "hive".parse().unwrap(), pool: "workers".to_owned() };
        Processes::new(owner, &config, &Surroundings { connection, lifeline }).unwrap()
    }

    fn running(processes: &Processes) -> Vec<Entry> {
        processes.0.register.entries().unwrap().into_iter().filter(Entry::runs).collect()
    }

    fn ids(entries: &[Entry]) -> Vec<AgentId> {
        entries.iter().map(|entry| entry.agent.clone()).collect()
    }

    async fn end_all(processes: &Processes) {
        processes.remove(&ids(&running(processes))).await.unwrap();
    }

    #[tokio::test]
    async fn agents_are_told_who_they_are_and_where_the_mesh_is() {
        let dir = tempfile::tempdir().unwrap();
        let processes = processes(dir.path(), AGENT, None);

        processes.start(&Start { order: 1, count: 1, wished: 1 }).await.unwrap();
        let entries = running(&processes);
        let log = processes.0.register.log_of(&entries[0].agent);
        let said = || std::fs::read_to_string(&log).unwrap();
        while !said().contains("NOTES=") {
            tokio::time::sleep(LOOK).await;
        }
        end_all(&processes).await;

        let (said, agent) = (said(), &entries[0].agent);
        let arguments = format!("--id {agent} --config agent.toml --slots 2 --label pool=workers\n");
        assert!(said.starts_with(&arguments), "{said}");
        for line in ["NATS_URL=nats://127.0.0.1:4222", "NATS_CA=ca.pem", "HIVE_MESH=hive", "NOTES=here"] {
            assert!(said.lines().any(|told| told == line), "{line}: {said}");
        }
        assert!(!said.contains("CARGO_"), "what it was not given is not there: {said}");
    }

    #[tokio::test]
    async fn an_order_that_is_carried_out_twice_does_not_start_twice() {
        let dir = tempfile::tempdir().unwrap();
        // Another coordinator on the host, with the same directory.
        let (one, other) = (processes(dir.path(), AGENT, None), processes(dir.path(), AGENT, None));

        one.start(&Start { order: 1, count: 2, wished: 2 }).await.unwrap();
        other.start(&Start { order: 1, count: 2, wished: 2 }).await.unwrap();
        let after_one_order = running(&one).len();
        other.start(&Start { order: 2, count: 1, wished: 3 }).await.unwrap();
        let after_two = running(&one).len();
        end_all(&one).await;

        assert_eq!((after_one_order, after_two, running(&other).len()), (2, 3, 0));
    }

    #[tokio::test]
    async fn one_that_does_not_listen_is_killed_and_the_others_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let processes = processes(dir.path(), deaf, None);
        processes.start(&Start { order: 1, count: 2, wished: 2 }).await.unwrap();
        let all = ids(&running(&processes));

        // Started by another, or not on this host: nothing of it is here.
        let stranger = AgentId::new("stranger").unwrap();
        processes.remove(&[all[0].clone(), stranger]).await.unwrap();
        let left = running(&processes);
        left.iter().for_each(|entry| entry.signal(Signal::SIGKILL));

        assert_eq!(ids(&left), [all[1].clone()]);
        assert_eq!(processes.0.register.find(&all[0]).unwrap(), None);
    }

    #[tokio::test]
    async fn one_that_ends_at_once_is_told_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let processes = processes(dir.path(), "echo no such setting; exit 2", None);

        let error = processes.start(&Start { order: 1, count: 1, wished: 1 }).await.unwrap_err();

        let text = error.to_string();
        assert!(text.contains("exit status: 2") && text.ends_with("says: no such setting"), "{text}");
        assert_eq!(running(&processes), []);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let inner = processes(dir.path(), AGENT, None).0;
        let mut inner = Arc::into_inner(inner).unwrap();
        inner.config.program = vec!["/nowhere/agent".to_owned()];

        let outcome = Processes(Arc::new(inner)).start(&Start { order: 1, count: 1, wished: 1 }).await;

        assert!(matches!(&outcome, Err(Error::Start { program, .. }) if program == "/nowhere/agent"), "{outcome:?}");
    }

    #[tokio::test]
    async fn nobody_is_started_for_a_mesh_that_is_about_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lifeline");
        let lifeline = local::Lifeline::tie(&path).unwrap();
        let processes = processes(dir.path(), AGENT, Some(path.clone()));

        processes.start(&Start { order: 1, count: 1, wished: 1 }).await.unwrap();
        let log = processes.0.register.log_of(&running(&processes)[0].agent);
        while !std::fs::read_to_string(&log).unwrap().contains("NOTES=") {
            tokio::time::sleep(LOOK).await;
        }
        end_all(&processes).await;
        drop(lifeline);
        // A process that is just being started by another test may hold it for a moment more.
        while !local::is_cut(&path) {
            tokio::time::sleep(LOOK).await;
        }
        let outcome = processes.start(&Start { order: 2, count: 1, wished: 1 }).await;

        assert!(std::fs::read_to_string(log).unwrap().contains(&format!("--lifeline {}", path.display())));
        assert!(matches!(outcome, Err(Error::MeshEnds)), "{outcome:?}");
    }
}
