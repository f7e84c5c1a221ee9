//! `coordinator dead`: the tasks that failed for good, and what becomes of them.

use std::process::ExitCode;

use shared::Kind;
use shared::api::{DeadFilter, DeadLetter, DeadLetterContent, DeadPage, DeadSelection, Discarded, Replays};
use shared::connect::Settings;

use super::api::{self, Api};
use super::output::{self, Json};
use super::watch::{self, Text, Watch};

/// Look at dead letters (tasks that failed for good, or could not be run), submit them again, or discard them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters, the newest first.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one dead letter: why it is there, its headers and its body.
    Show {
        /// The dead letter's number, or the id of its task.
        #[arg(value_parser = crate::dead::named)]
        id: DeadSelection,
    },
    /// Submit dead letters again, each as a new task whose id goes to stdout, and remove them.
    Replay(Selection),
    /// Remove dead letters for good. The recorded outcomes of their tasks stay.
    Discard(Selection),
}

/// Which dead letters are listed.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those of this kind.
    #[arg(long)]
    kind: Option<Kind>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Only those older than the one with this number.
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
}

/// Which dead letters something is done to.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// Numbers of dead letters, or ids of their tasks.
    #[arg(value_name = "ID", value_parser = crate::dead::named)]
    ids: Vec<DeadSelection>,
    /// All of this kind.
    #[arg(long)]
    kind: Option<Kind>,
    /// All there are.
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn requests(self) -> Vec<DeadSelection> {
        if self.ids.is_empty() {
            vec![DeadSelection { kind: self.kind, all: self.all, ..DeadSelection::default() }]
        } else {
            self.ids
        }
    }
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let api = Api::connect(connection).await?;
    match args.command {
        Command::List { filter, watch } => list(&api, filter, watch, args.json).await,
        Command::Show { id } => show(&api, &id, args.json.json).await,
        Command::Replay(selection) => replay(&api, selection.requests(), args.json.json).await,
        Command::Discard(selection) => discard(&api, selection.requests(), args.json.json).await,
    }
}

async fn list(api: &Api, filter: Filter, watch: Watch, json: Json) -> anyhow::Result<ExitCode> {
    let Filter { kind, limit, before } = filter;
    let asked = DeadFilter { kind, limit: Some(limit), before };
    watch::show(
        json,
        watch,
        async || api.ask("dead", "list", &asked).await,
        |answer| {
            let page: DeadPage = api::read("dead.list", answer)?;
            let header = ["ID", "TASK", "KIND", "OUTCOME", "ATTEMPTS", "AGE", "SIZE", "ERROR"];
            let shown = page.items.len();
            let note = page.next.map(|next| format!("{shown} of {} shown; go on with --before {next}", page.total));
            Ok(Text::new(output::table_text(header, page.items.iter().map(row)), note))
        },
    )
    .await
}

fn row(letter: &DeadLetter) -> [String; 8] {
    [
        letter.id.to_string(),
        letter.task.clone(),
        letter.kind.clone(),
        letter.outcome.map(|outcome| outcome.to_string()).unwrap_or_default(),
        letter.attempts.to_string(),
        output::millis(letter.age_ms),
        letter.body_bytes.to_string(),
        letter.error.clone().unwrap_or_default(),
    ]
}

async fn show(api: &Api, id: &DeadSelection, as_json: bool) -> anyhow::Result<ExitCode> {
    let answer = api.ask("dead", "get", id).await?;
    if as_json {
        output::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let content: DeadLetterContent = api::read("dead.get", answer)?;
    output::facts(&facts(&content.letter))?;
    output::line("\nheaders")?;
    for (name, values) in &content.headers {
        for value in values {
            output::line(&format!("  {}", output::escape(&format!("{name}: {value}"))))?;
        }
    }
    let (encoding, body) = match (&content.body, &content.body_base64) {
        (Some(text), _) => ("", text),
        (None, Some(base64)) => (" in base64", base64),
        (None, None) => ("", &String::new()),
    };
    output::line(&format!("\nbody, {} bytes{encoding}", content.letter.body_bytes))?;
    output::body(body.as_bytes())?;
    output::line("")?;
    if content.truncated {
        eprintln!("not all is shown; `nats stream get` reads message {} whole", content.letter.id);
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(letter: &DeadLetter) -> Vec<(&'static str, String)> {
    let known = [
        ("id", Some(letter.id.to_string())),
        ("task", Some(letter.task.clone())),
        ("kind", Some(letter.kind.clone())),
        ("outcome", letter.outcome.map(|outcome| outcome.to_string())),
        ("reason", letter.error.clone()),
        ("attempts", Some(letter.attempts.to_string())),
        ("agent", letter.agent.clone()),
        ("buried", Some(format!("{}, {} ago", letter.time, output::millis(letter.age_ms)))),
        ("submitted to", letter.subject.clone()),
        ("replay of", letter.replay_of.clone()),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Does all that can be done, and fails if something could not.
async fn replay(api: &Api, requests: Vec<DeadSelection>, as_json: bool) -> anyhow::Result<ExitCode> {
    let (mut all_done, mut seen) = (true, 0);
    for request in requests {
        let mut request = Some(request);
        while let Some(asked) = request.take() {
            let Some(answer) = unless_refused(api.ask("dead", "replay", &asked).await)? else {
                all_done = false;
                break;
            };
            let replays: Replays = api::read("dead.replay", answer)?;
            print_replays(&replays, as_json)?;
            seen += replays.items.len() + replays.refused.len();
            all_done &= replays.refused.is_empty();
            request = replays.next;
        }
    }
    if all_done && seen == 0 {
        eprintln!("there are no such dead letters");
    }
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::from(output::FAILED) })
}

fn print_replays(replays: &Replays, as_json: bool) -> anyhow::Result<()> {
    for replay in &replays.items {
        if as_json {
            output::json_line(replay)?;
        } else {
            output::line(replay.new_task.as_str())?;
            let done = if replay.repeated { "was replayed before" } else { "is replayed" };
            let old = output::escape(&replay.task);
            eprintln!("dead letter {} of task {old} {done} as task {}", replay.id, replay.new_task);
        }
    }
    for refusal in &replays.refused {
        if as_json {
            output::json_line(refusal)?;
        } else {
            eprintln!("error: {}", output::escape(&refusal.error));
        }
    }
    Ok(())
}

async fn discard(api: &Api, requests: Vec<DeadSelection>, as_json: bool) -> anyhow::Result<ExitCode> {
    let (mut discarded, mut all_done) = (0, true);
    for request in requests {
        match unless_refused(api.ask("dead", "discard", &request).await)? {
            Some(answer) => discarded += api::read::<Discarded>("dead.discard", answer)?.discarded,
            None => all_done = false,
        }
    }
    if as_json {
        output::json(&Discarded { discarded })?;
    } else {
        eprintln!("{discarded} discarded");
    }
    Ok(if all_done { ExitCode::SUCCESS } else { ExitCode::from(output::FAILED) })
}

/// Tells a refusal of one dead letter, so that those named after it have their turn. A mesh that cannot be asked is
/// an error.
fn unless_refused(answer: Result<serde_json::Value, api::Error>) -> Result<Option<serde_json::Value>, api::Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(api::Error::Refused(refusal)) if refusal.code < 500 => {
            eprintln!("error: {}", output::escape(&refusal.error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn selected(line: &[&str]) -> Result<Vec<DeadSelection>, String> {
        let line = ["dead", "discard"].iter().chain(line);
        match <Program as clap::Parser>::try_parse_from(line).map_err(|e| e.to_string())?.args.command {
            Command::Discard(selection) => Ok(selection.requests()),
            other => panic!("not discard but {other:?}"),
        }
    }

    #[test]
    fn dead_letters_are_named_by_number_by_task_by_kind_or_all_together() {
        let (id, task) = (Some(17), Some("order-1".parse().unwrap()));

        assert_eq!(
            selected(&["17", "order-1"]).unwrap(),
            [DeadSelection { id, ..Default::default() }, DeadSelection { task, ..Default::default() }]
        );
        assert!(selected(&["--all"]).unwrap()[0].all);
        assert_eq!(selected(&["--kind", "echo"]).unwrap()[0].kind, Some("echo".parse().unwrap()));
    }

    #[test]
    fn nothing_is_discarded_unless_it_is_said_what() {
        assert!(selected(&[]).is_err());
        assert!(selected(&["17", "--all"]).is_err());
        assert!(selected(&["--kind", "echo", "--all"]).is_err());
        assert!(selected(&["a b"]).unwrap_err().contains("is not a task id"));
    }
}
