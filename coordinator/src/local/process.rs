//! Child processes that end with us: started on a [`leash`], with their output in a log file, and ended
//! when their handle is dropped.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::leash;

/// How long a process may take to end by itself after its handle was dropped.
const GRACE_AFTER_DROP: Duration = Duration::from_secs(2);

/// Say which NATS server we use; those of a local mesh have one of their own, that asks for no credentials.
const CONNECTION_VARIABLES: [&str; 10] = [
    "NATS_URL",
    "NATS_CREDS",
    "NATS_NKEY",
    "NATS_USER",
    "NATS_PASSWORD",
    "NATS_CA",
    "NATS_CERT",
    "NATS_KEY",
    "NATS_INBOX_PREFIX",
    "HIVE_MESH",
];

/// Starts processes through an executable that has the hidden subcommand `leash`.
#[derive(Clone, Debug)]
pub struct Launcher {
    exe: PathBuf,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// How it is called in messages.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables that it sees besides ours; those of a NATS connection it does not see.
    pub env: Vec<(String, String)>,
    /// The file that its output is appended to.
    pub log: PathBuf,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its log file cannot be written.
    #[error("failed to open the log file `{}`", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The system does not start it.
    #[error("failed to start {name} by `{}`", exe.display())]
    Start {
        /// What was to be started.
        name: String,
        /// The executable that has the leash.
        exe: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl Launcher {
    /// Starts through the given executable, which must know `leash` (and `serve` and `agent`, for a mesh).
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self { exe: exe.into() }
    }

    /// Starts through the program that runs now.
    pub fn current() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
    }

    /// The executable.
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// Starts a process, in a process group of its own: what is typed at the terminal reaches only us.
    pub fn spawn(&self, program: Program) -> Result<Process, SpawnError> {
        let (log, outputs) =
            Log::open(&program.log).map_err(|source| SpawnError::Log { path: program.log.clone(), source })?;
        let command = self.command(&program, outputs);
        match spawn_from_lasting_thread(command).and_then(|child| Process::watch(child, &program.name, log)) {
            Ok(process) => Ok(process),
            Err(source) => Err(SpawnError::Start { name: program.name, exe: self.exe.clone(), source }),
        }
    }

    fn command(&self, program: &Program, [output, errors]: [File; 2]) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg("leash").arg("--").arg(&program.path).args(&program.args);
        for name in CONNECTION_VARIABLES {
            command.env_remove(name);
        }
        command.envs(program.env.iter().map(|(name, value)| (name, value)));
        command.env(leash::PARENT_VARIABLE, std::process::id().to_string());
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        command
    }
}

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The leash is tied to the thread that starts the child, and a thread of a runtime may end at any time. So
/// one thread starts them all; it waits for orders until the process ends.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Whoever gave the order waits for the reply; if not, nobody wants the child.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts processes is gone");
    orders.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// A child process. Dropping the handle ends it: SIGTERM, and SIGKILL two seconds later.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: Log,
    target: Arc<Target>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// The part of a log file that one process wrote.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    start: u64,
}

impl Log {
    /// Opens the file for a new process, twice: for its output and for its errors.
    fn open(path: &Path) -> io::Result<(Self, [File; 2])> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let log = Self { path: path.to_owned(), start: file.metadata()?.len() };
        Ok((log, [file.try_clone()?, file]))
    }

    /// Its last lines.
    pub(super) fn tail(&self, lines: usize) -> String {
        self.read_tail(lines).unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }

    fn read_tail(&self, lines: usize) -> io::Result<String> {
        /// No more than this of the file's end is looked at.
        const LIMIT: u64 = 64 << 10;
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.start.max(length.saturating_sub(LIMIT))))?;
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].join("\n"))
    }
}

/// What signals are sent to, until the process is reaped and its pid may belong to another.
#[derive(Debug)]
struct Target {
    pid: Pid,
    reaped: Mutex<bool>,
}

impl Target {
    fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            // It is there until it is reaped, so there is nothing that could be done about an error.
            let _ = kill(self.pid, signal);
        }
    }

    fn reap(&self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            wait_without_reaping(self.pid);
            let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = child.try_wait()? {
                *reaped = true;
                return Ok(status);
            }
        }
    }
}

/// Returns when the process has ended: until somebody reaps it, its pid stays its own.
#[cfg(target_os = "linux")]
fn wait_without_reaping(pid: Pid) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
}

/// Not everywhere can that be waited for; then it is looked for now and again.
#[cfg(not(target_os = "linux"))]
fn wait_without_reaping(_pid: Pid) {
    std::thread::sleep(Duration::from_millis(20));
}

impl Process {
    fn watch(mut child: Child, name: &str, log: Log) -> io::Result<Self> {
        let target = Arc::new(Target { pid: Pid::from_raw(child.id().cast_signed()), reaped: Mutex::new(false) });
        let (exited, exit) = watch::channel(None);
        let process = Self { name: name.to_owned(), log, target: target.clone(), exit };
        std::thread::Builder::new().name(format!("wait {name}")).spawn(move || {
            if let Ok(status) = target.reap(&mut child) {
                exited.send_replace(Some(status));
            }
        })?;
        Ok(process)
    }

    /// How it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.target.pid.as_raw().cast_unsigned()
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log.path
    }

    /// The part of it that is its own.
    pub(super) fn own_log(&self) -> &Log {
        &self.log
    }

    /// The end of what it has written since it was started.
    pub fn log_tail(&self, lines: usize) -> String {
        self.log.tail(lines)
    }

    /// How it ended, if it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// Waits until it has ended. Does not borrow the handle, so it can be awaited beside other uses.
    pub fn wait(&self) -> impl Future<Output = ExitStatus> + Send + use<> {
        let mut exit = self.exit.clone();
        async move {
            match exit.wait_for(Option::is_some).await.map(|status| *status) {
                Ok(Some(status)) => status,
                // Only if waiting for our own child fails: then it is not there.
                _ => ExitStatus::default(),
            }
        }
    }

    /// Asks it to end (SIGTERM) and, if it has not within `grace`, ends it (SIGKILL).
    /// Returns whether it ended by itself.
    pub async fn terminate(&self, grace: Duration) -> bool {
        self.ask_to_end();
        if tokio::time::timeout(grace, self.wait()).await.is_ok() {
            return true;
        }
        self.kill9();
        self.wait().await;
        false
    }

    /// Asks it to end (SIGTERM), and waits for nothing.
    pub fn ask_to_end(&self) {
        self.target.signal(Signal::SIGTERM);
        // A paused process would not hear it.
        self.target.signal(Signal::SIGCONT);
    }

    /// Ends it at once, as a crash would (SIGKILL). It may take a moment until it is gone: see [`Self::wait`].
    pub fn kill9(&self) {
        self.target.signal(Signal::SIGKILL);
    }

    /// Halts it, so that it hangs (SIGSTOP).
    pub fn pause(&self) {
        self.target.signal(Signal::SIGSTOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.target.signal(Signal::SIGCONT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        self.ask_to_end();
        let (target, exit) = (self.target.clone(), self.exit.clone());
        // Dropped from async code, so nothing may wait here. Should we end before the thread gets to it, the
        // leash does it.
        std::thread::spawn(move || {
            let deadline = Instant::now() + GRACE_AFTER_DROP;
            while exit.borrow().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            target.signal(Signal::SIGKILL);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_starts_where_its_process_did() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "old\n").unwrap();

        let (log, _) = Log::open(&path).unwrap();
        assert_eq!(log.tail(10), "");

        fs::write(&path, "old\n1\n2\n3\n").unwrap();
        assert_eq!(log.tail(10), "1\n2\n3");
        assert_eq!(log.tail(2), "2\n3");
    }

    /// A script stands in for the executable that has the leash.
    fn launcher(dir: &Path) -> Launcher {
        use std::os::unix::fs::PermissionsExt as _;
        let exe = dir.join("leash.sh");
        fs::write(&exe, "#!/bin/sh\nshift 2\nexec \"$@\"\n").unwrap();
        fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
        Launcher::new(exe)
    }

    fn shell(dir: &Path, script: &str) -> Process {
        let program = Program {
            name: "shell".to_owned(),
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            log: dir.join("shell.log"),
        };
        launcher(dir).spawn(program).unwrap()
    }

    #[tokio::test]
    async fn a_process_that_does_not_listen_is_ended_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let deaf = shell(dir.path(), "trap '' TERM; echo ready; while :; do sleep 0.05; done");
        while deaf.log_tail(1) != "ready" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        assert!(!deaf.terminate(Duration::from_millis(100)).await);
        assert!(!deaf.is_running());
    }

    #[tokio::test]
    async fn a_paused_process_still_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "while :; do sleep 0.05; done");
        process.pause();

        assert!(process.terminate(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn dropping_the_handle_ends_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "while :; do sleep 0.05; done");
        let ended = process.wait();
        drop(process);

        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    }

    #[tokio::test]
    async fn what_it_says_and_how_it_ended_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(dir.path(), "echo out; echo err >&2; exit 3");

        assert_eq!(process.wait().await.code(), Some(3));
        assert_eq!(process.log_tail(10), "out\nerr");
    }
}
