//! Tells what was done about pools, as events: each change when it is ordered, and when it has come to an end.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use scheduler::Timestamp;
use scheduler::scaling::history::{Event, History, Outcome};
use shared::api;
use shared::api::scale::Change;
use shared::codec::Format;
use shared::subject::Subjects;
use shared::{AgentId, Epoch};
use tracing::{info, warn};

use crate::metrics::{Direction, Effect, Scaling};

/// The first token of what is told.
const TOPIC: &str = "scaling";

/// Publishes events.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    pub(crate) nats: async_nats::Client,
    pub(crate) subjects: Subjects,
    /// What Prometheus is told of pools.
    pub(crate) metrics: Scaling,
}

impl Teller {
    /// Tells a change of a pool.
    pub(crate) async fn change(&self, epoch: Epoch, change: Change) {
        if let Some(success) = change.success {
            let direction = if change.wished >= change.before { Direction::Up } else { Direction::Down };
            let effect = if success { Effect::Succeeded } else { Effect::Failed };
            self.metrics.changed(&change.pool, direction, effect);
        }
        let detail = in_words(&change);
        let what =
            if change.outcome == Outcome::Underway.as_str() { "ordered".to_owned() } else { change.outcome.clone() };
        self.tell(epoch, &what, None, detail, Some(change)).await;
    }

    /// Tells that an agent that should be gone may be there still.
    pub(crate) async fn left_behind(&self, epoch: Epoch, pool: &str, agents: &[AgentId], error: &str) {
        for agent in agents {
            let detail = format!("{pool}: what may be left of it could not be ended: {error}");
            self.tell(epoch, "left-behind", Some(agent), detail, None).await;
        }
    }

    async fn tell(&self, epoch: Epoch, what: &str, agent: Option<&AgentId>, detail: String, data: Option<Change>) {
        info!(agent = agent.map(tracing::field::display), detail, "{TOPIC} {what}");
        let event = api::Event {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            topic: TOPIC.to_owned(),
            what: what.to_owned(),
            epoch,
            agent: agent.map(ToString::to_string),
            task: None,
            kind: None,
            attempt: None,
            detail: Some(detail),
            data: data.and_then(|change| serde_json::to_value(change).ok()),
        };
        let body = Format::Json.encode(&event);
        if let Err(error) = self.nats.publish(self.subjects.event(TOPIC, what), body).await {
            warn!(%error, "an event could not be sent");
        }
    }
}

fn in_words(change: &Change) -> String {
    let Change { pool, before, wished, rule, metric, value, threshold, .. } = change;
    let why = format!("{rule}: {metric} {value:.2} against {threshold:.2}");
    let came_of_it = match (change.after, change.took_ms) {
        (Some(after), Some(took)) => format!("; {after} after {:.1} s", Duration::from_millis(took).as_secs_f64()),
        _ => String::new(),
    };
    let error = change.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{pool}: from {before} to {wished} agents ({why}){came_of_it}{error}")
}

/// Remembers what was told of a pool.
#[derive(Debug, Default)]
pub(crate) struct Told {
    orders: BTreeMap<u64, Outcome>,
    /// The latest of what was told that has no order.
    unordered: Option<Timestamp>,
}

impl Told {
    /// What is in the history and was not told yet.
    pub(crate) fn news(&mut self, history: &History) -> Vec<Event> {
        let told = std::mem::take(&mut self.orders);
        let mut news = Vec::new();
        for event in history.events() {
            let is_new = match event.order {
                Some(order) => {
                    self.orders.insert(order, event.outcome);
                    told.get(&order) != Some(&event.outcome)
                }
                None => self.unordered.is_none_or(|last| event.at > last),
            };
            if is_new {
                news.push(event.clone());
            }
        }
        self.unordered =
            self.unordered.max(news.iter().filter(|event| event.order.is_none()).map(|event| event.at).max());
        news
    }
}

/// A change of a pool, as it is shown.
pub(crate) fn show_change(pool: &str, event: &Event) -> Change {
    Change {
        pool: pool.to_owned(),
        order: event.order,
        time: show_time(event.at),
        rule: event.cause.rule.to_string(),
        metric: event.cause.metric.to_string(),
        value: event.cause.value,
        threshold: event.cause.threshold,
        before: event.before,
        wished: event.wished,
        after: event.after,
        outcome: event.outcome.to_string(),
        success: match event.outcome {
            Outcome::Underway | Outcome::Planned => None,
            Outcome::Succeeded => Some(true),
            Outcome::Partly | Outcome::Failed => Some(false),
        },
        took_ms: event.took.map(|took| took.as_millis() as u64),
        error: event.error.clone(),
    }
}

/// A moment in RFC 3339.
pub(crate) fn show_time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + at.since_origin()).to_string()
}

#[cfg(test)]
mod tests {
    use scheduler::scaling::signals::Measured;
    use scheduler::scaling::{Pool, Signals, Wish};

    use super::*;

    #[test]
    fn a_change_is_told_when_it_is_ordered_and_when_it_has_ended() {
        let policy = scheduler::scaling::Policy::default();
        let mut pool = Pool::new("workers", policy, Wish::default(), 1);
        let mut told = Told::default();
        let outcomes = |told: &mut Told, pool: &Pool| {
            told.news(pool.history()).iter().map(|event| event.outcome).collect::<Vec<_>>()
        };
        let at = |second| Timestamp::from_origin(Duration::from_secs(second));
        let nobody = |second| Signals { agents: Some(Measured::new(Vec::new(), at(second))), ..Signals::default() };

        pool.evaluate(&nobody(100), at(100));
        assert_eq!(outcomes(&mut told, &pool), [Outcome::Underway], "two are to be there at least");
        pool.evaluate(&nobody(105), at(105));
        assert!(outcomes(&mut told, &pool).is_empty());
        pool.evaluate(&nobody(165), at(165));
        assert_eq!(outcomes(&mut told, &pool), [Outcome::Failed], "nobody came");
    }

    #[test]
    fn a_change_is_told_in_words() {
        let change = Change {
            pool: "workers".into(),
            rule: "queued-work".into(),
            metric: "expected-wait-seconds".into(),
            value: 12.3,
            threshold: 5.0,
            before: 2,
            wished: 6,
            after: Some(6),
            took_ms: Some(3210),
            ..Change::default()
        };

        assert_eq!(
            in_words(&change),
            "workers: from 2 to 6 agents (queued-work: expected-wait-seconds 12.30 against 5.00); 6 after 3.2 s"
        );
    }
}
