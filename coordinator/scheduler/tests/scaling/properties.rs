//! What holds whatever is measured, whoever comes, and whoever dies.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;
use proptest::strategy::Strategy as Generator;
use scheduler::Timestamp;
use scheduler::scaling::signals::{Agent, Backlog, Measured, Slots};
use scheduler::scaling::{Order, Policy, Pool, Share, Signals, Wish, victims};
use shared::api::AgentState;
use shared::{AgentId, Kind};

use crate::secs;

/// What is measured at one look, and what has happened before it.
#[derive(Clone, Debug)]
struct Measurement {
    /// Since the look before.
    passed: u64,
    depth: u64,
    work: u64,
    wait: u64,
    /// Of 100 slots.
    taken: u8,
    hosts: u8,
    failures: u8,
    in_doubt: bool,
    /// Whether the backlog was measured now.
    fresh: bool,
    /// Of those that are starting, how many come; of all, how many die.
    come: u8,
    die: u8,
}

fn measurement() -> impl Generator<Value = Measurement> {
    let depth = prop_oneof![3 => Just(0), 1 => 0..50_u64, 1 => 0..5000_u64];
    let load = (depth, 0..20_000_u64, 0..20_u64, 0..=100_u8, 0..=100_u8, 0..=100_u8);
    let doubt = (proptest::bool::weighted(0.05), proptest::bool::weighted(0.9));
    let agents = (0..20_u8, prop_oneof![20 => Just(0), 1 => 0..3_u8]);
    // Now and then so long that everything cools down, and budgets are full again.
    let passed = prop_oneof![20 => Just(5), 2 => 5..60_u64, 1 => 300..4000_u64];
    (passed, load, doubt, agents).prop_map(
        |(passed, (depth, work, wait, taken, hosts, failures), (in_doubt, fresh), (come, die))| Measurement {
            passed,
            depth,
            work,
            wait,
            taken,
            hosts,
            failures,
            in_doubt,
            fresh,
            come,
            die,
        },
    )
}

fn policy() -> impl Generator<Value = Policy> {
    (0..4_u32, 0..20_u32, 2..8_u32, select(vec![30_u64, 60, 300])).prop_map(|(least, more, flaps, cooldown)| Policy {
        min_agents: least,
        max_agents: (least + more).max(1),
        flap_budget: flaps,
        down_cooldown: secs(cooldown),
        ..Policy::default()
    })
}

proptest! {
    #[test]
    fn a_pool_keeps_to_its_bounds_and_its_budgets(policy in policy(), script in script()) {
        prop_assert!(policy.problems("pool").is_empty(), "{:?}", policy.problems("pool"));
        let mut play = Play::new(&policy);
        for measurement in &script {
            play.step(measurement);
            let wished = play.pool.wish().agents();
            prop_assert!(wished.is_none_or(|wished| (policy.min_agents..=policy.max_agents).contains(&wished)));
        }
        prop_assert!(play.most_reversals_in_an_hour() <= policy.flap_budget as usize, "{:?}", play.wished);
    }

    #[test]
    fn the_same_measurements_give_the_same_orders(policy in policy(), script in script()) {
        let (mut one, mut other) = (Play::new(&policy), Play::new(&policy));
        for measurement in &script {
            prop_assert_eq!(one.step(measurement), other.step(measurement));
            prop_assert_eq!(one.pool.latest(), other.pool.latest());
        }
    }

    #[test]
    fn what_is_stale_or_absent_never_changes_the_wish(
        policy in policy(),
        script in script(),
        absent in any::<bool>(),
    ) {
        let mut play = Play::new(&policy);
        play.blind_to_the_backlog = Some(absent);
        let mut wished = None;
        for measurement in &script {
            play.step(measurement);
            let now = play.pool.wish().agents();
            prop_assert!(wished.is_none() || wished == now, "{wished:?} became {now:?}");
            wished = now;
        }
    }

    #[test]
    fn victims_are_never_whom_the_rules_forbid(agents in proptest::collection::vec(anybody(), 0..12), excess in 0..14_usize) {
        let agents: Vec<Agent> = agents.into_iter().enumerate().map(|(number, agent)| named(number, agent)).collect();

        let chosen = victims::choose(&agents.iter().collect::<Vec<_>>(), excess);

        prop_assert!(chosen.len() <= excess);
        prop_assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
        let is_victim = |agent: &&Agent| chosen.contains(&agent.id);
        for victim in agents.iter().filter(is_victim) {
            prop_assert!(!victim.pinned);
            prop_assert!(matches!(victim.state, AgentState::Healthy | AgentState::Degraded));
        }
        let healthy = || agents.iter().filter(|agent| agent.state == AgentState::Healthy);
        let gone = &chosen;
        let staying = || healthy().filter(move |agent| !gone.contains(&agent.id));
        let somebody_stays = agents.iter().any(|agent| agent.is_present() && !chosen.contains(&agent.id));
        for kind in healthy().flat_map(|agent| &agent.kinds).filter(|_| somebody_stays) {
            prop_assert!(staying().any(|agent| agent.kinds.contains(kind)), "nobody is left for {kind}");
        }
        if healthy().any(|agent| chosen.contains(&agent.id)) {
            let working = agents.iter().filter(|a| matches!(a.state, AgentState::Healthy | AgentState::Degraded));
            let running: u32 = working.map(|agent| agent.running).sum();
            prop_assert!(staying().map(|agent| agent.slots).sum::<u32>() >= running);
        }
    }
}

fn script() -> impl Generator<Value = Vec<Measurement>> {
    proptest::collection::vec(measurement(), 1..120)
}

fn anybody() -> impl Generator<Value = Agent> {
    let state = prop_oneof![6 => Just(AgentState::Healthy), 2 => select(AgentState::ALL.to_vec())];
    let kinds = proptest::collection::btree_set(select(vec!["resize", "count", "paint"]), 1..4);
    (state, 0..5_u32, 0..100_u64, kinds, proptest::bool::weighted(0.1)).prop_map(
        |(state, running, remaining, kinds, pinned)| Agent {
            state,
            running,
            remaining: if running == 0 { Duration::ZERO } else { secs(remaining) },
            kinds: kinds.into_iter().map(|kind| Kind::new(kind).expect("a good name")).collect(),
            pinned,
            ..agent(0, Timestamp::default())
        },
    )
}

fn named(number: usize, anybody: Agent) -> Agent {
    Agent { id: id(number), ..anybody }
}

fn id(number: usize) -> AgentId {
    AgentId::new(format!("agent-{number}")).expect("a good name")
}

fn agent(number: usize, registered: Timestamp) -> Agent {
    Agent {
        id: id(number),
        state: AgentState::Healthy,
        registered,
        slots: 4,
        running: 0,
        remaining: Duration::ZERO,
        kinds: BTreeSet::from([Kind::new("work").expect("a good name")]),
        pinned: false,
    }
}

/// A pool and those around it, who do what they are told, some of it.
struct Play {
    pool: Pool,
    now: Timestamp,
    agents: Vec<Agent>,
    ever: usize,
    /// How many are starting, of the last order only: what is late does not come.
    starting: u32,
    wished: Vec<(Timestamp, u32)>,
    /// Whether the backlog is never known: absent, or old.
    blind_to_the_backlog: Option<bool>,
}

impl Play {
    fn new(policy: &Policy) -> Self {
        let now = Timestamp::from_origin(secs(100_000));
        let pool = Pool::new("pool", policy.clone(), Wish::default(), 7);
        let mut play = Self {
            pool,
            now,
            agents: Vec::new(),
            ever: 0,
            starting: 0,
            wished: Vec::new(),
            blind_to_the_backlog: None,
        };
        for _ in 0..policy.min_agents {
            play.begin();
        }
        play
    }

    fn begin(&mut self) {
        self.agents.push(agent(self.ever, self.now));
        self.ever += 1;
    }

    fn step(&mut self, measurement: &Measurement) -> Vec<Order> {
        self.now = self.now + secs(measurement.passed);
        for _ in 0..self.starting.min(measurement.come.into()) {
            self.begin();
        }
        self.starting = 0;
        self.agents.truncate(self.agents.len().saturating_sub(measurement.die.into()));
        let signals = self.signals(measurement);
        let orders = self.pool.evaluate(&signals, self.now);
        for order in &orders {
            match order {
                Order::Start { count, .. } => self.starting += count,
                Order::Drain { agents, .. } | Order::Remove { agents, .. } => {
                    self.agents.retain(|agent| !agents.contains(&agent.id));
                }
            }
        }
        self.wished.extend(self.pool.wish().agents().map(|wished| (self.now, wished)));
        orders
    }

    fn signals(&self, measurement: &Measurement) -> Signals {
        let now = self.now;
        let long_ago = now - secs(21);
        let share = |percent: u8| Share::of(percent.into(), 100.0);
        let total = self.agents.len() as u32 * 4;
        let taken = f64::from(total) * f64::from(measurement.taken) / 100.0;
        let backlog = Backlog {
            depth: measurement.depth,
            oldest: secs(measurement.wait),
            work: secs(if measurement.depth == 0 { 0 } else { measurement.work }),
        };
        let at = if measurement.fresh && self.blind_to_the_backlog.is_none() { now } else { long_ago };
        Signals {
            agents: Some(Measured::new(self.agents.clone(), now)),
            backlog: (self.blind_to_the_backlog != Some(true)).then(|| Measured::new(backlog, at)),
            wait_p95: Some(Measured::new(secs(measurement.wait), now)),
            slots: Some(Measured::new(Slots { total, taken, leaving: 0.0 }, now)),
            utilisation: Some(Measured::new(share(measurement.hosts), now)),
            throughput: Some(Measured::new(f64::from(measurement.taken), now)),
            failures: Some(Measured::new(share(measurement.failures), now)),
            in_doubt: measurement.in_doubt,
        }
    }

    fn most_reversals_in_an_hour(&self) -> usize {
        let mut reversals: Vec<Timestamp> = Vec::new();
        let mut direction = None;
        for pair in self.wished.windows(2).filter(|pair| pair[0].1 != pair[1].1) {
            let is_up = pair[1].1 > pair[0].1;
            if direction.is_some_and(|last| last != is_up) {
                reversals.push(pair[1].0);
            }
            direction = Some(is_up);
        }
        let within = |first: &Timestamp| {
            reversals.iter().filter(|other| *other >= first && other.since(*first) < secs(3600)).count()
        };
        reversals.iter().map(within).max().unwrap_or_default()
    }
}
