//! What people say about alerts: that they know of one, and what is to be quiet for a while.

use std::time::Duration;

use scheduler::Timestamp;
use shared::api::Refusal;
use shared::api::alerts::{self as api, Acknowledge, Acknowledgement, Alert, AlertState, NewSilence};

use super::book::Book;
use super::kept::{Silence, show_time};
use super::matcher::Matcher;

/// Longest silence: what is forgotten in it shall not be so for ever.
const LONGEST: Duration = Duration::from_secs(28 * 24 * 3600);

/// So many silences there are at most.
const MOST: usize = 500;

/// Longest name of somebody, and longest comment, in characters.
const LONGEST_NAME: usize = 64;
const LONGEST_COMMENT: usize = 500;

impl Book {
    /// Somebody knows of an alert: it is not told again while it fires.
    pub(crate) fn acknowledge(&mut self, asked: &Acknowledge, now: Timestamp) -> Result<Alert, Refusal> {
        let by = author(&asked.by)?;
        let comment = limited("comment", &asked.comment, LONGEST_COMMENT)?;
        let Some(firing) = self.kept.firing.get_mut(&asked.id) else { return Err(no_alert(&asked.id)) };
        let is_news = firing.acknowledged.is_none();
        firing.acknowledged = Some(Acknowledgement { by, comment, time: show_time(now) });
        self.is_changed = true;
        let shown = self.kept.show_firing(&asked.id, &self.kept.firing[&asked.id], AlertState::Firing, now);
        if is_news {
            self.note_alert("acknowledged", shown.clone(), now);
        }
        Ok(shown)
    }

    /// Keeps alerts quiet for a while.
    pub(crate) fn silence(&mut self, asked: &NewSilence, now: Timestamp) -> Result<api::Silence, Refusal> {
        let matchers = asked.matchers.iter().map(|matcher| matcher.parse::<Matcher>());
        let matchers = matchers.collect::<Result<Vec<Matcher>, _>>().map_err(|error| bad(error.to_string()))?;
        if matchers.is_empty() {
            return Err(bad("matchers: say which alerts, such as `rule=oldest-task`; `rule=*` is all of them"));
        }
        if self.kept.silences.len() >= MOST {
            return Err(Refusal { error: format!("there are {MOST} silences: end some first"), code: 409 });
        }
        let lasts =
            humantime::parse_duration(&asked.lasts).map_err(|error| bad(format!("for: {error}: write `2h`")))?;
        if lasts.is_zero() || lasts > LONGEST {
            return Err(bad("for: write up to four weeks, such as `2h` or `3days`"));
        }
        let (by, comment) = (author(&asked.by)?, limited("comment", &asked.comment, LONGEST_COMMENT)?);
        let id = format!("s{}", self.kept.next_number());
        self.kept.silences.insert(id.clone(), Silence { matchers, by, comment, made: now, until: now + lasts });
        let shown = self.kept.show_silence(&id, &self.kept.silences[&id], now);
        self.note_silence("silenced", &shown, now);
        Ok(shown)
    }

    /// Ends a silence. What fires and was not told is told with the next look.
    pub(crate) fn unsilence(&mut self, id: &str, now: Timestamp) -> Result<api::Silence, Refusal> {
        let Some(silence) = self.kept.silences.remove(id) else {
            let error = format!("there is no silence `{}`: `alert.silences` lists them", id.escape_debug());
            return Err(Refusal { error, code: 404 });
        };
        let shown = self.kept.show_silence(id, &silence, now);
        self.note_silence("unsilenced", &shown, now);
        Ok(shown)
    }

    /// The silences there are, the first to end first.
    pub(crate) fn silences(&self, now: Timestamp) -> Vec<api::Silence> {
        let silences = self.kept.silences.iter();
        let mut shown: Vec<_> = silences.map(|(id, silence)| self.kept.show_silence(id, silence, now)).collect();
        shown.sort_by(|a, b| a.until.cmp(&b.until).then_with(|| a.id.cmp(&b.id)));
        shown
    }

    /// Ends silences whose time is over.
    pub(super) fn end_silences(&mut self, now: Timestamp) {
        let is_over = |silence: &Silence| silence.until <= now;
        let over = self.kept.silences.iter().filter(|(_, silence)| is_over(silence));
        let over: Vec<String> = over.map(|(id, _)| id.clone()).collect();
        for id in over {
            // It is there: who else would have ended it?
            let _ = self.unsilence(&id, now);
        }
    }

    fn note_silence(&mut self, what: &str, silence: &api::Silence, now: Timestamp) {
        let api::Silence { id, matchers, by, until, comment, .. } = silence;
        let comment = if comment.is_empty() { String::new() } else { format!(": {comment}") };
        let detail = format!("{id}: {} until {until}, by {by}{comment}", matchers.join(", "));
        let data = serde_json::to_value(silence).unwrap_or_default();
        self.note(what, None, detail, data, now);
    }
}

/// No alert of this id fires.
pub(super) fn no_alert(id: &str) -> Refusal {
    Refusal { error: format!("no alert `{}` fires: `alert.list` lists those that do", id.escape_debug()), code: 404 }
}

fn author(by: &str) -> Result<String, Refusal> {
    let by = limited("by", by, LONGEST_NAME)?;
    Ok(if by.is_empty() { "somebody".to_owned() } else { by })
}

fn limited(field: &str, text: &str, most: usize) -> Result<String, Refusal> {
    let text = text.trim();
    if text.chars().count() > most {
        Err(bad(format!("{field}: write {most} characters at most")))
    } else {
        Ok(text.into())
    }
}

fn bad(problem: impl Into<String>) -> Refusal {
    Refusal { error: problem.into(), code: 400 }
}
