//! `coordinator hooks`: webhooks, by which what happens on the mesh is sent to URLs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;
use shared::HookName;
use shared::api::List;
use shared::api::filter::EventFilter;
use shared::api::hooks::{
    Hook, HookAttempt, HookChange, HookEnable, HookRedelivered, HookRedelivery, HookRef, HookSaved,
};
use shared::connect::Settings;

use super::api::{self, Api};
use super::output;

/// Look at webhooks, by which what happens on the mesh is sent to URLs, and change them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print a JSON document.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List webhooks.
    List,
    /// Show a webhook with its last attempts.
    Get {
        /// Its name.
        id: HookName,
    },
    /// Make a webhook, or change one: what is not said stays. A secret that is made goes to stdout, this once.
    #[command(after_help = EXAMPLES)]
    Set(Box<Set>),
    /// Remove a webhook, and what waits for it.
    Delete {
        /// Its name.
        id: HookName,
    },
    /// Send an event that did not happen, at once, and say what came of it.
    Test {
        /// The webhook.
        id: HookName,
    },
    /// Send events once more.
    Redeliver(Redeliver),
    /// Let a webhook send again.
    Enable {
        /// Its name.
        id: HookName,
        /// Leave out what waits for it.
        #[arg(long)]
        skip: bool,
    },
    /// Let a webhook send nothing; what happens meanwhile waits for it.
    Disable {
        /// Its name.
        id: HookName,
    },
}

const EXAMPLES: &str = "\
Examples:
  coordinator hooks set pager --url https://example.org/hook --topic agent --what lost,quarantined
  coordinator hooks set pager --rotate --overlap 2h
  coordinator hooks redeliver pager --since 2h";

#[derive(Debug, clap::Args)]
struct Set {
    /// Its name.
    id: HookName,
    /// Where events are sent.
    // Not `url`: that is where the NATS server is, for every command.
    #[arg(id = "receiver", long = "url", value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// A header that is sent along, such as `Authorization: Bearer …`; all together replace those before.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    secret: Secret,
}

/// Which events are sent. If one of them is given, all together replace what was said before.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only events of these topics: agent, task, scaling, mesh.
    #[arg(long, value_delimiter = ',')]
    topic: Vec<String>,
    /// Only events of these: lost, dead, …
    #[arg(long, value_delimiter = ',')]
    what: Vec<String>,
    /// Only events about tasks of these kinds.
    #[arg(long, value_delimiter = ',')]
    kind: Vec<String>,
    /// Only events about these agents.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    agent: Vec<String>,
    /// Only events about these tasks.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    task: Vec<String>,
    /// All events.
    #[arg(long, conflicts_with_all = ["topic", "what", "kind", "agent", "task"])]
    all: bool,
}

impl Filter {
    fn said(self) -> Option<EventFilter> {
        let Filter { topic, what, kind, agent, task, all } = self;
        let filter = EventFilter { topic, what, kind, agent, task };
        (all || filter != EventFilter::default()).then_some(filter)
    }
}

/// What is said of a secret.
#[derive(Debug, clap::Args)]
pub(super) struct Secret {
    /// File with a secret of one's own; `-` reads it from stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "rotate")]
    secret_file: Option<PathBuf>,
    /// Make a new secret.
    #[arg(long)]
    pub(super) rotate: bool,
    /// How long the old secret holds beside a new one [default: 24h].
    #[arg(long, value_name = "DURATION")]
    pub(super) overlap: Option<String>,
}

impl Secret {
    /// The secret of one's own. It does not stand on the command line, where others on the host could see it.
    pub(super) fn read(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.secret_file else { return Ok(None) };
        let read = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let secret = read.with_context(|| format!("failed to read the secret from `{}`", file.display()))?;
        Ok(Some(secret.trim().to_owned()))
    }
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// One event, by its number, at once.
    #[arg(long, value_name = "N")]
    event: Option<u64>,
    /// All events from this one on, in their order.
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// All events since then, in their order: a time, or so long ago, such as `2h`.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Redeliver {
    /// The webhook.
    id: HookName,
    #[command(flatten)]
    which: Which,
}

/// `NAME: VALUE`.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE, such as `Authorization: Bearer x`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    let as_json = args.json;
    match args.command {
        Command::List => list(&api, as_json).await?,
        Command::Get { id } => get(&api, id, as_json).await?,
        Command::Set(said) => set(&api, *said, as_json).await?,
        Command::Delete { id } => {
            let answer = api.ask("hook", "delete", &HookRef { id }).await?;
            done(&answer, as_json, "removed")?;
        }
        Command::Test { id } => return attempt(&api, "test", &HookRef { id }, as_json).await,
        Command::Redeliver(asked) => return redeliver(&api, asked, as_json).await,
        Command::Enable { id, skip } => {
            let answer = api.ask("hook", "enable", &HookEnable { id, enabled: true, skip }).await?;
            done(&answer, as_json, "enabled")?;
        }
        Command::Disable { id } => {
            let answer = api.ask("hook", "enable", &HookEnable { id, enabled: false, skip: false }).await?;
            done(&answer, as_json, "disabled")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says on stderr what was done, or prints the answer.
pub(super) fn done(answer: &serde_json::Value, as_json: bool, what: &str) -> anyhow::Result<()> {
    if as_json {
        return output::json(answer);
    }
    eprintln!("{what}");
    Ok(())
}

async fn list(api: &Api, as_json: bool) -> anyhow::Result<()> {
    let answer = api.ask("hook", "list", &json!({})).await?;
    if as_json {
        return output::json(&answer);
    }
    let hooks: List<Hook> = api::read("hook.list", answer)?;
    let header = ["WEBHOOK", "STATE", "WAITING", "DELIVERED", "EVENTS", "URL"];
    Ok(output::table(header, hooks.items.iter().map(row))?)
}

fn row(hook: &Hook) -> [String; 6] {
    [
        hook.id.to_string(),
        hook.state.as_str().to_owned(),
        hook.pending.map(|pending| pending.to_string()).unwrap_or_default(),
        hook.delivered.to_string(),
        words(&hook.filter),
        hook.url.clone(),
    ]
}

/// A filter in a few words.
fn words(filter: &EventFilter) -> String {
    let lists = [
        ("topic", &filter.topic),
        ("what", &filter.what),
        ("kind", &filter.kind),
        ("agent", &filter.agent),
        ("task", &filter.task),
    ];
    let said = lists.into_iter().filter(|(_, names)| !names.is_empty());
    let said: Vec<String> = said.map(|(name, names)| format!("{name}={}", names.join(","))).collect();
    if said.is_empty() { "all".to_owned() } else { said.join(" ") }
}

async fn get(api: &Api, id: HookName, as_json: bool) -> anyhow::Result<()> {
    let answer = api.ask("hook", "get", &HookRef { id }).await?;
    if as_json {
        return output::json(&answer);
    }
    let hook: Hook = api::read("hook.get", answer)?;
    output::facts(&facts(&hook))?;
    if hook.attempts.is_empty() {
        return Ok(());
    }
    output::line("")?;
    Ok(output::table(["TIME", "EVENT", "STATUS", "TOOK", "ERROR"], hook.attempts.iter().map(attempt_row))?)
}

fn facts(hook: &Hook) -> Vec<(&'static str, String)> {
    let known = [
        ("webhook", Some(hook.id.to_string())),
        ("url", Some(hook.url.clone())),
        ("events", Some(words(&hook.filter))),
        ("headers", Some(hook.headers.join(", ")).filter(|names| !names.is_empty())),
        ("state", Some(hook.state.as_str().to_owned())),
        ("reason", hook.reason.clone()),
        ("failing since", hook.failing_since.clone()),
        ("failures", Some(hook.failures.to_string())),
        ("delivered", Some(hook.delivered.to_string())),
        ("waiting", hook.pending.map(|pending| pending.to_string())),
        ("old secret until", hook.old_secret_until.clone()),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn attempt_row(attempt: &HookAttempt) -> [String; 5] {
    [
        attempt.time.clone(),
        attempt.event.map_or_else(|| "(test)".to_owned(), |event| event.to_string()),
        attempt.status.map(|status| status.to_string()).unwrap_or_default(),
        output::millis(attempt.duration_ms),
        attempt.error.clone().unwrap_or_default(),
    ]
}

async fn set(api: &Api, said: Set, as_json: bool) -> anyhow::Result<()> {
    let headers: BTreeMap<String, String> = said.header.into_iter().collect();
    let change = HookChange {
        url: said.url,
        filter: said.filter.said(),
        headers: (!headers.is_empty()).then_some(headers),
        secret: said.secret.read()?,
        rotate: said.secret.rotate,
        overlap: said.secret.overlap,
        ..HookChange::of(said.id)
    };
    let answer = api.ask("hook", "set", &change).await?;
    if as_json {
        return output::json(&answer);
    }
    let saved: HookSaved = api::read("hook.set", answer)?;
    show_secret(saved.secret.as_deref(), saved.hook.id.as_str())
}

/// Prints a secret to stdout, and on stderr what it is.
pub(super) fn show_secret(secret: Option<&str>, id: &str) -> anyhow::Result<()> {
    match secret {
        Some(secret) => {
            eprintln!("{id} is set; its secret, which is not shown again:");
            Ok(output::line(secret)?)
        }
        None => {
            eprintln!("{id} is set");
            Ok(())
        }
    }
}

/// Lets an attempt be made, and says what came of it.
async fn attempt(api: &Api, verb: &str, request: &impl Serialize, as_json: bool) -> anyhow::Result<ExitCode> {
    let answer = api.ask("hook", verb, request).await?;
    let attempt: HookAttempt = api::read(&format!("hook.{verb}"), answer.clone())?;
    if as_json {
        output::json(&answer)?;
    } else {
        say(&attempt);
    }
    Ok(exit_code(&attempt))
}

fn say(attempt: &HookAttempt) {
    let took = output::millis(attempt.duration_ms);
    match (&attempt.error, attempt.status) {
        (Some(error), _) => eprintln!("it was not taken after {took}: {}", output::escape(error)),
        (None, status) => eprintln!("it was taken after {took} (status {})", status.unwrap_or_default()),
    }
}

fn exit_code(attempt: &HookAttempt) -> ExitCode {
    if attempt.error.is_none() { ExitCode::SUCCESS } else { ExitCode::from(output::FAILED) }
}

async fn redeliver(api: &Api, asked: Redeliver, as_json: bool) -> anyhow::Result<ExitCode> {
    let Which { event, from, since } = asked.which;
    let request = HookRedelivery { id: asked.id, event, from, since };
    let answer = api.ask("hook", "redeliver", &request).await?;
    let redelivered: HookRedelivered = api::read("hook.redeliver", answer.clone())?;
    if as_json {
        output::json(&answer)?;
    }
    match (&redelivered.attempt, redelivered.from) {
        (Some(attempt), _) => {
            if !as_json {
                say(attempt);
            }
            return Ok(exit_code(attempt));
        }
        (None, Some(from)) if !as_json => eprintln!("events are sent from number {from} on"),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_is_written() {
        assert_eq!(header("Authorization: Bearer a:b"), Ok(("Authorization".to_owned(), "Bearer a:b".to_owned())));
        assert!(header("Authorization").is_err());
    }

    #[test]
    fn a_filter_is_told_in_a_few_words() {
        let filter = EventFilter {
            topic: vec!["agent".into(), "task".into()],
            what: vec!["lost".into()],
            ..EventFilter::default()
        };

        assert_eq!(words(&filter), "topic=agent,task what=lost");
        assert_eq!(words(&EventFilter::default()), "all");
    }
}
