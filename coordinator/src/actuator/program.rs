//! Runs a program until it ends, and keeps the last of what it says.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

/// How much of what it has said is looked at, and told.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 8;

/// What is to be run, without any shell.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) argv: Vec<String>,
    /// What it sees of its environment, and nothing else.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) timeout: Duration,
}

/// Why a program did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It cannot be run.
    #[error("failed to run `{program}`: is it there, and may this user run it?")]
    Run {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// It says that it failed.
    #[error("`{program}` failed ({status}){}", last_words(.said))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        said: String,
    },
    /// It takes too long.
    #[error("`{program}` had not ended after {timeout:?} and was killed{}", last_words(.said))]
    TimedOut {
        /// The program.
        program: String,
        /// How long it had.
        timeout: Duration,
        /// The last of what it said.
        said: String,
    },
}

fn last_words(text: &str) -> String {
    if text.is_empty() { ", and said nothing".to_owned() } else { format!("; the last it said: {text}") }
}

impl Call {
    /// A call of a program, that sees of our environment what [`inherited`](super::surroundings::inherited) says.
    pub(super) fn new(argv: Vec<String>, timeout: Duration) -> Self {
        let env = super::surroundings::inherited().map(|(name, value)| (name.into(), value)).collect();
        Self { argv, env, timeout }
    }

    /// It sees this as well.
    pub(super) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// It sees these variables as we do, those that are set.
    pub(super) fn pass<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let set = names.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        set.fold(self, |call, (name, value)| call.env(name, value))
    }

    /// Runs it to its end. What it says goes to a file and not through a pipe: so what it leaves running may go on writing,
    /// and is not waited for.
    pub(super) async fn run(&self) -> Result<(), Error> {
        let program = self.argv.first().cloned().unwrap_or_default();
        let failed = |source| Error::Run { program: program.clone(), source };
        let output = tempfile::tempfile().map_err(failed)?;
        let mut child = self.command(&output).and_then(|mut command| command.spawn()).map_err(failed)?;
        let group = child.id();
        match tokio::time::timeout(self.timeout, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::Failed { program, status, said: tail(output) }),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => {
                if let Some(group) = group {
                    // Its own group: what it has started is to end with it.
                    let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
                }
                Err(Error::TimedOut { program, timeout: self.timeout, said: tail(output) })
            }
        }
    }

    fn command(&self, output: &File) -> io::Result<Command> {
        let [program, args @ ..] = self.argv.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut command = Command::new(PathBuf::from(program));
        command.args(args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        command.process_group(0).kill_on_drop(true);
        Ok(command)
    }
}

/// The last lines of what was said, in one.
pub(super) fn tail(file: File) -> String {
    read_tail(file).unwrap_or_default()
}

fn read_tail(mut file: File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ");
    Ok(shared::header::clean(&last, TAIL_BYTES as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Call {
        Call::new(["/bin/sh", "-c", script].map(str::to_owned).to_vec(), timeout)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_fails_says_why() {
        let Err(Error::Failed { status, said, .. }) = shell("echo one; echo 'no room' >&2; exit 3", LONG).run().await
        else {
            panic!("it does not fail")
        };

        assert_eq!((status.code(), said.as_str()), (Some(3), "one | no room"));
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());

        let outcome = shell(&script, Duration::from_millis(500)).run().await;

        assert!(matches!(outcome, Err(Error::TimedOut { .. })), "{outcome:?}");
        let started: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        // It is gone, or waits for its new parent to take note.
        let runs = || std::fs::read_to_string(format!("/proc/{started}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
        let deadline = std::time::Instant::now() + LONG;
        while runs() {
            assert!(std::time::Instant::now() < deadline, "{started} still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_goes_on_running_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("(while [ -d {} ]; do sleep 0.05; done) & exit 0", dir.path().display());

        shell(&script, LONG).run().await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_by_its_name() {
        let outcome = Call::new(vec!["/nowhere/scale".to_owned()], LONG).run().await;

        assert!(matches!(outcome, Err(Error::Run { program, .. }) if program == "/nowhere/scale"));
    }
}
