//! Which events are meant, by what they are about.

use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Event;
use crate::names::{AgentId, BadName, HookName, Kind, TaskId};

/// Which events are meant: those that are in each list that is not empty. In JSON a list is an array of texts or one
/// text with commas, in a query the latter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventFilter {
    /// What they are about: `agent`, `task`, `scaling`, `mesh`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub topic: Vec<String>,
    /// What happened: `lost`, `dead`, …
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub what: Vec<String>,
    /// Kinds of tasks.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub kind: Vec<String>,
    /// Ids of agents.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub agent: Vec<String>,
    /// Ids of tasks.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    pub task: Vec<String>,
}

impl EventFilter {
    /// Whether an event is meant.
    pub fn matches(&self, event: &Event) -> bool {
        let named = |list: &[String], name: Option<&str>| {
            list.is_empty() || name.is_some_and(|name| list.iter().any(|wanted| wanted == name))
        };
        named(&self.topic, Some(&event.topic))
            && named(&self.what, Some(&event.what))
            && named(&self.kind, event.kind.as_deref())
            && named(&self.agent, event.agent.as_deref())
            && named(&self.task, event.task.as_deref())
    }

    /// Checks that only what can be a name is looked for: anything else would never be found.
    pub fn check(&self) -> Result<(), BadName> {
        for word in self.topic.iter().chain(&self.what) {
            // A word of an event's subject has the same alphabet.
            HookName::new(word).map_err(|error| BadName { what: "a word of an event's subject", ..error })?;
        }
        self.kind.iter().try_for_each(|kind| Kind::new(kind).map(drop))?;
        self.agent.iter().try_for_each(|agent| AgentId::new(agent).map(drop))?;
        self.task.iter().try_for_each(|task| TaskId::new(task).map(drop))
    }
}

/// Takes a list as it stands in a query: names with commas between them.
pub fn split_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Reads an array of texts, or one text with commas.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of names, or names with commas between them")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(split_list(text))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(name) = names.next_element()? {
                list.push(name);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(List)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    fn event(topic: &str, what: &str, task: Option<(&str, &str)>, agent: Option<&str>) -> Event {
        Event {
            time: "2026-12-01T12:00:00.000Z".into(),
            topic: topic.into(),
            what: what.into(),
            epoch: Epoch(1),
            agent: agent.map(Into::into),
            task: task.map(|(id, _)| id.into()),
            kind: task.map(|(_, kind)| kind.into()),
            attempt: None,
            detail: None,
            data: None,
        }
    }

    fn filter(json: &str) -> EventFilter {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_empty_filter_means_everything() {
        assert!(EventFilter::default().matches(&event("mesh", "led", None, None)));
    }

    #[test]
    fn an_event_must_be_in_each_list() {
        let lost = event("agent", "lost", None, Some("ada"));
        let dead = event("task", "dead", Some(("t1", "resize")), Some("ada"));

        for (json, means_lost, means_dead) in [
            (r#"{"topic": "agent"}"#, true, false),
            (r#"{"topic": ["agent", "task"]}"#, true, true),
            (r#"{"topic": "agent,task", "what": "dead"}"#, false, true),
            (r#"{"agent": "ada"}"#, true, true),
            (r#"{"agent": "bob"}"#, false, false),
            (r#"{"kind": "resize"}"#, false, true),
            (r#"{"task": "t1", "kind": "echo"}"#, false, false),
        ] {
            let filter = filter(json);
            assert_eq!((filter.matches(&lost), filter.matches(&dead)), (means_lost, means_dead), "{json}");
        }
    }

    #[test]
    fn a_list_is_read_from_both_forms_and_written_as_an_array() {
        let read = filter(r#"{"topic": "agent, task,", "what": ["lost"]}"#);

        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"topic":["agent","task"],"what":["lost"]}"#);
    }

    #[test]
    fn what_can_be_no_name_is_refused() {
        assert_eq!(filter(r#"{"topic": "agent", "task": "t-1"}"#).check(), Ok(()));
        for bad in [r#"{"topic": "agent.lost"}"#, r#"{"what": "*"}"#, r#"{"kind": "a b"}"#, r#"{"agent": ["ä"]}"#] {
            assert!(filter(bad).check().is_err(), "{bad}");
        }
    }
}
