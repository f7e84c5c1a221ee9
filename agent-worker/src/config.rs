//! What an agent offers and how it runs each kind: its TOML file, read and checked.
//!
//! Reading tells the first thing that is not of the file's shape, with its line. Checking tells everything that
//! makes no sense, at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::message::Needed;
use shared::needs::Labels;
use shared::quantity::{self, BadCountables};
use shared::{Countables, Kind, Resources};

use crate::executor::builtin::Builtin;
use crate::executor::limits::Setting;
use crate::usage;

/// The limit of an attempt's run where neither its task nor its handler names one.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The fewest attempts that an agent takes in advance unless it is told otherwise.
pub const DEFAULT_QUEUE: u32 = 4;

/// The file as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// What the agent offers.
    pub agent: AgentSection,
    /// What it can do.
    #[serde(rename = "handler", skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<HandlerSection>,
}

/// `[agent]`: what the agent offers. What is absent is measured on its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AgentSection {
    /// How many attempts run at once; as many as there are cores unless set.
    ///
    /// More keep a host busy whose handlers wait for something; fewer leave each attempt more of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// How many more attempts wait here for a slot; as many as there are slots, at least 4, unless set.
    ///
    /// More hide the network from short tasks; fewer let a task go to an agent that is free sooner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// Cores that may be reserved: `"2"` or `"500m"`.
    #[serde(with = "quantity::cpu", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Memory that may be reserved: `"4Gi"`.
    #[serde(with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Disk that may be reserved: `"100Gi"`.
    #[serde(with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Bandwidth that may be reserved: `"1Gbps"`. Not limited unless set, since it cannot be measured.
    #[serde(with = "quantity::bandwidth", skip_serializing_if = "Option::is_none")]
    pub network: Option<u64>,
    /// What keeps a command from taking more than is reserved for it; `"enforce"` unless set.
    ///
    /// `"enforce"` ends one that takes too much memory and slows one that takes too much CPU, by control groups where
    /// the host lets the agent make some; where it does not, and with `"watch"`, the agent looks every 50 ms and ends
    /// what has too much memory, and CPU is not limited. `"off"` ends nothing: one command can take the whole host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Setting>,
    /// What the `Hive-Needs` of tasks are compared with.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// What may be reserved of resources that are counted, by names of one's own: `{ gpus = 2 }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, u64>,
}

/// `[[handler]]`: how tasks of one kind are run. Exactly one of `command`, `http` and `builtin` says how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HandlerSection {
    /// The kind.
    pub kind: String,
    /// A program and its arguments. There is no shell: write `["sh", "-c", "…"]` to have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The URL of a service that takes a POST for each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// Something that comes with the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builtin: Option<Builtin>,
    /// Limit of an attempt's run where its task names none.
    #[serde(default, with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Whether no attempt of a task may run while another does.
    ///
    /// Then an attempt that may be given elsewhere is ended in time, and only then given elsewhere: its start waits for
    /// an answer of the coordinator, and after the loss of its agent it starts elsewhere later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_most_once: bool,
    /// Cores that an attempt needs.
    #[serde(default, with = "quantity::cpu", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Memory that an attempt needs.
    #[serde(default, with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Disk that an attempt needs.
    #[serde(default, with = "quantity::bytes", skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Bandwidth that an attempt needs.
    #[serde(default, with = "quantity::bandwidth", skip_serializing_if = "Option::is_none")]
    pub network: Option<u64>,
    /// How many processes and threads a command may have at a time; as many as it likes unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// Environment variables of the agent that a command sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What an attempt needs of resources that are counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, u64>,
    /// Headers of each request to a service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// What an agent offers and how it runs each kind, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many attempts run at once; at least 1.
    pub slots: u32,
    /// How many more it takes in advance.
    pub queue: u32,
    /// What `Hive-Needs` are compared with.
    pub labels: Labels,
    /// What it offers; zero is not limited.
    pub capacity: Resources,
    /// What it offers of resources that are counted.
    pub resources: Countables,
    /// What keeps its commands from taking more than is reserved for them.
    pub limits: Setting,
    /// How it runs each kind; every kind once.
    pub handlers: Vec<Handler>,
}

/// How tasks of one kind are run, checked.
#[derive(Clone, Debug)]
pub struct Handler {
    /// The kind.
    pub kind: Kind,
    /// How.
    pub run: Run,
    /// Limit of an attempt's run where its task names none.
    pub timeout: Duration,
    /// Whether no attempt of a task may run while another does.
    pub at_most_once: bool,
    /// What an attempt needs.
    pub needs: Needed,
}

/// How a kind is run, checked.
#[derive(Clone, Debug)]
pub enum Run {
    /// By a program.
    Command {
        /// Its file.
        program: PathBuf,
        /// Its arguments, the first of which is its name.
        argv: Vec<String>,
        /// Environment variables of the agent that it sees.
        env: Vec<String>,
        /// How many processes and threads it may have at a time, if that is limited.
        processes: Option<u32>,
    },
    /// By a service.
    Http {
        /// Where it is.
        url: reqwest::Url,
        /// Headers of each request.
        headers: reqwest::header::HeaderMap,
    },
    /// By the agent itself.
    Builtin(Builtin),
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has not the shape of a configuration: no TOML, an unknown key, a value of the wrong type.
    #[error("`{}` is not a configuration", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// It makes no sense.
    #[error("{} in `{}`:{}", count(problems.len()), path.display(), list(problems))]
    Problems {
        /// The file.
        path: PathBuf,
        /// All of them, in the order of the file.
        problems: Vec<Problem>,
    },
}

fn count(problems: usize) -> String {
    if problems == 1 { "a problem".to_owned() } else { format!("{problems} problems") }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// One thing that makes no sense in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `[agent]`, or a handler by its number and kind.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

/// A part of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `[agent]`.
    Agent,
    /// A `[[handler]]`: its number, counted from 1, and its kind as written.
    Handler(usize, String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Agent => f.write_str("[agent]"),
            Place::Handler(number, kind) => write!(f, "[[handler]] {number} ({})", kind.escape_debug()),
        }
    }
}

/// What makes no sense in a part of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An agent without slots runs nothing.
    #[error("`slots = 0` would run nothing: use 1 or more, or leave it out for one per core")]
    NoSlots,
    /// A label that no task could ask for.
    #[error("label `{0}` cannot be asked for: use letters, digits and - _ . / : + @ for its name and value")]
    BadLabel(String),
    /// The kind is not a name.
    #[error("{0}")]
    BadKind(String),
    /// Another handler has the same kind.
    #[error("kind `{0}` has a handler already: keep one of them")]
    DuplicateKind(String),
    /// Nothing says how to run it.
    #[error("nothing says how to run it: add one of `command`, `http` and `builtin`")]
    NoRun,
    /// More than one thing says how to run it.
    #[error("{0} exclude each other: keep one of them")]
    TwoRuns(String),
    /// There is no program in the command.
    #[error("`command` is empty: write the program and its arguments, such as [\"wc\", \"-w\"]")]
    EmptyCommand,
    /// The program is not there.
    #[error("program `{0}` does not exist: install it, or write its full path (looked for in PATH={1})")]
    NoProgram(String, String),
    /// The program is there and cannot be started.
    #[error("program `{0}` cannot be started: it is not an executable file; make it one with `chmod +x`")]
    NotExecutable(String),
    /// The URL is none.
    #[error("`{0}` is not a URL: write http://host:port/path or https://…")]
    BadUrl(String),
    /// The header cannot be sent.
    #[error("header `{0}` cannot be sent: a name has no spaces or colons, a value no line breaks")]
    BadHeader(String),
    /// The name of a variable is none.
    #[error("`{0}` is not the name of an environment variable: `env` lists names, without `=` and values")]
    BadVariable(String),
    /// Nothing could end in no time.
    #[error("`timeout` is zero: nothing could end in time; leave it out for the default of 5m")]
    NoTime,
    /// Amounts of resources that are none.
    #[error("`resources`: {0}")]
    BadResources(BadCountables),
    /// No program runs without a process.
    #[error("`processes = 0` lets nothing run: use 1 or more, or leave it out")]
    NoProcesses,
    /// A setting of another way to run it.
    #[error("`{0}` means nothing without `{1}`: remove it")]
    Unused(&'static str, &'static str),
}

impl File {
    /// What an agent without a file can do: the builtin handlers under their own names.
    pub fn builtins() -> Self {
        let handlers = Builtin::ALL.map(|builtin| HandlerSection {
            kind: builtin.as_str().to_owned(),
            command: None,
            http: None,
            builtin: Some(builtin),
            timeout: None,
            at_most_once: false,
            cpu: None,
            memory: None,
            disk: None,
            network: None,
            processes: None,
            env: Vec::new(),
            resources: BTreeMap::new(),
            headers: BTreeMap::new(),
        });
        Self { agent: AgentSection::default(), handlers: handlers.into() }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file; `path` is where it came from.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|source| Error::Shape { path: path.to_owned(), source: Box::new(source) })
    }

    /// The same with all that is absent filled in: what the agent goes by.
    #[must_use]
    pub fn resolved(mut self) -> Self {
        let agent = &mut self.agent;
        let slots = *agent.slots.get_or_insert_with(usage::cores);
        agent.queue.get_or_insert(slots.max(DEFAULT_QUEUE));
        agent.cpu.get_or_insert_with(usage::cpu_millis);
        agent.memory.get_or_insert_with(usage::total_memory);
        agent.disk.get_or_insert_with(usage::free_disk);
        agent.network.get_or_insert(0);
        agent.limits.get_or_insert_default();
        for handler in &mut self.handlers {
            handler.timeout.get_or_insert(DEFAULT_TIMEOUT);
        }
        self
    }

    /// Checks everything; `path` is where it came from.
    pub fn check(self, path: &Path) -> Result<Config, Error> {
        let file = self.resolved();
        let mut problems = Vec::new();
        let resources = file.agent.check(&mut problems);
        let mut kinds = BTreeSet::new();
        let mut handlers = Vec::new();
        for (i, section) in file.handlers.into_iter().enumerate() {
            let place = Place::Handler(i + 1, section.kind.clone());
            let mut faults = Vec::new();
            if !kinds.insert(section.kind.clone()) {
                faults.push(Fault::DuplicateKind(section.kind.clone()));
            }
            handlers.extend(section.check(&mut faults));
            problems.extend(faults.into_iter().map(|fault| Problem { place: place.clone(), fault }));
        }
        if !problems.is_empty() {
            return Err(Error::Problems { path: path.to_owned(), problems });
        }
        let AgentSection { slots, queue, labels, cpu, memory, disk, network, limits, resources: _ } = file.agent;
        let capacity = [cpu, memory, disk, network].map(Option::unwrap_or_default);
        Ok(Config {
            slots: slots.unwrap_or(1),
            queue: queue.unwrap_or(DEFAULT_QUEUE),
            labels,
            capacity: Resources::from_dimensions(capacity),
            resources,
            limits: limits.unwrap_or_default(),
            handlers,
        })
    }
}

impl AgentSection {
    /// What it offers of resources that are counted, as far as it has no fault.
    fn check(&self, problems: &mut Vec<Problem>) -> Countables {
        let mut fault = |fault| problems.push(Problem { place: Place::Agent, fault });
        if self.slots == Some(0) {
            fault(Fault::NoSlots);
        }
        for (name, value) in &self.labels {
            // Whatever a task can ask for can be written as a requirement.
            let requirement = if value.is_empty() { name.clone() } else { format!("{name}={value}") };
            if requirement.contains(',') || requirement.parse::<shared::needs::Needs>().is_err() {
                fault(Fault::BadLabel(excerpt(&requirement)));
            }
        }
        check_resources(&self.resources).map_err(fault).unwrap_or_default()
    }
}

fn check_resources(amounts: &BTreeMap<String, u64>) -> Result<Countables, Fault> {
    Countables::new(amounts.iter().map(|(name, amount)| (name, *amount))).map_err(Fault::BadResources)
}

impl HandlerSection {
    /// The handler, unless it has a fault.
    fn check(self, faults: &mut Vec<Fault>) -> Option<Handler> {
        let kind = Kind::new(&self.kind).map_err(|e| faults.push(Fault::BadKind(e.to_string()))).ok();
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        if timeout.is_zero() {
            faults.push(Fault::NoTime);
        }
        if self.command.is_none() && !self.env.is_empty() {
            faults.push(Fault::Unused("env", "command"));
        }
        if self.command.is_none() && self.processes.is_some() {
            faults.push(Fault::Unused("processes", "command"));
        }
        if self.http.is_none() && !self.headers.is_empty() {
            faults.push(Fault::Unused("headers", "http"));
        }
        let needs = self.check_needs(faults);
        let at_most_once = self.at_most_once;
        let run = self.check_run(faults);
        Some(Handler { kind: kind?, run: run?, timeout, at_most_once, needs })
    }

    fn check_needs(&self, faults: &mut Vec<Fault>) -> Needed {
        let amounts = [self.cpu, self.memory, self.disk, self.network].map(Option::unwrap_or_default);
        let countable = check_resources(&self.resources).map_err(|fault| faults.push(fault));
        Needed { resources: Resources::from_dimensions(amounts), countable: countable.unwrap_or_default() }
    }

    fn check_run(self, faults: &mut Vec<Fault>) -> Option<Run> {
        let named = [
            ("`command`", self.command.is_some()),
            ("`http`", self.http.is_some()),
            ("`builtin`", self.builtin.is_some()),
        ];
        let named: Vec<&str> = named.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
        if named.len() > 1 {
            faults.push(Fault::TwoRuns(named.join(" and ")));
        }
        let command = self.command.map(|argv| check_command(argv, self.env, self.processes, faults));
        let http = self.http.map(|url| check_http(&url, &self.headers, faults));
        match (command, http, self.builtin) {
            (None, None, None) => {
                faults.push(Fault::NoRun);
                None
            }
            (Some(command), None, None) => command,
            (None, Some(http), None) => http,
            (None, None, Some(builtin)) => Some(Run::Builtin(builtin)),
            _ => None,
        }
    }
}

fn check_command(argv: Vec<String>, env: Vec<String>, processes: Option<u32>, faults: &mut Vec<Fault>) -> Option<Run> {
    if processes == Some(0) {
        faults.push(Fault::NoProcesses);
    }
    let bad_variables = env.iter().filter(|name| name.is_empty() || name.contains(['=', '\0']));
    faults.extend(bad_variables.map(|name| Fault::BadVariable(excerpt(name))));
    let Some(name) = argv.first().filter(|name| !name.is_empty()) else {
        faults.push(Fault::EmptyCommand);
        return None;
    };
    let program = find_program(name).map_err(|fault| faults.push(fault)).ok()?;
    Some(Run::Command { program, argv, env, processes })
}

fn check_http(url: &str, headers: &BTreeMap<String, String>, faults: &mut Vec<Fault>) -> Option<Run> {
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
    let mut checked = HeaderMap::new();
    for (name, value) in headers {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            // A value may be a secret, so the name alone is told.
            (Err(_), _) | (_, Err(_)) => faults.push(Fault::BadHeader(excerpt(name))),
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                checked.insert(name, value);
            }
        }
    }
    match reqwest::Url::parse(url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Some(Run::Http { url, headers: checked })
        }
        _ => {
            faults.push(Fault::BadUrl(excerpt(url)));
            None
        }
    }
}

/// The file of a program: one with a slash is a path, any other is looked for as a shell would.
fn find_program(name: &str) -> Result<PathBuf, Fault> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        std::env::split_paths(&path).map(|directory| directory.join(name)).collect()
    };
    if let Some(found) = candidates.iter().find(|candidate| is_executable(candidate)) {
        // The agent's directory is not the command's business, so its name must hold in any.
        return Ok(std::path::absolute(found).unwrap_or_else(|_| found.clone()));
    }
    if candidates.iter().any(|candidate| candidate.exists()) {
        Err(Fault::NotExecutable(excerpt(name)))
    } else {
        Err(Fault::NoProgram(excerpt(name), path.to_string_lossy().into_owned()))
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

fn excerpt(text: &str) -> String {
    shared::header::clean(text, 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_contract_is_read() {
        let config = check(
            r#"
            [agent]
            slots = 4
            labels = { region = "eu" }
            cpu = "2"
            memory = "4Gi"

            [agent.resources]
            gpus = 2

            [[handler]]
            kind = "wordcount"
            command = ["wc", "-w"]
            timeout = "30s"
            memory = "256Mi"
            resources = { gpus = 1 }
            processes = 64
            env = ["PATH"]

            [[handler]]
            kind = "echo"
            builtin = "echo"

            [[handler]]
            kind = "post"
            http = "http://localhost:8000/run"
            headers = { Authorization = "Bearer x" }
            "#,
        )
        .unwrap();

        assert_eq!((config.slots, config.queue), (4, 4));
        assert_eq!((config.capacity.cpu_millis, config.capacity.memory_bytes), (2000, 4 << 30));
        assert_eq!(config.labels["region"], "eu");
        let [wordcount, echo, post] = &config.handlers[..] else { panic!("{config:?}") };
        assert_eq!((wordcount.timeout, wordcount.needs.resources.memory_bytes), (Duration::from_secs(30), 256 << 20));
        assert_eq!((config.resources.get("gpus"), wordcount.needs.countable.get("gpus")), (2, 1));
        let Run::Command { program, processes, .. } = &wordcount.run else { panic!("{wordcount:?}") };
        assert!(program.is_absolute() && *processes == Some(64));
        assert!(matches!(echo.run, Run::Builtin(Builtin::Echo)));
        assert_eq!(echo.timeout, DEFAULT_TIMEOUT);
        assert!(matches!(&post.run, Run::Http { headers, .. } if headers.len() == 1));
    }

    #[test]
    fn what_is_absent_is_measured() {
        let config = check("").unwrap();

        assert!(config.slots > 0 && config.queue >= DEFAULT_QUEUE);
        assert_eq!(config.capacity.cpu_millis, usage::cpu_millis());
        assert_eq!(config.limits, Setting::Enforce);
        assert!(config.capacity.memory_bytes > 0 && config.capacity.disk_bytes > 0);
        assert_eq!(config.capacity.network_bps, 0);
    }

    #[test]
    fn every_problem_is_told_at_once_and_where() {
        let problems = problems(
            r#"
            agent.slots = 0
            agent.labels = { "a b" = "c" }
            [[handler]]
            kind = "a.b"
            builtin = "echo"
            [[handler]]
            kind = "x"
            command = ["no-such-program"]
            http = "http://localhost/"
            [[handler]]
            kind = "x"
            command = []
            [[handler]]
            kind = "y"
            timeout = "0s"
            env = ["PATH"]
            [[handler]]
            kind = "z"
            http = "ftp://localhost/"
            headers = { "a b" = "c" }
            [[handler]]
            kind = "w"
            command = ["/etc/passwd"]
            env = ["A=b"]
            "#,
        );

        type IsExpected = fn(&Fault) -> bool;
        let expected: [(&str, IsExpected); 13] = [
            ("[agent]", |f| *f == Fault::NoSlots),
            ("[agent]", |f| matches!(f, Fault::BadLabel(_))),
            ("[[handler]] 1 (a.b)", |f| matches!(f, Fault::BadKind(_))),
            ("[[handler]] 2 (x)", |f| matches!(f, Fault::TwoRuns(_))),
            ("[[handler]] 2 (x)", |f| matches!(f, Fault::NoProgram(name, _) if name == "no-such-program")),
            ("[[handler]] 3 (x)", |f| matches!(f, Fault::DuplicateKind(_))),
            ("[[handler]] 3 (x)", |f| *f == Fault::EmptyCommand),
            ("[[handler]] 4 (y)", |f| *f == Fault::NoTime),
            ("[[handler]] 4 (y)", |f| *f == Fault::Unused("env", "command")),
            ("[[handler]] 4 (y)", |f| *f == Fault::NoRun),
            ("[[handler]] 5 (z)", |f| matches!(f, Fault::BadHeader(_))),
            ("[[handler]] 5 (z)", |f| matches!(f, Fault::BadUrl(_))),
            ("[[handler]] 6 (w)", |f| matches!(f, Fault::BadVariable(_))),
        ];
        for (problem, (place, is_expected)) in problems.iter().zip(expected) {
            assert_eq!(problem.place.to_string(), place);
            assert!(is_expected(&problem.fault), "{problem}");
        }
        assert_eq!(
            problems[13..].iter().map(|p| &p.fault).collect::<Vec<_>>(),
            [&Fault::NotExecutable("/etc/passwd".into())]
        );
    }

    #[test]
    fn resources_that_are_none_are_told() {
        let problems = problems(
            r#"
            agent.resources = { memory = 2 }
            [[handler]]
            kind = "x"
            command = ["true"]
            processes = 0
            resources = { "a b" = 1 }
            [[handler]]
            kind = "y"
            builtin = "echo"
            processes = 2
            "#,
        );

        let faults: Vec<&Fault> = problems.iter().map(|problem| &problem.fault).collect();
        assert!(
            matches!(
                faults[..],
                [
                    Fault::BadResources(BadCountables::Taken(_)),
                    Fault::BadResources(BadCountables::Name(_)),
                    Fault::NoProcesses,
                    Fault::Unused("processes", "command")
                ]
            ),
            "{faults:?}"
        );
    }

    #[test]
    fn an_unknown_key_is_told_with_its_line() {
        let error = check("[agent]\nslot = 3\n").unwrap_err();

        let Error::Shape { source, .. } = error else { panic!("{error}") };
        assert!(source.to_string().contains("line 2") && source.to_string().contains("`slot`"), "{source}");
    }

    #[test]
    fn an_unknown_builtin_is_told_with_those_there_are() {
        let Error::Shape { source, .. } = check("[[handler]]\nkind = 'a'\nbuiltin = 'dance'").unwrap_err() else {
            panic!("taken for a builtin")
        };
        assert!(source.to_string().contains("`echo`, `sleep`, `fail`"), "{source}");
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let text = "agent = { slots = 3, cpu = '500m', network = '10Mbps', memory = '1Gi', disk = '1Gi', \
                    limits = 'watch', resources = { gpus = 2 } }\n\
                    [[handler]]\nkind = 'a'\ncommand = ['true']\ntimeout = '90s'\ncpu = '2'\nresources = { gpus = 1 }";
        let file = File::parse(text, Path::new("")).unwrap().resolved();

        let printed = toml::to_string(&file).unwrap();

        assert_eq!(File::parse(&printed, Path::new("")).unwrap(), file, "{printed}");
    }

    #[test]
    fn without_a_file_the_builtin_handlers_are_there() {
        let config = File::builtins().check(Path::new("")).unwrap();

        assert_eq!(config.handlers.iter().map(|h| h.kind.as_str()).collect::<Vec<_>>(), ["echo", "sleep", "fail"]);
    }

    fn check(text: &str) -> Result<Config, Error> {
        File::parse(text, Path::new("agent.toml"))?.check(Path::new("agent.toml"))
    }

    fn problems(text: &str) -> Vec<Problem> {
        match check(text).unwrap_err() {
            Error::Problems { problems, .. } => problems,
            error => panic!("{error:?}"),
        }
    }
}
