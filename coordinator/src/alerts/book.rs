//! The book of alerts: what the rules say of the samples of a moment, and what follows from that. It does no I/O and reads
//! no clock.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::Timestamp;
use shared::api::alerts::{Alert, AlertState, Rule as ShownRule};

use super::expression::{Found, Memory};
use super::kept::{Firing, Kept, News, millis, show_time};
use super::rule::Rule;
use super::sample::{Labels, Sample};
use super::settings::Config;

/// So many alerts one rule has at most: what goes wrong for a thousand kinds is one thing that goes wrong.
const MOST: usize = 50;

/// All that is known of alerts.
#[derive(Debug)]
pub struct Book {
    settings: Config,
    rules: Vec<Watched>,
    pub(super) kept: Kept,
    /// Whether what is kept is another than was written.
    pub(super) is_changed: bool,
    /// Until when nothing resolves: a new leader knows too little.
    holds_until: Timestamp,
}

/// A rule, and what is remembered of it.
#[derive(Debug)]
struct Watched {
    rule: Rule,
    memory: Memory,
    pending: BTreeMap<Labels, Pending>,
    /// How many things there were at the last look, if the metrics told.
    series: Option<u64>,
    /// How many alerts there are too many.
    left_out: usize,
}

/// A condition that is met, and has not been for long enough.
#[derive(Clone, Copy, Debug)]
struct Pending {
    since: Timestamp,
    value: f64,
}

impl Book {
    /// A book that goes on with what was kept, by a leader that leads from now on.
    pub(crate) fn open(settings: Config, rules: Vec<Rule>, mut kept: Kept, now: Timestamp) -> Self {
        // What a leader before has seen last is not known: it may have been met all the time since.
        kept.firing.values_mut().for_each(|firing| firing.last_met = now);
        let watch =
            |rule| Watched { rule, memory: Memory::default(), pending: BTreeMap::new(), series: None, left_out: 0 };
        Self {
            holds_until: now + settings.takeover_grace,
            settings,
            rules: rules.into_iter().map(watch).collect(),
            kept,
            // It is written at once: a leader before can write nothing from then on.
            is_changed: true,
        }
    }

    /// The metrics that the rules need.
    pub(crate) fn metrics(&self) -> BTreeSet<String> {
        let enabled = self.rules.iter().filter(|watched| watched.rule.is_enabled);
        enabled.flat_map(|watched| watched.rule.expression.metrics()).map(str::to_owned).collect()
    }

    /// Looks at all rules by these samples.
    pub(crate) fn evaluate(&mut self, samples: &[Sample], now: Timestamp) {
        self.end_silences(now);
        for index in 0..self.rules.len() {
            let watched = &mut self.rules[index];
            if !watched.rule.is_enabled {
                continue;
            }
            match watched.rule.expression.evaluate(samples, &mut watched.memory, now) {
                Found::Unknown => watched.series = None,
                Found::Values(values) => {
                    watched.series = Some(values.len() as u64);
                    self.judge(index, &values, now);
                }
            }
        }
        self.resolve(now);
        self.tell_firing(now);
    }

    /// Compares what was found with the line of a rule.
    fn judge(&mut self, index: usize, values: &BTreeMap<Labels, f64>, now: Timestamp) {
        let Watched { rule, pending, left_out, .. } = &mut self.rules[index];
        let mut still_pending = BTreeMap::new();
        *left_out = 0;
        for (labels, value) in values {
            let id = rule.alert_id(labels);
            if let Some(firing) = self.kept.firing.get_mut(&id) {
                if rule.threshold.is_crossed(*value, true) {
                    firing.last_met = now;
                    firing.value = *value;
                    firing.summary = rule.summary(labels, *value);
                }
                continue;
            }
            if !rule.threshold.is_crossed(*value, false) {
                continue;
            }
            let of_rule = self.kept.firing.values().filter(|firing| firing.rule == rule.name).count();
            if of_rule + still_pending.len() >= MOST {
                *left_out += 1;
                continue;
            }
            let since = pending.get(labels).map_or(now, |pending| pending.since);
            if now.since(since) >= rule.lasts {
                self.kept.firing.insert(id, fire(rule, labels, *value, since, now));
                self.is_changed = true;
            } else {
                still_pending.insert(labels.clone(), Pending { since, value: *value });
            }
        }
        *pending = still_pending;
    }

    /// Ends what has not been met for long enough, and what no rule is there for any more.
    fn resolve(&mut self, now: Timestamp) {
        if now < self.holds_until {
            return;
        }
        let over: Vec<String> =
            self.kept.firing.iter().filter(|(_, firing)| self.is_over(firing, now)).map(|(id, _)| id.clone()).collect();
        for id in over {
            let Some(firing) = self.kept.firing.remove(&id) else { continue };
            self.is_changed = true;
            if firing.told.is_some() {
                let shown = self.kept.show_firing(&id, &firing, AlertState::Resolved, now);
                self.note_alert("resolved", shown, now);
            }
        }
    }

    fn is_over(&self, firing: &Firing, now: Timestamp) -> bool {
        let watched = self.rules.iter().find(|watched| watched.rule.name == firing.rule && watched.rule.is_enabled);
        // What the metrics do not tell is not over.
        watched.is_none_or(|Watched { rule, series, .. }| {
            series.is_some() && firing.last_met < now && now.since(firing.last_met) >= rule.keep_firing_for
        })
    }

    /// Tells what fires and was not told, or not for long.
    fn tell_firing(&mut self, now: Timestamp) {
        let every = self.settings.notify_every;
        let is_due = |firing: &Firing| match firing.told {
            None => true,
            Some(told) => !every.is_zero() && firing.acknowledged.is_none() && now.since(told) >= every,
        };
        let is_silent = |firing: &Firing| self.kept.silences_of(firing).next().is_some();
        let due = self.kept.firing.iter().filter(|(_, firing)| is_due(firing) && !is_silent(firing));
        let due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        for id in due {
            let Some(firing) = self.kept.firing.get_mut(&id) else { continue };
            firing.told = Some(now);
            let shown = self.kept.show_firing(&id, &self.kept.firing[&id], AlertState::Firing, now);
            self.note_alert("firing", shown, now);
        }
    }

    /// Remembers to tell something about an alert.
    pub(super) fn note_alert(&mut self, what: &str, alert: Alert, now: Timestamp) {
        let kind = alert.labels.get("kind").cloned();
        let detail = format!("{}: {}", alert.id, alert.summary);
        let data = serde_json::to_value(alert).unwrap_or_default();
        self.note(what, kind, detail, data, now);
    }

    pub(super) fn note(
        &mut self,
        what: &str,
        kind: Option<String>,
        detail: String,
        data: serde_json::Value,
        now: Timestamp,
    ) {
        let number = self.kept.next_number();
        self.kept.untold.push(News { number, at: now, what: what.to_owned(), kind, detail, data });
        self.is_changed = true;
    }

    /// What fires or may do so soon: the gravest first, and of these the oldest.
    pub(crate) fn alerts(&self, now: Timestamp) -> Vec<Alert> {
        let firing = self.kept.firing.iter();
        let firing = firing.map(|(id, firing)| self.kept.show_firing(id, firing, AlertState::Firing, now));
        let pending = self.rules.iter().flat_map(|Watched { rule, pending, .. }| {
            pending.iter().map(move |(labels, pending)| show_pending(rule, labels, *pending, now))
        });
        let mut alerts: Vec<Alert> = firing.chain(pending).collect();
        alerts.sort_by(|a, b| {
            let gravity = |alert: &Alert| (alert.state, alert.severity);
            gravity(b).cmp(&gravity(a)).then_with(|| a.since.cmp(&b.since)).then_with(|| a.id.cmp(&b.id))
        });
        alerts
    }

    /// The rules, by name.
    pub(crate) fn rules(&self) -> Vec<ShownRule> {
        self.rules.iter().map(|watched| self.show_rule(watched)).collect()
    }

    fn show_rule(&self, watched: &Watched) -> ShownRule {
        let Watched { rule, pending, series, left_out, .. } = watched;
        let problem = match (rule.is_enabled, series, left_out) {
            (false, _, _) => Some("it is switched off".to_owned()),
            (true, None, _) => Some("its metrics were not seen for long enough yet".to_owned()),
            (true, Some(0), _) => Some("nothing is measured that it could look at".to_owned()),
            (true, Some(_), 0) => None,
            (true, Some(_), left_out) => Some(format!("it has no more than {MOST} alerts: {left_out} are left out")),
        };
        ShownRule {
            id: rule.name.clone(),
            built_in: rule.is_built_in,
            enabled: rule.is_enabled,
            severity: rule.severity,
            condition: rule.condition(),
            lasts: humantime::format_duration(rule.lasts).to_string(),
            keep_firing_for: humantime::format_duration(rule.keep_firing_for).to_string(),
            series: *series,
            pending: pending.len() as u32,
            firing: self.kept.firing.values().filter(|firing| firing.rule == rule.name).count() as u32,
            problem,
        }
    }
}

fn fire(rule: &Rule, labels: &Labels, value: f64, since: Timestamp, now: Timestamp) -> Firing {
    Firing {
        rule: rule.name.clone(),
        severity: rule.severity,
        labels: labels.clone(),
        value,
        threshold: rule.threshold.fires,
        summary: rule.summary(labels, value),
        since,
        fired: now,
        last_met: now,
        told: None,
        acknowledged: None,
    }
}

fn show_pending(rule: &Rule, labels: &Labels, pending: Pending, now: Timestamp) -> Alert {
    Alert {
        id: rule.alert_id(labels),
        rule: rule.name.clone(),
        state: AlertState::Pending,
        severity: rule.severity,
        labels: labels.clone(),
        value: pending.value,
        threshold: rule.threshold.fires,
        summary: rule.summary(labels, pending.value),
        since: show_time(pending.since),
        since_ms: millis(now.since(pending.since)),
        fired: None,
        acknowledged: None,
        silenced_by: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
