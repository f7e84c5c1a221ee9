//! Who gets how much: agents by strategies, tenants by weights, and what has waited long.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use proptest::prelude::{ProptestConfig, prop_assert, proptest};
use scheduler::measure::Fleet;
use scheduler::placement::Strategy;
use scheduler::{Action, Config, Delivery, Dispatch, Done, Event, KindConfig, Placement, Scheduler, Sequence};
use scheduler::{TenantConfig, Timestamp};
use shared::message::{Beat, Hello};
use shared::task::AttemptOutcome;
use shared::{AgentId, Epoch, Incarnation, Kind, Priority, TaskId, TaskOptions};

fn many() -> ProptestConfig {
    ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(many())]

    #[test]
    fn round_robin_is_within_one_of_even_whoever_is_there(agents in 1..40usize, tasks in 1..400usize) {
        let mut fleet = Fleet::empty(Strategy::RoundRobin, agents);
        let mut given = vec![0; agents];

        for _ in 0..tasks {
            given[fleet.pass_through()] += 1;
        }

        let (most, least) = (given.iter().max().unwrap(), given.iter().min().unwrap());
        prop_assert!(most - least <= 1, "{given:?}");
    }

    #[test]
    fn weighted_shares_are_within_5_percent_of_the_weights(runs in proptest::collection::vec(5..50u64, 2..6)) {
        let mut fleet = Fleet::empty(Strategy::Weighted, runs.len());
        for (agent, run) in runs.iter().enumerate() {
            fleet.performs(agent, Duration::from_millis(*run));
        }
        let mut given = vec![0.0; runs.len()];

        for _ in 0..10_000 {
            given[fleet.pass_through()] += 1.0;
        }

        // Twice as fast is twice as much, within the bounds of a weight: 4 times the mean at most.
        let mean = |run: u64| (mean_of(&runs) / run as f64).clamp(0.05, 4.0);
        let sum: f64 = runs.iter().map(|run| mean(*run)).sum();
        for (given, run) in given.iter().zip(&runs) {
            let fair = 10_000.0 * mean(*run) / sum;
            prop_assert!((given - fair).abs() <= fair * 0.05, "{given} instead of {fair:.0} for {run} of {runs:?}");
        }
    }

    #[test]
    fn least_connections_is_within_one_slot_of_even(
        slots in proptest::collection::vec(1..6u32, 1..6),
        ends in proptest::collection::vec(0..20usize, 1..60),
    ) {
        let mut desk = Desk::new(Config::default(), &slots);
        let capacity: u32 = slots.iter().sum();
        for end in ends {
            // What a task is given to has no more than any other, for its slots.
            if desk.running.len() < capacity as usize {
                let before = desk.loads();
                let agent = desk.submit("work", "", Priority::Normal).expect("a slot is free");
                let least = before.values().map(|(taken, slots)| taken / slots).fold(f64::MAX, f64::min);
                let (taken, slots) = before[&agent];
                prop_assert!(taken / slots <= least + 1e-3, "{agent} had {taken} of {slots}: {before:?}");
            }
            if end < desk.running.len() {
                desk.end(end);
            }
        }
    }

    #[test]
    fn tenants_share_in_proportion_to_their_weights_however_long_their_tasks_are(
        weights in proptest::collection::vec(1..5u32, 2..4),
        lengths in proptest::collection::vec(1..20u64, 4),
        slots in 1..4u32,
    ) {
        let tenants: Vec<String> = (0..weights.len()).map(|i| format!("t{i}")).collect();
        let mut config = Config::default();
        for (name, weight) in tenants.iter().zip(&weights) {
            let tenant = TenantConfig { weight: Some(f64::from(*weight)), ..TenantConfig::default() };
            config.tenants.insert(name.clone(), tenant);
        }
        let mut desk = Desk::new(config, &[slots]);
        let length = |tenant: usize, nth: u64| Duration::from_millis(10 * lengths[(tenant + nth as usize) % 4]);
        let mut taken = vec![0.0; tenants.len()];
        let mut nth = 0;

        for name in tenants.iter().cycle().take(8 * tenants.len()) {
            desk.submit("work", name, Priority::Normal);
        }
        for _ in 0..900 {
            // Whatever runs ends when its time has come; the backlog stays what it was.
            let (index, tenant, run) = desk.next_to_end(|tenant| {
                nth += 1;
                let number = tenants.iter().position(|name| name == tenant).unwrap();
                length(number, nth)
            });
            taken[tenants.iter().position(|name| *name == tenant).unwrap()] += run.as_secs_f64();
            desk.end(index);
            desk.submit("work", &tenant, Priority::Normal);
        }

        let (sum, weight): (f64, u32) = (taken.iter().sum(), weights.iter().sum());
        // What the longest task takes cannot be shared.
        let grain = 0.2 * f64::from(slots + 1);
        for (taken, own) in taken.iter().zip(&weights) {
            let fair = sum * f64::from(*own) / f64::from(weight);
            prop_assert!((taken - fair).abs() <= fair * 0.05 + grain, "{taken:.2} instead of {fair:.2}: {weights:?}");
        }
    }

    #[test]
    fn however_much_is_urgent_what_has_waited_long_goes_out_of_turn(
        waiting in 1..6usize, slots in 1..4u32, kinds in 1..3usize,
    ) {
        let placement = Placement { aged_after: Duration::from_secs(1), ..Placement::default() };
        let mut desk = Desk::new(Config { placement, ..Config::default() }, &[slots]);
        let urgent = |desk: &mut Desk, n: usize| desk.submit(["work", "other"][n % kinds], "", Priority::Urgent);
        (0..16).for_each(|n| drop(urgent(&mut desk, n)));
        let low: BTreeSet<TaskId> = (0..waiting).map(|_| desk.submit_id("work", Priority::Low)).collect();
        desk.pass(Duration::from_millis(1100));
        let mut started = 0;

        for n in 0..(waiting + 1) * 17 + 16 {
            desk.pass(Duration::from_millis(60));
            desk.end(0);
            urgent(&mut desk, n);
            started = low.iter().filter(|id| desk.started.contains(*id)).count();
        }

        prop_assert!(started == waiting, "{started} of {waiting} that had waited long were started");
    }
}

fn mean_of(runs: &[u64]) -> f64 {
    // The kind's mean decays: the last hundred attempts that were observed were the last agent's.
    *runs.last().expect("there are some") as f64
}

/// A scheduler that leads, agents that do what they are told, and a clock.
struct Desk {
    scheduler: Scheduler,
    now: Timestamp,
    slots: BTreeMap<AgentId, u32>,
    running: Vec<Dispatch>,
    tenants: BTreeMap<Sequence, String>,
    /// When what runs ends, where that has been drawn.
    ends: BinaryHeap<Reverse<(Timestamp, Sequence)>>,
    began: BTreeMap<Sequence, Timestamp>,
    started: BTreeSet<TaskId>,
    beats: u64,
    count: u64,
}

impl Desk {
    fn new(mut config: Config, slots: &[u32]) -> Self {
        config.kinds.insert("default".into(), KindConfig { max_attempts: Some(1), ..KindConfig::default() });
        let now = Timestamp::from_origin(Duration::from_secs(1000));
        let slots = slots
            .iter()
            .enumerate()
            .map(|(i, slots)| (AgentId::new(format!("a{i}")).expect("it is a good name"), *slots));
        let mut desk = Self {
            scheduler: Scheduler::new(config, 7),
            now,
            slots: slots.collect(),
            running: Vec::new(),
            tenants: BTreeMap::new(),
            ends: BinaryHeap::new(),
            began: BTreeMap::new(),
            started: BTreeSet::new(),
            beats: 0,
            count: 0,
        };
        desk.tell(Event::LeadershipTaken(Epoch(1)));
        desk.tell(Event::HistoriesKnown(Vec::new()));
        for (id, slots) in desk.slots.clone() {
            let kinds = ["work", "other"].map(|kind| Kind::new(kind).expect("it is a good name")).into();
            let hello = Hello { incarnation: Incarnation(1), slots, kinds, ..Hello::default() };
            desk.tell(Event::AgentHello(id, hello));
        }
        desk.beat();
        desk.pass(Duration::from_millis(1200));
        desk
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.scheduler.handle(event, self.now, &mut actions);
        for action in actions {
            if let Action::Dispatch(dispatch) = action {
                self.began.insert(dispatch.sequence, self.now);
                self.started.insert(dispatch.attempt.task.clone());
                self.running.push(dispatch);
            }
        }
    }

    fn beat(&mut self) {
        self.beats += 1;
        for id in self.slots.keys().cloned().collect::<Vec<_>>() {
            let held = |dispatch: &&Dispatch| dispatch.agent == id;
            let holds = self.running.iter().filter(held).map(|dispatch| shared::message::Held {
                task: dispatch.attempt.task.clone(),
                sequence: dispatch.sequence.0,
                kind: Kind::new("work").expect("it is a good name"),
                attempt: dispatch.attempt.attempt,
                epoch: dispatch.attempt.epoch,
                state: shared::message::HeldState::Running,
            });
            let holds = holds.collect();
            let beat = Beat {
                incarnation: Incarnation(1),
                sequence: self.beats,
                holds,
                draining: false,
                lag_ms: 0,
                answer: false,
            };
            self.tell(Event::AgentBeat(id, beat));
        }
    }

    /// Time passes, and agents go on beating.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(250)).min(until);
            self.beat();
            self.tell(Event::CanaryHeard);
            self.tell(Event::DeadlineReached);
        }
    }

    /// The agent that gets the task at once, if one does.
    fn submit(&mut self, kind: &str, tenant: &str, priority: Priority) -> Option<AgentId> {
        let before = self.running.len();
        self.deliver(kind, tenant, priority);
        self.running.get(before).map(|dispatch| dispatch.agent.clone())
    }

    fn submit_id(&mut self, kind: &str, priority: Priority) -> TaskId {
        self.deliver(kind, "", priority);
        TaskId::from_sequence(self.count)
    }

    fn deliver(&mut self, kind: &str, tenant: &str, priority: Priority) {
        self.count += 1;
        let sequence = Sequence(self.count);
        self.tenants.insert(sequence, tenant.to_owned());
        let tenant = (!tenant.is_empty()).then(|| tenant.into());
        let delivery = Delivery {
            sequence,
            id: TaskId::from_sequence(self.count),
            kind: Kind::new(kind).expect("it is a good name"),
            priority,
            accepted: self.now,
            deadline: None,
            options: TaskOptions { tenant, ..TaskOptions::default() },
            cancelled: false,
        };
        self.tell(Event::TaskDelivered(delivery));
    }

    fn end(&mut self, index: usize) {
        let Dispatch { sequence, agent, incarnation, attempt, .. } = self.running.swap_remove(index);
        let run = self.now.since(self.began[&sequence]);
        let (outcome, used) = (AttemptOutcome::Succeeded, shared::Used::default());
        let done = Done { sequence, attempt, incarnation, outcome, error: None, run, used };
        self.tell(Event::AttemptDone(agent, done));
        self.tell(Event::TaskRecorded(sequence));
        self.tell(Event::TaskRemoved(sequence));
    }

    /// Draws how long what was started runs, and moves on to the first end: which it is, whose, and how long it ran.
    fn next_to_end(&mut self, mut run: impl FnMut(&str) -> Duration) -> (usize, String, Duration) {
        let drawn: BTreeSet<Sequence> = self.ends.iter().map(|Reverse((_, sequence))| *sequence).collect();
        for dispatch in self.running.iter().filter(|dispatch| !drawn.contains(&dispatch.sequence)) {
            let end = self.began[&dispatch.sequence] + run(&self.tenants[&dispatch.sequence]);
            self.ends.push(Reverse((end, dispatch.sequence)));
        }
        let Reverse((end, sequence)) = self.ends.pop().expect("something runs");
        let step = end.since(self.now);
        if self.now.since_origin().as_millis() / 200 != end.since_origin().as_millis() / 200 {
            self.pass(step);
        }
        self.now = self.now.max(end);
        let index = self.running.iter().position(|dispatch| dispatch.sequence == sequence).expect("it runs");
        (index, self.tenants[&sequence].clone(), end.since(self.began[&sequence]))
    }

    /// What each agent has, and its slots.
    fn loads(&self) -> BTreeMap<AgentId, (f64, f64)> {
        let taken = |id: &AgentId| self.running.iter().filter(|dispatch| dispatch.agent == *id).count() as f64;
        self.slots.iter().map(|(id, slots)| (id.clone(), (taken(id), f64::from(*slots)))).collect()
    }
}
