//! Alerts, as `alert.…` shows them: what is not as it should be, who knows of it, and what is kept quiet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How grave it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Somebody should look, today.
    #[default]
    Warning,
    /// Somebody must act, now.
    Critical,
}

impl Severity {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// Its condition is met, and has not been for long enough.
    Pending,
    /// Its condition was met for as long as its rule asks for.
    Firing,
    /// It fired, and its condition is not met any more. Only events show it.
    Resolved,
}

impl AlertState {
    /// How it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            AlertState::Pending => "pending",
            AlertState::Firing => "firing",
            AlertState::Resolved => "resolved",
        }
    }
}

impl std::fmt::Display for AlertState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that is not as it should be, as `alert.list` and the events on `hive.event.alert.…` show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Alert {
    /// The rule and what it is about, such as `no-capable-agent:resize`.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// How far it is.
    pub state: AlertState,
    /// How grave it is.
    pub severity: Severity,
    /// What it is about: a kind, a pool, …; empty if it is the mesh.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What was measured last.
    pub value: f64,
    /// What that is compared with.
    pub threshold: f64,
    /// What is the matter, in words.
    pub summary: String,
    /// Since when its condition is met, RFC 3339 in UTC.
    pub since: String,
    /// Milliseconds since then.
    pub since_ms: u64,
    /// When it fired, RFC 3339 in UTC; absent while it is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired: Option<String>,
    /// Who has said that they know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Acknowledgement>,
    /// The silences that keep it quiet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silenced_by: Vec<String>,
}

/// Somebody knows of an alert: it is not told again while it fires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Acknowledgement {
    /// Who.
    pub by: String,
    /// What they say of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// When, RFC 3339 in UTC.
    pub time: String,
}

/// Which alerts `alert.list` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AlertFilter {
    /// Only those that are so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<AlertState>,
    /// Only those of this rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Only those that nobody has acknowledged and nothing keeps quiet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
}

/// What `alert.acknowledge` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// The alert.
    pub id: String,
    /// Who knows of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// What they say of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// Alerts that are not told until a moment, as `alert.silences` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Silence {
    /// What it is called.
    pub id: String,
    /// Which alerts: those that all of these hold for, such as `rule=oldest-task` or `kind!=resize|train`.
    pub matchers: Vec<String>,
    /// Who asked for it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// When it was made, RFC 3339 in UTC.
    pub time: String,
    /// When it ends, RFC 3339 in UTC.
    pub until: String,
    /// Milliseconds until then.
    pub ends_in_ms: u64,
    /// How many alerts that fire it keeps quiet now.
    pub alerts: u32,
}

/// What `alert.silence` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewSilence {
    /// Which alerts: those that all of these hold for. `rule` and `severity` can be named beside an alert's labels; `|`
    /// stands between values, and a `*` at the end of one for any rest.
    pub matchers: Vec<String>,
    /// For how long, such as `2h`; four weeks at most.
    #[serde(rename = "for")]
    pub lasts: String,
    /// Who asks for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// A rule, as `alert.rules` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rule {
    /// What it is called.
    pub id: String,
    /// Whether the coordinator has it by itself.
    pub built_in: bool,
    /// Whether it is looked at.
    pub enabled: bool,
    /// How grave its alerts are.
    pub severity: Severity,
    /// Its condition, in one line.
    pub condition: String,
    /// For how long that must hold until an alert fires, such as `1m`.
    #[serde(rename = "for")]
    pub lasts: String,
    /// For how long it must not hold until an alert resolves.
    pub keep_firing_for: String,
    /// Of how many things it was looked at last; absent if the metrics did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<u64>,
    /// How many of its alerts are pending.
    pub pending: u32,
    /// How many of them fire.
    pub firing: u32,
    /// What keeps it from being looked at, or limits it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_asked_for_in_the_words_of_the_documentation() {
        let asked: NewSilence =
            serde_json::from_str(r#"{"matchers": ["rule=oldest-task"], "for": "2h", "by": "ada"}"#).unwrap();

        assert_eq!((asked.lasts.as_str(), asked.by.as_str(), asked.comment.as_str()), ("2h", "ada", ""));
        assert!(serde_json::from_str::<NewSilence>(r#"{"matchers": [], "for": "2h", "until": "never"}"#).is_err());
    }

    #[test]
    fn the_gravest_stands_last_in_order() {
        assert!(Severity::Info < Severity::Warning && Severity::Warning < Severity::Critical);
    }
}
