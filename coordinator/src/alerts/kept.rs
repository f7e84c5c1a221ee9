//! What is kept of alerts, so that the next leader goes on with it: what fires, who knows of it, what is to be quiet, and
//! what is yet to be told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use scheduler::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::api::alerts::{self as api, Acknowledgement, Alert, AlertState, Severity};

use super::matcher::Matcher;
use super::sample::Labels;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Kept {
    /// Alerts that fire, by id.
    pub(crate) firing: BTreeMap<String, Firing>,
    /// Silences, by id.
    pub(crate) silences: BTreeMap<String, Silence>,
    /// What has happened and may not be in the stream of events yet.
    pub(crate) untold: Vec<News>,
    /// How much has been numbered: what is told, and silences.
    pub(crate) numbered: u64,
}

/// An alert that fires.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Firing {
    pub(crate) rule: String,
    pub(crate) severity: Severity,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
    pub(crate) threshold: f64,
    pub(crate) summary: String,
    /// Since when its condition is met.
    pub(crate) since: Timestamp,
    pub(crate) fired: Timestamp,
    /// When its condition was last met.
    pub(crate) last_met: Timestamp,
    /// When it was last told that it fires, if it was.
    pub(crate) told: Option<Timestamp>,
    pub(crate) acknowledged: Option<Acknowledgement>,
}

/// Alerts that are not told until a moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Silence {
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) by: String,
    pub(crate) comment: String,
    pub(crate) made: Timestamp,
    pub(crate) until: Timestamp,
}

/// Something that has happened, to be told as an event. Its number makes the broker refuse it where a leader before has
/// told it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct News {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    /// `firing`, `resolved`, `acknowledged`, `silenced` or `unsilenced`.
    pub(crate) what: String,
    pub(crate) kind: Option<String>,
    pub(crate) detail: String,
    pub(crate) data: Value,
}

impl Kept {
    pub(crate) fn next_number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// The silences that keep an alert quiet.
    pub(crate) fn silences_of(&self, firing: &Firing) -> impl Iterator<Item = &str> {
        let covering = self.silences.iter().filter(|(_, silence)| silence.covers(firing));
        covering.map(|(id, _)| id.as_str())
    }

    pub(crate) fn show_firing(&self, id: &str, firing: &Firing, state: AlertState, now: Timestamp) -> Alert {
        Alert {
            id: id.to_owned(),
            rule: firing.rule.clone(),
            state,
            severity: firing.severity,
            labels: firing.labels.clone(),
            value: firing.value,
            threshold: firing.threshold,
            summary: firing.summary.clone(),
            since: show_time(firing.since),
            since_ms: millis(now.since(firing.since)),
            fired: Some(show_time(firing.fired)),
            acknowledged: firing.acknowledged.clone(),
            silenced_by: self.silences_of(firing).map(str::to_owned).collect(),
        }
    }

    pub(crate) fn show_silence(&self, id: &str, silence: &Silence, now: Timestamp) -> api::Silence {
        api::Silence {
            id: id.to_owned(),
            matchers: silence.matchers.iter().map(Matcher::to_string).collect(),
            by: silence.by.clone(),
            comment: silence.comment.clone(),
            time: show_time(silence.made),
            until: show_time(silence.until),
            ends_in_ms: millis(silence.until.since(now)),
            alerts: self.firing.values().filter(|firing| silence.covers(firing)).count() as u32,
        }
    }
}

impl Silence {
    fn covers(&self, firing: &Firing) -> bool {
        let label = |name: &str| match name {
            "rule" => firing.rule.as_str(),
            "severity" => firing.severity.as_str(),
            name => firing.labels.get(name).map_or("", String::as_str),
        };
        self.matchers.iter().all(|matcher| matcher.allows(label(matcher.label())))
    }
}

/// A moment in RFC 3339.
pub(crate) fn show_time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + at.since_origin()).to_string()
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
