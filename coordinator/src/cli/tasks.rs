//! `coordinator tasks`: what tasks there are and how far they are.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use shared::api::list::{Page, Span};
use shared::api::submit::TaskResult;
use shared::api::{Ahead, ById, Chosen, Explanation, Task, TaskState};
use shared::connect::Settings;
use shared::{Kind, TaskId};

use super::api::{self, Api};
use super::output::{self, EXIT_CODES, Json, Waiting};
use super::submit::WaitTimeout;
use super::watch::{self, Watch};
use super::{logs, progress};

/// How often `why --watch` asks.
const WATCH: Duration = Duration::from_millis(500);

/// Look at tasks, wait for them, cancel them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List tasks: those that the coordinator has in hand, unless a state says otherwise.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one task, and why it waits.
    Get {
        /// The task's id.
        id: TaskId,
    },
    /// Say why a task waits, or why its agent got it.
    Why {
        /// The task's id.
        id: TaskId,
        /// Say it again whenever it changes, until the task is settled.
        #[arg(long)]
        watch: bool,
    },
    /// Wait for a task's result: its body goes to stdout, how the task ended to stderr.
    #[command(after_help = EXIT_CODES)]
    Wait {
        /// The task's id.
        id: TaskId,
        #[command(flatten)]
        limit: WaitTimeout,
    },
    /// Show a task's result, without waiting for it: its body goes to stdout, how the task ended to stderr.
    #[command(after_help = EXIT_CODES)]
    Result {
        /// The task's id.
        id: TaskId,
    },
    /// Show what a task's attempt has written to its standard error, and how far it is.
    Logs(logs::Args),
    /// Cancel a task: it is not started any more, or stopped where it runs.
    Cancel {
        /// The task's id.
        id: TaskId,
    },
}

/// Which tasks are listed; also the request.
#[derive(Debug, Serialize, clap::Args)]
struct Filter {
    /// Only tasks of this kind.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    /// Only tasks that are so far: `queued` are those in the stream, `settled` those whose results are kept.
    #[arg(long, value_parser = ["queued", "waiting", "running", "settled"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// Only tasks that were accepted so long ago or longer, such as `10m`; if they are settled, with results so old.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    older_than: Option<Span>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    #[serde(skip)]
    limit: usize,
    /// Go on with what comes after, as the list before says it.
    #[arg(long, value_name = "CURSOR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List { filter, watch } => list(&filter, watch, args.json, connection).await,
        Command::Get { id } => show("get", &id, args.json.json, connection).await,
        Command::Why { id, watch } => why(&id, watch, args.json.json, connection).await,
        Command::Logs(which) => logs::run(&which, args.json.json, connection).await,
        Command::Cancel { id } => show("cancel", &id, args.json.json, connection).await,
        Command::Result { id } => result(&id, args.json.json, connection).await,
        Command::Wait { id, limit } => wait(&id, limit, args.json.json, connection).await,
    }
}

async fn list(filter: &Filter, watch: Watch, json: Json, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    watch::show(
        json,
        watch,
        async || api.list("task", filter, filter.limit.max(1)).await,
        |answer| {
            let tasks: Page<Task> = api::read("task.list", answer)?;
            let header = ["ID", "KIND", "PRIORITY", "STATE", "AGE", "ATTEMPTS", "AGENT", "REASON"];
            if let Some(next) = &tasks.next {
                eprintln!("{} shown; go on with --cursor {next}", tasks.items.len());
            }
            Ok(output::table_text(header, tasks.items.iter().map(row)))
        },
    )
    .await
}

fn row(task: &Task) -> [String; 8] {
    [
        task.id.to_string(),
        task.kind.to_string(),
        task.priority.map(|p| p.to_string()).unwrap_or_default(),
        state(task),
        task.age_ms.map(output::millis).unwrap_or_default(),
        task.attempts.to_string(),
        task.agent.clone().unwrap_or_default(),
        task.reason.clone().unwrap_or_default(),
    ]
}

/// How far the task is, and once it is settled how it ended.
fn state(task: &Task) -> String {
    task.outcome.map_or_else(|| task.state.to_string(), |outcome| outcome.to_string())
}

async fn show(verb: &str, id: &TaskId, as_json: bool, connection: &Settings) -> anyhow::Result<ExitCode> {
    let answer = Api::connect(connection).await?.ask("task", verb, &ById { id: id.to_string() }).await?;
    if as_json {
        output::json(&answer)?;
    } else {
        output::facts(&facts(&api::read("task", answer)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(task: &Task) -> Vec<(&'static str, String)> {
    let known = [
        ("id", Some(task.id.to_string())),
        ("kind", Some(task.kind.to_string())),
        ("priority", task.priority.map(|p| p.to_string())),
        ("state", Some(task.state.to_string())),
        ("outcome", task.outcome.map(|o| o.to_string())),
        ("attempts", Some(task.attempts.to_string())),
        ("agent", task.agent.clone()),
        ("age", task.age_ms.map(output::millis)),
        ("queued for", task.queued_ms.map(output::millis)),
        ("ran for", task.run_ms.map(output::millis)),
        ("progress", task.progress.as_ref().map(progress::describe)),
        ("reason", task.reason.clone()),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

async fn why(id: &TaskId, watch: bool, as_json: bool, connection: &Settings) -> anyhow::Result<ExitCode> {
    let (api, by_id) = (Api::connect(connection).await?, ById { id: id.to_string() });
    let mut said = None;
    loop {
        let answer = api.ask("task", "why", &by_id).await?;
        let explanation: Explanation = api::read("task.why", answer.clone())?;
        if said.as_ref().is_none_or(|said| differs(said, &explanation)) {
            if as_json {
                output::json(&answer)?;
            } else {
                output::facts(&reasons(&explanation))?;
            }
        }
        said = Some(explanation);
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        let task: Task = api::read("task.get", api.ask("task", "get", &by_id).await?)?;
        if task.state == TaskState::Settled {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// Whether something else is said, apart from the time that passes.
fn differs(one: &Explanation, other: &Explanation) -> bool {
    let timeless = |e: &Explanation| Explanation { starts_in_ms: None, ..e.clone() };
    timeless(one) != timeless(other)
}

pub(super) fn reasons(why: &Explanation) -> Vec<(&'static str, String)> {
    let mut lines = vec![("why", why.summary.clone())];
    lines.extend(
        why.filters.iter().map(|step| ("filter", format!("{}: {} agents {}", step.filter, step.removed, step.detail))),
    );
    lines.extend(why.nearest.iter().map(|near| ("nearest", format!("{} {}", near.agent, near.detail))));
    lines.extend(why.limit.iter().map(|limit| ("limit", limit.clone())));
    let ahead = |ahead: &Ahead| {
        format!(
            "{} that ask for the same, {} of its kind that ask for something else",
            ahead.in_line, ahead.in_other_lines
        )
    };
    lines.extend(why.ahead.iter().map(|before| ("ahead of it", ahead(before))));
    lines.extend(why.starts_in_ms.map(|ms| ("starts in about", output::millis(ms))));
    lines.extend(why.chosen.iter().flat_map(chosen));
    lines
}

fn chosen(chosen: &Chosen) -> Vec<(&'static str, String)> {
    let slot = if chosen.had_free_slot { "a free slot" } else { "room in its queue" };
    let mut lines = vec![
        ("agent", format!("{}, which had {slot}", chosen.agent)),
        ("chosen by", format!("{}: {}", chosen.strategy, chosen.score_means)),
        ("score", format!("{:.3}", chosen.score)),
    ];
    lines.extend(chosen.runner_up.iter().map(|next| ("next best", format!("{} with {:.3}", next.agent, next.score))));
    lines
}

async fn result(id: &TaskId, as_json: bool, connection: &Settings) -> anyhow::Result<ExitCode> {
    let answer = Api::connect(connection).await?.ask("task", "result", &ById { id: id.to_string() }).await?;
    let result: TaskResult = api::read("task.result", answer.clone())?;
    if as_json {
        output::json(&answer)?;
        return Ok(output::outcome_code(result.outcome));
    }
    let decode = |text: &String| data_encoding::BASE64.decode(text.as_bytes());
    let bytes = result.body_base64.as_ref().map(decode).transpose().context("the body cannot be read")?;
    output::body(&bytes.unwrap_or_else(|| result.body.clone().unwrap_or_default().into_bytes()))?;
    let reason = result.error.map(|error| format!(": {}", output::escape(&error))).unwrap_or_default();
    eprintln!("task {} {}{reason}", result.id, result.outcome);
    Ok(output::outcome_code(result.outcome))
}

async fn wait(id: &TaskId, limit: WaitTimeout, as_json: bool, connection: &Settings) -> anyhow::Result<ExitCode> {
    let client = api::connect(connection).await?;
    let waiting = Waiting::start(format!("waiting for task {id}"));
    let result = progress::wait(&client, id, limit.limit(), &waiting).await?;
    drop(waiting);
    output::task_result(&result, as_json, true)
}
