//! `coordinator alerts`: what is not as it should be, who knows of it, and what is to be quiet for a while.

use std::process::ExitCode;

use serde_json::json;
use shared::api::alerts::{Acknowledge, Alert, AlertFilter, AlertState, NewSilence, Rule, Silence};
use shared::api::{ById, List};
use shared::connect::Settings;

use super::api::{self, Api};
use super::output::{self, Json};
use super::watch::{self, Text, Watch};

/// Look at alerts, say that you know of one, and keep some quiet for a while.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what fires or may do so soon, the gravest first.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one alert.
    Get {
        /// The alert's id, such as `no-capable-agent:resize`.
        id: String,
    },
    /// Say that you know of an alert: it is not told again while it fires.
    Ack {
        /// The alert's id.
        id: String,
        #[command(flatten)]
        author: Author,
    },
    /// Keep alerts quiet for a while: those that all of the conditions hold for.
    #[command(after_help = SILENCES)]
    Silence {
        /// Conditions on the alert's labels, on its `rule` and on its `severity`.
        #[arg(required = true, value_name = "LABEL=VALUE")]
        matchers: Vec<String>,
        /// For how long, such as `2h`; four weeks at most.
        #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
        lasts: String,
        #[command(flatten)]
        author: Author,
    },
    /// End a silence.
    Unsilence {
        /// The silence's id, such as `s12`.
        id: String,
    },
    /// List the silences there are.
    Silences(Watch),
    /// List the rules, with how they are.
    Rules(Watch),
}

const SILENCES: &str = "Examples:\n  coordinator alerts silence rule=oldest-task kind=resize --for 2h --comment 'known'\n  \
                        coordinator alerts silence 'kind=video-*|audio' --for 30m\n  \
                        coordinator alerts silence 'severity!=critical' --for 8h";

/// Which alerts are listed.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those that are so far.
    #[arg(long, value_parser = ["pending", "firing"])]
    state: Option<String>,
    /// Only those of this rule.
    #[arg(long)]
    rule: Option<String>,
    /// Only those that nobody has acknowledged and nothing keeps quiet.
    #[arg(long)]
    open: bool,
}

impl Filter {
    fn request(self) -> AlertFilter {
        let state = self.state.map(|state| match state.as_str() {
            "pending" => AlertState::Pending,
            _ => AlertState::Firing,
        });
        AlertFilter { state, rule: self.rule, open: self.open }
    }
}

/// Who says it, and why.
#[derive(Debug, clap::Args)]
struct Author {
    /// Who you are.
    #[arg(long, env = "USER", value_name = "NAME", default_value = "")]
    by: String,
    /// What there is to say about it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
}

/// Carries out the subcommand.
pub async fn run(args: Args, connection: &Settings) -> anyhow::Result<ExitCode> {
    let (api, json) = (Api::connect(connection).await?, args.json);
    match args.command {
        Command::List { filter, watch } => {
            let asked = filter.request();
            watch::show(
                json,
                watch,
                async || api.ask("alert", "list", &asked).await,
                |answer| Ok(alerts(&api::read("alert.list", answer)?)),
            )
            .await
        }
        Command::Get { id } => alert(&api, "get", &ById { id }, json).await,
        Command::Ack { id, author: Author { by, comment } } => {
            alert(&api, "acknowledge", &Acknowledge { id, by, comment }, json).await
        }
        Command::Silence { matchers, lasts, author: Author { by, comment } } => {
            silence(&api, "silence", &NewSilence { matchers, lasts, by, comment }, json).await
        }
        Command::Unsilence { id } => silence(&api, "unsilence", &ById { id }, json).await,
        Command::Silences(watch) => {
            watch::show(
                json,
                watch,
                async || api.ask("alert", "silences", &json!({})).await,
                |answer| Ok(silences(&api::read("alert.silences", answer)?)),
            )
            .await
        }
        Command::Rules(watch) => {
            watch::show(
                json,
                watch,
                async || api.ask("alert", "rules", &json!({})).await,
                |answer| Ok(rules(&api::read("alert.rules", answer)?)),
            )
            .await
        }
    }
}

fn alerts(list: &List<Alert>) -> Text {
    if list.items.is_empty() {
        return Text::new(String::new(), Some("there are no such alerts".to_owned()));
    }
    let header = ["ID", "SEVERITY", "STATE", "SINCE", "KNOWN TO", "SILENCED BY", "SUMMARY"];
    output::table_text(header, list.items.iter().map(alert_row)).into()
}

fn alert_row(alert: &Alert) -> [String; 7] {
    [
        alert.id.clone(),
        alert.severity.to_string(),
        alert.state.to_string(),
        output::millis(alert.since_ms),
        alert.acknowledged.as_ref().map(|known| known.by.clone()).unwrap_or_default(),
        alert.silenced_by.join(" "),
        alert.summary.clone(),
    ]
}

async fn alert(api: &Api, verb: &str, asked: &impl serde::Serialize, json: Json) -> anyhow::Result<ExitCode> {
    let answer = api.ask("alert", verb, asked).await?;
    if json.json {
        output::json(&answer)?;
    } else {
        output::facts(&facts(&api::read("alert", answer)?))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn facts(alert: &Alert) -> Vec<(&'static str, String)> {
    let labels = alert.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    let known = alert.acknowledged.as_ref().map(|known| {
        let comment = if known.comment.is_empty() { String::new() } else { format!(": {}", known.comment) };
        format!("{} since {}{comment}", known.by, known.time)
    });
    vec![
        ("id", alert.id.clone()),
        ("rule", alert.rule.clone()),
        ("summary", alert.summary.clone()),
        ("severity", alert.severity.to_string()),
        ("state", alert.state.to_string()),
        ("since", format!("{}, {} ago", alert.since, output::millis(alert.since_ms))),
        ("fired", alert.fired.clone().unwrap_or_default()),
        ("value", format!("{}, and the line is at {}", alert.value, alert.threshold)),
        ("labels", labels.join(", ")),
        ("known to", known.unwrap_or_else(|| "nobody".to_owned())),
        ("silenced by", alert.silenced_by.join(" ")),
    ]
}

/// Makes a silence or ends one; its id goes to stdout.
async fn silence(api: &Api, verb: &str, asked: &impl serde::Serialize, json: Json) -> anyhow::Result<ExitCode> {
    let answer = api.ask("alert", verb, asked).await?;
    if json.json {
        output::json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let silence: Silence = api::read("alert.silence", answer)?;
    output::line(&output::escape(&silence.id))?;
    let (matchers, alerts) = (output::escape(&silence.matchers.join(", ")), silence.alerts);
    if verb == "silence" {
        eprintln!("{matchers}: quiet until {}; of what fires now {alerts}", output::escape(&silence.until));
    } else {
        eprintln!("{matchers}: no longer quiet");
    }
    Ok(ExitCode::SUCCESS)
}

fn silences(list: &List<Silence>) -> Text {
    if list.items.is_empty() {
        return Text::new(String::new(), Some("there are no silences".to_owned()));
    }
    let row = |silence: &Silence| {
        [
            silence.id.clone(),
            silence.matchers.join(", "),
            output::millis(silence.ends_in_ms),
            silence.alerts.to_string(),
            silence.by.clone(),
            silence.comment.clone(),
        ]
    };
    output::table_text(["ID", "ALERTS WITH", "ENDS IN", "QUIET NOW", "BY", "COMMENT"], list.items.iter().map(row))
        .into()
}

fn rules(list: &List<Rule>) -> String {
    let row = |rule: &Rule| {
        [
            rule.id.clone(),
            rule.severity.to_string(),
            rule.firing.to_string(),
            rule.pending.to_string(),
            rule.lasts.clone(),
            rule.condition.clone(),
            rule.problem.clone().unwrap_or_default(),
        ]
    };
    output::table_text(
        ["RULE", "SEVERITY", "FIRING", "PENDING", "FOR", "CONDITION", "NOTE"],
        list.items.iter().map(row),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_silence_needs_to_be_told_which_alerts() {
        let read = |line: &[&str]| Program::try_parse_from(["alerts", "silence"].iter().chain(line));

        assert!(read(&["--for", "1h"]).is_err());
        let Command::Silence { matchers, lasts, .. } =
            read(&["rule=a", "kind!=b", "--for", "2h"]).unwrap().args.command
        else {
            panic!("it is a silence")
        };
        assert_eq!((matchers, lasts.as_str()), (vec!["rule=a".to_owned(), "kind!=b".to_owned()], "2h"));
    }
}
