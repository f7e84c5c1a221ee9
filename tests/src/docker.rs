//! Docker, where there is one: the images of the mesh, built once, and compose files brought up each under a name and
//! on ports of its own.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::program::Output;

/// How long the images may take to be built: optimising whole programs takes a small machine minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// How long a command of Docker may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked whether a state has come.
const LOOK: Duration = Duration::from_millis(200);
/// How much of each log a failure tells.
const LOG_LINES: &str = "20";
/// Say that Docker must be there.
const EXPECTING: [&str; 2] = ["CI", "HIVE_EXPECT_DOCKER"];
/// Both ways to call Compose.
const COMPOSES: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];

/// Docker with the images of the mesh. Only one test has it at a time: a mesh in containers fills a small machine.
#[derive(Debug)]
pub struct Docker {
    compose: &'static [&'static str],
    _alone: MutexGuard<'static, ()>,
}

impl Docker {
    /// Builds the images, once a test program. `None` if there is no Docker here; that is said loudly, and where CI or
    /// `HIVE_EXPECT_DOCKER` is set it is a failure.
    ///
    /// # Panics
    /// If the images cannot be built, or if there is no Docker and it is expected.
    pub async fn start() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::const_new(());
        static IMAGES: OnceCell<()> = OnceCell::const_new();
        let alone = ALONE.lock().await;
        match find_compose().await {
            Ok(compose) => {
                IMAGES.get_or_init(build_images).await;
                Some(Self { compose, _alone: alone })
            }
            Err(problem) => {
                // Past the test runner, which shows what is printed by tests that fail only.
                let _ = writeln!(std::io::stderr(), "SKIPPED: nothing was tried in containers: {problem}");
                let expecting = EXPECTING.into_iter().find(|name| std::env::var_os(name).is_some());
                assert!(expecting.is_none(), "{expecting:?} is set, so this must not be: {problem}");
                None
            }
        }
    }

    /// A compose file of ours, to be brought up.
    pub fn project(&self, file: &str) -> Project<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Project {
            docker: self,
            file: root().join("compose").join(file),
            name: format!("hivetest{}n{number}", std::process::id()),
            env: Vec::new(),
        }
    }
}

/// The project's directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A port of this host that is free. It is not one of those that the system gives to outgoing connections, so it stays
/// free while what listens on it is down.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Runs a program until it ends.
///
/// # Panics
/// If it does not end in time, or does not succeed.
pub async fn run(argv: &[&str]) -> String {
    let output = finish(command(argv), LIMIT).await;
    assert_eq!(output.code, 0, "{argv:?}: {output:?}");
    output.stdout
}

fn command(argv: &[&str]) -> Command {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn finish(mut command: Command, limit: Duration) -> Output {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ended = tokio::time::timeout(limit, command.output()).await;
    match ended {
        Err(_) => panic!("{command:?} does not end"),
        Ok(Err(error)) => Output { code: -1, stdout: String::new(), stderr: error.to_string() },
        Ok(Ok(output)) => Output {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        },
    }
}

async fn find_compose() -> Result<&'static [&'static str], String> {
    let docker = finish(command(&["docker", "version", "--format", "{{.Server.Version}}"]), LIMIT).await;
    if docker.code != 0 {
        return Err(format!("Docker does not answer: {}", docker.stderr.trim()));
    }
    for compose in COMPOSES {
        if finish(command(&[compose, &["version"]].concat()), LIMIT).await.code == 0 {
            return Ok(compose);
        }
    }
    Err("there is neither `docker compose` nor `docker-compose`".to_owned())
}

/// The script lets nobody build beside it.
async fn build_images() {
    let script = root().join("compose/build-images");
    let output = finish(command(&[&script.to_string_lossy()]), BUILD_LIMIT).await;
    assert_eq!(output.code, 0, "{}: {}\n{}", script.display(), output.stdout, output.stderr);
}

/// A compose file under a name of its own. Dropping it takes it down, with what it has stored; if the test has failed,
/// the logs are told.
#[derive(Debug)]
pub struct Project<'a> {
    docker: &'a Docker,
    file: PathBuf,
    name: String,
    env: Vec<(String, String)>,
}

impl Project<'_> {
    /// Sets a variable that the file has.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a command of Compose for it.
    pub async fn compose(&self, args: &[&str]) -> Output {
        finish(self.command(args), LIMIT).await
    }

    /// Brings it up; it need not be well yet.
    ///
    /// # Panics
    /// If that fails.
    pub async fn up(&self, args: &[&str]) {
        let output = self.compose(&[&["up", "-d"], args].concat()).await;
        assert_eq!(output.code, 0, "{output:?}");
    }

    /// Takes it down, with all that it has stored.
    ///
    /// # Panics
    /// If that fails.
    pub async fn down(&self) {
        let output = self.compose(&["down", "--volumes", "--timeout", "5"]).await;
        assert_eq!(output.code, 0, "{output:?}");
    }

    /// The containers of a service that run.
    ///
    /// # Panics
    /// If Compose does not say.
    pub async fn containers(&self, service: &str) -> Vec<Container> {
        let output = self.compose(&["ps", "-q", service]).await;
        assert_eq!(output.code, 0, "{output:?}");
        let network = format!("{}_default", self.name);
        let container =
            |id: &str| Container { id: id.to_owned(), service: service.to_owned(), network: network.clone() };
        output.stdout.split_whitespace().map(container).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let file = self.file.to_string_lossy();
        let mut command = command(&[self.docker.compose, &["-p", &self.name, "-f", &file], args].concat());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // What is dropped while a runtime works cannot wait for anything but by itself.
        let run = |args: &[&str]| self.command(args).into_std().output();
        if std::thread::panicking()
            && let Ok(logs) = run(&["logs", "--no-color", "--tail", LOG_LINES])
        {
            eprintln!("the logs of {}:\n{}", self.name, String::from_utf8_lossy(&logs.stdout));
        }
        if let Err(error) = run(&["down", "--volumes", "--remove-orphans", "--timeout", "1"]) {
            eprintln!("{} is still there: {error}", self.name);
        }
    }
}

/// A container of a compose file.
#[derive(Clone, Debug)]
pub struct Container {
    id: String,
    service: String,
    network: String,
}

impl Container {
    /// The service that it is one of.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Ends it at once, as a crash would. It stays down until it is started.
    pub async fn kill(&self) {
        run(&["docker", "kill", &self.id]).await;
    }

    /// Starts it again with what it had stored.
    pub async fn start(&self) {
        run(&["docker", "start", &self.id]).await;
    }

    /// Tells it to end, and starts it again.
    pub async fn restart(&self) {
        run(&["docker", "restart", "-t", "30", &self.id]).await;
    }

    /// Takes it off its network: whoever speaks with it hears nothing any more.
    pub async fn cut_off(&self) {
        run(&["docker", "network", "disconnect", &self.network, &self.id]).await;
    }

    /// Brings it back to its network, under the name that it had there.
    pub async fn bring_back(&self) {
        run(&["docker", "network", "connect", "--alias", &self.service, &self.network, &self.id]).await;
    }

    /// Runs a program inside of it.
    pub async fn exec(&self, argv: &[&str]) -> Output {
        finish(command(&[&["docker", "exec", &self.id], argv].concat()), LIMIT).await
    }

    /// Whether its own health check finds it well: `starting`, `healthy` or `unhealthy`.
    pub async fn health(&self) -> String {
        run(&["docker", "inspect", "--format", "{{.State.Health.Status}}", &self.id]).await.trim().to_owned()
    }

    /// Waits until its own health check says this of it.
    ///
    /// # Panics
    /// If that does not come in time.
    pub async fn until(&self, health: &str) {
        let started = Instant::now();
        while self.health().await != health {
            assert!(started.elapsed() < LIMIT, "{} is {}, and not {health}", self.service, self.health().await);
            tokio::time::sleep(LOOK).await;
        }
    }
}
