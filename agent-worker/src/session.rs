//! Decides what an agent does next: which attempts it takes, starts, refuses and forgets, when it repeats
//! itself and when it may leave.
//!
//! There is no I/O, no clock and no randomness here: [`Session::handle`] is told what happened and what time
//! it is (as a span since the process began), and appends what is to be done. `connection` and `executor` do it.
//! What a handler gets is opaque: `W` is carried from the event to the action.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use shared::message::{AttemptRef, Bye, Cancel, Drain, Held, HeldState, Hello, Needed, Settled, Welcome};
use shared::needs::Labels;
use shared::task::AttemptOutcome;
use shared::{AgentId, Countables, Epoch, Incarnation, Kind, Resources, TaskId, Used};

/// How long a hello waits for its welcome before it is repeated.
pub const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two hellos that a coordinator asks for.
pub const HELLO_PAUSE: Duration = Duration::from_millis(200);
/// How long a `done` waits for `settled` before it is repeated; the last one holds for all that follow.
pub const DONE_INTERVALS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(5)];
/// How many attempts are remembered that are over.
const REMEMBERED: usize = 1024;
/// How long an agent that leaves waits for the last `settled`.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// How long before the coordinator may give them elsewhere attempts are told to stop that run at most once: as long as
/// a handler may take to stop, and a second for whatever is late.
pub const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Who the agent is and what it offers: the part of its hello that stays.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its id.
    pub agent: AgentId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Version of its program.
    pub version: String,
    /// The host it runs on.
    pub host: String,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many more it takes in advance.
    pub queue: u32,
    /// What `Hive-Needs` are compared with.
    pub labels: Labels,
    /// What it can do.
    pub kinds: Vec<Kind>,
    /// Kinds of which no attempt of a task may run while another does.
    pub at_most_once: Vec<Kind>,
    /// What it offers; zero is not limited.
    pub capacity: Resources,
    /// What it offers of resources that are counted.
    pub resources: Countables,
    /// What an attempt of a kind needs by its handler's settings, where they say something.
    pub needs: BTreeMap<Kind, Needed>,
    /// What keeps a command from taking more than is reserved for it.
    pub enforcement: String,
}

/// The order to run one attempt, as the headers of `run` give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The task.
    pub task: TaskId,
    /// The task's sequence in the task stream; echoed.
    pub sequence: u64,
    /// What is to be done.
    pub kind: Kind,
    /// The attempt's number.
    pub attempt: u32,
    /// The epoch of the leader that orders it.
    pub epoch: Epoch,
    /// The process of the agent that it is meant for.
    pub incarnation: Incarnation,
    /// Limit of its run; the handler's own where it is absent.
    pub timeout: Option<Duration>,
    /// What is reserved for it; what the handler needs where nothing is said.
    pub reserved: Needed,
}

impl Order {
    /// The attempt that it orders.
    pub fn attempt_ref(&self) -> AttemptRef {
        AttemptRef { task: self.task.clone(), attempt: self.attempt, epoch: self.epoch }
    }
}

/// How a handler ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub outcome: AttemptOutcome,
    /// Its output; empty unless it succeeded.
    pub output: Bytes,
    /// Why, in words; empty if it succeeded.
    pub error: String,
    /// How long it ran.
    pub run: Duration,
    /// What it used.
    pub used: Used,
}

impl Ended {
    /// It did not succeed, and has no output.
    pub fn without_output(outcome: AttemptOutcome, error: impl Into<String>, run: Duration) -> Self {
        Self { outcome, output: Bytes::new(), error: error.into(), run, used: Used::default() }
    }
}

/// What `done` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The attempt, under the number and epoch it has now.
    pub order: Arc<Order>,
    /// How it ended.
    pub ended: Ended,
}

/// Names one start of a handler within this process. Never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

/// How often the agent speaks, and to whom it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// The leader that set them.
    pub epoch: Epoch,
    /// Between two beats.
    pub beat: Duration,
    /// Between two reports.
    pub report: Duration,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<W> {
    /// The broker is connected, for the first time or again.
    Connected,
    /// The coordinator has answered a hello, or wants one.
    Welcomed(Welcome),
    /// An attempt was ordered, with what its handler gets.
    RunOrdered(Order, W),
    /// An attempt shall stop.
    CancelOrdered(Cancel),
    /// The end of attempts is recorded.
    Settled(Settled),
    /// The coordinator wants the agent to leave.
    DrainOrdered(Drain),
    /// The coordinator has heard a beat that said what was so at the time `sent`. What it wants changed of that was
    /// told before.
    Heard {
        /// The leader's epoch.
        epoch: Epoch,
        /// When.
        sent: Duration,
    },
    /// Somebody on this host wants the agent to leave.
    DrainWanted,
    /// Somebody on this host wants it to leave whatever runs.
    LeaveWanted,
    /// A handler that [`Action::Start`] started has ended.
    HandlerEnded {
        /// Which start it was.
        key: Key,
        /// How it ended.
        ended: Ended,
    },
    /// The time that [`Session::next_deadline`] gave has come.
    DeadlineReached,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action<W> {
    /// Start the handler; its end comes back as [`Event::HandlerEnded`] with the same key.
    Start {
        /// Names this start.
        key: Key,
        /// The attempt.
        order: Arc<Order>,
        /// What the handler gets.
        work: W,
    },
    /// Stop the handler; its end still comes back as [`Event::HandlerEnded`].
    Stop(Key),
    /// Register.
    SendHello(Box<Hello>),
    /// Beat at once, and not only when the next beat is due.
    SendBeat,
    /// Tell how an attempt ended.
    SendDone(Arc<Done>),
    /// Tell the coordinator that the agent leaves.
    SendBye(Bye),
    /// Beat and report so often from now on.
    SetIntervals(Intervals),
    /// End the process. Nothing follows.
    Leave,
}

#[derive(Debug)]
struct Attempt<W> {
    order: Arc<Order>,
    state: State<W>,
    /// Since when it is held, if it may only run while no other does.
    exclusive_since: Option<Duration>,
}

#[derive(Debug)]
enum State<W> {
    Queued(W),
    /// With the reason, once it has been told to stop.
    Running(Option<String>),
    /// It still occupies a slot, but its end is recorded already and interests nobody.
    Forgotten,
    Done(Arc<Done>),
}

/// What an agent knows of the attempts it has been given.
#[derive(Debug)]
pub struct Session<W = Bytes> {
    setup: Setup,
    kinds: FxHashSet<Kind>,
    /// What the last welcome said; nothing before the first.
    intervals: Option<Intervals>,
    /// How long the leader gives no other what this agent runs at most once, after it has heard this agent.
    hold: Option<Duration>,
    /// When that was said which the leader has heard last.
    heard: Option<Duration>,
    /// The newest epoch seen, in any order.
    epoch: Epoch,
    attempts: FxHashMap<Key, Attempt<W>>,
    by_task: FxHashMap<TaskId, Key>,
    next_key: u64,
    /// In the order of arrival. An attempt that is no longer queued leaves its key behind.
    queue: VecDeque<Key>,
    queued: usize,
    occupied_slots: u32,
    unsettled: usize,
    /// When each `done` is due again, one queue for each of [`DONE_INTERVALS`]: within one of them the order of
    /// arrival is the order of time. A settled attempt leaves its key behind.
    repeats: [VecDeque<(Duration, Key)>; DONE_INTERVALS.len()],
    /// Attempts that were held and are not any more, of late.
    over: Over,
    hello_said: Option<Duration>,
    hello_due: Option<Duration>,
    /// Since when it has been ready to leave as far as its slots are concerned.
    draining_since: Option<Duration>,
    left: bool,
}

/// The last attempts that are over, so that none of them is started again by an order that comes late.
#[derive(Debug, Default)]
struct Over {
    attempts: FxHashSet<(TaskId, u32, Epoch)>,
    in_order: VecDeque<(TaskId, u32, Epoch)>,
}

impl Over {
    fn add(&mut self, order: &Order) {
        if self.in_order.len() == REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.attempts.remove(&oldest);
        }
        let attempt = (order.task.clone(), order.attempt, order.epoch);
        if self.attempts.insert(attempt.clone()) {
            self.in_order.push_back(attempt);
        }
    }

    fn contains(&self, order: &Order) -> bool {
        // Few orders are not first ones, and this is on the way of each.
        !self.attempts.is_empty() && self.attempts.contains(&(order.task.clone(), order.attempt, order.epoch))
    }
}

impl<W> Session<W> {
    /// A session that holds nothing and has not said hello: [`Event::Connected`] comes first.
    pub fn new(setup: Setup) -> Self {
        Self {
            kinds: setup.kinds.iter().cloned().collect(),
            setup,
            intervals: None,
            hold: None,
            heard: None,
            epoch: Epoch(0),
            attempts: FxHashMap::default(),
            by_task: FxHashMap::default(),
            next_key: 0,
            queue: VecDeque::new(),
            queued: 0,
            occupied_slots: 0,
            unsettled: 0,
            over: Over::default(),
            repeats: Default::default(),
            hello_said: None,
            hello_due: None,
            draining_since: None,
            left: false,
        }
    }

    /// Applies one event and appends what the agent must now do, in order.
    pub fn handle(&mut self, event: Event<W>, now: Duration, actions: &mut Vec<Action<W>>) {
        if self.left {
            return;
        }
        if let Event::Heard { epoch, sent } = event
            && epoch >= self.epoch
        {
            self.epoch = epoch;
            self.heard = self.heard.max(Some(sent));
        }
        // Before anything else: whatever has kept it from being done in time.
        self.stop_what_may_run_elsewhere(now, actions);
        match event {
            Event::Heard { .. } => {}
            Event::Connected => self.connected(now, actions),
            Event::Welcomed(welcome) => self.welcomed(&welcome, now, actions),
            Event::RunOrdered(order, work) => self.run(order, work, now, actions),
            Event::CancelOrdered(cancel) => self.cancel(&cancel, now, actions),
            Event::Settled(settled) => self.settle(&settled, actions),
            Event::DrainOrdered(drain) => self.drain_ordered(&drain, now),
            Event::DrainWanted => self.drain_wanted(now, actions),
            Event::LeaveWanted => self.leave(actions),
            Event::HandlerEnded { key, ended } => self.handler_ended(key, ended, now, actions),
            Event::DeadlineReached => self.repeat(now, actions),
        }
        self.start_queued(now, actions);
        self.leave_when_finished(now, actions);
        self.drop_settled_repeats();
    }

    /// When [`Event::DeadlineReached`] is next due, if anything waits on time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let repeats = self.repeats.iter().filter_map(|queue| queue.front().map(|(due, _)| *due));
        let leaving = self.draining_since.filter(|_| self.occupied_slots == 0).map(|since| since + LEAVE_PATIENCE);
        let out_of_touch = self.in_touch_until().filter(|_| self.runs_at_most_once().next().is_some());
        repeats.chain(self.hello_due).chain(leaving).chain(out_of_touch).min().filter(|_| !self.left)
    }

    /// What a beat lists, in the order of arrival: every attempt whose end is not confirmed.
    pub fn holds(&self) -> Vec<Held> {
        let mut keys: Vec<Key> = self.by_task.values().copied().collect();
        keys.sort_unstable();
        keys.into_iter().map(|key| self.attempts[&key].held()).collect()
    }

    /// Whether it has to know which of its beats are heard.
    pub fn wants_answers(&self) -> bool {
        let counts = |attempt: &Attempt<W>| matches!(attempt.state, State::Queued(_) | State::Running(_));
        self.holds_at_most_once().any(|(_, attempt)| counts(attempt))
    }

    /// Whether it takes no new work.
    pub fn draining(&self) -> bool {
        self.draining_since.is_some()
    }

    /// How many slots are in use.
    pub fn occupied_slots(&self) -> u32 {
        self.occupied_slots
    }

    /// How many attempts wait for a slot.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Who the agent is and what it offers.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    fn connected(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        self.say_hello(now, actions);
        // A `done` published into a connection that was dying is lost: say all of them again.
        self.repeats.iter_mut().for_each(VecDeque::clear);
        let mut done: Vec<(Key, Arc<Done>)> =
            self.attempts.iter().filter_map(|(key, attempt)| Some((*key, attempt.done()?.clone()))).collect();
        done.sort_unstable_by_key(|(key, _)| *key);
        for (key, done) in done {
            self.repeats[0].push_back((now + DONE_INTERVALS[0], key));
            actions.push(Action::SendDone(done));
        }
    }

    fn say_hello(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        self.hello_said = Some(now);
        self.hello_due = Some(now + HELLO_INTERVAL);
        let setup = &self.setup;
        actions.push(Action::SendHello(Box::new(Hello {
            incarnation: setup.incarnation,
            version: setup.version.clone(),
            host: setup.host.clone(),
            slots: setup.slots,
            queue: setup.queue,
            labels: setup.labels.clone(),
            kinds: setup.kinds.clone(),
            at_most_once: setup.at_most_once.clone(),
            capacity: setup.capacity,
            resources: setup.resources.clone(),
            needs: setup.needs.clone(),
            enforcement: setup.enforcement.clone(),
            holds: self.holds(),
            draining: self.draining(),
        })));
    }

    fn welcomed(&mut self, welcome: &Welcome, now: Duration, actions: &mut Vec<Action<W>>) {
        // One that stands by may ask for a hello as well; it has no epoch.
        let stands_by = welcome.epoch == Epoch::default();
        if welcome.epoch < self.epoch && !stands_by {
            return;
        }
        if welcome.hello_wanted {
            match self.hello_said.map(|said| said + HELLO_PAUSE) {
                // One that crossed our hello on its way: should it still hold, there is a next one.
                Some(soonest) if now < soonest => self.hello_due = Some(soonest),
                _ => self.say_hello(now, actions),
            }
        }
        if stands_by {
            return;
        }
        self.epoch = welcome.epoch;
        self.hold = welcome.hold;
        if !welcome.hello_wanted {
            self.hello_due = None;
        }
        let intervals =
            Intervals { epoch: welcome.epoch, beat: welcome.beat_interval, report: welcome.report_interval };
        if self.intervals.replace(intervals) != Some(intervals) {
            actions.push(Action::SetIntervals(intervals));
        }
    }

    fn run(&mut self, order: Order, work: W, now: Duration, actions: &mut Vec<Action<W>>) {
        if order.epoch < self.epoch {
            return;
        }
        self.epoch = order.epoch;
        if order.incarnation != self.setup.incarnation {
            return;
        }
        match self.by_task.get(&order.task) {
            Some(&key) => self.run_again(key, order, work, now, actions),
            // An order that was repeated, or held up in the network, may come when all is over.
            None if self.over.contains(&order) => {}
            None => self.take(order, work, now, actions),
        }
    }

    /// A task that is held already is ordered: nothing starts twice, but a newer leader may count anew.
    fn run_again(&mut self, key: Key, order: Order, work: W, now: Duration, actions: &mut Vec<Action<W>>) {
        let attempt = self.attempts.get_mut(&key).expect("every task held has its attempt");
        if order.epoch <= attempt.order.epoch || order.attempt < attempt.order.attempt {
            return;
        }
        let retried = order.attempt > attempt.order.attempt;
        if retried && attempt.done().is_some_and(|done| done.ended.outcome != AttemptOutcome::Succeeded) {
            // A later attempt after one that failed: its failure is known, only the `settled` got lost.
            self.forget(key);
            self.take(order, work, now, actions);
            return;
        }
        attempt.order = Arc::new(order);
        if let State::Done(done) = &mut attempt.state {
            *done = Arc::new(Done { order: attempt.order.clone(), ended: done.ended.clone() });
            actions.push(Action::SendDone(done.clone()));
        }
    }

    fn take(&mut self, order: Order, work: W, now: Duration, actions: &mut Vec<Action<W>>) {
        let key = Key(self.next_key);
        self.next_key += 1;
        self.by_task.insert(order.task.clone(), key);
        let is_exclusive = self.setup.at_most_once.contains(&order.kind);
        let refusal = if self.draining() {
            Some("the agent is about to leave".to_owned())
        } else if !self.kinds.contains(&order.kind) {
            Some(format!("the agent has no handler for kind `{}`", order.kind))
        } else if is_exclusive && self.patience().is_none() {
            Some("its handler runs at most once, and the coordinator does not wait for that".to_owned())
        } else {
            None
        };
        let exclusive_since = is_exclusive.then_some(now);
        self.attempts.insert(key, Attempt { order: Arc::new(order), state: State::Queued(work), exclusive_since });
        self.queued += 1;
        match refusal {
            Some(why) => {
                let rejected = Ended::without_output(AttemptOutcome::Rejected, why, Duration::ZERO);
                self.finish(key, rejected, now, actions);
            }
            None => {
                self.queue.push_back(key);
                actions.extend(is_exclusive.then_some(Action::SendBeat));
            }
        }
    }

    /// How long after it was last heard the agent goes on with what may run elsewhere then.
    fn patience(&self) -> Option<Duration> {
        self.hold?.checked_sub(STOP_PATIENCE).filter(|patience| !patience.is_zero())
    }

    /// Until when nothing that it runs at most once can run elsewhere, if it is not heard again.
    fn in_touch_until(&self) -> Option<Duration> {
        Some(self.heard? + self.patience()?)
    }

    /// Whether it was heard so lately that what it runs at most once cannot run elsewhere yet.
    pub fn is_in_touch(&self, now: Duration) -> bool {
        self.in_touch_until().is_some_and(|until| now < until)
    }

    /// What it holds, in any state, that may only run while no other attempt does.
    fn holds_at_most_once(&self) -> impl Iterator<Item = (Key, &Attempt<W>)> {
        let any = !self.setup.at_most_once.is_empty();
        let all = any.then(|| self.attempts.iter()).into_iter().flatten();
        all.filter(|(_, attempt)| attempt.exclusive_since.is_some()).map(|(key, attempt)| (*key, attempt))
    }

    /// What of that runs and has not been told to stop.
    fn runs_at_most_once(&self) -> impl Iterator<Item = Key> {
        let runs = |attempt: &Attempt<W>| matches!(attempt.state, State::Running(None));
        self.holds_at_most_once().filter(move |(_, attempt)| runs(attempt)).map(|(key, _)| key)
    }

    /// The coordinator may have given up the agent for lost, and given its work elsewhere: what must not run twice at a
    /// time stops here.
    fn stop_what_may_run_elsewhere(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        if self.setup.at_most_once.is_empty() || self.is_in_touch(now) {
            return;
        }
        let mut running: Vec<Key> = self.runs_at_most_once().collect();
        running.sort_unstable();
        for key in running {
            let attempt = self.attempts.get_mut(&key).expect("its key was just found");
            let reason = "the coordinator was not heard, and it runs at most once".to_owned();
            attempt.state = State::Running(Some(reason));
            actions.push(Action::Stop(key));
        }
    }

    /// Whether nobody else runs it: it has been said that it is here, that was heard, and not long ago.
    fn may_start(&self, key: Key, now: Duration) -> bool {
        let since = self.attempts.get(&key).and_then(|attempt| attempt.exclusive_since);
        since.is_none_or(|since| self.heard > Some(since) && self.is_in_touch(now))
    }

    fn next_to_start(&mut self, now: Duration) -> Option<Key> {
        if self.setup.at_most_once.is_empty() {
            return self.queue.pop_front();
        }
        let place = self.queue.iter().position(|key| self.may_start(*key, now))?;
        self.queue.remove(place)
    }

    fn start_queued(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        while self.occupied_slots < self.setup.slots && !self.draining() {
            let Some(key) = self.next_to_start(now) else { return };
            let Some(attempt) = self.attempts.get_mut(&key) else { continue };
            match std::mem::replace(&mut attempt.state, State::Running(None)) {
                State::Queued(work) => {
                    self.queued -= 1;
                    self.occupied_slots += 1;
                    actions.push(Action::Start { key, order: attempt.order.clone(), work });
                }
                other => attempt.state = other,
            }
        }
    }

    fn cancel(&mut self, cancel: &Cancel, now: Duration, actions: &mut Vec<Action<W>>) {
        let named = &cancel.attempt;
        let Some(&key) = self.by_task.get(&named.task) else { return };
        let attempt = self.attempts.get_mut(&key).expect("every task held has its attempt");
        // A leader that has counted anew means the work that runs here, even if its `run` got lost.
        if named.attempt < attempt.order.attempt || named.epoch < attempt.order.epoch {
            return;
        }
        let reason = if cancel.reason.is_empty() { "cancelled" } else { cancel.reason.as_str() };
        match &mut attempt.state {
            State::Queued(_) => {
                let cancelled = Ended::without_output(AttemptOutcome::Cancelled, reason, Duration::ZERO);
                self.finish(key, cancelled, now, actions);
            }
            State::Running(stopping) => {
                if stopping.replace(reason.to_owned()).is_none() {
                    actions.push(Action::Stop(key));
                }
            }
            State::Forgotten | State::Done(_) => {}
        }
    }

    fn handler_ended(&mut self, key: Key, mut ended: Ended, now: Duration, actions: &mut Vec<Action<W>>) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        match &mut attempt.state {
            State::Running(reason) => {
                if let Some(reason) = reason.take()
                    && ended.outcome == AttemptOutcome::Cancelled
                {
                    ended.error = reason;
                }
                self.finish(key, ended, now, actions);
            }
            State::Forgotten => {
                self.attempts.remove(&key);
                self.slot_is_free(now);
            }
            State::Queued(_) | State::Done(_) => {}
        }
    }

    /// An attempt that is queued or runs has come to its end.
    fn finish(&mut self, key: Key, ended: Ended, now: Duration, actions: &mut Vec<Action<W>>) {
        let attempt = self.attempts.get_mut(&key).expect("only what is held can end");
        let done = Arc::new(Done { order: attempt.order.clone(), ended });
        let before = std::mem::replace(&mut attempt.state, State::Done(done.clone()));
        self.unsettled += 1;
        self.repeats[0].push_back((now + DONE_INTERVALS[0], key));
        actions.push(Action::SendDone(done));
        match before {
            State::Queued(_) => self.queued -= 1,
            _ => self.slot_is_free(now),
        }
    }

    fn slot_is_free(&mut self, now: Duration) {
        self.occupied_slots -= 1;
        if let Some(since) = &mut self.draining_since {
            *since = now;
        }
    }

    fn settle(&mut self, settled: &Settled, actions: &mut Vec<Action<W>>) {
        for named in &settled.attempts {
            let Some(&key) = self.by_task.get(&named.task) else { continue };
            let order = &self.attempts[&key].order;
            if (order.attempt, order.epoch) != (named.attempt, named.epoch) {
                continue;
            }
            if self.forget(key) {
                actions.push(Action::Stop(key));
            }
        }
    }

    /// Forgets an attempt. Whether it still runs, and has to be stopped, is returned.
    fn forget(&mut self, key: Key) -> bool {
        let attempt = self.attempts.get_mut(&key).expect("only what is held can be forgotten");
        self.by_task.remove(&attempt.order.task);
        self.over.add(&attempt.order);
        match attempt.state {
            State::Running(_) => {
                attempt.state = State::Forgotten;
                return true;
            }
            State::Queued(_) => self.queued -= 1,
            State::Done(_) => self.unsettled -= 1,
            State::Forgotten => return false,
        }
        self.attempts.remove(&key);
        false
    }

    fn drain_ordered(&mut self, drain: &Drain, now: Duration) {
        if drain.epoch >= self.epoch {
            self.epoch = drain.epoch;
            self.draining_since.get_or_insert(now);
        }
    }

    fn drain_wanted(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        if !self.draining() {
            self.draining_since = Some(now);
            self.say_hello(now, actions);
        }
    }

    fn leave_when_finished(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        let Some(since) = self.draining_since else { return };
        if self.occupied_slots == 0 && (self.unsettled == 0 || now >= since + LEAVE_PATIENCE) {
            self.leave(actions);
        }
    }

    fn leave(&mut self, actions: &mut Vec<Action<W>>) {
        if self.left {
            return;
        }
        self.left = true;
        let queued = self.queue.iter().filter_map(|key| self.attempts.get(key)).filter(|a| a.is_queued());
        let returned = queued.map(|attempt| attempt.order.attempt_ref()).collect();
        actions.push(Action::SendBye(Bye { incarnation: self.setup.incarnation, returned }));
        actions.push(Action::Leave);
    }

    fn repeat(&mut self, now: Duration, actions: &mut Vec<Action<W>>) {
        if self.hello_due.is_some_and(|due| due <= now) {
            self.say_hello(now, actions);
        }
        for i in 0..DONE_INTERVALS.len() {
            let next = (i + 1).min(DONE_INTERVALS.len() - 1);
            while let Some((_, key)) = self.repeats[i].pop_front_if(|(due, _)| *due <= now) {
                let Some(done) = self.attempts.get(&key).and_then(Attempt::done) else { continue };
                actions.push(Action::SendDone(done.clone()));
                self.repeats[next].push_back((now + DONE_INTERVALS[next], key));
            }
        }
    }

    fn drop_settled_repeats(&mut self) {
        let attempts = &self.attempts;
        for queue in &mut self.repeats {
            while queue.pop_front_if(|(_, key)| !attempts.contains_key(key)).is_some() {}
        }
    }
}

impl<W> Attempt<W> {
    fn done(&self) -> Option<&Arc<Done>> {
        if let State::Done(done) = &self.state { Some(done) } else { None }
    }

    fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued(_))
    }

    fn held(&self) -> Held {
        let order = &self.order;
        Held {
            task: order.task.clone(),
            sequence: order.sequence,
            kind: order.kind.clone(),
            attempt: order.attempt,
            epoch: order.epoch,
            state: match self.state {
                State::Queued(_) => HeldState::Queued,
                State::Running(_) | State::Forgotten => HeldState::Running,
                State::Done(_) => HeldState::Done,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_starts_while_a_slot_is_free_and_waits_its_turn_otherwise() {
        let mut agent = Agent::with_slots(1);

        assert_eq!(agent.started(run("a")), ["a"]);
        assert_eq!(agent.started(run("b")), [""; 0]);
        assert_eq!(agent.started(run("c")), [""; 0]);
        assert_eq!(agent.holds(), ["a running", "b queued", "c queued"]);

        assert_eq!(agent.started(agent.ended("a")), ["b"]);
        assert_eq!(agent.started(agent.ended("b")), ["c"]);
    }

    #[test]
    fn an_attempt_held_already_is_not_started_again() {
        let mut agent = Agent::with_slots(2);
        agent.tell(run("a"));

        assert_eq!(agent.tell(run("a")), []);
        agent.tell(agent.ended("a"));
        assert_eq!(agent.tell(run("a")), []);
    }

    #[test]
    fn an_order_of_an_older_epoch_is_refused() {
        let mut agent = Agent::with_slots(2);
        agent.tell(order("a", 1, 7));

        assert_eq!(agent.tell(order("b", 1, 6)), []);
        assert_eq!(agent.tell(Event::DrainOrdered(Drain { epoch: Epoch(6) })), []);
        assert!(!agent.session.draining());
    }

    #[test]
    fn an_order_for_another_process_is_refused_and_its_epoch_remembered() {
        let mut agent = Agent::with_slots(2);
        let Event::RunOrdered(mut stray, work) = order("a", 1, 8) else { unreachable!() };
        stray.incarnation = Incarnation(77);

        assert_eq!(agent.tell(Event::RunOrdered(stray, work)), []);
        assert_eq!(agent.tell(order("b", 1, 7)), []);
        assert_eq!(agent.started(order("b", 1, 8)), ["b"]);
    }

    #[test]
    fn an_order_that_comes_when_all_is_over_starts_nothing() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 1, 5));
        agent.tell(agent.ended("a"));
        agent.tell(settled("a", 1, 5));

        assert_eq!(agent.tell(order("a", 1, 5)), []);
        assert_eq!(agent.started(order("a", 2, 5)), ["a"], "another attempt is another matter");
    }

    #[test]
    fn running_work_is_adopted_under_the_number_of_a_newer_leader() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 1, 5));

        assert_eq!(agent.tell(order("a", 3, 6)), []);

        let done = agent.only_done(agent.ended("a"));
        assert_eq!((done.order.attempt, done.order.epoch), (3, Epoch(6)));
    }

    #[test]
    fn an_earlier_attempt_or_the_same_leader_does_not_renumber() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 2, 5));

        agent.tell(order("a", 1, 6));
        agent.tell(order("a", 3, 5));

        let done = agent.only_done(agent.ended("a"));
        assert_eq!((done.order.attempt, done.order.epoch), (2, Epoch(5)));
    }

    #[test]
    fn a_result_is_told_to_a_newer_leader_that_orders_the_work_again() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 1, 5));
        agent.tell(agent.ended("a"));

        let done = agent.only_done(order("a", 2, 6));

        assert_eq!((done.order.attempt, done.ended.outcome), (2, AttemptOutcome::Succeeded));
    }

    #[test]
    fn a_later_attempt_runs_although_the_settling_of_a_failed_one_got_lost() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 1, 5));
        agent.tell(agent.ended_with("a", AttemptOutcome::Failed));

        assert_eq!(agent.started(order("a", 2, 6)), ["a"]);
        assert_eq!(agent.holds(), ["a running"]);
    }

    #[test]
    fn done_is_repeated_ever_more_slowly_until_it_is_settled() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));
        agent.tell(agent.ended("a"));

        let mut repeats = Vec::new();
        for _ in 0..6 {
            agent.now = agent.session.next_deadline().unwrap();
            agent.only_done(Event::DeadlineReached);
            repeats.push(agent.now.as_secs());
        }
        agent.tell(settled("a", 1, 5));

        assert_eq!(repeats, [1, 3, 7, 12, 17, 22]);
        assert_eq!(agent.session.next_deadline(), None);
        assert_eq!(agent.holds(), [""; 0]);
    }

    #[test]
    fn settling_another_attempt_settles_nothing() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 2, 5));
        agent.tell(agent.ended("a"));

        agent.tell(settled("a", 1, 5));
        agent.tell(settled("a", 2, 4));
        agent.tell(settled("b", 2, 5));

        assert_eq!(agent.holds(), ["a done"]);
    }

    #[test]
    fn an_attempt_settled_elsewhere_is_stopped_and_its_end_interests_nobody() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));
        agent.tell(run("b"));
        let ended = agent.ended("a");

        assert_eq!(agent.tell(settled("a", 1, 5)), [Action::Stop(Key(0))]);
        assert_eq!(agent.holds(), ["b queued"]);
        assert_eq!(agent.started(ended), ["b"]);
        assert_eq!(agent.holds(), ["b running"]);
    }

    #[test]
    fn a_queued_attempt_that_is_cancelled_never_starts() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));
        agent.tell(run("b"));

        let done = agent.only_done(cancel("b", 1, 5));

        assert_eq!((done.ended.outcome, done.ended.error.as_str()), (AttemptOutcome::Cancelled, "enough"));
        assert_eq!(agent.started(agent.ended("a")), [""; 0]);
    }

    #[test]
    fn a_running_attempt_that_is_cancelled_is_stopped_once_and_done_when_it_has_ended() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));

        assert_eq!(agent.tell(cancel("a", 1, 5)), [Action::Stop(Key(0))]);
        assert_eq!(agent.tell(cancel("a", 1, 5)), []);
        assert_eq!(agent.holds(), ["a running"]);

        let done = agent.only_done(agent.ended_with("a", AttemptOutcome::Cancelled));
        assert_eq!(done.ended.error, "enough");
    }

    #[test]
    fn the_cancelling_of_an_earlier_attempt_does_not_hit_a_later_one() {
        let mut agent = Agent::with_slots(1);
        agent.tell(order("a", 2, 5));

        assert_eq!(agent.tell(cancel("a", 1, 5)), []);
        assert_eq!(agent.tell(cancel("a", 2, 4)), []);
    }

    #[test]
    fn a_kind_without_a_handler_is_rejected() {
        let mut agent = Agent::with_slots(1);
        let Event::RunOrdered(mut unknown, work) = run("a") else { unreachable!() };
        unknown.kind = "knit".parse().unwrap();

        let done = agent.only_done(Event::RunOrdered(unknown, work));

        assert_eq!(done.ended.outcome, AttemptOutcome::Rejected);
        assert!(done.ended.error.contains("`knit`"), "{}", done.ended.error);
    }

    #[test]
    fn what_runs_at_most_once_starts_when_it_was_heard_that_it_is_here() {
        let mut agent = Agent::with_slots(2);
        agent.tell(welcome(5, false));
        agent.now = Duration::from_secs(1);

        assert_eq!(agent.tell(pay("a")), [Action::SendBeat]);
        assert_eq!(agent.started(run("b")), ["b"], "it holds nothing else up");
        assert_eq!(agent.started(heard(1)), [""; 0], "that was said before it came");
        agent.now = Duration::from_secs(2);
        let stale = Event::Heard { epoch: Epoch(4), sent: Duration::from_secs(2) };
        assert_eq!(agent.started(stale), [""; 0], "that was a leader of old");
        assert_eq!(agent.started(heard(2)), ["a"]);
    }

    #[test]
    fn what_runs_at_most_once_is_not_started_on_a_word_of_long_ago() {
        let mut agent = Agent::with_slots(1);
        agent.tell(welcome(5, false));
        agent.tell(pay("a"));
        agent.now = Duration::from_secs(4);

        assert_eq!(agent.started(heard(1)), [""; 0]);
        assert_eq!(agent.started(heard(2)), ["a"]);
    }

    #[test]
    fn what_runs_at_most_once_is_stopped_before_it_can_run_elsewhere() {
        let mut agent = Agent::with_slots(3);
        agent.tell(welcome(5, false));
        agent.tell(run("other"));
        agent.tell(pay("a"));
        agent.tell(heard(1));
        agent.tell(heard(2));

        let limit = Duration::from_secs(2 + 6) - STOP_PATIENCE;
        assert_eq!(agent.session.next_deadline(), Some(limit));
        agent.now = limit;
        assert_eq!(agent.tell(Event::DeadlineReached), [Action::Stop(Key(1))]);
        assert_eq!(agent.tell(heard(4)), [], "it is told once, and what is told to stop does not go on");
        let done = agent.only_done(agent.ended_with("a", AttemptOutcome::Cancelled));

        assert!(done.ended.error.contains("at most once"), "{}", done.ended.error);
        assert_eq!(agent.holds(), ["other running", "a done"]);
        assert!(!agent.session.wants_answers());
    }

    #[test]
    fn whatever_wakes_an_agent_that_was_paused_it_first_stops_what_may_run_elsewhere() {
        let mut agent = Agent::with_slots(3);
        agent.tell(welcome(5, false));
        agent.tell(pay("a"));
        agent.tell(heard(1));
        agent.now = Duration::from_secs(60);

        let actions = agent.tell(run("b"));

        assert!(matches!(actions[..], [Action::Stop(Key(0)), Action::Start { .. }]), "{actions:?}");
    }

    #[test]
    fn what_runs_at_most_once_is_refused_if_the_coordinator_does_not_wait_for_it() {
        let mut agent = Agent::with_slots(1);

        let done = agent.only_done(pay("a"));

        assert_eq!(done.ended.outcome, AttemptOutcome::Rejected);
    }

    #[test]
    fn hello_is_repeated_every_second_until_it_is_welcomed() {
        let mut agent = Agent::with_slots(1);
        assert_eq!(agent.hellos(Event::Connected), 1);

        for second in 1..4 {
            assert_eq!(agent.session.next_deadline(), Some(Duration::from_secs(second)));
            agent.now = Duration::from_secs(second);
            assert_eq!(agent.hellos(Event::DeadlineReached), 1);
        }
        agent.tell(welcome(5, false));

        assert_eq!(agent.session.next_deadline(), None);
    }

    #[test]
    fn hello_is_said_again_when_a_new_leader_wants_it() {
        let mut agent = Agent::with_slots(1);
        agent.tell(Event::Connected);
        agent.now = Duration::from_secs(10);

        assert_eq!(agent.hellos(welcome(5, true)), 1);
        assert_eq!(agent.session.next_deadline(), Some(Duration::from_secs(11)));
    }

    #[test]
    fn hellos_that_are_wanted_in_a_loop_do_not_become_a_storm() {
        let mut agent = Agent::with_slots(1);
        agent.tell(Event::Connected);

        assert_eq!(agent.hellos(welcome(5, true)), 0);
        agent.now = agent.session.next_deadline().unwrap();
        assert_eq!((agent.now, agent.hellos(Event::DeadlineReached)), (HELLO_PAUSE, 1));
    }

    #[test]
    fn a_welcome_sets_the_intervals_and_one_of_an_old_leader_does_not() {
        let mut agent = Agent::with_slots(1);

        let intervals = Intervals { epoch: Epoch(5), beat: Duration::from_millis(200), report: Duration::from_secs(2) };
        assert_eq!(agent.tell(welcome(5, false)), [Action::SetIntervals(intervals)]);
        assert_eq!(agent.tell(welcome(5, false)), []);
        assert_eq!(agent.tell(welcome(4, true)), []);
    }

    #[test]
    fn a_standby_gets_a_hello_and_changes_nothing_else() {
        let mut agent = Agent::with_slots(1);
        agent.tell(welcome(5, false));

        assert_eq!(agent.hellos(welcome(0, true)), 1);
        assert_eq!(agent.session.epoch, Epoch(5));
    }

    #[test]
    fn a_reconnect_tells_everything_that_is_not_settled_again() {
        let mut agent = Agent::with_slots(1);
        for task in ["a", "b", "c"] {
            agent.tell(run(task));
        }
        agent.tell(agent.ended("a"));
        agent.tell(agent.ended("b"));

        let actions = agent.tell(Event::Connected);

        let Action::SendHello(hello) = &actions[0] else { panic!("{actions:?}") };
        assert_eq!(hello.holds.len(), 3);
        assert_eq!(dones(&actions), ["a", "b"]);
    }

    #[test]
    fn draining_finishes_what_runs_hands_back_the_rest_and_leaves() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));
        agent.tell(run("b"));
        agent.tell(Event::DrainOrdered(Drain { epoch: Epoch(5) }));

        assert_eq!(agent.only_done(run("late")).ended.outcome, AttemptOutcome::Rejected);
        agent.tell(settled("late", 1, 5));
        assert_eq!(agent.only_done(agent.ended("a")).order.task.as_str(), "a");
        let actions = agent.tell(settled("a", 1, 5));

        let returned = vec![AttemptRef { task: "b".parse().unwrap(), attempt: 1, epoch: Epoch(5) }];
        assert_eq!(actions, [Action::SendBye(Bye { incarnation: Incarnation(1), returned }), Action::Leave]);
        assert_eq!(agent.tell(run("later")), []);
    }

    #[test]
    fn an_idle_agent_leaves_as_soon_as_it_is_drained() {
        let mut agent = Agent::with_slots(1);

        let actions = agent.tell(Event::DrainOrdered(Drain { epoch: Epoch(5) }));

        assert_eq!(actions.last(), Some(&Action::Leave));
    }

    #[test]
    fn a_drained_agent_does_not_wait_for_ever_to_be_settled() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));
        assert_eq!(agent.hellos(Event::DrainWanted), 1);
        agent.tell(welcome(5, false));
        agent.now = Duration::from_secs(100);
        agent.tell(agent.ended("a"));

        while agent.session.next_deadline().is_some() {
            agent.now = agent.session.next_deadline().unwrap();
            agent.tell(Event::DeadlineReached);
        }

        assert_eq!(agent.now, Duration::from_secs(100) + LEAVE_PATIENCE);
        assert!(agent.session.left);
    }

    #[test]
    fn who_must_leave_at_once_hands_back_what_has_not_started() {
        let mut agent = Agent::with_slots(1);
        agent.tell(run("a"));
        agent.tell(run("b"));

        let actions = agent.tell(Event::LeaveWanted);

        assert!(matches!(&actions[..], [Action::SendBye(bye), Action::Leave] if bye.returned.len() == 1));
    }

    struct Agent {
        session: Session<()>,
        now: Duration,
    }

    impl Agent {
        fn with_slots(slots: u32) -> Self {
            let session = Session::new(Setup {
                agent: "ada".parse().unwrap(),
                incarnation: Incarnation(1),
                version: String::new(),
                host: String::new(),
                slots,
                queue: 4,
                labels: Labels::new(),
                kinds: vec!["resize".parse().unwrap(), "pay".parse().unwrap()],
                at_most_once: vec!["pay".parse().unwrap()],
                capacity: Resources::ZERO,
                resources: Countables::ZERO,
                needs: BTreeMap::new(),
                enforcement: String::new(),
            });
            Self { session, now: Duration::ZERO }
        }

        fn tell(&mut self, event: Event<()>) -> Vec<Action<()>> {
            let mut actions = Vec::new();
            self.session.handle(event, self.now, &mut actions);
            actions
        }

        fn started(&mut self, event: Event<()>) -> Vec<String> {
            let started = self.tell(event).into_iter().filter_map(|action| match action {
                Action::Start { order, .. } => Some(order.task.to_string()),
                _ => None,
            });
            started.collect()
        }

        fn hellos(&mut self, event: Event<()>) -> usize {
            self.tell(event).iter().filter(|action| matches!(action, Action::SendHello(_))).count()
        }

        fn only_done(&mut self, event: Event<()>) -> Arc<Done> {
            let actions = self.tell(event);
            let [Action::SendDone(done)] = &actions[..] else { panic!("not one done alone: {actions:?}") };
            done.clone()
        }

        fn ended(&self, task: &str) -> Event<()> {
            self.ended_with(task, AttemptOutcome::Succeeded)
        }

        fn ended_with(&self, task: &str, outcome: AttemptOutcome) -> Event<()> {
            let ended = Ended::without_output(outcome, "", Duration::ZERO);
            Event::HandlerEnded { key: self.session.by_task[task], ended }
        }

        fn holds(&self) -> Vec<String> {
            let holds = self.session.holds();
            holds.iter().map(|held| format!("{} {:?}", held.task, held.state).to_lowercase()).collect()
        }
    }

    fn run(task: &str) -> Event<()> {
        order(task, 1, 5)
    }

    fn order(task: &str, attempt: u32, epoch: u64) -> Event<()> {
        let order = Order {
            task: task.parse().unwrap(),
            sequence: 1,
            kind: "resize".parse().unwrap(),
            attempt,
            epoch: Epoch(epoch),
            incarnation: Incarnation(1),
            timeout: None,
            reserved: Needed::default(),
        };
        Event::RunOrdered(order, ())
    }

    fn reference(task: &str, attempt: u32, epoch: u64) -> AttemptRef {
        AttemptRef { task: task.parse().unwrap(), attempt, epoch: Epoch(epoch) }
    }

    fn settled(task: &str, attempt: u32, epoch: u64) -> Event<()> {
        Event::Settled(Settled { attempts: vec![reference(task, attempt, epoch)] })
    }

    fn cancel(task: &str, attempt: u32, epoch: u64) -> Event<()> {
        Event::CancelOrdered(Cancel { attempt: reference(task, attempt, epoch), reason: "enough".into() })
    }

    fn welcome(epoch: u64, hello_wanted: bool) -> Event<()> {
        Event::Welcomed(Welcome {
            epoch: Epoch(epoch),
            beat_interval: Duration::from_millis(200),
            report_interval: Duration::from_secs(2),
            hello_wanted,
            hold: Some(Duration::from_secs(6)),
        })
    }

    /// An order for what runs at most once.
    fn pay(task: &str) -> Event<()> {
        let Event::RunOrdered(order, ()) = run(task) else { unreachable!() };
        Event::RunOrdered(Order { kind: "pay".parse().unwrap(), ..order }, ())
    }

    /// The leader has heard what was said at this second.
    fn heard(second: u64) -> Event<()> {
        Event::Heard { epoch: Epoch(5), sent: Duration::from_secs(second) }
    }

    fn dones(actions: &[Action<()>]) -> Vec<String> {
        let dones = actions.iter().filter_map(|action| match action {
            Action::SendDone(done) => Some(done.order.task.to_string()),
            _ => None,
        });
        dones.collect()
    }
}
