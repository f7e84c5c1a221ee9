//! All there is to say about one row, as names and values.

use serde_json::Value;
use shared::api::{Agent, Explanation};

use super::page::Page;
use crate::cli::output::escape;
use crate::cli::{agents, tasks};

/// What an answer says, in the order in which people want to read it.
pub(super) fn facts(page: Page, answer: &Value) -> Vec<(String, String)> {
    let known = match page {
        Page::Tasks => serde_json::from_value::<Explanation>(answer.clone()).ok().map(|why| tasks::reasons(&why)),
        Page::Agents => serde_json::from_value::<Agent>(answer.clone()).ok().map(|agent| agents::facts(&agent)),
        _ => None,
    };
    match known {
        Some(facts) => facts.into_iter().map(|(name, value)| (name.to_owned(), escape(&value))).collect(),
        None => {
            let mut facts = Vec::new();
            spread("", answer, &mut facts);
            facts
        }
    }
}

/// Every value with the way to it.
fn spread(name: &str, value: &Value, facts: &mut Vec<(String, String)>) {
    let below = |part: &str| if name.is_empty() { escape(part) } else { format!("{name}.{}", escape(part)) };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(part, value)| spread(&below(part), value, facts)),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            facts.push((name.to_owned(), items.join(", ")));
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                spread(&below(&(place + 1).to_string()), item, facts);
            }
        }
        value => facts.push((name.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), escape)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_that_has_no_words_of_its_own_is_told_value_by_value() {
        let answer = json!({
            "id": "a\u{1b}[2J", "labels": {"kind": "b"}, "silenced_by": ["s1", "s2"], "value": 3, "fired": null,
            "findings": [{"rule": "x"}, {"rule": "y"}]
        });

        let facts = facts(Page::Alerts, &answer);

        let expected = [
            ("findings.1.rule", "x"),
            ("findings.2.rule", "y"),
            ("id", "a\\u{1b}[2J"),
            ("labels.kind", "b"),
            ("silenced_by", "s1, s2"),
            ("value", "3"),
        ];
        let told: Vec<(&str, &str)> = facts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(told.len(), expected.len());
        assert!(expected.iter().all(|fact| told.contains(fact)), "{told:?}");
    }

    #[test]
    fn a_task_is_told_as_the_command_why_does() {
        let answer = json!({"summary": "it waits\u{202e}", "agents": 2});

        assert_eq!(facts(Page::Tasks, &answer), [("why".to_owned(), "it waits\\u{202e}".to_owned())]);
    }
}
