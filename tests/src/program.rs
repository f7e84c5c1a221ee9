//! Runs the program under test as somebody at a prompt would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How a command ended, and what it said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What somebody would pipe.
    pub stdout: String,
    /// The rest.
    pub stderr: String,
}

impl Output {
    /// Its output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Checks that it succeeded.
    ///
    /// # Panics
    /// If it did not.
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// The program under test, which cargo builds along with the tests.
pub fn exe() -> PathBuf {
    if let Some(path) = std::env::var_os("CARGO_BIN_EXE_coordinator-under-test") {
        return path.into();
    }
    // A test program lies in `<target>/<profile>/deps`, the programs one above.
    let this = std::env::current_exe().expect("a test knows its own program");
    let path = this.parent().and_then(Path::parent).map(|dir| dir.join("coordinator-under-test"));
    path.filter(|path| path.is_file()).expect("`coordinator-under-test` is built with the tests of `mesh-tests`")
}

/// A command of the program under test, with nothing of our own environment that could turn it.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(exe());
    let connection = ["URL", "CREDS", "NKEY", "USER", "PASSWORD", "CA", "CERT", "KEY", "INBOX_PREFIX"];
    for name in connection.map(|name| format!("NATS_{name}")) {
        command.env_remove(name);
    }
    command.env_remove("HIVE_MESH").env_remove("HIVE_LOG");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs the program under test until it ends.
pub async fn run(args: &[&str]) -> Output {
    finish(command(args)).await
}

/// Runs a command until it ends.
pub async fn finish(mut command: Command) -> Output {
    let ended = tokio::time::timeout(LIMIT, command.output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{command:?} does not end")).expect("the program can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Ids of the processes that run for a task: commands see its id in their environment, and so do their children.
pub fn processes_of(task: &shared::TaskId) -> Vec<String> {
    let wanted = format!("HIVE_TASK={task}");
    processes(|path| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    })
}

/// Ids of the processes that have this among their arguments, or within one.
pub fn processes_called(text: &str) -> Vec<String> {
    processes(|path| {
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        arguments.windows(text.len()).any(|part| part == text.as_bytes())
    })
}

/// Ids of the children of a process, whether they run or wait to be taken note of.
pub fn children_of(pid: u32) -> Vec<String> {
    processes(|path| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        // State and parent come after the name, which stands in parentheses.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent == Some(pid)
    })
}

fn processes(are_wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let directories = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let named = directories.map(|dir| (dir.file_name().to_string_lossy().into_owned(), dir.path()));
    named.filter(|(name, path)| is_process(name) && are_wanted(path)).map(|(name, _)| name).collect()
}
