//! Pools, and why they are as they are, in the shapes of [`shared::api::scale`].

use scheduler::scaling::history::Statistics;
use scheduler::scaling::signals::Agent;
use scheduler::scaling::{Decision, Finding, victims};
use serde_json::Value;
use shared::AgentId;
use shared::api::scale;

use super::led::Led;
use super::telling::{show_change, show_time};

/// A pool at a glance.
pub(crate) fn pool(led: &Led) -> scale::Pool {
    let (name, standing, policy) = (led.pool().name(), led.standing(), led.pool().policy());
    let held_by = led.config().held_by(name);
    scale::Pool {
        id: name.to_owned(),
        phase: led.pool().history().phase().to_string(),
        acts: held_by.is_none(),
        held_by,
        wished: led.pool().wish().agents(),
        present: standing.present,
        starting: standing.starting,
        leaving: standing.leaving.len() as u32,
        min_agents: policy.min_agents,
        max_agents: policy.max_agents,
        measured: measured(led),
        last_change: led.pool().history().events().next_back().map(|event| show_change(name, event)),
    }
}

/// A pool with everything that is known of it.
pub(crate) fn detail(led: &Led) -> scale::Detail {
    scale::Detail {
        pool: pool(led),
        agents: staying(led).map(|agent| agent.id.clone()).collect(),
        agents_leaving: led.standing().leaving.into_iter().collect(),
        statistics: statistics(&led.pool().history().statistics(led.now())),
        settings: Value::Object(led.config().shown()),
    }
}

/// What was done about a pool, the oldest first, and no more of it than this.
pub(crate) fn history(led: &Led, limit: usize) -> Vec<scale::Change> {
    let events = led.pool().history().events();
    let skipped = events.len().saturating_sub(limit);
    events.skip(skipped).map(|event| show_change(led.pool().name(), event)).collect()
}

/// Why a pool has as many agents as it has, by the last look; none before the first.
pub(crate) fn explanation(led: &Led) -> Option<scale::Explanation> {
    let decision = led.pool().latest()?;
    Some(scale::Explanation {
        pool: led.pool().name().to_owned(),
        time: show_time(decision.at),
        summary: summary(led, decision),
        before: decision.before,
        wished: decision.wished,
        findings: decision.findings.iter().map(finding).collect(),
        measured: measured(led),
        would: would(led, decision),
    })
}

fn summary(led: &Led, decision: &Decision) -> String {
    let held = led.config().held_by(led.pool().name()).map(|why| format!(" ({why})")).unwrap_or_default();
    let (before, wished) = (decision.before, decision.wished);
    if led.signals().in_doubt {
        return format!("nothing is decided: the link is in doubt, or it is not known yet who runs what{held}");
    }
    if let Some(cause) = decision.cause.filter(|_| !decision.is_no_change()) {
        let (rule, metric, value, threshold) = (cause.rule, cause.metric, cause.value, cause.threshold);
        return format!("from {before} to {wished} agents: {rule}: {metric} {value:.2} against {threshold:.2}{held}");
    }
    let wanting = decision.findings.iter().find(|finding| finding.wants.is_some_and(|wants| wants != before));
    match wanting {
        Some(finding) => format!("it stays at {before} agents; {finding}{held}"),
        None => format!("it stays at {before} agents: no rule wants another number{held}"),
    }
}

fn finding(finding: &Finding) -> scale::Finding {
    scale::Finding {
        rule: finding.rule.to_string(),
        metric: finding.metric.to_string(),
        value: finding.value,
        threshold: finding.threshold,
        wants: finding.wants,
        waits_for: finding.waits_for.as_ref().map(ToString::to_string),
    }
}

/// What it would take to have as many agents as are wished for.
fn would(led: &Led, decision: &Decision) -> scale::Would {
    let standing = led.standing();
    let there = standing.present + standing.starting;
    let excess = standing.present.saturating_sub(decision.wished) as usize;
    let candidates: Vec<&Agent> = led.agents().iter().filter(|agent| !standing.leaving.contains(&agent.id)).collect();
    let drain: Vec<AgentId> = if excess == 0 { Vec::new() } else { victims::choose(&candidates, excess) };
    scale::Would { start: decision.wished.saturating_sub(there), drain }
}

fn staying(led: &Led) -> impl Iterator<Item = &Agent> {
    let leaving = led.standing().leaving;
    led.agents().iter().filter(move |agent| agent.is_present() && !leaving.contains(&agent.id))
}

fn measured(led: &Led) -> scale::Measured {
    let signals = led.signals();
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let backlog = signals.backlog.as_ref().map(|measured| measured.value);
    let slots = signals.slots.as_ref().map(|measured| measured.value);
    scale::Measured {
        age_ms: led.age().map(millis),
        in_doubt: signals.in_doubt,
        waiting: backlog.map(|backlog| backlog.depth),
        oldest_ms: backlog.map(|backlog| millis(backlog.oldest)),
        work_ms: backlog.map(|backlog| millis(backlog.work)),
        wait_p95_ms: signals.wait_p95.as_ref().map(|wait| millis(wait.value)),
        slots: slots.map(|slots| slots.total),
        taken: slots.map(|slots| slots.taken),
        taken_of_leaving: slots.map(|slots| slots.leaving),
        host_utilisation: signals.utilisation.as_ref().map(|share| share.value.get()),
        throughput: signals.throughput.as_ref().map(|throughput| throughput.value),
        failures: signals.failures.as_ref().map(|share| share.value.get()),
    }
}

fn statistics(counts: &Statistics) -> scale::Statistics {
    let time_in = counts.time_in.iter().map(|(phase, span)| (phase.to_string(), span.as_millis() as u64));
    scale::Statistics {
        ordered: counts.ordered,
        succeeded: counts.succeeded,
        partly: counts.partly,
        failed: counts.failed,
        growing: counts.growing,
        shrinking: counts.shrinking,
        replacing: counts.replacing,
        success_rate: counts.success_rate.map(scheduler::scaling::Share::get),
        flaps: counts.flaps,
        time_in_ms: time_in.collect(),
    }
}
