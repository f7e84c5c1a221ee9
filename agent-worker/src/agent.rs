//! An agent as a part of a program: what it is given, and how it is started and stopped.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use shared::connect::Settings;
use shared::message::Needed;
use shared::names::BadName;
use shared::supervisor::Supervisor;
use shared::{AgentId, Incarnation, Kind};
use tokio::sync::mpsc;

use crate::config::{self, Config, DEFAULT_TIMEOUT, File};
use crate::connection::{Connection, Error, Left, Wish};
use crate::executor::in_process::Closure;
use crate::executor::limits::Enforcement;
use crate::executor::strays::Strays;
use crate::executor::{Executor, Handler, Owner, Run, Task, command, http};
use crate::session::{Session, Setup};
use crate::usage;

/// An agent that is ready to run.
pub struct Agent {
    settings: Settings,
    setup: Setup,
    handlers: FxHashMap<Kind, Arc<Handler>>,
    strays: Arc<Strays>,
    enforcement: Arc<Enforcement>,
    health: Option<SocketAddr>,
    supervisor: Supervisor,
    wishes: (mpsc::UnboundedSender<Wish>, mpsc::UnboundedReceiver<Wish>),
}

/// Tells an agent to leave; can be cloned and sent anywhere.
#[derive(Clone, Debug)]
pub struct Stopper(mpsc::UnboundedSender<Wish>);

/// An agent in the making.
pub struct Builder {
    settings: Settings,
    id: Option<AgentId>,
    config: Config,
    closures: Vec<(String, Handler)>,
    at_most_once: Vec<String>,
    is_alone: bool,
    health: Option<SocketAddr>,
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A closure's kind is none.
    #[error(transparent)]
    Kind(#[from] BadName),
    /// A kind has two handlers.
    #[error("kind `{0}` has two handlers: keep one of them")]
    DuplicateKind(Kind),
    /// The client for HTTP handlers could not be made.
    #[error("failed to set up HTTP for kind `{kind}`")]
    Http {
        /// The kind.
        kind: Kind,
        /// Why.
        source: reqwest::Error,
    },
}

impl Agent {
    /// An agent that connects with these settings and has the handlers of the configuration.
    pub fn builder(settings: Settings, config: Config) -> Builder {
        Builder {
            settings,
            id: None,
            config,
            closures: Vec::new(),
            at_most_once: Vec::new(),
            is_alone: false,
            health: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> &AgentId {
        &self.setup.agent
    }

    /// The owner of the processes that its commands start, for a [`watchdog`](crate::watchdog); `None` if it has no
    /// commands.
    pub fn owner(&self) -> Option<Owner> {
        let has_commands = self.handlers.values().any(|handler| matches!(handler.run, Run::Command(_)));
        has_commands.then(|| self.strays.owner())
    }

    /// Tells it to leave, from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.wishes.0.clone())
    }

    /// Runs tasks until it is drained. Dropping this ends every attempt by force.
    pub async fn run(self) -> Result<Left, Error> {
        let Self { settings, setup, handlers, strays, enforcement, health, supervisor, wishes } = self;
        let (_keep_open, wishes) = wishes;
        let agent = setup.agent.clone();
        tracing::info!(
            %agent, incarnation = %setup.incarnation, slots = setup.slots, queue = setup.queue,
            kinds = %setup.kinds.iter().map(Kind::as_str).collect::<Vec<_>>().join(","),
            "agent starts"
        );
        enforcement.log();
        let of_attempts = strays.clone();
        let executor = |output_limit| Executor::new(agent, handlers, output_limit, of_attempts, enforcement);
        let left = Connection::run(settings, Session::new(setup), executor, wishes, health, supervisor).await;
        strays.end_all().await;
        left
    }
}

impl Stopper {
    /// Lets the agent take no new work, finish what runs, hand back the rest and leave.
    pub fn drain(&self) {
        // An agent that has left already has done all of it.
        let _ = self.0.send(Wish::Drain);
    }

    /// Lets the agent leave at once. What runs is ended by force and starts elsewhere.
    pub fn leave_now(&self) {
        let _ = self.0.send(Wish::LeaveNow);
    }
}

impl Builder {
    /// The agent's id; the host's name and something random unless set.
    #[must_use]
    pub fn id(mut self, id: AgentId) -> Self {
        self.id = Some(id);
        self
    }

    /// Says that this process is there for the agent alone, and starts no children but the agent's commands.
    ///
    /// Then the process adopts what its commands leave behind (`PR_SET_CHILD_SUBREAPER`), and an attempt has not ended
    /// before nothing is left of it. Otherwise what leaves its command's process group is killed a moment later. And the
    /// agent tells the process's supervisor, such as systemd, that it is ready and works.
    #[must_use]
    pub fn alone_in_process(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Says over HTTP on this address whether it is well: 200 if it is, else 503, with the reason in a line; and at
    /// `/metrics` what Prometheus is told.
    #[must_use]
    pub fn health(mut self, address: SocketAddr) -> Self {
        self.health = Some(address);
        self
    }

    /// Handles a kind by an async closure, with the default limit of 5 minutes an attempt.
    ///
    /// A panic is a failed attempt. A closure that does not await for long belongs into
    /// `tokio::task::spawn_blocking`: only what awaits can be stopped.
    #[must_use]
    pub fn handler<F, R, O, E>(self, kind: &str, handle: F) -> Self
    where
        F: Fn(Task) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Bytes>,
        E: Display,
    {
        self.handler_within(DEFAULT_TIMEOUT, kind, handle)
    }

    /// The same with another limit, for tasks that name none.
    #[must_use]
    pub fn handler_within<F, R, O, E>(mut self, timeout: Duration, kind: &str, handle: F) -> Self
    where
        F: Fn(Task) -> R + Send + Sync + 'static,
        R: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Bytes>,
        E: Display,
    {
        let run = Run::InProcess(Closure::new(handle));
        self.closures.push((kind.to_owned(), Handler { timeout, needs: Needed::default(), run }));
        self
    }

    /// Says that no attempt of a task of this kind may run while another does, as `at-most-once = true` does in the
    /// TOML of an agent.
    ///
    /// When the coordinator has not been heard for longer than the work stays the agent's, the handler is told by
    /// [`Task::cancelled`] and dropped 2 s later. What does not await goes on.
    #[must_use]
    pub fn at_most_once(mut self, kind: &str) -> Self {
        self.at_most_once.push(kind.to_owned());
        self
    }

    /// Puts it together.
    pub fn build(self) -> Result<Agent, BuildError> {
        let Self { settings, id, config, closures, at_most_once, is_alone, health } = self;
        let mut exclusive = at_most_once.iter().map(Kind::new).collect::<Result<Vec<Kind>, BadName>>()?;
        shared::connect::choose_cryptography();
        let (mut handlers, mut needs) = (Vec::new(), BTreeMap::new());
        for handler in config.handlers {
            let run = configured(&handler.kind, handler.run)?;
            exclusive.extend(handler.at_most_once.then(|| handler.kind.clone()));
            if !handler.needs.is_empty() {
                needs.insert(handler.kind.clone(), handler.needs.clone());
            }
            handlers.push((handler.kind, Handler { timeout: handler.timeout, needs: handler.needs, run }));
        }
        for (kind, handler) in closures {
            handlers.push((Kind::new(kind)?, handler));
        }
        let kinds: Vec<Kind> = handlers.iter().map(|(kind, _)| kind.clone()).collect();
        let mut by_kind = FxHashMap::default();
        for (kind, handler) in handlers {
            if by_kind.insert(kind.clone(), Arc::new(handler)).is_some() {
                return Err(BuildError::DuplicateKind(kind));
            }
        }
        let (strays, enforcement, supervisor) = if is_alone {
            (Strays::of_a_process(), Enforcement::of_a_process(config.limits), Supervisor::of_this_process())
        } else {
            (Strays::of_a_guest(), Enforcement::of_a_guest(config.limits), Supervisor::none())
        };
        let host = usage::host_name();
        let setup = Setup {
            agent: id.unwrap_or_else(|| default_id(&host)),
            incarnation: Incarnation::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            slots: config.slots,
            queue: config.queue,
            labels: config.labels,
            kinds,
            at_most_once: exclusive,
            capacity: config.capacity,
            resources: config.resources,
            needs,
            enforcement: enforcement.as_str().to_owned(),
        };
        let wishes = mpsc::unbounded_channel();
        Ok(Agent { settings, setup, handlers: by_kind, strays, enforcement, health, supervisor, wishes })
    }
}

impl Default for Config {
    /// Everything measured on this host, and no handlers.
    fn default() -> Self {
        File::default().check(Path::new("")).expect("what is measured makes sense")
    }
}

fn configured(kind: &Kind, run: config::Run) -> Result<Run, BuildError> {
    Ok(match run {
        config::Run::Command { program, argv, env, processes } => {
            Run::Command(command::Command::new(program, argv, &env, processes))
        }
        config::Run::Builtin(builtin) => Run::Builtin(builtin),
        config::Run::Http { url, headers } => {
            Run::Http(http::Http::new(url, headers).map_err(|source| BuildError::Http { kind: kind.clone(), source })?)
        }
    })
}

/// The host's name as far as an id may hold it, and something random, since a host can have many agents.
pub(crate) fn default_id(host: &str) -> AgentId {
    let word = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let host: String = host.chars().take(48).map(word).collect();
    let host = if host.is_empty() { "agent" } else { &host };
    AgentId::new(format!("{host}-{:06x}", fastrand::u32(..1 << 24))).expect("made of allowed characters only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_an_id() {
        for host in ["", "ada", "ada.example.org", "äöü", &"h".repeat(300)] {
            let id = default_id(host);
            assert!(id.as_str().len() <= AgentId::MAX_LEN, "{id}");
        }
    }

    #[test]
    fn a_kind_has_one_handler() {
        let config = File::builtins().check(Path::new("")).unwrap();
        let closure = |task: Task| async move { Ok::<_, String>(task.body) };

        let built = Agent::builder(Settings::default(), config).handler("echo", closure).build();

        assert!(matches!(built, Err(BuildError::DuplicateKind(kind)) if kind.as_str() == "echo"));
    }
}
