//! Checks an agent against `docs/protocol.md`: plays the coordinator to it, and tells what it does otherwise than it
//! says there.
//!
//! [`checks`] is the table of what is checked, one module beside it a group. [`candidate`] is the agent as the checks
//! see it, over [`ear`], which hears what it says and answers what cannot wait; [`order`] is what it is given; [`host`]
//! is the broker and the process, where we start them.

mod beats;
mod candidate;
mod checks;
mod ear;
mod ends;
mod hello;
mod host;
mod leaving;
mod logs;
mod noise;
mod order;
mod orders;
mod reconnect;
mod stopping;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use shared::connect::Settings;
use shared::{AgentId, Kind};

use candidate::Candidate;
use checks::{CHECKS, Check};

/// Where the paragraphs are that checks are about.
const DOCUMENT: &str = "docs/protocol.md";

/// Which agent is to be checked, and how it is come by.
#[derive(Debug)]
pub(crate) struct Options {
    /// The broker and the mesh where the agent is, if it is not started by us.
    pub(crate) connection: Settings,
    /// The agent; the first that says hello if `None`.
    pub(crate) agent: Option<AgentId>,
    /// What starts the agent; empty if somebody else does.
    pub(crate) command: Vec<OsString>,
    /// The nats-server for an agent that we start.
    pub(crate) nats_server: Option<PathBuf>,
    /// What the agent is asked to do.
    pub(crate) kinds: Kinds,
}

/// The kinds by which an agent is checked, as its handlers are called.
#[derive(Clone, Debug)]
pub(crate) struct Kinds {
    /// Returns its body.
    pub(crate) echo: Kind,
    /// Takes as long as its body says, such as `1500ms`.
    pub(crate) sleep: Kind,
    /// Fails with its body as the error.
    pub(crate) fail: Kind,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The agent does what it should.
    Passed,
    /// It does not.
    Failed,
    /// It could not be found out.
    Skipped,
}

impl Verdict {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Item {
    /// Its name.
    pub(crate) check: &'static str,
    /// How it went.
    pub(crate) verdict: Verdict,
    /// What an agent does that passes.
    pub(crate) promise: &'static str,
    /// The paragraph that says so.
    pub(crate) paragraph: String,
    /// What the agent did instead, or why it could not be found out.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) found: String,
}

/// What all checks found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The agent, if one was heard.
    pub(crate) agent: Option<AgentId>,
    /// How many checks passed.
    pub(crate) passed: usize,
    /// How many failed.
    pub(crate) failed: usize,
    /// Of how many it could not be found out.
    pub(crate) skipped: usize,
    /// Each of them.
    pub(crate) items: Vec<Item>,
}

/// Why a check did not pass.
#[derive(Debug)]
enum Trouble {
    /// The agent does otherwise than it should.
    Failed(String),
    /// It could not be found out.
    Skipped(String),
    /// We cannot go on.
    Stuck(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Trouble::Stuck(error)
    }
}

/// How a check ends.
type Checked = Result<(), Trouble>;

fn require(holds: bool, otherwise: impl Into<String>) -> Checked {
    if holds { Ok(()) } else { Err(Trouble::Failed(otherwise.into())) }
}

/// Makes all checks; `tell` is told what each one found. The logs of what was started stay if one failed, or if this
/// does.
pub(crate) async fn run(options: Options, tell: impl FnMut(&Item)) -> anyhow::Result<Report> {
    let data = tempfile::Builder::new().prefix("hivemesh-conformance-").tempdir();
    let data = data.context("failed to make a directory for logs")?;
    let starts_agent = !options.command.is_empty();
    let report = match Candidate::meet(options, data.path()).await {
        Ok(met) => check(met, tell).await,
        Err(error) => Err(error),
    };
    if starts_agent && !report.as_ref().is_ok_and(|report| report.failed == 0) {
        eprintln!("logs are in {}", data.keep().display());
    }
    report
}

async fn check(met: Result<Candidate, String>, mut tell: impl FnMut(&Item)) -> anyhow::Result<Report> {
    let mut items: Vec<Item> = Vec::with_capacity(CHECKS.len());
    let mut add = |items: &mut Vec<Item>, item: Item| {
        tell(&item);
        items.push(item);
    };
    let agent = match met {
        Ok(mut candidate) => {
            for check in CHECKS {
                let checked = examine(&mut candidate, check, &items).await;
                add(&mut items, judged(check, checked)?);
            }
            Some(candidate.part().await)
        }
        Err(nobody) => {
            for (place, check) in CHECKS.iter().enumerate() {
                let nothing = if place == 0 { Trouble::Failed(nobody.clone()) } else { stands_on(CHECKS[0].name) };
                add(&mut items, judged(check, Err(nothing))?);
            }
            None
        }
    };
    let count = |verdict| items.iter().filter(|item| item.verdict == verdict).count();
    let (passed, failed, skipped) = (count(Verdict::Passed), count(Verdict::Failed), count(Verdict::Skipped));
    Ok(Report { agent, passed, failed, skipped, items })
}

async fn examine(candidate: &mut Candidate, check: &Check, before: &[Item]) -> Checked {
    let passed = |name: &str| before.iter().any(|item| item.check == name && item.verdict == Verdict::Passed);
    if let Some(need) = check.needs.iter().copied().find(|need| !passed(need)) {
        return Err(stands_on(need));
    }
    if check.needs_process && !candidate.is_ours() {
        return Err(Trouble::Skipped("it takes an agent that is started here: give its command after `--`".to_owned()));
    }
    let checked = match candidate.prepare().await {
        Ok(()) => (check.run)(candidate).await,
        Err(trouble) => Err(trouble),
    };
    candidate.conclude(check, checked).await
}

fn stands_on(check: &str) -> Trouble {
    Trouble::Skipped(format!("it stands on `{check}`"))
}

fn judged(check: &Check, checked: Checked) -> anyhow::Result<Item> {
    let (verdict, found) = match checked {
        Ok(()) => (Verdict::Passed, String::new()),
        Err(Trouble::Failed(found)) => (Verdict::Failed, found),
        Err(Trouble::Skipped(why)) => (Verdict::Skipped, why),
        Err(Trouble::Stuck(error)) => return Err(error.context(format!("check `{}` cannot be made", check.name))),
    };
    let paragraph = format!("{DOCUMENT}#{}", check.section);
    Ok(Item { check: check.name, verdict, promise: check.promise, paragraph, found })
}
