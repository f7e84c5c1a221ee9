//! `coordinator serve`: a coordinator of a mesh, leading or standing by.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use shared::Client;
use shared::connect::{Patience, Settings};
use shared::subject::Subjects;
use shared::supervisor::Supervisor;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::actuator::Surroundings;
use crate::alerts;
use crate::api::Services;
use crate::config::{Config, ConfigError};
use crate::hooks::Hooks;
use crate::http::Server;
use crate::lease::Contender;
use crate::metrics::Metrics;
use crate::node::{Handle, Node, Parts};
use crate::scale;
use crate::store::Store;

/// Runs a coordinator. The first one on a mesh leads, further ones stand by and take over when it is gone.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address of the API [default: 127.0.0.1:8080].
    #[arg(long, env = "HIVE_HTTP", value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Names that the API may be asked by, besides addresses and `localhost`, separated by commas.
    #[arg(long, env = "HIVE_HTTP_HOSTS", value_name = "NAMES", value_delimiter = ',')]
    pub http_hosts: Vec<String>,
    /// Let everybody who reaches the API do everything, on whatever address: without tokens, and not encrypted.
    #[arg(long, env = "HIVE_INSECURE_HTTP")]
    pub insecure_http: bool,
    /// File of settings (TOML).
    #[arg(long, env = "HIVE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Copies of every stream: 3 on a cluster of brokers [default: 1].
    #[arg(long, env = "HIVE_REPLICAS", value_name = "N")]
    pub replicas: Option<usize>,
    /// Address of a NATS server's monitoring (its `http` setting), such as http://127.0.0.1:8222, for what the metrics tell
    /// of it; of several servers, separated by commas.
    #[arg(long, value_name = "URL", env = "NATS_MONITOR", value_delimiter = ',')]
    pub monitor: Vec<String>,
    /// How the log is written.
    #[arg(long, env = "HIVE_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Prints the settings that hold, and ends.
    #[arg(long)]
    pub print_config: bool,
    /// File to write the API's address to, for those who asked for port 0.
    #[arg(long, hide = true, value_name = "FILE")]
    pub http_address_file: Option<PathBuf>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Runs the coordinator until it is told to stop.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let config = match load(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(2));
        }
    };
    if args.print_config {
        print!("{}", toml::to_string(&config).context("failed to write the settings as TOML")?);
        return Ok(ExitCode::SUCCESS);
    }
    if config.http.is_open_to_others() && !args.insecure_http {
        eprintln!("error: {}", ConfigError::Open { address: config.http.address });
        return Ok(ExitCode::from(2));
    }
    super::start_logging("info", args.log_format == LogFormat::Json);
    shared::trace::start("hivemesh-coordinator");
    allow_many_connections();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told_to_stop = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(told_to_stop);
    let running = tokio::select! {
        started = start(&args, config, connection) => started?,
        () = &mut told_to_stop => return Ok(ExitCode::SUCCESS),
    };
    running.until(told_to_stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn load(args: &Args) -> Result<Config, ConfigError> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(address) = args.http {
        config.http.address = address;
    }
    config.http.hosts.extend(args.http_hosts.iter().cloned());
    if let Some(replicas) = args.replicas {
        config.streams.replicas = replicas;
    }
    if !args.monitor.is_empty() {
        config.metrics.monitor.clone_from(&args.monitor);
    }
    Ok(config)
}

/// A coordinator at work.
struct Running {
    handle: Handle,
    working: JoinHandle<anyhow::Result<()>>,
    resign: oneshot::Sender<()>,
    contending: JoinHandle<()>,
}

async fn start(args: &Args, config: Config, connection: &Settings) -> anyhow::Result<Running> {
    let instance = format!("{}-{}", hostname(), uuid::Uuid::new_v4().simple());
    let (listener, address) = listen(args, config.http.address).await?;
    if !address.ip().is_loopback() && config.http.tls_certificate.is_none() {
        warn!(http = %address, "the API is not encrypted: whoever is on the way can read tokens and change requests");
    }
    let supervisor = Supervisor::of_this_process();
    supervisor.status("waiting for a NATS server");
    let (nats, counters) = connection.connect_counted(&format!("coordinator-{instance}"), Patience::Endless).await?;
    let subjects = Subjects::new(connection.mesh.clone());
    let store = Store::new(nats.clone(), subjects.clone(), config.streams.clone());
    prepare(&store).await?;
    let (alerting, alert_asks) = mpsc::unbounded_channel();
    let scheduler = config.scheduler();
    let beat_interval = scheduler.liveness.beat_interval;
    let (scaling, asks) = mpsc::unbounded_channel();
    let (mut node, handle) = Node::new(Parts {
        nats: nats.clone(),
        counters: counters.clone(),
        store: store.clone(),
        subjects: subjects.clone(),
        scheduler,
        instance: instance.clone(),
        supervisor,
        scaling,
        alerting,
    });
    let client = Client::new(nats.clone(), connection.mesh.clone());
    let metrics = Metrics::new(handle.clone(), store.clone(), nats.clone(), counters.clone(), config.metrics.clone());
    let hooks = Hooks::new(handle.clone(), store.clone(), client.clone(), config.webhooks.clone())?;
    hooks.start()?;
    let services = Services::new(handle.clone(), store.clone(), client, &instance, counters, hooks);
    node.answer_with(services.clone());
    serve_aside(Server::new(services, config.http.clone(), args.config.clone(), metrics.clone())?, listener)?;
    info!(mesh = %connection.mesh, nats = connection.url_without_secrets(), http = %address, "coordinator started");
    let manager = scale::Manager::new(scale::Parts {
        handle: handle.clone(),
        nats: nats.clone(),
        subjects: subjects.clone(),
        store: store.clone(),
        pools: config.pools.clone(),
        surroundings: Surroundings::new(connection),
        metrics: metrics.scaling().clone(),
        asks,
    });
    tokio::spawn(manager.run());
    tokio::spawn(crate::settings::watch(store.clone(), handle.clone()));
    tokio::spawn(alert_manager(&config, &handle, &store, &subjects, metrics, alert_asks)?.run());
    let (changes, changed) = mpsc::channel(4);
    let (resign, resigned) = oneshot::channel();
    let bucket = store.lease_bucket().await?;
    let working = tokio::spawn(node.run(changed));
    let contender = Contender::new(nats, store, bucket, subjects, instance, changes, beat_interval);
    let contending = tokio::spawn(contender.run(resigned));
    Ok(Running { handle, working, resign, contending })
}

/// What looks after alerts while this coordinator leads.
fn alert_manager(
    config: &Config,
    handle: &Handle,
    store: &Store,
    subjects: &Subjects,
    metrics: Metrics,
    asks: mpsc::UnboundedReceiver<alerts::Ask>,
) -> anyhow::Result<alerts::Manager> {
    let rules = alerts::rules_of(&config.alerts).map_err(|problems| anyhow::anyhow!(problems.join("; ")))?;
    let exposition: alerts::Exposition = Arc::new(move || {
        let metrics = metrics.clone();
        Box::pin(async move { metrics.exposition().await })
    });
    Ok(alerts::Manager::new(alerts::Parts {
        handle: handle.clone(),
        store: store.clone(),
        subjects: subjects.clone(),
        source: alerts::Source::new(handle.clone(), store.clone(), Some(exposition)),
        settings: config.alerting.clone(),
        rules,
        asks,
    }))
}

impl Running {
    /// Works until it is told to stop; then stops working, and gives the lease back, in this order.
    async fn until(mut self, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            ended = &mut self.working => return ended.context("the coordinator's loop has ended")?,
            () = told_to_stop => {}
        }
        info!("stopping");
        let orderly = async {
            self.handle.stop().await;
            let _ = self.resign.send(());
            let _ = self.contending.await;
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(3), orderly).await;
        Ok(())
    }
}

async fn listen(args: &Args, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("failed to listen on {address}: is another coordinator on it? choose another --http")
    })?;
    let address = listener.local_addr()?;
    if let Some(file) = &args.http_address_file {
        std::fs::write(file, address.to_string()).with_context(|| format!("failed to write `{}`", file.display()))?;
    }
    Ok((listener, address))
}

/// Serves the API from a thread of its own: however many ask, and follow the events, takes nothing from the loop.
fn serve_aside(server: Server, listener: TcpListener) -> anyhow::Result<()> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = async move { server.run(TcpListener::from_std(listener)?).await };
    std::thread::Builder::new().name("api".to_owned()).spawn(move || {
        if let Err(error) = runtime.block_on(serve) {
            error!(error = format!("{error:#}"), "the API has ended");
        }
    })?;
    Ok(())
}

/// Each connection is an open file, and by default a process may have no more than 1024 although it could have many.
fn allow_many_connections() {
    let allowed =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = allowed {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Makes or checks the streams; a broker that is only just starting is given time.
async fn prepare(store: &Store) -> anyhow::Result<()> {
    use crate::store::StoreError;
    let mut tries = 0;
    loop {
        match store.prepare().await {
            Ok(()) => return Ok(()),
            Err(error @ (StoreError::TooOld { .. } | StoreError::Foreign { .. })) => return Err(error.into()),
            Err(error) if tries >= 5 => return Err(error.into()),
            Err(error) => {
                tries += 1;
                warn!(error = %crate::chain(&error), "the broker is not ready, trying again");
                tokio::time::sleep(std::time::Duration::from_millis(200 << tries)).await;
            }
        }
    }
}

/// The host's name as far as it can stand in a subject.
fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
    if name.is_empty() { "host".to_owned() } else { name }
}
