//! What should be reserved for kinds and offered by agents, judged by what was really used.

use shared::api::{Finding, Recommendation};
use shared::{Resources, TaskOptions, quantity};

use crate::kinds::KindEntry;
use crate::registry::Agent;
use crate::usage::{Evidence, Spread};
use crate::{Scheduler, Timestamp};

/// With fewer samples nothing is said: of twenty, one lies above the 95th percentile.
pub const FEWEST: u64 = 20;

/// What is suggested on top of what was used. (The default `recommendation-margin-fraction` of Kubernetes' Vertical Pod
/// Autoscaler.)
const MARGIN: f64 = 1.15;

/// How many times the suggestion must be reserved before that is too much.
const TOO_MUCH: f64 = 1.5;

/// From which share of the reservation CPU is short, and memory. An agent that limits attempts to what they reserve never
/// reports more.
const CPU_SHORT: f64 = 0.95;
const MEMORY_SHORT: f64 = 0.9;

/// The least that is ever suggested: 10 thousandths of a core, 16 MiB.
const LEAST: [u64; 2] = [10, 16 << 20];

/// A step takes no more than half away, and gives no more than four times as much.
const MOST_DOWN: u64 = 2;
const MOST_UP: u64 = 4;

/// A host that is used more than this while all slots are taken has too many; one that is used less than this, too few.
const HOST_FULL: f64 = 0.9;
const HOST_IDLE: f64 = 0.5;
/// How busy a host should be.
const HOST_WELL_USED: f64 = 0.8;

impl Scheduler {
    /// What should be reserved or offered otherwise, kinds first.
    pub fn recommendations(&self, now: Timestamp) -> Vec<Recommendation> {
        let kinds = self.kinds.iter().flat_map(|kind| self.about_kind(kind, now));
        let mut all: Vec<Recommendation> = kinds.collect();
        all.sort_by(|a, b| (&a.kind, &a.resource).cmp(&(&b.kind, &b.resource)));
        let agents = self.registry.iter().filter(|(_, agent)| agent.takes_work());
        let mut agents: Vec<Recommendation> = agents.filter_map(|(_, agent)| about_agent(agent, now)).collect();
        agents.sort_by(|a, b| a.agent.cmp(&b.agent));
        all.extend(agents);
        all
    }

    fn about_kind(&self, kind: &KindEntry, now: Timestamp) -> Vec<Recommendation> {
        let Some(evidence) = kind.usage.evidence() else { return Vec::new() };
        let reserved = kind.reserved_by(&TaskOptions::default()).resources.dimensions();
        let spreads = [evidence.cpu, evidence.memory];
        let judged = spreads.into_iter().enumerate().filter_map(|(number, spread)| {
            let (spread, reserved) = (spread?, reserved[number]);
            let judgement = judge(number, reserved, &spread, &evidence, kind.running as u64)?;
            let (step, guard) = self.step(kind, number, reserved, judgement.suggested);
            Some(Recommendation {
                kind: Some(kind.kind.clone()),
                agent: None,
                resource: Resources::NAMES[number].to_owned(),
                finding: judgement.finding,
                now: reserved,
                suggested: judgement.suggested,
                p50: spread.p50,
                p95: spread.p95,
                peak: spread.peak,
                samples: spread.samples,
                since_ms: now.since(evidence.since).as_millis() as u64,
                effect: judgement.effect,
                step,
                guard,
            })
        });
        judged.collect()
    }

    /// How far one may go at once, and what bounds that.
    fn step(&self, kind: &KindEntry, number: usize, reserved: u64, suggested: u64) -> (Option<u64>, Option<String>) {
        let show = |amount| quantity::show(Resources::NAMES[number], amount);
        let (mut step, mut guard) = (suggested, None);
        let mut bound = |step: &mut u64, to: u64, why: String| {
            *step = to;
            guard = Some(why);
        };
        if suggested < reserved / MOST_DOWN {
            bound(&mut step, reserved / MOST_DOWN, "no more than half is taken away at once".to_owned());
        } else if reserved > 0 && suggested > reserved * MOST_UP {
            bound(&mut step, reserved * MOST_UP, "no more than four times as much is given at once".to_owned());
        }
        if let Some(limit) = self.config.limits.as_array()[number].filter(|limit| step > *limit) {
            bound(&mut step, limit, format!("a task may reserve at most {} (`[limits]`)", show(limit)));
        }
        let agents = kind.agents.iter().map(|key| self.registry.get(*key)).filter(|agent| agent.is_present());
        let capacities: Vec<u64> = agents.map(|agent| agent.capacity.dimensions()[number]).collect();
        let largest = capacities.iter().copied().max().filter(|_| !capacities.contains(&0));
        if let Some(largest) = largest.filter(|largest| step > *largest) {
            bound(&mut step, largest, format!("no agent that can do it has more than {}", show(largest)));
        }
        let goes_on = if suggested < reserved { step < reserved } else { step > reserved };
        (Some(step).filter(|_| goes_on), guard)
    }
}

/// What is wrong with a reservation.
struct Judgement {
    finding: Finding,
    suggested: u64,
    effect: String,
}

/// Judges CPU by its 95th percentile, since too little of it makes attempts slow; and memory by its peak, since too little
/// of it ends them.
fn judge(number: usize, reserved: u64, spread: &Spread, evidence: &Evidence, running: u64) -> Option<Judgement> {
    let is_memory = number == 1;
    // What happened when less was reserved is past.
    let is_past = reserved > evidence.not_enough;
    let out_of_memory = if is_memory && !is_past { evidence.out_of_memory } else { 0 };
    if spread.samples < FEWEST && out_of_memory == 0 {
        return None;
    }
    let show = |amount| quantity::show(Resources::NAMES[number], amount);
    let (used, short) = if is_memory { (spread.peak, MEMORY_SHORT) } else { (spread.p95, CPU_SHORT) };
    let enough = rounded_up(number, (used as f64 * MARGIN) as u64).max(LEAST[number]);
    let under = |suggested, effect| Some(Judgement { finding: Finding::UnderAllocated, suggested, effect });
    if out_of_memory > 0 {
        // How much they would have taken is not known.
        let suggested = rounded_up(number, used.max(reserved) * 2);
        return under(suggested, format!("{out_of_memory} attempts were ended because they took more than they may"));
    }
    if reserved == 0 {
        let effect = "nothing is reserved: agents are given more than they have when many run at once".to_owned();
        return if used >= LEAST[number] { under(enough, effect) } else { None };
    }
    if used as f64 >= reserved as f64 * short {
        let suggested = enough.max(rounded_up(number, reserved / 2 * 3));
        let effect =
            if is_memory { "attempts that take more are ended" } else { "attempts are held up for want of CPU" };
        return under(suggested, effect.to_owned());
    }
    if reserved as f64 > enough as f64 * TOO_MUCH {
        let saved = reserved - enough;
        let effect = format!("frees {} an attempt, {} with the {running} that run", show(saved), show(saved * running));
        return Some(Judgement { finding: Finding::OverAllocated, suggested: enough, effect });
    }
    None
}

/// A round number: of 10 thousandths of a core, or of a mebibyte.
fn rounded_up(number: usize, amount: u64) -> u64 {
    amount.next_multiple_of([10, 1 << 20][number])
}

fn about_agent(agent: &Agent, now: Timestamp) -> Option<Recommendation> {
    let samples = agent.full.samples() as u64;
    if samples < FEWEST {
        return None;
    }
    let (resource, shares) = agent.full.shortest()?;
    let (slots, p95) = (u64::from(agent.slots), shares[1]);
    let (finding, suggested, effect) = if p95 > HOST_FULL {
        let fewer = ((slots as f64 * HOST_WELL_USED / p95) as u64).max(1);
        let effect =
            format!("its host has no {resource} left while all its slots are taken: attempts slow each other down");
        (Finding::OverAllocated, fewer, effect)
    } else if p95 < HOST_IDLE {
        let more = ((slots as f64 * HOST_WELL_USED / p95.max(0.01)) as u64).min(slots * 2);
        let effect =
            format!("half of its host is idle while all its slots are taken: it could run {} more", more - slots);
        (Finding::UnderAllocated, more, effect)
    } else {
        return None;
    };
    let thousandths = |share: f64| (share * 1000.0).round() as u64;
    (suggested != slots).then(|| Recommendation {
        kind: None,
        agent: Some(agent.id.clone()),
        resource: "slots".to_owned(),
        finding,
        now: slots,
        suggested,
        p50: thousandths(shares[0]),
        p95: thousandths(p95),
        peak: thousandths(shares[2]),
        samples,
        since_ms: agent.full.since().map_or(0, |since| now.since(since).as_millis() as u64),
        effect,
        step: None,
        guard: Some("slots are set where the agent is: `slots` in its configuration".to_owned()),
    })
}
