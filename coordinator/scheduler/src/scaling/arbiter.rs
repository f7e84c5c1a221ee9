//! Decides how many agents a pool should have.
//!
//! Two kinds of rules make it grow. [`Rule::QueuedWork`] knows a number: what the queue grows by and what is running,
//! by the share of slots that should be taken, and what waits beyond half the target, within the target. The others are
//! the original framework's: they take a step, and wait until the last one has had its effect.
//!
//! It shrinks when little has waited for a while, fewer agents would have carried each part of that while, and the load
//! does not rise. Nothing that is unknown changes anything.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use shared::api::AgentState;

use super::policy::Policy;
use super::rule::{Cause, Finding, Rule, WaitsFor};
use super::signals::{Backlog, Signals};
use super::wish::Standing;
use crate::Timestamp;

/// Measurements that the mean of what was so of late goes over.
const RECENT: usize = 5;
/// Measurements for which slots must have been busy.
const BUSY: usize = 12;
/// Measurements that must be stable. (The original's, as are the variances.)
const STABLE: usize = 3;
const STABLE_DEPTH: f64 = 100.0;
const STABLE_WAIT: f64 = 1.0;
/// The while that is looked back on is split into so many parts, each of which must have been carried.
const PARTS: usize = 5;
/// By how much the load of the last part must be above the mean for it to count as rising.
const RISING: f64 = 1.05;
/// Fewer agents are worth a change only if they are fewer by this. (The tolerance of Kubernetes' autoscaler.)
const WORTH_A_CHANGE: f64 = 0.1;
/// Shares of a threshold: above the first what is queued calls for more; below the second waits are short; from the third
/// on tasks wait a little; below the fourth and fifth little waits. (The original's but the first and third.)
const PRESSING: f64 = 0.5;
const SHORT_WAIT: f64 = 0.5;
const SOME_WAIT: f64 = 0.25;
const LOW_DEPTH: f64 = 0.3;
const SUSTAINED_LOW_DEPTH: f64 = 0.2;
/// An expected wait that nobody works off.
const FOR_EVER: f64 = 1e9;

/// What was decided, with everything that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// How many agents were wished for.
    pub before: u32,
    /// How many are now.
    pub wished: u32,
    /// What decided, if anything changes.
    pub cause: Option<Cause>,
    /// What each rule said.
    pub findings: Vec<Finding>,
}

impl Decision {
    /// Whether nothing changes.
    pub fn is_no_change(&self) -> bool {
        self.wished == self.before
    }

    /// What a rule said.
    pub fn finding(&self, rule: Rule) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.rule == rule)
    }
}

/// Decides for one pool. It remembers what was measured for `down-cooldown`.
#[derive(Clone, Debug, Default)]
pub struct Arbiter {
    samples: VecDeque<Sample>,
    too_few: Option<TooFew>,
}

/// What was so at one look.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Timestamp,
    depth: f64,
    work: f64,
    /// Slots that were taken, of agents that leave too.
    load: f64,
    /// Share of the slots that was taken.
    busy: f64,
    wait: f64,
    throughput: Option<f64>,
}

/// So many agents were too few for so much load.
#[derive(Clone, Copy, Debug)]
struct TooFew {
    agents: u32,
    load: f64,
}

/// What is known now, fresh and complete.
#[derive(Clone, Copy, Debug)]
struct Known {
    backlog: Backlog,
    wait: f64,
    /// Slots that take work, and that of them which is taken.
    slots: f64,
    taken: f64,
    load: f64,
    /// Slots of one agent.
    each: f64,
}

impl Arbiter {
    /// Decides, and says what each rule found.
    pub fn evaluate(&mut self, policy: &Policy, signals: &Signals, standing: &Standing, now: Timestamp) -> Decision {
        let known = known(policy, signals, standing, now);
        self.remember(policy, known.as_ref(), signals, now);
        let look = Look { policy, signals, standing, known, now, samples: &self.samples };
        let mut findings = vec![look.minimum(), look.maximum()];
        findings.extend(Rule::GROWING.map(|rule| look.growing(rule)));
        let grows = findings.iter().any(Finding::is_firing);
        let pressed = findings.iter().skip(2).any(|finding| finding.wants.is_some());
        findings.extend([Rule::IdleHosts, Rule::LowDemand].map(|rule| look.shrinking(rule, pressed, self.too_few)));
        if signals.in_doubt {
            for finding in &mut findings {
                finding.waits_for = Some(WaitsFor::Certainty);
            }
        }
        let before = standing.wished;
        let firing = findings.iter().filter(|finding| finding.is_firing());
        // Bounds first; then whoever wants most grows it, and whoever wants least shrinks it.
        let bound = findings.iter().take(2).find(|finding| finding.is_firing());
        let chosen = match (bound, grows) {
            (Some(bound), _) => Some(bound),
            (None, true) => firing.max_by_key(|finding| finding.wants),
            (None, false) => firing.min_by_key(|finding| finding.wants),
        };
        let cause = chosen.map(Finding::cause);
        let wished = chosen.and_then(|finding| finding.wants).unwrap_or(before);
        let too_few = look.too_few(wished, cause);
        self.too_few = too_few.or(self.too_few);
        Decision { at: now, before, wished, cause, findings }
    }

    fn remember(&mut self, policy: &Policy, known: Option<&Known>, signals: &Signals, now: Timestamp) {
        while self.samples.front().is_some_and(|sample| now.since(sample.at) > policy.down_cooldown) {
            self.samples.pop_front();
        }
        // Two looks at the same moment tell no more than one.
        let is_new = self.samples.back().is_none_or(|last| last.at < now);
        if let Some(known) = known.filter(|_| is_new) {
            self.samples.push_back(Sample {
                at: now,
                depth: known.backlog.depth as f64,
                work: known.backlog.work.as_secs_f64(),
                load: known.load,
                busy: if known.slots > 0.0 { known.taken / known.slots } else { 0.0 },
                wait: known.wait,
                throughput: signals.throughput.as_ref().and_then(|measured| measured.fresh(policy, now)).copied(),
            });
        }
    }
}

fn known(policy: &Policy, signals: &Signals, standing: &Standing, now: Timestamp) -> Option<Known> {
    let backlog = *signals.backlog.as_ref()?.fresh(policy, now)?;
    let wait = *signals.wait_p95.as_ref()?.fresh(policy, now)?;
    let slots = *signals.slots.as_ref()?.fresh(policy, now)?;
    let agents = signals.agents.as_ref()?.fresh(policy, now)?;
    let working = agents.iter().filter(|agent| agent.state == AgentState::Healthy);
    let working = working.filter(|agent| !standing.leaving.contains(&agent.id)).count();
    let some = working > 0 && slots.total > 0;
    let each = if some { f64::from(slots.total) / working as f64 } else { f64::from(policy.slots) };
    Some(Known {
        backlog,
        wait: wait.max(if backlog.depth > 0 { backlog.oldest } else { Duration::ZERO }).as_secs_f64(),
        slots: slots.total.into(),
        taken: slots.taken,
        load: slots.taken + slots.leaving,
        each,
    })
}

/// One look at everything.
struct Look<'a> {
    policy: &'a Policy,
    signals: &'a Signals,
    standing: &'a Standing,
    known: Option<Known>,
    now: Timestamp,
    samples: &'a VecDeque<Sample>,
}

impl Look<'_> {
    fn minimum(&self) -> Finding {
        let (wished, least) = (self.standing.wished, self.policy.min_agents);
        self.bound(Rule::Minimum, least, (wished < least).then_some(least))
    }

    fn maximum(&self) -> Finding {
        let (wished, most) = (self.standing.wished, self.policy.max_agents);
        self.bound(Rule::Maximum, most, (wished > most).then_some(most))
    }

    fn bound(&self, rule: Rule, threshold: u32, wants: Option<u32>) -> Finding {
        let known = self.signals.agents.as_ref().is_some_and(|agents| agents.fresh(self.policy, self.now).is_some());
        let waits_for = match wants {
            None => Some(WaitsFor::Threshold),
            Some(_) => (!known).then_some(WaitsFor::Signal),
        };
        let (metric, value) = (rule.metric(), Some(self.standing.wished.into()));
        Finding { rule, metric, value, threshold: threshold.into(), wants, waits_for }
    }

    /// What a rule says that makes the pool grow when it works.
    fn growing(&self, rule: Rule) -> Finding {
        let threshold = self.growth_threshold(rule);
        let value = self.growth_value(rule);
        let metric = rule.metric();
        let mut finding = Finding { rule, metric, value, threshold, wants: None, waits_for: None };
        let (Some(value), Some(known)) = (value, self.known) else {
            let too_early = matches!(rule, Rule::ThroughputDrop) && self.known.is_some() && self.samples.len() < 3;
            let missing = if too_early { WaitsFor::Samples(self.samples.len(), 3) } else { WaitsFor::Signal };
            finding.waits_for = Some(missing);
            return finding;
        };
        if !self.is_met(rule, value, threshold, &known) {
            finding.waits_for = Some(WaitsFor::Threshold);
            return finding;
        }
        let wished = self.standing.wished;
        let number = match rule {
            Rule::QueuedWork => self.needed_for_queue(&known),
            Rule::BusySlots => {
                self.agents_for(self.mean_load(BUSY), &known).clamp(wished + 1, wished + (wished / 2).max(1))
            }
            Rule::QueueDepth => (known.backlog.depth as f64 / threshold).ceil() as u32,
            _ => 0,
        };
        // Those that know how many agents it takes need no step.
        let knows = matches!(rule, Rule::QueuedWork | Rule::BusySlots);
        let step = if knows { 0 } else { wished.saturating_add(self.policy.up_step) };
        let limit = ((f64::from(wished) * self.policy.growth_limit) as u32).max(wished.saturating_add(4));
        let wants = number.max(step).min(limit).min(self.policy.max_agents);
        finding.wants = (number.max(step) > wished).then_some(wants);
        finding.waits_for = match finding.wants {
            None => self.starting().or(Some(WaitsFor::Threshold)),
            Some(wants) if wants <= wished => Some(WaitsFor::Bounds),
            Some(_) if self.mostly_fails() => Some(WaitsFor::FewerFailures),
            Some(_) if rule == Rule::QueuedWork => None,
            Some(_) => self.starting().or_else(|| self.cooldown(self.policy.up_cooldown)),
        };
        finding
    }

    fn growth_threshold(&self, rule: Rule) -> f64 {
        let policy = self.policy;
        match rule {
            Rule::QueueDepth => policy.queue_depth.into(),
            // Half-way from what should be taken to all of it.
            Rule::BusySlots => 1.0 - policy.target_busy.rest() / 2.0,
            Rule::BusyHosts => policy.max_utilisation.get(),
            Rule::ThroughputDrop => policy.throughput_drop.rest(),
            _ => policy.target_wait.as_secs_f64(),
        }
    }

    fn growth_value(&self, rule: Rule) -> Option<f64> {
        let known = self.known?;
        match rule {
            Rule::QueuedWork => Some(self.expected_wait(&known)),
            Rule::BusySlots => Some(self.mean(BUSY, |sample| sample.busy)),
            Rule::QueueDepth => Some(known.backlog.depth as f64 / f64::from(self.standing.wished.max(1))),
            Rule::Wait => Some(known.wait),
            Rule::ThroughputDrop => self.throughput_of_before(),
            _ => self.host_utilisation(),
        }
    }

    fn is_met(&self, rule: Rule, value: f64, threshold: f64, known: &Known) -> bool {
        let target = self.policy.target_wait.as_secs_f64();
        // What waits now, without what may come of it.
        let capacity = self.capacity(known);
        let is_pressing = capacity <= 0.0 || known.backlog.work.as_secs_f64() > PRESSING * target * capacity;
        let waits = known.backlog.depth > 0;
        match rule {
            Rule::QueuedWork => waits && is_pressing && value > threshold,
            Rule::BusySlots => {
                let looks = BUSY.min(self.looks_to_remember());
                self.samples.len() >= looks && value > threshold && known.wait > SOME_WAIT * target
            }
            Rule::QueueDepth => value >= threshold,
            Rule::Wait => value > threshold && is_pressing,
            Rule::BusyHosts => value > threshold,
            // With nothing left to do less gets done too.
            _ => value < threshold && waits && known.backlog.oldest.as_secs_f64() > PRESSING * target,
        }
    }

    /// What a rule says that makes the pool shrink when it works.
    fn shrinking(&self, rule: Rule, pressed: bool, too_few: Option<TooFew>) -> Finding {
        let (policy, standing) = (self.policy, self.standing);
        let wished = standing.wished;
        let idle_hosts = rule == Rule::IdleHosts;
        let least = self.known.map(|known| self.fewest_that_carried(&known));
        let value = if idle_hosts { self.host_utilisation() } else { least.map(f64::from) };
        let worth = (f64::from(wished) * (1.0 - WORTH_A_CHANGE)).floor();
        let threshold = if idle_hosts { policy.min_utilisation.get() } else { worth };
        let (metric, wants) = (rule.metric(), None);
        let mut finding = Finding { rule, metric, value, threshold, wants, waits_for: None };
        let (Some(value), Some(known), Some(least)) = (value, self.known, least) else {
            finding.waits_for = Some(WaitsFor::Signal);
            return finding;
        };
        let is_met = if idle_hosts { value < threshold && self.is_idle(&known) } else { value <= threshold };
        if !is_met || wished == 0 || least >= wished {
            let at_least = wished <= policy.min_agents;
            finding.waits_for = Some(if at_least { WaitsFor::Bounds } else { WaitsFor::Threshold });
            return finding;
        }
        let steps = if idle_hosts { policy.down_step } else { u32::MAX };
        let at_once = wished - ((f64::from(wished) * policy.shrink_limit.get()) as u32).clamp(1, wished);
        let number = policy.bounded(least.max(wished.saturating_sub(steps)).max(at_once));
        let kept = too_few.filter(|few| self.load_to_carry() >= few.load * policy.hysteresis.rest());
        let number = kept.map_or(number, |few| number.max(few.agents + 1));
        // What was too few of late may leave less to gain than is worth a change.
        let number = if idle_hosts || f64::from(number) <= worth { number } else { wished };
        finding.wants = Some(number.min(wished));
        finding.waits_for = if pressed {
            Some(WaitsFor::ShorterQueue)
        } else if number >= wished {
            Some(WaitsFor::LessLoad)
        } else {
            self.what_shrinking_waits_for()
        };
        finding
    }

    fn what_shrinking_waits_for(&self) -> Option<WaitsFor> {
        let (policy, standing) = (self.policy, self.standing);
        let seen = self.samples.front().map_or(Duration::ZERO, |first| self.now.since(first.at));
        if seen + policy.interval < policy.down_cooldown || self.samples.len() < STABLE {
            return Some(WaitsFor::Samples(self.samples.len(), self.looks_to_remember()));
        }
        let is_leaving = (!standing.leaving.is_empty()).then_some(WaitsFor::Leaving(standing.leaving.len()));
        // Agents that are missing after a start that failed keep nothing from shrinking.
        let is_starting = (standing.starting > 0).then_some(WaitsFor::Starting(standing.starting));
        is_starting
            .or(is_leaving)
            .or_else(|| (!self.is_stable()).then_some(WaitsFor::Stability))
            .or_else(|| self.is_rising().then_some(WaitsFor::LoadToStopRising))
            .or_else(|| self.cooldown(policy.down_cooldown))
            .or_else(|| standing.shrink_backoff.map(WaitsFor::Backoff))
            .or_else(|| (!standing.may_shrink).then_some(WaitsFor::FlapBudget))
    }

    /// Seconds that a task will wait, by what waits and what will by the time that an agent works that is asked for now.
    fn expected_wait(&self, known: &Known) -> f64 {
        let (work, capacity) = (self.work_when_started(known), self.capacity(known));
        match known.backlog.depth {
            0 => 0.0,
            _ if capacity > 0.0 => work / capacity,
            _ => FOR_EVER,
        }
    }

    /// Seconds of work that will wait then: as much as does now, and as it grows, but for what those agents will have done
    /// that are starting already.
    fn work_when_started(&self, known: &Known) -> f64 {
        let startup = self.standing.startup_time;
        let starting = f64::from(self.standing.starting) * known.each;
        let ahead = self.standing.starting_since.map_or(Duration::ZERO, |since| self.now.since(since).min(startup));
        let grown = self.growth_of_work() * startup.as_secs_f64();
        (known.backlog.work.as_secs_f64() + grown - starting * ahead.as_secs_f64()).max(0.0)
    }

    /// Seconds of work that are queued more, each second.
    fn growth_of_work(&self) -> f64 {
        let mut latest = self.samples.iter().rev();
        let (Some(last), Some(before)) = (latest.next(), latest.next()) else { return 0.0 };
        let span = last.at.since(before.at).as_secs_f64();
        if span > 0.0 { ((last.work - before.work) / span).max(0.0) } else { 0.0 }
    }

    /// Slots of who works and who is starting.
    fn capacity(&self, known: &Known) -> f64 {
        known.slots + f64::from(self.standing.starting) * known.each
    }

    /// How many agents get what waits done within the target, beside what comes.
    fn needed_for_queue(&self, known: &Known) -> u32 {
        let target = self.policy.target_wait.as_secs_f64();
        let busy = self.policy.target_busy.get();
        let comes = (known.load + self.growth_of_work()) / busy;
        let excess = (self.work_when_started(known) - PRESSING * target * self.capacity(known)).max(0.0);
        // A task takes one slot however long it is: more slots than tasks are of no use.
        let useful = known.load / busy + known.backlog.depth as f64;
        let slots = (comes + excess / target).min(useful);
        whole_agents(slots, known.each).max(1)
    }

    /// How many agents have so many slots and a share to spare.
    fn agents_for(&self, load: f64, known: &Known) -> u32 {
        whole_agents(load / self.policy.target_busy.get(), known.each)
    }

    /// How many would have carried every part of the last while. None only if nothing was done in all of it.
    fn fewest_that_carried(&self, known: &Known) -> u32 {
        let was_used = self.samples.iter().any(|sample| sample.load > 0.0 || sample.depth > 0.0);
        let needed = self.agents_for(self.load_to_carry(), known).max(u32::from(was_used));
        needed.max(self.policy.min_agents)
    }

    /// The greatest load of any part of the last while, and of late.
    fn load_to_carry(&self) -> f64 {
        let part = (self.samples.len() / PARTS).max(1);
        let loads: Vec<f64> = self.samples.iter().map(|sample| sample.load).collect();
        let parts = loads.chunks_exact(part).map(|part| part.iter().sum::<f64>() / part.len() as f64);
        parts.fold(self.mean_load(RECENT), f64::max)
    }

    fn is_rising(&self) -> bool {
        let part = (self.samples.len() / PARTS).max(1);
        self.mean_load(part) > RISING * self.mean_load(self.samples.len())
    }

    fn mean_load(&self, looks: usize) -> f64 {
        self.mean(looks, |sample| sample.load)
    }

    /// The mean over the last looks.
    fn mean(&self, looks: usize, of: impl Fn(&Sample) -> f64) -> f64 {
        let looks = looks.min(self.samples.len());
        if looks == 0 { 0.0 } else { self.samples.iter().rev().take(looks).map(of).sum::<f64>() / looks as f64 }
    }

    /// How many looks fit into what is remembered.
    fn looks_to_remember(&self) -> usize {
        (self.policy.down_cooldown.as_secs_f64() / self.policy.interval.as_secs_f64()).floor() as usize
    }

    fn throughput_of_before(&self) -> Option<f64> {
        let mut latest = self.samples.iter().rev();
        let now = latest.next()?.throughput?;
        let before = latest.nth(1)?.throughput?;
        if before > 0.0 { Some(now / before) } else { None }
    }

    fn host_utilisation(&self) -> Option<f64> {
        let measured = self.signals.utilisation.as_ref()?.fresh(self.policy, self.now)?;
        Some(measured.get())
    }

    fn mostly_fails(&self) -> bool {
        let failures = self.signals.failures.as_ref().and_then(|measured| measured.fresh(self.policy, self.now));
        failures.is_some_and(|share| *share > self.policy.max_failures)
    }

    fn is_idle(&self, known: &Known) -> bool {
        let depth = known.backlog.depth as f64 / f64::from(self.standing.wished.max(1));
        depth < LOW_DEPTH * f64::from(self.policy.queue_depth)
    }

    /// Whether little waits, not for long, and neither depth nor waits go up and down.
    fn is_stable(&self) -> bool {
        let agents = f64::from(self.standing.wished.max(1));
        let low = SUSTAINED_LOW_DEPTH * f64::from(self.policy.queue_depth);
        let short = SHORT_WAIT * self.policy.target_wait.as_secs_f64();
        let last: Vec<&Sample> = self.samples.iter().rev().take(STABLE).collect();
        last.len() >= STABLE
            && self.mean(RECENT, |sample| sample.depth) / agents < low
            && last.iter().all(|sample| sample.wait < short)
            && variance(last.iter().map(|sample| sample.depth / agents)) < STABLE_DEPTH
            && variance(last.iter().map(|sample| sample.wait)) < STABLE_WAIT
    }

    /// Agents that were wished for and are not there, whether or not they are on their way.
    fn starting(&self) -> Option<WaitsFor> {
        let missing = self.standing.starting.max(self.standing.missing);
        (missing > 0).then_some(WaitsFor::Starting(missing))
    }

    fn cooldown(&self, cooldown: Duration) -> Option<WaitsFor> {
        let last = self.standing.grown.max(self.standing.shrunk)?;
        let left = cooldown.saturating_sub(self.now.since(last));
        (!left.is_zero()).then_some(WaitsFor::Cooldown(left))
    }

    /// What this decision tells of how many were too few: nothing, if they only were to work off what waited.
    fn too_few(&self, wished: u32, cause: Option<Cause>) -> Option<TooFew> {
        let (agents, known, cause) = (self.standing.wished, self.known?, cause?);
        let grows = wished > agents && cause.rule != Rule::QueuedWork;
        let was_too_few = grows && agents < self.agents_for(self.mean_load(BUSY), &known);
        was_too_few.then(|| TooFew { agents, load: self.mean_load(self.samples.len()) })
    }
}

fn whole_agents(slots: f64, each: f64) -> u32 {
    // What is a hair over a whole number is that number.
    (slots / each - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}

/// The population variance.
fn variance(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    values.map(|value| (value - mean).powi(2)).sum::<f64>() / count
}
