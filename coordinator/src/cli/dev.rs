//! `coordinator dev`: a mesh on this machine, to try things on.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use nix::libc::SIGKILL;
use shared::{AgentId, MeshName};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::dev_pool::{self, Agents};
use super::output;
use crate::demo;
use crate::local::{self, AgentSpec, Launcher, LocalMesh, Role, broker};

/// How long the mesh may take until it works.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The port that NATS clients try by themselves.
const NATS_PORT: u16 = 4222;
/// The port of `coordinator serve`.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// What the agents can do, to begin with.
const AGENT_CONFIG: &str = r#"
[[handler]]
kind = "echo"
builtin = "echo"

[[handler]]
kind = "sleep"
builtin = "sleep"

[[handler]]
kind = "fail"
builtin = "fail"

[[handler]]
kind = "wordcount"
command = ["wc", "-w"]
env = ["PATH"]
timeout = "30s"
"#;

/// Starts a whole mesh on this machine: a NATS server, a coordinator and agents. Ends with Ctrl-C.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Does real work over the files of DIR (the current directory by default), kills an agent half-way,
    /// checks every result, and ends.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    pub demo: Option<PathBuf>,
    /// Number of agents, or bounds such as 1-8: then there are as many as the work takes.
    #[arg(long, value_name = "N|MIN-MAX", default_value = "3")]
    pub agents: Agents,
    /// How many tasks an agent runs at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
    /// Directory for settings, logs and the broker's data [default: hivemesh/dev-PORT in
    /// $XDG_STATE_HOME or ~/.local/state; with --demo a temporary one].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The nats-server to run [default: $NATS_SERVER, or one on PATH; otherwise one is obtained and kept].
    #[arg(long, value_name = "PATH")]
    pub nats_server: Option<PathBuf>,
    /// Port of the NATS server; 0 for a free one [default: 4222; with --demo 0].
    #[arg(long, value_name = "PORT")]
    pub nats_port: Option<u16>,
    /// Where the coordinator answers over HTTP; port 0 for a free one [default: 127.0.0.1:8080; with --demo
    /// a free one].
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Name of the mesh.
    #[arg(long, env = "HIVE_MESH", value_name = "NAME", default_value_t)]
    pub mesh: MeshName,
}

impl Args {
    fn nats_port(&self) -> u16 {
        self.nats_port.unwrap_or(if self.demo.is_some() { 0 } else { NATS_PORT })
    }

    fn http(&self) -> SocketAddr {
        self.http.unwrap_or(if self.demo.is_some() { SocketAddr::new(HTTP.ip(), 0) } else { HTTP })
    }
}

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// All that was to be done is done.
    Well,
    /// The demo found something missing or wrong.
    DemoFailed,
    /// The demo was told to end by this signal.
    Interrupted(SignalKind),
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Well => ExitCode::SUCCESS,
            Ending::DemoFailed => ExitCode::FAILURE,
            // As a shell tells it.
            Ending::Interrupted(signal) => u8::try_from(128 + signal.as_raw_value()).unwrap_or(1).into(),
        }
    }
}

/// Runs the mesh until it is told to end, or the demo to its end.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new().context("failed to listen for signals")?;
    if let Some(dir) = &args.demo {
        if !matches!(args.agents, Agents::Fixed(_)) {
            return Err(output::Usage(
                "--demo kills one of its agents: say how many there are, such as --agents 3".into(),
            )
            .into());
        }
        demo::check(dir)?;
    }
    let data = Data::open(&args)?;
    let ending = in_data_dir(&args, &data.path, &mut signals).await;
    data.close(matches!(ending, Err(_) | Ok(Ending::DemoFailed)));
    Ok(ending?.into())
}

async fn in_data_dir(args: &Args, data: &Path, signals: &mut Signals) -> anyhow::Result<Ending> {
    let mesh = tokio::select! {
        mesh = start(args, data) => mesh?,
        signal = signals.next() => return Ok(Ending::Interrupted(signal)),
    };
    let ending = tokio::select! {
        ending = use_mesh(args, &mesh) => ending,
        death = until_it_is_broken(&mesh, args.demo.is_some()) => Err(death),
        signal = signals.next() => Ok(if args.demo.is_some() { Ending::Interrupted(signal) } else { Ending::Well }),
    };
    stop(&mesh, signals).await;
    ending
}

async fn start(args: &Args, data: &Path) -> anyhow::Result<LocalMesh> {
    let nats_server = local::obtain(args.nats_server.as_deref(), |said| eprintln!("{said}")).await?;
    let launcher = Launcher::current().context("failed to find this program's own executable")?;
    let mut options = local::Options::new(launcher, nats_server, data);
    options.broker.port = Some(args.nats_port()).filter(|port| *port != 0);
    options.mesh = args.mesh.clone();
    options.http = args.http();
    let config = if args.demo.is_some() { demo::AGENT_CONFIG } else { AGENT_CONFIG };
    match args.agents {
        Agents::Fixed(count) => {
            for number in 1..=count {
                options.agents.push(AgentSpec::new(AgentId::new(format!("agent-{number}"))?, args.slots, config));
            }
        }
        Agents::Within { least, most } => {
            options.coordinator_config = Some(dev_pool::pool_settings(least, most, args.slots, config, data)?);
        }
    }
    eprintln!("starting a NATS server, a coordinator and {} agents in {}", args.agents, data.display());
    LocalMesh::start(options).await.map_err(|error| match error {
        local::StartError::Broker(broker::StartError::PortTaken(port)) => {
            anyhow!(
                "port {port} on 127.0.0.1 is taken, perhaps by another NATS server: say --nats-port 0 for a free one"
            )
        }
        error => error.into(),
    })
}

/// Does the demo, or nothing for ever.
async fn use_mesh(args: &Args, mesh: &LocalMesh) -> anyhow::Result<Ending> {
    mesh.until_ready(READY_LIMIT).await?;
    match &args.demo {
        Some(dir) => Ok(if demo::run(mesh, dir).await? { Ending::Well } else { Ending::DemoFailed }),
        None => {
            println!("{}", Summary { args, mesh });
            std::future::pending().await
        }
    }
}

/// Says which processes end, until one does without which nothing works.
async fn until_it_is_broken(mesh: &LocalMesh, is_demo: bool) -> anyhow::Error {
    let mut exits = mesh.exits();
    loop {
        let exit = exits.next().await;
        match exit.role {
            // The demo does that itself, and says so.
            Role::Agent if is_demo && exit.status.signal() == Some(SIGKILL) => {}
            Role::Agent => {
                eprintln!("{} ended unexpectedly ({}); its log is {}", exit.name, exit.status, exit.log.display());
            }
            Role::Coordinator | Role::Broker => {
                return anyhow!("{} ended unexpectedly ({}); its log says:\n{}", exit.name, exit.status, exit.said);
            }
        }
    }
}

async fn stop(mesh: &LocalMesh, signals: &mut Signals) {
    eprintln!("ending: agents finish what they run, then the coordinator, then the NATS server");
    tokio::select! {
        killed = mesh.stop() => match killed.as_slice() {
            [] => eprintln!("all ended"),
            killed => eprintln!("all ended; these did not listen and were killed: {}", killed.join(", ")),
        },
        _ = signals.next() => eprintln!("told twice: ending everything at once"),
    }
}

/// What is told once the mesh works.
struct Summary<'a> {
    args: &'a Args,
    mesh: &'a LocalMesh,
}

impl Summary<'_> {
    /// What has to be typed before a subcommand, to reach this mesh.
    fn command(&self) -> String {
        let by_cargo = std::env::var_os("CARGO").map(|_| "cargo run --release --".to_owned());
        let mut command = by_cargo.or_else(|| std::env::args().next()).unwrap_or_else(|| "coordinator".to_owned());
        if self.mesh.broker().port() != NATS_PORT {
            command += &format!(" --nats {}", self.mesh.nats_url());
        }
        if *self.mesh.name() != MeshName::default() {
            command += &format!(" --mesh {}", self.mesh.name());
        }
        command
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (data, command) = (self.mesh.data_dir().display(), self.command());
        let http = self.mesh.http_url().unwrap_or_default();
        let (nats, mesh) = (self.mesh.nats_url(), self.mesh.name());
        let (agents, slots) = (self.args.agents, self.args.slots);
        write!(
            f,
            "The mesh `{mesh}` is running; Ctrl-C ends it.\n\n  \
               NATS server   {nats}\n  \
               coordinator   {http}\n  \
               agents        {agents} with {slots} slots each: echo, sleep, fail, wordcount\n  \
               data          {data}\n  \
               logs          {data}/*.log and {data}/broker/*.log\n\n\
             Try in another terminal:\n  \
               {command} call echo hello\n  \
               {command} submit wordcount 'four words to count'\n  \
               {command} agents list\n  \
               curl {http}/v1/agents\n  \
               nats --server {nats} request {mesh}.call.wordcount 'from any NATS client'"
        )
    }
}

/// What ends a program.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

/// The directory with everything in it, which nobody else uses meanwhile.
struct Data {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
    /// Unlocked when it is closed, however we end.
    _lock: Option<File>,
}

impl Data {
    fn open(args: &Args) -> anyhow::Result<Self> {
        match (&args.data, args.nats_port()) {
            (Some(path), _) => Self::lock(path)?.with_context(|| in_use(path)),
            (None, _) if args.demo.is_some() => Self::temporary(),
            (None, 0) => Self::first_free(&state_dir()?),
            (None, port) => {
                let path = state_dir()?.join(format!("dev-{port}"));
                Self::lock(&path)?.with_context(|| in_use(&path))
            }
        }
    }

    fn temporary() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("hivemesh-demo-").tempdir();
        let dir = dir.context("failed to make a temporary directory")?;
        Ok(Self { path: dir.path().to_owned(), temporary: Some(dir), _lock: None })
    }

    fn first_free(state: &Path) -> anyhow::Result<Self> {
        for number in 1..100 {
            if let Some(data) = Self::lock(&state.join(format!("dev-any-{number}")))? {
                return Ok(data);
            }
        }
        bail!("a hundred of these are running already: say --data DIR")
    }

    /// `None` if another one uses it.
    fn lock(path: &Path) -> anyhow::Result<Option<Self>> {
        let path = std::path::absolute(path)?;
        let failed = || format!("failed to use the data directory {}", path.display());
        fs::create_dir_all(&path).with_context(failed)?;
        let lock = File::create(path.join("lock")).with_context(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path, temporary: None, _lock: Some(lock) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(failed),
        }
    }

    /// A temporary one is removed, unless somebody may want to look into it.
    fn close(self, keep: bool) {
        if let Some(dir) = self.temporary.filter(|_| keep) {
            eprintln!("logs and data are kept in {}", dir.keep().display());
        }
    }
}

fn in_use(path: &Path) -> String {
    format!("another `coordinator dev` uses {}: say --data DIR, or --nats-port 0 for one more mesh", path.display())
}

fn state_dir() -> anyhow::Result<PathBuf> {
    let given = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = given("XDG_STATE_HOME").or_else(|| Some(given("HOME")?.join(".local/state")));
    Ok(base.context("neither XDG_STATE_HOME nor HOME is set: say --data DIR")?.join("hivemesh"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Args {
        Cli::parse_from(["dev"].iter().chain(line)).args
    }

    #[test]
    fn the_demo_takes_free_ports_and_the_current_directory() {
        let plain = parse(&[]);
        assert_eq!((plain.nats_port(), plain.http(), plain.demo), (4222, HTTP, None));

        let demo = parse(&["--demo"]);
        assert_eq!((demo.nats_port(), demo.http().port()), (0, 0));
        assert_eq!(demo.demo, Some(PathBuf::from(".")));

        let demo = parse(&["--demo", "/etc", "--nats-port", "7"]);
        assert_eq!((demo.nats_port(), demo.demo), (7, Some(PathBuf::from("/etc"))));
    }

    #[test]
    fn a_data_directory_is_used_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();

        let first = Data::first_free(dir.path()).unwrap();
        let second = Data::first_free(dir.path()).unwrap();
        assert_ne!(first.path, second.path);
        assert!(Data::lock(&first.path).unwrap().is_none());

        let path = first.path.clone();
        drop(first);
        assert_eq!(Data::first_free(dir.path()).unwrap().path, path);
    }

    #[test]
    fn a_demo_that_is_interrupted_ends_as_a_shell_expects() {
        assert_eq!(ExitCode::from(Ending::Interrupted(SignalKind::interrupt())), ExitCode::from(130));
        assert_eq!(ExitCode::from(Ending::Interrupted(SignalKind::terminate())), ExitCode::from(143));
    }
}
