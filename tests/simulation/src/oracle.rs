//! Who watches: it knows what clients were promised and what handlers really did, and counts by itself. What the
//! coordinators believe is of no interest here.

use std::collections::BTreeSet;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use scheduler::{Dispatch, History, Sequence};
use shared::message::AttemptRef;
use shared::task::AttemptOutcome;
use shared::{AgentId, Outcome, TaskId};

use crate::event::Micros;
use crate::message::{Garbage, Instance, Letter, Record, Stored, Submission};

/// How a task's handler behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It does the work.
    Succeeds,
    /// It fails so often and then does the work.
    Fails(u32),
    /// It never ends by itself.
    Hangs,
    /// It takes its agent down.
    Poison,
}

/// What is known of a task before anything happens to it.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// How its handler behaves.
    pub way: Way,
    /// How long that takes.
    pub run: Micros,
    /// Whether its handler goes on when it is told to stop.
    pub stubborn: bool,
    /// What it reserves.
    pub cpu_millis: u64,
    /// Whether its result is not kept.
    pub discarded: bool,
    /// Whether it has a deadline.
    pub has_deadline: bool,
}

/// A task, as it is.
#[derive(Debug)]
pub struct Task {
    /// Its id, once it is known.
    pub id: Option<TaskId>,
    /// What it is like.
    pub nature: Nature,
    /// How many of its messages are in the stream.
    pub messages: u32,
    /// Whether a message of it cannot be read.
    pub garbage: bool,
    /// Whether somebody asked for its end.
    pub cancel_asked: bool,
    /// How it ended, and when that was recorded.
    pub outcome: Option<(Rc<Record>, Micros)>,
    /// Starts of its handler.
    pub starts: Vec<u32>,
    /// How often it failed so far.
    pub failures: u32,
    /// How often an agent died that was running it.
    pub deaths: u32,
    reigns: Vec<Reigned>,
    remembered: Option<Remembered>,
}

/// The number of the last attempt that a leader has kept for those after it, and when.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    sequence: Sequence,
    epoch: u64,
    attempts: u32,
    at: Micros,
}

/// What one leader did about a task.
#[derive(Clone, Copy, Debug, Default)]
struct Reigned {
    epoch: u64,
    last_number: u32,
    dispatches: u32,
    causes: u32,
    cancelled: bool,
}

/// A start of a handler.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The task.
    pub task: usize,
    /// Whose handler.
    pub agent: usize,
    /// How it ended.
    pub ended: Option<AttemptOutcome>,
}

/// An order that was just given.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Who is to run it.
    pub agent: AgentId,
    /// The attempt.
    pub attempt: AttemptRef,
    /// Whether this leader never ordered it before.
    pub first: bool,
}

/// Who watches.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Every task.
    pub tasks: Vec<Task>,
    /// Every start.
    pub starts: Vec<Start>,
    /// Orders given since the last look.
    pub fresh: Vec<Fresh>,
    /// What is wrong; the first counts.
    pub violation: Option<String>,
    /// Tasks that are accepted and not settled.
    pub open: BTreeSet<usize>,
    /// How many tasks were accepted.
    pub accepted: u64,
    newest_epoch: u64,
    by_id: FxHashMap<TaskId, usize>,
    begun: rustc_hash::FxHashSet<(usize, u32, u64, Instance)>,
    decided: BTreeSet<Sequence>,
    /// Which processes run tasks that no two may run at a time.
    alone: FxHashMap<usize, BTreeSet<Instance>>,
    last_revision: u64,
}

impl Oracle {
    /// Something is wrong.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert_with(|| what.into());
    }

    /// A client makes a task up.
    pub fn invent(&mut self, id: Option<TaskId>, nature: Nature) -> usize {
        let place = self.tasks.len();
        if let Some(id) = &id {
            self.by_id.insert(id.clone(), place);
        }
        self.tasks.push(Task {
            id,
            nature,
            messages: 0,
            garbage: false,
            cancel_asked: false,
            outcome: None,
            starts: Vec::new(),
            failures: 0,
            deaths: 0,
            reigns: Vec::new(),
            remembered: None,
        });
        place
    }

    /// The place of a task.
    pub fn find(&self, id: &TaskId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The broker has stored a task.
    pub fn accepted(&mut self, submission: &Submission, id: &TaskId, sequence: Sequence, now: Micros) -> usize {
        let place = submission.task;
        let task = &mut self.tasks[place];
        task.messages += 1;
        task.garbage |= submission.garbage != Garbage::No;
        if task.id.is_none() {
            task.id = Some(id.clone());
            self.by_id.insert(id.clone(), place);
        }
        self.open.insert(place);
        self.accepted += 1;
        let _ = (sequence, now);
        place
    }

    /// A coordinator begins to lead.
    pub fn reign_began(&mut self, epoch: u64) {
        self.newest_epoch = self.newest_epoch.max(epoch);
    }

    /// A leader orders a start.
    pub fn dispatched(&mut self, dispatch: &Dispatch, reign_began: Micros, arrived: Micros, histories_known: bool) {
        let attempt = &dispatch.attempt;
        let Some(place) = self.find(&attempt.task) else {
            return self.fail(format!("{attempt:?} is of no task that was ever submitted"));
        };
        let task = &mut self.tasks[place];
        // A leader that was replaced and does not know it hears nothing of what the new one settles.
        let is_replaced = attempt.epoch.0 < self.newest_epoch;
        let known_since = if is_replaced { reign_began } else { arrived };
        let settled = task.outcome.as_ref().filter(|(_, at)| *at < known_since).is_some() && !task.nature.discarded;
        // Of several messages with its id, each has a history of its own.
        let kept = task.remembered.filter(|kept| kept.sequence == dispatch.sequence && kept.at < reign_began);
        let counts_on = kept.is_none_or(|kept| attempt.attempt > kept.attempts || attempt.epoch.0 < kept.epoch);
        // The new one forgets what was kept of a task when it has settled it.
        let is_past = is_replaced && task.outcome.is_some();
        let forgotten = histories_known && !counts_on && !is_past && !task.nature.discarded;
        let reigned = reigned(&mut task.reigns, attempt.epoch.0);
        let (first, cancelled) = (reigned.dispatches == 0, reigned.cancelled && !task.nature.discarded);
        let renumbered = attempt.attempt <= reigned.last_number;
        reigned.last_number = attempt.attempt;
        reigned.dispatches += 1;
        // Whose result is not kept is run again when it is submitted again.
        let counts_anew = task.nature.discarded;
        let renumbered = renumbered && !counts_anew;
        let unexplained = reigned.dispatches > 1 + reigned.causes && !counts_anew;
        if forgotten {
            self.fail(format!("{attempt:?} was ordered as if nobody had kept how earlier ones ended"));
        }
        if renumbered {
            self.fail(format!("{attempt:?} was ordered after a later one of the same leader"));
        }
        if unexplained {
            self.fail(format!("{attempt:?} was ordered without a cause"));
        }
        if cancelled {
            self.fail(format!("{attempt:?} was ordered after the leader had confirmed its cancellation"));
        }
        if settled {
            self.fail(format!("{attempt:?} was ordered although the task was settled before its message came"));
        }
        self.fresh.push(Fresh { agent: dispatch.agent.clone(), attempt: attempt.clone(), first });
    }

    /// It is kept how the attempts of a task ended.
    pub fn remembered(&mut self, sequence: Sequence, epoch: u64, history: &History, at: Micros) {
        let Some(place) = history.task.as_ref().and_then(|id| self.find(id)) else {
            return self.fail(format!("{history:?} is of no task that was ever submitted"));
        };
        let task = &mut self.tasks[place];
        let attempts = history.attempts;
        let is_news = |kept: Remembered| kept.sequence != sequence || (kept.epoch, kept.attempts) < (epoch, attempts);
        if task.remembered.is_none_or(is_news) {
            task.remembered = Some(Remembered { sequence, epoch, attempts, at });
        }
    }

    /// A leader has a reason to start the task once more.
    pub fn cause(&mut self, id: &TaskId, epoch: u64) {
        if let Some(place) = self.find(id) {
            reigned(&mut self.tasks[place].reigns, epoch).causes += 1;
        }
    }

    /// A leader has taken note that a task shall end.
    pub fn cancel_noted(&mut self, id: &TaskId, epoch: u64) {
        if let Some(place) = self.find(id) {
            reigned(&mut self.tasks[place].reigns, epoch).cancelled = true;
        }
    }

    /// A handler starts.
    pub fn started(&mut self, attempt: &AttemptRef, agent: usize, instance: Instance) -> (u32, Nature, u32) {
        let place = self.find(&attempt.task).expect("agents are only told of tasks that were submitted");
        let first = self.begun.insert((place, attempt.attempt, attempt.epoch.0, instance));
        if !first && !self.tasks[place].nature.discarded {
            self.fail(format!("{attempt:?} was started twice by one process"));
        }
        let start = u32::try_from(self.starts.len()).expect("fewer than four billion starts");
        self.starts.push(Start { task: place, agent, ended: None });
        let task = &mut self.tasks[place];
        task.starts.push(start);
        (start, task.nature, task.failures)
    }

    /// A handler starts that must be the only one of its task that runs.
    pub fn started_alone(&mut self, task: usize, instance: Instance) {
        let running = self.alone.entry(task).or_default();
        running.insert(instance);
        if running.len() > 1 {
            let text = format!("{:?} runs at most once, and runs in the processes {running:?}", self.tasks[task].id);
            self.fail(text);
        }
    }

    /// It has ended.
    pub fn ended_alone(&mut self, task: usize, instance: Instance) {
        if let Some(running) = self.alone.get_mut(&task) {
            running.remove(&instance);
        }
    }

    /// What the process runs is gone with it, or is nothing that it could end.
    pub fn excuse(&mut self, instance: Instance) {
        for running in self.alone.values_mut() {
            running.remove(&instance);
        }
    }

    /// A handler ended.
    pub fn ended(&mut self, start: u32, outcome: AttemptOutcome) {
        let place = self.starts[start as usize].task;
        self.starts[start as usize].ended = Some(outcome);
        if matches!(outcome, AttemptOutcome::Failed | AttemptOutcome::Timeout) {
            self.tasks[place].failures += 1;
        }
    }

    /// A result is stored.
    pub fn recorded(&mut self, record: &Rc<Record>, now: Micros) {
        let Some(place) = self.find(&record.id) else {
            return self.fail(format!("{record:?} is of no task that was ever submitted"));
        };
        if let Some((before, _)) = &self.tasks[place].outcome {
            let text = format!("{record:?} took the place of {before:?}");
            return self.fail(text);
        }
        if let Some(problem) = self.contradiction(place, record) {
            self.fail(format!("{record:?}: {problem}"));
        }
        self.tasks[place].outcome = Some((record.clone(), now));
        self.close_if_done(place);
    }

    /// What speaks against a record.
    fn contradiction(&self, place: usize, record: &Record) -> Option<&'static str> {
        let task = &self.tasks[place];
        let ended_so = |outcomes: &[AttemptOutcome]| {
            task.starts.iter().any(|s| self.starts[*s as usize].ended.is_some_and(|ended| outcomes.contains(&ended)))
        };
        match record.outcome {
            Outcome::Succeeded => {
                let start = record.output.and_then(|start| self.starts.get(start as usize));
                match start {
                    Some(start) if start.task != place => Some("the output is another task's"),
                    Some(start) if start.ended == Some(AttemptOutcome::Succeeded) => None,
                    _ => Some("no attempt produced this output"),
                }
            }
            Outcome::Failed if ended_so(&[AttemptOutcome::Failed, AttemptOutcome::Timeout]) => None,
            Outcome::Failed => Some("no attempt failed"),
            Outcome::Cancelled if task.cancel_asked => None,
            Outcome::Cancelled => Some("nobody asked for that"),
            Outcome::Expired if task.nature.has_deadline => None,
            Outcome::Expired => Some("it has no deadline"),
            // An agent that dies may have been given it and not have come to it.
            Outcome::Dead if task.garbage || record.attempts > 0 => None,
            Outcome::Dead => Some("it can be read, and took no agent down"),
        }
    }

    /// A dead letter is stored.
    pub fn buried(&mut self, letter: &Letter) {
        let Some(place) = self.find(&letter.id) else {
            return self.fail(format!("{letter:?} is of no task that was ever submitted"));
        };
        if letter.body != place {
            self.fail(format!("{letter:?} has the body of another task"));
        }
        if !matches!(letter.outcome, Outcome::Failed | Outcome::Dead) {
            self.fail(format!("{letter:?} is no dead letter"));
        }
    }

    /// A leader has decided what becomes of a message.
    pub fn decided(&mut self, sequence: Sequence) {
        self.decided.insert(sequence);
    }

    /// A message is taken out of the stream.
    pub fn removed(&mut self, stored: &Stored, result: Option<&Rc<Record>>, letter: Option<&Rc<Letter>>) {
        let place = stored.task;
        let discarded = stored.submission.options.discard_result && stored.submission.garbage == Garbage::No;
        match result {
            None if discarded && self.decided.contains(&stored.sequence) => {}
            None => {
                self.fail(format!("message {} of task {} was removed, and has no outcome", stored.sequence, stored.id));
            }
            Some(record) => {
                let dead = matches!(record.outcome, Outcome::Failed | Outcome::Dead);
                if dead && letter.is_none() && record.sequence == stored.sequence {
                    self.fail(format!("message {} was removed, and has no dead letter: {record:?}", stored.sequence));
                }
            }
        }
        self.tasks[place].messages -= 1;
        self.close_if_done(place);
    }

    fn close_if_done(&mut self, place: usize) {
        let task = &self.tasks[place];
        if task.messages == 0 && (task.outcome.is_some() || task.nature.discarded) {
            self.open.remove(&place);
        }
    }

    /// A coordinator is about to tell an agent that an attempt's end is recorded, and it is the one whose end is
    /// being recorded.
    pub fn settled_said(&mut self, attempt: &AttemptRef) {
        let Some(place) = self.find(&attempt.task) else { return };
        let task = &self.tasks[place];
        if task.outcome.is_none() && !task.nature.discarded {
            self.fail(format!("{attempt:?} was confirmed before its end was recorded"));
        }
    }

    /// The lease was written.
    pub fn lease_written(&mut self, holder: Option<Instance>, revision: u64) {
        if revision <= self.last_revision {
            self.fail(format!("the lease of {holder:?} has revision {revision}, after {}", self.last_revision));
        }
        self.last_revision = revision;
    }

    /// A client got a copy of a result.
    pub fn copied(&mut self, copy: &Record) {
        let Some(place) = self.find(&copy.id) else { return };
        let task = &self.tasks[place];
        if task.nature.discarded {
            return;
        }
        match &task.outcome {
            Some((record, _)) if record.outcome == copy.outcome && record.output == copy.output => {}
            other => {
                let text = format!("a client got {copy:?}, and recorded is {other:?}");
                self.fail(text);
            }
        }
    }
}

fn reigned(reigns: &mut Vec<Reigned>, epoch: u64) -> &mut Reigned {
    let place = reigns.iter().position(|reigned| reigned.epoch == epoch).unwrap_or_else(|| {
        reigns.push(Reigned { epoch, ..Reigned::default() });
        reigns.len() - 1
    });
    &mut reigns[place]
}
