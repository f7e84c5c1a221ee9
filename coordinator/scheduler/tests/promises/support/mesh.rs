//! The mesh: the scheduler that leads, one that stands by, the agents, the broker and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use scheduler::{Action, Actions, Config, Delivery, Dispatch, Done, Event, History, Scheduler, Sequence, Settlement};
use scheduler::{KindConfig, Timestamp, Unreadable, placement::Strategy};
use shared::api::{self, AgentState, TaskState};
use shared::message::AttemptRef;
use shared::task::AttemptOutcome;
use shared::{AgentId, Epoch, Kind, TaskId};

use super::{Agent, TaskSpec, ms};

const BEAT: Duration = ms(500);

/// How far the clock moves at once while time passes.
const STEP: Duration = ms(25);

/// A scheduler with everything that it talks to.
pub(crate) struct Mesh {
    pub(crate) leader: Scheduler,
    /// It hears what the leader hears of agents.
    pub(crate) standby: Scheduler,
    pub(crate) now: Timestamp,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    /// Whether the broker answers records at once; if not, [`Mesh::answer_records`] does.
    pub(crate) records_at_once: bool,
    /// Whether agents repeat their `done` while time passes.
    pub(crate) repeats_done: bool,
    /// Tasks in the stream.
    pub(crate) stored: BTreeMap<Sequence, Delivery>,
    /// What leaders keep for those after them.
    pub(crate) histories: BTreeMap<Sequence, History>,
    /// Results, by task.
    pub(crate) results: BTreeMap<TaskId, Settlement>,
    /// Every record that a leader has ordered.
    pub(crate) records: Vec<Settlement>,
    /// Every order to start something.
    pub(crate) dispatches: Vec<Dispatch>,
    /// Every action of the leader.
    pub(crate) log: Vec<Action>,
    /// What the leader has sent back to the stream, with the moment at which it comes again.
    pub(crate) sent_back: Vec<(Timestamp, Sequence)>,
    unanswered: Vec<Sequence>,
    next_sequence: u64,
    next_beat: Timestamp,
}

impl Mesh {
    /// A mesh with a leader past its takeover, and these agents, healthy.
    pub(crate) fn with_agents<A: Into<Agent>>(agents: impl IntoIterator<Item = A>) -> Self {
        Self::with_config(Config::default(), agents)
    }

    /// The same, with every kind placed by this strategy.
    pub(crate) fn with_strategy<A: Into<Agent>>(strategy: Strategy, agents: impl IntoIterator<Item = A>) -> Self {
        let mut config = Config::default();
        config.kinds.insert("default".into(), KindConfig { strategy: Some(strategy), ..KindConfig::default() });
        Self::with_config(config, agents)
    }

    pub(crate) fn with_config<A: Into<Agent>>(config: Config, agents: impl IntoIterator<Item = A>) -> Self {
        let now = Timestamp::from_origin(Duration::from_secs(1000));
        let mut mesh = Self {
            leader: Scheduler::new(config.clone(), 7),
            standby: Scheduler::new(config, 7),
            now,
            agents: BTreeMap::new(),
            records_at_once: true,
            repeats_done: false,
            stored: BTreeMap::new(),
            sent_back: Vec::new(),
            histories: BTreeMap::new(),
            results: BTreeMap::new(),
            records: Vec::new(),
            dispatches: Vec::new(),
            log: Vec::new(),
            unanswered: Vec::new(),
            next_sequence: 1,
            next_beat: now,
        };
        mesh.tell(Event::LeadershipTaken(Epoch(1)));
        mesh.tell(Event::HistoriesKnown(Vec::new()));
        for agent in agents {
            mesh.join(agent);
        }
        // Until every word that a new leader waits for has come, and its patience with silence is the usual one.
        mesh.pass(ms(3000));
        mesh
    }

    /// An agent registers and beats.
    pub(crate) fn join(&mut self, agent: impl Into<Agent>) -> Vec<String> {
        let agent = agent.into();
        let id = agent.id.clone();
        self.agents.insert(id.clone(), agent);
        let mut said = self.say_hello(&id);
        said.extend(self.say_beat(&id));
        said
    }

    /// Tells the leader something, and the standby what it would hear of it; carries out what the leader orders.
    /// What it orders about tasks is returned, in words.
    pub(crate) fn tell(&mut self, event: Event) -> Vec<String> {
        let mut actions = Actions::new();
        if heard_by_all(&event) {
            self.standby.handle(event.clone(), self.now, &mut Actions::new());
        }
        self.leader.handle(event, self.now, &mut actions);
        self.log.extend(actions.iter().cloned());
        let mut words = orders(&actions);
        for action in actions {
            words.extend(self.carry_out(action));
        }
        words
    }

    fn carry_out(&mut self, action: Action) -> Vec<String> {
        match action {
            Action::Dispatch(dispatch) => self.dispatch(dispatch),
            Action::Repeat(dispatch) => self.send(dispatch),
            Action::Cancel { agent, attempt, .. } => {
                self.reach(&agent, |agent| agent.stop(&attempt));
                vec![]
            }
            Action::Settled { agent, attempt } => {
                self.reach(&agent, |agent| agent.settled(&attempt));
                vec![]
            }
            Action::CheckSettled { agent, attempt, sequence } => {
                if self.results.contains_key(&attempt.task) || !self.stored.contains_key(&sequence) {
                    self.reach(&agent, |agent| agent.settled(&attempt));
                }
                vec![]
            }
            Action::Record(settlement) => self.record(settlement),
            Action::SettleDuplicate(sequence) => self.look_up(sequence),
            Action::Probe(agent) => self.probe(&agent),
            Action::Welcome { agent, hello_wanted: true } if self.agents.get(&agent).is_some_and(Agent::is_heard) => {
                self.say_hello(&agent)
            }
            Action::Drain(agent) => {
                self.reach(&agent, |agent| agent.draining = true);
                vec![]
            }
            Action::Release { sequence, delay } => {
                self.sent_back.push((self.now + delay, sequence));
                vec![]
            }
            Action::LookBack(kind) => self.redeliver_sent_back(|mesh, _, sequence| mesh.stored[&sequence].kind == kind),
            Action::Remember { sequence, history } => {
                self.histories.insert(sequence, history);
                vec![]
            }
            Action::ForgetHistory(sequence) => {
                self.histories.remove(&sequence);
                vec![]
            }
            Action::Welcome { .. } | Action::Heard { .. } | Action::Tell(_) => vec![],
        }
    }

    /// What was sent back comes again, if it passes the test.
    fn redeliver_sent_back(&mut self, test: impl Fn(&Self, Timestamp, Sequence) -> bool) -> Vec<String> {
        let sent_back = std::mem::take(&mut self.sent_back);
        let (due, later) = sent_back.into_iter().partition(|(due, sequence)| test(self, *due, *sequence));
        self.sent_back = later;
        let due: Vec<(Timestamp, Sequence)> = due;
        due.into_iter().flat_map(|(_, sequence)| self.look_up(sequence)).collect()
    }

    /// Does something to an agent that orders reach.
    fn reach(&mut self, id: &AgentId, then: impl FnOnce(&mut Agent)) {
        if let Some(agent) = self.agents.get_mut(id).filter(|agent| agent.is_heard()) {
            then(agent);
        }
    }

    fn dispatch(&mut self, dispatch: Dispatch) -> Vec<String> {
        self.dispatches.push(dispatch.clone());
        self.send(dispatch)
    }

    fn send(&mut self, dispatch: Dispatch) -> Vec<String> {
        let kind = self.stored[&dispatch.sequence].kind.clone();
        let agent = self.agents.get_mut(&dispatch.agent).expect("orders go to agents that have said hello");
        let (refusal, gone) = (agent.run(&dispatch, &kind), !agent.alive);
        let id = dispatch.agent;
        match refusal {
            Some(done) => self.tell(Event::AttemptDone(id, done)),
            None if gone => self.tell(Event::AgentUnreachable(id)),
            None => vec![],
        }
    }

    fn record(&mut self, settlement: Settlement) -> Vec<String> {
        self.unanswered.push(settlement.sequence);
        self.results.entry(settlement.id.clone()).or_insert_with(|| settlement.clone());
        self.records.push(settlement);
        if self.records_at_once { self.answer_records() } else { vec![] }
    }

    /// The broker answers what it was given to record, and drops the messages.
    pub(crate) fn answer_records(&mut self) -> Vec<String> {
        let mut said = vec![];
        for sequence in std::mem::take(&mut self.unanswered) {
            said.extend(self.tell(Event::TaskRecorded(sequence)));
            self.stored.remove(&sequence);
            said.extend(self.tell(Event::TaskRemoved(sequence)));
        }
        said
    }

    fn probe(&mut self, id: &AgentId) -> Vec<String> {
        match self.agents.get(id) {
            Some(agent) if agent.is_heard() => self.tell(Event::AgentBeat(id.clone(), agent.pong())),
            Some(agent) if !agent.alive => self.tell(Event::AgentUnreachable(id.clone())),
            _ => vec![],
        }
    }

    /// A message is given to the scheduler unless its task is settled already.
    fn look_up(&mut self, sequence: Sequence) -> Vec<String> {
        let Some(delivery) = self.stored.get(&sequence).cloned() else { return vec![] };
        if self.results.contains_key(&delivery.id) {
            self.stored.remove(&sequence);
            return self.tell(Event::TaskRemoved(sequence));
        }
        self.tell(Event::TaskDelivered(delivery))
    }

    /// A task comes from the stream. Sequences count from 1.
    pub(crate) fn deliver(&mut self, task: impl Into<TaskSpec>) -> Vec<String> {
        let sequence = Sequence(self.next_sequence);
        self.next_sequence += 1;
        self.stored.insert(sequence, task.into().delivery(sequence, self.now));
        self.look_up(sequence)
    }

    pub(crate) fn deliver_all<T: Into<TaskSpec>>(&mut self, tasks: impl IntoIterator<Item = T>) -> Vec<String> {
        tasks.into_iter().flat_map(|task| self.deliver(task)).collect()
    }

    pub(crate) fn deliver_unreadable(&mut self, kind: &str, id: &str) -> Vec<String> {
        let sequence = Sequence(self.next_sequence);
        self.next_sequence += 1;
        let (id, kind) = (TaskId::new(id).expect("a good id"), Kind::new(kind).expect("a good kind"));
        let (accepted, reason) = (self.now, "header `Hive-Cpu`: bad".to_owned());
        self.stored.insert(sequence, super::task(kind.as_str()).id(id.as_str()).delivery(sequence, accepted));
        self.tell(Event::TaskUnreadable(Unreadable { sequence, id, kind, accepted, reason }))
    }

    pub(crate) fn cancel(&mut self, sequence: u64) -> Vec<String> {
        self.tell(Event::TaskCancelled(Sequence(sequence)))
    }

    /// The agent ends the attempt that it holds of a task, and says so.
    pub(crate) fn done(&mut self, agent: &str, task: &str, outcome: AttemptOutcome) -> Vec<String> {
        let done = self.end(agent, task, outcome);
        self.tell(Event::AttemptDone(id(agent), done))
    }

    pub(crate) fn succeed(&mut self, agent: &str, task: &str) -> Vec<String> {
        self.done(agent, task, AttemptOutcome::Succeeded)
    }

    pub(crate) fn fail(&mut self, agent: &str, task: &str) -> Vec<String> {
        self.done(agent, task, AttemptOutcome::Failed)
    }

    /// The agent ends the attempt; what it would say is returned and not said.
    pub(crate) fn end(&mut self, agent: &str, task: &str, outcome: AttemptOutcome) -> Done {
        let agent = self.agent(agent);
        let held = agent.holds.iter().find(|held| held.attempt.task.as_str() == task && held.done.is_none());
        let attempt: AttemptRef = held.expect("only what an agent holds can end there").attempt.clone();
        agent.end(&attempt, outcome).expect("it was found above")
    }

    /// The agent says `done` again for all that is not settled.
    pub(crate) fn repeat_done(&mut self, id: &AgentId) -> Vec<String> {
        let Some(agent) = self.agents.get(id).filter(|agent| agent.is_heard()) else { return vec![] };
        let unsettled = agent.unsettled();
        unsettled.into_iter().flat_map(|done| self.tell(Event::AttemptDone(id.clone(), done))).collect()
    }

    pub(crate) fn say_hello(&mut self, id: &AgentId) -> Vec<String> {
        let hello = self.agents[id].hello();
        self.tell(Event::AgentHello(id.clone(), hello))
    }

    pub(crate) fn say_beat(&mut self, id: &AgentId) -> Vec<String> {
        let beat = self.agents.get_mut(id).expect("it has joined").beat();
        self.tell(Event::AgentBeat(id.clone(), beat))
    }

    pub(crate) fn beat(&mut self, agent: &str) -> Vec<String> {
        self.say_beat(&id(agent))
    }

    pub(crate) fn report(&mut self, agent: &str, cpu: f64) -> Vec<String> {
        let report = self.agent(agent).report(cpu);
        self.tell(Event::AgentReport(id(agent), report))
    }

    pub(crate) fn drain(&mut self, agent: &str) -> Vec<String> {
        self.tell(Event::AgentDrained(id(agent)))
    }

    /// The agent leaves, and hands back what it has not started.
    pub(crate) fn leave(&mut self, agent: &str) -> Vec<String> {
        let bye = self.agent(agent).bye();
        self.agent(agent).alive = false;
        self.agent(agent).holds.clear();
        self.tell(Event::AgentBye(id(agent), bye))
    }

    /// The agent's process ends without a word.
    pub(crate) fn kill(&mut self, agent: &str) {
        self.agent(agent).alive = false;
        self.agent(agent).holds.clear();
    }

    /// A new process of the agent says hello and beats.
    pub(crate) fn restart(&mut self, agent: &str) -> Vec<String> {
        self.agent(agent).restart();
        let mut said = self.say_hello(&id(agent));
        said.extend(self.say_beat(&id(agent)));
        said
    }

    /// Nothing is heard of the agent for so long; it runs on meanwhile.
    pub(crate) fn silence(&mut self, agent: &str, span: Duration) -> Vec<String> {
        self.agent(agent).muted = true;
        self.pass(span)
    }

    /// The agent is heard again, and beats.
    pub(crate) fn unmute(&mut self, agent: &str) -> Vec<String> {
        self.agent(agent).muted = false;
        self.beat(agent)
    }

    /// Time passes: deadlines fall due, and whoever can beats.
    pub(crate) fn pass(&mut self, span: Duration) -> Vec<String> {
        let (until, mut said) = (self.now + span, vec![]);
        while self.now < until {
            self.now = self.now + STEP.min(until.since(self.now));
            said.extend(self.meet_deadlines());
            said.extend(self.redeliver_sent_back(|mesh, due, _| due <= mesh.now));
            if self.now >= self.next_beat {
                self.next_beat = self.now + BEAT;
                said.extend(self.everybody_beats());
            }
        }
        said
    }

    /// As the shell does it: the deadline is told of when it is due.
    fn meet_deadlines(&mut self) -> Vec<String> {
        if self.standby.next_deadline() <= self.now {
            self.standby.handle(Event::DeadlineReached, self.now, &mut Actions::new());
        }
        if self.leader.next_deadline() > self.now {
            return vec![];
        }
        let said = self.tell(Event::DeadlineReached);
        let next = self.leader.next_deadline();
        assert!(next > self.now, "the shell would spin: {next} is due again at {}", self.now);
        said
    }

    fn everybody_beats(&mut self) -> Vec<String> {
        let mut said = vec![];
        let heard: Vec<AgentId> =
            self.agents.values().filter(|agent| agent.is_heard()).map(|agent| agent.id.clone()).collect();
        for id in heard {
            said.extend(self.say_beat(&id));
            if self.repeats_done {
                said.extend(self.repeat_done(&id));
            }
        }
        said
    }

    /// The leader is gone, and the standby leads. [`Mesh::redeliver`] brings what is in the stream.
    pub(crate) fn take_over(&mut self) -> Vec<String> {
        let epoch = Epoch(self.leader.epoch().map_or(1, |epoch| epoch.0) + 1);
        std::mem::swap(&mut self.leader, &mut self.standby);
        self.standby.handle(Event::LeadershipLost, self.now, &mut Actions::new());
        self.unanswered.clear();
        let mut said = self.tell(Event::LeadershipTaken(epoch));
        let histories = self.histories.clone().into_iter().collect();
        said.extend(self.tell(Event::HistoriesKnown(histories)));
        said
    }

    /// Tells the leader something; what it orders is not carried out.
    pub(crate) fn tell_leader(&mut self, event: Event, actions: &mut Actions) {
        self.leader.handle(event, self.now, actions);
    }

    /// Everything in the stream is delivered again.
    pub(crate) fn redeliver(&mut self) -> Vec<String> {
        let stored: Vec<Sequence> = self.stored.keys().copied().collect();
        stored.into_iter().flat_map(|sequence| self.look_up(sequence)).collect()
    }

    pub(crate) fn agent(&mut self, agent: &str) -> &mut Agent {
        self.agents.get_mut(&id(agent)).expect("it has joined")
    }

    pub(crate) fn state_of(&self, agent: &str) -> AgentState {
        self.leader.agent(&id(agent), self.now).expect("it has joined").state
    }

    /// What the leader shows of a task.
    pub(crate) fn view(&self, task: &str) -> Option<api::Task> {
        self.leader.task(&TaskId::new(task).expect("a good id"), self.now)
    }

    /// The tasks that an agent is running by the leader's picture.
    pub(crate) fn given_to(&self, agent: &str) -> Vec<String> {
        let running = |task: &api::Task| task.state == TaskState::Running && task.agent.as_deref() == Some(agent);
        self.leader.tasks(self.now, running, usize::MAX).into_iter().map(|task| task.id.to_string()).collect()
    }

    /// Events told about agents and tasks, such as `agent lost ada` and `task reassigned 1`.
    pub(crate) fn told(&self) -> Vec<String> {
        self.log.iter().filter_map(notice).collect()
    }

    /// Probes that were ordered so far.
    pub(crate) fn probes(&self, agent: &str) -> usize {
        self.log.iter().filter(|action| matches!(action, Action::Probe(id) if id.as_str() == agent)).count()
    }

    /// Runs everything to its end: each attempt ends well as soon as it runs.
    pub(crate) fn finish_all(&mut self) {
        while let Some((agent, attempt)) = self.running_elsewhere(None) {
            let done = self.agents.get_mut(&agent).and_then(|a| a.end(&attempt, AttemptOutcome::Succeeded));
            self.tell(Event::AttemptDone(agent, done.expect("it was running")));
        }
    }

    /// The same, but for what one agent runs.
    pub(crate) fn finish_all_but(&mut self, spared: &str) {
        while let Some((agent, attempt)) = self.running_elsewhere(Some(spared)) {
            let done = self.agents.get_mut(&agent).and_then(|a| a.end(&attempt, AttemptOutcome::Succeeded));
            self.tell(Event::AttemptDone(agent, done.expect("it was running")));
        }
    }

    /// The agent that has an attempt of the task.
    pub(crate) fn holder_of(&self, task: &str) -> Option<String> {
        self.view(task).filter(|task| task.state == TaskState::Running)?.agent
    }

    fn running_elsewhere(&self, spared: Option<&str>) -> Option<(AgentId, AttemptRef)> {
        let heard = self.agents.values().filter(|agent| agent.is_heard() && Some(agent.id.as_str()) != spared);
        heard.flat_map(|agent| agent.running().into_iter().map(|a| (agent.id.clone(), a))).next()
    }

    /// The sequence of the task that was delivered last.
    pub(crate) fn last_sequence(&self) -> Sequence {
        Sequence(self.next_sequence - 1)
    }

    /// Sequences in the stream.
    pub(crate) fn unsettled(&self) -> BTreeSet<Sequence> {
        self.stored.keys().copied().collect()
    }
}

fn heard_by_all(event: &Event) -> bool {
    use Event::{AgentBeat, AgentBye, AgentHello, AgentReport, CanaryHeard, LinkRestored};
    matches!(event, AgentBeat(..) | AgentBye(..) | AgentHello(..) | AgentReport(..) | CanaryHeard | LinkRestored)
}

fn id(agent: &str) -> AgentId {
    AgentId::new(agent).expect("tests name agents well")
}

/// What was ordered about tasks and agents, in words: `start 1#2 on bob`.
pub(crate) fn orders(actions: &[Action]) -> Vec<String> {
    let name = |attempt: &AttemptRef| format!("{}#{}", attempt.task, attempt.attempt);
    let order = |action: &Action| match action {
        Action::Dispatch(dispatch) => Some(format!("start {} on {}", name(&dispatch.attempt), dispatch.agent)),
        Action::Repeat(dispatch) => Some(format!("repeat {} on {}", name(&dispatch.attempt), dispatch.agent)),
        Action::Cancel { agent, attempt, .. } => Some(format!("cancel {} on {agent}", name(attempt))),
        Action::Settled { agent, attempt } => Some(format!("settled {} to {agent}", name(attempt))),
        Action::CheckSettled { agent, attempt, .. } => Some(format!("check {} of {agent}", name(attempt))),
        Action::Record(settlement) => Some(format!("record {} {}", settlement.id, settlement.outcome)),
        Action::SettleDuplicate(sequence) => Some(format!("settle duplicate {sequence}")),
        Action::Drain(agent) => Some(format!("drain {agent}")),
        Action::Release { sequence, .. } => Some(format!("release {sequence}")),
        Action::LookBack(kind) => Some(format!("look back for {kind}")),
        Action::Probe(_) | Action::Welcome { .. } | Action::Heard { .. } | Action::Tell(_) => None,
        Action::Remember { .. } | Action::ForgetHistory(_) => None,
    };
    actions.iter().filter_map(order).collect()
}

fn notice(action: &Action) -> Option<String> {
    let Action::Tell(notice) = action else { return None };
    let about = match (&notice.task, &notice.agent) {
        (Some((task, ..)), _) => task.to_string(),
        (None, Some(agent)) => agent.to_string(),
        (None, None) => String::new(),
    };
    Some(format!("{} {} {about}", notice.topic, notice.what))
}

/// How often each agent was given something.
pub(crate) fn starts_by_agent(mesh: &Mesh) -> BTreeMap<String, usize> {
    let mut starts = BTreeMap::new();
    for dispatch in &mesh.dispatches {
        *starts.entry(dispatch.agent.to_string()).or_default() += 1;
    }
    starts
}
