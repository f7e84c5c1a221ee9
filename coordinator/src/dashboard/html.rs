//! Small pieces of markup that templates cannot make as well: times, badges, bars. Each is made of figures and of words
//! that are escaped here.

use std::fmt;
use std::time::{Duration, SystemTime};

use shared::api::{AgentState, TaskState};
use shared::{Outcome, quantity};

use super::show;
use super::visible::escaped;

/// Markup that is put into a page as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Html(pub(super) String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long ago something was, with the moment itself where one looks closer.
pub(super) fn ago(millis: u64) -> Html {
    time(before_now(millis), &format!("{} ago", show::millis(millis)))
}

/// The same for a span since: `3 min 12 s`.
pub(super) fn since(millis: u64) -> Html {
    time(before_now(millis), &show::millis(millis))
}

/// A moment, told as how long ago it is.
pub(super) fn moment(since_1970: Duration) -> Html {
    let moment = SystemTime::UNIX_EPOCH.checked_add(since_1970).unwrap_or(SystemTime::UNIX_EPOCH);
    let passed = SystemTime::now().duration_since(moment).unwrap_or_default();
    time(moment, &format!("{} ago", show::span(passed)))
}

fn before_now(millis: u64) -> SystemTime {
    SystemTime::now().checked_sub(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn time(moment: SystemTime, words: &str) -> Html {
    let absolute = show::absolute(moment);
    Html(format!(r#"<time datetime="{absolute}" title="{absolute}">{}</time>"#, escaped(words)))
}

/// How an agent is doing; a mark and the word say what the colour does.
pub(super) fn agent_state(state: AgentState) -> Html {
    badge(
        match state {
            AgentState::Healthy => "good",
            AgentState::Starting | AgentState::Stopping => "calm",
            AgentState::Degraded => "warn",
            AgentState::Unhealthy => "bad",
            AgentState::Offline => "off",
        },
        state.as_str(),
    )
}

/// How far a task is, or how it ended.
pub(super) fn task_state(state: TaskState, outcome: Option<Outcome>) -> Html {
    match outcome {
        Some(Outcome::Succeeded) => badge("good", "succeeded"),
        Some(outcome @ (Outcome::Failed | Outcome::Dead)) => badge("bad", outcome.as_str()),
        Some(outcome) => badge("warn", outcome.as_str()),
        None if state == TaskState::Running => badge("busy", state.as_str()),
        None => badge("calm", state.as_str()),
    }
}

/// A word with a mark before it.
pub(super) fn badge(class: &'static str, word: &str) -> Html {
    Html(format!(r#"<span class="badge {class}">{}</span>"#, escaped(word)))
}

/// How much of something is taken, as a bar and in words.
pub(super) fn bar(taken: f64, words: &str) -> Html {
    let (class, width) = (if taken > 0.9 { "full" } else { "taken" }, width(taken));
    framed(words, &format!(r#"<rect class="{class}" width="{width}" height="8"/>"#))
}

/// What is used and reserved of a resource, as a bar in a bar, and in words.
pub(super) fn resource_bar(resource: &str, used: Option<u64>, reserved: u64, capacity: u64) -> Html {
    let part = |amount: u64| if capacity > 0 { width(amount as f64 / capacity as f64) } else { 0.0 };
    let used_bar = used.map(|used| format!(r#"<rect class="used" y="2.5" width="{}" height="3"/>"#, part(used)));
    let reserved_bar = format!(r#"<rect class="taken" width="{}" height="8"/>"#, part(reserved));
    framed(&resource_words(resource, used, reserved, capacity), &(reserved_bar + &used_bar.unwrap_or_default()))
}

fn framed(words: &str, bars: &str) -> Html {
    let words = escaped(words);
    let open = r#"<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img""#;
    let room = r#"<rect class="room" width="100" height="8"/>"#;
    Html(format!(r#"{open} aria-label="{words}"><title>{words}</title>{room}{bars}</svg>"#))
}

/// The same in words alone.
pub(super) fn resource_words(resource: &str, used: Option<u64>, reserved: u64, capacity: u64) -> String {
    let used = used.map(|used| format!("{} used, ", amount(resource, used))).unwrap_or_default();
    let of = if capacity == 0 { "no limit".to_owned() } else { amount(resource, capacity) };
    format!("{used}{} reserved of {of}", amount(resource, reserved))
}

/// An amount with its unit; what is counted has none.
pub(super) fn amount(resource: &str, amount: u64) -> String {
    if shared::Resources::NAMES.contains(&resource) { quantity::show(resource, amount) } else { show::count(amount) }
}

fn width(share: f64) -> f64 {
    (share.clamp(0.0, 1.0) * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_in_words_what_it_shows() {
        let bar = resource_bar("memory", Some(1 << 30), 3 << 29, 2 << 30).0;

        assert!(bar.contains("1 GiB used, 1.5 GiB reserved of 2 GiB"), "{bar}");
        assert!(bar.contains(r#"class="taken" width="75""#) && bar.contains(r#"width="50""#), "{bar}");
        assert!(resource_bar("cpu", None, 500, 0).0.contains("500m cores reserved of no limit"));
    }

    #[test]
    fn no_bar_is_longer_than_its_room() {
        assert!(bar(7.0, "7 of 1").0.contains(r#"class="full" width="100""#));
        assert!(bar(-1.0, "none").0.contains(r#"class="taken" width="0""#));
    }

    #[test]
    fn words_from_elsewhere_are_escaped() {
        assert_eq!(badge("off", "<i>").0, r#"<span class="badge off">&lt;i&gt;</span>"#);
        assert!(resource_bar("<i>", None, 1, 2).0.matches("<i>").next().is_none());
    }
}
