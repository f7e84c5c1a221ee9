//! What is done about tasks: delivered, started, ended, tried again, settled.

use std::cmp::Reverse;
use std::time::Duration;

use compact_str::{CompactString, ToCompactString as _};
use shared::message::{AttemptRef, Held};
use shared::task::{AttemptOutcome, Backoff};
use shared::{AgentId, Kind, Outcome, Priority, TaskId, Used};

use crate::event::{Action, Actions, Delivery, Done, Notice, Sequence, Settlement, Unreadable};
use crate::history::History;
use crate::kinds::{Demand, KindKey};
use crate::liveness::{Loss, is};
use crate::performance::{BLACK_HOLE, Performance};
use crate::registry::AgentKey;
use crate::scheduler::Timer;
use crate::tasks::{Attempt, State, Task};
use crate::{Scheduler, Timestamp, placement};

/// A task that took this many agents down is not given another one.
const POISON: u32 = 3;

/// What the error of an attempt begins with that was ended for the memory it took (docs/protocol.md).
const OUT_OF_MEMORY: &str = "out of memory";

/// How long a task waits that an agent would not take.
const AFTER_REJECTION: Duration = Duration::from_millis(100);

impl Task {
    /// Whoever was there when an agent died is under suspicion: after one more such death it runs alone, so that only
    /// the one that is to blame takes another agent down.
    pub(crate) fn is_suspect(&self) -> bool {
        self.history.losses + 1 >= POISON
    }

    /// Takes over how earlier attempts ended.
    fn follow(&mut self, history: History) {
        self.history.follow(history);
        self.attempts = self.attempts.max(self.history.attempts);
    }

    /// What the next leader has to know.
    pub(crate) fn history_to_keep(&self) -> History {
        History { task: Some(self.id.clone()), attempts: self.attempts, ..self.history.clone() }
    }

    /// A task that is only known from the beat of the agent that runs it.
    pub(crate) fn adopted(held: &Held, kind: KindKey) -> Self {
        Self {
            id: held.task.clone(),
            priority: Priority::Normal,
            demand: Demand::plain(kind),
            accepted: Timestamp::default(),
            deadline: None,
            timeout: None,
            max_attempts: 1,
            backoff: Backoff::default(),
            affinity: None,
            attempts: held.attempt,
            last_ended: None,
            history: History::default(),
            last_agent: None,
            cancel_wanted: false,
            held_until: Timestamp::default(),
            delivered: false,
            // It stands in no line yet.
            state: State::BackingOff,
        }
    }
}

impl Scheduler {
    pub(crate) fn task_delivered(&mut self, delivery: Delivery, now: Timestamp, actions: &mut Actions) {
        let Delivery { sequence, id, .. } = &delivery;
        let sequence = *sequence;
        match self.tasks.get(sequence) {
            Some(task) if task.delivered => return,
            Some(_) => return self.complete_adopted(delivery, actions),
            None => {}
        }
        if self.tasks.find(id).is_some() {
            self.tasks.hold_duplicate(id, sequence);
            return;
        }
        let cancelled = self.cancelled.remove(&sequence) || delivery.cancelled;
        let mut task = self.new_task(delivery);
        let expired = task.is_expired(now);
        if let Some(history) = self.history_of(sequence, &task.id) {
            task.follow(history);
            task.demand.alone = task.is_suspect();
        }
        // Its leader went when this was known and not yet recorded.
        let (losses, failures) = (task.history.losses, task.history.failures);
        let (is_poison, is_used_up) = (losses >= POISON, failures > 0 && failures >= task.max_attempts);
        self.insert(sequence, task);
        if cancelled {
            return self.settle_unrun(sequence, Outcome::Cancelled, None, actions);
        }
        if is_poison || is_used_up {
            return self.settle_unrun(sequence, if is_poison { Outcome::Dead } else { Outcome::Failed }, None, actions);
        }
        if expired {
            return self.settle_unrun(sequence, Outcome::Expired, None, actions);
        }
        let demand = &self.tasks.get(sequence).expect("it was inserted above").demand;
        if let Some(problem) = self.config.limits.exceeded(&demand.reserved.resources) {
            return self.settle_unrun(sequence, Outcome::Dead, Some(problem.into()), actions);
        }
        self.wait(sequence, false);
    }

    fn insert(&mut self, sequence: Sequence, task: Task) {
        if let Some(deadline) = task.deadline {
            self.timers.push(Reverse((deadline, Timer::Deadline(sequence))));
        }
        self.tasks.insert(sequence, task);
    }

    fn new_task(&mut self, delivery: Delivery) -> Task {
        let Delivery { id, kind, priority, accepted, deadline, options, .. } = delivery;
        let kind = self.kind_key(&kind);
        let tenant = options.tenant.as_ref().map(CompactString::as_str).unwrap_or_default();
        let tenant = self.tenants.find_or_add(tenant, &self.config);
        let entry = self.kinds.get(kind);
        let (settings, reserved) = (&entry.settings, entry.reserved_by(&options));
        Task {
            id,
            priority,
            demand: Demand { tenant, kind, needs: options.needs, reserved, alone: false },
            accepted,
            deadline,
            timeout: options.timeout.or(settings.timeout),
            max_attempts: options.max_attempts.unwrap_or(settings.max_attempts),
            backoff: options.backoff.unwrap_or(settings.backoff),
            affinity: options.affinity,
            attempts: 0,
            last_ended: None,
            history: History::default(),
            last_agent: None,
            cancel_wanted: false,
            held_until: Timestamp::default(),
            delivered: true,
            // It stands in no line yet.
            state: State::BackingOff,
        }
    }

    /// The message came of a task that an agent runs already.
    fn complete_adopted(&mut self, delivery: Delivery, actions: &mut Actions) {
        let sequence = delivery.sequence;
        let cancelled = self.cancelled.remove(&sequence) || delivery.cancelled;
        let Some(attempt) = self.vacate(sequence) else { return };
        let adopted = self.tasks.remove(sequence);
        let mut task = self.new_task(delivery);
        if let Some(history) = self.history_of(sequence, &task.id) {
            task.follow(history);
            task.history.lives_on(&self.registry.get(attempt.agent).id, attempt.number, attempt.epoch);
            task.demand.alone = task.is_suspect();
        }
        task.attempts = task.attempts.max(attempt.number);
        let cancelled = cancelled || adopted.as_ref().is_some_and(|task| task.cancel_wanted);
        task.held_until = adopted.map(|task| task.held_until).unwrap_or_default();
        let is_over = task.history.has_failed(attempt.number, attempt.epoch);
        self.insert(sequence, task);
        if is_over {
            self.wait(sequence, false);
        } else {
            self.occupy(sequence, attempt);
        }
        if cancelled {
            self.task_cancelled(sequence, actions);
        }
    }

    /// What leaders before have kept of the task.
    fn history_of(&mut self, sequence: Sequence, id: &TaskId) -> Option<History> {
        self.histories.remove(&sequence).filter(|history| history.task.as_ref() == Some(id))
    }

    pub(crate) fn histories_known(&mut self, histories: Vec<(Sequence, History)>) {
        if let Some(adoption) = &mut self.adoption {
            adoption.histories_awaited = false;
        }
        for (sequence, history) in histories {
            match self.tasks.get_mut(sequence) {
                Some(task) if task.delivered && history.task.as_ref() == Some(&task.id) => task.follow(history),
                Some(task) if task.delivered => {}
                _ => drop(self.histories.insert(sequence, history)),
            }
        }
    }

    pub(crate) fn task_unreadable(&mut self, unreadable: Unreadable, actions: &mut Actions) {
        let Unreadable { sequence, id, kind, accepted, reason } = unreadable;
        if self.tasks.get(sequence).is_some() {
            return;
        }
        if self.tasks.find(&id).is_some() {
            // Recorded now, it would take the place of the result of the task that has this id.
            self.tasks.hold_duplicate(&id, sequence);
            return;
        }
        let kind = self.kind_key(&kind);
        let demand = Demand::plain(kind);
        let held = Held {
            task: id,
            sequence: sequence.0,
            kind: self.kinds.get(kind).kind.clone(),
            attempt: 0,
            epoch: self.epoch.unwrap_or_default(),
            state: shared::message::HeldState::Queued,
        };
        self.tasks.insert(sequence, Task { accepted, demand, delivered: true, ..Task::adopted(&held, kind) });
        self.settle_unrun(sequence, Outcome::Dead, Some(reason.into()), actions);
    }

    pub(crate) fn task_cancelled(&mut self, sequence: Sequence, actions: &mut Actions) {
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        match &task.state {
            State::Waiting | State::BackingOff => {
                self.settle_unrun(sequence, Outcome::Cancelled, None, actions);
            }
            State::Running(attempt) => {
                let agent = self.registry.get(attempt.agent).id.clone();
                let attempt = task.attempt_ref(attempt);
                task.cancel_wanted = true;
                actions.push(Action::Cancel { agent, attempt, reason: "the task was cancelled" });
            }
            State::Settling { .. } => {}
        }
    }

    /// Ends every task of a kind that is fetched and does not run, the oldest first.
    pub(crate) fn kind_purged(&mut self, kind: &Kind, actions: &mut Actions) {
        for sequence in self.unrun_of(kind) {
            let error = Some("its queue was purged".to_compact_string());
            self.settle_unrun(sequence, Outcome::Cancelled, error, actions);
        }
    }

    /// The tasks of a kind that are fetched and do not run, the oldest first.
    pub fn unrun_of(&self, kind: &Kind) -> Vec<Sequence> {
        let Some(key) = self.kinds.find(kind) else { return Vec::new() };
        let is_meant = |task: &Task| {
            task.demand.kind == key && task.delivered && matches!(task.state, State::Waiting | State::BackingOff)
        };
        let meant = self.tasks.iter().filter(|(_, task)| is_meant(task)).map(|(sequence, _)| sequence);
        let mut meant: Vec<Sequence> = meant.collect();
        meant.sort_unstable();
        meant
    }

    pub(crate) fn attempt_done(&mut self, id: &AgentId, done: Done, now: Timestamp, actions: &mut Actions) {
        // An attempt of a newer epoch is the business of the leader that ordered it.
        if self.epoch.is_none_or(|epoch| epoch < done.attempt.epoch) {
            return;
        }
        let Some(key) = self.registry.find(id) else { return };
        let settled = |attempt: AttemptRef| Action::Settled { agent: id.clone(), attempt };
        // It cannot be recorded before its message has come; the agent repeats it. The message does not come if
        // the task is settled already.
        let Some(task) = self.tasks.get(done.sequence).filter(|task| task.delivered) else {
            let (agent, attempt, sequence) = (id.clone(), done.attempt, done.sequence);
            actions.push(Action::CheckSettled { agent, attempt, sequence });
            return;
        };
        match &task.state {
            State::Running(attempt) if is(attempt, key, &done.attempt) => self.finish(id, done, now, actions),
            // A result of an attempt that was given up is still the task's result: the record is write-once, so
            // the first one wins and the other attempt is told to stop.
            State::Running(_) | State::Waiting | State::BackingOff if done.outcome == AttemptOutcome::Succeeded => {
                self.finish_late(id, done, now, actions);
            }
            State::Settling { by: Some((by, attempt)) } if by == id && *attempt == done.attempt => {}
            _ => actions.push(settled(done.attempt)),
        }
    }

    fn finish(&mut self, id: &AgentId, done: Done, now: Timestamp, actions: &mut Actions) {
        let Some(attempt) = self.vacate(done.sequence) else { return };
        self.measure(&attempt, &done, now, actions);
        self.tally.ended[done.outcome as usize] += 1;
        let task = self.tasks.get_mut(done.sequence).expect("it was vacated above");
        task.last_ended = Some((attempt.number, attempt.epoch));
        match done.outcome {
            AttemptOutcome::Succeeded => self.settle(id, &attempt, done, Outcome::Succeeded, now, actions),
            _ if task.cancel_wanted => self.settle(id, &attempt, done, Outcome::Cancelled, now, actions),
            AttemptOutcome::Failed | AttemptOutcome::Timeout => self.fail(id, &attempt, done, now, actions),
            // It ended it without being asked to. At once again, the same might happen for ever.
            AttemptOutcome::Cancelled if task.has_overrun(&attempt, now) => {
                self.fail(id, &attempt, Done { outcome: AttemptOutcome::Timeout, ..done }, now, actions);
            }
            AttemptOutcome::Cancelled => {
                actions.push(Action::Settled { agent: id.clone(), attempt: done.attempt });
                self.back_off(done.sequence, AFTER_REJECTION, now);
            }
            AttemptOutcome::Rejected => {
                actions.push(Action::Settled { agent: id.clone(), attempt: done.attempt });
                // What we believe of the agent is not so.
                actions.push(Action::Welcome { agent: id.clone(), hello_wanted: true });
                self.back_off(done.sequence, AFTER_REJECTION, now);
            }
        }
    }

    fn finish_late(&mut self, id: &AgentId, done: Done, now: Timestamp, actions: &mut Actions) {
        let sequence = done.sequence;
        self.tally.ended[done.outcome as usize] += 1;
        self.leave_line(sequence);
        if let Some(other) = self.vacate(sequence) {
            let agent = self.registry.get(other.agent).id.clone();
            let attempt = self.tasks.get(sequence).expect("it was vacated above").attempt_ref(&other);
            actions.push(Action::Cancel { agent, attempt, reason: "an earlier attempt has succeeded" });
        }
        let key = self.registry.find(id).expect("whose word this is was looked up before");
        let attempt = Attempt::new(key, done.attempt.attempt, done.attempt.epoch, now);
        self.settle(id, &attempt, done, Outcome::Succeeded, now, actions);
    }

    fn measure(&mut self, attempt: &Attempt, done: &Done, now: Timestamp, actions: &mut Actions) {
        let succeeded = match done.outcome {
            AttemptOutcome::Succeeded => true,
            AttemptOutcome::Failed | AttemptOutcome::Timeout => false,
            AttemptOutcome::Cancelled | AttemptOutcome::Rejected => return,
        };
        let Some(task) = self.tasks.get(done.sequence) else { return };
        let key = task.demand.kind;
        let kind = self.kinds.get_mut(key);
        if succeeded {
            kind.run_time.observe(done.run);
            kind.counts.ran(done.run);
        }
        let out_of_memory = done.error.as_ref().is_some_and(|error| error.starts_with(OUT_OF_MEMORY));
        kind.usage.observe(done.run, &done.used, &task.demand.reserved.resources, out_of_memory, now);
        let agent = self.registry.get_mut(attempt.agent);
        *(if succeeded { &mut agent.succeeded } else { &mut agent.failed }) += 1;
        agent.performance.entry(key).or_default().observe(succeeded, done.run);
        if !succeeded {
            self.eject_if_black_hole(attempt.agent, key, now, actions);
        }
    }

    /// An agent that fails one attempt of a kind after the other, while others do well with it, would attract ever
    /// more of them by being done so fast: it gets none of the kind for a while.
    fn eject_if_black_hole(&mut self, key: AgentKey, kind: KindKey, now: Timestamp, actions: &mut Actions) {
        let others = self.kinds.get(kind).agents.iter().filter(|other| **other != key).map(|o| self.registry.get(*o));
        let mut others = others.filter(|agent| agent.takes_work()).filter_map(|agent| agent.performance.get(&kind));
        let others_do_well = others.any(Performance::does_well);
        let agent = self.registry.get_mut(key);
        let Some(performance) = agent.performance.get_mut(&kind) else { return };
        if !others_do_well || !performance.is_black_hole() {
            return;
        }
        let span = performance.eject();
        self.kinds.get_mut(kind).ejections += 1;
        let detail = format!(
            "it failed {BLACK_HOLE} attempts of `{}` in a row while others do well: none of it for {span:?}",
            self.kinds.get(kind).kind
        );
        let notice = Notice::agent("ejected", &agent.id).detail(detail);
        self.tell(notice, actions);
        self.timers.push(Reverse((now + span, Timer::Readmission(key, kind))));
        self.shares_changed(key);
    }

    pub(crate) fn readmit(&mut self, key: AgentKey, kind: KindKey) {
        let Some(agent) = self.registry.try_get_mut(key) else { return };
        if let Some(performance) = agent.performance.get_mut(&kind) {
            performance.readmit();
            self.shares_changed(key);
        }
    }

    fn fail(&mut self, id: &AgentId, attempt: &Attempt, done: Done, now: Timestamp, actions: &mut Actions) {
        let task = self.tasks.get_mut(done.sequence).expect("its attempt was vacated above");
        let error = done.error.clone().unwrap_or_else(|| match done.outcome {
            AttemptOutcome::Timeout => "it ran longer than it may".into(),
            _ => "the handler failed".into(),
        });
        task.history.failed(id.clone(), attempt, error.clone(), now);
        if task.history.failures >= task.max_attempts || task.is_expired(now) {
            return self.settle(id, attempt, Done { error: Some(error), ..done }, Outcome::Failed, now, actions);
        }
        actions.push(Action::Settled { agent: id.clone(), attempt: done.attempt });
        self.try_later(done.sequence, &error, now, actions);
    }

    /// A task that has failed is started again after a pause.
    fn try_later(&mut self, sequence: Sequence, error: &str, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence) else { return };
        actions.push(Action::Remember { sequence, history: task.history_to_keep() });
        let ceiling = task.backoff.ceiling(task.history.failures);
        let delay = ceiling.mul_f64(self.random.f64());
        let notice = self.task_notice("failed", sequence).detail(format!("{error}; next attempt in {delay:.1?}"));
        self.tell(notice, actions);
        self.back_off(sequence, delay, now);
    }

    /// The agent that ran the task is gone. What it ran at most once it may run until `held_until`.
    pub(crate) fn attempt_lost(
        &mut self,
        sequence: Sequence,
        loss: Loss,
        held_until: Timestamp,
        now: Timestamp,
        actions: &mut Actions,
    ) {
        let Some(attempt) = self.vacate(sequence) else { return };
        let agent = self.registry.get(attempt.agent).id.clone();
        let task = self.tasks.get_mut(sequence).expect("its attempt was vacated above");
        if self.registry.get(attempt.agent).at_most_once.contains(&task.demand.kind) {
            task.held_until = held_until;
        }
        if !task.delivered {
            return self.forget_undelivered(sequence, actions);
        }
        let reason = loss.as_str();
        if loss.is_charged() {
            task.history.lost(agent, &attempt, reason, now);
        }
        task.demand.alone = task.is_suspect();
        let (losses, cancelled, history) = (task.history.losses, task.cancel_wanted, task.history_to_keep());
        let expired = task.is_expired(now);
        task.state = State::BackingOff;
        if loss.is_charged() {
            actions.push(Action::Remember { sequence, history });
        }
        if cancelled {
            self.settle_unrun(sequence, Outcome::Cancelled, None, actions);
        } else if losses >= POISON {
            let error = format!("{losses} agents were lost while they ran it; the last: {reason}");
            self.settle_unrun(sequence, Outcome::Dead, Some(error.into()), actions);
        } else if expired {
            self.settle_unrun(sequence, Outcome::Expired, None, actions);
        } else {
            self.counters.reassigned += 1;
            let notice = self.task_notice("reassigned", sequence).detail(reason);
            self.tell(notice, actions);
            self.wait_again(sequence, now, actions);
        }
    }

    /// Until when the task is not given to the agent, since another may run it still.
    pub(crate) fn held_until(&self, sequence: Sequence, agent: AgentKey) -> Timestamp {
        let Some(task) = self.tasks.get(sequence) else { return Timestamp::default() };
        let at_most_once = self.registry.get(agent).at_most_once.contains(&task.demand.kind);
        if at_most_once { task.held_until.max(self.strangers_held_until) } else { task.held_until }
    }

    /// An order never reached its agent: the task is placed anew, and nobody is charged.
    pub(crate) fn restart_unstarted(&mut self, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        let notice = self.task_notice("redispatched", sequence).detail("the agent never got the order");
        self.tell(notice, actions);
        self.wait_again(sequence, now, actions);
    }

    /// Back to the front of its line, unless it is not to be started any more.
    pub(crate) fn wait_again(&mut self, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence) else { return };
        if !task.delivered {
            self.forget_undelivered(sequence, actions);
        } else if task.cancel_wanted {
            self.settle_unrun(sequence, Outcome::Cancelled, None, actions);
        } else if task.is_expired(now) {
            self.settle_unrun(sequence, Outcome::Expired, None, actions);
        } else {
            self.wait(sequence, true);
        }
    }

    /// Nobody runs a task any more that is only known from beats: its message comes again to this leader and
    /// starts it anew, unless it is settled.
    pub(crate) fn forget_undelivered(&mut self, sequence: Sequence, actions: &mut Actions) {
        let Some(task) = self.tasks.remove(sequence) else { return };
        if task.cancel_wanted {
            self.cancelled.insert(sequence);
        }
        self.release_duplicates(&task.id, actions);
    }

    fn wait(&mut self, sequence: Sequence, front: bool) {
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        task.state = State::Waiting;
        self.kinds.get_mut(task.demand.kind).waiting[task.priority as usize] += 1;
        self.lines.push(&task.demand, task.priority, sequence, front);
        // More of what nobody could ever run is sent back.
        self.registry.settle(&self.kinds);
        if let Some(line) = self.lines.blocked(&task.demand)
            && !self.unmet.may_keep(&task.demand, self.lines.len(line))
            && !placement::anybody_able(&task.demand, self.kinds.get_mut(task.demand.kind), &self.registry)
        {
            self.lines.unblock(line);
        }
    }

    pub(crate) fn back_off(&mut self, sequence: Sequence, delay: Duration, now: Timestamp) {
        if let Some(task) = self.tasks.get_mut(sequence) {
            self.kinds.get_mut(task.demand.kind).retries.over(sequence);
            task.state = State::BackingOff;
            self.timers.push(Reverse((now + delay, Timer::Retry(sequence))));
        }
    }

    /// The pause of a task is over.
    pub(crate) fn retry(&mut self, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence).filter(|task| task.state == State::BackingOff) else { return };
        if task.history.failures == 0 {
            return self.wait_again(sequence, now, actions);
        }
        let kind = task.demand.kind;
        self.kinds.get_mut(kind).retries.due(sequence);
        self.let_retries_of_kind_go(kind, now, actions);
    }

    /// Lets tasks go again that have failed before, as far as their kinds' shares reach.
    pub(crate) fn let_retries_go(&mut self, now: Timestamp, actions: &mut Actions) {
        let held_back = self.kinds.iter().filter(|kind| kind.retries.hold_any_back());
        for kind in held_back.map(|kind| kind.key).collect::<Vec<_>>() {
            self.let_retries_of_kind_go(kind, now, actions);
        }
    }

    fn let_retries_of_kind_go(&mut self, key: KindKey, now: Timestamp, actions: &mut Actions) {
        loop {
            let kind = self.kinds.get_mut(key);
            let waiting = kind.waiting.iter().sum();
            let Some(sequence) = kind.retries.next(kind.settings.retry_share, kind.running, waiting) else { return };
            self.wait_again(sequence, now, actions);
        }
    }

    /// An attempt has run for longer than it may, and its agent has not ended it.
    pub(crate) fn attempt_overrun(&mut self, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence) else { return };
        let Some(attempt) = task.attempt().cloned() else { return };
        let (limit, named) = (task.timeout.unwrap_or_default(), task.attempt_ref(&attempt));
        let agent = self.registry.get_mut(attempt.agent);
        let id = agent.id.clone();
        let reason = "it ran longer than it may";
        actions.push(Action::Cancel { agent: id.clone(), attempt: named.clone(), reason });
        if agent.at_most_once.contains(&task.demand.kind) {
            // No other may run beside it, and its agent says that it still runs.
            return;
        }
        agent.overrun.insert((sequence, attempt.number, attempt.epoch));
        let incarnation = agent.incarnation;
        self.vacate(sequence);
        let error = format!("it ran longer than it may ({limit:?}), and its agent did not end it");
        let run = now.since(attempt.running_since.unwrap_or(now));
        let (outcome, used) = (AttemptOutcome::Timeout, Used::default());
        let done = Done { sequence, attempt: named, incarnation, outcome, error: None, run, used };
        self.measure(&attempt, &done, now, actions);
        self.tally.ended[outcome as usize] += 1;
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        task.history.failed(id, &attempt, error.as_str().into(), now);
        task.state = State::BackingOff;
        if task.cancel_wanted {
            self.settle_unrun(sequence, Outcome::Cancelled, None, actions);
        } else if task.history.failures >= task.max_attempts || task.is_expired(now) {
            self.settle_unrun(sequence, Outcome::Failed, None, actions);
        } else {
            self.try_later(sequence, &error, now, actions);
        }
    }

    pub(crate) fn expire(&mut self, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence) else { return };
        if task.is_expired(now) && matches!(task.state, State::Waiting | State::BackingOff) {
            self.settle_unrun(sequence, Outcome::Expired, None, actions);
        }
    }

    /// Settles a task by the end of an attempt.
    fn settle(
        &mut self,
        id: &AgentId,
        attempt: &Attempt,
        done: Done,
        outcome: Outcome,
        now: Timestamp,
        actions: &mut Actions,
    ) {
        let by = Some((id.clone(), done.attempt));
        if let Some((why, task)) = attempt.why.zip(self.tasks.get(done.sequence)) {
            self.recent.add(task.id.clone(), id.clone(), why);
        }
        let task = self.tasks.get_mut(done.sequence).expect("a task that an attempt ends is there");
        task.last_agent = Some(id.clone());
        task.state = State::Settling { by: by.clone() };
        let started = attempt.started.min(now);
        let settlement = Settlement {
            sequence: done.sequence,
            id: task.id.clone(),
            kind: self.kinds.get(task.demand.kind).kind.clone(),
            outcome,
            attempts: task.attempts,
            by,
            error: if outcome == Outcome::Succeeded { None } else { done.error },
            queued: started.since(task.accepted),
            run: done.run,
            dead_letter: outcome == Outcome::Failed,
            history: if outcome == Outcome::Failed { task.history.ends.clone() } else { Vec::new() },
        };
        self.record(settlement, actions);
    }

    /// Settles a task that no attempt is running of.
    fn settle_unrun(
        &mut self,
        sequence: Sequence,
        outcome: Outcome,
        error: Option<CompactString>,
        actions: &mut Actions,
    ) {
        self.leave_line(sequence);
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        task.state = State::Settling { by: None };
        let is_dead = matches!(outcome, Outcome::Dead | Outcome::Failed);
        let settlement = Settlement {
            sequence,
            id: task.id.clone(),
            kind: self.kinds.get(task.demand.kind).kind.clone(),
            outcome,
            attempts: task.attempts,
            by: None,
            error: error.or_else(|| unrun_reason(outcome, task)),
            queued: Duration::ZERO,
            run: Duration::ZERO,
            dead_letter: is_dead,
            history: if is_dead { task.history.ends.clone() } else { Vec::new() },
        };
        self.record(settlement, actions);
    }

    fn record(&mut self, settlement: Settlement, actions: &mut Actions) {
        if let Some(task) = self.tasks.get(settlement.sequence) {
            let kind = self.kinds.get_mut(task.demand.kind);
            kind.retries.over(settlement.sequence);
            kind.settled[settlement.outcome as usize] += 1;
        }
        self.counters.settled[settlement.outcome as usize] += 1;
        let told = match settlement.outcome {
            Outcome::Succeeded => None,
            Outcome::Failed | Outcome::Dead => Some("dead"),
            Outcome::Cancelled => Some("cancelled"),
            Outcome::Expired => Some("expired"),
        };
        if let Some(what) = told {
            let notice = self.task_notice(what, settlement.sequence);
            let detail = settlement.error.as_deref().unwrap_or(settlement.outcome.as_str());
            self.tell(notice.detail(detail), actions);
        }
        actions.push(Action::Record(settlement));
    }

    pub(crate) fn task_recorded(&mut self, sequence: Sequence, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence) else { return };
        if let State::Settling { by: Some((agent, attempt)) } = &task.state {
            actions.push(Action::Settled { agent: agent.clone(), attempt: attempt.clone() });
        }
    }

    pub(crate) fn task_removed(&mut self, sequence: Sequence, actions: &mut Actions) {
        self.leave_line(sequence);
        // Another leader settled it, and what still runs of it is in vain.
        if let Some(attempt) = self.vacate(sequence) {
            let agent = self.registry.get(attempt.agent).id.clone();
            let attempt = self.tasks.get(sequence).expect("it was vacated above").attempt_ref(&attempt);
            actions.push(Action::Cancel { agent, attempt, reason: "the task is settled" });
        }
        let Some(task) = self.tasks.remove(sequence) else { return };
        if !task.history.is_empty() {
            actions.push(Action::ForgetHistory(sequence));
        }
        self.release_duplicates(&task.id, actions);
    }

    fn release_duplicates(&mut self, id: &TaskId, actions: &mut Actions) {
        actions.extend(self.tasks.take_duplicates(id).into_iter().map(Action::SettleDuplicate));
    }

    pub(crate) fn task_notice(&self, what: &'static str, sequence: Sequence) -> Notice {
        let task = self.tasks.get(sequence);
        Notice {
            topic: "task",
            what,
            agent: task.and_then(|task| task.last_agent.clone()),
            task: task.map(|t| (t.id.clone(), self.kinds.get(t.demand.kind).kind.clone(), t.attempts)),
            detail: None,
        }
    }
}

fn unrun_reason(outcome: Outcome, task: &Task) -> Option<CompactString> {
    match outcome {
        Outcome::Expired => Some("its deadline passed before it could be started".to_compact_string()),
        Outcome::Cancelled => Some("it was cancelled".to_compact_string()),
        _ => task.history.last_error().cloned(),
    }
}
