//! The command line of `agent-worker`, which another program can embed as a subcommand.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use shared::connect::Settings;
use shared::{AgentId, health, trace};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::agent::{Agent, Stopper};
use crate::config;
use crate::connection::Left;
use crate::executor::Owner;
use crate::watchdog;

/// How long an agent whose lifeline is cut may take to finish what it runs.
const LIFELINE_GRACE: Duration = Duration::from_secs(10);
/// Exit code for a configuration that cannot be used.
const BAD_CONFIG: u8 = 2;

/// Runs tasks of the mesh on this host.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the broker is and who we are.
    #[command(flatten)]
    pub connection: Settings,
    /// Id of the agent, unique in the mesh [default: the host's name and something random].
    #[arg(long, env = "HIVE_AGENT", value_name = "ID")]
    pub id: Option<AgentId>,
    /// TOML file with slots, labels and handlers [default: only the builtin handlers echo, sleep and fail].
    #[arg(long, env = "HIVE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How many attempts run at once [default: as many as there are cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// A label that tasks can ask for by `Hive-Needs`; can be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Where the agent says over HTTP whether it is well, for its `healthcheck` and other probes, and serves its metrics
    /// (`/metrics`) [default: nowhere].
    #[arg(long, env = "HIVE_HEALTH", value_name = "ADDR", global = true)]
    pub health: Option<SocketAddr>,
    /// How the log on standard error is written; what it tells is set by HIVE_LOG or RUST_LOG.
    #[arg(long, env = "HIVE_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Print the configuration with everything filled in, and end.
    #[arg(long)]
    pub print_config: bool,
    /// Leave when the process that started this one is gone. Its id makes sure of one that is gone already.
    #[arg(long, hide = true, value_name = "PID", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub exit_with_parent: Option<i32>,
    /// Leave when nobody holds the lock on this file any more.
    #[arg(long, hide = true, value_name = "FILE")]
    pub lifeline: Option<PathBuf>,
    /// What comes before these arguments on the command line of a program that embeds them as a subcommand.
    #[arg(skip)]
    pub subcommand: Vec<OsString>,
    /// What the program does instead of being an agent.
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What else the program is for.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Role {
    /// Tell whether the agent that has this --health is well, for probes where there is no shell: exit code 0 or 1.
    Healthcheck,
    /// Kills what an agent's commands have started, when the agent is gone.
    #[command(hide = true, name = watchdog::SUBCOMMAND)]
    Watchdog {
        /// Whose processes.
        owner: Owner,
    },
}

/// How a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() { Err("write NAME=VALUE".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

/// Runs the agent until it has left.
pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.role {
        Some(Role::Watchdog { owner }) => return watchdog::run(owner).context("failed to watch the agent"),
        Some(Role::Healthcheck) => return healthcheck(args.health).await,
        None => {}
    }
    let parent = args.exit_with_parent.map(watch_parent).transpose()?;
    let (file, path) = read_config(&args)?;
    if args.print_config {
        let shown = toml::to_string(&file.clone().resolved()).context("failed to write the configuration as TOML")?;
        print!("{shown}");
        file.check(&path)?;
        return Ok(());
    }
    start_log(args.log_format);
    trace::start("hivemesh-agent");
    let mut builder = Agent::builder(args.connection, file.check(&path)?);
    if let Some(id) = args.id {
        builder = builder.id(id);
    }
    if let Some(address) = args.health {
        builder = builder.health(address);
    }
    let agent = builder.alone_in_process().build()?;
    if let Some(owner) = agent.owner() {
        tokio::spawn(watchdog::keep(owner, args.subcommand));
    }
    leave_on_signals(agent.stopper(), parent)?;
    if let Some(path) = args.lifeline {
        leave_when_cut(&path, agent.stopper())?;
    }
    // The session shares the runtime's threads with the connection it talks to; this task would not.
    let left = tokio::spawn(agent.run()).await;
    trace::finish();
    match left.context("the agent panicked")?? {
        Left::Drained => Ok(()),
        Left::Abandoned(0) => Ok(()),
        Left::Abandoned(running) => bail!("left at once: {running} attempts were ended by force"),
    }
}

async fn healthcheck(address: Option<SocketAddr>) -> anyhow::Result<()> {
    let address = address.context("nobody to ask: set --health (HIVE_HEALTH) as the agent has it")?;
    let said = health::ask(health::from_here(address), "/").await.context("unwell")?;
    println!("well: {said}");
    Ok(())
}

/// The exit code that an error of [`run`] stands for.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<config::Error>() { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE }
}

/// The file, overridden by flags, and what to call it in errors.
fn read_config(args: &Args) -> Result<(config::File, PathBuf), config::Error> {
    let (mut file, path) = match &args.config {
        Some(path) => (config::File::read(path)?, path.clone()),
        None => (config::File::builtins(), Path::new("command line").to_owned()),
    };
    if args.slots.is_some() {
        file.agent.slots = args.slots;
    }
    file.agent.labels.extend(args.labels.iter().cloned());
    Ok((file, path))
}

fn start_log(format: LogFormat) {
    let filter = ["HIVE_LOG", "RUST_LOG"].into_iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    // What async-nats tells of the connection, `shared::connect` tells with its name.
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    let filter = filter.add_directive(shared::connect::QUIET.parse().expect("it is a directive"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A program that embeds this one may have a log already, which is then used.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// Lets the kernel tell by SIGTERM when the parent is gone. The result is the parent.
fn watch_parent(expected: i32) -> anyhow::Result<Pid> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("failed to watch the parent process")?;
    let parent = getppid();
    // Without its id an adopted process can only be told by its new parent, the first process of all.
    let gone = if expected > 0 { parent.as_raw() != expected } else { parent.as_raw() == 1 };
    if gone { bail!("the parent process is gone") } else { Ok(parent) }
}

/// The first signal drains, the second one leaves at once; so does one that comes because the parent is gone.
fn leave_on_signals(stopper: Stopper, parent: Option<Pid>) -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut again = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let orphaned = parent.is_some_and(|parent| getppid() != parent);
            if again || orphaned {
                info!(orphaned, "told to leave at once");
                stopper.leave_now();
            } else {
                info!("told to leave: a second signal does not wait for what runs");
                stopper.drain();
            }
            again = true;
        }
    });
    Ok(())
}

/// Leaves when the lock on the file is free: whoever held it is gone, and the mesh with it.
fn leave_when_cut(path: &Path, stopper: Stopper) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("failed to open the lifeline `{}`", path.display()))?;
    let wait = move || {
        while let Err(error) = file.lock_shared() {
            if error.kind() != ErrorKind::Interrupted {
                warn!(%error, "the lifeline cannot be waited for");
                return;
            }
        }
        // Somebody else may want to hold it next.
        drop(file);
        info!("the lifeline is cut: leaving");
        stopper.drain();
        std::thread::sleep(LIFELINE_GRACE);
        stopper.leave_now();
    };
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(wait).context("failed to wait for the lifeline")?;
    Ok(())
}
