//! What is done about agents: registering, beating, falling silent, leaving.

use std::collections::BTreeSet;
use std::time::Duration;

use rustc_hash::FxHashSet;
use shared::api::AgentState;
use shared::message::{AttemptRef, Beat, Bye, Held, HeldState, Hello, Needed, Report};
use shared::{AgentId, Epoch};

use crate::brake::{RETURN, Verdicts};
use crate::config::AgentConfig;
use crate::event::{Action, Actions, Dispatch, Notice, Sequence};
use crate::kinds::KindKey;
use crate::registry::{Agent, AgentKey};
use crate::tasks::{Attempt, State, Task};
use crate::{Scheduler, Timestamp};

/// An attempt that a beat does not list counts as missing only when it was ordered longer ago than this: the
/// beat may have crossed it.
const CROSSING: Duration = Duration::from_millis(700);

/// How often an order is repeated that an agent does not seem to have got, before the task is given to another.
const REPEATS: u32 = 2;

/// How much longer than its limit an attempt may run by its agent's beats before it is given up: an agent ends it by
/// itself, and gives a command some seconds to end well.
pub(crate) const OVERRUN: Duration = Duration::from_secs(15);

/// Losses of an agent longer ago than this do not count as flapping.
const FLAP_WINDOW: Duration = Duration::from_secs(60);

/// Why an agent's work goes elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nobody listens on its inbox.
    Gone,
    /// It neither beats nor answers.
    Silent,
    /// Another process came under its id.
    Restarted,
    /// It said goodbye.
    Left,
}

impl Loss {
    pub(crate) const ALL: [Loss; 4] = [Loss::Gone, Loss::Silent, Loss::Restarted, Loss::Left];

    /// In one word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Loss::Gone => "gone",
            Loss::Silent => "silent",
            Loss::Restarted => "restarted",
            Loss::Left => "left",
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Loss::Gone => "nobody listens on its inbox",
            Loss::Silent => "it is silent",
            Loss::Restarted => "it was started anew",
            Loss::Left => "it left",
        }
    }

    /// Whether it speaks against the agent, and against what it ran.
    pub(crate) fn is_charged(self) -> bool {
        self != Loss::Left
    }
}

impl Scheduler {
    pub(crate) fn agent_hello(&mut self, id: &AgentId, hello: &Hello, now: Timestamp, actions: &mut Actions) {
        let key = self.registry.find_or_add(id, now);
        let set_aside = self.config.said.agents.get(id.as_str()).is_some_and(|said| said.quarantined);
        self.registry.get_mut(key).set_aside = set_aside;
        let agent = self.registry.get(key);
        if hello.incarnation < agent.incarnation {
            return;
        }
        let is_new_process = hello.incarnation != agent.incarnation;
        let was_known = agent.incarnation.0 != 0;
        if is_new_process && was_known && agent.is_present() {
            self.lose(key, Loss::Restarted, now, actions);
        }
        self.describe(key, hello, now);
        let agent = self.registry.get_mut(key);
        agent.heard(now);
        if is_new_process {
            agent.registered = now;
            agent.beat_sequence = 0;
            agent.report = None;
        }
        if is_new_process || agent.state == AgentState::Offline {
            agent.state = AgentState::Starting;
            self.tell(Notice::agent("joined", id), actions);
            self.quarantine_if_flapping(key, now, actions);
        }
        if hello.draining {
            self.registry.get_mut(key).state = AgentState::Stopping;
        }
        self.compare(key, &hello.holds, now, now, actions);
        self.look_back(actions);
        if self.epoch.is_some() {
            actions.push(Action::Welcome { agent: id.clone(), hello_wanted: false });
        }
        self.shares_changed(key);
    }

    fn describe(&mut self, key: AgentKey, hello: &Hello, now: Timestamp) {
        let kinds: FxHashSet<KindKey> = hello.kinds.iter().map(|kind| self.kind_key(kind)).collect();
        let at_most_once = hello.at_most_once.iter().map(|kind| self.kind_key(kind)).collect();
        let agent = self.registry.get_mut(key);
        agent.at_most_once = at_most_once;
        for gone in agent.kinds.difference(&kinds) {
            let kind = self.kinds.get_mut(*gone);
            kind.agents.retain(|other| *other != key);
            kind.strategy.forget(key);
        }
        for new in kinds.difference(&agent.kinds) {
            let kind = self.kinds.get_mut(*new);
            kind.agents.push(key);
            kind.strategy.joined(key, agent);
        }
        let capacity = self.config.placement.overcommit.of(hello.capacity);
        agent.add_up(now);
        agent.describe(hello, kinds, capacity);
        let needs = hello.needs.iter().filter_map(|(kind, needed)| Some((self.kinds.find(kind)?, needed.clone())));
        let before = std::mem::replace(&mut agent.declared, needs.collect());
        let changed: BTreeSet<KindKey> = before.keys().chain(agent.declared.keys()).copied().collect();
        changed.into_iter().for_each(|kind| self.declare(kind));
        self.served_version += 1;
    }

    /// Finds out anew what the agents say that an attempt of a kind needs: the most that any of them says.
    fn declare(&mut self, kind: KindKey) {
        let entry = self.kinds.get_mut(kind);
        let said = entry.agents.iter().filter_map(|key| self.registry.get(*key).declared.get(&kind));
        entry.declared = said.fold(Needed::default(), |most, needed| most.most(needed));
    }

    pub(crate) fn agent_beat(&mut self, id: &AgentId, beat: &Beat, now: Timestamp, actions: &mut Actions) {
        let known = self.registry.find(id).filter(|key| self.registry.get(*key).incarnation == beat.incarnation);
        let Some(key) = known else {
            let outdated =
                self.registry.find(id).is_some_and(|key| beat.incarnation < self.registry.get(key).incarnation);
            if !outdated {
                actions.push(Action::Welcome { agent: id.clone(), hello_wanted: true });
            }
            return;
        };
        let agent = self.registry.get_mut(key);
        if beat.sequence != 0 && beat.sequence <= agent.beat_sequence {
            return;
        }
        self.tally.beats += 1;
        agent.beat_sequence = agent.beat_sequence.max(beat.sequence);
        agent.heard(now);
        self.revive(key, beat.draining, now, actions);
        // An agent whose own loop is late says what it held before.
        let as_of = now - Duration::from_millis(beat.lag_ms);
        self.compare(key, &beat.holds, as_of, now, actions);
        if beat.answer && self.epoch.is_some() {
            actions.push(Action::Heard { agent: id.clone(), sequence: beat.sequence });
        }
        if let Some(adoption) = &mut self.adoption {
            adoption.awaited.remove(&key);
        }
    }

    /// An agent that beats is well, whatever was thought of it.
    fn revive(&mut self, key: AgentKey, draining: bool, now: Timestamp, actions: &mut Actions) {
        let agent = self.registry.get_mut(key);
        let state = match agent.state {
            _ if draining => AgentState::Stopping,
            AgentState::Stopping => AgentState::Stopping,
            _ if agent.is_quarantined() => AgentState::Degraded,
            _ => AgentState::Healthy,
        };
        let before = std::mem::replace(&mut agent.state, state);
        if state == AgentState::Stopping && !draining && self.epoch.is_some() {
            // The order to drain was lost, or has crossed this beat.
            actions.push(Action::Drain(agent.id.clone()));
        }
        if before == state {
            return;
        }
        let id = agent.id.clone();
        match before {
            AgentState::Unhealthy => self.tell(Notice::agent("recovered", &id), actions),
            AgentState::Offline => {
                self.served_version += 1;
                self.look_back(actions);
                self.tell(Notice::agent("returned", &id), actions);
                actions.push(Action::Welcome { agent: id, hello_wanted: true });
                self.quarantine_if_flapping(key, now, actions);
            }
            _ => {}
        }
        self.shares_changed(key);
    }

    /// An agent that was lost and has come back again and again gets no work for a while.
    fn quarantine_if_flapping(&mut self, key: AgentKey, now: Timestamp, actions: &mut Actions) {
        let (limit, first) = (self.config.liveness.flap_limit, self.config.liveness.quarantine);
        let agent = self.registry.get_mut(key);
        while agent.losses.front().is_some_and(|lost| now.since(*lost) > FLAP_WINDOW) {
            agent.losses.pop_front();
        }
        if agent.losses.len() < limit as usize || agent.state == AgentState::Stopping {
            return;
        }
        let span = (first * (1 << agent.quarantines.min(8))).min(first * 20);
        agent.losses.clear();
        agent.quarantines += 1;
        agent.quarantined_until = Some(now + span);
        agent.state = AgentState::Degraded;
        let detail = format!("it was lost and returned {limit} times within a minute: no work for {span:?}");
        let notice = Notice::agent("quarantined", &agent.id).detail(detail);
        self.tell(notice, actions);
    }

    fn end_quarantine(&mut self, key: AgentKey, actions: &mut Actions) {
        let agent = self.registry.get_mut(key);
        agent.quarantined_until = None;
        if agent.set_aside {
            return;
        }
        if agent.state == AgentState::Degraded {
            agent.state = AgentState::Healthy;
        }
        let notice = Notice::agent("released", &agent.id);
        self.tell(notice, actions);
        self.shares_changed(key);
    }

    /// Somebody wants an agent to get no work, or some again. What it has goes on.
    pub(crate) fn agent_configured(&mut self, id: &AgentId, config: AgentConfig, actions: &mut Actions) {
        self.config.said.agents.insert(id.to_string(), config);
        let Some(key) = self.registry.find(id) else { return };
        let agent = self.registry.get_mut(key);
        let (was_quarantined, was_set_aside) = (agent.is_quarantined(), agent.set_aside);
        agent.set_aside = config.quarantined;
        if !config.quarantined {
            if was_quarantined {
                self.end_quarantine(key, actions);
            }
            return;
        }
        if matches!(agent.state, AgentState::Healthy) {
            agent.state = AgentState::Degraded;
        }
        if !was_set_aside {
            let notice =
                Notice::agent("quarantined", id).detail("somebody wants it to get no work until it is resumed");
            self.tell(notice, actions);
        }
        self.shares_changed(key);
    }

    pub(crate) fn agent_report(&mut self, id: &AgentId, report: Report, now: Timestamp) {
        let Some(key) = self.registry.find(id) else { return };
        let agent = self.registry.get_mut(key);
        if agent.incarnation == report.incarnation {
            agent.report(report, now);
            self.shares_changed(key);
        }
    }

    pub(crate) fn agent_bye(&mut self, id: &AgentId, bye: &Bye, now: Timestamp, actions: &mut Actions) {
        let Some(key) = self.registry.find(id) else { return };
        if self.registry.get(key).incarnation != bye.incarnation || !self.registry.get(key).is_present() {
            return;
        }
        // What it hands back was never started: nobody is charged for it.
        for returned in &bye.returned {
            if let Some(sequence) = self.tasks.find(&returned.task)
                && self.tasks.get(sequence).and_then(Task::attempt).is_some_and(|a| is(a, key, returned))
            {
                self.vacate(sequence);
                self.wait_again(sequence, now, actions);
            }
        }
        // Nor for what it says it ran: it has ended it itself.
        self.lose(key, Loss::Left, now, actions);
        self.tell(Notice::agent("left", id), actions);
    }

    pub(crate) fn agent_unreachable(&mut self, id: &AgentId, now: Timestamp, actions: &mut Actions) {
        let Some(key) = self.registry.find(id) else { return };
        let agent = self.registry.get_mut(key);
        if agent.is_present() && agent.unreachable_since.is_none() {
            agent.unreachable_since = Some(now);
            self.suspect(key, now, actions);
        }
    }

    pub(crate) fn agent_drained(&mut self, id: &AgentId, actions: &mut Actions) {
        let Some(key) = self.registry.find(id) else { return };
        let agent = self.registry.get_mut(key);
        if agent.is_present() {
            agent.state = AgentState::Stopping;
            self.shares_changed(key);
            actions.push(Action::Drain(id.clone()));
            self.tell(Notice::agent("drained", id), actions);
        }
    }

    pub(crate) fn agent_disconnected(&mut self, id: &AgentId, now: Timestamp, actions: &mut Actions) {
        let Some(key) = self.registry.find(id) else { return };
        let agent = self.registry.get_mut(key);
        // Only an answer to a probe tells a crash from a reconnect.
        if agent.is_present() && agent.state != AgentState::Stopping {
            agent.connection_closed = true;
            self.suspect(key, now, actions);
        }
    }

    pub(crate) fn canary_heard(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.brake.canary_heard(now) {
            self.link_restored(now, actions);
        }
    }

    pub(crate) fn link_restored(&mut self, now: Timestamp, actions: &mut Actions) {
        self.listening_since = Some(now);
        self.forgive_silence(RETURN, now);
        self.tell(
            Notice::mesh("link-restored", "the link to the broker was interrupted: no verdicts for a while"),
            actions,
        );
    }

    /// Silence until now says nothing: everybody gets a fresh timeout, and no verdict is given for this long.
    pub(crate) fn forgive_silence(&mut self, grace: Duration, now: Timestamp) {
        self.brake.hold_until(now + grace);
        for key in self.registry.keys() {
            let agent = self.registry.get_mut(key);
            if agent.is_present() {
                agent.heard(now);
            }
        }
        // What is heard now may have been said long ago.
        self.tasks.forget_since_when_they_run();
    }

    pub(crate) fn check_agents(&mut self, now: Timestamp, actions: &mut Actions) {
        let verdicts_are_free = self.check_brake(now, actions);
        for key in self.registry.keys() {
            let agent = self.registry.get(key);
            if !agent.is_present() {
                continue;
            }
            if agent.quarantined_until.is_some_and(|until| until <= now) {
                self.end_quarantine(key, actions);
            }
            let agent = self.registry.get(key);
            match self.verdict(agent, now) {
                Some(loss) if verdicts_are_free => {
                    let id = agent.id.clone();
                    self.lose(key, loss, now, actions);
                    self.tell(Notice::agent("lost", &id).detail(loss.as_str()), actions);
                }
                _ if self.is_suspect(agent, now) => self.suspect(key, now, actions),
                _ => {}
            }
        }
        self.forget_agents(now);
    }

    /// Whether verdicts may be given.
    fn check_brake(&mut self, now: Timestamp, actions: &mut Actions) -> bool {
        let present = || self.registry.iter().filter(|(_, agent)| agent.is_present());
        let suspects = present().filter(|(_, agent)| self.is_suspect(agent, now)).count();
        let count = present().count();
        match self.brake.check(suspects, count, self.config.liveness.storm_share, now) {
            Verdicts::Free => true,
            Verdicts::Held => false,
            Verdicts::StormBegan => {
                let detail =
                    format!("{suspects} of {count} agents fell silent together: the link is suspected, not they");
                self.tell(Notice::mesh("storm-began", detail), actions);
                false
            }
            Verdicts::StormEnded => {
                self.forgive_silence(Duration::ZERO, now);
                self.tell(Notice::mesh("storm-ended", "verdicts are given again, after fresh timeouts"), actions);
                false
            }
        }
    }

    fn is_suspect(&self, agent: &Agent, now: Timestamp) -> bool {
        let silent = now.since(agent.last_heard) >= self.config.liveness.suspect_after;
        silent || agent.unreachable_since.is_some() || agent.connection_closed
    }

    /// Why the agent counts as lost, if it does.
    fn verdict(&self, agent: &Agent, now: Timestamp) -> Option<Loss> {
        let liveness = &self.config.liveness;
        let grace = if agent.connection_closed { liveness.closed_after } else { liveness.gone_after };
        if agent.unreachable_since.is_some_and(|since| now.since(since) >= grace) {
            Some(Loss::Gone)
        } else if now.since(agent.last_heard) >= liveness.lost_after {
            Some(Loss::Silent)
        } else {
            None
        }
    }

    fn forget_agents(&mut self, now: Timestamp) {
        let forgotten = self.registry.forget(self.config.liveness.forget_after, now);
        for (key, kinds) in forgotten {
            self.with_room.remove(&key);
            for kind in kinds.iter().copied() {
                let entry = self.kinds.get_mut(kind);
                entry.agents.retain(|other| *other != key);
                entry.strategy.forget(key);
                self.declare(kind);
            }
            self.served_version += 1;
        }
    }

    /// A suspect keeps its work, gets none, and is asked whether it is there.
    fn suspect(&mut self, key: AgentKey, now: Timestamp, actions: &mut Actions) {
        let agent = self.registry.get_mut(key);
        if matches!(agent.state, AgentState::Healthy | AgentState::Degraded) {
            agent.state = AgentState::Unhealthy;
            self.tally.suspicions += 1;
            self.shares_changed(key);
        }
        let agent = self.registry.get_mut(key);
        if now.since(agent.last_probe) >= crate::scheduler::TICK * 2 && self.epoch.is_some() {
            agent.last_probe = now;
            actions.push(Action::Probe(agent.id.clone()));
        }
    }

    /// The agent is gone: what it ran starts elsewhere.
    fn lose(&mut self, key: AgentKey, loss: Loss, now: Timestamp, actions: &mut Actions) {
        self.tally.losses[loss as usize] += 1;
        let agent = self.registry.get_mut(key);
        agent.state = AgentState::Offline;
        let held_until = agent.last_heard + self.config.liveness.hold;
        agent.heard(now);
        agent.kept_for = None;
        agent.overrun.clear();
        if loss.is_charged() {
            agent.losses.push_back(now);
        }
        let mut lost: Vec<Sequence> = agent.in_flight.iter().copied().collect();
        lost.sort_unstable();
        self.served_version += 1;
        if let Some(adoption) = &mut self.adoption {
            adoption.awaited.remove(&key);
        }
        // The oldest shall stand first in its line again.
        for sequence in lost.into_iter().rev() {
            self.attempt_lost(sequence, loss, held_until, now, actions);
        }
        self.shares_changed(key);
    }

    /// Compares what the agent holds with what it was ordered to do.
    fn compare(&mut self, key: AgentKey, holds: &[Held], as_of: Timestamp, now: Timestamp, actions: &mut Actions) {
        if self.epoch.is_none() {
            self.remember(key, holds, actions);
            return;
        }
        for held in holds {
            self.hold(key, held, now, actions);
        }
        let listed: FxHashSet<Sequence> = holds.iter().map(|held| Sequence(held.sequence)).collect();
        let absent: Vec<Sequence> =
            self.registry.get(key).in_flight.iter().copied().filter(|s| !listed.contains(s)).collect();
        let agent = self.registry.get_mut(key);
        agent.missing.retain(|sequence| !listed.contains(sequence));
        self.forget_overrun(key, holds);
        for sequence in absent {
            self.not_held(key, sequence, as_of, now, actions);
        }
    }

    /// What the agent has ended at last takes up no slot any more.
    fn forget_overrun(&mut self, key: AgentKey, holds: &[Held]) {
        let agent = self.registry.get_mut(key);
        if agent.overrun.is_empty() {
            return;
        }
        let is_held = |(sequence, attempt, epoch): &(Sequence, u32, Epoch)| {
            let is_it = |held: &&Held| held.sequence == sequence.0 && held.attempt == *attempt && held.epoch == *epoch;
            holds.iter().find(is_it).is_some_and(|held| held.state != HeldState::Done)
        };
        agent.overrun.retain(is_held);
        self.room_made(key);
    }

    /// A standby remembers what runs, so that it knows when it takes over.
    fn remember(&mut self, key: AgentKey, holds: &[Held], actions: &mut Actions) {
        let listed: FxHashSet<(Sequence, u32, Epoch)> =
            holds.iter().map(|held| (Sequence(held.sequence), held.attempt, held.epoch)).collect();
        let is_listed = |sequence: Sequence| {
            let attempt = self.tasks.get(sequence).and_then(Task::attempt);
            attempt.is_some_and(|attempt| listed.contains(&(sequence, attempt.number, attempt.epoch)))
        };
        let absent: Vec<Sequence> =
            self.registry.get(key).in_flight.iter().copied().filter(|s| !is_listed(*s)).collect();
        for sequence in absent {
            self.vacate(sequence);
            self.tasks.remove(sequence);
        }
        for held in holds.iter().filter(|held| held.state != HeldState::Done) {
            self.adopt(key, held, actions);
        }
    }

    fn hold(&mut self, key: AgentKey, held: &Held, now: Timestamp, actions: &mut Actions) {
        if Some(held.epoch) > self.epoch {
            // A newer leader ordered it: we do not lead any more, and have not been told yet.
            return;
        }
        let sequence = Sequence(held.sequence);
        let attempt = AttemptRef { task: held.task.clone(), attempt: held.attempt, epoch: held.epoch };
        let agent = || self.registry.get(key).id.clone();
        let is_older = |current: &Attempt| Some(current.epoch) < self.epoch && Some(held.epoch) < self.epoch;
        match self.tasks.get(sequence) {
            None if now < self.adopt_until && Some(held.epoch) < self.epoch => self.adopt(key, held, actions),
            // Its `done` is repeated, and answered when it comes.
            None if held.state == HeldState::Done => {}
            None => actions.push(Action::Cancel { agent: agent(), attempt, reason: "it is not wanted any more" }),
            Some(task) => match &task.state {
                State::Running(current) if is(current, key, &attempt) => match (held.state, current.running_since) {
                    (HeldState::Running, None) => self.runs_since(sequence, Some(now)),
                    (HeldState::Running, Some(since)) => {
                        let limit = task.timeout.map(|limit| limit + OVERRUN);
                        if limit.is_some_and(|limit| now.since(since) >= limit) && self.brake.is_free(now) {
                            self.attempt_overrun(sequence, now, actions);
                        }
                    }
                    (HeldState::Done, Some(_)) => self.runs_since(sequence, None),
                    _ => {}
                },
                // A leader before started it again on the same agent, which we have not heard until now.
                State::Running(current)
                    if current.agent == key && is_older(current) && current.number < held.attempt =>
                {
                    self.vacate(sequence);
                    self.occupy(sequence, Attempt::new(key, held.attempt, held.epoch, now));
                }
                // The agent took over the number of an attempt that it runs already; its next beat says so.
                State::Running(current) if current.agent == key => {}
                State::Running(_) | State::Settling { .. } if held.state == HeldState::Done => {}
                State::Running(_) | State::Settling { .. } => {
                    actions.push(Action::Cancel { agent: agent(), attempt, reason: "another attempt replaced it" });
                }
                // The beat is out of date.
                _ if task.last_ended == Some((held.attempt, held.epoch)) => {}
                // It was given up for good.
                _ if self.registry.get(key).overrun.contains(&(sequence, held.attempt, held.epoch)) => {}
                State::Waiting | State::BackingOff if held.attempt < task.attempts && held.state != HeldState::Done => {
                    actions.push(Action::Cancel { agent: agent(), attempt, reason: "another attempt replaced it" });
                }
                // It was given up for lost and runs all the same: it is still the task's attempt.
                State::Waiting | State::BackingOff if held.state != HeldState::Done => {
                    self.take_back(sequence, key, held, now, actions);
                }
                // It ended under a leader before: its `done` is on the way.
                State::Waiting if task.attempts < held.attempt && Some(held.epoch) < self.epoch => {
                    self.take_back(sequence, key, held, now, actions);
                }
                State::Waiting | State::BackingOff => {}
            },
        }
    }

    /// The agent says that it runs, or that it has ended and its `done` is on the way.
    fn runs_since(&mut self, sequence: Sequence, since: Option<Timestamp>) {
        if let Some(Task { state: State::Running(attempt), .. }) = self.tasks.get_mut(sequence) {
            attempt.running_since = since;
        }
    }

    /// A task that was to be started again runs still: what was said about that attempt is taken back.
    fn take_back(&mut self, sequence: Sequence, key: AgentKey, held: &Held, now: Timestamp, actions: &mut Actions) {
        self.leave_line(sequence);
        let id = &self.registry.get(key).id;
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        if task.history.lives_on(id, held.attempt, held.epoch) {
            task.demand.alone = task.is_suspect();
            actions.push(Action::Remember { sequence, history: task.history_to_keep() });
        }
        self.kinds.get_mut(self.tasks.get(sequence).expect("it is there").demand.kind).retries.over(sequence);
        self.occupy(sequence, Attempt::new(key, held.attempt, held.epoch, now));
    }

    /// Takes over an attempt that another leader ordered. Its message has not come yet. One that has ended is taken
    /// over too: its `done` is repeated, and to start the task meanwhile would be in vain.
    fn adopt(&mut self, key: AgentKey, held: &Held, actions: &mut Actions) {
        let sequence = Sequence(held.sequence);
        if self.tasks.get(sequence).is_some() {
            return;
        }
        if self.tasks.find(&held.task).is_some() {
            // Another message has the task's id, and came first.
            let attempt = AttemptRef { task: held.task.clone(), attempt: held.attempt, epoch: held.epoch };
            let agent = self.registry.get(key).id.clone();
            if self.epoch.is_some() && held.state != HeldState::Done {
                actions.push(Action::Cancel { agent, attempt, reason: "another task has its id" });
            }
            return;
        }
        let kind = self.kind_key(&held.kind);
        self.tasks.insert(sequence, Task::adopted(held, kind));
        let started = self.registry.get(key).last_heard;
        self.occupy(sequence, Attempt::new(key, held.attempt, held.epoch, started));
    }

    /// The agent should hold this and does not: the order was lost on the way, and is repeated.
    fn not_held(&mut self, key: AgentKey, sequence: Sequence, as_of: Timestamp, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get(sequence) else { return };
        let Some(attempt) = task.attempt() else { return };
        if as_of.since(attempt.started) < CROSSING {
            return;
        }
        if self.registry.get_mut(key).missing.insert(sequence) {
            return;
        }
        if !task.delivered {
            self.vacate(sequence);
            self.forget_undelivered(sequence, actions);
        } else if (attempt.repeats < REPEATS || !self.brake.is_free(now)) && !task.cancel_wanted {
            // Where our own messages do not come through, the order may be on its way still.
            self.repeat_order(sequence, now, actions);
        } else {
            self.vacate(sequence);
            self.restart_unstarted(sequence, now, actions);
        }
    }

    /// The same order once more. An agent that has it after all takes no notice, so nothing is started twice.
    fn repeat_order(&mut self, sequence: Sequence, now: Timestamp, actions: &mut Actions) {
        let Some(task) = self.tasks.get_mut(sequence) else { return };
        let State::Running(attempt) = &mut task.state else { return };
        self.tally.repeats += 1;
        (attempt.started, attempt.repeats) = (now, attempt.repeats + 1);
        let attempt = attempt.clone();
        let agent = self.registry.get_mut(attempt.agent);
        agent.missing.remove(&sequence);
        let (agent, incarnation) = (agent.id.clone(), agent.incarnation);
        let (attempt, timeout, reserved) = (task.attempt_ref(&attempt), task.timeout, task.demand.reserved.clone());
        actions.push(Action::Repeat(Dispatch { sequence, agent, incarnation, attempt, timeout, reserved }));
    }

    pub(crate) fn tell(&self, notice: Notice, actions: &mut Actions) {
        if self.epoch.is_some() {
            actions.push(Action::Tell(notice));
        }
    }
}

/// Whether this is the attempt named, on this agent.
pub(crate) fn is(attempt: &Attempt, agent: AgentKey, named: &AttemptRef) -> bool {
    attempt.agent == agent && attempt.number == named.attempt && attempt.epoch == named.epoch
}
