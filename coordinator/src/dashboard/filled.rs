//! What the pages show of pools and alerts, as the scaling manager and the book of alerts tell it.

use futures_util::future::BoxFuture;
use shared::api::Refusal;
use shared::api::alerts::{Alert, AlertFilter, AlertState, Severity};
use shared::api::scale::{Change, Detail, Explanation, Finding};

use super::sources::{AlertView, ChangeView, FindingView, PoolView, Sources};
use crate::api::Services;
use crate::{alerts, scale};

/// How many changes of a pool are shown.
const CHANGES: usize = 100;

/// Gets it from the parts of this coordinator.
#[derive(Debug)]
pub(crate) struct Filled {
    services: Services,
}

impl Filled {
    /// From these parts.
    pub(crate) fn new(services: Services) -> Self {
        Self { services }
    }

    async fn pool(&self, id: String) -> Result<PoolView, Refusal> {
        let handle = &self.services.handle;
        let detail = scale::get(handle, shared::api::ById { id: id.clone() }).await?;
        let asked = shared::api::scale::HistoryOf { id: id.clone(), limit: Some(CHANGES) };
        let changes = scale::history(handle, asked).await?.items;
        // Before the first look there is nothing to be explained.
        let explanation = scale::explain(handle, shared::api::ById { id }).await.ok();
        Ok(view(detail, changes, explanation))
    }
}

impl Sources for Filled {
    fn pools(&self) -> BoxFuture<'_, Result<Vec<PoolView>, Refusal>> {
        Box::pin(async move {
            let mut pools = Vec::new();
            for pool in scale::status(&self.services.handle).await?.items {
                pools.push(self.pool(pool.id).await?);
            }
            Ok(pools)
        })
    }

    fn alerts(&self) -> BoxFuture<'_, Result<Vec<AlertView>, Refusal>> {
        Box::pin(async move {
            let asked = AlertFilter { state: Some(AlertState::Firing), ..AlertFilter::default() };
            let mut alerts = alerts::list(&self.services.handle, asked).await?.items;
            alerts.sort_by_key(|alert| (std::cmp::Reverse(alert.severity), std::cmp::Reverse(alert.since_ms)));
            Ok(alerts.into_iter().map(alert).collect())
        })
    }

    fn event_stream(&self) -> Option<&str> {
        Some("/v1/events/stream")
    }
}

fn alert(alert: Alert) -> AlertView {
    AlertView {
        name: alert.rule,
        is_critical: alert.severity == Severity::Critical,
        since_ms: alert.since_ms,
        summary: alert.summary,
        is_acknowledged: alert.acknowledged.is_some(),
    }
}

fn view(detail: Detail, changes: Vec<Change>, explanation: Option<Explanation>) -> PoolView {
    let Detail { pool, settings, .. } = detail;
    let said = |name: &str| settings.get(name).map(serde_json::Value::to_string).filter(|text| text != "[]");
    let agents = ["kinds", "labels"].into_iter().filter_map(|name| said(name).map(|said| format!("{name} {said}")));
    let actuator = settings.get("actuator").and_then(|actuator| actuator.get("type")).and_then(|kind| kind.as_str());
    PoolView {
        name: pool.id,
        agents: agents.collect::<Vec<_>>().join(", "),
        phase: pool.phase,
        wished: pool.wished,
        present: pool.present,
        starting: pool.starting,
        bounds: (pool.min_agents, pool.max_agents),
        actuator: actuator.unwrap_or("nothing: it is only told what would be done").to_owned(),
        findings: explanation.into_iter().flat_map(|explanation| explanation.findings).map(finding).collect(),
        changes: changes.into_iter().map(change).collect(),
    }
}

fn finding(finding: Finding) -> FindingView {
    let Finding { rule, metric, value, threshold, wants, waits_for } = finding;
    FindingView { rule, metric, value, threshold, wants, waits_for }
}

fn change(change: Change) -> ChangeView {
    let at = humantime::parse_rfc3339(&change.time).ok();
    let since_1970 = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    let Change { rule, metric, value, threshold, before, wished, after, outcome, took_ms, error, .. } = change;
    let cause = format!("{rule}: {metric} is {value:.2}, compared with {threshold:.2}");
    let at_ms = since_1970.as_millis() as u64;
    ChangeView { at_ms, cause, before, wished, after, outcome, took_ms, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_at_its_moment_with_its_cause() {
        let told = Change {
            time: "1970-01-01T00:00:02.500Z".to_owned(),
            rule: "queued-work".to_owned(),
            metric: "expected wait (s)".to_owned(),
            value: 12.0,
            threshold: 5.0,
            wished: 4,
            ..Change::default()
        };

        let shown = change(told);

        assert_eq!((shown.at_ms, shown.wished), (2500, 4));
        assert_eq!(shown.cause, "queued-work: expected wait (s) is 12.00, compared with 5.00");
    }
}
