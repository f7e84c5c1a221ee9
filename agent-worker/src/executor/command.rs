//! Runs attempts by a program of this host. The body arrives on its standard input, its standard output is the
//! output; the body never becomes part of a command line, and no shell is involved.
//!
//! Every attempt is a process group of its own, which is killed as a whole when the attempt ends for whatever
//! reason: a program that leaves children in the background leaves them to nobody. What has left the group is found
//! by its mark: see [`strays`](super::strays).

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_nats::header::HeaderValue;
use bytes::Bytes;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use shared::header::{self, name};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};

use super::limits::{Bounds, Entry, Excess, Limits};
use super::mark::Mark;
use super::measure::used_by_ended;
use super::strays::Kin;
use super::watcher::Watch;
use super::{Assignment, Failure, GRACE, too_much_output};
use crate::logs::Log;
use shared::Used;

/// How much of the end of standard error is looked at for an error.
const STDERR_BYTES: usize = 4096;
/// How much of it an error may tell; the rest of `Hive-Error` says how the program ended.
const TAIL_BYTES: usize = header::MAX_ERROR_BYTES - 128;
/// How long to wait for the last output of a process that has left its group and is not found at once.
const ESCAPED_PATIENCE: Duration = Duration::from_secs(1);

/// A program and its arguments.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    argv: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    processes: Option<u32>,
}

/// How a run ended, as far as the agent sees it.
enum End {
    Exited(io::Result<ExitStatus>),
    TooMuchOutput(usize),
    TooMuch(Excess),
    Timeout,
    Cancelled,
}

/// The processes of an attempt. They do not outlive this.
struct Processes {
    leader: Child,
    /// What the leader has used, once it has ended.
    used: Option<Used>,
    /// The leader's number, and the group's, for as long as there can be anybody in it.
    group: Option<Pid>,
    kin: Kin,
    bounds: Bounds,
}

impl Processes {
    fn begin(leader: Child, kin: Kin, bounds: Bounds) -> Self {
        let group = leader.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        kin.led_by(group);
        Self { leader, used: None, group, kin, bounds }
    }

    /// Waits until the leader has ended.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let Self { leader, used, group, .. } = self;
        let mut wait = pin!(leader.wait());
        std::future::poll_fn(|cx| {
            // Once it is waited for, the kernel forgets what it has used. One that ends between these two lines is not
            // measured; but the runtime hears of an end later than that.
            *used = used.or_else(|| used_by_ended((*group)?));
            wait.as_mut().poll(cx)
        })
        .await
    }

    /// Ends whoever is left, now that the leader has ended.
    async fn end(&mut self) {
        self.signal(Signal::SIGKILL);
        self.bounds.kill();
        self.kin.end(self.group.take()).await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.group {
            // There may be nobody left, which is as good.
            let _ = killpg(leader, signal);
        }
    }

    /// What all of them have used. The kernel's account of the whole attempt is the best there is.
    fn used(&self, watch: &Watch) -> Used {
        let (whole, parts) = (self.bounds.used(), watch.used(self.used.unwrap_or_default()));
        Used {
            cpu: whole.cpu.or(parts.cpu),
            memory_peak: whole.memory_peak.or(parts.memory_peak),
            io_bytes: whole.io_bytes.or(parts.io_bytes),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Command {
    /// A handler that starts `program`, which sees `argv` and, besides what tells it about its task, only the
    /// variables named in `env`, as they are in the agent's own environment now. It may have so many processes and
    /// threads at a time, if that is limited.
    pub fn new(program: PathBuf, argv: Vec<String>, env: &[String], processes: Option<u32>) -> Self {
        let environment = env.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
        Self { program, argv, environment, processes }
    }

    pub(super) async fn run(&self, assignment: &mut Assignment) -> Result<Bytes, Failure> {
        let mut processes = self
            .start(assignment)
            .map_err(|error| Failure::Failed(format!("failed to start `{}`: {error}", self.program.display())))?;
        let mut watch = Watch::new(processes.kin.lookout(), processes.bounds.watched());
        let body = std::mem::take(&mut assignment.work.body);
        let limit = assignment.output_limit;
        let (log, mut output) = (assignment.log.clone(), Vec::new());
        let end = {
            let leader = &mut processes.leader;
            let (stdin, stdout, stderr) = (leader.stdin.take(), leader.stdout.take(), leader.stderr.take());
            let pipes = pin!(async {
                tokio::try_join!(write(stdin, body), read_up_to(stdout, limit, &mut output), read_log(stderr, &log))
                    .map(|_| ())
            });
            supervise(&mut processes, &mut watch, pipes, assignment).await
        };
        log.close_line();
        assignment.used = processes.used(&watch);
        verdict(end, processes.bounds.excess(), assignment, output, &log.tail(STDERR_BYTES))
    }

    fn start(&self, assignment: &Assignment) -> io::Result<Processes> {
        let kin = assignment.strays.begin();
        let bounds = assignment.enforcement.begin(Limits::of(&assignment.reserved, self.processes));
        let leader = self.spawn(assignment, kin.mark(), bounds.entry()?)?;
        Ok(Processes::begin(leader, kin, bounds))
    }

    fn spawn(&self, assignment: &Assignment, mark: Mark, entry: Entry) -> io::Result<Child> {
        let order = &assignment.order;
        let mut command = tokio::process::Command::new(&self.program);
        command
            .arg0(&self.argv[0])
            .args(&self.argv[1..])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("HIVE_TASK", order.task.as_str())
            .env("HIVE_KIND", order.kind.as_str())
            .env("HIVE_ATTEMPT", order.attempt.to_string())
            .env("HIVE_AGENT", assignment.agent.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for (variable, name) in [("TRACEPARENT", name::TRACEPARENT), ("TRACESTATE", name::TRACESTATE)] {
            if let Some(trace) = assignment.work.headers.get(name).map(HeaderValue::as_str) {
                command.env(variable, trace);
            }
        }
        prepare(&mut command, mark, entry);
        command.spawn()
    }
}

/// Puts the program within its bounds, marks it, and lets the kernel kill it when the agent dies without a chance to do
/// it, by SIGKILL for example.
///
/// The kernel watches the thread that forks, so attempts run on threads that last as long as the runtime.
#[allow(unsafe_code)]
fn prepare(command: &mut tokio::process::Command, mark: Mark, entry: Entry) {
    let agent = nix::unistd::getpid();
    let before_exec = move || {
        entry.enter()?;
        // Where it cannot be marked, the work is done all the same; the agent has warned of it.
        let _ = mark.put_on_this_process();
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The agent may have died before the kernel was asked.
        if nix::unistd::getppid() == agent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes system calls alone,
    // `write`, `setrlimit`, `prctl` and `getppid`, and allocates nothing: its error values are plain numbers.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Waits for the program's end, or brings it about.
async fn supervise(
    processes: &mut Processes,
    watch: &mut Watch,
    mut pipes: std::pin::Pin<&mut impl Future<Output = Result<(), usize>>>,
    assignment: &mut Assignment,
) -> End {
    let mut closed = false;
    let mut timeout = pin!(tokio::time::sleep(assignment.timeout));
    let mut excess = pin!(watch.excess());
    let end = loop {
        tokio::select! {
            status = processes.wait() => break End::Exited(status),
            result = &mut pipes, if !closed => match result {
                Ok(()) => closed = true,
                Err(bytes) => break End::TooMuchOutput(bytes),
            },
            excess = &mut excess => break End::TooMuch(excess),
            () = &mut timeout => break End::Timeout,
            () = assignment.stop.wanted() => break End::Cancelled,
        }
    };
    match end {
        End::Exited(status) => {
            processes.end().await;
            // Nobody is left to say anything, unless it is yet to be found: that is not waited for.
            if !closed && let Ok(Err(bytes)) = tokio::time::timeout(ESCAPED_PATIENCE, pipes).await {
                return End::TooMuchOutput(bytes);
            }
            return End::Exited(status);
        }
        End::TooMuchOutput(_) | End::TooMuch(_) => {}
        End::Timeout | End::Cancelled => {
            processes.signal(Signal::SIGTERM);
            let mut grace = pin!(tokio::time::sleep(GRACE));
            loop {
                tokio::select! {
                    _ = processes.wait() => break,
                    // It may still have to say something before it can end.
                    _ = &mut pipes, if !closed => closed = true,
                    () = &mut grace => break,
                }
            }
        }
    }
    processes.signal(Signal::SIGKILL);
    let _ = processes.wait().await;
    processes.end().await;
    end
}

/// What became of it; `refused` is what the kernel did not let it have.
fn verdict(
    end: End,
    refused: Option<Excess>,
    assignment: &Assignment,
    output: Vec<u8>,
    tail: &[u8],
) -> Result<Bytes, Failure> {
    let with_tail = |what: String| match last_words(tail) {
        words if words.is_empty() => what,
        words => format!("{what}: {words}"),
    };
    match end {
        End::Exited(Ok(status)) if status.success() => Ok(output.into()),
        End::Exited(Ok(status)) => {
            let how = how_it_ended(status);
            let what = if let Some(excess) = refused { format!("{excess}; {how}") } else { how };
            Err(Failure::Failed(with_tail(what)))
        }
        End::Exited(Err(error)) => Err(Failure::Failed(format!("failed to wait for the program: {error}"))),
        End::TooMuch(excess) => Err(Failure::Failed(with_tail(excess.to_string()))),
        End::TooMuchOutput(bytes) => Err(Failure::Failed(too_much_output(bytes, assignment.output_limit))),
        End::Timeout => match Failure::timeout(assignment.timeout) {
            Failure::Timeout(what) => Err(Failure::Timeout(with_tail(what))),
            other => Err(other),
        },
        End::Cancelled => Err(Failure::Cancelled),
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// The end of what a program said on standard error, on one line.
fn last_words(tail: &[u8]) -> String {
    let text = header::clean(&String::from_utf8_lossy(tail), usize::MAX);
    if text.len() <= TAIL_BYTES {
        return text;
    }
    let start = (text.len() - TAIL_BYTES..).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    format!("…{}", text[start..].trim_start())
}

async fn write(stdin: Option<ChildStdin>, body: Bytes) -> Result<(), usize> {
    if let Some(mut stdin) = stdin {
        // A program need not read its input: that the pipe is closed says nothing about its success.
        let _ = stdin.write_all(&body).await;
    }
    Ok(())
}

/// Reads to the end; the error is how much there was when it became more than `limit`.
async fn read_up_to(from: Option<impl AsyncRead + Unpin>, limit: usize, output: &mut Vec<u8>) -> Result<(), usize> {
    let Some(mut from) = from else { return Ok(()) };
    loop {
        output.reserve(16 * 1024);
        match from.read_buf(output).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) if output.len() > limit => return Err(output.len()),
            Ok(_) => {}
        }
    }
}

/// Reads to the end what belongs into the log.
async fn read_log(from: Option<impl AsyncRead + Unpin>, log: &Log) -> Result<(), usize> {
    let Some(mut from) = from else { return Ok(()) };
    let mut bytes = Vec::with_capacity(STDERR_BYTES);
    loop {
        bytes.clear();
        match from.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => log.write(&bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use shared::Resources;
    use shared::message::Needed;
    use shared::task::AttemptOutcome::{Cancelled, Failed, Succeeded, Timeout};

    use super::super::Run;
    use super::super::control_groups::ControlGroups;
    use super::super::limits::{Enforcement, Setting};
    use super::super::strays::Strays;
    use super::super::tests::{Attempt, OUTPUT_LIMIT, run};
    use super::*;

    #[tokio::test]
    async fn the_body_is_the_input_and_the_output_is_the_result() {
        let ended = run(shell("tr a-z A-Z"), "hello").await;

        assert_eq!((ended.outcome, &*ended.output), (Succeeded, &b"HELLO"[..]));
    }

    #[tokio::test]
    async fn a_mebibyte_goes_through_without_a_deadlock() {
        let body = Bytes::from(vec![b'x'; 1 << 20]);

        let ended = run(shell("cat"), body.clone()).await;

        assert_eq!(ended.outcome, Succeeded);
        assert!(ended.output == body);
    }

    #[tokio::test]
    async fn a_program_need_not_read_its_input() {
        let ended = run(shell("echo done"), vec![b'x'; 1 << 20]).await;

        assert_eq!((ended.outcome, &*ended.output), (Succeeded, &b"done\n"[..]));
    }

    #[tokio::test]
    async fn a_program_sees_its_task_and_the_variables_named_and_nothing_else() {
        let env = |names: &[String]| {
            Run::Command(Command::new(Path::new("/usr/bin/env").to_owned(), vec!["env".into()], names, None))
        };
        let mut attempt = Attempt::of(env(&["PATH".into(), "NO_SUCH_VARIABLE".into()]), "");
        attempt.work.headers.insert("traceparent", "00-ab-cd-01");
        attempt.work.headers.insert("tracestate", "vendor=1");

        let ended = attempt.start().end().await;

        let output = String::from_utf8_lossy(&ended.output).into_owned();
        let mut lines: Vec<&str> = output.lines().collect();
        lines.sort_unstable();
        let path = format!("PATH={}", std::env::var("PATH").unwrap());
        let own = ["HIVE_AGENT=ada", "HIVE_ATTEMPT=1", "HIVE_KIND=k", "HIVE_TASK=t-1"];
        assert_eq!(lines, [&own[..], &[&path, "TRACEPARENT=00-ab-cd-01", "TRACESTATE=vendor=1"]].concat());
    }

    #[tokio::test]
    async fn the_exit_code_and_the_end_of_standard_error_are_the_error() {
        let ended = run(shell("seq 1 3000 >&2; printf 'disk\\nfull' >&2; exit 3"), "").await;

        assert_eq!((ended.outcome, ended.output.len()), (Failed, 0));
        assert!(ended.error.starts_with("exit code 3: …"), "{}", ended.error);
        assert!(ended.error.ends_with("2999 3000 disk full"), "{}", ended.error);
        assert!(ended.error.len() <= header::MAX_ERROR_BYTES);
    }

    #[tokio::test]
    async fn how_far_a_program_is_is_no_part_of_its_error() {
        let ended =
            run(shell("echo 'reading' >&2; echo '::progress 0.5 half' >&2; printf '::progress 0.9' >&2; exit 1"), "");

        assert_eq!(ended.await.error, "exit code 1: reading");
    }

    #[tokio::test]
    async fn a_program_killed_by_a_signal_has_failed() {
        let ended = run(shell("kill -9 $$"), "").await;

        assert_eq!((ended.outcome, ended.error.as_str()), (Failed, "killed by signal 9"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_has_failed() {
        let missing = Command::new("/no/such/program".into(), vec!["program".into()], &[], None);

        let ended = run(Run::Command(missing), "").await;

        assert_eq!(ended.outcome, Failed);
        assert!(ended.error.starts_with("failed to start `/no/such/program`"), "{}", ended.error);
    }

    #[tokio::test]
    async fn output_without_end_is_cut_off_and_refused() {
        let ended = run(shell("yes"), "").await;

        assert_eq!((ended.outcome, ended.output.len()), (Failed, 0));
        assert!(ended.error.contains(&format!("more than the {OUTPUT_LIMIT}")), "{}", ended.error);
    }

    #[tokio::test]
    async fn a_timeout_ends_the_program_and_its_children() {
        let files = tempfile::tempdir().unwrap();
        let mut attempt = Attempt::of(shell(&with_child(files.path(), "sleep 1000 & sleep 1000")), "");
        attempt.timeout = Duration::from_millis(300);

        let ended = attempt.start().end().await;

        assert_eq!(ended.outcome, Timeout);
        assert!(ended.error.contains("300ms"), "{}", ended.error);
        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn a_program_that_ignores_sigterm_is_killed_after_the_grace() {
        let mut attempt = Attempt::of(shell("trap '' TERM; while :; do sleep 1000; done"), "");
        attempt.timeout = Duration::from_millis(100);

        let ended = attempt.start().end().await;

        assert_eq!(ended.outcome, Timeout);
        assert!(ended.run >= GRACE, "{:?}", ended.run);
    }

    #[tokio::test]
    async fn a_cancelled_program_may_clean_up() {
        let files = tempfile::tempdir().unwrap();
        let mark = files.path().join("cleaned");
        let script =
            format!("trap 'touch {}; exit' TERM; echo >{0}.ready; while :; do sleep 0.01; done", mark.display());
        let mut started = Attempt::of(shell(&script), "").start();
        until(|| files.path().join("cleaned.ready").exists()).await;

        started.stop();

        assert_eq!(started.end().await.outcome, Cancelled);
        assert!(mark.exists());
    }

    #[tokio::test]
    async fn children_left_in_the_background_do_not_outlive_the_attempt() {
        let files = tempfile::tempdir().unwrap();

        let ended = run(shell(&with_child(files.path(), "sleep 1000 & echo started")), "").await;

        assert_eq!((ended.outcome, &*ended.output), (Succeeded, &b"started\n"[..]));
        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn an_executor_that_is_dropped_takes_its_programs_with_it() {
        let files = tempfile::tempdir().unwrap();
        let started = Attempt::of(shell(&with_child(files.path(), "sleep 1000 & sleep 1000")), "").start();
        until(|| pids(files.path()).len() == 1).await;

        drop(started);

        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn what_has_left_the_group_does_not_outlive_the_attempt() {
        let files = tempfile::tempdir().unwrap();

        let ended = run(shell(&format!("{}; echo done", escape(files.path()))), "").await;

        assert_eq!((ended.outcome, &*ended.output), (Succeeded, &b"done\n"[..]));
        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn what_has_left_the_group_of_an_attempt_that_goes_on_is_spared() {
        let files = tempfile::tempdir().unwrap();
        let strays = Strays::of_a_guest();
        let mut longer = Attempt::of(shell(&format!("{}; exec sleep 1000", escape(files.path()))), "");
        longer.strays = strays.clone();
        let mut longer = longer.start();
        until(|| pids(files.path()).len() == 1).await;

        let other = tempfile::tempdir().unwrap();
        let mut shorter = Attempt::of(shell(&escape(other.path())), "");
        shorter.strays = strays;
        let mut shorter = shorter.start();
        shorter.end().await;
        all_gone(other.path()).await;

        assert!(is_there(files.path()));
        longer.stop();
        assert_eq!(longer.end().await.outcome, Cancelled);
        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn an_executor_that_is_dropped_takes_what_has_left_the_group_with_it() {
        let files = tempfile::tempdir().unwrap();
        let started = Attempt::of(shell(&format!("{}; exec sleep 1000", escape(files.path()))), "").start();
        until(|| pids(files.path()).len() == 1).await;

        drop(started);

        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn a_program_that_takes_more_memory_than_is_reserved_is_ended() {
        let mut attempt = Attempt::of(shell(&hold(200, 600.0)), "");
        attempt.reserved = memory(64);

        let ended = attempt.start().end().await;

        assert_eq!(ended.outcome, Failed);
        assert!(ended.error.starts_with("out of memory: "), "{}", ended.error);
        assert!(ended.error.ends_with("the limit is 64.0 MiB"), "{}", ended.error);
        assert!(ended.used.memory_peak > Some(64 << 20), "{:?}", ended.used);
    }

    #[tokio::test]
    async fn the_memory_of_all_its_processes_counts() {
        let files = tempfile::tempdir().unwrap();
        let child = escape_to(files.path(), &hold(80, 600.0));
        let mut attempt = Attempt::of(shell(&format!("{child}; {}", hold(80, 600.0))), "");
        attempt.reserved = memory(120);

        let ended = attempt.start().end().await;

        assert!(ended.error.starts_with("out of memory: "), "{}", ended.error);
        all_gone(files.path()).await;
    }

    #[tokio::test]
    async fn a_program_within_its_memory_is_left_alone() {
        let mut attempt = Attempt::of(shell(&hold(30, 0.3)), "");
        attempt.reserved = memory(64);

        assert_eq!(attempt.start().end().await.outcome, Succeeded);
    }

    #[tokio::test]
    async fn where_nothing_keeps_to_limits_they_do_not_hold() {
        let mut attempt = Attempt::of(shell(&hold(99, 1.0)), "");
        attempt.reserved = memory(64);
        attempt.enforcement = Enforcement::of_a_guest(Setting::Off);

        let ended = attempt.start().end().await;

        assert_eq!(ended.outcome, Succeeded);
        assert!(ended.used.memory_peak > Some(99 << 20), "{:?}", ended.used);
    }

    #[tokio::test]
    async fn a_program_with_more_processes_than_it_may_have_is_ended() {
        let many = "for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait";

        let ended = run(shell_with(many, Some(6)), "").await;

        assert_eq!(ended.outcome, Failed);
        assert!(ended.error.starts_with("too many processes: "), "{}", ended.error);
        assert!(ended.error.ends_with("the limit is 6"), "{}", ended.error);
    }

    #[tokio::test]
    async fn what_a_program_uses_is_measured_with_its_children() {
        let burn = "perl -e '1 while (times)[0] < 0.2'";

        let used = run(shell(&format!("{burn}; {}; exit 0", hold(80, 1.0))), "").await.used;

        assert!(used.cpu.unwrap() >= Duration::from_millis(200), "{used:?}");
        assert!(used.memory_peak > Some(80 << 20), "{used:?}");
        assert!(used.io_bytes.is_some(), "{used:?}");
    }

    #[tokio::test]
    async fn a_program_that_takes_no_time_is_measured_too() {
        let used = run(shell("true"), "").await.used;

        assert!(used.cpu.is_some_and(|cpu| cpu < Duration::from_secs(1)), "{used:?}");
    }

    /// On a made-up tree, where the program itself writes what the kernel would.
    #[tokio::test]
    async fn a_program_enters_its_control_group_and_the_kernels_verdict_is_told() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let groups = ControlGroups::prepare(tree.path(), "0::/").unwrap();
        let script = format!(
            "cd {}/hive-*-0 && cat cgroup.procs memory.max >../seen && echo oom_kill 1 >memory.events && kill -9 $$",
            tree.path().display()
        );
        let mut attempt = Attempt::of(shell(&script), "");
        (attempt.reserved, attempt.enforcement) = (memory(64), Arc::new(Enforcement::with_groups(groups)));

        let ended = attempt.start().end().await;

        assert_eq!(std::fs::read_to_string(tree.path().join("seen")).unwrap(), format!("0{}", 64 << 20));
        assert_eq!(ended.outcome, Failed);
        assert!(ended.error.starts_with("out of memory: "), "{}", ended.error);
        assert!(ended.error.ends_with("; killed by signal 9"), "{}", ended.error);
    }

    #[tokio::test]
    #[ignore = "measures: what it costs to find out that an attempt has left nothing behind"]
    async fn five_hundred_commands_one_after_another() {
        let commands = async |strays: Arc<Strays>| {
            let program = Command::new("/bin/true".into(), vec!["true".into()], &[], None);
            let mut attempt = Attempt::of(Run::Command(program), "");
            attempt.strays = strays;
            let mut started = attempt.start();
            started.end().await;
            let mut times = Vec::new();
            for _ in 0..500 {
                let began = std::time::Instant::now();
                started.start_again();
                assert_eq!(started.end().await.outcome, Succeeded);
                times.push(began.elapsed());
            }
            times.sort_unstable();
            (times[250], times[495])
        };

        for _ in 0..3 {
            eprintln!("as a guest, median and 99 %: {:?}", commands(Strays::of_a_guest()).await);
        }
        for _ in 0..3 {
            eprintln!("alone, median and 99 %: {:?}", commands(Strays::of_a_process()).await);
        }
    }

    /// Starts a process that shares neither group nor session nor environment with its command, is nobody's child,
    /// does not end when it is asked to, and writes its id into the directory.
    fn escape(directory: &Path) -> String {
        format!(
            "$(env -i setsid -f sh -c 'trap \"\" HUP INT TERM; echo $$ >{0}/new && mv {0}/new {0}/group; \
             exec sleep 1000 >/dev/null 2>&1')",
            directory.display()
        )
    }

    /// The same for a program that takes memory.
    fn escape_to(directory: &Path, program: &str) -> String {
        format!(
            "$(setsid -f sh -c \"echo \\$\\$ >{0}/new && mv {0}/new {0}/group; exec {program} >/dev/null 2>&1\")",
            directory.display()
        )
    }

    fn is_there(directory: &Path) -> bool {
        let [group] = pids(directory)[..] else { panic!("the program has not begun") };
        killpg(Pid::from_raw(group), None).is_ok()
    }

    /// A shell that first writes the id of its process group's first process into the directory.
    fn with_child(directory: &Path, script: &str) -> String {
        format!("echo $$ >{0}/new && mv {0}/new {0}/group; {script}", directory.display())
    }

    fn pids(directory: &Path) -> Vec<i32> {
        let text = std::fs::read_to_string(directory.join("group")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    async fn all_gone(directory: &Path) {
        until(|| !is_there(directory)).await;
    }

    async fn until(condition: impl Fn() -> bool) {
        for _ in 0..500 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come about in 5 s");
    }

    fn shell(script: &str) -> Run {
        shell_with(script, None)
    }

    fn shell_with(script: &str, processes: Option<u32>) -> Run {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        Run::Command(Command::new("/bin/sh".into(), argv, &["PATH".to_owned()], processes))
    }

    /// A program that takes so much memory and keeps it for some seconds.
    fn hold(mebibytes: usize, seconds: f64) -> String {
        // What depends on its arguments is not made beforehand. There is nothing in it that a shell would change.
        format!(
            "perl -e '@x = map {{ q(x) x (1048576 + @ARGV) }} 1..{mebibytes}; select(undef, undef, undef, {seconds})'"
        )
    }

    fn memory(mebibytes: u64) -> Needed {
        let resources = Resources { memory_bytes: mebibytes << 20, ..Resources::ZERO };
        Needed { resources, ..Needed::default() }
    }
}
