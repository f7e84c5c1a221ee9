//! Why a task is where it is: the filter asked of every agent, what goes before it, and what spoke for its agent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use shared::api::{Ahead, Chosen, Explanation, FilterStep, NearMiss, RunnerUp};
use shared::{AgentId, Kind, Resources, TaskId, TaskOptions, quantity};

use crate::kinds::{Demand, KindEntry};
use crate::placement::{Obstacle, Part, Standard, Why, obstacle};
use crate::registry::Agent;
use crate::scheduler::Limit;
use crate::tasks::{Attempt, State, Task};
use crate::view::{WHY_HELD_BACK, why_pausing};
use crate::{Scheduler, Timestamp};

/// So many tasks that are settled are remembered with what spoke for their agents.
const REMEMBERED: usize = 4096;

/// What spoke for the agents of tasks that were settled of late.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<(TaskId, AgentId, Why)>);

impl Recent {
    pub(crate) fn add(&mut self, task: TaskId, agent: AgentId, why: Why) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((task, agent, why));
    }

    fn find(&self, task: &TaskId) -> Option<&(TaskId, AgentId, Why)> {
        self.0.iter().rev().find(|(id, _, _)| id == task)
    }
}

impl Obstacle {
    fn name(self) -> &'static str {
        match self {
            Obstacle::State(_) => "state",
            Obstacle::Needs => "labels",
            Obstacle::TooSmall(_) => "size",
            Obstacle::Pressure => "pressure",
            Obstacle::Busy => "busy",
            Obstacle::Ejected => "ejected",
            Obstacle::Kept => "kept",
            Obstacle::NotEmpty => "empty",
            Obstacle::Slots => "slots",
            Obstacle::Generalist => "generalist",
            Obstacle::Share => "share",
            Obstacle::Reserved(_) => "reserved",
        }
    }

    /// What agents lack that it keeps a task from.
    fn lack(self, demand: &Demand) -> String {
        let amount = |part: Part| format!("{} {}", part.name(demand), part.show(part.asked(demand)));
        match self {
            Obstacle::State(state) => format!("are {state}"),
            Obstacle::Needs => format!("do not meet `{}`", demand.needs),
            Obstacle::TooSmall(part) => format!("have less than {} altogether", amount(part)),
            Obstacle::Pressure => "have hosts short of memory or disk".to_owned(),
            Obstacle::Busy => "have hosts whose CPU is busy".to_owned(),
            Obstacle::Ejected => "fail everything of the kind for now".to_owned(),
            Obstacle::Kept => "are kept free for a task that must run alone".to_owned(),
            Obstacle::NotEmpty => "have something to do still, and it must run alone".to_owned(),
            Obstacle::Slots => "have no free slot".to_owned(),
            Obstacle::Generalist => "keep what they have free for what only they can do".to_owned(),
            Obstacle::Share => "fail more than others, and have their share".to_owned(),
            Obstacle::Reserved(part) => format!("lack {}", amount(part)),
        }
    }

    /// What one agent lacks.
    fn lack_of(self, demand: &Demand, agent: &Agent) -> String {
        let left = |part: Part| {
            let (left, asked) = (part.show(part.left(demand, agent)), part.show(part.asked(demand)));
            format!("has {left} of {} left, and {asked} are asked for", part.name(demand))
        };
        match self {
            Obstacle::State(state) => format!("is {state}"),
            Obstacle::Needs => format!("does not meet `{}`", demand.needs),
            Obstacle::Slots => format!("has {} attempts for {} slots", agent.taken(), agent.slots),
            Obstacle::Reserved(part) => left(part),
            Obstacle::TooSmall(part) => {
                format!("has {} of {} altogether", part.show(part.had(demand, agent)), part.name(demand))
            }
            other => other.lack(demand),
        }
    }
}

impl Part {
    fn name(self, demand: &Demand) -> &str {
        match self {
            Part::Resource(number) => Resources::NAMES[number],
            Part::Countable(number) => demand.reserved.countable.iter().nth(number).map_or("", |(name, _)| name),
        }
    }

    /// An amount as one would write it.
    fn show(self, amount: u64) -> String {
        match self {
            Part::Resource(number) => quantity::show(Resources::NAMES[number], amount),
            Part::Countable(_) => amount.to_string(),
        }
    }

    fn asked(self, demand: &Demand) -> u64 {
        match self {
            Part::Resource(number) => demand.reserved.resources.dimensions()[number],
            Part::Countable(_) => demand.reserved.countable.get(self.name(demand)),
        }
    }

    /// All that the agent has of it.
    fn had(self, demand: &Demand, agent: &Agent) -> u64 {
        match self {
            Part::Resource(number) => agent.capacity.dimensions()[number],
            Part::Countable(_) => agent.countables.get(self.name(demand)),
        }
    }

    /// What the agent has left of it.
    fn left(self, demand: &Demand, agent: &Agent) -> u64 {
        match self {
            Part::Resource(number) => agent.unreserved().dimensions()[number],
            Part::Countable(_) => agent.uncounted(self.name(demand)),
        }
    }
}

impl Scheduler {
    /// Why a task is where it is that is fetched, or was settled of late.
    pub fn why(&self, id: &TaskId, now: Timestamp) -> Option<Explanation> {
        match self.tasks.find(id).and_then(|sequence| self.tasks.get(sequence)) {
            Some(task) => Some(self.why_of(task, now)),
            None => {
                let (_, agent, why) = self.recent.find(id)?;
                let chosen = Some(self.show_chosen(agent.to_string(), why));
                Some(Explanation { summary: format!("it ran on {agent}"), chosen, ..Explanation::default() })
            }
        }
    }

    /// Why a task like this would wait, if it would.
    pub fn why_would(&self, kind: &Kind, options: &TaskOptions, now: Timestamp) -> Explanation {
        let Some(key) = self.kinds.find(kind) else {
            return Explanation { summary: format!("no agent can do `{kind}`"), ..Explanation::default() };
        };
        let tenant = options.tenant.as_deref().and_then(|name| self.tenants.find(name)).unwrap_or_default();
        let reserved = self.kinds.get(key).reserved_by(options);
        self.why_placed(&Demand { tenant, kind: key, needs: options.needs.clone(), reserved, alone: false }, now)
    }

    fn why_of(&self, task: &Task, now: Timestamp) -> Explanation {
        let simple = |summary: String| Explanation { summary, ..Explanation::default() };
        match &task.state {
            State::Waiting => self.why_waiting(task, now),
            State::BackingOff => {
                let is_held = self.kinds.get(task.demand.kind).retries.holds_back(self.tasks.find(&task.id));
                simple(if is_held { WHY_HELD_BACK.to_owned() } else { why_pausing(task) })
            }
            State::Running(attempt) => self.why_running(attempt),
            State::Settling { .. } => simple("its outcome is being recorded".to_owned()),
        }
    }

    fn why_running(&self, attempt: &Attempt) -> Explanation {
        let agent = self.registry.get(attempt.agent).id.to_string();
        let chosen = attempt.why.map(|why| self.show_chosen(agent.clone(), &why));
        let summary = match &chosen {
            Some(_) => format!("it runs on {agent}"),
            None => format!("it runs on {agent}, to which a leader before gave it"),
        };
        Explanation { summary, chosen, ..Explanation::default() }
    }

    /// What keeps a task waiting.
    pub(crate) fn why_waiting(&self, task: &Task, now: Timestamp) -> Explanation {
        let mut explanation = self.why_placed(&task.demand, now);
        let sequence = self.tasks.find(&task.id);
        let ahead = sequence.and_then(|sequence| self.lines.ahead_of(&task.demand, task.priority, sequence));
        if let Some((in_line, in_other_lines)) = ahead {
            explanation.ahead = Some(Ahead { in_line: in_line as u64, in_other_lines: in_other_lines as u64 });
            explanation.starts_in_ms = self.starts_in(&task.demand, in_line + in_other_lines);
        }
        if !self.kinds.get(task.demand.kind).agents.iter().any(|key| self.registry.get(*key).is_present()) {
            explanation.summary = format!("no agent can do `{}`", self.kinds.get(task.demand.kind).kind);
        }
        if self.adoption.is_some() {
            explanation.summary = "the coordinator has just begun to lead, and finds out first what runs".to_owned();
        }
        explanation
    }

    /// What keeps what asks for this from an agent.
    pub(crate) fn why_placed(&self, demand: &Demand, now: Timestamp) -> Explanation {
        let kind = self.kinds.get(demand.kind);
        let standard = Standard::of(demand, kind, &self.registry);
        let obstacles = kind.agents.iter().map(|key| {
            let agent = self.registry.get(*key);
            (agent, obstacle(demand, kind, agent, &standard))
        });
        let (mut steps, mut nearest) = (BTreeMap::<Obstacle, u32>::new(), None::<(Obstacle, u64, &Agent)>);
        for (agent, obstacle) in obstacles {
            let Some(obstacle) = obstacle else { continue };
            *steps.entry(obstacle).or_default() += 1;
            let short = shortfall(obstacle, demand, agent);
            // The later it failed, the nearer it came; and the less it lacks.
            let is_nearer = |(best, least, _): &(Obstacle, u64, &Agent)| {
                (obstacle.stage(), u64::MAX - short) > (best.stage(), u64::MAX - *least)
            };
            if nearest.as_ref().is_none_or(is_nearer) {
                nearest = Some((obstacle, short, agent));
            }
        }
        let limit = self.limit_reached(demand.kind, demand.tenant, now);
        let only = nearest.filter(|_| kind.agents.len() == 1);
        let only = only.map(|(obstacle, _, agent)| format!("{} {}", agent.id, obstacle.lack_of(demand, agent)));
        Explanation {
            summary: limit.map_or_else(|| summary(kind, demand, &steps, only), |limit| self.show_limit(limit, now)),
            agents: kind.agents.len() as u32,
            filters: steps.iter().map(|(obstacle, removed)| step(*obstacle, *removed, demand)).collect(),
            nearest: nearest.map(|(obstacle, _, agent)| NearMiss {
                agent: agent.id.clone(),
                filter: obstacle.name().to_owned(),
                detail: obstacle.lack_of(demand, agent),
            }),
            limit: limit.map(|limit| self.show_limit(limit, now)),
            ..Explanation::default()
        }
    }

    fn show_limit(&self, limit: Limit, now: Timestamp) -> String {
        let wait =
            |until: Timestamp| humantime::format_duration(Duration::from_millis(until.since(now).as_millis() as u64));
        match limit {
            Limit::Paused(kind) => {
                let kind = &self.kinds.get(kind).kind;
                format!("`{kind}` is paused: nothing of it starts before somebody resumes it (`queue.resume`)")
            }
            Limit::KindRunning(kind, most) => {
                format!("{most} of `{}` run, and no more may (`max-running` of the kind)", self.kinds.get(kind).kind)
            }
            Limit::TenantRunning(tenant, most) => {
                let name = &self.tenants.get(tenant).name;
                format!("{most} of tenant `{name}` run, and no more may (`max-running` of the tenant)")
            }
            Limit::KindRate(kind, until) => {
                format!("the rate of `{}` lets the next one start in {}", self.kinds.get(kind).kind, wait(until))
            }
            Limit::TenantRate(tenant, until) => {
                let name = &self.tenants.get(tenant).name;
                format!("the rate of tenant `{name}` lets the next one start in {}", wait(until))
            }
        }
    }

    /// When it may start that has so many of its kind before it.
    fn starts_in(&self, demand: &Demand, ahead: usize) -> Option<u64> {
        let slots = self.registry.fleet().load_of(demand.kind).slots;
        let run = self.kinds.get(demand.kind).run_time.seconds()?;
        (slots > 0).then(|| (run * 1000.0 * (ahead + 1) as f64 / slots as f64).ceil() as u64)
    }

    fn show_chosen(&self, agent: String, why: &Why) -> Chosen {
        let name = |key| self.registry.try_get(key).map_or_else(|| "one that is gone".to_owned(), |a| a.id.to_string());
        Chosen {
            agent,
            strategy: why.by.as_str().to_owned(),
            score: why.by.score(why.key),
            score_means: why.by.score_means().to_owned(),
            runner_up: why.runner_up.map(|(key, score)| RunnerUp { agent: name(key), score: why.by.score(score) }),
            had_free_slot: why.had_free_slot,
        }
    }
}

impl Obstacle {
    /// How many filters an agent has passed that this one keeps a task from.
    fn stage(self) -> u8 {
        match self {
            Obstacle::State(_) => 0,
            Obstacle::Needs => 1,
            Obstacle::TooSmall(_) => 2,
            Obstacle::Pressure => 3,
            Obstacle::Busy => 4,
            Obstacle::Ejected => 5,
            Obstacle::Kept | Obstacle::NotEmpty => 6,
            Obstacle::Slots => 7,
            Obstacle::Generalist => 8,
            Obstacle::Share => 9,
            Obstacle::Reserved(_) => 10,
        }
    }
}

/// In one sentence; `only` is what the agent lacks, where there is but one.
fn summary(kind: &KindEntry, demand: &Demand, steps: &BTreeMap<Obstacle, u32>, only: Option<String>) -> String {
    let (agents, removed) = (kind.agents.len(), steps.values().map(|count| *count as usize).sum::<usize>());
    if removed < agents {
        return "an agent could take it: it is about to be placed".to_owned();
    }
    match only {
        _ if agents == 0 => format!("no agent can do `{}`", kind.kind),
        Some(only) => format!("only one agent can do `{}`, and {only}", kind.kind),
        None => {
            let parts: Vec<String> =
                steps.iter().map(|(obstacle, count)| format!("{count} {}", obstacle.lack(demand))).collect();
            format!("none of the {agents} agents that can do `{}` can take it: {}", kind.kind, parts.join(", "))
        }
    }
}

fn step(obstacle: Obstacle, removed: u32, demand: &Demand) -> FilterStep {
    FilterStep { filter: obstacle.name().to_owned(), removed, detail: obstacle.lack(demand) }
}

/// How much an agent lacks.
fn shortfall(obstacle: Obstacle, demand: &Demand, agent: &Agent) -> u64 {
    match obstacle {
        Obstacle::TooSmall(part) => part.asked(demand).saturating_sub(part.had(demand, agent)),
        Obstacle::Reserved(part) => part.asked(demand).saturating_sub(part.left(demand, agent)),
        Obstacle::Slots => (agent.taken() as u64).saturating_sub(u64::from(agent.slots)),
        _ => 0,
    }
}
