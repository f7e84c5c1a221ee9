//! `coordinator call`: submits a task and prints its result, which comes straight from the coordinator.

use std::process::ExitCode;

use shared::connect::Settings;

use super::output::{self, EXIT_CODES, Waiting};
use super::submit::{TaskArgs, WaitTimeout};
use super::traced::Submission;
use super::{api, progress};

/// Submit a task and print its result, exactly as the handler gave it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    wait: WaitTimeout,
    /// Print the whole result as a JSON document.
    #[arg(long)]
    json: bool,
}

/// Prints the result's body exactly as the handler gave it; an error goes to stderr.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let mut task = args.task.read().await?;
    shared::trace::start("hivemesh-client");
    let client = api::connect(connection).await?;
    let waiting = Waiting::start(format!("waiting for task {} of kind {}", task.id, task.kind));
    let (submission, id) = (Submission::begin("call", &mut task), task.id.clone());
    let called = progress::shown(client.call(task, args.wait.limit()), &client, &id, &waiting).await;
    submission.end(called.as_ref().map_or_else(|error| Some(error.to_string()), |result| result.error.clone()));
    let result = called?;
    drop(waiting);
    output::task_result(&result, args.json, false)
}
