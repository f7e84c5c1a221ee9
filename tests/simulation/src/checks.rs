//! The invariants: what has to be so after every step, and what is looked at now and then because it costs more.

use shared::api::{self, AgentState, TaskState};
use shared::message::HeldState;

use crate::clock::secs;
use crate::coordinator::{Node, Stage};
use crate::event::Micros;
use crate::marks::Mark;
use crate::oracle::Fresh;
use crate::world::World;

/// After this much time without a fault, everybody is what they seem to be.
const SETTLED: Micros = secs(8);

impl World {
    /// Orders that were just given, against what agents really hold.
    pub(crate) fn check_orders(&mut self) {
        if !self.ctx.lost_agents.is_empty() {
            for agent in std::mem::take(&mut self.ctx.lost_agents) {
                self.check_verdict(agent as usize);
            }
        }
        if self.ctx.oracle.fresh.is_empty() {
            return;
        }
        for fresh in std::mem::take(&mut self.ctx.oracle.fresh) {
            let newest = self.coordinators.iter().filter_map(|c| c.node.as_ref()?.scheduler.epoch()).max();
            if fresh.first && newest == Some(fresh.attempt.epoch) && self.links_are_well() {
                self.check_adoption(&fresh);
            }
        }
        if self.coordinators.iter().filter(|coordinator| coordinator.leads()).count() > 1 {
            self.ctx.reach(Mark::TwoLeaders);
        }
    }

    /// Whether nothing went wrong of late but with coordinators.
    fn links_are_well(&self) -> bool {
        let options = &self.ctx.options;
        let noisy = options.lost > 0.0 || options.late.0 > 0.0 || options.slow_turns.0 > 0.0;
        (self.ctx.calm || !noisy) && self.ctx.now > self.ctx.last_fault + SETTLED
    }

    fn is_well(&self, agent: usize) -> bool {
        let Some(process) = &self.agents[agent].process else { return false };
        let links = self.places.of_agent(agent);
        let connected = links.iter().all(|link| self.ctx.links[link.0].up);
        connected
            && process.paused_until <= self.ctx.now
            && process.connected_since.is_some_and(|since| self.ctx.now > since + secs(5))
    }

    /// A new leader starts nothing that a live agent runs.
    fn check_adoption(&mut self, fresh: &Fresh) {
        let working = (0..self.agents.len())
            .find(|agent| self.is_well(*agent) && self.agents[*agent].works_on(&fresh.attempt.task));
        if let Some(agent) = working {
            let text = format!("{:?} was ordered while agent {agent} runs the task and is well", fresh.attempt);
            self.ctx.oracle.fail(text);
        }
    }

    /// No agent is declared lost that is well.
    fn check_verdict(&mut self, agent: usize) {
        if self.links_are_well() && self.is_well(agent) {
            self.ctx.oracle.fail(format!("agent {agent} was declared lost, and is well"));
        }
    }

    /// Everything that costs more to look at.
    pub(crate) fn check_everything(&mut self) {
        self.check_stream();
        for place in 0..self.coordinators.len() {
            let Some(node) = &self.coordinators[place].node else { continue };
            if let Some(problem) = self.problem_of(node) {
                self.ctx.oracle.fail(format!("coordinator {place}: {problem}"));
            }
        }
        for agent in &self.agents {
            if agent.handlers() > agent.offer.slots as usize {
                let text = format!("agent {} runs more than it has slots", agent.place);
                self.ctx.oracle.fail(text);
            }
        }
    }

    /// What was accepted and has no outcome is in the stream.
    fn check_stream(&mut self) {
        let in_stream = self.broker.tasks().filter(|stored| self.broker.result(&stored.id).is_none()).count();
        let lost = self.ctx.oracle.open.iter().find(|place| {
            let task = &self.ctx.oracle.tasks[**place];
            task.messages == 0 && task.outcome.is_none() && !task.nature.discarded
        });
        if let Some(place) = lost {
            let text = format!("task {place} is lost ({in_stream} are in the stream)");
            self.ctx.oracle.fail(text);
        }
    }

    /// What is wrong with what a coordinator believes.
    fn problem_of(&self, node: &Node) -> Option<String> {
        let now = node.now(&self.ctx);
        let tasks = node.scheduler.tasks(now, |_| true, usize::MAX);
        let unexplained = tasks
            .iter()
            .find(|task| task.state == TaskState::Waiting && task.reason.as_deref().is_none_or(str::is_empty));
        if let Some(task) = unexplained {
            return Some(format!("{task:?} waits without a reason"));
        }
        for agent in node.scheduler.agents(now) {
            let has = |task: &&api::Task| {
                task.state == TaskState::Running && task.agent.as_deref() == Some(agent.id.as_str())
            };
            let held: Vec<&api::Task> = tasks.iter().filter(has).collect();
            if (agent.running + agent.queued) as usize != held.len() {
                return Some(format!("{agent:?} has {held:?}"));
            }
            // Two messages of one task may be in hand for a moment: one is adopted, and one came from the stream.
            let twice = |task: &&api::Task| tasks.iter().filter(|other| other.id == task.id).count() > 1;
            if held.iter().any(twice) {
                continue;
            }
            let reserved: u64 = held.iter().map(|task| self.reserved_for(node, task)).sum();
            if agent.reserved.cpu_millis != reserved {
                return Some(format!("{agent:?} has {reserved} reserved by {held:?}"));
            }
            if agent.state == AgentState::Offline && !held.is_empty() {
                return Some(format!("{agent:?} is gone and has {held:?}"));
            }
        }
        self.problem_of_queues(node, &tasks)
    }

    fn problem_of_queues(&self, node: &Node, tasks: &[api::Task]) -> Option<String> {
        node.scheduler.queues().into_iter().find_map(|queue| {
            let running = tasks.iter().filter(|t| t.kind == queue.kind && t.state == TaskState::Running).count() as u64;
            (queue.running != running).then(|| format!("{queue:?}, but {running} run"))
        })
    }

    /// What a running task reserves: nothing while only its agent has told of it.
    fn reserved_for(&self, node: &Node, task: &api::Task) -> u64 {
        let delivered = node.envelope_of(&task.id).filter(|envelope| envelope.stage == Stage::Held);
        delivered.map_or(0, |envelope| self.ctx.oracle.tasks[envelope.stored.task].nature.cpu_millis)
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_at_rest(&self) -> bool {
        let nodes = || self.coordinators.iter().filter_map(|coordinator| coordinator.node.as_ref());
        let is_idle = |node: &Node| {
            let agents = node.scheduler.agents(node.now(&self.ctx));
            node.reign.as_ref().is_none_or(|reign| reign.envelopes.is_empty())
                && node.scheduler.task_count() == 0
                && agents.iter().all(|agent| agent.running + agent.queued == 0 && agent.reserved.cpu_millis == 0)
        };
        self.ctx.oracle.open.is_empty()
            && self.broker.tasks().next().is_none()
            && self.agents.iter().all(|agent| agent.handlers() == 0 && agent.holds().is_empty())
            && nodes().filter(|node| node.reign.is_some()).count() == 1
            && nodes().all(is_idle)
    }

    /// What is left to be done, in words.
    pub(crate) fn unrest(&self) -> String {
        let mut unrest = Vec::new();
        let leading: Vec<&Node> = self.coordinators.iter().filter_map(|c| c.node.as_ref()).collect();
        let leaders = leading.iter().filter(|node| node.reign.is_some()).count();
        if leaders != 1 {
            unrest.push(format!("{leaders} coordinators lead"));
        }
        for node in leading.iter().filter(|node| node.reign.is_some()) {
            unrest.extend(self.unrest_of(node));
        }
        unrest.push(format!("the broker's lanes: {}", self.broker.show_lanes()));
        for place in self.ctx.oracle.open.iter().take(5) {
            unrest.push(format!("open: {:?}", self.ctx.oracle.tasks[*place]));
        }
        for stored in self.broker.tasks().take(3) {
            unrest.push(format!("in the stream: {stored:?}"));
        }
        for agent in &self.agents {
            let holds = agent.holds();
            if !holds.is_empty() || agent.handlers() > 0 {
                let done = holds.iter().filter(|held| held.state == HeldState::Done).count();
                unrest.push(format!("agent {} holds {holds:?}, {done} of them done", agent.place));
            }
        }
        unrest.join("\n  ")
    }

    fn unrest_of(&self, node: &Node) -> Vec<String> {
        let mut unrest = Vec::new();
        let now = node.now(&self.ctx);
        unrest.extend(node.reign.as_ref().map(|reign| format!("its lanes: {}", reign.show_lanes())));
        unrest.extend(node.scheduler.tasks(now, |_| true, 5).iter().map(|task| format!("in hand: {task:?}")));
        if let Some(reign) = &node.reign {
            unrest.extend(reign.envelopes.values().take(3).map(|envelope| format!("held: {envelope:?}")));
        }
        for agent in node.scheduler.agents(now) {
            if agent.running + agent.queued > 0 || agent.reserved.cpu_millis > 0 {
                unrest.push(format!("believed busy: {agent:?}"));
            }
        }
        unrest
    }
}
