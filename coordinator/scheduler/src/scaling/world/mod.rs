//! A pool in virtual time: tasks come, wait, and run in slots; agents start, are drained, and die.
//!
//! It is what the arbiter is tested with, and what `coordinator scale simulate` has recorded loads run through. It is first
//! come, first served: how tasks are placed makes no difference to how many agents it takes.

mod actuator;
mod curve;
mod run;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use shared::api::AgentState;
use shared::{AgentId, Kind};

pub use self::actuator::Actuator;
pub use self::curve::{Curve, Task};
pub use self::run::{Look, Ordered, Run, Started, percentile};
use super::signals::{Agent, Backlog, Measured, Slots};
use super::{Order, Pool, Share, Signals, Wish};
use crate::Timestamp;

/// Looks that the percentile of the waits goes back over.
const LOOKS_OF_WAITS: u32 = 6;
/// A slot that is taken makes so much of its share of the host busy.
const HOST_SHARE: f64 = 0.6;

/// What happens, in its order at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Comes(usize),
    Ends { agent: usize, task: usize },
    Begins,
    Dies(usize),
    Look,
}

/// An agent that is or was there.
#[derive(Debug)]
struct Member {
    id: AgentId,
    registered: Duration,
    running: Vec<usize>,
    leaves: bool,
    is_gone: bool,
}

/// Something else that happens during a run.
#[derive(Clone, Copy, Debug)]
pub enum Mishap {
    /// So many agents die.
    Deaths(u32),
    /// Another leader takes over.
    Takeover {
        /// Whether it knows what was stored, or only what was so before the last order.
        knows_the_last: bool,
        /// A wish as it comes from where it is stored.
        stored: fn(&Wish) -> Wish,
    },
}

/// Tasks by kind.
#[derive(Clone, Copy, Debug, Default)]
struct OfKind {
    waiting: u32,
    /// Those that have ended, and how many seconds they ran together.
    ended: u32,
    seconds: f64,
}

impl OfKind {
    /// How long its tasks have run in the mean; a second before any has ended.
    fn run_time(&self) -> f64 {
        if self.ended == 0 { 1.0 } else { self.seconds / f64::from(self.ended) }
    }
}

/// A pool, and everything that happens to it.
#[derive(Debug)]
pub struct World<'a> {
    curve: &'a Curve,
    actuator: Actuator,
    mishap: Option<(Duration, Mishap)>,
    chance: fastrand::Rng,
    pool: Pool,
    stored: Vec<Wish>,
    now: Duration,
    ahead: BinaryHeap<Reverse<(Duration, u64, What)>>,
    happened: u64,
    members: Vec<Member>,
    /// Who has a free slot; agents that leave are skipped.
    free: VecDeque<usize>,
    queue: VecDeque<usize>,
    starting: u32,
    /// Slots taken of agents that stay, and of those that leave, and both since the last look.
    taken: u32,
    leaving: u32,
    taken_seconds: f64,
    leaving_seconds: f64,
    present: u32,
    ended: u64,
    waits: VecDeque<Started>,
    kinds: Vec<OfKind>,
    run: Run,
}

impl<'a> World<'a> {
    /// Before anything happens, with the agents that the curve begins with. What is by chance is drawn from the seed.
    pub fn new(curve: &'a Curve, actuator: Actuator, seed: u64) -> Self {
        let pool = Pool::new(&curve.name, curve.policy.clone(), Wish::default(), seed);
        let mut world = Self {
            curve,
            actuator,
            mishap: None,
            chance: fastrand::Rng::with_seed(seed),
            pool,
            stored: Vec::new(),
            now: Duration::ZERO,
            ahead: BinaryHeap::new(),
            happened: 0,
            members: Vec::new(),
            free: VecDeque::new(),
            queue: VecDeque::new(),
            starting: 0,
            taken: 0,
            leaving: 0,
            taken_seconds: 0.0,
            leaving_seconds: 0.0,
            present: 0,
            ended: 0,
            waits: VecDeque::new(),
            kinds: vec![OfKind::default(); curve.kinds()],
            run: Run::default(),
        };
        for _ in 0..curve.agents {
            world.begin();
        }
        if let Some(first) = curve.tasks.first() {
            world.later(first.comes, What::Comes(0));
        }
        world.later(curve.policy.interval, What::Look);
        world
    }

    /// This happens at the first look from then on.
    #[must_use]
    pub fn with_mishap(mut self, at: Duration, mishap: Mishap) -> Self {
        self.mishap = Some((at, mishap));
        self
    }

    /// Lets everything happen, to the curve's end.
    pub fn run(mut self) -> Run {
        while let Some(Reverse((at, _, what))) = self.ahead.pop() {
            if at > self.curve.end {
                break;
            }
            self.pass(at);
            match what {
                What::Comes(task) => self.comes(task),
                What::Ends { agent, task } => self.ends(agent, task),
                What::Begins => {
                    self.starting -= 1;
                    self.begin();
                }
                What::Dies(agent) => self.dies(agent),
                What::Look => self.look(),
            }
            self.place();
        }
        self.run.left = self.queue.len();
        self.run.events = self.pool.history().events().cloned().collect();
        self.run
    }

    fn later(&mut self, at: Duration, what: What) {
        self.happened += 1;
        self.ahead.push(Reverse((at, self.happened, what)));
    }

    fn pass(&mut self, to: Duration) {
        let span = (to - self.now).as_secs_f64();
        self.taken_seconds += f64::from(self.taken) * span;
        self.leaving_seconds += f64::from(self.leaving) * span;
        self.run.slot_seconds += f64::from(self.taken + self.leaving) * span;
        self.run.agent_seconds += f64::from(self.present + self.starting) * span;
        self.now = to;
    }

    fn task(&self, number: usize) -> Task {
        self.curve.tasks[number]
    }

    fn comes(&mut self, number: usize) {
        let kind = self.task(number).kind;
        self.kinds[kind].waiting += 1;
        self.queue.push_back(number);
        if let Some(next) = self.curve.tasks.get(number + 1) {
            self.later(next.comes, What::Comes(number + 1));
        }
    }

    fn begin(&mut self) {
        let (number, now) = (self.members.len(), self.now);
        let id = AgentId::new(format!("agent-{number}")).expect("a good name");
        self.members.push(Member { id, registered: now, running: Vec::new(), leaves: false, is_gone: false });
        self.free.extend(std::iter::repeat_n(number, self.curve.policy.slots as usize));
        self.present += 1;
        if let Some(lifetime) = self.actuator.lifetime().filter(|_| now > Duration::ZERO) {
            self.later(now + lifetime, What::Dies(number));
        }
    }

    fn place(&mut self) {
        while let Some(number) = self.queue.front().copied() {
            let Some(agent) = self.free_agent() else { return };
            self.queue.pop_front();
            let task = self.task(number);
            self.kinds[task.kind].waiting -= 1;
            self.taken += 1;
            self.members[agent].running.push(number);
            let started = Started { at: self.now, waited: self.now.saturating_sub(task.comes) };
            self.run.started.push(started);
            self.waits.push_back(started);
            self.later(self.now + task.runs, What::Ends { agent, task: number });
        }
    }

    fn free_agent(&mut self) -> Option<usize> {
        while let Some(agent) = self.free.pop_front() {
            let member = &self.members[agent];
            if !member.leaves && !member.is_gone {
                return Some(agent);
            }
        }
        None
    }

    fn ends(&mut self, agent: usize, number: usize) {
        let task = self.task(number);
        let member = &mut self.members[agent];
        if member.is_gone {
            return;
        }
        member.running.retain(|running| *running != number);
        let (leaves, is_idle) = (member.leaves, member.running.is_empty());
        self.kinds[task.kind].seconds += task.runs.as_secs_f64();
        self.kinds[task.kind].ended += 1;
        self.ended += 1;
        if leaves {
            self.leaving -= 1;
            if is_idle {
                self.leave(agent);
            }
        } else {
            self.taken -= 1;
            self.free.push_back(agent);
        }
    }

    fn leave(&mut self, agent: usize) {
        self.members[agent].is_gone = true;
        self.present -= 1;
    }

    fn dies(&mut self, agent: usize) {
        if self.members[agent].is_gone {
            return;
        }
        let lost = std::mem::take(&mut self.members[agent].running);
        let count = lost.len() as u32;
        let taken = if self.members[agent].leaves { &mut self.leaving } else { &mut self.taken };
        *taken -= count;
        self.run.interrupted += u64::from(count);
        for number in lost {
            let kind = self.task(number).kind;
            self.kinds[kind].waiting += 1;
            self.queue.push_front(number);
        }
        self.leave(agent);
    }

    fn look(&mut self) {
        self.meet_mishap();
        let signals = self.signals();
        let now = self.timestamp();
        let orders = self.pool.evaluate(&signals, now);
        // What is stored is stored before anything is done.
        self.stored.push(self.pool.wish().clone());
        self.note(&signals);
        for order in orders {
            self.carry_out(order, &signals);
        }
        (self.taken_seconds, self.leaving_seconds, self.ended) = (0.0, 0.0, 0);
        self.later(self.now + self.curve.policy.interval, What::Look);
    }

    fn meet_mishap(&mut self) {
        let Some((_, mishap)) = self.mishap.take_if(|(at, _)| *at <= self.now) else { return };
        match mishap {
            Mishap::Deaths(count) => {
                let there = (0..self.members.len()).filter(|number| !self.members[*number].is_gone);
                let victims: Vec<usize> = there.take(count as usize).collect();
                for agent in victims {
                    self.dies(agent);
                }
            }
            Mishap::Takeover { knows_the_last, stored } => {
                let back = usize::from(!knows_the_last);
                let wish = self.stored.iter().rev().nth(back).map(stored).unwrap_or_default();
                self.pool = Pool::new(&self.curve.name, self.curve.policy.clone(), wish, 99);
            }
        }
    }

    fn carry_out(&mut self, order: Order, signals: &Signals) {
        match order {
            Order::Start { order, count, .. } => {
                self.run.ordered.push(Ordered { at: self.now, count });
                match self.actuator.start(count, &mut self.chance) {
                    Ok(after) => {
                        self.starting += after.len() as u32;
                        for after in after {
                            self.later(self.now + after, What::Begins);
                        }
                    }
                    Err(error) => {
                        let now = self.timestamp();
                        self.pool.refused(order, error, signals, now);
                    }
                }
            }
            Order::Drain { agents, .. } => {
                for id in agents {
                    self.drain(&id);
                }
            }
            Order::Remove { .. } => {}
        }
    }

    fn drain(&mut self, id: &AgentId) {
        let Some(agent) = self.members.iter().position(|member| member.id == *id) else { return };
        let member = &mut self.members[agent];
        if member.leaves || member.is_gone {
            return;
        }
        member.leaves = true;
        let running = member.running.len() as u32;
        self.taken -= running;
        self.leaving += running;
        if running == 0 {
            self.leave(agent);
        }
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::from_origin(self.now)
    }

    fn signals(&mut self) -> Signals {
        let (now, interval) = (self.timestamp(), self.curve.policy.interval.as_secs_f64());
        let span = self.curve.policy.interval * LOOKS_OF_WAITS;
        while self.waits.front().is_some_and(|started| started.at + span < self.now) {
            self.waits.pop_front();
        }
        let there: Vec<&Member> = self.members.iter().filter(|member| !member.is_gone).collect();
        let total = there.iter().filter(|member| !member.leaves).count() as u32 * self.curve.policy.slots;
        let (taken, leaving) = (self.taken_seconds / interval, self.leaving_seconds / interval);
        let work: f64 = self.kinds.iter().map(|kind| f64::from(kind.waiting) * kind.run_time()).sum();
        let oldest =
            self.queue.front().map_or(Duration::ZERO, |first| self.now.saturating_sub(self.task(*first).comes));
        let backlog = Backlog { depth: self.queue.len() as u64, oldest, work: Duration::from_secs_f64(work) };
        let wait_p95 = percentile(95, self.waits.iter().map(|started| started.waited).collect());
        Signals {
            agents: Some(Measured::new(there.iter().map(|member| self.show(member)).collect(), now)),
            backlog: Some(Measured::new(backlog, now)),
            wait_p95: Some(Measured::new(wait_p95, now)),
            slots: Some(Measured::new(Slots { total, taken, leaving }, now)),
            utilisation: Some(Measured::new(Share::of(taken * HOST_SHARE, total.into()), now)),
            throughput: Some(Measured::new(self.ended as f64 / interval, now)),
            failures: None,
            in_doubt: false,
        }
    }

    fn show(&self, member: &Member) -> Agent {
        let run_time = |number: &usize| self.kinds[self.task(*number).kind].run_time();
        let remaining = member.running.iter().map(run_time).sum::<f64>();
        Agent {
            id: member.id.clone(),
            state: if member.leaves { AgentState::Stopping } else { AgentState::Healthy },
            registered: Timestamp::from_origin(member.registered),
            slots: self.curve.policy.slots,
            running: member.running.len() as u32,
            remaining: Duration::from_secs_f64(remaining),
            kinds: BTreeSet::from([Kind::new("work").expect("a good name")]),
            pinned: false,
        }
    }

    fn note(&mut self, signals: &Signals) {
        let slots = signals.slots.map(|slots| slots.value).unwrap_or_default();
        self.run.looks.push(Look {
            at: self.now,
            busy: slots.taken + slots.leaving,
            present: self.present,
            wished: self.pool.wish().agents().unwrap_or_default(),
            wait_p95: signals.wait_p95.map(|wait| wait.value).unwrap_or_default(),
        });
    }
}
