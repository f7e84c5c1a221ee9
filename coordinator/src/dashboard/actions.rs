//! What can be done from a page. Whatever takes work or tasks away is asked about first; each is done by a form, and
//! leads back to where one sees what came of it. Nothing is done by following a link.
//!
//! To add a deed: a variant of [`Deed`], how it is told in [`Deed::manner`], what it does in [`perform`], and when it
//! is offered in one of the `for_…` functions.

use askama::Template;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::Value;
use shared::api::{AgentState, Apply, DeadSelection, Refusal, TaskState};

use super::Dashboard;
use super::asked::Form;
use super::frame::{Frame, Section};
use super::problem::{Problem, show};
use super::show::several;
use super::table::encoded;
use crate::recommend;
use crate::settings::{self, Scope};

/// Something that can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// An agent takes no new work, and leaves when it has finished.
    Drain,
    /// An agent gets no work.
    Quarantine,
    /// It gets work again.
    Readmit,
    /// Nothing of a kind is started.
    Pause,
    /// It is again.
    Resume,
    /// What waits of a kind is ended.
    Purge,
    /// A task is ended.
    Cancel,
    /// A dead letter, or all of them, are submitted again.
    Replay,
    /// A dead letter, or all of them, are thrown away.
    Discard,
    /// All dead letters of a kind are submitted again.
    ReplayKind,
    /// All dead letters of a kind are thrown away.
    DiscardKind,
    /// What is recommended for a kind is set.
    Apply,
}

/// How a deed is told.
struct Manner {
    /// The path before the name of what it is done to, and the last part of it.
    section: &'static str,
    name: &'static str,
    label: &'static str,
    /// What is asked before; it is not if there is nothing to lose.
    question: Option<&'static str>,
    /// What is said afterwards.
    done: &'static str,
    /// Whether only the leader can do it.
    is_leaders: bool,
}

impl Deed {
    const ALL: [Deed; 12] = [
        Deed::Drain,
        Deed::Quarantine,
        Deed::Readmit,
        Deed::Pause,
        Deed::Resume,
        Deed::Purge,
        Deed::Cancel,
        Deed::Replay,
        Deed::Discard,
        Deed::ReplayKind,
        Deed::DiscardKind,
        Deed::Apply,
    ];

    fn manner(self) -> Manner {
        match self {
            Deed::Drain => Manner {
                section: "agents",
                name: "drain",
                label: "Drain",
                question: Some("The agent takes no new work, finishes what it runs, and then ends."),
                done: "The agent is told to finish and leave.",
                is_leaders: true,
            },
            Deed::Quarantine => Manner {
                section: "agents",
                name: "quarantine",
                label: "Quarantine",
                question: Some("The agent gets no work until it is readmitted. What it runs goes on."),
                done: "The agent gets no work.",
                is_leaders: true,
            },
            Deed::Readmit => Manner {
                section: "agents",
                name: "readmit",
                label: "Readmit",
                question: None,
                done: "The agent gets work again.",
                is_leaders: true,
            },
            Deed::Pause => Manner {
                section: "queues",
                name: "pause",
                label: "Pause",
                question: Some("No task of the kind is started until it is resumed. What runs goes on."),
                done: "No task of the kind is started.",
                is_leaders: true,
            },
            Deed::Resume => Manner {
                section: "queues",
                name: "resume",
                label: "Resume",
                question: None,
                done: "Tasks of the kind are started again.",
                is_leaders: true,
            },
            Deed::Purge => Manner {
                section: "queues",
                name: "purge",
                label: "Purge",
                question: Some("Every task of the kind that waits is ended. Its outcome will be: cancelled."),
                done: "What waited of the kind is being cancelled.",
                is_leaders: true,
            },
            Deed::Cancel => Manner {
                section: "tasks",
                name: "cancel",
                label: "Cancel",
                question: Some(
                    "The task is not started any more, or stopped where it runs. Its outcome will be: cancelled.",
                ),
                done: "The task is being cancelled.",
                is_leaders: true,
            },
            Deed::Replay => Manner {
                section: "dead",
                name: "replay",
                label: "Replay",
                question: Some("What was submitted is submitted again, as a new task, and the dead letter is removed."),
                done: "Replayed",
                is_leaders: false,
            },
            Deed::Discard => Manner {
                section: "dead",
                name: "discard",
                label: "Discard",
                question: Some("The dead letter is removed, with its body. This cannot be undone."),
                done: "Discarded",
                is_leaders: false,
            },
            Deed::ReplayKind => Manner {
                section: "queues",
                name: "replay-dead",
                label: "Replay its dead letters",
                question: Some("All dead letters of the kind are submitted again, as new tasks, and removed."),
                done: "Replayed",
                is_leaders: false,
            },
            Deed::DiscardKind => Manner {
                section: "queues",
                name: "discard-dead",
                label: "Discard its dead letters",
                question: Some("All dead letters of the kind are removed, with their bodies. This cannot be undone."),
                done: "Discarded",
                is_leaders: false,
            },
            Deed::Apply => Manner {
                section: "resources",
                name: "apply",
                label: "Apply",
                question: None,
                done: "What is recommended is set.",
                is_leaders: true,
            },
        }
    }

    fn find(section: &str, name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|deed| {
            let manner = deed.manner();
            manner.section == section && manner.name == name
        })
    }
}

/// What can be done to an agent that is doing so.
pub(super) fn for_agent(state: AgentState) -> &'static [Deed] {
    match state {
        AgentState::Stopping | AgentState::Offline => &[],
        AgentState::Degraded => &[Deed::Readmit, Deed::Drain],
        _ => &[Deed::Quarantine, Deed::Drain],
    }
}

/// What can be done to a task that is so far.
pub(super) fn for_task(state: TaskState) -> &'static [Deed] {
    if state == TaskState::Settled { &[] } else { &[Deed::Cancel] }
}

/// What can be done to a kind with so many dead letters; and to what waits of it, if it is said whether it is paused.
pub(super) fn for_queue(dead_letters: u64, paused: Option<bool>) -> Vec<Deed> {
    let pausing: &[Deed] = match paused {
        None => &[],
        Some(true) => &[Deed::Resume, Deed::Purge],
        Some(false) => &[Deed::Pause, Deed::Purge],
    };
    let burying: &[Deed] = if dead_letters == 0 { &[] } else { &[Deed::ReplayKind, Deed::DiscardKind] };
    [pausing, burying].concat()
}

/// A way to do something.
#[derive(Clone, Debug)]
pub(super) struct Button {
    pub(super) path: String,
    pub(super) label: &'static str,
    /// What it is done to, for those who do not see where it stands.
    pub(super) name: String,
    /// Whether it leads to a question first.
    pub(super) asks: bool,
}

/// Ways to do these to what has this name.
pub(super) fn buttons(deeds: &[Deed], name: &str) -> Vec<Button> {
    let button = |deed: &Deed| {
        let manner = deed.manner();
        let path = format!("/{}/{}/{}", manner.section, encoded(name), manner.name);
        Button { path, label: manner.label, name: name.to_owned(), asks: manner.question.is_some() }
    };
    deeds.iter().map(button).collect()
}

/// What was done a moment ago, by what the address says: the name of a deed, and how often it was done and was not.
pub(super) fn done(said: &str) -> Option<String> {
    let mut parts = said.split('.');
    let name = parts.next()?;
    if name == "set" {
        return Some("The setting is changed.".to_owned());
    }
    let deed = Deed::ALL.into_iter().find(|deed| deed.manner().name == name)?;
    let mut numbers = parts.map_while(|part| part.parse::<u64>().ok());
    let letters = |count| several(count, "dead letter", "dead letters");
    Some(match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(count), refused, more) => {
            let refused = refused.filter(|refused| *refused > 0);
            let refused = refused.map(|refused| format!(" {} would not run again, and stay.", letters(refused)));
            let more = more.filter(|more| *more > 0).map(|_| " There are more: do it again.");
            format!(
                "{} {}.{}{}",
                deed.manner().done,
                letters(count),
                refused.unwrap_or_default(),
                more.unwrap_or_default()
            )
        }
        _ => deed.manner().done.to_owned(),
    })
}

/// The addresses at which things are done.
pub(super) fn routes() -> Router<Dashboard> {
    let sections = ["agents", "queues", "tasks", "dead", "resources"];
    sections.into_iter().fold(Router::new(), |router, section| {
        let confirm = move |dashboard, names| confirm(section, dashboard, names);
        let act = move |dashboard, names| act(section, dashboard, names);
        router.route(&format!("/{section}/{{id}}/{{deed}}"), get(confirm).post(act))
    })
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct Confirm {
    frame: Frame,
    label: &'static str,
    name: String,
    question: &'static str,
    path: String,
    back: String,
}

async fn confirm(
    section: &'static str,
    State(dashboard): State<Dashboard>,
    Path((id, deed)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let deed = find(section, &deed)?;
    let manner = deed.manner();
    let path = format!("/{section}/{}/{}", encoded(&id), manner.name);
    let back = if id == EVERYTHING { format!("/{section}") } else { format!("/{section}/{}", encoded(&id)) };
    let back = if section == "resources" { "/resources".to_owned() } else { back };
    let frame = dashboard.frame(Section::None, manner.label);
    let question = manner.question.unwrap_or("It can be undone.");
    show(&Confirm { frame, label: manner.label, name: id, question, path, back })
}

async fn act(
    section: &'static str,
    State(dashboard): State<Dashboard>,
    Path((id, deed)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let deed = find(section, &deed)?;
    dashboard.refuse_if_standing_by(deed)?;
    let to = perform(&dashboard, deed, &id).await?;
    Ok(Redirect::to(&to).into_response())
}

fn find(section: &str, name: &str) -> Result<Deed, Refusal> {
    let unknown = || Refusal { error: format!("`{name}` cannot be done here"), code: 404 };
    Deed::find(section, name).ok_or_else(unknown)
}

/// What stands for all dead letters where one would be named.
pub(super) const EVERYTHING: &str = "all";

/// Does it; where one sees what came of it is returned.
async fn perform(dashboard: &Dashboard, deed: Deed, id: &str) -> Result<String, Refusal> {
    let Dashboard { handle, store, dead, .. } = dashboard;
    let manner = deed.manner();
    let back = |done: &str| format!("/{}/{}?done={done}", manner.section, encoded(id));
    match deed {
        Deed::Drain => {
            let agent: shared::AgentId = parsed(id)?;
            handle.agent(agent.clone()).await?;
            handle.drain(agent).await?;
            Ok(back(manner.name))
        }
        Deed::Quarantine | Deed::Readmit | Deed::Pause | Deed::Resume | Deed::Purge => {
            let noun = if manner.section == "agents" { "agent" } else { "queue" };
            let verb = if deed == Deed::Readmit { "resume" } else { manner.name };
            let asked = serde_json::json!({ "id": id });
            crate::api::operation(noun, verb).run(dashboard.services.clone(), asked).await?;
            Ok(back(manner.name))
        }
        Deed::Cancel => {
            handle.cancel(store, parsed(id)?).await?;
            Ok(back(manner.name))
        }
        Deed::Replay | Deed::ReplayKind => {
            let replays = dead.replay(&selection(deed, id)?).await?;
            if let (Deed::Replay, [replay], None) = (deed, &replays.items[..], &replays.next) {
                return Ok(format!("/tasks/{}?done=replay.1", replay.new_task));
            }
            let numbers = [replays.items.len(), replays.refused.len(), usize::from(replays.next.is_some())];
            Ok(format!("/dead?done=replay.{}.{}.{}", numbers[0], numbers[1], numbers[2]))
        }
        Deed::Discard | Deed::DiscardKind => {
            let discarded = dead.discard(&selection(deed, id)?).await?.discarded;
            Ok(format!("/dead?done=discard.{discarded}"))
        }
        Deed::Apply => {
            let asked = Apply { id: parsed(id)?, resource: None, dry_run: false };
            recommend::apply(handle, store, asked).await?;
            Ok("/resources?done=apply".to_owned())
        }
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| Refusal { error: error.to_string(), code: 400 })
}

/// The dead letters that are meant.
fn selection(deed: Deed, id: &str) -> Result<DeadSelection, Refusal> {
    let none = DeadSelection::default();
    Ok(match deed {
        Deed::ReplayKind | Deed::DiscardKind => DeadSelection { kind: Some(parsed(id)?), ..none },
        _ if id == EVERYTHING => DeadSelection { all: true, ..none },
        _ => crate::dead::named(id).map_err(|error| Refusal { error: error.to_string(), code: 400 })?,
    })
}

/// A setting, and what it is to be from now on.
#[derive(Debug, Deserialize)]
pub(super) struct Setting {
    setting: String,
    #[serde(default)]
    value: String,
}

/// Changes a setting of a kind; an empty value goes back to the configuration.
pub(super) async fn set(
    State(dashboard): State<Dashboard>,
    Path(kind): Path<String>,
    Form(Setting { setting, value }): Form<Setting>,
) -> Result<Response, Problem> {
    let patch = Value::Object([(setting.trim().to_owned(), setting_value(value.trim()))].into_iter().collect());
    settings::change(&dashboard.store, Scope::Kind, &kind, patch).await?;
    Ok(Redirect::to(&format!("/queues/{}?done=set", encoded(&kind))).into_response())
}

/// What was typed: numbers and tables as they are in JSON, and everything else as a text.
fn setting_value(typed: &str) -> Value {
    match typed {
        "" => Value::Null,
        typed => serde_json::from_str(typed).unwrap_or_else(|_| Value::String(typed.to_owned())),
    }
}

impl Dashboard {
    /// What only the leader can do is refused with a word on where it can be done.
    fn refuse_if_standing_by(&self, deed: Deed) -> Result<(), Refusal> {
        if !deed.manner().is_leaders || self.handle.status().leading {
            return Ok(());
        }
        let seen = self.seen.lock();
        let leader = seen.leader().map(|leader| {
            let address = leader.http.map(|address| format!(", http://{address}/")).unwrap_or_default();
            format!("do it at the leader ({}{address})", leader.instance)
        });
        let instead = leader.unwrap_or_else(|| "nobody is known to lead: try again in a moment".to_owned());
        Err(Refusal { error: format!("this coordinator stands by: {instead}"), code: 503 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deed_is_found_by_its_address() {
        for deed in Deed::ALL {
            let manner = deed.manner();
            assert_eq!(Deed::find(manner.section, manner.name), Some(deed));
        }
        assert_eq!(Deed::find("agents", "cancel"), None);
    }

    #[test]
    fn what_was_done_is_told_in_words_of_our_own() {
        assert_eq!(done("drain").as_deref(), Some("The agent is told to finish and leave."));
        assert_eq!(done("replay.1").as_deref(), Some("Replayed 1 dead letter."));
        let some = done("replay.500.2.1").unwrap();
        assert_eq!(
            some,
            "Replayed 500 dead letters. 2 dead letters would not run again, and stay. There are more: do it again."
        );
        assert_eq!(done("<script>"), None);
    }

    #[test]
    fn a_button_leads_to_one_thing_whatever_its_name_is() {
        let button = buttons(&[Deed::Cancel], "a/../b?c").remove(0);

        assert_eq!(button.path, "/tasks/a%2F%2E%2E%2Fb%3Fc/cancel");
        assert!(button.asks);
    }

    #[test]
    fn a_setting_is_a_number_where_it_looks_like_one() {
        assert_eq!(setting_value("3"), Value::from(3));
        assert_eq!(setting_value("100/s"), Value::from("100/s"));
        assert_eq!(setting_value(r#"{"gpus": 1}"#), serde_json::json!({"gpus": 1}));
        assert_eq!(setting_value(""), Value::Null);
    }
}
