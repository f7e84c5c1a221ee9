//! `coordinator conformance`: whether an agent, of whatever make, does what the protocol says.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use shared::connect::Settings;
use shared::{AgentId, Kind};

use super::output;
use crate::conformance::{self, Item, Kinds, Options, Report, Verdict};

/// Check an agent against docs/protocol.md, by playing the coordinator to it.
///
/// The command after `--` starts the agent. It gets a NATS server of its own, and finds in its environment where it is
/// to go: NATS_URL, HIVE_MESH, and HIVE_AGENT, its id. It is killed and started again meanwhile, and so is the server.
///
/// Without a command the agent is one that somebody else starts, on the server of --nats and a mesh without
/// coordinators, named by --mesh. What takes its process or the server is not checked then, and at the end it is
/// drained.
///
/// The agent must have three kinds for it, as `agent-worker` has them without a configuration: one that returns its
/// body, one that sleeps as long as its body says (`1500ms`), and one that fails with its body as the error.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  no check failed
  1  a check failed, or none could be made
  2  wrong usage
  3  no connection

Example:
  coordinator conformance -- python3 examples/python/agent.py conf-1")]
pub struct Args {
    /// Id of the agent [default: that of the first that says hello].
    #[arg(long, value_name = "ID")]
    agent: Option<AgentId>,
    /// The kind that returns its body.
    #[arg(long, value_name = "KIND", default_value = "echo")]
    kind: Kind,
    /// The kind that sleeps as long as its body says.
    #[arg(long, value_name = "KIND", default_value = "sleep")]
    sleep_kind: Kind,
    /// The kind that fails with its body as the error.
    #[arg(long, value_name = "KIND", default_value = "fail")]
    fail_kind: Kind,
    /// The nats-server for an agent that is started here [default: one on PATH, or a copy that is obtained once].
    #[arg(long, env = "NATS_SERVER", value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// Print a JSON document.
    #[arg(long)]
    json: bool,
    /// What starts the agent.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Makes the checks and tells what each one found.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let Args { agent, kind, sleep_kind, fail_kind, nats_server, json, command } = args;
    let kinds = Kinds { echo: kind, sleep: sleep_kind, fail: fail_kind };
    let options = Options { connection: connection.clone(), agent, command, nats_server, kinds };
    let tell = |item: &Item| {
        if !json {
            // Whoever reads us may have read enough; the exit code still tells how it went.
            let _ = print(item);
        }
    };
    let report = tokio::select! {
        report = conformance::run(options, tell) => report?,
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(output::INTERRUPTED)),
    };
    if json {
        output::json(&report)?;
    }
    let Report { passed, failed, skipped, .. } = report;
    eprintln!("{} checks: {passed} passed, {failed} failed, {skipped} skipped", report.items.len());
    Ok(if failed > 0 { ExitCode::from(output::FAILED) } else { ExitCode::SUCCESS })
}

fn print(item: &Item) -> std::io::Result<()> {
    let Item { check, verdict, promise, paragraph, found } = item;
    let mut text = format!("{:7}  {check:17}  {promise}", verdict.as_str());
    if *verdict != Verdict::Passed {
        text += &format!(" ({paragraph}): {}", output::escape(found));
    }
    output::line(&text)
}
