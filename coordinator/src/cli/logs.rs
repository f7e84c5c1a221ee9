//! `coordinator tasks logs`: what a task's attempt has written, and with `--follow` what it writes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use shared::TaskId;
use shared::api::TaskState;
use shared::api::logs::{LogsRequest, TaskLog};
use shared::connect::Settings;

use super::api::{self, Api};
use super::output::{self, Waiting};

/// How often a task that does not run is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long each request waits for something new.
const WAIT: &str = "3s";
/// How long nobody may answer, while another coordinator takes over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which task's log.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The task's id.
    id: TaskId,
    /// Go on with what is written from now on, until the task is settled.
    #[arg(long, short)]
    follow: bool,
    /// Print it as it is: otherwise a terminal gets control characters escaped.
    #[arg(long)]
    raw: bool,
}

/// Prints the log to stdout; what there is to say of it goes to stderr.
pub(super) async fn run(args: &Args, as_json: bool, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    if !args.follow {
        return once(args, as_json, &api).await;
    }
    tokio::select! {
        done = follow(args, as_json, &api) => done,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    }
}

async fn once(args: &Args, as_json: bool, api: &Api) -> anyhow::Result<ExitCode> {
    let asked = LogsRequest { id: args.id.to_string(), ..LogsRequest::default() };
    let answer = api.ask("task", "logs", &asked).await?;
    let log: TaskLog = api::read("task.logs", answer.clone())?;
    if as_json {
        output::json(&answer)?;
    } else {
        tell_missing(&log);
        output::log(&log.text, args.raw)?;
        if let Some(note) = &log.note {
            eprintln!("task {}: {}", log.task, output::escape(note));
        }
    }
    let is_gone = log.ended && log.note.is_some();
    Ok(if is_gone { ExitCode::from(output::FAILED) } else { ExitCode::SUCCESS })
}

async fn follow(args: &Args, as_json: bool, api: &Api) -> anyhow::Result<ExitCode> {
    let mut asked = LogsRequest { id: args.id.to_string(), wait: Some(WAIT.to_owned()), ..LogsRequest::default() };
    let waiting = Waiting::start(format!("following task {}", args.id));
    let mut heard: Option<Instant> = None;
    loop {
        let answer = match api.ask("task", "logs", &asked).await {
            Ok(answer) => answer,
            Err(error) if is_passing(&error) && heard.is_some_and(|heard| heard.elapsed() < PATIENCE) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        heard = Some(Instant::now());
        let log: TaskLog = api::read("task.logs", answer.clone())?;
        let is_news = !log.text.is_empty() || log.ended;
        waiting.aside(|| match as_json {
            true if is_news => output::json_line(&answer),
            true => Ok(()),
            false => print(args, &asked, &log),
        })?;
        if let Some(progress) = &log.progress {
            waiting.progress(progress);
        }
        if log.ended {
            return Ok(ExitCode::SUCCESS);
        }
        (asked.attempt, asked.after) = (Some(log.attempt), log.next);
        if log.state != TaskState::Running || log.note.is_some() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether another coordinator may answer in a moment.
fn is_passing(error: &api::Error) -> bool {
    [output::UNREACHABLE, output::TIMED_OUT].contains(&error.exit_code())
}

fn print(args: &Args, asked: &LogsRequest, log: &TaskLog) -> anyhow::Result<()> {
    if log.attempt > 1 && asked.attempt != Some(log.attempt) {
        let agent = log.agent.as_deref().unwrap_or_default();
        eprintln!("attempt {} on {}", log.attempt, output::escape(agent));
    }
    tell_missing(log);
    output::log(&log.text, args.raw)?;
    if log.ended {
        let outcome = log.outcome.map_or("settled", |outcome| outcome.as_str());
        let note = log.note.as_ref().map(|note| format!(": {}", output::escape(note))).unwrap_or_default();
        eprintln!("task {} {outcome}{note}", log.task);
    }
    Ok(())
}

/// Says where something is missing.
fn tell_missing(log: &TaskLog) {
    if log.dropped > 0 {
        eprintln!("{} bytes before this are not kept", log.dropped);
    }
}
