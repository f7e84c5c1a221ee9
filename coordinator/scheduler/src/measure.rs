//! For the benchmarks: placing by itself, on the very index that the scheduler places with, and the whole way of a task.

use std::collections::VecDeque;
use std::time::Duration;

use shared::api::AgentState;
use shared::message::Hello;
use shared::task::AttemptOutcome;
use shared::{AgentId, Epoch, Incarnation, Kind, Priority, TaskId, TaskOptions, Used};

use crate::config::{Config, KindConfig};
use crate::event::{Action, Actions, Delivery, Dispatch, Done, Event, Sequence};
use crate::kinds::Demand;
use crate::placement::Strategy;
use crate::registry::AgentKey;
use crate::{Scheduler, Timestamp, placement};

/// A fleet of agents, and attempts that come and go.
#[derive(Debug)]
pub struct Fleet {
    scheduler: Scheduler,
    demand: Demand,
    now: Timestamp,
    running: VecDeque<(AgentKey, Sequence)>,
    count: u64,
}

impl Fleet {
    /// So many agents with eight slots each, half of them taken.
    pub fn new(strategy: Strategy, agents: usize) -> Self {
        let mut fleet = Self::empty(strategy, agents);
        (0..agents * 4).for_each(|_| fleet.place());
        fleet
    }

    /// The same, with nothing to do.
    pub fn empty(strategy: Strategy, agents: usize) -> Self {
        let mut config = Config::default();
        let kind = KindConfig { strategy: Some(strategy), ..KindConfig::default() };
        config.kinds.insert("default".into(), kind);
        let mut scheduler = Scheduler::new(config, 1);
        let now = Timestamp::from_origin(Duration::from_secs(1000));
        let kind = Kind::new("work").expect("it is a good name");
        for number in 0..agents {
            let hello = Hello {
                incarnation: Incarnation(1),
                slots: 8,
                queue: 0,
                labels: [("zone".to_owned(), format!("z{}", number % 3))].into(),
                kinds: vec![kind.clone()],
                ..Hello::default()
            };
            let id = AgentId::new(format!("agent-{number}")).expect("it is a good name");
            scheduler.agent_hello(&id, &hello, now, &mut Vec::new());
            let key = scheduler.registry.find(&id).expect("it has just said hello");
            scheduler.registry.get_mut(key).state = AgentState::Healthy;
        }
        let demand = Demand::plain(scheduler.kind_key(&kind));
        Self { scheduler, demand, now, running: VecDeque::new(), count: 0 }
    }

    /// The agent of this number has been seen to do the work in so long.
    pub fn performs(&mut self, agent: usize, run: Duration) {
        let id = AgentId::new(format!("agent-{agent}")).expect("it is a good name");
        let Scheduler { kinds, registry, .. } = &mut self.scheduler;
        let key = registry.find(&id).expect("there is an agent of this number");
        for _ in 0..100 {
            registry.get_mut(key).performance.entry(self.demand.kind).or_default().observe(true, run);
            kinds.get_mut(self.demand.kind).run_time.observe(run);
        }
    }

    /// How many attempts are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// The number of the agent that gets the next attempt; it ends at once.
    pub fn pass_through(&mut self) -> usize {
        self.place();
        let (agent, sequence) = self.running.pop_back().expect("it was placed just now");
        self.scheduler.registry.get_mut(agent).in_flight.swap_remove(&sequence);
        agent.index()
    }

    /// One attempt ends, the one that began first, and another is placed.
    pub fn turn(&mut self) {
        self.end();
        self.place();
    }

    fn place(&mut self) {
        let Scheduler { kinds, registry, random, .. } = &mut self.scheduler;
        // The clock moves on as it would at a million placements a second.
        self.now = self.now + Duration::from_micros(1);
        placement::prepare(&self.demand, kinds, registry, self.now);
        let kind = kinds.get_mut(self.demand.kind);
        let choice = placement::choose(&self.demand, None, kind, registry, random).expect("half of the slots are free");
        self.count += 1;
        let sequence = Sequence(self.count);
        let agent = registry.get_mut(choice.agent);
        agent.in_flight.insert(sequence);
        agent.last_turn = self.count;
        self.running.push_back((choice.agent, sequence));
    }

    fn end(&mut self) {
        if let Some((agent, sequence)) = self.running.pop_front() {
            self.scheduler.registry.get_mut(agent).in_flight.swap_remove(&sequence);
        }
    }
}

/// The whole way of tasks through the scheduler: delivered, ordered, done, recorded, removed.
#[derive(Debug)]
pub struct Cycle {
    scheduler: Scheduler,
    kind: Kind,
    now: Timestamp,
    running: VecDeque<Dispatch>,
    actions: Actions,
    count: u64,
}

impl Cycle {
    /// So many agents with eight slots each, half of them taken.
    pub fn new(strategy: Strategy, agents: usize) -> Self {
        let Fleet { mut scheduler, now, .. } = Fleet::empty(strategy, agents);
        let kind = Kind::new("work").expect("it is a good name");
        let mut actions = Actions::new();
        scheduler.handle(Event::LeadershipTaken(Epoch(1)), now, &mut actions);
        scheduler.handle(Event::HistoriesKnown(Vec::new()), now, &mut actions);
        scheduler.adoption = None;
        actions.clear();
        let mut cycle = Self { scheduler, kind, now, running: VecDeque::new(), actions, count: 0 };
        (0..agents * 4).for_each(|_| cycle.deliver());
        cycle
    }

    /// One task ends, the one that began first, and another comes.
    pub fn turn(&mut self) {
        if let Some(dispatch) = self.running.pop_front() {
            self.end(dispatch);
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        self.count += 1;
        self.now = self.now + Duration::from_micros(1);
        let sequence = Sequence(self.count);
        let delivery = Delivery {
            sequence,
            id: TaskId::from_sequence(self.count),
            kind: self.kind.clone(),
            priority: Priority::Normal,
            accepted: self.now,
            deadline: None,
            options: TaskOptions::default(),
            cancelled: false,
        };
        self.tell(Event::TaskDelivered(delivery));
        let ordered = self.actions.drain(..).filter_map(|action| match action {
            Action::Dispatch(dispatch) => Some(dispatch),
            _ => None,
        });
        self.running.extend(ordered);
    }

    fn end(&mut self, dispatch: Dispatch) {
        let Dispatch { sequence, agent, incarnation, attempt, .. } = dispatch;
        let (outcome, run) = (AttemptOutcome::Succeeded, Duration::from_millis(10));
        let done = Done { sequence, attempt, incarnation, outcome, error: None, run, used: Used::default() };
        self.tell(Event::AttemptDone(agent, done));
        self.tell(Event::TaskRecorded(sequence));
        self.tell(Event::TaskRemoved(sequence));
        self.actions.clear();
    }

    fn tell(&mut self, event: Event) {
        self.scheduler.handle(event, self.now, &mut self.actions);
    }
}
