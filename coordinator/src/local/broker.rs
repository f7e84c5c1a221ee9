//! A nats-server of our own: its settings, its start, its end and its restart on the same port and data.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::ConnectErrorKind;

use super::LOG_LINES;
use super::process::{Launcher, Process, Program, SpawnError};

pub use super::obtain::{ObtainError, obtain};

/// How long the server may take to answer; it reads its streams back first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the server may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long a restart waits for its port. While the server is down, the port may be the source of another
/// connection: the kernel takes those from the same range.
const PORT_PATIENCE: Duration = Duration::from_secs(10);

/// How a server is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The executable.
    pub binary: PathBuf,
    /// Holds its settings, its log and its streams.
    pub data_dir: PathBuf,
    /// The port on 127.0.0.1; a free one if `None`.
    pub port: Option<u16>,
    /// Whether each message is on the disk before it is acknowledged, so that a power cut loses none.
    pub sync_always: bool,
    /// Whether the mesh hears when one of its connections is closed.
    pub exports_disconnects: bool,
    /// Its name, which stays the same when it is restarted: the servers of a cluster know each other by it.
    pub server_name: String,
    /// More lines for its settings.
    pub extra_config: String,
    /// A file with settings of somebody else's, such as `coordinator auth` writes, instead of all of these; only its
    /// address, its name and its data directory are ours.
    pub config_file: Option<PathBuf>,
}

impl Options {
    /// A server on a free port that syncs now and then.
    pub fn new(binary: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            data_dir: data_dir.into(),
            port: None,
            sync_always: false,
            exports_disconnects: true,
            server_name: format!("hivemesh-{}", uuid::Uuid::new_v4().simple()),
            extra_config: String::new(),
            config_file: None,
        }
    }

    /// The settings as the server reads them. Port -1 lets it choose one.
    fn config(&self, port: Option<u16>) -> String {
        let port = port.map_or("-1".to_owned(), |port| port.to_string());
        let sync = if self.sync_always { ", sync_interval: always" } else { "" };
        let (exports, imports) = if self.exports_disconnects {
            (
                "exports: [ { stream: \"$SYS.ACCOUNT.MESH.DISCONNECT\", accounts: [MESH] } ]",
                "imports: [ { stream: { account: SYS, subject: \"$SYS.ACCOUNT.MESH.DISCONNECT\" } } ]",
            )
        } else {
            ("", "")
        };
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# Written by Hivemesh at each start; changes are lost.\n\
             server_name: \"{}\"\n\
             listen: \"127.0.0.1:{port}\"\n\
             ports_file_dir: {}\n\
             # Dead connections are noticed within twenty seconds instead of four minutes.\n\
             ping_interval: \"10s\"\n\
             ping_max: 2\n\
             jetstream {{ store_dir: {}{sync} }}\n\
             # The mesh has an account of its own, which hears when a connection of it is closed: so the crash of\n\
             # an agent is noticed at once.\n\
             system_account: SYS\n\
             no_auth_user: mesh\n\
             accounts {{\n  \
               SYS {{ {exports} }}\n  \
               MESH {{\n    \
                 jetstream: enabled\n    \
                 users: [ {{ user: mesh, password: mesh }} ]\n    \
                 {imports}\n  \
               }}\n\
             }}\n\
             {}\n",
            self.server_name,
            quoted(&self.ports_dir()),
            quoted(&self.store_dir()),
            self.extra_config,
        );
        text
    }

    /// Where its streams are.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    fn ports_dir(&self) -> PathBuf {
        self.data_dir.join("ports")
    }
}

/// A path as a string of the server's settings, which has the escapes of JSON.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory or its settings cannot be written.
    #[error("failed to write `{}`", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It was not started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Another program listens on its port.
    #[error("port {0} on 127.0.0.1 is taken by another program, perhaps another NATS server")]
    PortTaken(u16),
    /// It ended by itself.
    #[error("nats-server ended at its start ({status}); its log says:\n{log}")]
    Ended {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// It runs, but does not answer.
    #[error("nats-server does not answer after {} s; its log says:\n{log}", START_LIMIT.as_secs())]
    Silent {
        /// The end of its log.
        log: String,
        /// What the last try ended with.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// A nats-server with JetStream on 127.0.0.1.
#[derive(Debug)]
pub struct Broker {
    launcher: Launcher,
    options: Options,
    port: u16,
    process: Process,
}

impl Broker {
    /// Starts a server and waits until its JetStream answers.
    pub async fn start(launcher: &Launcher, mut options: Options) -> Result<Self, StartError> {
        options.data_dir = std::path::absolute(&options.data_dir)
            .map_err(|source| StartError::Write { path: options.data_dir.clone(), source })?;
        let (process, port) = launch(launcher, &options, options.port).await?;
        Ok(Self { launcher: launcher.clone(), options, port, process })
    }

    /// Starts it again on the same port with the same data, after it ended or was killed; if it still runs,
    /// it is asked to end first.
    pub async fn restart(&mut self) -> Result<(), StartError> {
        self.stop().await;
        let started = Instant::now();
        loop {
            match launch(&self.launcher, &self.options, Some(self.port)).await {
                Ok((process, _)) => {
                    self.process = process;
                    return Ok(());
                }
                Err(StartError::PortTaken(_)) if started.elapsed() < PORT_PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its streams are.
    pub fn store_dir(&self) -> PathBuf {
        self.options.store_dir()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub async fn kill9(&self) {
        self.process.kill9();
        self.process.wait().await;
    }

    /// Ends it in order. Returns whether it ended by itself.
    pub async fn stop(&self) -> bool {
        self.process.terminate(STOP_GRACE).await
    }
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

async fn launch(launcher: &Launcher, options: &Options, port: Option<u16>) -> Result<(Process, u16), StartError> {
    let process = launcher.spawn(Program {
        name: "nats-server".to_owned(),
        path: options.binary.clone(),
        args: prepare(options, port)?,
        env: Vec::new(),
        log: options.data_dir.join("nats-server.log"),
    })?;
    let deadline = Instant::now() + START_LIMIT;
    let ended = process.wait();
    tokio::select! {
        listening = until_it_answers(options, &process, deadline) => Ok((process, listening?)),
        status = ended => {
            let log = process.log_tail(LOG_LINES);
            match port {
                Some(port) if log.contains("address already in use") => Err(StartError::PortTaken(port)),
                _ => Err(StartError::Ended { status, log }),
            }
        }
    }
}

/// Writes the settings, and clears what an earlier server said about its port; the arguments that the server gets.
fn prepare(options: &Options, port: Option<u16>) -> Result<Vec<OsString>, StartError> {
    let ports = options.ports_dir();
    let _ = fs::remove_dir_all(&ports);
    fs::create_dir_all(&ports).map_err(|source| StartError::Write { path: ports.clone(), source })?;
    if let Some(file) = &options.config_file {
        let port = port.map_or("-1".to_owned(), |port| port.to_string());
        return Ok(vec![
            "--config".into(),
            file.into(),
            "--addr".into(),
            "127.0.0.1".into(),
            "--port".into(),
            port.into(),
            "--ports_file_dir".into(),
            ports.into(),
        ]);
    }
    let path = options.data_dir.join("nats.conf");
    match fs::write(&path, options.config(port)) {
        Ok(()) => Ok(vec!["--config".into(), path.into()]),
        Err(source) => Err(StartError::Write { path, source }),
    }
}

async fn until_it_answers(options: &Options, process: &Process, deadline: Instant) -> Result<u16, StartError> {
    // Who answers on a port that we chose might be another server; the file is written by ours, once it listens.
    let port = loop {
        if let Some(port) = listening_port(&options.ports_dir()) {
            break port;
        }
        if Instant::now() > deadline {
            return Err(StartError::Silent { log: process.log_tail(LOG_LINES), source: None });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    if options.config_file.is_some() {
        // Who may ask it what is not known here.
        return Ok(port);
    }
    loop {
        match jetstream_answers(port).await {
            Ok(()) => return Ok(port),
            Err(error) if Instant::now() > deadline => {
                return Err(StartError::Silent { log: process.log_tail(LOG_LINES), source: Some(error) });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The server writes `<name>_<pid>.ports`: `{"nats": ["nats://127.0.0.1:41234"], …}`.
fn listening_port(dir: &Path) -> Option<u16> {
    let file = fs::read_dir(dir).ok()?.flatten().find(|f| f.path().extension().is_some_and(|e| e == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

async fn jetstream_answers(port: u16) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = match async_nats::connect(url(port)).await {
        Ok(client) => client,
        // With accounts of its own in the extra settings, it answers by a refusal.
        Err(error) if matches!(error.kind(), ConnectErrorKind::AuthorizationViolation) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let context = async_nats::jetstream::ContextBuilder::new().timeout(Duration::from_secs(2)).build(client);
    context.query_account().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_name_what_was_asked_for() {
        let mut options = Options::new("nats-server", "/tmp/with \"quotes\"");
        options.extra_config = "max_connections: 7".to_owned();

        let free = options.config(None);
        assert!(free.contains(r#"listen: "127.0.0.1:-1""#), "{free}");
        assert!(free.contains(r#"store_dir: "/tmp/with \"quotes\"/store" }"#), "{free}");
        assert!(free.ends_with("max_connections: 7\n"), "{free}");

        assert!(free.contains("DISCONNECT"), "{free}");

        options.sync_always = true;
        options.exports_disconnects = false;
        let fixed = options.config(Some(4222));
        assert!(!fixed.contains("DISCONNECT"), "{fixed}");
        assert!(fixed.contains(r#"listen: "127.0.0.1:4222""#), "{fixed}");
        assert!(fixed.contains("sync_interval: always"), "{fixed}");
    }

    #[test]
    fn the_port_is_read_from_the_file_that_the_server_writes() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(listening_port(dir.path()), None);

        let file = dir.path().join("nats-server_123.ports");
        fs::write(&file, "{\"nats\": [").unwrap();
        assert_eq!(listening_port(dir.path()), None);

        fs::write(&file, r#"{"nats": ["nats://127.0.0.1:41234"]}"#).unwrap();
        assert_eq!(listening_port(dir.path()), Some(41234));
    }
}
