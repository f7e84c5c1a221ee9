//! An agent: the real session, and models of what is around it: two connections, the thread that beats, handlers.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use agent_worker::session::{Action, Ended, Event as Told2Session, Intervals, Key, Order, Session, Setup};
use bytes::Bytes;
use scheduler::{Done, Sequence};
use shared::message::{Beat, Heard, Held, HeldState, Report};
use shared::needs::Labels;
use shared::task::AttemptOutcome;
use shared::{Countables, Incarnation, Resources, Used};

use crate::clock::{Clock, ms, secs};
use crate::context::Context;
use crate::event::{Event, LinkId, Micros, Owner};
use crate::marks::Mark;
use crate::message::{Answer, Down, Instance, Output, Reply, Said, Told, Up};
use crate::oracle::{Nature, Way};
use crate::plant::Plant;

/// Limit of a handler that is given none.
const TIMEOUT: Duration = Duration::from_secs(8);
/// How long a handler that is told to stop may go on.
const GRACE: Micros = secs(2);
/// How much longer some handlers run that run at most once.
const LONGER_ALONE: Micros = secs(15);
/// How long the session takes at most to notice a new connection.
const RECONNECT_CHECK: Micros = ms(100);

/// A process of an agent, or the place where one will be.
#[derive(Debug)]
pub struct Agent {
    /// Its place.
    pub place: usize,
    /// What it offers, whatever its process.
    pub offer: Offer,
    /// The process.
    pub process: Option<Process>,
    planned: Micros,
    starts: u64,
}

/// What an agent offers, whatever its process.
#[derive(Clone, Debug)]
pub struct Offer {
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many it takes in advance.
    pub queue: u32,
    /// Which kinds it can do.
    pub kinds: Vec<u8>,
    /// Which of them it runs at most once.
    pub at_most_once: Vec<u8>,
    /// Thousandths of a core; zero is not limited.
    pub cpu_millis: u64,
}

/// A process of an agent.
#[derive(Debug)]
pub struct Process {
    /// Its number among all processes.
    pub instance: Instance,
    /// The decisions.
    pub session: Session<usize>,
    /// Until when it is stopped.
    pub paused_until: Micros,
    /// Since when its session's connection has been there.
    pub connected_since: Option<Micros>,
    clock: Clock,
    mailbox: VecDeque<Down>,
    running: BTreeMap<Key, Running>,
    /// Handlers that ended while the process was stopped.
    late_ends: Vec<(Key, u32)>,
    intervals: Option<Intervals>,
    next_beat: Duration,
    next_report: Duration,
    beats: u64,
    unanswered: VecDeque<(u64, Duration)>,
    shown: Vec<Held>,
    told_connects: u32,
    notice_connection_at: Option<Micros>,
    /// The newest epoch that it has been told of.
    seen: u64,
}

#[derive(Debug)]
struct Running {
    start: u32,
    nature: Nature,
    order: std::sync::Arc<Order>,
    plan: u32,
    began: Micros,
    ends: Micros,
    outcome: AttemptOutcome,
    stopping: bool,
}

impl Agent {
    /// An agent that is not started yet.
    pub fn new(place: usize, offer: Offer) -> Self {
        Self { place, offer, process: None, planned: Micros::MAX, starts: 0 }
    }

    /// Starts a process.
    pub fn start(&mut self, links: [LinkId; 2], ctx: &mut Context) {
        self.starts += 1;
        ctx.instances += 1;
        let instance = ctx.instances;
        let (drift, ahead) = ctx.options.drift;
        let drift = if drift == 0 { 0 } else { ctx.rng.i64(-drift..=drift) };
        let clock = Clock::start(ctx.now, drift, ahead);
        let incarnation = if ctx.planted(Plant::SameIncarnation) { 7 } else { ctx.now / 1000 + self.starts };
        let setup = Setup {
            agent: ctx.agents[self.place].clone(),
            incarnation: Incarnation(incarnation),
            version: String::new(),
            host: String::new(),
            slots: self.offer.slots,
            queue: self.offer.queue,
            labels: Labels::new(),
            kinds: self.offer.kinds.iter().map(|kind| ctx.kinds[*kind as usize].clone()).collect(),
            at_most_once: self.offer.at_most_once.iter().map(|kind| ctx.kinds[*kind as usize].clone()).collect(),
            capacity: Resources { cpu_millis: self.offer.cpu_millis, ..Resources::ZERO },
            resources: Countables::ZERO,
            needs: BTreeMap::new(),
            enforcement: String::new(),
        };
        self.process = Some(Process {
            instance,
            session: Session::new(setup),
            paused_until: 0,
            connected_since: None,
            clock,
            mailbox: VecDeque::new(),
            running: BTreeMap::new(),
            late_ends: Vec::new(),
            intervals: None,
            next_beat: Duration::ZERO,
            next_report: Duration::ZERO,
            beats: 0,
            unanswered: VecDeque::new(),
            shown: Vec::new(),
            told_connects: 0,
            notice_connection_at: None,
            seen: 0,
        });
        self.planned = Micros::MAX;
        ctx.trace(|| format!("agent {} starts as process {instance}", self.place));
        for link in links {
            ctx.begin_link(link, instance);
        }
    }

    /// Whether it runs the task, wants to, and has not been told to stop.
    pub fn works_on(&self, task: &shared::TaskId) -> bool {
        let Some(process) = &self.process else { return false };
        let stopping =
            |held: &Held| process.running.values().any(|running| running.stopping && running.order.task == held.task);
        let holds = process.session.holds();
        holds.iter().any(|held| held.task == *task && held.state != HeldState::Done && !stopping(held))
    }

    /// What it holds, whatever its state.
    pub fn holds(&self) -> Vec<Held> {
        self.process.as_ref().map(|process| process.session.holds()).unwrap_or_default()
    }

    /// How many handlers run.
    pub fn handlers(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.running.len())
    }

    /// A message has come.
    pub fn receive(&mut self, down: Down, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        process.mailbox.push_back(down);
        if process.paused_until <= ctx.now {
            self.go_on(links, ctx);
        }
    }

    /// The connection is there.
    pub fn connected(&mut self, link: LinkId, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        if link == links[0] {
            process.connected_since = Some(ctx.now);
            let at = ctx.now + ctx.rng.u64(..RECONNECT_CHECK);
            process.notice_connection_at = Some(at);
            ctx.wake(Owner::Agent(self.place), &mut self.planned, at);
        }
    }

    /// A handler has come to its end, if that is still what was planned.
    pub fn handler_ends(&mut self, instance: Instance, key: Key, plan: u32, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = self.process.as_mut().filter(|process| process.instance == instance) else { return };
        if process.running.get(&key).is_none_or(|running| running.plan != plan) {
            return;
        }
        if process.paused_until > ctx.now {
            process.late_ends.push((key, plan));
            return;
        }
        self.end_handler(key, links, ctx);
        self.plan(ctx);
    }

    fn end_handler(&mut self, key: Key, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let Some(running) = process.running.remove(&key) else { return };
        ctx.oracle.ended_alone(ctx.oracle.starts[running.start as usize].task, process.instance);
        if running.nature.way == Way::Poison && running.outcome == AttemptOutcome::Succeeded {
            ctx.trace(|| format!("agent {} is taken down by {}", self.place, running.order.task));
            ctx.oracle.tasks[ctx.oracle.starts[running.start as usize].task].deaths += 1;
            let at = ctx.now + ctx.rng.u64(ms(100)..secs(3));
            ctx.ended.push((Owner::Agent(self.place), at));
            return;
        }
        ctx.oracle.ended(running.start, running.outcome);
        let run = Duration::from_micros(ctx.now - running.began);
        ctx.trace(|| format!("agent {}: {} ends as {}", self.place, running.order.task, running.outcome));
        let ended = match running.outcome {
            AttemptOutcome::Succeeded => {
                let output = Bytes::copy_from_slice(&running.start.to_le_bytes());
                let (error, used) = (String::new(), Used::default());
                Ended { outcome: AttemptOutcome::Succeeded, output, error, run, used }
            }
            outcome => Ended::without_output(outcome, "so it is", run),
        };
        if running.stopping && ctx.planted(Plant::SlotLeak) {
            return;
        }
        self.apply(Told2Session::HandlerEnded { key, ended }, links, ctx);
    }

    /// Looks at its timers and reads what has come.
    pub fn wake(&mut self, links: [LinkId; 2], ctx: &mut Context) {
        if self.planned != ctx.now {
            return;
        }
        self.planned = Micros::MAX;
        self.go_on(links, ctx);
    }

    /// It is not stopped any more, or something has come.
    pub fn go_on(&mut self, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        if process.paused_until > ctx.now {
            return;
        }
        for (key, plan) in std::mem::take(&mut process.late_ends) {
            if self.process.as_ref().is_some_and(|p| p.running.get(&key).is_some_and(|r| r.plan == plan)) {
                self.end_handler(key, links, ctx);
            }
        }
        while let Some(down) = self.process.as_mut().and_then(|process| process.mailbox.pop_front()) {
            self.read(down, links, ctx);
        }
        self.look_at_timers(links, ctx);
        self.plan(ctx);
    }

    fn look_at_timers(&mut self, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        if process.notice_connection_at.is_some_and(|at| at <= ctx.now) {
            process.notice_connection_at = None;
            let link = &ctx.links[links[0].0];
            if link.up && link.connects != process.told_connects {
                process.told_connects = link.connects;
                self.apply(Told2Session::Connected, links, ctx);
            }
        }
        let Some(process) = &mut self.process else { return };
        let elapsed = process.clock.elapsed(ctx.now);
        if process.session.next_deadline().is_some_and(|due| due <= elapsed) {
            self.apply(Told2Session::DeadlineReached, links, ctx);
        }
        self.beat(links, ctx);
    }

    /// Plans when it is woken next.
    fn plan(&mut self, ctx: &mut Context) {
        let Some(process) = &self.process else { return };
        let mut at = process.notice_connection_at.unwrap_or(Micros::MAX);
        if let Some(due) = process.session.next_deadline() {
            at = at.min(process.clock.at(due));
        }
        if process.intervals.is_some() {
            at = at.min(process.clock.at(process.next_beat.min(process.next_report)));
        }
        if at < Micros::MAX {
            ctx.wake(Owner::Agent(self.place), &mut self.planned, at.max(process.paused_until));
        }
    }

    fn read(&mut self, down: Down, links: [LinkId; 2], ctx: &mut Context) {
        let Down::Told(told, reply) = down else { return };
        ctx.trace(|| format!("agent {} is told {told:?}", self.place));
        match told {
            Told::Ping => self.answer_ping(reply, links, ctx),
            Told::Run(order, task) => self.read_run(order, task, links, ctx),
            Told::Welcome(welcome) => {
                self.see(welcome.epoch.0);
                self.apply(Told2Session::Welcomed(welcome), links, ctx);
            }
            Told::Heard(heard) => self.heard(&heard, links, ctx),
            Told::Cancel(cancel) => self.apply(Told2Session::CancelOrdered(cancel), links, ctx),
            Told::Settled(settled) => self.apply(Told2Session::Settled(settled), links, ctx),
            Told::Drain(drain) => {
                let old = self.see(drain.epoch.0);
                let drained_before = self.process.as_ref().is_some_and(|process| process.session.draining());
                self.apply(Told2Session::DrainOrdered(drain), links, ctx);
                if old && !drained_before && self.process.as_ref().is_some_and(|process| process.session.draining()) {
                    ctx.oracle.fail(format!("agent {} obeyed a drain of an older epoch", self.place));
                }
            }
        }
    }

    /// Remembers an epoch. Whether it is older than one seen is returned.
    fn see(&mut self, epoch: u64) -> bool {
        let Some(process) = &mut self.process else { return false };
        let old = epoch < process.seen;
        process.seen = process.seen.max(epoch);
        old
    }

    fn read_run(&mut self, mut order: Order, task: usize, links: [LinkId; 2], ctx: &mut Context) {
        let old = self.see(order.epoch.0);
        let Some(process) = &self.process else { return };
        let held = |holds: &[Held], order: &Order| {
            holds
                .iter()
                .any(|held| held.task == order.task && (held.attempt, held.epoch) == (order.attempt, order.epoch))
        };
        let before = old && held(&process.session.holds(), &order);
        let meant_for_another = order.incarnation != process.session.setup().incarnation;
        let named = order.clone();
        if ctx.planted(Plant::EpochNotChecked) {
            order.epoch.0 = process.seen;
        }
        if ctx.planted(Plant::IncarnationNotChecked) {
            order.incarnation = process.session.setup().incarnation;
        }
        let started = ctx.oracle.starts.len();
        let was_held = self.holds().into_iter().find(|held| held.task == named.task).map(|held| held.epoch);
        self.apply(Told2Session::RunOrdered(order, task), links, ctx);
        let taken = ctx.oracle.starts.len() > started;
        let now_held = self.holds().into_iter().find(|held| held.task == named.task).map(|held| held.epoch);
        if !taken && was_held.is_some() && now_held > was_held {
            ctx.reach(Mark::TakenOver);
        }
        if meant_for_another && taken {
            ctx.oracle.fail(format!("agent {} obeyed an order to another process: {named:?}", self.place));
        }
        if old {
            ctx.reach(Mark::OldEpochRefused);
            let holds = self.holds();
            let renumbered =
                holds.iter().any(|h| h.task == named.task && h.attempt == named.attempt) && !before && taken;
            if taken || renumbered {
                ctx.oracle.fail(format!("agent {} obeyed an older epoch than it had seen: {named:?}", self.place));
            }
        }
    }

    fn heard(&mut self, heard: &Heard, links: [LinkId; 2], ctx: &mut Context) {
        self.see(heard.epoch.0);
        let Some(process) = &mut self.process else { return };
        let mut sent = Duration::ZERO;
        while let Some((_, said)) = process.unanswered.pop_front_if(|(sequence, _)| *sequence <= heard.sequence) {
            sent = said;
        }
        self.apply(Told2Session::Heard { epoch: heard.epoch, sent }, links, ctx);
    }

    fn answer_ping(&mut self, reply: Option<Reply>, links: [LinkId; 2], ctx: &mut Context) {
        let (Some(reply), Some(process)) = (reply, &mut self.process) else { return };
        process.beats += 1;
        let beat = process.make_beat(process.session.holds(), false, ctx);
        self.publish(links[0], Up::Answer(reply, Answer::Pong(Rc::new(beat))), ctx);
    }

    fn beat(&mut self, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let Some(intervals) = process.intervals else { return };
        let elapsed = process.clock.elapsed(ctx.now);
        let place = self.place as u8;
        let mut says = Vec::new();
        if process.next_beat <= elapsed {
            process.next_beat = elapsed + intervals.beat;
            process.beats += 1;
            // The session was too busy to answer: what it said last is repeated.
            let fresh = !ctx.strikes(ctx.options.stale_beats);
            if fresh {
                process.shown = process.session.holds();
            }
            let answer = fresh && process.wants_answer(elapsed);
            says.push(Said::Beat(process.make_beat(process.shown.clone(), answer, ctx)));
        }
        if process.next_report <= elapsed {
            process.next_report = elapsed + intervals.report;
            let cpu = process.running.len() as f64 / f64::from(self.offer.slots);
            let incarnation = process.session.setup().incarnation;
            says.push(Said::Report(Report { incarnation, cpu, ..Report::default() }));
        }
        let link = if ctx.links[links[1].0].up { links[1] } else { links[0] };
        for said in says {
            self.publish(link, Up::Says(place, Rc::new(said)), ctx);
        }
    }

    /// What cannot be sent now is not sent.
    fn publish(&self, link: LinkId, up: Up, ctx: &mut Context) {
        if ctx.links[link.0].up {
            ctx.send(link, up);
        }
    }

    fn apply(&mut self, event: Told2Session<usize>, links: [LinkId; 2], ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let mut actions = Vec::new();
        let elapsed = process.clock.elapsed(ctx.now);
        let repeating = matches!(event, Told2Session::DeadlineReached | Told2Session::Connected);
        process.session.handle(event, elapsed, &mut actions);
        for action in actions {
            if repeating && matches!(action, Action::SendDone(_)) && ctx.planted(Plant::DoneOnce) {
                continue;
            }
            self.carry_out(action, links, ctx);
        }
    }

    fn carry_out(&mut self, action: Action<usize>, links: [LinkId; 2], ctx: &mut Context) {
        let place = self.place as u8;
        match action {
            Action::Start { key, order, work } => self.start_handler(key, order, work, ctx),
            Action::Stop(key) => {
                if self.is_out_of_touch(key, ctx) {
                    ctx.reach(Mark::OutOfTouch);
                }
                self.stop_handler(key, ctx);
            }
            Action::SendHello(hello) => self.publish(links[0], Up::Says(place, Rc::new(Said::Hello(*hello))), ctx),
            Action::SendBeat => {
                let Some(process) = &mut self.process else { return };
                process.beats += 1;
                let answer = process.wants_answer(process.clock.elapsed(ctx.now));
                let beat = process.make_beat(process.session.holds(), answer, ctx);
                self.publish(links[0], Up::Says(place, Rc::new(Said::Beat(beat))), ctx);
            }
            Action::SendDone(done) => {
                if done.ended.outcome == AttemptOutcome::Rejected {
                    ctx.reach(Mark::Rejected);
                }
                self.publish(links[0], Up::Says(place, Rc::new(write_done(&done))), ctx);
            }
            Action::SendBye(bye) => {
                // A beat that came after it would bring the agent back.
                if let Some(process) = &mut self.process {
                    process.intervals = None;
                }
                self.publish(links[0], Up::Says(place, Rc::new(Said::Bye(bye))), ctx);
            }
            Action::SetIntervals(intervals) => {
                if let Some(process) = &mut self.process {
                    let elapsed = process.clock.elapsed(ctx.now);
                    process.next_beat =
                        elapsed + if process.intervals.is_none() { Duration::ZERO } else { intervals.beat };
                    process.next_report = elapsed + Duration::from_millis(300);
                    process.intervals = Some(intervals);
                }
            }
            Action::Leave => {
                ctx.reach(Mark::Left);
                let at = ctx.now + ctx.rng.u64(ms(200)..secs(3));
                ctx.ended.push((Owner::Agent(self.place), at));
            }
        }
    }

    fn start_handler(&mut self, key: Key, order: std::sync::Arc<Order>, task: usize, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let (start, nature, failures) = ctx.oracle.started(&order.attempt_ref(), self.place, process.instance);
        if ctx.oracle.starts[start as usize].task != task {
            ctx.oracle.fail(format!("agent {} got another body for {}", self.place, order.task));
        }
        if process.running.len() >= self.offer.slots as usize {
            ctx.oracle.fail(format!("agent {} runs more than it has slots: {}", self.place, order.task));
        }
        let alone = process.session.setup().at_most_once.contains(&order.kind);
        // What ends sooner than an agent is lost cannot run beside another.
        let longer = if alone && task.is_multiple_of(8) { LONGER_ALONE } else { 0 };
        let timeout = order.timeout.map_or(TIMEOUT.as_micros() as Micros + longer, |limit| limit.as_micros() as Micros);
        let run = longer + nature.run / 2 + ctx.rng.u64(..=nature.run);
        let (mut lasts, mut outcome) = match nature.way {
            Way::Succeeds | Way::Poison => (run, AttemptOutcome::Succeeded),
            Way::Fails(times) if failures < times => (run, AttemptOutcome::Failed),
            Way::Fails(_) => (run, AttemptOutcome::Succeeded),
            Way::Hangs => (Micros::MAX, AttemptOutcome::Timeout),
        };
        if lasts >= timeout {
            (lasts, outcome) = (timeout, AttemptOutcome::Timeout);
        }
        let ends = ctx.now + lasts;
        ctx.trace(|| format!("agent {} starts {:?}", self.place, order.attempt_ref()));
        if alone && process.paused_until <= ctx.now {
            ctx.oracle.started_alone(task, process.instance);
        }
        let again = ctx.planted(Plant::StartsTwice) && ctx.rng.f64() < 0.02;
        if again {
            ctx.oracle.started(&order.attempt_ref(), self.place, process.instance);
        }
        let running = Running { start, nature, order, plan: 0, began: ctx.now, ends, outcome, stopping: false };
        process.running.insert(key, running);
        ctx.queue.push(ends, Event::HandlerEnds { agent: self.place, instance: process.instance, key, plan: 0 });
    }

    /// Whether the handler stops because the coordinator was not heard.
    fn is_out_of_touch(&self, key: Key, ctx: &Context) -> bool {
        let Some(process) = &self.process else { return false };
        let kind = process.running.get(&key).map(|running| &running.order.kind);
        kind.is_some_and(|kind| process.session.setup().at_most_once.contains(kind))
            && !process.session.is_in_touch(process.clock.elapsed(ctx.now))
    }

    fn stop_handler(&mut self, key: Key, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let Some(running) = process.running.get_mut(&key) else { return };
        running.stopping = true;
        let last = if running.nature.stubborn { ctx.now + GRACE } else { ctx.now + ctx.rng.u64(..ms(20)) };
        if running.ends <= last {
            return;
        }
        (running.ends, running.outcome) = (last, AttemptOutcome::Cancelled);
        running.plan += 1;
        let (instance, plan) = (process.instance, running.plan);
        ctx.queue.push(last, Event::HandlerEnds { agent: self.place, instance, key, plan });
    }

    /// Somebody on its host wants it to leave.
    pub fn drain(&mut self, links: [LinkId; 2], ctx: &mut Context) {
        if self.process.as_ref().is_some_and(|process| process.paused_until <= ctx.now) {
            self.apply(Told2Session::DrainWanted, links, ctx);
            self.plan(ctx);
        }
    }
}

impl Process {
    /// Whether the beat of the last number is to be answered.
    fn wants_answer(&mut self, elapsed: Duration) -> bool {
        let answer = self.session.wants_answers();
        if answer {
            self.unanswered.push_back((self.beats, elapsed));
        }
        answer
    }

    fn make_beat(&self, holds: Vec<Held>, answer: bool, ctx: &Context) -> Beat {
        let holds = if ctx.planted(Plant::EmptyBeats) { Vec::new() } else { holds };
        Beat {
            incarnation: self.session.setup().incarnation,
            sequence: self.beats,
            holds,
            draining: self.session.draining(),
            lag_ms: 0,
            answer,
        }
    }
}

fn write_done(done: &agent_worker::session::Done) -> Said {
    let agent_worker::session::Done { order, ended } = done;
    let output: Output = ended.output.as_ref().try_into().ok().map(u32::from_le_bytes);
    let done = Done {
        sequence: Sequence(order.sequence),
        attempt: order.attempt_ref(),
        incarnation: order.incarnation,
        outcome: ended.outcome,
        error: (!ended.error.is_empty()).then(|| ended.error.as_str().into()),
        run: ended.run,
        used: ended.used,
    };
    Said::Done(done, output)
}
