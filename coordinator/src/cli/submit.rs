//! `coordinator submit`: publishes tasks, and waits for their results where that is wanted.
//!
//! Everything that can be wrong with a task is found before the first byte goes out.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shared::client::{NewTask, SubmitError, TaskResult};
use shared::connect::Settings;
use shared::{Client, Kind, Outcome, Priority, TaskId, header};

use super::output::{self, EXIT_CODES, Progress, Usage, Waiting};
use super::traced::Submission;
use super::{api, progress};
use crate::submission;

/// How many tasks are on their way to the broker at once.
const IN_FLIGHT: usize = 256;
/// How long a wait lasts that nobody limited.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Submit a task, and wait for its result where that is wanted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    task: TaskArgs,
    /// Submit so many tasks, alike but for their ids.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "id")]
    count: u32,
    /// Wait for the result: its body goes to stdout, how the task ended to stderr.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    limit: WaitTimeout,
    /// Print JSON: one document, or one a line with --count.
    #[arg(long)]
    json: bool,
}

/// How long a result is waited for.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct WaitTimeout {
    /// Give up waiting after this time, such as `30s`; the task goes on [default: wait as long as it takes].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    wait_timeout: Option<Duration>,
}

impl WaitTimeout {
    /// The limit as a span of time.
    pub fn limit(self) -> Duration {
        self.wait_timeout.unwrap_or(NO_LIMIT)
    }
}

/// A task on the command line.
#[derive(Debug, clap::Args)]
pub struct TaskArgs {
    /// What is to be done: the kind that agents have a handler for.
    kind: Kind,
    /// The task's body; `-` reads it from standard input.
    #[arg(conflicts_with = "file")]
    body: Option<String>,
    /// Read the body from a file.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The task's id; an id that is queued, running or settled is not run again [default: a new one].
    #[arg(long)]
    id: Option<TaskId>,
    /// How urgent it is: urgent, high, normal or low.
    #[arg(long, short, default_value_t = Priority::Normal)]
    priority: Priority,
    /// A header for the mesh or the handler; may be given several times.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Limit of one attempt's run, such as `30s`.
    #[arg(long, value_name = "DURATION", value_parser = checked(header::TIMEOUT))]
    timeout: Option<String>,
    /// Do not start it after this time (RFC 3339) or this long after it was accepted, such as `10m`.
    #[arg(long, value_name = "TIME", value_parser = checked(header::DEADLINE))]
    deadline: Option<String>,
    /// Labels that its agent must have, such as `gpu=a100, arch!=arm64, ssd`.
    #[arg(long, value_name = "LABELS", value_parser = checked(header::NEEDS))]
    needs: Option<String>,
    /// How often it may be started because it failed.
    #[arg(long, value_name = "N", value_parser = checked(header::MAX_ATTEMPTS))]
    max_attempts: Option<String>,
    /// Whom the work is for.
    #[arg(long, value_name = "NAME", value_parser = checked(header::TENANT))]
    tenant: Option<String>,
}

impl TaskArgs {
    /// The task, checked, with its body read.
    pub async fn read(&self) -> anyhow::Result<NewTask> {
        let task = self.task()?;
        Ok(NewTask { body: self.read_body().await?, ..task })
    }

    /// The task without its body.
    fn task(&self) -> anyhow::Result<NewTask> {
        let mut task = NewTask::new(self.kind.clone(), Bytes::new());
        task.priority = self.priority;
        if let Some(id) = &self.id {
            task.id = id.clone();
        }
        for (name, value) in self.all_headers() {
            if task.headers.get(name).is_some() {
                return Err(Usage(format!("header `{name}` is given twice")).into());
            }
            task = task.header(name, value)?;
        }
        Ok(task)
    }

    fn all_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let flags = [
            (header::TIMEOUT, &self.timeout),
            (header::DEADLINE, &self.deadline),
            (header::NEEDS, &self.needs),
            (header::MAX_ATTEMPTS, &self.max_attempts),
            (header::TENANT, &self.tenant),
        ];
        let flags = flags.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        flags.chain(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    async fn read_body(&self) -> anyhow::Result<Bytes> {
        if let Some(path) = &self.file {
            let bytes = tokio::fs::read(path).await;
            let failed = || Usage(format!("failed to read the body from `{}`", path.display()));
            return Ok(bytes.with_context(failed)?.into());
        }
        if self.body.as_deref() != Some("-") {
            return Ok(self.body.clone().unwrap_or_default().into());
        }
        let mut body = Vec::new();
        std::io::stdin()
            .lock()
            .read_to_end(&mut body)
            .context(Usage("failed to read the body from standard input".into()))?;
        Ok(body.into())
    }

    fn discards_its_result(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == header::RESULT && value == "discard")
    }
}

/// Reads `Name: value` and checks it as the coordinator would.
fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `Name: value`")?;
    submission::checked_header(name.trim(), value.trim())
}

/// Checks a flag's value as the coordinator will check the header that it becomes.
fn checked(header: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| parse_header(&format!("{header}: {text}")).map(|(_, value)| value)
}

/// Submits, prints the id, or with `--wait` the result.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    if args.wait && args.task.discards_its_result() {
        return Err(Usage("a result that is discarded cannot be waited for: use `coordinator call`".into()).into());
    }
    let task = args.task.read().await?;
    shared::trace::start("hivemesh-client");
    let client = api::connect(connection).await?;
    if args.count > 1 {
        return submit_many(&client, &task, &args).await;
    }
    let (task, sequence) = submit(&client, task).await?;
    if args.wait {
        let waiting = Waiting::start(format!("waiting for task {} of kind {}", task.id, task.kind));
        let result = progress::wait(&client, &task.id, args.limit.limit(), &waiting).await?;
        drop(waiting);
        return output::task_result(&result, args.json, true);
    }
    print_accepted(&task, sequence, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Submits one task; it comes back with its sequence.
async fn submit(client: &Client, mut task: NewTask) -> Result<(NewTask, u64), SubmitError> {
    let submission = Submission::begin("submit", &mut task);
    let stored = client.submit(&task).await;
    submission.end(stored.as_ref().err().map(ToString::to_string));
    stored.map(|sequence| (task, sequence))
}

fn print_accepted(task: &NewTask, sequence: u64, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let (id, kind, priority) = (&task.id, &task.kind, task.priority);
        return output::json_line(
            &serde_json::json!({ "id": id, "kind": kind, "priority": priority, "sequence": sequence }),
        );
    }
    Ok(output::line(task.id.as_str())?)
}

async fn submit_many(client: &Client, task: &NewTask, args: &Args) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::start("submitted", args.count.into());
    let submit_one = |_| submit(client, NewTask { id: TaskId::generate(), ..task.clone() });
    let mut accepted = stream::iter(0..args.count).map(submit_one).buffer_unordered(IN_FLIGHT);
    let mut ids = Vec::new();
    while let Some(stored) = accepted.next().await {
        let (task, sequence) = stored.with_context(|| format!("stopped after {} accepted tasks", ids.len()))?;
        if !args.wait {
            print_accepted(&task, sequence, args.json)?;
        }
        ids.push(task.id);
        progress.step();
    }
    drop(progress);
    if args.wait { wait_for_many(client, ids, args).await } else { Ok(ExitCode::SUCCESS) }
}

async fn wait_for_many(client: &Client, ids: Vec<TaskId>, args: &Args) -> anyhow::Result<ExitCode> {
    let mut progress = Progress::start("settled", ids.len() as u64);
    let deadline = tokio::time::Instant::now() + args.limit.limit();
    let wait = |id: TaskId| async move {
        client.wait(&id, deadline.saturating_duration_since(tokio::time::Instant::now())).await
    };
    let mut results = stream::iter(ids).map(wait).buffer_unordered(IN_FLIGHT);
    let mut worst = Outcome::Succeeded;
    while let Some(result) = results.try_next().await? {
        progress.step();
        worst = worst.max(result.outcome);
        print_one_of_many(&result, args.json)?;
    }
    Ok(output::outcome_code(worst))
}

fn print_one_of_many(result: &TaskResult, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return output::json_line(&output::result_json(result));
    }
    Ok(output::line(&format!("{} {}", result.id, result.outcome))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Result<Args, String> {
        let line = ["submit"].iter().chain(line);
        <Command as clap::Parser>::try_parse_from(line).map(|c| c.args).map_err(|e| e.to_string())
    }

    fn refused(line: &[&str]) -> String {
        parse(line).expect_err("it was taken")
    }

    #[test]
    fn flags_become_headers_of_the_contract() {
        let flags = ["echo", "hi", "--timeout", "30s", "--needs", "gpu=a100"];
        let headers = ["-H", "hive-memory: 1Gi", "-H", "hive-resources: gpus=1", "-H", "X-Mine: a:b"];

        let task = parse(&[&flags[..], &headers[..]].concat()).unwrap().task.task().unwrap();

        let get = |name: &str| task.headers.get(name).map(|v| v.as_str().to_owned()).unwrap_or_default();
        assert_eq!(
            [get("Hive-Timeout"), get("Hive-Needs"), get("Hive-Memory"), get("Hive-Resources"), get("X-Mine")],
            ["30s", "gpu=a100", "1Gi", "gpus=1", "a:b"]
        );
    }

    #[test]
    fn a_bad_value_is_refused_before_anything_is_sent() {
        assert!(refused(&["a.b"]).contains("is not a task kind"));
        assert!(refused(&["echo", "--id", "a b"]).contains("is not a task id"));
        assert!(refused(&["echo", "--priority", "soon"]).contains("is not a priority"));
        assert!(refused(&["echo", "--timeout", "soon"]).contains("is not a duration"));
        assert!(refused(&["echo", "-H", "Hive-Timeout: 0s"]).contains("is not a duration"));
        assert!(refused(&["echo", "-H", "Hive-Resources: gpus"]).contains("is not an amount of a resource"));
        assert!(refused(&["echo", "-H", "X: a\r\nY: b"]).contains("no line breaks"));
        assert!(refused(&["echo", "-H", "no colon"]).contains("Name: value"));
        assert!(refused(&["echo", "-H", "Nats-Msg-Id: x"]).contains("--id"));
        assert!(refused(&["echo", "-H", "Hive-Timeuot: 3s"]).contains("no header"));
        assert!(refused(&["echo", "body", "--file", "f"]).contains("cannot be used with"));
        assert!(refused(&["echo", "--count", "2", "--id", "x"]).contains("cannot be used with"));
    }

    #[test]
    fn a_header_given_twice_is_refused() {
        let args = parse(&["echo", "--timeout", "1s", "-H", "hive-timeout: 2s"]).unwrap();

        let error = args.task.task().unwrap_err();

        assert_eq!(output::exit_code(&error), output::USAGE);
    }
}
