//! `coordinator doctor`: which promise the broker can keep, and what is set wrong.
//!
//! `facts` asks the servers, `findings` judges what they say.

mod facts;
mod findings;

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use shared::connect::Settings;

use super::output::{self, Waiting};

/// Tell what the NATS server promises about accepted tasks, and what is set wrong.
///
/// It changes nothing, but leaves one event (`mesh.examined`) by which the clocks are compared. What only the server's
/// monitoring shows is read with --monitor, or over NATS where the account may ask `$SYS.REQ.SERVER.PING.VARZ`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  nothing failed
  1  something failed: accepted tasks may get lost, or none are accepted")]
pub struct Args {
    /// Address of a NATS server's monitoring (its `http` setting), such as http://127.0.0.1:8222; of several servers,
    /// separated by commas.
    #[arg(long, value_name = "URL", env = "NATS_MONITOR", value_delimiter = ',')]
    monitor: Vec<String>,
    /// Print a JSON document.
    #[arg(long)]
    json: bool,
}

/// How bad something is. Ordered: the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It could not be seen from here.
    Unverified,
    /// It works, but not as well or as safely as it could.
    Warn,
    /// A promise of the mesh does not hold, or the mesh does not work.
    Fail,
}

impl Level {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Unverified => "unverified",
            Level::Warn => "warn",
            Level::Fail => "fail",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do instead; empty if nothing is to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// All findings, as `--json` prints them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The worst level there is.
    pub worst: Level,
    /// What each check found.
    pub items: Vec<Finding>,
}

/// Looks, judges, and tells.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let waiting = Waiting::start(format!("examining the mesh at {}", connection.url_without_secrets()));
    let facts = facts::gather(connection, &args.monitor).await;
    drop(waiting);
    let items = findings::judge(&facts);
    let worst = items.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let report = Report { worst, items };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if worst == Level::Fail { ExitCode::from(output::FAILED) } else { ExitCode::SUCCESS })
}

fn print(report: &Report) -> std::io::Result<()> {
    let width = report.items.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for Finding { check, level, found, advice } in &report.items {
        output::line(&format!("{:10}  {check:width$}  {}", level.as_str(), output::escape(found)))?;
        if !advice.is_empty() {
            output::line(&format!("{:10}  {:width$}  -> {}", "", "", output::escape(advice)))?;
        }
    }
    let count = |level| report.items.iter().filter(|finding| finding.level == level).count();
    let (fail, warn, unverified) = (count(Level::Fail), count(Level::Warn), count(Level::Unverified));
    eprintln!("{} checks: {fail} failed, {warn} with a warning, {unverified} unverified", report.items.len());
    Ok(())
}
