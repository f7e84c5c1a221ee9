//! Random scripts of what can happen, with invariants looked at after every step.
//!
//! Agents play their part but lose orders, fall silent, die, return and leave at random; what they say is repeated
//! and comes out of order. When the faults end, everything that was accepted must still come to its end.

use std::collections::BTreeMap;

use proptest::prelude::{Just, ProptestConfig, any, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;
use scheduler::placement::Strategy;
use scheduler::{Action, Config, Done, Event, KindConfig, Sequence};
use shared::api::{self, AgentState, TaskState};
use shared::message::Beat;
use shared::needs::Needs;
use shared::task::AttemptOutcome;
use shared::{AgentId, Priority, Resources};

use crate::support::{Agent, Mesh, TaskSpec, agent, ms, task};

const KINDS: [&str; 3] = ["resize", "count", "paint"];
const NEEDS: [&str; 3] = ["", "gpu", "zone=eu"];
const AGENTS: [&str; 4] = ["ada", "bob", "cyd", "gen"];

/// Something that happens. Numbers pick one of what there is, modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Deliver(Submission),
    Unreadable,
    Redeliver,
    /// An attempt ends. Its `done` may get lost: the agent repeats it.
    End {
        agent: usize,
        pick: usize,
        outcome: AttemptOutcome,
        lost: bool,
    },
    RepeatDone(usize),
    /// Something said before comes once more, or only now.
    OldDone(usize),
    OldBeat(usize),
    Beat(usize),
    Report(usize, u8),
    LoseOrder(usize),
    Kill(usize),
    Restart(usize),
    Mute(usize),
    Unmute(usize),
    Unreachable(usize),
    Drain(usize),
    Leave(usize),
    Cancel(usize),
    LinkRestored,
    HoldRecords,
    AnswerRecords,
    Pass(u64),
    TakeOver,
}

#[derive(Clone, Debug)]
struct Submission {
    kind: usize,
    needs: usize,
    priority: Priority,
    cpu: u64,
    memory: u64,
    gpus: u64,
    deadline: Option<u64>,
    /// It has the id of the task before it.
    repeated: bool,
}

fn submission() -> impl Generator<Value = Submission> {
    let deadline = prop_oneof![4 => Just(None), 1 => (0..3000_u64).prop_map(Some)];
    let priority = proptest::sample::select(Priority::ALL.to_vec());
    let amounts = (0..4_u64, 0..4_u64, prop_oneof![3 => Just(0), 1 => 1..4_u64]);
    (0..3_usize, 0..3_usize, priority, amounts, deadline, proptest::bool::weighted(0.1)).prop_map(
        |(kind, needs, priority, (cpu, memory, gpus), deadline, repeated)| Submission {
            kind,
            needs,
            priority,
            cpu: cpu * 300,
            memory: memory * 100,
            gpus,
            deadline,
            repeated,
        },
    )
}

fn step() -> impl Generator<Value = Step> {
    let outcome = proptest::sample::select(AttemptOutcome::ALL.to_vec());
    let a = 0..AGENTS.len();
    prop_oneof![
        30 => submission().prop_map(Step::Deliver),
        1 => Just(Step::Unreadable),
        1 => Just(Step::Redeliver),
        20 => (a.clone(), 0..8_usize, outcome, proptest::bool::weighted(0.2))
            .prop_map(|(agent, pick, outcome, lost)| Step::End { agent, pick, outcome, lost }),
        3 => a.clone().prop_map(Step::RepeatDone),
        4 => any::<usize>().prop_map(Step::OldDone),
        4 => any::<usize>().prop_map(Step::OldBeat),
        6 => a.clone().prop_map(Step::Beat),
        3 => (a.clone(), 0..100_u8).prop_map(|(agent, cpu)| Step::Report(agent, cpu)),
        2 => a.clone().prop_map(Step::LoseOrder),
        2 => a.clone().prop_map(Step::Kill),
        3 => a.clone().prop_map(Step::Restart),
        2 => a.clone().prop_map(Step::Mute),
        3 => a.clone().prop_map(Step::Unmute),
        1 => a.clone().prop_map(Step::Unreachable),
        1 => a.clone().prop_map(Step::Drain),
        1 => a.prop_map(Step::Leave),
        4 => any::<usize>().prop_map(Step::Cancel),
        1 => Just(Step::LinkRestored),
        1 => Just(Step::HoldRecords),
        1 => Just(Step::AnswerRecords),
        10 => (1..1500_u64).prop_map(Step::Pass),
    ]
}

fn script(takeovers: bool) -> impl Generator<Value = Vec<Step>> {
    let step = if takeovers { prop_oneof![30 => step(), 1 => Just(Step::TakeOver)].boxed() } else { step().boxed() };
    proptest::collection::vec(step, 1..80)
}

fn strategy() -> impl Generator<Value = Strategy> {
    proptest::sample::select(Strategy::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_every_task_comes_to_its_end(
        strategy in strategy(), script in script(false),
    ) {
        let mut world = World::new(strategy);
        for step in script {
            world.act(step);
        }
        world.heal();
    }

    #[test]
    fn whoever_leads_every_task_comes_to_its_end(strategy in strategy(), script in script(true)) {
        let mut world = World::new(strategy);
        world.leaders_change = true;
        for step in script {
            world.act(step);
        }
        world.heal();
    }

    #[test]
    fn the_same_events_give_the_same_actions(strategy in strategy(), script in script(true)) {
        let run = || {
            let mut world = World::new(strategy);
            world.leaders_change = true;
            script.iter().for_each(|step| world.act(step.clone()));
            world.mesh.log
        };

        prop_assert_eq!(run(), run());
    }
}

/// A mesh under a script, and what is remembered to judge it by.
struct World {
    mesh: Mesh,
    strategy: Strategy,
    submissions: BTreeMap<Sequence, Submission>,
    dones: Vec<(AgentId, Done)>,
    beats: Vec<(AgentId, Beat)>,
    seen: usize,
    last_attempts: BTreeMap<Sequence, (u64, u32)>,
    recorded: BTreeMap<Sequence, u64>,
    leaders_change: bool,
}

impl World {
    fn new(strategy: Strategy) -> Self {
        let mut config = Config::default();
        let kind = KindConfig { strategy: Some(strategy), max_attempts: Some(2), ..KindConfig::default() };
        config.kinds.insert("default".into(), kind);
        let mut mesh = Mesh::with_config(config, pool());
        mesh.repeats_done = true;
        Self {
            seen: mesh.log.len(),
            mesh,
            strategy,
            submissions: BTreeMap::new(),
            dones: Vec::new(),
            beats: Vec::new(),
            last_attempts: BTreeMap::new(),
            recorded: BTreeMap::new(),
            leaders_change: false,
        }
    }

    fn act(&mut self, step: Step) {
        let said = format!("{step:?}");
        match step {
            Step::Deliver(submission) => self.deliver(submission),
            Step::Unreadable => {
                self.mesh.deliver_unreadable("resize", &format!("bad-{}", self.mesh.stored.len()));
            }
            Step::Redeliver => drop(self.mesh.redeliver()),
            Step::End { agent, pick, outcome, lost } => self.end(AGENTS[agent], pick, outcome, lost),
            Step::RepeatDone(agent) => drop(self.mesh.repeat_done(&id(AGENTS[agent]))),
            Step::OldDone(pick) => {
                if let Some((agent, done)) = self.dones.get(pick % self.dones.len().max(1)).cloned() {
                    self.mesh.tell(Event::AttemptDone(agent, done));
                }
            }
            Step::OldBeat(pick) => {
                if let Some((agent, beat)) = self.beats.get(pick % self.beats.len().max(1)).cloned() {
                    self.mesh.tell(Event::AgentBeat(agent, beat));
                }
            }
            Step::Beat(agent) => self.beat(AGENTS[agent]),
            Step::Report(agent, cpu) => {
                if self.mesh.agent(AGENTS[agent]).is_heard() {
                    self.mesh.report(AGENTS[agent], f64::from(cpu) / 100.0);
                }
            }
            Step::LoseOrder(agent) => self.mesh.agent(AGENTS[agent]).loses_orders = true,
            Step::Kill(agent) => self.mesh.kill(AGENTS[agent]),
            Step::Restart(agent) => drop(self.mesh.restart(AGENTS[agent])),
            Step::Mute(agent) => self.mesh.agent(AGENTS[agent]).muted = true,
            Step::Unmute(agent) => {
                self.mesh.agent(AGENTS[agent]).muted = false;
                self.beat(AGENTS[agent]);
            }
            Step::Unreachable(agent) => drop(self.mesh.tell(Event::AgentUnreachable(id(AGENTS[agent])))),
            Step::Drain(agent) => drop(self.mesh.drain(AGENTS[agent])),
            Step::Leave(agent) => {
                if self.mesh.agent(AGENTS[agent]).is_heard() {
                    self.mesh.leave(AGENTS[agent]);
                }
            }
            Step::Cancel(pick) => {
                let stored: Vec<Sequence> = self.mesh.unsettled().into_iter().collect();
                if let Some(sequence) = stored.get(pick % stored.len().max(1)) {
                    self.mesh.tell(Event::TaskCancelled(*sequence));
                }
            }
            Step::LinkRestored => drop(self.mesh.tell(Event::LinkRestored)),
            Step::HoldRecords => self.mesh.records_at_once = false,
            Step::AnswerRecords => drop(self.mesh.answer_records()),
            Step::Pass(millis) => self.pass(millis),
            Step::TakeOver => {
                self.mesh.take_over();
                self.recorded.clear();
                self.mesh.redeliver();
            }
        }
        self.check(&said);
    }

    fn deliver(&mut self, submission: Submission) {
        let before = self.submissions.len() as u64;
        let mut spec: TaskSpec = task(KINDS[submission.kind])
            .needs(NEEDS[submission.needs])
            .priority(submission.priority)
            .cpu(submission.cpu)
            .memory(submission.memory)
            .countable("gpus", submission.gpus)
            .backoff(ms(100), ms(400))
            .id(&format!("t{}", if submission.repeated { before.max(1) - 1 } else { before }));
        if let Some(millis) = submission.deadline {
            spec = spec.deadline(ms(millis));
        }
        self.mesh.deliver(spec);
        self.submissions.insert(self.mesh.last_sequence(), submission);
    }

    fn end(&mut self, name: &str, pick: usize, outcome: AttemptOutcome, lost: bool) {
        let agent = self.mesh.agent(name);
        let running = agent.running();
        if !agent.alive || running.is_empty() {
            return;
        }
        let attempt = &running[pick % running.len()];
        let done = agent.end(attempt, outcome).expect("it was running");
        let heard = agent.is_heard();
        self.dones.push((id(name), done.clone()));
        if heard && !lost {
            self.mesh.tell(Event::AttemptDone(id(name), done));
        }
    }

    fn beat(&mut self, name: &str) {
        if self.mesh.agent(name).is_heard() {
            let beat = self.mesh.agent(name).beat();
            self.beats.push((id(name), beat.clone()));
            self.mesh.tell(Event::AgentBeat(id(name), beat));
        }
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 250 {
            self.mesh.pass(ms(250));
            self.check("time passes");
        }
        self.mesh.pass(ms(millis % 250));
    }

    /// The faults end: agents are well, records are answered, attempts succeed.
    fn heal(&mut self) {
        self.mesh.records_at_once = true;
        self.mesh.answer_records();
        for name in AGENTS {
            let agent = self.mesh.agent(name);
            (agent.muted, agent.loses_orders) = (false, false);
            if !agent.alive {
                self.mesh.restart(name);
            }
        }
        // An agent that was lost again and again is in quarantine for minutes.
        for _ in 0..6000 {
            self.mesh.finish_all();
            self.replace_drained_agents();
            self.mesh.pass(ms(100));
            self.check("the mesh is well again");
            if self.mesh.stored.is_empty() && self.is_at_rest() {
                return;
            }
        }
        let left: Vec<_> = self.mesh.leader.tasks(self.mesh.now, |_| true, 10);
        let agents = self.mesh.leader.agents(self.mesh.now);
        panic!("not settled: {:?}\nshown: {left:#?}\nagents: {agents:#?}", self.mesh.stored.keys());
    }

    /// An agent that has drained leaves, and whoever wanted that starts a new one.
    fn replace_drained_agents(&mut self) {
        for name in AGENTS {
            if self.mesh.agent(name).draining && self.mesh.agent(name).holds.is_empty() {
                self.mesh.leave(name);
                self.mesh.restart(name);
            }
        }
    }

    /// Nothing is left of what ran: every slot and every reservation has been given back.
    fn is_at_rest(&self) -> bool {
        let queues = self.mesh.leader.queues();
        let agents = self.mesh.leader.agents(self.mesh.now);
        self.mesh.leader.task_count() == 0
            && queues.iter().all(|queue| queue.waiting == 0 && queue.running == 0)
            && agents.iter().all(|agent| agent.running + agent.queued == 0 && has_nothing_reserved(agent))
    }

    fn check(&mut self, after: &str) {
        let now = self.mesh.now;
        let tasks = self.mesh.leader.tasks(now, |_| true, usize::MAX);
        let agents = self.mesh.leader.agents(now);
        self.check_orders(after);
        self.check_agents(&agents, &tasks, after);
        self.check_slots_are_used(&agents, &tasks, after);
        for queue in self.mesh.leader.queues() {
            let of_kind = || tasks.iter().filter(|task| task.kind == queue.kind);
            let waiting = of_kind().filter(|task| is_in_line(task)).count() as u64;
            let running = of_kind().filter(|task| task.state == TaskState::Running).count() as u64;
            assert_eq!((queue.waiting, queue.running), (waiting, running), "of `{}`, after {after}", queue.kind);
        }
    }

    /// No slot is free for a task that waits. (The other strategies may keep one free, each for its own reason.)
    fn check_slots_are_used(&self, agents: &[api::Agent], tasks: &[api::Task], after: &str) {
        let fills_slots = matches!(self.strategy, Strategy::RoundRobin | Strategy::LeastConnections);
        if !fills_slots || self.leaders_change {
            return;
        }
        for task in tasks.iter().filter(|task| is_in_line(task)) {
            let submission = &self.submissions[&self.mesh.leader.sequence_of(&task.id).expect("it is shown")];
            let needs: Needs = NEEDS[submission.needs].parse().expect("good needs");
            let fits = |agent: &api::Agent| {
                let (capacity, reserved) = (agent.capacity.dimensions(), agent.reserved.dimensions());
                let gpus = agent.countables.get("gpus").saturating_sub(agent.countables_reserved.get("gpus"));
                let asked = submission.resources().dimensions();
                (0..4).all(|i| capacity[i] == 0 || reserved[i] + asked[i] <= capacity[i]) && submission.gpus <= gpus
            };
            let could = |agent: &&api::Agent| {
                agent.state == AgentState::Healthy
                    && agent.running + agent.queued < agent.slots
                    && agent.kept_for.is_none()
                    && (!task.alone || agent.running == 0)
                    && agent.kinds.contains(&task.kind)
                    && needs.are_met_by(&agent.labels)
                    && fits(agent)
            };
            let idle = agents.iter().find(could);
            assert!(idle.is_none(), "{task:?} waits, {idle:?} could do it, after {after}");
        }
    }

    /// Each order on its own, and against those before it.
    fn check_orders(&mut self, after: &str) {
        for action in &self.mesh.log[self.seen..] {
            match action {
                Action::Record(settlement) => {
                    let times = self.recorded.entry(settlement.sequence).or_default();
                    *times += 1;
                    assert_eq!(*times, 1, "{} was recorded again, after {after}", settlement.sequence);
                }
                Action::Dispatch(dispatch) => {
                    let number = (dispatch.attempt.epoch.0, dispatch.attempt.attempt);
                    let before = self.last_attempts.insert(dispatch.sequence, number);
                    assert!(before < Some(number), "{dispatch:?} came after {before:?}, after {after}");
                    assert!(!self.recorded.contains_key(&dispatch.sequence), "{dispatch:?} is settled, after {after}");
                    let agent = &self.mesh.agents[&dispatch.agent];
                    let submission = &self.submissions[&dispatch.sequence];
                    let needs: Needs = NEEDS[submission.needs].parse().expect("good needs");
                    assert!(needs.are_met_by(&agent.labels), "{dispatch:?} lacks a label, after {after}");
                    assert!(agent.kinds.iter().any(|kind| kind.as_str() == KINDS[submission.kind]), "{dispatch:?}");
                }
                _ => {}
            }
        }
        self.seen = self.mesh.log.len();
    }

    fn check_agents(&self, agents: &[api::Agent], tasks: &[api::Task], after: &str) {
        for agent in agents {
            let has = |task: &&api::Task| {
                task.state == TaskState::Running && task.agent.as_deref() == Some(agent.id.as_str())
            };
            let held: Vec<&api::Task> = tasks.iter().filter(has).collect();
            assert_eq!((agent.running + agent.queued) as usize, held.len(), "{agent:?}, after {after}");
            if agent.state == AgentState::Offline {
                assert!(held.is_empty(), "{agent:?} is gone and holds {held:?}, after {after}");
            }
            if self.leaders_change {
                // What runs is adopted as it is, and what it reserves is only known when its message comes.
                continue;
            }
            let asked = || held.iter().map(|task| self.submission_of(task));
            let reserved = asked().fold(Resources::ZERO, |sum, one| sum.plus(&one.resources()));
            let gpus: u64 = asked().map(|one| one.gpus).sum();
            let shown = (agent.reserved, agent.countables_reserved.get("gpus"));
            assert_eq!(shown, (reserved, gpus), "{agent:?} holds {held:?}, after {after}");
            let room = (self.mesh.agents[&agent.id].slots + self.mesh.agents[&agent.id].queue) as usize;
            assert!(held.len() <= room, "{agent:?} holds {held:?}, after {after}");
            let (capacity, reserved) = (agent.capacity.dimensions(), agent.reserved.dimensions());
            let fits = (0..4).all(|i| capacity[i] == 0 || reserved[i] <= capacity[i]);
            assert!(fits && agent.countables_reserved.fits(&agent.countables), "{agent:?}, after {after}");
        }
    }

    fn submission_of(&self, task: &api::Task) -> &Submission {
        let sequence = self.mesh.leader.sequence_of(&task.id).expect("it is shown");
        &self.submissions[&sequence]
    }
}

impl Submission {
    fn resources(&self) -> Resources {
        Resources { cpu_millis: self.cpu, memory_bytes: self.memory, ..Resources::ZERO }
    }
}

fn has_nothing_reserved(agent: &api::Agent) -> bool {
    agent.reserved == Resources::ZERO && agent.countables_reserved.is_empty()
}

fn pool() -> [Agent; 4] {
    [
        agent("ada").kinds(&["resize"]).slots(2).cpu(1000),
        agent("bob").kinds(&["resize", "count"]).queue(1).label("gpu", "a100").countable("gpus", 1).memory(350),
        agent("cyd").kinds(&["count", "paint"]).slots(2).queue(2).label("zone", "eu").cpu(2000),
        // It can do all that is ever asked for.
        agent("gen")
            .kinds(&KINDS)
            .slots(2)
            .queue(1)
            .label("gpu", "h100")
            .label("zone", "eu")
            .cpu(1500)
            .memory(500)
            .countable("gpus", 4),
    ]
}

/// It waits for an agent, and not for its next attempt.
fn is_in_line(task: &api::Task) -> bool {
    let pauses = task.reason.as_deref().is_some_and(|reason| reason.contains("next attempt"));
    task.state == TaskState::Waiting && !pauses
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).expect("a good name")
}
