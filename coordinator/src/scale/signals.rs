//! From what is counted to what is decided by: the signals of a pool, each with the moment at which it was so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use scheduler::scaling::signals::{Agent, Backlog, Measured, Slots};
use scheduler::scaling::{Policy, Share, Signals};
use scheduler::{AgentLoad, KindLoad, PoolLoad, Timestamp, Waits};
use shared::api::AgentState;
use shared::{AgentId, Kind};

use super::census::Counts;

/// So many looks waits and failures go back over.
const LOOKS: usize = 6;
/// So many attempts must have ended before it is told how many failed.
const FEWEST_ENDED: u64 = 20;
/// How long a task runs, for all that is known before one of its kind has ended.
const UNKNOWN_RUN: f64 = 1.0;
/// What weight run times have at the next look that were measured at this one: the last twenty or so count.
const KEPT: f64 = 0.95;

/// Compares looks at one pool.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// What was so at the last look, if there was one.
    before: Option<Before>,
    recent: VecDeque<Recent>,
    run_times: BTreeMap<Kind, RunTime>,
}

#[derive(Debug)]
struct Before {
    at: Timestamp,
    agents: BTreeMap<AgentId, Done>,
    kinds: BTreeMap<Kind, Counted>,
}

/// What an agent had done by then.
#[derive(Clone, Copy, Debug)]
struct Done {
    slot_time: Duration,
    succeeded: u64,
    failed: u64,
}

/// What was counted of a kind by then.
#[derive(Clone, Debug)]
struct Counted {
    started: Option<Waits>,
    runs: u64,
    run_time: Duration,
}

/// What came about between two looks.
#[derive(Debug, Default)]
struct Recent {
    waits: Waits,
    ended: u64,
    failed: u64,
}

/// How long tasks of a kind have run, the recent ones more than those before.
#[derive(Clone, Copy, Debug, Default)]
struct RunTime {
    runs: f64,
    seconds: f64,
}

impl RunTime {
    fn mean(self) -> Option<f64> {
        (self.runs > 1e-6).then(|| self.seconds / self.runs)
    }
}

impl Gauge {
    /// What is known of the pool now.
    ///
    /// `stored` is what the stream held, and when. What comes of comparing two looks is not known at the first one.
    pub(crate) fn read(&mut self, load: &PoolLoad, stored: Option<Measured<&Counts>>, policy: &Policy) -> Signals {
        let at = load.at;
        let span = self.before.as_ref().map(|before| at.since(before.at)).filter(|span| !span.is_zero());
        let recent = self.compare(load);
        let (ended, is_first) = (recent.ended, self.before.is_none());
        let slots = span.map(|span| self.slots(&load.agents, span));
        if !is_first {
            self.recent.push_back(recent);
            self.recent.drain(..self.recent.len().saturating_sub(LOOKS));
        }
        self.learn_run_times(&load.kinds);
        let signals = Signals {
            agents: Some(Measured::new(load.agents.iter().map(|load| load.agent.clone()).collect(), at)),
            backlog: stored.map(|stored| Measured::new(self.backlog(load, policy, stored.value), stored.at.min(at))),
            wait_p95: Some(Measured::new(self.wait_p95(&load.kinds), at)),
            slots: slots.map(|slots| Measured::new(slots, at)),
            utilisation: utilisation(&load.agents, policy, at),
            throughput: span.map(|span| Measured::new(ended as f64 / span.as_secs_f64(), at)),
            failures: self.failures().map(|share| Measured::new(share, at)),
            in_doubt: load.in_doubt,
        };
        self.before = Some(Before::of(load));
        signals
    }

    /// What has come about since the look before.
    fn compare(&self, load: &PoolLoad) -> Recent {
        let Some(before) = &self.before else { return Recent::default() };
        let mut recent = Recent::default();
        for AgentLoad { agent, succeeded, failed, .. } in &load.agents {
            // An agent that is seen for the first time has done all that it has done since.
            let (ended_well, ended_badly) = before.agents.get(&agent.id).map_or((0, 0), |d| (d.succeeded, d.failed));
            let failed = failed.saturating_sub(ended_badly);
            recent.ended += succeeded.saturating_sub(ended_well) + failed;
            recent.failed += failed;
        }
        for kind in load.kinds.iter().filter(|kind| kind.room != Some(0)) {
            let counted = before.kinds.get(&kind.kind);
            match (counted.map(|counted| &counted.started), &kind.started) {
                (Some(Some(earlier)), Some(started)) => recent.waits.merge(&started.since(earlier)),
                (Some(None), Some(started)) => recent.waits.merge(started),
                // One that is new to the pool may have been at work for others before.
                _ => {}
            }
        }
        recent
    }

    fn learn_run_times(&mut self, kinds: &[KindLoad]) {
        for KindLoad { kind, runs, run_time, .. } in kinds {
            let counted = self.before.as_ref().and_then(|before| before.kinds.get(kind));
            let (runs_before, time_before) = counted.map_or((0, Duration::ZERO), |c| (c.runs, c.run_time));
            let known = self.run_times.entry(kind.clone()).or_default();
            known.runs = known.runs * KEPT + runs.saturating_sub(runs_before) as f64;
            known.seconds = known.seconds * KEPT + run_time.saturating_sub(time_before).as_secs_f64();
        }
    }

    /// Slots of those that take work, and how many were taken in the mean.
    fn slots(&self, agents: &[AgentLoad], span: Duration) -> Slots {
        let mut slots = Slots::default();
        for AgentLoad { agent, slot_time, .. } in agents {
            let before = self.before.as_ref().and_then(|before| before.agents.get(&agent.id));
            let taken = slot_time.saturating_sub(before.map_or(Duration::ZERO, |done| done.slot_time));
            let taken = taken.as_secs_f64() / span.as_secs_f64();
            if agent.state == AgentState::Healthy {
                slots.total += agent.slots;
                slots.taken += taken.min(agent.slots.into());
            } else {
                slots.leaving += taken.min(agent.slots.into());
            }
        }
        slots
    }

    /// What waits for one of the agents: what the coordinator has fetched of it, and what it has not.
    fn backlog(&self, load: &PoolLoad, policy: &Policy, stored: &Counts) -> Backlog {
        let mut backlog = Backlog::default();
        for kind in &load.kinds {
            let unfetched = stored.of(&kind.kind).saturating_sub(kind.fetched + kind.hopeless);
            let depth = (kind.waiting + unfetched).min(kind.room.unwrap_or(u64::MAX));
            if depth > 0 {
                backlog.oldest = backlog.oldest.max(kind.oldest);
            }
            self.add(&mut backlog, &kind.kind, depth);
        }
        let known: BTreeSet<&Kind> = load.kinds.iter().map(|kind| &kind.kind).collect();
        for kind in policy.kinds.iter().filter(|kind| !known.contains(kind)) {
            self.add(&mut backlog, kind, stored.of(kind));
        }
        backlog
    }

    fn add(&self, backlog: &mut Backlog, kind: &Kind, depth: u64) {
        let run = self.run_times.get(kind).and_then(|run_time| run_time.mean()).unwrap_or(UNKNOWN_RUN);
        backlog.depth += depth;
        let work = Duration::try_from_secs_f64(run * depth as f64).unwrap_or(Duration::MAX);
        backlog.work = backlog.work.saturating_add(work);
    }

    fn wait_p95(&self, kinds: &[KindLoad]) -> Duration {
        let mut waits = Waits::default();
        self.recent.iter().for_each(|recent| waits.merge(&recent.waits));
        kinds.iter().filter(|kind| kind.room != Some(0)).for_each(|kind| waits.merge(&kind.ages));
        waits.p95()
    }

    fn failures(&self) -> Option<Share> {
        let ended: u64 = self.recent.iter().map(|recent| recent.ended).sum();
        let failed: u64 = self.recent.iter().map(|recent| recent.failed).sum();
        (ended >= FEWEST_ENDED).then(|| Share::of(failed as f64, ended as f64))
    }
}

impl Before {
    fn of(load: &PoolLoad) -> Self {
        let done =
            |load: &AgentLoad| Done { slot_time: load.slot_time, succeeded: load.succeeded, failed: load.failed };
        let counted =
            |load: &KindLoad| Counted { started: load.started.clone(), runs: load.runs, run_time: load.run_time };
        Self {
            at: load.at,
            agents: load.agents.iter().map(|load| (load.agent.id.clone(), done(load))).collect(),
            kinds: load.kinds.iter().map(|load| (load.kind.clone(), counted(load))).collect(),
        }
    }
}

/// The mean over agents that have reported of late, as old as the oldest of these reports.
fn utilisation(agents: &[AgentLoad], policy: &Policy, now: Timestamp) -> Option<Measured<Share>> {
    let is_working = |agent: &Agent| agent.state == AgentState::Healthy;
    let working = agents.iter().filter(|load| is_working(&load.agent));
    let reports: Vec<(f64, Timestamp)> = working
        .filter_map(|load| load.used.as_ref())
        .filter_map(|used| Some((used.fresh(policy, now)?.get(), used.at)))
        .collect();
    let oldest = reports.iter().map(|(_, at)| *at).min()?;
    let sum: f64 = reports.iter().map(|(share, _)| share).sum();
    Some(Measured::new(Share::of(sum, reports.len() as f64), oldest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_two_looks_is_not_known_at_the_first() {
        let mut gauge = Gauge::default();

        let first = gauge.read(&load(10, vec![agent("ada", 40, 100)]), None, &Policy::default());
        let second = gauge.read(&load(20, vec![agent("ada", 60, 150)]), None, &Policy::default());

        assert_eq!((first.slots, first.throughput, first.backlog), (None, None, None));
        let slots = second.slots.unwrap().value;
        assert_eq!((slots.total, slots.taken, slots.leaving), (4, 2.0, 0.0), "20 s of slots in 10 s");
        assert_eq!(second.throughput.unwrap().value, 5.0);
    }

    #[test]
    fn who_takes_no_work_any_more_still_counts_as_load() {
        let mut gauge = Gauge::default();
        gauge.read(&load(10, vec![agent("ada", 0, 0), agent("bob", 0, 0)]), None, &Policy::default());
        let mut leaving = agent("bob", 30, 0);
        leaving.agent.state = AgentState::Stopping;

        let signals = gauge.read(&load(20, vec![agent("ada", 10, 0), leaving]), None, &Policy::default());

        let slots = signals.slots.unwrap().value;
        assert_eq!((slots.total, slots.taken, slots.leaving), (4, 1.0, 3.0));
    }

    #[test]
    fn what_waits_is_what_was_fetched_and_what_was_not() {
        let mut gauge = Gauge::default();
        // 5 of the 12 that were fetched wait, and of those in the stream 8 were not fetched.
        let kind = KindLoad { fetched: 12, waiting: 5, ..kind("resize", 100, 50) };
        let load = PoolLoad { kinds: vec![kind], ..load(10, vec![agent("ada", 0, 0)]) };
        let stored = Counts::now(20, &[("resize", 20), ("encode", 3)]);

        let signals = gauge.read(&load, Some(Measured::new(&stored, at(9))), &Policy::default());

        let backlog = signals.backlog.unwrap();
        assert_eq!((backlog.at, backlog.value.depth), (at(9), 13));
        assert_eq!(backlog.value.work, Duration::from_millis(6500), "half a second each");
    }

    #[test]
    fn a_kind_that_nobody_knows_counts_if_the_pool_is_for_it() {
        let policy = Policy { kinds: vec!["encode".parse().unwrap()], ..Policy::default() };
        let stored = Counts::now(23, &[("resize", 20), ("encode", 3)]);

        let signals = Gauge::default().read(&load(10, Vec::new()), Some(Measured::new(&stored, at(10))), &policy);

        let backlog = signals.backlog.unwrap().value;
        assert_eq!((backlog.depth, backlog.work), (3, Duration::from_secs(3)));
    }

    #[test]
    fn what_a_limit_holds_is_no_reason_for_more_agents() {
        let mut gauge = Gauge::default();
        let kind = KindLoad { fetched: 50, waiting: 50, room: Some(2), ..kind("resize", 0, 0) };
        let load = PoolLoad { kinds: vec![kind], ..load(10, vec![agent("ada", 0, 0)]) };
        let stored = Counts::now(500, &[("resize", 500)]);

        let signals = gauge.read(&load, Some(Measured::new(&stored, at(10))), &Policy::default());

        assert_eq!(signals.backlog.unwrap().value.depth, 2);
    }

    #[test]
    fn failures_are_told_when_enough_attempts_have_ended() {
        let mut gauge = Gauge::default();
        let looks = [(0, 0), (9, 10), (9, 20)].map(|(succeeded, failed)| {
            let mut agent = agent("ada", 0, succeeded);
            agent.failed = failed;
            agent
        });
        let shares: Vec<_> = looks
            .into_iter()
            .zip(1..)
            .map(|(agent, look)| gauge.read(&load(look, vec![agent]), None, &Policy::default()).failures)
            .collect();

        assert_eq!((shares[0], shares[1]), (None, None));
        assert!((0.68..0.70).contains(&shares[2].unwrap().value.get()), "20 of 29");
    }

    #[test]
    fn a_report_that_is_too_old_is_none() {
        let mut gauge = Gauge::default();
        let reported = |id, share, second| AgentLoad {
            used: Some(Measured::new(Share::new(share).unwrap(), at(second))),
            ..agent(id, 0, 0)
        };
        let agents = vec![reported("ada", 0.4, 95), reported("bob", 0.8, 98), reported("cid", 1.0, 10)];

        let signals = gauge.read(&load(100, agents), None, &Policy::default());

        let used = signals.utilisation.unwrap();
        assert!((0.59..0.61).contains(&used.value.get()), "{used:?}");
        assert_eq!(used.at, at(95));
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_origin(Duration::from_secs(second))
    }

    fn load(second: u64, agents: Vec<AgentLoad>) -> PoolLoad {
        PoolLoad { at: at(second), epoch: None, in_doubt: false, agents, kinds: Vec::new() }
    }

    fn agent(id: &str, slot_seconds: u64, succeeded: u64) -> AgentLoad {
        AgentLoad {
            agent: Agent {
                id: id.parse().unwrap(),
                state: AgentState::Healthy,
                registered: at(0),
                slots: 4,
                running: 0,
                remaining: Duration::ZERO,
                kinds: BTreeSet::new(),
                pinned: false,
            },
            slot_time: Duration::from_secs(slot_seconds),
            succeeded,
            failed: 0,
            used: None,
        }
    }

    fn kind(name: &str, runs: u64, run_seconds: u64) -> KindLoad {
        KindLoad {
            kind: name.parse().unwrap(),
            fetched: 0,
            waiting: 0,
            ages: Waits::default(),
            oldest: Duration::ZERO,
            hopeless: 0,
            room: None,
            started: None,
            runs,
            run_time: Duration::from_secs(run_seconds),
        }
    }
}
