//! A coordinator: the real scheduler in a model of `coordinator::node`, which it follows function by function, and
//! a model of `coordinator::lease`.
//!
//! What in the product is a task of the async runtime is a `Call` here: a request with an end in time, whose
//! answer comes apart from the loop.

mod answers;
mod calls;
mod commands;
mod keeper;
mod lanes;
mod lease;
mod settle;
mod tasks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use rustc_hash::FxHashSet;
use scheduler::{
    Action, Actions, Config, Delivery, Event, History, KindConfig, Notice, Scheduler, Sequence, Settlement, Timestamp,
};
use shared::message::{self, AttemptRef, Cancel, Drain, Settled, Welcome};
use shared::task::{AttemptOutcome, Backoff};
use shared::{AgentId, Epoch, TaskId};

use crate::clock::{Clock, ms, secs};
use crate::context::Context;
use crate::event::{LinkId, Micros, Owner};
use crate::marks::Mark;
use crate::message::{Answer, Ask, Down, Instance, LaneName, Output, Reply, Said, Stored, Token, Told, Up};
use crate::plant::Plant;
use calls::Call;
use commands::Command;
use keeper::Keeper;
use lanes::{LaneKey, Lanes};
use lease::Contender;

/// Messages taken at once from a subscription before orders are carried out.
const TURN: usize = 256;
/// How long an answer may stay out before the question is put again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often what is slow to change is looked at.
const MAINTENANCE: Duration = Duration::from_millis(250);
/// How long a kind is fetched that nobody can do any more.
const LINGER: Duration = Duration::from_secs(10);
/// How often we send a message to ourselves.
const CANARY: Duration = Duration::from_millis(100);
/// How often the broker is told that held messages are still being worked on.
const EXTENSION: Duration = Duration::from_secs(10);

/// The epoch of the very first leader.
const FIRST_EPOCH: u64 = 1;

/// How long a coordinator holds the lease although it cannot lead.
const CANNOT_LEAD: Duration = Duration::from_secs(30);

/// A coordinator's process, or the place where one will be.
#[derive(Debug)]
pub struct Coordinator {
    /// The process.
    pub node: Option<Node>,
    place: usize,
    planned: Micros,
}

/// What has come and is not read yet.
#[derive(Debug)]
enum Heard {
    Inbox(Token, Answer),
    Delivery(LaneName, Rc<Stored>),
    Says(u8, Rc<Said>),
    Disconnected(u8),
    Ping(Reply),
    Change(Change),
    Command(Command),
}

/// What becomes of the lease.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// It is ours, newly or still, until then at least.
    Held {
        epoch: u64,
        until: Duration,
    },
    Lost,
}

/// A coordinator's process.
#[derive(Debug)]
pub struct Node {
    /// Its number among all processes.
    pub instance: Instance,
    /// The decisions.
    pub scheduler: Scheduler,
    /// Until when it is stopped.
    pub paused_until: Micros,
    /// What only a leader has.
    pub reign: Option<Reign>,
    place: usize,
    link: LinkId,
    clock: Clock,
    busy_until: Micros,
    mailbox: VecDeque<Down>,
    ears: [VecDeque<Heard>; 6],
    actions: Actions,
    settled: BTreeMap<AgentId, Vec<AttemptRef>>,
    disconnects_seen: u32,
    next_maintenance: Duration,
    next_canary: Duration,
    /// The epoch of the reign that begins when the state of the task stream is known.
    beginning: Option<u64>,
    /// Since when it holds the lease and could not begin to lead.
    cannot_lead_since: Option<Duration>,
    /// Histories whose record is not answered yet.
    unremembered: BTreeMap<Sequence, (Duration, History)>,
    /// When a reign is over unless the lease is renewed.
    lease_until: Duration,
    contender: Contender,
    keepers: BTreeMap<u64, Keeper>,
    calls: BTreeMap<u64, Call>,
    next_call: u64,
    stopped: bool,
}

/// What only a leader has.
#[derive(Debug)]
pub struct Reign {
    /// What it holds of each task besides the decision.
    pub envelopes: BTreeMap<Sequence, Envelope>,
    /// When it began.
    pub began: Micros,
    awaited: VecDeque<(Duration, Sequence, Stage)>,
    lanes: Lanes,
    keeper: u64,
    known: FxHashSet<TaskId>,
    known_complete: bool,
    /// When the results are to be listed, if that is still to be done.
    results_due: Option<Duration>,
    /// Whether it is known how attempts ended under leaders before.
    pub histories_known: bool,
    inherited: u64,
    served_version: u64,
    lingering: BTreeMap<u8, Duration>,
    next_extension: Duration,
    next_survey: Duration,
}

/// A message of the task stream, from its delivery to its removal.
#[derive(Debug)]
pub struct Envelope {
    /// The message.
    pub stored: Rc<Stored>,
    /// How far it is.
    pub stage: Stage,
    ack: Option<LaneName>,
    reply_to: bool,
    discard_result: bool,
    lane: Option<LaneKey>,
    settlement: Option<Box<Settlement>>,
    output: Output,
    cancel_wanted: bool,
    delivery: Option<Box<Delivery>>,
    /// When it came.
    arrived: Micros,
}

impl Reign {
    /// Whether a leader before may have made an attempt of it.
    fn may_have_been_tried(&self, sequence: Sequence) -> bool {
        !self.known_complete || sequence.0 <= self.inherited
    }
}

/// How far a message is on its way out of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being looked up whether the task is settled already.
    LookingUp,
    /// The scheduler has it.
    Held,
    /// Its result is being stored.
    Recording,
    /// It is being stored among the dead letters.
    Burying,
    /// It is being acknowledged.
    Removing,
}

impl Reign {
    /// Its lanes, in words.
    pub fn show_lanes(&self) -> String {
        self.lanes.show()
    }
}

/// The settings of the scheduler: the product's, with shorter waits between attempts.
fn settings(ctx: &Context) -> Config {
    let mut config = Config::default();
    if ctx.planted(Plant::HoldNotKept) {
        config.liveness.hold = Duration::ZERO;
    }
    let backoff = Backoff { first: Duration::from_millis(50), limit: Duration::from_secs(2) };
    let kind = KindConfig { strategy: Some(ctx.options.strategy), backoff: Some(backoff), ..KindConfig::default() };
    config.kinds.insert("default".to_owned(), kind);
    config.liveness.quarantine = Duration::from_secs(1);
    config
}

impl Coordinator {
    /// A coordinator that is not started yet.
    pub fn new(place: usize) -> Self {
        Self { node: None, place, planned: Micros::MAX }
    }

    /// Starts a process.
    pub fn start(&mut self, link: LinkId, ctx: &mut Context) {
        ctx.instances += 1;
        let instance = ctx.instances;
        let (drift, ahead) = ctx.options.drift;
        let clock = if drift == 0 {
            Clock::start(ctx.now, 0, 0)
        } else {
            Clock::start(ctx.now, ctx.rng.i64(-drift..=drift), ctx.rng.i64(-ahead..=ahead))
        };
        let seed = ctx.rng.u64(..);
        self.node = Some(Node {
            instance,
            scheduler: Scheduler::new(settings(ctx), seed),
            paused_until: 0,
            reign: None,
            place: self.place,
            link,
            clock,
            busy_until: 0,
            mailbox: VecDeque::new(),
            ears: Default::default(),
            actions: Actions::new(),
            settled: BTreeMap::new(),
            disconnects_seen: 0,
            next_maintenance: Duration::ZERO,
            next_canary: Duration::ZERO,
            beginning: None,
            unremembered: BTreeMap::new(),
            cannot_lead_since: None,
            lease_until: Duration::ZERO,
            contender: Contender::start(),
            keepers: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            stopped: false,
        });
        self.planned = Micros::MAX;
        ctx.trace(|| format!("coordinator {} starts as process {instance}", self.place));
        ctx.begin_link(link, instance);
        let at = ctx.now + ctx.rng.u64(ms(5)..ms(100));
        ctx.wake(Owner::Coordinator(self.place), &mut self.planned, at);
    }

    /// A message has come.
    pub fn receive(&mut self, down: Down, ctx: &mut Context) {
        let Some(node) = &mut self.node else { return };
        node.mailbox.push_back(down);
        if node.paused_until <= ctx.now {
            self.go_on(ctx);
        }
    }

    /// Looks at its timers.
    pub fn wake(&mut self, ctx: &mut Context) {
        if self.planned == ctx.now {
            self.planned = Micros::MAX;
            self.go_on(ctx);
        }
    }

    /// Does what there is to do.
    pub fn go_on(&mut self, ctx: &mut Context) {
        let Some(node) = &mut self.node else { return };
        if node.paused_until > ctx.now {
            return;
        }
        node.hear(ctx);
        node.look_at_timers(ctx);
        node.run(ctx);
        let at = node.next_wake(ctx);
        ctx.wake(Owner::Coordinator(self.place), &mut self.planned, at);
    }

    /// It is told to stop.
    pub fn stop(&mut self, ctx: &mut Context) {
        if let Some(node) = &mut self.node {
            node.command(Command::Stop);
        }
        self.go_on(ctx);
    }

    /// Whether it believes that it leads.
    pub fn leads(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.reign.is_some())
    }
}

impl Node {
    /// Time since the process began: what `Instant`s are measured by.
    fn instant(&self, ctx: &Context) -> Duration {
        self.clock.elapsed(ctx.now)
    }

    /// The scheduler's time.
    pub fn now(&self, ctx: &Context) -> Timestamp {
        Timestamp::from_origin(self.clock.origin() + self.clock.elapsed(ctx.now))
    }

    /// Sorts what has come into the subscriptions. What helpers wait for does not wait for the loop.
    fn hear(&mut self, ctx: &mut Context) {
        if self.mailbox.len() > 50 {
            ctx.reach(Mark::Burst);
        }
        while let Some(down) = self.mailbox.pop_front() {
            let (ear, heard) = match down {
                Down::Answer(Token::Call(call), answer) => {
                    self.call_answered(call, Some(answer), ctx);
                    continue;
                }
                Down::Answer(token, answer) => (0, Heard::Inbox(token, answer)),
                Down::Delivery(lane, stored) => (0, Heard::Delivery(lane, stored)),
                Down::Says(agent, said) => (1, Heard::Says(agent, said)),
                Down::Disconnected(agent) => (2, Heard::Disconnected(agent)),
                Down::LookAfter(reply) => (3, Heard::Ping(reply)),
                Down::CancelTask(id, reply) => (5, Heard::Command(Command::Cancel(id, reply))),
                Down::DrainAgent(agent) => (5, Heard::Command(Command::Drain(agent))),
                Down::Told(..) | Down::Copy(_) => continue,
            };
            self.ears[ear].push_back(heard);
        }
    }

    fn command(&mut self, command: Command) {
        self.ears[5].push_back(Heard::Command(command));
    }

    /// The loop, until there is nothing to do now.
    fn run(&mut self, ctx: &mut Context) {
        while self.busy_until <= ctx.now && self.beginning.is_none() && !self.stopped {
            let full: Vec<usize> = (0..self.ears.len()).filter(|ear| !self.ears[*ear].is_empty()).collect();
            if full.is_empty() && self.deadline() > ctx.now {
                return;
            }
            if !full.is_empty() {
                let ear = if full.len() == 1 { full[0] } else { full[ctx.rng.usize(..full.len())] };
                let most = if ear < 2 { TURN } else { 1 };
                for _ in 0..most {
                    let Some(heard) = self.ears[ear].pop_front() else { break };
                    self.on_heard(heard, ctx);
                }
                if self.beginning.is_some() || self.stopped {
                    return;
                }
            }
            self.turn(ctx);
            let (share, most) = ctx.options.slow_turns;
            if ctx.strikes(share) {
                self.busy_until = ctx.now + ctx.rng.u64(..most);
            }
        }
    }

    fn on_heard(&mut self, heard: Heard, ctx: &mut Context) {
        match heard {
            Heard::Inbox(token, answer) => self.on_answer(token, answer, ctx),
            Heard::Delivery(lane, stored) => self.on_delivery(lane, stored, ctx),
            Heard::Says(agent, said) => self.on_agent(agent, &said, ctx),
            Heard::Disconnected(agent) => {
                let agent = ctx.agents[agent as usize].clone();
                self.tell_scheduler(Event::AgentDisconnected(agent), ctx);
            }
            Heard::Ping(reply) => ctx.send(self.link, Up::Answer(reply, Answer::Present)),
            Heard::Change(change) => self.on_lease(change, ctx),
            Heard::Command(command) => self.on_command(command, ctx),
        }
    }

    /// When the loop has to look at something.
    fn deadline(&self) -> Micros {
        let due = self.scheduler.next_deadline().since_origin().saturating_sub(self.clock.origin());
        self.clock.at(due.min(self.next_maintenance).min(self.next_canary))
    }

    fn next_wake(&self, ctx: &Context) -> Micros {
        let helpers = self.next_timer();
        let looping = if self.beginning.is_some() || self.stopped {
            Micros::MAX
        } else if self.ears.iter().any(|ear| !ear.is_empty()) {
            self.busy_until
        } else {
            self.deadline().max(self.busy_until)
        };
        helpers.min(looping).max(ctx.now + 1).min(ctx.now + secs(60))
    }

    /// What is done after each batch of events: what is due, what was ordered, what is to be fetched.
    fn turn(&mut self, ctx: &mut Context) {
        self.step_down_if_outlived(ctx);
        let (now, instant) = (self.now(ctx), self.instant(ctx));
        if self.scheduler.next_deadline() <= now {
            self.tell_scheduler(Event::DeadlineReached, ctx);
            if self.scheduler.next_deadline() <= now {
                ctx.oracle.fail("a deadline is due again at once: the shell would spin");
            }
        }
        if instant >= self.next_canary {
            self.next_canary = instant + CANARY;
            let reply = self.reply(Token::Canary);
            ctx.send(self.link, Up::Answer(reply, Answer::Canary));
        }
        if instant >= self.next_maintenance {
            self.next_maintenance = instant + MAINTENANCE;
            self.maintain(ctx);
        }
        self.carry_out(ctx);
        self.confirm_settled(ctx);
        self.pull(ctx);
    }

    fn reply(&self, token: Token) -> Reply {
        Reply { link: self.link, instance: self.instance, token }
    }

    fn tell_scheduler(&mut self, event: Event, ctx: &mut Context) {
        self.note_causes(&event, ctx);
        let (now, before) = (self.now(ctx), self.actions.len());
        self.scheduler.handle(event, now, &mut self.actions);
        self.check_room(before, ctx);
    }

    /// No agent is given more than it takes, as this leader sees it.
    fn check_room(&self, before: usize, ctx: &mut Context) {
        for action in &self.actions[before..] {
            let Action::Dispatch(dispatch) = action else { continue };
            let Some(agent) = self.scheduler.agent(&dispatch.agent, self.now(ctx)) else { continue };
            let (room, capacity) = ctx.offers[ctx.place_of(&agent.id) as usize];
            let place = ctx.oracle.find(&dispatch.attempt.task);
            let reserves = place.is_some_and(|place| ctx.oracle.tasks[place].nature.cpu_millis > 0);
            let over = reserves && capacity > 0 && agent.reserved.cpu_millis > capacity;
            if agent.running + agent.queued > room || over {
                ctx.oracle.fail(format!("{agent:?} was given more than it takes, with {:?}", dispatch.attempt));
            }
        }
    }

    /// What agents say is a reason to start a task once more, too.
    fn note_causes(&self, event: &Event, ctx: &mut Context) {
        let Some(epoch) = self.scheduler.epoch() else { return };
        match event {
            Event::AttemptDone(_, done) if done.outcome == AttemptOutcome::Succeeded => {
                let task = self.scheduler.task(&done.attempt.task, self.now(ctx));
                if task.is_some_and(|task| task.state == shared::api::TaskState::Waiting) {
                    ctx.reach(Mark::LateSuccess);
                }
            }
            Event::AttemptDone(_, done)
                if matches!(done.outcome, AttemptOutcome::Cancelled | AttemptOutcome::Rejected) =>
            {
                ctx.oracle.cause(&done.attempt.task, epoch.0);
            }
            Event::AgentBye(_, bye) => {
                bye.returned.iter().for_each(|attempt| ctx.oracle.cause(&attempt.task, epoch.0));
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, ctx: &mut Context) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act(action, ctx);
            }
        }
    }

    fn act(&mut self, action: Action, ctx: &mut Context) {
        ctx.trace(|| format!("coordinator {}: {action:?}", self.place));
        match action {
            Action::Dispatch(dispatch) => {
                self.confirm_before(&dispatch, ctx);
                self.dispatch(dispatch, ctx);
            }
            Action::Repeat(dispatch) => {
                ctx.reach(Mark::OrderRepeated);
                self.order(dispatch, ctx);
            }
            Action::Record(settlement) => self.record(settlement, ctx),
            Action::Settled { agent, attempt } => {
                self.check_settled_is_due(&agent, &attempt, ctx);
                self.settled.entry(agent).or_default().push(attempt);
            }
            Action::Cancel { agent, attempt, reason } => {
                self.tell_agent(&agent, Told::Cancel(Cancel { attempt, reason: reason.into() }), None, ctx);
            }
            Action::CheckSettled { agent, attempt, sequence } => self.check_settled(agent, attempt, sequence, ctx),
            Action::Remember { sequence, history } => self.remember(sequence, history, ctx),
            Action::ForgetHistory(sequence) => {
                self.unremembered.remove(&sequence);
                ctx.send(self.link, Up::Ask(Ask::ForgetHistory(sequence), None));
            }
            Action::SettleDuplicate(sequence) => {
                ctx.reach(Mark::DuplicateSettled);
                if !ctx.planted(Plant::NoSettleDuplicate) {
                    self.look_up(sequence, ctx);
                }
            }
            Action::Probe(agent) => {
                let reply = self.reply(Token::Probe(ctx.place_of(&agent)));
                self.tell_agent(&agent, Told::Ping, Some(reply), ctx);
            }
            Action::Welcome { agent, hello_wanted } => self.welcome(&agent, hello_wanted, ctx),
            Action::Heard { agent, sequence } => {
                let epoch = self.scheduler.epoch().unwrap_or_default();
                self.tell_agent(&agent, Told::Heard(message::Heard { epoch, sequence }), None, ctx);
            }
            Action::Drain(agent) => {
                let epoch = self.scheduler.epoch().unwrap_or_default();
                self.tell_agent(&agent, Told::Drain(Drain { epoch }), None, ctx);
            }
            Action::Release { sequence, delay } => self.release(sequence, delay, ctx),
            Action::LookBack(kind) => self.look_back(&kind, ctx),
            Action::Tell(notice) => self.tell(&notice, ctx),
        }
    }

    fn leads_in(&self, epoch: u64) -> bool {
        self.reign.is_some() && self.scheduler.epoch() == Some(Epoch(epoch))
    }

    /// Keeps how the attempts of a task ended, until it is confirmed.
    fn remember(&mut self, sequence: Sequence, history: History, ctx: &mut Context) {
        let now = self.instant(ctx);
        self.unremembered.insert(sequence, (now, history));
        self.send_history(sequence, ctx);
    }

    fn send_history(&self, sequence: Sequence, ctx: &mut Context) {
        let Some((_, history)) = self.unremembered.get(&sequence) else { return };
        let reply = self.reply(Token::Remember(sequence, history.attempts));
        let epoch = self.scheduler.epoch().unwrap_or_default().0;
        ctx.send(self.link, Up::Ask(Ask::Remember(sequence, epoch, history.clone()), Some(reply)));
    }

    fn remember_again(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let is_late = |(sent, _): &(Duration, History)| now - *sent >= PATIENCE;
        let late: Vec<Sequence> = self.unremembered.iter().filter(|(_, p)| is_late(p)).map(|(s, _)| *s).collect();
        for sequence in late {
            if let Some(pending) = self.unremembered.get_mut(&sequence) {
                pending.0 = now;
            }
            self.send_history(sequence, ctx);
        }
    }

    fn welcome(&self, agent: &AgentId, hello_wanted: bool, ctx: &mut Context) {
        let liveness = &self.scheduler.config().liveness;
        let welcome = Welcome {
            epoch: self.scheduler.epoch().unwrap_or_default(),
            beat_interval: liveness.beat_interval,
            report_interval: liveness.report_interval,
            hello_wanted,
            hold: Some(Config::default().liveness.hold),
        };
        self.tell_agent(agent, Told::Welcome(welcome), None, ctx);
    }

    fn tell_agent(&self, agent: &AgentId, told: Told, reply: Option<Reply>, ctx: &mut Context) {
        let place = ctx.place_of(agent);
        ctx.send(self.link, Up::Tell(place, told, reply));
    }

    /// An event that operators see is a recorded cause.
    fn tell(&self, notice: &Notice, ctx: &mut Context) {
        if let ("agent", "lost", Some(agent)) = (notice.topic, notice.what, &notice.agent) {
            let place = ctx.place_of(agent);
            ctx.lost_agents.push(place);
        }
        let Some((id, _, _)) = &notice.task else { return };
        let mark = match notice.what {
            "failed" => Mark::Retried,
            "reassigned" => Mark::Reassigned,
            "redispatched" => Mark::Redispatched,
            _ => return,
        };
        ctx.reach(mark);
        let epoch = self.scheduler.epoch().unwrap_or_default();
        ctx.oracle.cause(id, epoch.0);
    }

    fn confirm_before(&mut self, dispatch: &scheduler::Dispatch, ctx: &mut Context) {
        let earlier = |attempt: &AttemptRef| attempt.task == dispatch.attempt.task;
        if dispatch.attempt.attempt > 1
            && self.settled.get(&dispatch.agent).is_some_and(|attempts| attempts.iter().any(earlier))
            && let Some(attempts) = self.settled.remove(&dispatch.agent)
        {
            self.tell_agent(&dispatch.agent, Told::Settled(Settled { attempts }), None, ctx);
        }
    }

    fn confirm_settled(&mut self, ctx: &mut Context) {
        for (agent, attempts) in std::mem::take(&mut self.settled) {
            self.tell_agent(&agent, Told::Settled(Settled { attempts }), None, ctx);
        }
    }

    /// Begins to lead, or ends.
    fn on_lease(&mut self, change: Change, ctx: &mut Context) {
        match change {
            Change::Held { epoch, until } => {
                self.lease_until = until;
                if self.reign.is_none() {
                    self.beginning = Some(epoch);
                    self.call(Ask::LastSequence, calls::Purpose::Begin, ctx);
                }
            }
            Change::Lost => {
                self.cannot_lead_since = None;
                self.step_down(ctx);
            }
        }
    }

    fn step_down(&mut self, ctx: &mut Context) {
        let Some(reign) = self.reign.take() else { return };
        ctx.reach(Mark::SteppedDown);
        ctx.serving.retain(|link| *link != self.link);
        self.close_keeper(reign.keeper, ctx);
        self.unremembered.clear();
        self.tell_scheduler(Event::LeadershipLost, ctx);
        self.actions.clear();
    }

    fn step_down_if_outlived(&mut self, ctx: &mut Context) {
        if self.instant(ctx) >= self.lease_until && !ctx.planted(Plant::NeverStepsDown) {
            self.step_down(ctx);
        }
    }

    /// The state of the task stream is known, or not: then the process ends, so that another can lead.
    fn begin_reign(&mut self, last: Option<u64>, ctx: &mut Context) {
        let Some(epoch) = self.beginning.take() else { return };
        let Some(inherited) = last else {
            // The next renewal of the lease is the next try, for a while.
            ctx.reach(Mark::CouldNotBegin);
            let now = self.instant(ctx);
            if now - *self.cannot_lead_since.get_or_insert(now) > CANNOT_LEAD {
                let at = ctx.now + ctx.rng.u64(ms(500)..secs(2));
                self.stopped = true;
                ctx.ended.push((Owner::Coordinator(self.place), at));
            }
            return;
        };
        self.cannot_lead_since = None;
        let keeper = self.open_keeper(epoch);
        let now = self.instant(ctx);
        let follows_nobody = epoch == FIRST_EPOCH || ctx.planted(Plant::ResultsListedAtOnce);
        let former_leads = if follows_nobody { Duration::ZERO } else { lease::LIFETIME };
        self.reign = Some(Reign {
            envelopes: BTreeMap::new(),
            began: ctx.now,

            awaited: VecDeque::new(),
            lanes: Lanes::new(epoch, ctx.options.window, ctx.planted(Plant::OldLanesStay)),
            keeper,
            known: FxHashSet::default(),
            known_complete: false,
            results_due: Some(now + former_leads),
            histories_known: false,
            inherited,
            served_version: u64::MAX,
            lingering: BTreeMap::new(),
            next_extension: now + EXTENSION,
            next_survey: now,
        });
        ctx.serving.push(self.link);
        ctx.oracle.reign_began(epoch);
        self.tell_scheduler(Event::LeadershipTaken(Epoch(epoch)), ctx);
        self.call(Ask::ListHistories, calls::Purpose::LearnHistories(epoch), ctx);
        self.turn(ctx);
    }

    fn maintain(&mut self, ctx: &mut Context) {
        let disconnects = ctx.links[self.link.0].disconnects;
        if disconnects != self.disconnects_seen {
            self.disconnects_seen = disconnects;
            self.tell_scheduler(Event::LinkRestored, ctx);
            if let Some(reign) = &mut self.reign {
                reign.lanes.forget_pulls();
            }
        }
        self.serve_kinds(ctx);
        self.set_stuck_kinds_apart(ctx);
        self.ask_again(ctx);
        self.remember_again(ctx);
        self.extend_held(ctx);
        self.survey(ctx);
        self.learn_results(ctx);
    }

    fn serve_kinds(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let Some(reign) = &mut self.reign else { return };
        reign.lanes.set_window(self.scheduler.total_slots());
        let version = self.scheduler.served_version();
        if reign.served_version == version && reign.lingering.is_empty() {
            return;
        }
        reign.served_version = version;
        let place = |kind: &shared::Kind| ctx.kinds.iter().position(|known| known == kind).map(|place| place as u8);
        let mut served: BTreeSet<u8> = self.scheduler.served_kinds().filter_map(place).collect();
        for kind in reign.lanes.kinds().difference(&served) {
            reign.lingering.entry(*kind).or_insert(now + LINGER);
        }
        reign.lingering.retain(|kind, until| !served.contains(kind) && *until > now);
        served.extend(reign.lingering.keys());
        reign.lanes.serve(served, now);
        self.pass_jobs(ctx);
    }

    fn look_back(&mut self, kind: &shared::Kind, ctx: &mut Context) {
        let now = self.instant(ctx);
        let place = ctx.kinds.iter().position(|known| known == kind).expect("kinds are named by the simulation");
        ctx.reach(Mark::LookedBack);
        if let Some(reign) = &mut self.reign {
            reign.lanes.look_back(place as u8, now);
        }
        self.pass_jobs(ctx);
    }

    fn set_stuck_kinds_apart(&mut self, ctx: &mut Context) {
        let now = self.instant(ctx);
        let full = self.reign.as_ref().map(|reign| reign.lanes.full_shared()).unwrap_or_default();
        for priority in full {
            let waiting = |kind: &u8| self.scheduler.waiting(&ctx.kinds[*kind as usize])[priority as usize];
            let Some(reign) = &mut self.reign else { return };
            let most = reign.lanes.kinds().iter().copied().max_by_key(waiting);
            let moved = most.and_then(|kind| reign.lanes.set_apart(kind, priority, now));
            self.move_held(moved, ctx);
        }
    }

    /// What it holds of each task: for checks.
    pub fn envelope_of(&self, id: &TaskId) -> Option<&Envelope> {
        let sequence = self.scheduler.sequence_of(id)?;
        self.reign.as_ref()?.envelopes.get(&sequence)
    }

    fn check_settled_is_due(&self, agent: &AgentId, attempt: &AttemptRef, ctx: &mut Context) {
        let Some(envelope) = self.envelope_of(&attempt.task) else { return };
        let is_it = |settlement: &Settlement| settlement.by.as_ref() == Some(&(agent.clone(), attempt.clone()));
        if envelope.settlement.as_deref().is_some_and(is_it) {
            ctx.oracle.settled_said(attempt);
        }
    }
}
